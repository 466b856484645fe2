"""Flow shifts that grow with the size of the picture or video (Flux, SD3.5, LTX), in one function.

Networks see p_h × p_w latents as one token; n tokens get μ, linear in n through (n₀, base) and (n₁, most),
and the shift e^μ, or μ itself (``linear``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from .noise_schedule import RectifiedFlowSchedule
from .settings import knob


@dataclass(frozen=True)
class SizeShift:
    """The rule. ValueError where it gives no shift for a size it is meant for."""

    base: float = 0.5
    most: float = 1.15
    n0: int = 256
    n1: int = 4096
    linear: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.n0 < self.n1:
            raise ValueError(
                f"the shift is linear in the number of tokens from {self.n0} to {self.n1}, which must be "
                "above 0 and rise (base_image_seq_len, max_image_seq_len)"
            )
        for tokens in (self.n0, self.n1):
            self.at(tokens)

    def at(self, tokens: int) -> float:
        """The shift for ``tokens`` tokens."""
        slope = (self.most - self.base) / (self.n1 - self.n0)
        mu = self.base + slope * (tokens - self.n0)
        shift = mu if self.linear else math.exp(min(mu, 100.0))
        if not 0.01 <= shift <= 1e6:
            raise ValueError(
                f"the shift for {tokens} tokens is {shift:g}: set base_shift and max_shift so that it is above 0, "
                "or use a size the network was made for"
            )
        return shift


def tokens_of(shape: tuple[int, ...], patch: tuple[int, ...]) -> int:
    """Tokens of a latent [C, (F,) H, W]; what does not fill a patch is padded to one."""
    if len(shape) != len(patch) + 1:
        raise ValueError(f"a latent of {len(patch)} axes after its channels is needed, got {shape}")
    return math.prod(-(-n // p) for n, p in zip(shape[1:], patch, strict=True))


@dataclass(frozen=True)
class SizedFlow(RectifiedFlowSchedule):
    """Rectified flow with the shift for the rule's n₁ tokens, until it is told a size."""

    shift: float = knob(1.0, "Time shift s.", low=0.01, high=1e6)
    rule: SizeShift = field(default=SizeShift(), repr=False)
    patch: tuple[int, ...] = field(default=(), repr=False)

    def for_tokens(self, tokens: int) -> SizedFlow:
        """The schedule with the shift for ``tokens`` tokens."""
        return replace(self, shift=self.rule.at(tokens))

    def for_latent(self, shape: tuple[int, ...]) -> SizedFlow:
        """The schedule for a latent of ``shape`` [C, (F,) H, W], of which one token covers ``patch``."""
        return self.for_tokens(tokens_of(shape, self.patch))
