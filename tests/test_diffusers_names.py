"""Older names and layouts, prompts as the pipelines read them, VAEs of other classes, folders refused at load."""

import shutil

import diffusers_cases as cases
import pytest
import torch
from click.testing import CliRunner
from diffusers_cases import edit, error, latent
from diffusers_folders import TINY, VAES, clip, conditioning, save, t5
from test_diffusers_prompts import bare, same

from sampling_kit.headless.cli import main
from sampling_kit.nodes.denoiser import folders as node_folders
from sampling_kit.nodes.host.alone import places
from sampling_kit.nodes.host.diffusers_conditioning import from_conditioning
from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.diffusers.families import FAMILIES
from sampling_kit.schedulers.denoiser.diffusers.vae import VAES as vae_classes

diffusers = pytest.importorskip("diffusers")
folders, ours, no_gradients = cases.folders, cases.ours, cases.no_gradients


# ------------------------------------------------------------------------------ names and layouts


def test_every_legacy_class_of_diffusers_is_mapped():
    from diffusers.models.model_loading_utils import _CLASS_REMAPPING_DICT as theirs

    rows = {
        (old, "norm_type", value): new for old, row in theirs.items() for value, new in row.items()
    }
    assert {key: f.kind for f in FAMILIES.values() for key in f.legacy} == rows


@pytest.mark.parametrize(
    ("name", "norm"), [("dit", "ada_norm_zero"), ("pixart-alpha", "ada_norm_single")]
)
def test_published_dit_and_pixart_folders_open(tmp_path, ours, name, norm):
    path = save(name, tmp_path)
    edit(path / "transformer/config.json", _class_name="Transformer2DModel", norm_type=norm)
    edit(path / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    network = kit.load(kit.read_folder(path))
    assert network.kind == TINY[name].kind
    x, cond = latent(name), conditioning(name)
    assert torch.equal(network(x, 0.5, cond), ours(name)(x, 0.5, cond))
    edit(path / "transformer/config.json", norm_type="layer_norm")
    with pytest.raises(ValueError, match="the network class Transformer2DModel is not known"):
        kit.load(kit.read_folder(path))


@pytest.mark.parametrize("index", ["safetensors.index.fp16", "safetensors.fp16.index"])
@pytest.mark.parametrize("shard", ["{n}.fp16", "fp16-{n}"])
def test_older_names_of_shards_and_their_index(tmp_path, ours, index, shard):
    import json

    path = save("ddpm", tmp_path, max_shard_size="60KB")
    stem = "diffusion_pytorch_model"
    old = path / f"unet/{stem}.safetensors.index.json"
    text = old.read_text()
    for name in sorted(set(json.loads(text)["weight_map"].values())):
        number = name.removeprefix(f"{stem}-").removesuffix(".safetensors")
        new = f"{stem}-{number}.fp16" if shard.startswith("{n}") else f"{stem}.fp16-{number}"
        (path / "unet" / name).rename(path / f"unet/{new}.safetensors")
        text = text.replace(name, f"{new}.safetensors")
    old.unlink()
    (path / f"unet/{stem}.{index}.json").write_text(text)
    network = kit.load(kit.read_folder(path, variant="fp16"))
    x = latent("ddpm")
    assert torch.equal(network(x, 0.5), ours("ddpm")(x, 0.5))


def test_a_hub_s_snapshot_opens_by_its_path(tmp_path, ours, monkeypatch):
    """Its files are links into blobs/, which lies beside snapshots/."""
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots/abc", repository / "blobs"
    save("ddpm", snapshot)
    blobs.mkdir()
    for i, file in enumerate(sorted(f for f in snapshot.rglob("*") if f.is_file())):
        file.rename(blobs / str(i))
        file.symlink_to(blobs / str(i))
    x = latent("ddpm")
    assert torch.equal(kit.load(kit.read_folder(snapshot))(x, 0.5), ours("ddpm")(x, 0.5))
    monkeypatch.setattr(places, "_typed", lambda name: True)
    assert node_folders.resolve(str(snapshot))[1] == repository.resolve()
    shutil.move(blobs, tmp_path / "blobs")
    with pytest.raises(ValueError, match=r"is missing|outside"):
        kit.load(kit.read_folder(snapshot))
    (snapshot / "unet/config.json").unlink()
    (snapshot / "unet/config.json").symlink_to(tmp_path / "blobs/0")
    with pytest.raises(ValueError, match=r"outside .*give a hub's folder as models--owner--name/snapshots"):  # fmt: skip
        kit.read_folder(snapshot)


def test_check_reads_the_configs_that_run_reads(tmp_path):
    import json

    path = save("ddpm", tmp_path / "models/diffusers/ddpm")
    loader = {"class_type": "SamplingKitLoadDiffusersDenoiser", "inputs": {"folder": "ddpm"}}
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}}
    file = tmp_path / "graph.json"
    file.write_text(json.dumps({"1": loader, "2": shown}))
    command = ["check", str(file), "--models", str(tmp_path / "models")]
    assert CliRunner().invoke(main, command).exit_code == 0
    edit(path / "scheduler/scheduler_config.json", prediction_type="noise")
    done = CliRunner().invoke(main, command)
    assert done.exit_code and "prediction_type = 'noise' is not known" in done.output


# ---------------------------------------------------------------------------------------- prompts

ODD = ["  A Cat ON a mat ", "Straße &amp;amp; caf&eacute;\n\t两只 猫", "", "ÀÉ  &lt;b&gt;"]


@pytest.mark.parametrize(
    ("name", "cls"), [("pixart-sigma", "PixArtSigmaPipeline"), ("pixart-alpha", "PixArtAlphaPipeline"), ("wan", "WanPipeline"), ("ltx", "LTXPipeline"), ("cogvideox-2b", "CogVideoXPipeline")]
)  # fmt: skip
def test_prompts_are_cleaned_as_the_pipeline_does(tmp_path, name, cls):
    path = save(name, tmp_path)
    model, tokenizer = t5(path, kind="UMT5" if name == "wan" else "T5")
    pipe = bare(getattr(diffusers, cls), text_encoder=model, tokenizer=tokenizer)
    out = pipe.encode_prompt(list(ODD), do_classifier_free_guidance=False, device="cpu", max_sequence_length=16)  # fmt: skip
    encoder = kit.load_text(kit.read_folder(path))
    mine = encoder.encode(*ODD, length=16)
    same(mine, text=out[0], **({"mask": out[1]} if "mask" in mine else {}))
    if name.startswith("pixart"):
        assert torch.equal(mine["text"][0], encoder.encode("a cat on a mat", length=16)["text"][0])


def test_the_refiner_s_negative_has_a_lower_aesthetic_score(ours, folders):
    network = ours("sdxl-refiner")
    pooled = conditioning("sdxl-refiner", 1)["pooled"]
    text = torch.zeros(1, 5, 16)
    score = lambda where, **more: float(from_conditioning(network, text, {"pooled_output": pooled, **more}, where)["aesthetic"])  # noqa: E731  # fmt: skip
    assert (score("positive"), score("negative")) == (6.0, 2.5)
    assert score("negative", aesthetic_score=4.0) == 4.0
    assert "aesthetic" not in from_conditioning(ours("sdxl"), text, {"pooled_output": pooled}, "negative")  # fmt: skip
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline.__new__(diffusers.StableDiffusionXLImg2ImgPipeline)  # fmt: skip
    object.__setattr__(pipe, "unet", network.network)
    pipe._internal_dict = diffusers.configuration_utils.FrozenDict(dict(requires_aesthetics_score=True))  # fmt: skip
    ids = pipe._get_add_time_ids((16, 24), (0, 0), (16, 24), 6.0, 2.5, (16, 24), (0, 0), (16, 24), torch.float32, 24)  # fmt: skip
    x, base = latent("sdxl-refiner", 1), conditioning("sdxl-refiner", 1)
    for row, value in zip(ids, (6.0, 2.5), strict=True):
        given = network(x, 0.5, base | {"size": row})
        assert torch.equal(given, network(x, 0.5, base | {"aesthetic": torch.tensor([value])}))


# ------------------------------------------------------------------------------------------- VAEs


def test_a_vae_of_another_class_keeps_its_factor_or_is_refused(tmp_path):
    path = save("sd", tmp_path)
    config = dict(_class_name="AutoencoderKLOther", scaling_factor=0.13, shift_factor=0.5)
    edit(path / "vae/config.json", **config)
    edit(path / "model_index.json", vae=["diffusers", "AutoencoderKLOther"])
    latents = kit.load(kit.read_folder(path)).latents
    assert (latents.scale, latents.shift, latents.spatial) == (0.13, 0.5, 2)
    with pytest.raises(ValueError, match="the VAE class AutoencoderKLOther is not known; known"):
        kit.load_vae(kit.read_folder(path))
    edit(path / "vae/config.json", scaling_factor=...)
    with pytest.raises(ValueError, match="AutoencoderKLOther is not known, and there is no scaling_factor"):  # fmt: skip
        kit.load(kit.read_folder(path))


def test_an_asymmetric_vae_is_a_known_one(tmp_path):
    path = save("sd", tmp_path)
    config = dict(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, down_block_out_channels=[8, 16],
        up_block_out_channels=[8, 16], latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    theirs = diffusers.AsymmetricAutoencoderKL(**config).eval()
    shutil.rmtree(path / "vae")
    theirs.save_pretrained(path / "vae")
    edit(path / "model_index.json", vae=["diffusers", "AsymmetricAutoencoderKL"])
    vae = kit.load_vae(kit.read_folder(path))
    x = latent("sd", 1)
    assert error(vae.decode(x), theirs.decode(x / 0.18215).sample) < 1e-5


def test_a_part_of_a_folder_by_itself_has_the_folder_s_vae(folders):
    whole = kit.load(kit.read_folder(folders("wan")))
    part = kit.load(kit.read_folder(folders("wan") / "transformer"))
    assert part.latents == whole.latents and part.latents.mean
    assert kit.load(kit.read_folder(folders("instruct-pix2pix") / "unet")).beside.factor == 1.0
    assert set(VAES) <= set(vae_classes)


# ------------------------------------------------------------------------------------- impossible


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(num_class_embeds=1000), "num_class_embeds = 1000: it is told a class, a noise level"),
        (dict(class_embed_type="projection", projection_class_embeddings_input_dim=16), "unCLIP"),
        (dict(in_channels=7), "it sees 3 channels beside x"),
        (dict(encoder_hid_dim_type="image_proj"), "encoder_hid_dim_type = 'image_proj' is not supported"),
    ],
)  # fmt: skip
def test_what_no_conditioning_can_carry_is_refused_at_load(tmp_path, changes, says):
    path = save("sd", tmp_path)
    edit(path / "unet/config.json", **changes)
    with pytest.raises(ValueError, match=says):
        kit.load(kit.read_folder(path))
    with pytest.raises(ValueError, match=says):
        kit.check(kit.read_folder(path))


def test_a_picture_for_a_network_that_sees_none_is_refused(ours):
    """Wan's TI2V: image to video gives every token its own time."""
    extra = {"concat_latent_image": torch.zeros(1, 4, 3, 4, 6)}
    with pytest.raises(ValueError, match="makes videos from text only"):
        from_conditioning(ours("wan"), torch.zeros(1, 5, 16), extra)


def test_stable_diffusion_s_clip_reads_prompts_as_they_are(tmp_path):
    path = save("sd", tmp_path)
    model, tokenizer = clip(path)
    pipe = bare(diffusers.StableDiffusionPipeline, text_encoder=model, tokenizer=tokenizer)
    expected = pipe.encode_prompt(list(ODD), "cpu", 1, False)[0]
    assert error(kit.load_text(kit.read_folder(path)).encode(*ODD)["text"], expected) < 1e-5
