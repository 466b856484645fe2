"""Diffusers Text Encode and Diffusers VAE, node by node: equal to the folder's own pipeline, or one clear error."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
pytest.importorskip("transformers", reason="needs the extra 'diffusers'")

from diffusers_folders import VAES, build, clip, save, t5  # noqa: E402
from text_vae import TINY, overflowing, without_gradients  # noqa: E402
from tolerance import assert_equal_up_to_rounding, rounding  # noqa: E402

from sampling_kit.nodes.denoiser import text_encode as diffusers_text  # noqa: E402
from sampling_kit.nodes.denoiser import vae as diffusers_vae  # noqa: E402
from sampling_kit.nodes.denoiser.folder_vae import DiffusersVAE  # noqa: E402
from sampling_kit.nodes.denoiser.folders import SHIPPED  # noqa: E402
from sampling_kit.nodes.denoiser.text_encode import DiffusersTextEncode  # noqa: E402
from sampling_kit.schedulers.denoiser import diffusers as kit  # noqa: E402

__all__ = ["without_gradients"]  # a fixture

OPERATIONS = 2000  # of the longest way through a tiny network: some 30 layers of up to 64 products


def encode(folder, prompt, **more):
    return DiffusersTextEncode.execute(folder=str(folder), prompt=prompt, **more).args[0]


def vae_of(folder, **more):
    return DiffusersVAE.execute(folder=str(folder), **more).args[0]


def close(a, b, operations=OPERATIONS):
    assert_equal_up_to_rounding(a, b, operations, size=1.0, dtype=torch.float32)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --------------------------------------------------------------------------------------------- text


def test_the_shipped_folder_is_what_its_script_writes(tmp_path):
    from sampling_kit.embedded.tiny_cogvideox import write

    made, shipped = write(tmp_path / TINY), SHIPPED / TINY
    files = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(shipped) for p in shipped.rglob("*") if p.is_file())
    assert sum((shipped / f).stat().st_size for f in files) < 300_000
    weights = [f for f in files if f.suffix == ".safetensors"]
    assert len(weights) == 3
    for file in weights:
        ours, theirs = load_file(made / file), load_file(shipped / file)
        assert ours.keys() == theirs.keys()
        for name, drawn in ours.items():
            kept = theirs[name]
            assert drawn.dtype == kept.dtype == torch.bfloat16 and drawn.shape == kept.shape, name
            # a processor's normal numbers differ in the last bits of float32: few round to a neighbour
            gap, allowed = (drawn.double() - kept.double()).abs(), rounding(4, 8.0)
            assert (gap <= torch.finfo(kept.dtype).eps * kept.double().abs() + allowed).all(), name
            assert (gap > 0).sum() <= 1 + 0.01 * gap.numel(), name


def test_the_shipped_folder_encodes_as_its_pipeline():
    pipe = diffusers.CogVideoXPipeline.from_pretrained(SHIPPED / TINY, torch_dtype=torch.bfloat16)
    theirs, _ = pipe.encode_prompt("a cat", do_classifier_free_guidance=False, max_sequence_length=16)  # fmt: skip
    [[text, extra]] = encode(TINY, "a cat")
    assert text.dtype == torch.float32
    assert extra == {}
    close(text, theirs)


def pipeline(cls, **parts):
    """A pipeline with only these parts, enough for encode_prompt."""
    pipe = cls.__new__(cls)
    pipe._internal_dict = diffusers.configuration_utils.FrozenDict(dict(force_zeros_for_empty_prompt=False))  # fmt: skip
    for name in ("transformer", "tokenizer_max_length", *(p + s for p in ("text_encoder", "tokenizer") for s in ("", "_2", "_3"))):  # fmt: skip
        object.__setattr__(pipe, name, parts.get(name))
    return pipe


@pytest.mark.parametrize("second", ["", "two dogs"])
def test_sdxl_gives_text_and_pooled_and_takes_a_second_prompt(tmp_path, second):
    path = save("sdxl", tmp_path)
    one, two = clip(path), clip(path, "_2", projection=True)
    pipe = pipeline(diffusers.StableDiffusionXLPipeline, text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1])  # fmt: skip
    text, _, pooled, _ = pipe.encode_prompt("a cat", second or None, device="cpu", do_classifier_free_guidance=False)  # fmt: skip
    [[mine, extra]] = encode(path, "a cat", second_prompt=second)
    close(mine, text)
    close(extra["pooled_output"], pooled)
    assert set(extra) == {"pooled_output"}


def test_flux_s_second_prompt_is_t5_s(tmp_path):
    path = save("flux", tmp_path)
    one, two = clip(path), t5(path, "_2")
    pipe = pipeline(diffusers.FluxPipeline, text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1], tokenizer_max_length=16)  # fmt: skip
    text, pooled, _ = pipe.encode_prompt("a cat", "two dogs", device="cpu", max_sequence_length=512)
    [[mine, extra]] = encode(path, "a cat", second_prompt="two dogs")
    close(mine, text)
    close(extra["pooled_output"], pooled)


def test_ltx_gives_the_mask_under_the_core_s_name(tmp_path):
    path = save("ltx", tmp_path)
    model, tokenizer = t5(path)
    pipe = pipeline(diffusers.LTXPipeline, text_encoder=model, tokenizer=tokenizer)
    text, mask, *_ = pipe.encode_prompt("a cat", do_classifier_free_guidance=False, device="cpu")
    [[mine, extra]] = encode(path, "a cat")
    close(mine, text)
    assert torch.equal(extra["attention_mask"], mask)


def test_a_second_prompt_without_a_second_encoder():
    with pytest.raises(ValueError, match="a second prompt needs a folder with a second text encod"):
        encode(TINY, "a cat", second_prompt="a dog")


def test_encoders_are_loaded_once_and_only_one_folder_s_are_kept(tmp_path, monkeypatch):
    loaded = []

    def load(folder):
        loaded.append(folder.path.name)
        return kit.load_text(folder)

    monkeypatch.setattr(diffusers_text, "load_text", load)
    monkeypatch.setattr(diffusers_text, "_last", {})
    other = tmp_path / "other"
    shutil.copytree(SHIPPED / TINY, other)
    first = encode(TINY, "a cat")
    encode(TINY, "")
    assert loaded == [TINY]
    assert torch.equal(encode(other, "a cat")[0][0], first[0][0])
    assert loaded == [TINY, "other"]
    assert len(diffusers_text._last) == 1
    edit(other / "text_encoder/config.json", torch_dtype="bfloat16")  # any change of a file
    encode(other, "")
    assert loaded == [TINY, "other", "other"]


# ---------------------------------------------------------------------------------------------- VAE

NAMES = {
    "AutoencoderKL": "sd",
    "AutoencoderDC": "sana",
    "AutoencoderKLCogVideoX": "cogvideox-5b",
    "AutoencoderKLWan": "wan",
    "AutoencoderKLLTXVideo": "ltx",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = save(NAMES[kind], tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def latents(vae, frames=3, size=(8, 12), batch=2):
    shape = (batch, 4, *((frames,) if vae.latent_dim == 3 else ()), *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.some(2)
@pytest.mark.parametrize("kind", VAES)
def test_decode_is_diffusers_own_after_the_model_has_unscaled(kind, folders):
    """``latents / scale + shift`` is done once, by the MODEL (``Latents.to_vae``); the VAE adds nothing."""
    vae, theirs = vae_of(folders(kind)), build(kind, VAES[kind])
    x, facts = latents(vae), kit.latents_of(kit.read_folder(folders(kind)))
    z, c = facts.to_vae(x), theirs.config
    plain = x / (c.get("scaling_factor") or 1.0) + (c.get("shift_factor") or 0.0)
    if kind == "AutoencoderKLWan":
        mean, std = (torch.tensor(c[k]).reshape(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))  # fmt: skip
        plain = x * std + mean
    close(z, plain, 4)  # Wan's tiny VAE turns 1e-7 into 1e-4: from here on the same z, row by row
    expected = (
        (torch.cat([theirs.decode(row).sample for row in z.split(1)]) / 2 + 0.5)
        .clamp(0, 1)
        .movedim(1, -1)
    )
    found = vae.decode(z)
    assert found.shape[-1] == 3
    assert found.std() > 0.05
    close(found, expected)
    assert torch.equal(vae.decode(z), found)


@pytest.mark.some(2)
@pytest.mark.parametrize("kind", VAES)
def test_encode_is_the_mode(kind, folders):
    vae, theirs = vae_of(folders(kind)), build(kind, VAES[kind])
    frames = 2 * (vae.temporal_compression_decode() or 1) + 1
    step = vae.spacial_compression_encode()
    images = torch.rand(frames, 8 * step, 12 * step, 3, generator=torch.Generator().manual_seed(6))
    x = images.movedim(-1, 1) * 2 - 1
    x = x.movedim(0, 1)[None] if vae.latent_dim == 3 else x
    coded = theirs.encode(x)
    expected = coded.latent if kind == "AutoencoderDC" else coded.latent_dist.mode()
    found = vae.encode(images)
    close(found, expected)
    assert torch.equal(vae.encode(images), found)  # no sample is drawn
    if vae.latent_dim == 3:
        close(vae.encode(images[None].expand(2, -1, -1, -1, -1)), expected.expand(2, *expected.shape[1:]))  # fmt: skip
        with pytest.raises(ValueError, match=rf"frames, got {frames - 1}: use the first {frames - vae.temporal_ratio}"):  # fmt: skip
            vae.encode(images[:-1])


def test_borders_and_alpha_are_cut_off(folders):
    vae = vae_of(folders("AutoencoderKL"))
    images = torch.rand(1, 16, 24, 3)
    framed = F.pad(images, (0, 1))  # alpha
    framed = F.pad(framed.movedim(-1, 1), (0, 1, 0, 1)).movedim(1, -1)  # one column, one row
    assert framed.shape == (1, 17, 25, 4)
    close(vae.encode(framed), vae.encode(images))
    with pytest.raises(ValueError, match="pixels: 24×1 is too small, the VAE takes 2×2"):
        vae.encode(images[:, :1])


def test_videos_come_out_as_frames_and_shapes_are_checked(folders):
    vae = vae_of(folders("AutoencoderKLCogVideoX"))
    assert vae.decode(latents(vae)).shape == (2, 5, 16, 24, 3)
    assert (vae.latent_channels, vae.latent_dim, vae.temporal_compression_decode()) == (4, 3, 2)
    with pytest.raises(ValueError, match=r"AutoencoderKLCogVideoX takes \[B, C, F, H, W\] with 4 channels"):  # fmt: skip
        vae.decode(torch.zeros(1, 4, 8, 8))
    flat = vae_of(folders("AutoencoderKL"))
    x = latents(flat)
    close(flat.decode(x[:, :, None]), flat.decode(x))  # a video of one frame
    with pytest.raises(ValueError, match="AutoencoderKL takes"):
        flat.decode(x[:, :, None].expand(-1, -1, 2, -1, -1))


# --------------------------------------------------------------------------------------------- tiles


def local(vae, scale):
    """Replace the decoder by one that sees no neighbours: tiles must then change nothing."""

    def decoder(z, *args, **kwargs):
        out = F.interpolate(z.flatten(0, 1)[None] if z.ndim == 4 else z.flatten(1, 2), scale_factor=scale)  # fmt: skip
        out = out.reshape(*z.shape[:-2], *out.shape[-2:])[:, :3]
        return (out, {}) if z.ndim == 5 else out

    vae.first_stage_model.module.decoder = Call(decoder)
    return vae


class Call(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC", "AutoencoderKLCogVideoX"])
@pytest.mark.parametrize("overlap", [1, 2, 4])
def test_tiles_fit_together_without_a_seam(kind, overlap, folders):
    vae = local(vae_of(folders(kind)), vae_of(folders(kind)).spacial_compression_decode())
    if kind == "AutoencoderKL":
        vae.first_stage_model.module.post_quant_conv = torch.nn.Identity()
    x = latents(vae, size=(20, 29), batch=1)
    close(vae.decode_tiled(x, tile_x=8, tile_y=8, overlap=overlap), vae.decode(x), 16)


@pytest.mark.parametrize("kind", VAES)
def test_a_tile_as_large_as_the_picture_changes_nothing_and_smaller_ones_little(kind, folders):
    vae = vae_of(folders(kind))
    x = latents(vae, frames=1, size=(16, 16), batch=1)
    before = {k: v for k, v in vars(vae.first_stage_model.module).items() if "til" in k}
    whole = vae.decode(x)
    assert torch.equal(vae.decode_tiled(x, 16, 16, 4), whole)
    tiled = vae.decode_tiled(x, 8, 8, 2)
    assert tiled.shape == whole.shape
    assert 0 < (tiled - whole).square().mean().sqrt() < whole.std()
    images = whole if vae.latent_dim == 2 else whole[0]
    step = vae.spacial_compression_encode()
    close(vae.encode_tiled(images, 16 * step, 16 * step, 4 * step), vae.encode(images))
    assert vae.encode_tiled(images, 8 * step, 8 * step, 2 * step).shape == vae.encode(images).shape
    after = {k: v for k, v in vars(vae.first_stage_model.module).items() if "til" in k}
    assert after == before


def test_tiles_are_diffusers_own(folders):
    """CogVideoX on tiles of 8 latents that overlap by a quarter, set by hand."""
    vae, theirs = vae_of(folders("AutoencoderKLCogVideoX")), build("AutoencoderKLCogVideoX", VAES["AutoencoderKLCogVideoX"])  # fmt: skip
    theirs.enable_tiling(16, 16, 0.25, 0.25)
    x = latents(vae, size=(20, 29), batch=1)
    expected = (theirs.decode(x).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    close(vae.decode_tiled(x, 8, 8, 2), expected)


def test_memory_that_runs_out_means_tiles(folders, monkeypatch):
    vae = vae_of(folders("AutoencoderKLCogVideoX"))
    x = latents(vae, size=(16, 16), batch=1)
    monkeypatch.setattr(diffusers_vae, "TILE", 16)
    monkeypatch.setattr(diffusers_vae, "OVERLAP", 4)
    expected = vae.decode_tiled(x, 8, 8, 2)
    module = vae.first_stage_model.module
    plain, calls = module.decode, []

    def decode(*args, **kwargs):
        calls.append(module.use_tiling)
        if not module.use_tiling:
            raise torch.cuda.OutOfMemoryError("no memory")
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, "decode", decode)
    assert torch.equal(vae.decode(x), expected)
    assert calls == [False, True]


# ------------------------------------------------------------------------------------------ numbers


def test_the_shipped_vae_runs_in_bfloat16_unless_told_otherwise():
    vae = vae_of(TINY)
    x = latents(vae, size=(12, 16), batch=1)
    frames = vae.decode(x)
    assert vae.vae_dtype == torch.bfloat16
    assert frames.dtype == torch.float32
    assert frames.shape == (1, 9, 48, 64, 3)
    exact = vae_of(TINY, dtype="fp32").decode(x)
    assert 0 < (frames - exact).abs().max() < 0.1


def test_overflow_in_float16_is_an_error_not_a_black_video(tmp_path):
    path = overflowing(tmp_path)
    vae, x = vae_of(path, dtype="fp16"), torch.randn(1, 4, 3, 12, 16)
    says = r"AutoencoderKLCogVideoX returned NaN or infinity in float16: float16 ends at 65504 and overflowed: use bfloat16"
    with pytest.raises(FloatingPointError, match=says):
        vae.decode(x)
    with pytest.raises(FloatingPointError, match=says):
        vae.encode(torch.rand(9, 48, 64, 3))
    assert vae_of(path).decode(x).isfinite().all()  # bfloat16
    with pytest.raises(FloatingPointError, match="in bfloat16: check the latents"):
        vae_of(TINY).decode(x * torch.inf)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("gone", "node", "says"),
    [
        ("text_encoder", encode, "has 0 of 1 text encoders: use a complete folder"),
        ("tokenizer", encode, "has no folder 'tokenizer'"),
        ("text_encoder/model.safetensors", encode, "has no model.safetensors: the folder is incomplete"),
        ("vae", vae_of, "has no folder 'vae': use a complete diffusers folder"),
        ("vae/diffusion_pytorch_model.safetensors", vae_of, "has no diffusion_pytorch_model.safetensors"),
        ("vae/config.json", vae_of, "config.json is missing"),
    ],
)  # fmt: skip
def test_what_a_folder_lacks_is_named(gone, node, says, tmp_path):
    path = tmp_path / "part"
    shutil.copytree(SHIPPED / TINY, path)
    target = path / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match=f"folder = .*part.*{says}"):
        node(path, **(dict(prompt="a") if node is encode else {}))


def test_a_folder_that_is_not_there_is_refused_before_the_run():
    for node in (DiffusersTextEncode, DiffusersVAE):
        assert "there is no such folder" in node.validate_inputs(folder="nothing")
        assert node.validate_inputs(folder=TINY) is True
        assert node.validate_inputs(folder=None) is True  # a link


def test_the_pack_s_own_folder_cannot_be_left():
    assert "outside" in DiffusersVAE.validate_inputs(folder="../diffusers/tiny-cogvideox")
