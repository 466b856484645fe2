"""A family of diffusers networks: every fact about one network class in one value, one file a family.

``families/<name>.py`` holds a :class:`Family`; being there is all it takes. A family turns x (ComfyUI's
layout: [B, C, H, W], or [B, C, F, H, W] with ``dims`` = 3), the time in diffusers' timesteps and named
conditioning tensors into the network's keyword arguments, and its output into a tensor of x's layout.
Conditioning names, first axis the batch:

========  =============================================================================
text      [B, L, D] encoder states           mask      [B, L] which of them count
pooled    [B, P] pooled text embedding       labels    [B] class numbers
image     [B, L, D] image encoder states     guidance  [B] distilled guidance scale
concat    [B, C', …] channels after x        fps       [B] frames per second
size      [B, 6] height, width of the original, top, left of the crop, height, width of the target
          (pixels), for SDXL's refiner an aesthetic score in place of the last two; [B, 2] height and
          width for PixArt
aesthetic [B] the refiner's score, where no size is given
========  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .folder import Config
from .prompts import Prompts

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


@dataclass(frozen=True)
class Beside:
    """What a network sees after x: ``mask`` channels, then a picture's own VAE latents z times ``factor``.

    ``factor`` None: scaled as x is. The mask is 1 where the picture is to be drawn anew; ``kept``: the
    network takes 1 where it is kept.
    """

    factor: float | None = None
    mask: int = 0
    kept: bool = False


@dataclass(frozen=True)
class Facts:
    """What is known of a folder: the configs of network, VAE and pipeline ({}: none) and its class ("")."""

    config: Config
    vae: Config = field(default_factory=dict)
    index: Config = field(default_factory=dict)
    pipeline: str = ""


@dataclass(frozen=True)
class Tiny:
    """A folder for tests: network and scheduler config, latent shape [C, …], shapes of the conditioning.

    ``scheduler`` is (class, config); ``cond`` (name, shape) pairs; ``vae`` the class of its VAE.
    """

    config: Config
    scheduler: tuple[str, Config]
    shape: tuple[int, ...]
    cond: tuple[tuple[str, tuple[int, ...]], ...] = ()
    vae: str = ""
    pipeline: str = ""


def always(value: Any) -> Callable[[Config], Any]:
    """A fact that no config changes."""
    return lambda config: value


def nothing(family: Family, config: Config) -> str:
    return ""


def square_patch(config: Config) -> tuple[int, ...]:
    return (int(config.get("patch_size") or 1),) * 2


def scaled_as_x(family: Family, facts: Facts) -> Beside:
    """A picture scaled as x, after a mask where there are channels for one."""
    extra = family.concat_channels(facts.config) - family.latent_channels(facts.config)
    return Beside(mask=max(extra, 0))


def unchanged(out: Tensor, call: Call) -> Tensor:
    return out


@dataclass(frozen=True)
class Family:
    """Everything the engine knows about the network class ``kind``.

    ``patch``: latent sizes must be multiples of it. ``packed``: channels the network sees per latent
    channel. ``time``: factor on diffusers' timestep. ``trained``: the dtype it must not go below in
    range (bfloat16), or None. ``supported``: config keys with the only values supported; ``refuses``: why
    a config cannot be used, "" if it can.
    ``exact_time``: a submodule that is to get diffusers' timestep in float32, where the network would
    round it. ``beside``: what it sees after x. ``pixels``, ``frames``: picture rows per latent row and frames per latent frame, where no
    VAE says it. ``leads``: its pipeline puts frames in front to fill the patch (``lead.py``).
    ``square``: takes H = W only. ``prompts``: how prompts are encoded, by network config
    and pipeline class. ``legacy``: (older class, config key, its value) that mean this class.
    ``previews``: (latent channels, VAE scale or None for any, ComfyUI's latent
    format with the same latents). ``tiny``: configs of small random folders, for tests.
    """

    kind: str
    arguments: Callable[[Call], dict[str, Any]]
    needs: Callable[[Config], tuple[str, ...]]
    may: tuple[str, ...] = ()
    dims: int = 2
    unpack: Callable[[Tensor, Call], Tensor] = unchanged
    patch: Callable[[Config], tuple[int, ...]] = square_patch
    time: Callable[[Config], float] = always(1.0)
    packed: int = 1
    trained: Callable[[Config], torch.dtype | None] = always(None)
    supported: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    refuses: Callable[[Family, Config], str] = nothing
    exact_time: str = ""
    beside: Callable[[Family, Facts], Beside] = scaled_as_x
    pixels: int = 8
    frames: int = 4
    leads: bool = False
    square: bool = False
    prompts: Callable[[Config, str], Prompts] | None = None
    legacy: tuple[tuple[str, str, str], ...] = ()
    previews: tuple[tuple[int, float | None, str], ...] = ()
    tiny: Mapping[str, Tiny] = field(default_factory=dict, repr=False)

    def check(self, config: Config, where: str) -> None:
        """Raises ValueError where the config asks for what this family does not do."""
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
        reason = self.refuses(self, config)
        if reason:
            raise ValueError(f"{where}: {reason}")

    def latent_channels(self, config: Config) -> int:
        """Channels of x: those the network predicts; the rest of its input is ``concat``."""
        inputs, outputs = config["in_channels"], config.get("out_channels") or config["in_channels"]
        return min(inputs, outputs) // self.packed

    def concat_channels(self, config: Config) -> int:
        return config["in_channels"] // self.packed - self.latent_channels(config)


# ------------------------------------------------------------------------- what several families share


def text_arguments(call: Call) -> dict[str, Any]:
    """x, time and text under the names that diffusers' transformers share."""
    return dict(hidden_states=call.x, timestep=call.t, encoder_hidden_states=call.cond["text"])


def mask_arguments(call: Call) -> dict[str, Any]:
    """The text mask; without one every token counts."""
    text = call.cond["text"]
    mask = call.cond.get("mask")
    return dict(encoder_attention_mask=text.new_ones(text.shape[:2]) if mask is None else mask)


def class_needs(config: Config) -> tuple[str, ...]:
    """Class labels, for U-Nets whose config asks for them."""
    classes = config.get("class_embed_type") or config.get("num_class_embeds")
    return ("labels",) if classes else ()


SD_PREVIEWS = ((4, 0.18215, "SD15"), (4, 0.13025, "SDXL"))

# Small configs that several families' tests use.
TINY_BLOCKS = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1)
TINY_UNET = dict(
    sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
)  # fmt: skip
TINY_TEXT = ("text", (5, 16))
TINY_POOLED = ("pooled", (24,))
TINY_MASK = ("mask", (5,))
ZERO_SNR = dict(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    clip_sample=False,
)  # fmt: skip
TINY_FLOW = ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0))
