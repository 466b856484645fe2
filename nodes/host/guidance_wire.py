"""What the Guiders of both hosts share: where branches come from, and what a run needs and tells.

A GUIDANCE is the engine's frozen chain. What a rule's node brings beside it, further CONDITIONINGs and
the weak MODEL, rides on the wire next to the chain, and the Guider gives each to its branch.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...schedulers.counts import counted
from ...schedulers.guidance import (
    COND,
    UNCOND,
    WEAK,
    Compose,
    Guidance,
    GuidanceRun,
    Rule,
    ordinary,
)
from ...schedulers.guidance.base import needs_picture
from ...schedulers.measure.model_facts import steps_of_flow

log = logging.getLogger("sampling_kit")


class Holder(Protocol):
    """Where a Guider puts the report of each run."""

    def put(self, report: dict[str, Any]) -> None:
        """Called once at the end of a run with ``GuidanceRun.report()``."""


# ------------------------------------------------------------------------------------ the wire


@dataclass(frozen=True)
class Wired(Guidance):
    """GUIDANCE with what its nodes bring: branch → CONDITIONING, or the MODEL of ``weak``."""

    brought: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def brought_by(guidance: Guidance) -> Mapping[str, Any]:
    """What the nodes of a chain bring."""
    return guidance.brought if isinstance(guidance, Wired) else {}


def extended(guidance: Guidance | None, rule: Rule, brings: Mapping[str, Any]) -> Guidance:
    """The chain with one more rule and what its node brings.

    Raises ValueError where two nodes bring something different for one branch.
    """
    chain = guidance or Guidance()
    known = brought_by(chain)
    for branch in set(known) & set(brings):
        if known[branch] is not brings[branch]:
            raise ValueError(
                f"guidance: two nodes of the chain bring a different {SOURCES.get(branch, branch)}; "
                "one chain can have one"
            )
    rules, brought = (*chain.rules, rule), {**known, **brings}
    return Wired(rules, brought) if brought else Guidance(rules)


def next_condition(guidance: Guidance | None) -> int:
    """Number of the first condition that no Composition of the chain has taken."""
    rules = guidance.rules if guidance else ()
    return max((r.first + len(r.parts) for r in rules if isinstance(r, Compose)), default=1)


#: Branch → the input it comes from, for messages.
SOURCES = {
    UNCOND: "negative",
    "negative": "negative_prompt",
    WEAK: "weak_model",
}


def require_branches(guidance: Guidance, there: Mapping[str, Any]) -> None:
    """Raises ValueError naming the input and the rule where a branch that may be needed is missing."""
    guidance.require_one_attention()
    have = {COND, *there, *guidance.perturbations}
    for rule in guidance.rules:
        for branch in sorted((rule.reads | rule.beside) - have):
            source = SOURCES.get(branch, "conditions")
            raise ValueError(
                f"{source}: the guidance ({rule.title}) needs it, but it is not connected"
            )


# ------------------------------------------------------------------------------------- one run


def placed(guidance: Guidance, x: Tensor) -> Guidance:
    """The chain with its tensors on the device and in the dtype of the latents x, masks at their size."""
    rules = (_moved(_fitted(rule, x), x) for rule in guidance.rules)
    return Guidance(tuple(rules))


def _fitted(rule: Rule, x: Tensor) -> Rule:
    if not isinstance(rule, Compose) or not any(mask is not None for mask in rule.masks):
        return rule
    needs_picture("a mask of Composition", x)
    masks = tuple(None if mask is None else fit_mask(mask, x) for mask in rule.masks)
    return replace(rule, masks=masks)


def fit_mask(mask: Tensor, x: Tensor) -> Tensor:
    """MASK [M, H, W] at the size of latents x [B, C, …, h, w]: [1 or B, 1, …, h, w]."""
    size = x.shape[-2:]
    rows = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    rows = F.interpolate(rows, size, mode="bilinear")
    if len(rows) > 1:  # as the host does: repeated, or cut, to the batch
        rows = rows.repeat(-(-len(x) // len(rows)), 1, 1, 1)[: len(x)]
    return rows.reshape(len(rows), *(1,) * (x.ndim - 3), *size)


def _moved(value: Any, x: Tensor) -> Any:
    found = value
    if isinstance(value, Tensor):
        found = ordinary(value.to(x) if value.is_floating_point() else value.to(x.device))
    elif type(value) is tuple:
        moved = tuple(_moved(v, x) for v in value)
        found = moved if any(map(operator.is_not, moved, value)) else value
    elif is_dataclass(value) and not isinstance(value, type):
        old = {f.name: getattr(value, f.name) for f in fields(value)}
        new = {name: _moved(v, x) for name, v in old.items()}
        if any(new[name] is not old[name] for name in old):
            found = replace(value, **new)
    return found


def one_condition(rows: Tensor, what: str) -> None:
    """Raises ValueError unless all rows [B, …] are the same: no sharing between different images."""
    if len(rows) > 1 and not torch.equal(rows[1:], rows[:1].expand_as(rows[1:])):
        raise ValueError(
            f"share_pure_noise: the images of this batch have different conditions ({len(rows)} rows of "
            f"{what}); switch it off, or give all images the same condition"
        )


def warn_of_flow_steps(flow: bool, sigmas: Sequence[float], top: Callable[[], float]) -> None:
    """A line in the log where a model that is not flow, whose largest σ is ``top()``, gets a flow model's steps."""
    if sigmas and abs(sigmas[0] - 1) < 1e-4 and steps_of_flow(flow, sigmas, top()):
        log.warning(
            "sigmas: the steps run from exactly 1 to 0, as a flow model's, but this MODEL is not flow and starts at "
            "σ = %.4g: the picture will be washed out. Make the steps from this MODEL's noise schedule",
            top(),
        )


def conclude(run: GuidanceRun, holder: Holder | None) -> None:
    """At the end of a run: one line for the log, and the report for a probe."""
    report = run.report()
    log.info("Guider: %s", in_words(run).replace("\n", "; "))
    if holder is not None:
        holder.put(report)


def in_words(run: GuidanceRun) -> str:
    """ "20 evaluations, 28 network calls, 12 saved, …", and in a line of its own how far the run errs."""
    report = run.report()
    text = (
        f"{counted(report['evaluations'], 'evaluation')}, {counted(report['network_calls'], 'network call')}, "
        f"{report['saved_calls']} saved where rules were off"
    )
    shared = report["shared_images"]
    text += f", {counted(shared, 'image')} shared at pure noise" if shared else ""
    return text if run.error is None else f"{text}\n{run.error}"
