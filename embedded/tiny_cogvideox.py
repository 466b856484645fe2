"""The tiny CogVideoX that ships with the pack: every part of the real folder, random weights, bfloat16.

    python -m sampling_kit.embedded.tiny_cogvideox embedded/diffusers/tiny-cogvideox

It shows that a workflow runs from prompt to frames; its pictures mean nothing. Needs diffusers and
transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

TRANSFORMER: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
    num_layers=1, sample_width=16, sample_height=12, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
    max_text_seq_length=16, use_rotary_positional_embeddings=True,
)  # fmt: skip
SCHEDULER: dict[str, Any] = dict(  # CogVideoX-5B's
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, prediction_type="v_prediction",
    rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing",
)  # fmt: skip
VAE: dict[str, Any] = dict(
    down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3, block_out_channels=(4, 8, 8),
    latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4, scaling_factor=0.7,
)  # fmt: skip
T5: dict[str, Any] = dict(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)


def write(folder: Path, seed: int = 0) -> Path:
    """Write the folder as diffusers and transformers do; the seed fixes every weight."""
    import diffusers
    import transformers

    torch.manual_seed(seed)
    letters = [(chr(97 + i), -2.0) for i in range(26)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *letters]
    tokenizer: Any = transformers.T5Tokenizer(vocab=vocab, extra_ids=0)
    tokenizer.model_max_length = TRANSFORMER["max_text_seq_length"]
    parts = dict(
        transformer=diffusers.CogVideoXTransformer3DModel(**TRANSFORMER),
        vae=diffusers.AutoencoderKLCogVideoX(**VAE),
        text_encoder=transformers.T5EncoderModel(transformers.T5Config(**T5)),
    )
    for module in parts.values():
        perturb(module)
    parts["vae"].decoder.conv_out.conv.weight.data *= 0.4  # colours within the range of pictures
    for module in parts.values():
        module.to(torch.bfloat16)
    scheduler = diffusers.CogVideoXDDIMScheduler(**SCHEDULER)
    pipe = diffusers.CogVideoXPipeline(tokenizer=tokenizer, scheduler=scheduler, **parts)
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    return folder


def perturb(module: Any, size: float = 0.1) -> Any:
    """Noise on every weight: some layers start at zero, and would hide what is before them."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(size * torch.randn(weight.shape))
    return module.eval()


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
