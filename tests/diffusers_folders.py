"""Tiny random models of every network class the kit knows, saved as real diffusers folders.

    python tests/diffusers_folders.py cogvideox-5b OUT

Every weight is random, those that a class initialises with zeros too: a test would see nothing of a
network that outputs zeros.
"""

import importlib
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class TinyFolder:
    """A family's :class:`Tiny` with its network class: what a folder of it holds."""

    kind: str
    tiny: Any

    def __getattr__(self, name):
        return getattr(self.tiny, name)

    @property
    def place(self):
        return "unet" if self.kind.startswith("UNet") else "transformer"

    def using(self, **changes):
        return TinyFolder(self.kind, replace(self.tiny, **changes))


@cache
def tiny_folders():
    """name → folder, of every family of the pack: ComfyUI loads it under another name than the tests."""
    name = "schedulers.denoiser.diffusers.families"
    loaded = [module for key, module in sys.modules.items() if key.endswith(f".{name}")]
    module = loaded[0] if loaded else importlib.import_module(f"sampling_kit.{name}")
    return {n: TinyFolder(f.kind, t) for f in module.FAMILIES.values() for n, t in f.tiny.items()}


def __getattr__(name):
    if name == "TINY":
        return tiny_folders()
    raise AttributeError(name)


BOTH = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
VAES = {
    "AutoencoderKL": dict(BOTH, block_out_channels=[8, 16], latent_channels=4, norm_num_groups=4, sample_size=16),
    "AutoencoderDC": dict(
        latent_channels=4, attention_head_dim=8, encoder_block_types=("ResBlock",) * 2, decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), scaling_factor=0.41407,
    ),
    "AutoencoderKLCogVideoX": dict(
        down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2, block_out_channels=(8, 8),
        latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=2, scaling_factor=0.7,
    ),
    "AutoencoderKLWan": dict(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 0.5, 1.0],
    ),
    "AutoencoderKLLTXVideo": dict(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5, patch_size=1,
    ),
}  # fmt: skip


def perturb(module, seed=0, size=0.1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return module.eval()


def build(kind, config, seed=0):
    import diffusers

    torch.manual_seed(seed)
    return perturb(getattr(diffusers, kind)(**config), seed)


def cast(module, dtype):
    return module if dtype == torch.float32 else module.to(dtype)


def network(name):
    return build(tiny_folders()[name].kind, tiny_folders()[name].config)


def scheduler(name):
    import diffusers

    kind, config = tiny_folders()[name].scheduler
    return getattr(diffusers, kind)(**config)


def save(name, path, dtype=torch.float32, **kwargs):
    """The folder of a tiny model: model_index.json, scheduler, network, VAE."""
    import json

    tiny, path = tiny_folders()[name], Path(path)
    index = {
        "_class_name": tiny.pipeline or "DiffusionPipeline",
        "scheduler": ["diffusers", tiny.scheduler[0]],
    }
    cast(network(name), dtype).save_pretrained(path / tiny.place, **kwargs)
    scheduler(name).save_pretrained(path / "scheduler")
    index[tiny.place] = ["diffusers", tiny.kind]
    if tiny.vae:
        cast(build(tiny.vae, VAES[tiny.vae]), dtype).save_pretrained(path / "vae")
        index["vae"] = ["diffusers", tiny.vae]
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def conditioning(name, batch=2, seed=1):
    """Random conditioning of the right shapes, by name."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for key, shape in tiny_folders()[name].cond:
        if key == "labels":
            out[key] = torch.randint(0, 4, (batch,), generator=generator)
        elif key == "mask":
            out[key] = torch.ones(batch, *shape, dtype=torch.long)
            out[key][:, -2:] = 0
        else:
            out[key] = torch.randn(batch, *shape, generator=generator)
    return out


# ------------------------------------------------------------------------------------- text encoders


def clip(path, suffix="", projection=False, hidden=16):
    """A CLIP text encoder over the letters a–z, and its tokenizer."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    letters = [chr(97 + i) for i in range(26)]
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=16
    )
    config = CLIPTextConfig(
        hidden_size=hidden, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2, vocab_size=54,
        max_position_embeddings=16, bos_token_id=52, eos_token_id=53, pad_token_id=53, projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(3)
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    perturb(model).save_pretrained(path / f"text_encoder{suffix}")
    tokenizer.save_pretrained(path / f"tokenizer{suffix}")
    return model, tokenizer


def t5(path, suffix="", hidden=16, kind="T5"):
    """A T5 encoder over the letters a–z, and its tokenizer."""
    import transformers

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    vocab += [(chr(97 + i), -2.0) for i in range(26)]
    tokenizer = transformers.T5Tokenizer(vocab=vocab, extra_ids=0)
    config = getattr(transformers, kind + "Config")(
        vocab_size=32, d_model=hidden, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    torch.manual_seed(4)
    model = getattr(transformers, kind + "EncoderModel")(config)
    perturb(model).save_pretrained(path / f"text_encoder{suffix}")
    tokenizer.save_pretrained(path / f"tokenizer{suffix}")
    return model, tokenizer


if __name__ == "__main__":
    print(save(*sys.argv[1:3]))
