"""Checkpoints of random weights that ComfyUI's own detection takes for real ones. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/random_checkpoints.py MODELS FAMILY …

Writes the files of each FAMILY in ``FAMILIES`` below MODELS, ComfyUI's folder of models, under the names that ComfyUI's own
templates use. The networks are ComfyUI's classes. They have one or two blocks and few channels where detection reads those
numbers from the file. A matrix has entries of variance 1/inputs, so that the picture is noise and not NaN.
"""

# ruff: noqa: E402  (where ComfyUI is and that it must use the CPU comes before its imports)

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[0] = os.getcwd()  # ComfyUI's modules, not this folder's

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.cldm.cldm
import comfy.clip_model
import comfy.ldm.flux.model
import comfy.ldm.lumina.model
import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.ldm.wan.vae
import comfy.ops
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Weights = dict[str, Tensor]
OPS = dict(device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init)
POOL = 2**22 + 1  # numbers drawn for a large matrix, and repeated


def random_weights(
    network: nn.Module, prefix: str = "", dtype: torch.dtype = torch.float16
) -> Weights:
    """{prefix + name: random tensor} for every weight of a network."""
    state = network.state_dict().items()
    return {f"{prefix}{name}": random_tensor(name, tensor, dtype) for name, tensor in state}


def random_tensor(name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers count up; a bias is 0, a gain 1, an embedding N(0, 0.02²), a matrix N(0, 1/inputs)."""
    if not like.is_floating_point():
        return torch.arange(like.numel()).reshape(like.shape)
    if like.ndim < 2 or name.endswith("gamma"):
        return torch.full(like.shape, float("bias" not in name and "mean" not in name), dtype=dtype)
    spread = 0.02 if "_embedding.weight" in name else 1 / math.sqrt(like[0].numel())
    count = like.numel()
    pool = (torch.randn(min(count, POOL)) * spread).to(dtype)
    return pool.repeat(math.ceil(count / len(pool)))[:count].reshape(like.shape).contiguous()


# --------------------------------------------------------------------------------------- networks


UNET = dict(use_checkpoint=False, image_size=32, in_channels=4, use_spatial_transformer=True)
UNET |= dict(legacy=False, model_channels=320)


def unet(config: dict[str, Any], prefix: str) -> Weights:
    make = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel
    return random_weights(make(out_channels=4, **{**UNET, **config}, **OPS), prefix)


def sd15_unet(widths: list[int]) -> dict[str, Any]:
    """What makes a UNet one of SD 1.5; ``widths`` in units of 320 channels, of which detection asks nothing."""
    return dict(
        num_res_blocks=[2, 2, 2, 2],
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1] * 9 + [0] * 3,
        transformer_depth_middle=1,
        channel_mult=widths,
        context_dim=768,
        num_heads=8,
    )


SDXL_UNET = dict(
    num_res_blocks=[2, 2, 2],
    transformer_depth=[0, 0, 2, 2, 10, 10],
    transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
    transformer_depth_middle=10,
    channel_mult=[1, 1, 1],  # real: 1, 2, 4
    context_dim=2048,
    num_head_channels=64,
    num_classes="sequential",
    adm_in_channels=2816,
    use_linear_in_transformer=True,
)


def image_vae(latents: int, prefix: str = "", small_decoder: bool = False, **more: Any) -> Weights:
    """A VAE of Stable Diffusion or Flux, at its real size; ``latents`` are its channels."""
    sizes = dict(z_channels=latents, ch=128, ch_mult=[1, 2, 4, 4], num_res_blocks=2, double_z=True)
    sizes |= dict(resolution=256, in_channels=3, out_ch=3, attn_resolutions=[], dropout=0.0) | more
    decoder = {"decoder_ddconfig": sizes | {"ch": 64}} if small_decoder else {}
    with torch.device("meta"):
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(
            ddconfig=sizes, embed_dim=latents, **decoder
        )
    return random_weights(vae, prefix)


def wan_vae() -> Weights:
    """The VAE of Wan 2.1 and Qwen-Image with 32 channels; they have 96."""
    sizes = dict(dim=32, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[])
    with torch.device("meta"):
        vae = comfy.ldm.wan.vae.WanVAE(temperal_downsample=[False, True, True], **sizes)
    return random_weights(vae)


def clip(config: str, prefix: str) -> Weights:
    """A CLIP text encoder at its real size: detection does not read it."""
    sizes = json.loads(Path("comfy", config).read_text())
    make = dict(config_dict=sizes, device="meta", dtype=torch.float16)
    return random_weights(
        comfy.clip_model.CLIPTextModel(**make, operations=comfy.ops.disable_weight_init), prefix
    )


# ------------------------------------------------------------------------------------------ files


def sd15(widths: list[int]) -> Weights:
    config = sd15_unet(widths)
    text = clip("sd1_clip_config.json", "cond_stage_model.transformer.")
    return unet(config, "model.diffusion_model.") | text | image_vae(4, "first_stage_model.")


def sdxl() -> Weights:
    text = clip("sd1_clip_config.json", "conditioner.embedders.0.transformer.")
    large = clip("clip_config_bigg.json", "conditioner.embedders.1.model.transformer.")
    rest = image_vae(4, "first_stage_model.")
    return unet(SDXL_UNET, "model.diffusion_model.") | text | large | rest


def controlnet(widths: list[int]) -> Weights:
    make = comfy.cldm.cldm.ControlNet
    return random_weights(make(hint_channels=3, **UNET, **sd15_unet(widths), **OPS))


def flux() -> Weights:
    """Flux.1 dev with one head, a double block and a single one."""
    sizes = dict(in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, depth=1)
    sizes |= dict(hidden_size=128, num_heads=1, depth_single_blocks=1, axes_dim=[16, 56, 56])
    sizes |= dict(mlp_ratio=4.0, theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True)
    return random_weights(comfy.ldm.flux.model.Flux(txt_ids_dims=[], **sizes, **OPS))


def flux2() -> Weights:
    """Flux.2 dev with two heads, a double block and a single one."""
    sizes = dict(in_channels=128, out_channels=128, vec_in_dim=None, context_in_dim=15360, depth=1)
    sizes |= dict(hidden_size=256, num_heads=2, depth_single_blocks=1, axes_dim=[32] * 4)
    sizes |= dict(mlp_ratio=3.0, theta=2000, patch_size=1, qkv_bias=False, guidance_embed=True)
    sizes |= dict(global_modulation=True, mlp_silu_act=True, ops_bias=False, txt_ids_dims=[3])
    return random_weights(comfy.ldm.flux.model.Flux(**sizes, **OPS))


def qwen_image() -> Weights:
    make = comfy.ldm.qwen_image.model.QwenImageTransformer2DModel
    return random_weights(make(num_layers=1, **OPS), dtype=torch.float8_e4m3fn)


def z_image() -> Weights:
    """Z-Image Turbo with one block besides its four refiners; its width is what detection knows it by."""
    sizes = dict(dim=3840, in_channels=16, cap_feat_dim=2560, n_layers=1, n_heads=30, n_kv_heads=30)
    sizes |= dict(axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512], rope_theta=256.0)
    sizes |= dict(
        ffn_dim_multiplier=8 / 3, qk_norm=True, z_image_modulation=True, time_scale=1000.0
    )
    make = comfy.ldm.lumina.model.NextDiT
    return random_weights(make(pad_tokens_multiple=32, **sizes, **OPS), dtype=torch.bfloat16)


def wan() -> Weights:
    """An expert of Wan 2.2 with one block and one head."""
    sizes = dict(dim=128, ffn_dim=256, num_heads=1, num_layers=1, cross_attn_norm=True)
    return random_weights(comfy.ldm.wan.model.WanModel(**sizes, **OPS))


def text(tokens: int, width: int, pooled: int = 0) -> Weights:
    """A random CONDITIONING [1, tokens, width], for stored_conditioning.py; ``pooled``: the width of its pooled output."""
    pair = {"cond": torch.randn(1, tokens, width)}
    return pair | ({"pooled_output": torch.randn(1, pooled)} if pooled else {})


Files = dict[str, Callable[[], Weights]]


def of_sd15(widths: list[int], folder: str = "") -> Files:
    return {
        f"checkpoints/{folder}v1-5-pruned-emaonly-fp16.safetensors": lambda: sd15(widths),
        f"controlnet/{folder}control_v11p_sd15_canny_fp16.safetensors": lambda: controlnet(widths),
    }


FAMILIES: dict[str, Files] = {
    "sd15": of_sd15([1, 2, 4, 4]),  # the real size
    "sd15-narrow": of_sd15([1, 1, 1, 1], "narrow/"),
    "sdxl": {"checkpoints/sd_xl_base_1.0.safetensors": sdxl},
    "flux": {
        "conditioning/flux.safetensors": lambda: text(256, 4096, pooled=768),
        "diffusion_models/flux1-dev.safetensors": flux,
        "vae/ae.safetensors": lambda: image_vae(16),
    },
    "flux2": {
        "conditioning/flux2.safetensors": lambda: text(32, 15360),
        "diffusion_models/flux2_dev_fp8mixed.safetensors": flux2,
        "vae/full_encoder_small_decoder.safetensors": lambda: image_vae(
            32, small_decoder=True, batch_norm_latent=True
        ),
    },
    "qwen-image": {
        "conditioning/qwen-image.safetensors": lambda: text(32, 3584),
        "diffusion_models/qwen_image_fp8_e4m3fn.safetensors": qwen_image,
        "vae/qwen_image_vae.safetensors": wan_vae,
    },
    "z-image": {
        "conditioning/z-image.safetensors": lambda: text(32, 2560),
        "diffusion_models/z_image_turbo_bf16.safetensors": z_image,
        "vae/ae.safetensors": lambda: image_vae(16),
    },
    "wan": {
        "conditioning/wan.safetensors": lambda: text(512, 4096),
        "diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": wan,
        "diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": wan,
        "vae/wan_2.1_vae.safetensors": wan_vae,
    },
}


def main(models: Path, families: list[str]) -> Iterator[str]:
    torch.manual_seed(0)
    for family in families:
        for name, make in FAMILIES[family].items():
            if not (path := models / name).exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with torch.no_grad():
                    save_file(make(), path)
                yield name


if __name__ == "__main__":
    for name in main(Path(sys.argv[1]), sys.argv[2:]):
        print(name)
