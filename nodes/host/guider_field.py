"""A GUIDER as a function D(x, σ) of any images at any noise level: what a fit asks for. Shared by both hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...schedulers.fit.problem import Field
from ...schedulers.guidance import CFG, Guidance, GuidanceRun


@dataclass(frozen=True)
class Facts:
    """Who a GUIDER is: fingerprints of its weights and conditions, and what it does, in words."""

    model: str
    condition: str
    prediction: str
    guidance: str


@dataclass(frozen=True)
class Ready:
    """A field while its models are loaded. ``check`` raises when the user stops the run; ``refusal`` says why
    D cannot be differentiated, "" where it can."""

    field: Field
    check: Callable[[], None] | None = None
    refusal: str = ""


def prepared(
    x: Tensor, sigma: float | Tensor, device: torch.device
) -> tuple[Tensor, float, Tensor | None]:
    """(x in float32 on the device, σ as a number, σ [B] where it was a tensor).

    A tensor may want a gradient, and then x wants one too: by that hosts know. Guidance goes by the first image's σ.
    """
    y = x.to(device, torch.float32)
    if not isinstance(sigma, Tensor):
        return y, sigma, None
    if torch.is_grad_enabled() and sigma.requires_grad and not y.requires_grad:
        y = y.detach().requires_grad_()
    told = sigma.to(y).reshape(-1).expand(len(y))
    return y, float(told.detach()[0]), told


def dealt(fields: Sequence[Field]) -> Field:
    """Row r belongs to field r % n, as its row r // n: several prompts share one recording."""
    if len(fields) == 1:
        return fields[0]

    def field(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        whose, own = rows % len(fields), rows // len(fields)
        picked = [(torch.nonzero(whose == i)[:, 0], f) for i, f in enumerate(fields)]
        found = [(at, f(x[at.to(x.device)], sigma, own[at])) for at, f in picked if len(at)]
        order = torch.cat([at for at, _ in found]).argsort()
        return torch.cat([d for _, d in found])[order.to(x.device)]

    return field


def in_words(guidance: Guidance) -> str:
    """A chain as people say it: "CFG 2"."""
    rules = guidance.rules
    if not rules:
        return cfg_in_words(1.0)
    first = rules[0]
    if len(rules) == 1 and isinstance(first, CFG) and first == CFG(first.scale):
        return cfg_in_words(first.scale)
    return ", ".join(map(repr, rules))


def cfg_in_words(scale: float) -> str:
    return "no guidance" if scale == 1 else f"CFG {scale:g}"


def refuse_memory(run: GuidanceRun) -> None:
    """Raises ValueError if a rule has kept something for the next step: D is then no function of x and σ."""
    for rule, memory in zip(run.guidance.rules, run.memory, strict=True):
        if memory:
            raise ValueError(
                f"guider: {rule.title} remembers from step to step, so there is no solver to fit for it; "
                "set its momentum to 0 or take the rule out"
            )
