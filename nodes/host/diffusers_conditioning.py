"""What diffusers networks are conditioned on, as ComfyUI's CONDITIONING: a tensor and a dict.

One row a name of ``schedulers/denoiser/diffusers/family.py`` in ``SOURCES``. Keys are the core's
own wherever the meaning is the same, so that its nodes work on them:

========  ====================================================================================
text      the tensor [B, L, D]                     pooled    "pooled_output" [B, P]
mask      "attention_mask" [B, L]                  guidance  "guidance" (FluxGuidance)
labels    the tensor: [B, 1, K] one class of K, or [B, 1, 1] the class's number + 1; 0: no class
image     "clip_vision_output" (CLIP Vision)       fps       "frame_rate" (LTXVConditioning)
size      "width", "height", "crop_w", "crop_h", "target_width", "target_height", or "aesthetic_score"
          (CLIPTextEncodeSDXL and …Refiner)
aesthetic "aesthetic_score", where no size is given
concat    "noise_concat" in the network's space, or "concat_latent_image" with "concat_mask"
========  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...schedulers.denoiser.diffusers import DiffusersDenoiser
from ...schedulers.denoiser.diffusers.families.unet_condition import is_refiner
from .conditioning import KEYS

Extra = Mapping[str, Any]
Read = Callable[[DiffusersDenoiser, "Tensor | None", Extra], "Tensor | None"]

#: Config keys for the width of the text states; the first one present counts.
TEXT_WIDTH = ("text_embed_dim", "text_dim", "caption_channels", "joint_attention_dim", "cross_attention_dim")  # fmt: skip
ENCODE = "connect Diffusers Text Encode with this model's folder"


def from_conditioning(
    network: DiffusersDenoiser, text: Tensor | None, extra: Extra, where: str = "conditioning"
) -> dict[str, Tensor]:
    """The engine's tensors for a network from one CONDITIONING. ValueError if one is missing or misshapen."""
    if network.dims == 3 and "concat" not in network.needs and "concat_latent_image" in extra:
        raise ValueError(
            f"{where}: this {network.kind} makes videos from text only, and sees no picture (Wan's TI2V would need a time "
            "for every token): remove the image-to-video conditioning"
        )
    out = {}
    extra = {**extra, "branch": where}
    for name in (*network.needs, *network.may):
        source = SOURCES[name]
        try:
            value = source.read(network, text, extra)
        except ValueError as error:
            raise ValueError(f"{where}: {network.kind} {error}; {source.way}") from None
        if value is not None:
            out[name] = value
        elif name in network.needs:
            raise ValueError(
                f"{where}: {network.kind} needs {source.what}, which this CONDITIONING lacks: {source.way}"
            )
    return out


# ------------------------------------------------------------------------------ one function a name


def _text(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    given = (network.config.get(key) for key in TEXT_WIDTH)
    width = next((w for w in given if isinstance(w, int)), None)
    if text is not None and (text.ndim != 3 or width not in (None, text.shape[-1])):
        raise ValueError(f"takes text of shape [B, L, {width or 'D'}], got {tuple(text.shape)}")
    return text


def _pooled(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    pooled, c = extra.get(KEYS["pooled"]), network.config
    width = c.get("pooled_projection_dim")
    if pooled is None:
        return None
    if (
        c.get("addition_embed_type") == "text_time"
    ):  # SDXL: 6 numbers of size beside it, the refiner 5
        total, each = c["projection_class_embeddings_input_dim"], c["addition_time_embed_dim"]
        fits = total - pooled.shape[-1] in (5 * each, 6 * each)
        width = pooled.shape[-1] if fits else f"{total - 6 * each} (refiner: {total - 5 * each})"
    if pooled.ndim != 2 or width not in (None, pooled.shape[-1]):
        raise ValueError(f"takes pooled text of shape [B, {width}], got {tuple(pooled.shape)}")
    return pooled


def _mask(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    mask = extra.get(KEYS["mask"])
    if mask is None or text is None:
        return None
    mask = mask.reshape(-1, mask.shape[-1])
    if mask.shape[-1] != text.shape[1]:
        raise ValueError(
            f"has text of {text.shape[1]} tokens, but an attention mask of {mask.shape[-1]}"
        )
    return mask.long()


def _labels(network: DiffusersDenoiser, rows: Tensor | None, extra: Extra) -> Tensor | None:
    if rows is None:
        return None
    c = network.config
    classes, none = c.get("num_class_embeds"), None
    if classes is None and c.get("num_embeds_ada_norm"):
        classes = none = c["num_embeds_ada_norm"]  # trained with dropout: the row after the last
    if rows.ndim != 3 or rows.shape[1] != 1:
        raise ValueError(f"takes a class, got a conditioning of shape {tuple(rows.shape)}")
    numbers = rows[:, 0]
    if numbers.shape[-1] > 1:  # one-hot
        at = torch.arange(1, numbers.shape[-1] + 1, device=numbers.device).to(numbers)
        if not bool(((numbers == 0) | (numbers == 1)).all() & (numbers.sum(-1) <= 1).all()):
            raise ValueError("takes one class per picture, got a blend of classes")
        numbers = (numbers * at).sum(-1, keepdim=True)
    if not bool((numbers == numbers.round()).all()):
        raise ValueError("takes one class per picture, got a blend of classes")
    labels = numbers[:, 0].long() - 1
    if none is not None:
        labels = torch.where(labels < 0, none, labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise ValueError("has no class that means 'unconditional'; choose one")
    if classes is not None and high > (classes if none is not None else classes - 1):
        raise ValueError(f"knows {classes} classes (0 to {classes - 1}), got class {high}")
    return labels


def _guidance(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    return _number(extra.get("guidance"))


def _fps(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    return _number(extra.get("frame_rate"))


def _number(value: Any) -> Tensor | None:
    return None if value is None else torch.as_tensor(value, dtype=torch.float32).reshape(-1)


def _image(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    return getattr(extra.get("clip_vision_output"), "penultimate_hidden_states", None)


def _size(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    """Only where a node said it: the core fills in "width" and "height" by itself."""
    ends = ("aesthetic_score",) if "aesthetic_score" in extra else ("target_height", "target_width")
    if ends[0] not in extra:
        return None
    if not network.config.get("addition_embed_type"):  # PixArt
        keys, usual = ("target_height", "target_width"), {}
    else:
        keys, usual = ("height", "width", "crop_h", "crop_w", *ends), {"crop_h": 0, "crop_w": 0}
    if any(key not in extra and key not in usual for key in keys):
        return None
    return torch.tensor([[float(extra.get(key, usual.get(key))) for key in keys]])


def _aesthetic(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    """The refiner's score where no node said one: 6, and 2.5 for the negative, as in its pipeline."""
    pooled = extra.get(KEYS["pooled"])
    if pooled is None or network.config.get("addition_embed_type") != "text_time":
        return None
    if not is_refiner(network.config, pooled):
        return None
    return _number(extra.get("aesthetic_score", 2.5 if extra["branch"] == "negative" else 6.0))


def _concat(network: DiffusersDenoiser, text: Tensor | None, extra: Extra) -> Tensor | None:
    if extra.get("noise_concat") is not None:
        return extra["noise_concat"]
    picture = extra.get("concat_latent_image")
    if picture is None or not network.family.concat_channels(network.config):
        return None
    if picture.ndim == 4 and network.dims == 3:
        picture = picture[:, :, None]
    if picture.shape[1] != network.channels:
        raise ValueError(
            f"takes a picture of {network.channels} latent channels (concat_latent_image), got {picture.shape[1]}: "
            "encode it with the VAE of the same folder"
        )
    return network.picture(picture, extra.get("concat_mask"))


@dataclass(frozen=True)
class Source:
    """A row: where a tensor is in a CONDITIONING, what it is called, and which node gives it."""

    read: Read
    what: str
    way: str


SOURCES: dict[str, Source] = {
    "text": Source(_text, "text states (the conditioning tensor)", ENCODE),
    "pooled": Source(_pooled, "pooled text (pooled_output)", ENCODE),
    "mask": Source(_mask, "an attention mask (attention_mask)", ENCODE),
    "labels": Source(_labels, "a class", "connect a Diffusers Class or Class Condition node"),
    "guidance": Source(_guidance, "a guidance scale (guidance)", "connect FluxGuidance"),
    "image": Source(
        _image, "CLIP Vision states of a picture (clip_vision_output)", "connect CLIP Vision Encode and WanImageToVideo"
    ),
    "fps": Source(_fps, "a frame rate (frame_rate)", "connect LTXVConditioning"),
    "size": Source(_size, "picture sizes", "connect CLIPTextEncodeSDXL"),
    "aesthetic": Source(_aesthetic, "an aesthetic score (SDXL's refiner)", "connect CLIPTextEncodeSDXLRefiner"),
    "concat": Source(
        _concat, "a picture's latents (concat_latent_image)",
        "connect InpaintModelConditioning, InstructPixToPixConditioning (a picture to edit or to animate) or "
        "WanImageToVideo",
    ),
}  # fmt: skip
