"""Tiny random models of every network class the kit knows, saved as real diffusers folders.

    python tests/diffusers_folders.py cogvideox-5b OUT

Every weight is random, those that a class initialises with zeros too: a test would see nothing of a
network that outputs zeros.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

CONV = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4)
UNET = dict(
    sample_size=8, in_channels=3, out_channels=3, **CONV,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
UNET_COND = dict(
    sample_size=8, in_channels=4, out_channels=4, cross_attention_dim=16, **CONV,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
SDXL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=48,
)  # 6·4 + 24
BLOCKS = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1)
PIXART = dict(
    BLOCKS, sample_size=8, in_channels=4, out_channels=8, patch_size=2, cross_attention_dim=16, caption_channels=16
)  # fmt: skip
COGVIDEOX = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
    num_layers=1, sample_width=8, sample_height=8, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
    max_text_seq_length=8,
)  # fmt: skip
SD_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SD = dict(SD_BETAS, clip_sample=False)
ZERO_SNR = dict(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
)
COG = dict(ZERO_SNR, clip_sample=False)
FLOW = ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0))
DDIM = "DDIMScheduler"


@dataclass(frozen=True)
class Tiny:
    """A folder: network class and config, scheduler class and config, latent shape, conditioning."""

    kind: str
    config: dict
    scheduler: tuple
    shape: tuple
    cond: dict = field(default_factory=dict)
    vae: str = ""
    pipeline: str = ""

    @property
    def place(self):
        return "unet" if self.kind.startswith("UNet") else "transformer"


text, pooled = (("text", (5, 16)),), (("pooled", (24,)),)
tokens8 = (("text", (8, 16)),)
TINY = {
    "ddpm": Tiny("UNet2DModel", UNET, ("DDPMScheduler", {}), (3, 8, 12), pipeline="DDPMPipeline"),
    "ddim-x0": Tiny(
        "UNet2DModel", UNET, (DDIM, dict(prediction_type="sample", beta_schedule="squaredcos_cap_v2")), (3, 8, 12)
    ),
    "ddpm-classes": Tiny(
        "UNet2DModel", dict(UNET, num_class_embeds=4), ("DDPMScheduler", dict(beta_schedule="sigmoid")), (3, 8, 12),
        (("labels", ()),),
    ),
    "ddpm-learned": Tiny(
        "UNet2DModel", dict(UNET, out_channels=6), ("DDPMScheduler", dict(variance_type="learned_range")), (3, 8, 12)
    ),
    "sd": Tiny("UNet2DConditionModel", UNET_COND, ("PNDMScheduler", dict(SD_BETAS, steps_offset=1)), (4, 8, 12), text, "AutoencoderKL"),
    "sd2-v": Tiny("UNet2DConditionModel", UNET_COND, (DDIM, dict(SD, **ZERO_SNR)), (4, 8, 12), text, "AutoencoderKL"),
    "sdxl": Tiny(
        "UNet2DConditionModel", dict(UNET_COND, **SDXL), ("EulerDiscreteScheduler", SD_BETAS), (4, 8, 12),
        text + pooled, "AutoencoderKL",
    ),
    "sdxl-refiner": Tiny(
        "UNet2DConditionModel", dict(UNET_COND, **SDXL | dict(projection_class_embeddings_input_dim=44)),
        ("EulerDiscreteScheduler", SD_BETAS), (4, 8, 12), text + pooled, "AutoencoderKL",
    ),
    "edm": Tiny("UNet2DConditionModel", UNET_COND, ("EDMEulerScheduler", {}), (4, 8, 12), text),
    "edm-v": Tiny("UNet2DModel", UNET, ("EDMEulerScheduler", dict(prediction_type="v_prediction")), (3, 8, 12)),
    "svd-like": Tiny(
        "UNet2DModel", UNET,
        ("EulerDiscreteScheduler", dict(timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0)),
        (3, 8, 12),
    ),
    "ncsn": Tiny("UNet2DModel", dict(UNET, time_embedding_type="fourier"), ("ScoreSdeVeScheduler", dict(sigma_max=50.0)), (3, 8, 12)),
    "dit": Tiny(
        "DiTTransformer2DModel", dict(BLOCKS, in_channels=4, out_channels=8, sample_size=8, num_embeds_ada_norm=10),
        (DDIM, {}), (4, 8, 8), (("labels", ()),), "AutoencoderKL",
    ),
    "pixart-alpha": Tiny(
        "PixArtTransformer2DModel", dict(PIXART, use_additional_conditions=True, attention_head_dim=12, cross_attention_dim=24),
        ("DPMSolverMultistepScheduler", {}), (4, 8, 12), (*text, ("mask", (5,))), "AutoencoderKL",
    ),
    "pixart-sigma": Tiny(
        "PixArtTransformer2DModel", dict(PIXART, use_additional_conditions=False), ("DPMSolverMultistepScheduler", {}),
        (4, 8, 12), text, "AutoencoderKL",
    ),
    "sana": Tiny(
        "SanaTransformer2DModel",
        dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=1, num_cross_attention_heads=2,
             cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16, sample_size=8, mlp_ratio=2.0),
        ("DPMSolverMultistepScheduler", dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)),
        (4, 8, 12), (*text, ("mask", (5,))), "AutoencoderDC",
    ),
    "sd3": Tiny(
        "SD3Transformer2DModel",
        dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
             joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=24, pos_embed_max_size=8),
        FLOW, (4, 8, 12), text + pooled, "AutoencoderKL",
    ),
    "flux": Tiny(
        "FluxTransformer2DModel",
        dict(patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
             joint_attention_dim=16, pooled_projection_dim=24, guidance_embeds=True, axes_dims_rope=[4, 6, 6]),
        ("FlowMatchEulerDiscreteScheduler", dict(use_dynamic_shifting=True)), (4, 8, 12), text + pooled, "AutoencoderKL",
    ),
    "wan": Tiny(
        "WanTransformer3DModel",
        dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
             ffn_dim=32, num_layers=1, rope_max_seq_len=32),
        ("UniPCMultistepScheduler", dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)),
        (4, 3, 4, 6), text, "AutoencoderKLWan",
    ),
    "ltx": Tiny(
        "LTXVideoTransformer3DModel",
        dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=1,
             caption_channels=16),
        ("FlowMatchEulerDiscreteScheduler", dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1)),
        (4, 3, 4, 6), (*text, ("mask", (5,))), "AutoencoderKLLTXVideo",
    ),
    "cogvideox-2b": Tiny("CogVideoXTransformer3DModel", COGVIDEOX, ("CogVideoXDDIMScheduler", COG), (4, 3, 8, 8), tokens8, "AutoencoderKLCogVideoX"),
    "cogvideox-5b": Tiny(
        "CogVideoXTransformer3DModel", dict(COGVIDEOX, use_rotary_positional_embeddings=True, sample_height=12),
        ("CogVideoXDPMScheduler", dict(COG, snr_shift_scale=1.0)), (4, 3, 8, 12), tokens8, "AutoencoderKLCogVideoX",
    ),
    "cogvideox-1.5": Tiny(
        "CogVideoXTransformer3DModel",
        dict(COGVIDEOX, use_rotary_positional_embeddings=True, patch_size_t=2, ofs_embed_dim=8, in_channels=8, patch_bias=False),
        ("CogVideoXDDIMScheduler", dict(COG, snr_shift_scale=1.0)), (4, 4, 4, 8), (*tokens8, ("concat", (4, 4, 4, 8))),
        "AutoencoderKLCogVideoX",
    ),
}  # fmt: skip

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
    return build(TINY[name].kind, TINY[name].config)


def scheduler(name):
    import diffusers

    kind, config = TINY[name].scheduler
    return getattr(diffusers, kind)(**config)


def save(name, path, dtype=torch.float32, **kwargs):
    """The folder of a tiny model: model_index.json, scheduler, network, VAE."""
    import json

    tiny, path = TINY[name], Path(path)
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
    for key, shape in TINY[name].cond:
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
