"""Small random weights under the names of large models, for official templates. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/small_weights.py MODELS < {"vae/ae.safetensors": "vae", …}

Kinds: "unet" is SD3's transformer of two blocks for contexts of 768 numbers, "clip" CLIP-L, "vae" TAESD of 16 channels,
"checkpoint" the three in one file, "lora" one that touches nothing, "esrgan" an upscaler of one block. Equal kinds are one file,
linked. ComfyUI knows them by their tensors, whatever they are called.
"""

# ruff: noqa: E402  (where ComfyUI is and that it must use the CPU comes before its imports)

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = os.getcwd()  # ComfyUI's modules, not this folder's

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.clip_model
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import comfy.ops
import comfy.taesd.taesd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Weights = dict[str, Tensor]
CONTEXT, DEPTH, CHANNELS = 768, 2, 16
CLIP = dict(
    hidden_act="quick_gelu", hidden_size=CONTEXT, intermediate_size=4 * CONTEXT, num_attention_heads=12, num_hidden_layers=12,
    layer_norm_eps=1e-5, max_position_embeddings=77, vocab_size=49408, projection_dim=CONTEXT, eos_token_id=49407,
)  # fmt: skip


def random(model: nn.Module) -> Weights:
    """Its weights in half precision: small, and scales of norms near 1."""
    generator = torch.Generator().manual_seed(0)
    made: Weights = {}
    for name, value in model.state_dict().items():
        noise = 0.02 * torch.randn(value.shape, generator=generator)
        scale = name.endswith("weight") and value.ndim == 1
        made[name] = (noise + scale).half()
    return made


def unet(context: int = CONTEXT, pooled: int = CONTEXT) -> Weights:
    linear = {
        "target": "torch.nn.Linear",
        "params": dict(in_features=context, out_features=64 * DEPTH),
    }
    return random(
        mmdit.OpenAISignatureMMDITWrapper(
            input_size=None, in_channels=CHANNELS, depth=DEPTH, adm_in_channels=pooled, num_patches=64**2,
            pos_embed_max_size=64, context_embedder_config=linear, operations=comfy.ops.disable_weight_init,
        )
    )  # fmt: skip


def clip() -> Weights:
    return random(comfy.clip_model.CLIPTextModel(CLIP, torch.float32, "cpu", comfy.ops.manual_cast))


def vae() -> Weights:
    return random(comfy.taesd.taesd.TAESD(latent_channels=CHANNELS))


def checkpoint() -> Weights:
    parts = {
        "model.diffusion_model.": unet(4096, 2048),  # what SD3's encoders are filled up to
        "text_encoders.clip_l.transformer.": clip(),
        "first_stage_model.": vae(),
    }
    return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}


def lora() -> Weights:
    return {
        "nothing.lora_up.weight": torch.zeros(4, 4),
        "nothing.lora_down.weight": torch.zeros(4, 4),
    }


KINDS: dict[str, Callable[[], Weights]] = {
    "unet": unet, "clip": clip, "vae": vae, "checkpoint": checkpoint, "lora": lora,
}  # fmt: skip

models = Path(sys.argv[1])
first: dict[str, Path] = {}
for name, kind in json.load(sys.stdin).items():
    file = models / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind in first:
        file.symlink_to(first[kind])
        continue
    save_file({k: v.contiguous() for k, v in KINDS[kind]().items()}, file)
    first[kind] = file
