"""How each diffusers network is called: one row a class in ``ADAPTERS``.

A row turns x (ComfyUI's layout: [B, C, H, W], or [B, C, F, H, W] with ``dims`` = 3), the time in
diffusers' timesteps and named conditioning tensors into the network's keyword arguments, and its output
into a tensor of x's layout. Conditioning names, first axis the batch:

========  =============================================================================
text      [B, L, D] encoder states           mask      [B, L] which of them count
pooled    [B, P] pooled text embedding       labels    [B] class numbers
image     [B, L, D] image encoder states     guidance  [B] distilled guidance scale
concat    [B, C', …] channels after x        fps       [B] frames per second
size      [B, 6] height, width of the original, top, left of the crop, height, width of the target
          (pixels), for SDXL's refiner an aesthetic score in place of the last two; [B, 2] height and
          width for PixArt
========  =============================================================================
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .folder import Config

Conditioning = Mapping[str, Tensor]


@dataclass(frozen=True)
class Call:
    """One call of a network: x [B, C, …] in its dtype, t [B] float32, the conditioning, the config."""

    x: Tensor
    t: Tensor
    cond: Conditioning
    config: Config
    pixels: tuple[int, int]

    def filled(self, value: float) -> Tensor:
        """[B] float32, all ``value``."""
        return torch.full_like(self.t, value)


def identity(x: Tensor, config: Config) -> Tensor:
    return x


def _one(config: Config) -> float:
    return 1.0


def _patch(config: Config) -> tuple[int, ...]:
    return (int(config.get("patch_size") or 1),) * 2


def _same(out: Tensor, call: Call) -> Tensor:
    return out


def _never(config: Config) -> None:
    return None


def _bf16(config: Config) -> torch.dtype:
    return torch.bfloat16


@dataclass(frozen=True)
class Adapter:
    """A row: everything the engine knows about one network class.

    ``patch``: latent sizes must be multiples of it. ``channels``: latent channels per channel the
    network sees. ``time``: factor on diffusers' timestep. ``trained``: the dtype it must not go below
    in range (bfloat16), or None. ``supported``: config keys with the only values supported. ``exact_time``:
    a submodule that is to get diffusers' timestep in float32, where the network would round it.
    ``pixels``: picture rows per latent row, where no VAE says it. ``square``: takes H = W only.
    """

    arguments: Callable[[Call], dict[str, Any]]
    needs: Callable[[Config], tuple[str, ...]]
    may: tuple[str, ...] = ()
    dims: int = 2
    unpack: Callable[[Tensor, Call], Tensor] = _same
    patch: Callable[[Config], tuple[int, ...]] = _patch
    time: Callable[[Config], float] = _one
    packed: int = 1
    trained: Callable[[Config], torch.dtype | None] = _never
    supported: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    exact_time: str = ""
    pixels: int = 8
    square: bool = False

    def check(self, config: Config, where: str) -> None:
        """Raises ValueError where the config asks for what this row does not do."""
        for key, values in self.supported.items():
            if config.get(key) not in values:
                allowed = ", ".join(map(repr, values))
                raise ValueError(
                    f"{where}: {key} = {config.get(key)!r} is not supported ({allowed})"
                )
        inputs, outputs = config.get("in_channels"), config.get("out_channels") or 0
        if not isinstance(inputs, int) or inputs < 1 or inputs % self.packed:
            raise ValueError(
                f"{where}: in_channels = {inputs!r} must be a multiple of {self.packed}"
            )
        if outputs > inputs and outputs != 2 * inputs:
            raise ValueError(
                f"{where}: out_channels = {outputs} must be in_channels = {inputs}, fewer, or (with a learned "
                "variance) twice as many"
            )

    def latent_channels(self, config: Config) -> int:
        """Channels of x: those the network predicts; the rest of its input is ``concat``."""
        inputs, outputs = config["in_channels"], config.get("out_channels") or config["in_channels"]
        return min(inputs, outputs) // self.packed

    def concat_channels(self, config: Config) -> int:
        return config["in_channels"] // self.packed - self.latent_channels(config)


# ------------------------------------------------------------------------------- one function a class


def unet(call: Call) -> dict[str, Any]:
    labels = {"class_labels": call.cond["labels"]} if "labels" in call.cond else {}
    return dict(sample=call.x, timestep=call.t, **labels)


def unet_condition(call: Call) -> dict[str, Any]:
    args = unet(call) | dict(encoder_hidden_states=call.cond["text"])
    if call.config.get("addition_embed_type") == "text_time":
        size = call.cond.get("size")
        if size is None:
            size = call.t.new_tensor([_sdxl_size(call)]).expand(len(call.t), -1)
        size = size.to(call.t)
        args["added_cond_kwargs"] = dict(text_embeds=call.cond["pooled"], time_ids=size)
    return args


def _sdxl_size(call: Call) -> tuple[float, ...]:
    """Whole picture, no crop, at its own size; for the refiner, which takes 5 numbers, aesthetic score 6."""
    height, width = call.pixels
    wide = call.config["projection_class_embeddings_input_dim"] - call.cond["pooled"].shape[-1]
    if wide // call.config["addition_time_embed_dim"] == 5:
        return (height, width, 0, 0, 6.0)
    return (height, width, 0, 0, height, width)


def dit(call: Call) -> dict[str, Any]:
    return dict(hidden_states=call.x, timestep=call.t, class_labels=call.cond["labels"])


def pixart(call: Call) -> dict[str, Any]:
    extra: dict[str, Any] = dict(resolution=None, aspect_ratio=None)
    if _pixart_sizes(call.config):
        size = call.cond.get("size")
        if size is None:
            size = torch.tensor([call.pixels], device=call.t.device).expand(len(call.t), -1)
        size = size[:, :2].to(call.t)
        extra = dict(resolution=size, aspect_ratio=size[:, :1] / size[:, 1:])
    return _text(call) | dict(added_cond_kwargs=extra, **_mask(call))


def _pixart_sizes(config: Config) -> bool:
    """Micro-conditioning on the size: said by the config, or by its sample size of 128."""
    said = config.get("use_additional_conditions")
    return config.get("sample_size") == 128 if said is None else bool(said)


def sana(call: Call) -> dict[str, Any]:
    guided = {}
    if call.config.get("guidance_embeds"):
        scale = call.config.get("guidance_embeds_scale", 0.1)
        guided = dict(guidance=call.cond.get("guidance", call.filled(4.5)) * scale)
    return _text(call) | _mask(call) | guided


def sd3(call: Call) -> dict[str, Any]:
    return _text(call) | dict(pooled_projections=call.cond["pooled"])


def flux(call: Call) -> dict[str, Any]:
    height, width = (n // 2 for n in call.x.shape[-2:])
    rows = torch.arange(height, device=call.t.device).repeat_interleave(width)
    columns = torch.arange(width, device=call.t.device).repeat(height)
    ids = torch.stack([torch.zeros_like(rows), rows, columns], 1).to(call.t)
    text = call.cond["text"]
    guidance = {}
    if call.config.get("guidance_embeds"):
        guidance = dict(guidance=call.cond.get("guidance", call.filled(3.5)))
    return sd3(call) | dict(
        hidden_states=squeeze(call.x, 2), img_ids=ids, txt_ids=ids.new_zeros(text.shape[1], 3), **guidance
    )  # fmt: skip


def flux_output(out: Tensor, call: Call) -> Tensor:
    return unsqueeze(out, call.x.shape[-2] // 2, call.x.shape[-1] // 2, 2)


def squeeze(x: Tensor, p: int) -> Tensor:
    """[B, C, H, W] → tokens [B, H/p·W/p, C·p·p]."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def unsqueeze(tokens: Tensor, rows: int, columns: int, p: int) -> Tensor:
    """Inverse of :func:`squeeze`."""
    x = tokens.reshape(len(tokens), rows, columns, -1, p, p).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(len(tokens), -1, rows * p, columns * p)


def wan(call: Call) -> dict[str, Any]:
    image = {"encoder_hidden_states_image": call.cond["image"]} if "image" in call.cond else {}
    return _text(call) | image


def ltx(call: Call) -> dict[str, Any]:
    frames, height, width = call.x.shape[2:]
    # rope_interpolation_scale: seconds per latent frame, pixels per latent row and column
    fps = float(call.cond["fps"][0]) if "fps" in call.cond else 25.0
    across = call.pixels[0] / height
    return _text(call) | _mask(call) | dict(
        hidden_states=call.x.flatten(2).mT, num_frames=frames, height=height, width=width,
        rope_interpolation_scale=(8 / fps, across, across),
    )  # fmt: skip


def ltx_output(out: Tensor, call: Call) -> Tensor:
    return out.mT.reshape(len(out), -1, *call.x.shape[2:])


def cogvideox(call: Call) -> dict[str, Any]:
    c = call.config
    args = _text(call) | dict(hidden_states=call.x.transpose(1, 2))
    if c.get("ofs_embed_dim") is not None:
        args["ofs"] = call.t.new_full((1,), 2.0)
    if c.get("use_rotary_positional_embeddings"):
        frames, height, width = call.x.shape[2:]
        p = c["patch_size"]
        args["image_rotary_emb"] = cogvideox_rotary(
            c["attention_head_dim"], (frames, height // p, width // p), c.get("patch_size_t"),
            (c["sample_height"] // p, c["sample_width"] // p), str(call.x.device),
        )  # fmt: skip
    return args


@lru_cache(maxsize=4)
def cogvideox_rotary(
    dim: int, grid: tuple[int, int, int], patch_t: int | None, trained: tuple[int, int], device: str
) -> tuple[Tensor, Tensor]:
    """(cos, sin) of CogVideoX's 3-D rotary embedding for a grid of (frames, rows, columns) tokens.

    1.0 stretches the grid over the trained one, keeping the aspect ratio, centred; 1.5 cuts it out.
    """
    embed = importlib.import_module("diffusers.models.embeddings").get_3d_rotary_pos_embed
    frames, rows, columns = grid
    if patch_t is not None:
        return embed(
            embed_dim=dim, crops_coords=None, grid_size=(rows, columns), temporal_size=-(-frames // patch_t),
            grid_type="slice", max_size=trained, device=torch.device(device),
        )  # fmt: skip
    high, wide = trained
    if rows / columns > high / wide:
        wide = round(high / rows * columns)
    else:
        high = round(wide / columns * rows)
    top, left = round((trained[0] - high) / 2), round((trained[1] - wide) / 2)
    return embed(
        embed_dim=dim, crops_coords=((top, left), (top + high, left + wide)), grid_size=(rows, columns),
        temporal_size=frames, device=torch.device(device),
    )  # fmt: skip


def _text(call: Call) -> dict[str, Any]:
    return dict(hidden_states=call.x, timestep=call.t, encoder_hidden_states=call.cond["text"])


def _mask(call: Call) -> dict[str, Any]:
    """The text mask; without one every token counts."""
    text = call.cond["text"]
    mask = call.cond.get("mask")
    return dict(encoder_attention_mask=text.new_ones(text.shape[:2]) if mask is None else mask)


# --------------------------------------------------------------------------------------- the table


def _needs(*names: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: names


def _levels(config: Config) -> tuple[int, ...]:
    return (2 ** (len(config.get("block_out_channels") or (1,)) - 1),) * 2


def _unet_needs(config: Config) -> tuple[str, ...]:
    classes = config.get("class_embed_type") or config.get("num_class_embeds")
    return ("labels",) if classes else ()


def _unet_condition_needs(config: Config) -> tuple[str, ...]:
    added = ("pooled",) if config.get("addition_embed_type") == "text_time" else ()
    return ("text", *added, *_unet_needs(config))


def _wan_patch(config: Config) -> tuple[int, ...]:
    return tuple(config.get("patch_size") or (1, 2, 2))


def _wan_needs(config: Config) -> tuple[str, ...]:
    return ("text", "image") if config.get("image_dim") else ("text",)


def _cogvideox_patch(config: Config) -> tuple[int, ...]:
    return (config.get("patch_size_t") or 1, *_patch(config))


def _cogvideox_trained(config: Config) -> torch.dtype | None:
    """2B, without rotary embeddings, was trained in float16; 5B and 1.5 in bfloat16."""
    return torch.bfloat16 if config.get("use_rotary_positional_embeddings") else None


ADAPTERS: dict[str, Adapter] = {
    "UNet2DModel": Adapter(
        unet, _unet_needs, patch=_levels, pixels=1,
        supported=dict(class_embed_type=(None, "timestep", "identity")),
    ),
    "UNet2DConditionModel": Adapter(
        unet_condition, _unet_condition_needs, ("size",), patch=lambda config: (1, 1),
        supported=dict(
            addition_embed_type=(None, "text_time"), encoder_hid_dim_type=(None,), time_cond_proj_dim=(None,)
        ),
    ),
    "DiTTransformer2DModel": Adapter(dit, _needs("labels"), square=True),
    "PixArtTransformer2DModel": Adapter(pixart, _needs("text"), ("mask", "size")),
    "SanaTransformer2DModel": Adapter(
        sana, _needs("text"), ("mask", "guidance"), trained=_bf16, pixels=32,
        time=lambda config: float(config.get("timestep_scale") or 1.0),
    ),
    "SD3Transformer2DModel": Adapter(sd3, _needs("text", "pooled")),
    "FluxTransformer2DModel": Adapter(
        flux, _needs("text", "pooled"), ("guidance",), unpack=flux_output, patch=lambda config: (2, 2),
        time=lambda config: 1e-3, packed=4, trained=_bf16, supported=dict(patch_size=(1, None)),
        exact_time="time_text_embed",
    ),
    "WanTransformer3DModel": Adapter(
        wan, _wan_needs, dims=3, patch=_wan_patch, trained=_bf16,
    ),
    "LTXVideoTransformer3DModel": Adapter(
        ltx, _needs("text"), ("mask", "fps"), dims=3, unpack=ltx_output, patch=lambda config: (1, 1, 1),
        trained=_bf16, supported=dict(patch_size=(1, None), patch_size_t=(1, None)), pixels=32,
    ),
    "CogVideoXTransformer3DModel": Adapter(
        cogvideox, _needs("text"), dims=3, unpack=lambda out, call: out.transpose(1, 2),
        patch=_cogvideox_patch, trained=_cogvideox_trained,
    ),
}  # fmt: skip


def adapter_of(kind: str, where: str = "network config") -> Adapter:
    """The row for a class name. Raises ValueError for a class that has none."""
    if kind not in ADAPTERS:
        raise ValueError(
            f"{where}: the network class {kind} is not known; known: {', '.join(ADAPTERS)}"
        )
    return ADAPTERS[kind]


def tokens(config: Config, adapter: Adapter, shape: tuple[int, ...]) -> int:
    """Image tokens of a latent [C, …], for a dynamic shift."""
    return math.prod(n // p for n, p in zip(shape[1:], adapter.patch(config), strict=True))
