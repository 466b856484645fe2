"""What a diffusers folder may not do, and what is read of one without loading it."""

import json
import os
import struct
import subprocess
import sys

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import edit, error, latent
from diffusers_folders import TINY, conditioning, network, save

from sampling_kit.schedulers.denoiser import diffusers as kit

diffusers = pytest.importorskip("diffusers")
folders, ours, theirs = cases.folders, cases.ours, cases.theirs
no_gradients = cases.no_gradients
every = pytest.mark.parametrize("name", TINY)


# ------------------------------------------------------------------------- what a folder may not do


@pytest.fixture
def place(tmp_path):
    """A good folder, to be spoilt."""
    return save("ddpm", tmp_path / "models" / "ddpm")


def refused(place, says, **options):
    """One ValueError that names a file below ``place`` and says what is wrong."""
    with pytest.raises(ValueError, match=says) as caught:
        kit.load(kit.read_folder(place, **options))
    assert str(place.parent) in str(caught.value)
    return str(caught.value)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_pickle_is_not_opened(place):
    (place / WEIGHTS).unlink()
    (place / "unet/diffusion_pytorch_model.bin").write_bytes(
        b"cos\nsystem\n(S'touch /tmp/owned'\ntR."
    )
    refused(place, r"diffusion_pytorch_model.bin is a pickle.*convert it.*safe_serialization")


def test_links_out_of_the_folder(place, tmp_path):
    outside = tmp_path / "elsewhere.safetensors"
    (place / WEIGHTS).rename(outside)
    (place / WEIGHTS).symlink_to(outside)
    refused(place, "leads to .*elsewhere.safetensors, outside")
    kit.load(kit.read_folder(place, root=tmp_path))  # unless the models folder is larger
    (place / WEIGHTS).unlink()
    outside.rename(place / WEIGHTS)
    config = tmp_path / "config.json"
    (place / "unet/config.json").rename(config)
    (place / "unet/config.json").symlink_to(config)
    refused(place, "config.json leads to")
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(ValueError, match="outside"):
        kit.read_folder(tmp_path / "link", root=tmp_path / "models" / "ddpm" / "unet")


def test_a_folder_outside_the_models_folder(place, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"outside .*other: move or copy it there"):
        kit.read_folder(place, root=tmp_path / "other")
    with pytest.raises(ValueError, match="is not a folder"):
        kit.read_folder(tmp_path / "nothing")


@pytest.mark.parametrize("target", ["../../secret.safetensors", "/etc/passwd", "sub/x.safetensors", ".hidden.safetensors", 7])  # fmt: skip
def test_shards_elsewhere(place, target):
    (place / WEIGHTS).unlink()
    index = place / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps(dict(weight_map={"conv_in.weight": target})))
    refused(place, "is said to lie in")


def test_shards_and_variants_are_read(tmp_path, ours):
    x = latent("ddpm")
    sharded = save("ddpm", tmp_path / "sharded", max_shard_size="60KB")
    assert (sharded / "unet/diffusion_pytorch_model.safetensors.index.json").exists()
    mine = kit.load(kit.read_folder(sharded))
    assert torch.equal(mine(x, 0.5), ours("ddpm")(x, 0.5))
    shard = sorted((sharded / "unet").glob("*-00002-of-*.safetensors"))[0]
    shard.rename(tmp_path / "gone")
    refused(sharded, "is missing: the folder is incomplete")
    half = save("ddpm", tmp_path / "half", torch.float16, variant="fp16")
    assert (half / "unet/diffusion_pytorch_model.fp16.safetensors").exists()
    assert kit.read_folder(half).network_weights.variant == "fp16"
    mine = kit.load(kit.read_folder(half))
    assert mine.dtype == torch.float32
    assert "float16, which a CPU" in mine.dtype_reason
    assert error(mine(x, 0.5), ours("ddpm")(x, 0.5), x) < 0.01
    refused(half, "no variant 'bf16': choose one of fp16", variant="bf16")
    half = save("sd", tmp_path / "sd", torch.float16, variant="fp16")
    for file in (half / "vae").glob("*.fp16.safetensors"):
        file.rename(file.with_name(file.name.replace(".fp16", "")))
    assert kit.load_vae(kit.read_folder(half, variant="fp16")).dtype == torch.float32


def test_a_network_s_own_folder_with_its_scheduler_in_it_or_beside_it(place, tmp_path, ours):
    x = latent("ddpm")
    for bare in (place / "unet", tmp_path / "bare"):
        if bare.name == "bare":
            (place / "unet").rename(bare)
            refused(bare, "has no scheduler_config.json")
            (place / "scheduler/scheduler_config.json").rename(bare / "scheduler_config.json")
        assert torch.equal(kit.load(kit.read_folder(bare))(x, 0.5), ours("ddpm")(x, 0.5))


def test_several_networks_must_be_chosen_from(place):
    (place / "transformer").mkdir()
    refused(place, "2 networks .unet, transformer.: name one")
    kit.load(kit.read_folder(place, network="unet"))


@pytest.mark.parametrize("size", [100 * 2**20 + 1, 2 * 2**30, 2**63 + 5])
def test_a_huge_header(place, size):
    with (place / WEIGHTS).open("r+b") as file:
        file.write(struct.pack("<Q", size))
    refused(place, f"announces a header of {size} bytes")


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -4])
def test_a_truncated_file(place, keep):
    data = (place / WEIGHTS).read_bytes()
    (place / WEIGHTS).write_bytes(data[:keep])
    refused(place, "cut off")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[1, 2]", "holds a list, not an object"),
        (b"{not json", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "contradicts itself"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}', "contradicts itself"),
        (b'{"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}', "cannot read the header's entry 'a'"),
        (b'{"a": {"dtype": "F32"}}', "cannot read"),
    ],
)  # fmt: skip
def test_a_damaged_header(place, header, says):
    (place / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    refused(place, says)


def test_tensors_that_overlap(place):
    """What only the safetensors library sees is one error of the same kind."""
    data = (place / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["conv_norm_out.bias"]["data_offsets"] = header["conv_norm_out.weight"]["data_offsets"]
    text = json.dumps(header).encode()
    (place / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    refused(place, "safetensors is damaged")


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("scheduler/scheduler_config.json", None, "scheduler_config.json is missing"),
        ("unet/config.json", None, "config.json is missing"),
        (WEIGHTS, None, "has no diffusion_pytorch_model.safetensors: the folder is incomplete"),
        ("unet/config.json", dict(_class_name="MyNet"), "is a MyNet, but model_index.json says UNet2DModel"),
        ("unet/config.json", dict(_class_name="os; x"), "but model_index.json says"),
        ("unet/config.json", dict(block_out_channels=[8, 32]), "config and weights belong to different models"),
        ("unet/config.json", dict(in_channels=4, out_channels=4), "config.json asks for conv_in.weight of shape .8, 4, 3, 3., the weights hold .8, 3, 3, 3."),
        ("unet/config.json", dict(in_channels="3"), "in_channels = '3' must be a multiple of 1"),
        ("unet/config.json", dict(out_channels=5), "out_channels = 5 must be in_channels = 3, fewer"),
        ("unet/config.json", dict(layers_per_block=2), "config and weights belong to different models"),
        ("unet/config.json", dict(down_block_types=["EvilBlock", "DownBlock2D"]), "UNet2DModel refuses it"),
        ("unet/config.json", dict(class_embed_type="projection"), "class_embed_type = 'projection' is not supported"),
        ("unet/config.json", dict(quantization_config=dict(quant_method="bitsandbytes")), "quantised weights"),
        ("scheduler/scheduler_config.json", dict(prediction_type="noise"), "prediction_type = 'noise' is not known"),
        ("scheduler/scheduler_config.json", dict(_class_name="DDIMScheduler"), "model_index.json says DDPMScheduler"),
        ("model_index.json", dict(unet=[None, None]), "holds no network"),
    ],
)  # fmt: skip
def test_missing_and_contradictory_files(place, file, changes, says):
    if changes is None:
        (place / file).unlink()
    else:
        edit(place / file, **changes)
    refused(place, says)


def test_unknown_classes(place):
    edit(place / "model_index.json", unet=["diffusers", "MochiTransformer3DModel"])
    edit(place / "unet/config.json", _class_name="MochiTransformer3DModel")
    refused(place, "the network class MochiTransformer3DModel is not known; known: .*UNet2DModel")
    edit(place / "unet/config.json", _class_name=...)
    edit(place / "model_index.json", unet=["os", "system; x"])
    refused(place, "names no class")


def test_large_and_broken_configs(place):
    file = place / "unet/config.json"
    good = file.read_text()
    file.write_text(good + " " * (1 << 20))
    refused(place, "a config at most 1048576")
    file.write_bytes(b"\xff\xfe{}")
    refused(place, "not valid JSON")
    file.write_text("[]")
    refused(place, "holds a list, not an object")
    file.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file)
        refused(place, "not a regular file")


def test_nothing_of_the_folder_is_executed(place, tmp_path):
    """Custom code named in the configs stays text."""
    code = "import pathlib; pathlib.Path(__file__).with_name('owned').touch()\nclass Evil: pass"
    (place / "unet/evil.py").write_text(code)
    auto = dict(auto_map=dict(AutoModel="evil.Evil"), custom_pipeline="evil")
    edit(place / "unet/config.json", **auto)
    edit(place / "model_index.json", **auto)
    kit.load(kit.read_folder(place))
    assert not (place / "unet/owned").exists()


def test_weights_that_are_not_there_are_named(place):
    from safetensors.torch import load_file, save_file

    state = load_file(place / WEIGHTS)
    del state["conv_out.bias"], state["conv_in.bias"]
    save_file(state, place / WEIGHTS)
    refused(place, "config.json asks for 'conv_in.bias' and 1 more weights that are not there")


def test_weights_the_config_does_not_ask_for_are_named(place):
    edit(place / "unet/config.json", add_attention=False)
    with pytest.warns(UserWarning, match="weights are not used by UNet2DModel, such as 'mid_block"):
        kit.load(kit.read_folder(place))


def test_old_names_of_attention_weights(place, ours):
    from safetensors.torch import load_file, save_file

    names = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }
    state = {}
    for key, value in load_file(place / WEIGHTS).items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[key] = value
    assert any(".query." in key for key in state)
    save_file(state, place / WEIGHTS)
    x = latent("ddpm")
    assert torch.equal(kit.load(kit.read_folder(place))(x, 0.5), ours("ddpm")(x, 0.5))


def test_single_files_with_the_configs_of_a_folder(tmp_path, ours, folders):
    """With diffusers' names, and with another program's (LTX's own)."""
    from safetensors.torch import load_file, save_file

    x, cond = latent("ltx"), conditioning("ltx")
    file = next((folders("ltx") / "transformer").glob("*.safetensors"))
    configs = save("ltx", tmp_path / "configs")
    next((configs / "transformer").glob("*.safetensors")).unlink()
    names = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}  # fmt: skip
    state = {}
    for key, value in load_file(file).items():
        for ours_, theirs_ in names.items():
            key = key.replace(ours_, theirs_)
        state["model.diffusion_model." + key] = value
    save_file(state | {"vae.x": torch.zeros(1)}, tmp_path / "own.safetensors")
    for single in (file, tmp_path / "own.safetensors"):
        mine = kit.load(kit.read_folder(configs), weights=kit.read_file(single))
        assert torch.equal(mine(x, 0.5, cond), ours("ltx")(x, 0.5, cond))
    state.popitem()
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"less.safetensors: config.json asks for .* not there"):
        kit.load(kit.read_folder(configs), weights=kit.read_file(tmp_path / "less.safetensors"))
    with pytest.raises(ValueError, match="reads no single files of UNet2DModel"):
        kit.load(kit.read_folder(folders("ddpm")), weights=kit.read_file(file))
    with pytest.raises(ValueError, match=r"is no .* file"):
        kit.read_file(tmp_path / "model.ckpt")


def test_loading_does_not_initialise_what_it_overwrites(place, monkeypatch):
    """Weights of the class itself are never drawn: a 12-billion network needs no memory for them."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda t, *a, **k: t if t.is_meta else pytest.fail("drawn"))  # fmt: skip
    kit.load(kit.read_folder(place))


def test_what_is_stored_is_known_without_loading(place):
    weights = kit.read_folder(place).network_weights
    assert weights.dtype == torch.float32
    assert weights.parameters == sum(p.numel() for p in network("ddpm").parameters())
    assert weights.bytes == 4 * weights.parameters


def test_without_diffusers_the_engine_imports_and_use_says_what_to_install(place):
    code = f"""
import sys
sys.modules["diffusers"] = sys.modules["transformers"] = None
from sampling_kit.schedulers.denoiser import diffusers as kit
folder = kit.read_folder({str(place)!r})
print(kit.read_training(folder.scheduler).prediction.kind)
try:
    kit.load(folder)
except ImportError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert out.returncode == 0, out.stderr
    first, second = out.stdout.splitlines()
    assert first == "eps"
    assert second.startswith("diffusers folders need diffusers and transformers")
    assert "pip install" in second
