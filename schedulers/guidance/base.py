"""Guidance: an ordered chain of rules that turn branch predictions into one D, all in x0 space.

A branch is one prediction of a network at some x and σ, named by a string: the table below. A rule says
which branches it reads and where it is active, so one that does nothing at a noise level costs no
network call. The chain starts from D = cond and applies the active rules in order; a rule that
combines with the unconditional prediction (CFG, APG, …) treats the D it is given as D_c.

=====================  ===========================================================================
branch                 the network it is
=====================  ===========================================================================
``cond``               the model with the positive condition; always evaluated
``uncond``             the model with the empty condition, or with the negative prompt in its place
``negative``           the model with a negative prompt beside ``uncond`` (perpendicular negative)
``cond.1``, ``.2`` …   the model with further conditions (composition)
``weak``               a weaker model of the same latent space and noise levels, positive condition
``perturbed.…``        the model with positive condition and a :class:`Perturbation` installed
=====================  ===========================================================================

Rules are frozen and hold no state. What must live between two evaluations of one run (APG's momentum)
is kept in ``call.memory``, a dictionary the :class:`~.chain.GuidanceRun` owns, one per rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..path import Path
from ..prediction import Prediction
from ..settings import Settings, choose
from .curve import CURVES, Constant, Curve, PerStep
from .level import Level

COND, UNCOND, NEGATIVE, WEAK = "cond", "uncond", "negative", "weak"

#: evaluate(x, σ, names) → D of every named branch at x [B, …], in one forward pass of each network where
#: their conditions have the same sizes and memory allows (``networks.py``; in ComfyUI its own batching).
Evaluate = Callable[[Tensor, float, Sequence[str]], Mapping[str, Tensor]]

#: guide(z⁺, z⁻) → z: what a picture's tokens get in place of the attention z⁺ [B, N, d] to the positive prompt, z⁻ being
#: that to the negative one.
InAttention = Callable[[Tensor, Tensor], Tensor]

#: Spaces in which some papers state their formula; see ``Call.output``.
SPACES = ("flow", "v", "eps", "x0")


@dataclass(frozen=True)
class Perturbation:
    """What to do to a network's attention or blocks while one branch is evaluated.

    kind: ``identity`` (self-attention maps become the identity), ``blur`` (queries blurred over space
    with standard deviation ``blur``), ``skip`` (whole blocks left out). layers: names of the layers as
    the host calls them; empty: the host's default for the model.
    """

    kind: str
    layers: tuple[str, ...] = ()
    blur: float = 0.0

    @property
    def branch(self) -> str:
        """The branch's name; equal perturbations share one branch."""
        facts = [*self.layers, *([f"{self.blur:g}"] if self.blur else [])]
        return f"perturbed.{self.kind}" + (f"({','.join(facts)})" if facts else "")


@dataclass(frozen=True)
class Call:
    """One evaluation as a rule sees it: x [B, …] in the host's coordinates, and the predictions there."""

    x: Tensor
    level: Level
    path: Path
    preds: Mapping[str, Tensor]
    memory: dict[str, Tensor]
    evaluate: Evaluate | None = None

    def __getitem__(self, branch: str) -> Tensor:
        return self.preds[branch]

    @property
    def alpha(self) -> float:
        return self.level.point.alpha

    @property
    def sigma(self) -> float:
        return self.level.point.sigma

    @property
    def x_flow(self) -> Tensor:
        """The state in flow's coordinates, x/(α + σ) = (1 − t)·x0 + t·ε."""
        return self.x / (self.alpha + self.sigma)

    def output(self, space: str, d: Tensor) -> Tensor:
        """What a network of that prediction kind would have said where it means ``d``; the state is
        brought to VP, where all of them are defined (and flow's ε − x0 is what it is everywhere)."""
        n, kind = self._vp(), Prediction(space)
        return kind.from_x0(d, self.x / n, self.alpha / n, self.sigma / n)

    def data(self, space: str, out: Tensor) -> Tensor:
        """The inverse of :meth:`output`."""
        n, kind = self._vp(), Prediction(space)
        return kind.to_x0(out, self.x / n, self.alpha / n, self.sigma / n)

    def _vp(self) -> float:
        return float((self.alpha**2 + self.sigma**2) ** 0.5)

    def again(self, x: Tensor, sigma: float, names: Sequence[str]) -> Mapping[str, Tensor]:
        """The branches at another x and σ (host coordinates): more network calls, which are counted."""
        if self.evaluate is None:
            raise ValueError("this guidance evaluates the network again: run it from a Guider")
        return self.evaluate(x, sigma, names)

    def vjp(self, d: Tensor, cotangent: Tensor) -> Tensor:
        """Jᵀ·cotangent with J = ∂d/∂x, d being the chain's D so far. One backward pass."""
        if not (self.x.requires_grad and d.requires_grad):
            raise ValueError(
                "this guidance needs the gradient of the denoiser, which this MODEL or host does not give"
            )
        with torch.enable_grad():
            (g,) = torch.autograd.grad(d, self.x, cotangent.detach(), retain_graph=True)
        return g


@contextmanager
def leaf(x: Tensor) -> Iterator[Tensor]:
    """A copy of x to differentiate by, with gradients on even inside a host's inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield x.clone().detach().requires_grad_()


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇_x Σ function(x); the images of a batch do not see one another."""
    with leaf(x) as y:
        (g,) = torch.autograd.grad(function(y).sum(), y)
    return g


@dataclass(frozen=True)
class Rule(Settings):
    """Base class of guidance rules. Another rule: a subclass in a file here and its name in ``ALL``."""

    paper: ClassVar[str] = ""
    #: The conditions that go along inside of a call of ``cond``: no branches, no calls of their own.
    beside: ClassVar[frozenset[str]] = frozenset()
    #: Needs D as a differentiable function of x: the run then builds the graph (time and memory of
    #: training, about three evaluations instead of one).
    gradient: ClassVar[bool] = False

    @property
    def reads(self) -> frozenset[str]:
        """All branches it may ever need beyond ``cond``; empty if it is off everywhere."""
        return frozenset()

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """What its ``perturbed.…`` branches mean."""
        return ()

    def active(self, at: Level) -> bool:
        """Whether it changes anything at a level."""
        raise NotImplementedError

    def branches(self, at: Level) -> frozenset[str]:
        """The branches it reads at a level; empty where it is off."""
        return self.reads if self.active(at) else frozenset()

    def in_attention(self, at: Level) -> InAttention | None:
        """What it does inside the attention of ``cond``'s call, of the conditions ``beside``; None: nothing."""
        return None

    def apply(self, d: Tensor, call: Call) -> Tensor:
        """The new D [B, …] from the chain's D so far; called where active. Never in place."""
        raise NotImplementedError


def curve_knob() -> Curve:
    """The field ``curve`` of rules with a scale; the last one of its class."""
    curve: Curve = choose(CURVES, "How the weight changes with the noise level; off costs no call.")
    return curve


class Scaled(Rule):
    """A rule with fields ``scale`` and ``curve``, off where its weight is ``neutral``.

    weight = neutral + curve·(scale − neutral).
    """

    scale: float
    curve: Curve
    neutral: ClassVar[float] = 1.0
    #: Whether the host's CFG scale is this rule's: ``cfg`` = scale + 1 − neutral, so that 1 is off for both.
    guides: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def cfg(self) -> float:
        """The scale as the host counts it."""
        return self.scale + 1 - self.neutral

    def with_cfg(self, cfg: float) -> Scaled:
        """The rule with the host's scale."""
        if cfg == self.cfg:
            return self
        curve = Constant() if isinstance(self.curve, PerStep) else self.curve
        scale = max(cfg - 1 + self.neutral, 0.0)
        changed: Scaled = replace(cast("Any", self), scale=scale, curve=curve)
        return changed

    @property
    def on(self) -> bool:
        """Whether the scale, or one of those per step, is another than ``neutral``."""
        scales = self.curve.values if isinstance(self.curve, PerStep) else (self.scale,)
        return any(s != self.neutral for s in scales)

    def stepped(self, at: Level) -> Scaled:
        """The rule with the scale of a level's step, where each step has its own."""
        if not isinstance(self.curve, PerStep):
            return self
        rule = self.with_cfg(self.curve.scale(at) + 1 - self.neutral)
        stepped: Scaled = replace(cast("Any", rule), curve=Constant())
        return stepped

    def full(self, at: Level) -> float:
        """The weight where the curve is 1."""
        return self.scale

    def weight(self, at: Level) -> float:
        """The weight at a level."""
        if isinstance(self.curve, PerStep):
            return self.stepped(at).weight(at)
        share = self.curve(at)
        if share == 0:
            return self.neutral
        full = self.full(at)
        return full if share == 1 else self.neutral + share * (full - self.neutral)

    @property
    def reads(self) -> frozenset[str]:
        return self.needs if self.on else frozenset()

    def active(self, at: Level) -> bool:
        return self.weight(at) != self.neutral


def needs_picture(what: str, a: Tensor) -> None:
    """Raises ValueError for latents without height and width (audio, packed video with audio)."""
    if a.ndim < 4:
        raise ValueError(
            f"{what} works over height and width, but these latents have shape {tuple(a.shape)}: "
            "audio and packed latents (video with audio) have none"
        )


def away(d: Tensor, base: Tensor, weight: float | Tensor) -> Tensor:
    """base + weight·(d − base): from a base prediction through d and beyond."""
    return base + (d - base) * weight
