"""Model folders of strangers: their configs ask for no more than their weights have, and name no code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
pytest.importorskip("transformers", reason="needs the extra 'diffusers'")

from diffusers_folders import clip, save

from sampling_kit.nodes.denoiser.folders import SHIPPED
from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.diffusers import limits, tokenizer

PACK = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(SHIPPED / "tiny-cogvideox", tmp_path / "tiny"))


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def opened(place, part):
    folder = kit.read_folder(place)
    return {"transformer": kit.load, "scheduler": kit.load, "vae": kit.load_vae}.get(part, kit.load_text)(folder)  # fmt: skip


#: part, field, value: what it costs without bounds.
COSTLY = [
    ("transformer", "num_layers", 10**8),  # never ends
    ("transformer", "num_layers", 300),
    ("transformer", "sample_width", 20_000),  # 5 GB
    ("transformer", "sample_frames", 10**6),
    ("transformer", "in_channels", 10**9),
    ("transformer", "num_attention_heads", 10**9),
    ("transformer", "max_text_seq_length", 10**9),
    ("vae", "layers_per_block", 10**7),
    ("vae", "block_out_channels", [8] * 5000),
    ("vae", "latent_channels", 10**9),
    ("scheduler", "num_train_timesteps", 10**9),
    ("scheduler", "trained_betas", [0.1] * 200_000),
    ("text_encoder", "num_layers", 10**8),
    ("text_encoder", "vocab_size", 10**9),
    ("text_encoder", "d_ff", 10**9),
    ("text_encoder", "d_model", 30_000),
    ("tokenizer", "model_max_length", -5),
    ("tokenizer", "model_max_length", "x"),
    ("tokenizer", "extra_ids", 10**8),
]
FILES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


@pytest.mark.some(12)
@pytest.mark.parametrize(("part", "name", "value"), COSTLY, ids=lambda v: str(v)[:24])
def test_one_error_names_file_and_field(folder, part, name, value):
    file = folder / part / FILES.get(part, "config.json")
    edit(file, **{name: value})
    with pytest.raises(ValueError, match=name) as refused:
        opened(folder, part)
    named = "text_encoder" if part == "tokenizer" and name == "x" else part
    assert named in str(refused.value) and ".json" in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_tokenizer_of_a_billion_tokens(tmp_path):
    """CLIP pads a prompt to the length that its tokenizer says."""
    folder = save("sd", tmp_path / "sd")
    clip(folder)
    assert kit.load_text(kit.read_folder(folder)).encode("a cat")["text"].shape[1] == 16
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**9)
    with pytest.raises(ValueError, match=r"model_max_length.*1 to 16"):
        kit.load_text(kit.read_folder(folder))


@pytest.mark.parametrize("lost", ["tokenizer.json", "vocabulary"])
def test_an_empty_vocabulary_is_refused(folder, tmp_path, lost):
    """transformers makes an empty one, by which every prompt is the same."""
    place = folder / "tokenizer" / "tokenizer.json"
    if lost == "tokenizer.json":
        place.unlink()
    else:
        words = json.loads(place.read_text())
        words["model"]["vocab"] = words["model"]["vocab"][:4]
        place.write_text(json.dumps(words))
    with pytest.raises(ValueError, match=r"tokenizer.*(vocabulary is empty|cannot read)"):
        opened(folder, "tokenizer")


def test_a_vocabulary_of_another_model_is_refused(folder):
    place = folder / "tokenizer" / "tokenizer.json"
    words = json.loads(place.read_text())
    words["model"]["vocab"] = [*words["model"]["vocab"][:3], *([f"x{i}", -9.0] for i in range(40)), ["a", -1.0], ["▁", -1.0], ["b", -1.0]]  # fmt: skip
    place.write_text(json.dumps(words))
    with pytest.raises(ValueError, match=r"different models|cannot read"):
        opened(folder, "tokenizer")


def test_what_names_code_or_a_hub_reaches_no_library(folder, monkeypatch):
    """The fields that libraries get, and the config that an encoder has in the end."""
    import diffusers
    import transformers

    hostile = dict(
        attn_implementation="org/name", _attn_implementation="org/name", auto_map={"AutoModel": "org/name--code.Model"},
        use_kernels=True, trust_remote_code=True, custom_pipeline="org/name", torch_dtype="auto",
    )  # fmt: skip
    for part in ("transformer", "vae", "text_encoder"):
        edit(folder / part / "config.json", **hostile)
    edit(folder / "tokenizer" / "tokenizer_config.json", **hostile, tokenizer_file="/etc/passwd", chat_template="{{ 1 }}")  # fmt: skip
    seen = []
    kind = transformers.T5EncoderModel.config_class
    made = kind.__init__
    monkeypatch.setattr(kind, "__init__", lambda self, **more: (seen.append(set(more)), made(self, **more))[1])  # fmt: skip
    config = diffusers.CogVideoXTransformer3DModel.from_config
    monkeypatch.setattr(
        diffusers.CogVideoXTransformer3DModel, "from_config",
        classmethod(lambda cls, fields: (seen.append(set(fields)), config(fields))[1]),
    )  # fmt: skip
    text = opened(folder, "text_encoder")
    opened(folder, "transformer")
    opened(folder, "vae")
    assert len(seen) >= 2 and not any(fields & set(hostile) for fields in seen)
    (encoder,) = text.encoders
    assert "/" not in str(encoder.model.config._attn_implementation)
    assert encoder.tokenizer.chat_template is None
    assert text.encode("a cat")["text"].isfinite().all()


def test_a_missing_tokenizer_reads_nothing_beside_it(folder):
    """Only the files of a vocabulary are handed on."""
    (folder / "tokenizer" / "tokenization_code.py").write_text("raise SystemExit('ran')")
    (folder / "tokenizer" / "chat_template.jinja").write_text("x")
    seen = []
    import transformers

    class Seen:
        @classmethod
        def from_pretrained(cls, place, **more):
            seen.extend(sorted(os.listdir(place)))
            return transformers.T5TokenizerFast.from_pretrained(place, **more)

    class Library:
        T5TokenizerFast = Seen

    tokenizer.read_tokenizer(Library, "T5TokenizerFast", folder / "tokenizer", folder)
    assert seen == ["tokenizer.json", "tokenizer_config.json"]


def test_limits_let_real_models_through():
    """The numbers of some published models, beside weights as large as theirs."""
    real = {
        "FluxTransformer2DModel": (780, 24e9, 12288, dict(num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24, axes_dims_rope=[16, 56, 56], joint_attention_dim=4096)),
        "UNet2DConditionModel": (1680, 5e9, 10240, dict(sample_size=128, block_out_channels=[320, 640, 1280], layers_per_block=2, transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20])),
        "CogVideoXTransformer3DModel": (1000, 11e9, 12288, dict(num_layers=42, num_attention_heads=48, attention_head_dim=64, sample_width=90, sample_height=60, sample_frames=49, patch_size=2)),
        "SD3Transformer2DModel": (800, 4e9, 36864, dict(num_layers=24, num_attention_heads=24, attention_head_dim=64, sample_size=128, pos_embed_max_size=192, patch_size=2)),
        "SanaTransformer2DModel": (500, 3e9, 11200, dict(num_layers=20, num_attention_heads=70, attention_head_dim=32, sample_size=128, patch_size=1)),
        "WanTransformer3DModel": (1095, 28e9, 13824, dict(num_layers=40, num_attention_heads=40, attention_head_dim=128, rope_max_seq_len=1024)),
        "PixArtTransformer2DModel": (600, 1.2e9, 4608, dict(num_layers=28, num_attention_heads=16, attention_head_dim=72, sample_size=256, patch_size=2)),
        "T5EncoderModel": (220, 9e9, 32128, dict(num_layers=24, d_ff=10240, d_model=4096, vocab_size=32128, num_decoder_layers=24)),
        "AutoencoderKL": (250, 3e8, 512, dict(sample_size=1024, block_out_channels=[128, 256, 512, 512], layers_per_block=2)),
    }  # fmt: skip
    stored = kit.folder.Stored if hasattr(kit, "folder") else None
    from sampling_kit.schedulers.denoiser.diffusers.folder import Component, Stored, Weights

    assert stored in (None, Stored)
    for kind, (count, size, axis, config) in real.items():
        rows = {
            f"w{i}": Stored(torch.bfloat16, (axis, int(size / 2 / count / axis) + 1))
            for i in range(count)
        }
        limits.check_limits(Component(Path("x"), kind, config), Weights((), rows))


@pytest.mark.full
def test_memory_is_bounded_too(folder, tmp_path):
    pytest.importorskip("resource", reason="peak memory of a process")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    edit(folder / "transformer" / "config.json", sample_width=20_000)
    edit(other / "text_encoder" / "config.json", d_ff=60_000)
    code = (
        "import resource, sys\nfrom sampling_kit.schedulers.denoiser import diffusers as kit\n"
        "import diffusers, transformers\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = peak()\n"
        "for place, read in zip(sys.argv[1:], (kit.load, kit.load_text)):\n"
        "    try: read(kit.read_folder(place))\n"
        "    except ValueError as error: print(error)\n    else: raise SystemExit('loaded')\nprint(peak() - before)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(other)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(PACK.parent)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) < 512
