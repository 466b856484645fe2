r"""Log-likelihood: the probability-flow ODE read as a continuous normalizing flow.

Along dx/dσ = (x − D)/σ, in host coordinates (variance exploding, or flow), a density changes by
d log p(x)/dσ = −div((x − D)/σ) (Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456,
sec. 4.3). From the data at σ_0 up to noise at σ_T, with d values per image,

    log p(x(σ_0)) = log N(x(σ_T); 0, s²I) + ∫ (d − tr ∂D/∂x) d log σ,   s² = α_T²·data_std² + σ_T²,

and in the units of the data, y = x/α, it is d·log α_0 more. This is the density of the data blurred with
κ_0, the lowest level above 0, at the data themselves.

The trace is exact, Σ_i e_iᵀJe_i, or Hutchinson's estimate, the mean of vᵀJv over random signs v that stay
the same along the whole path (Grathwohl et al. 2019, arXiv 1810.01367). vᵀJ comes from a backward pass, or
vᵀJv from a central difference, which only evaluates D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..guidance.base import leaf
from ..noise import PerImageNoise
from ..path import Path
from ..points import Points
from ..settings import Settings, knob
from ..solver.runge_kutta import TABLEAUX
from ..text_table import text_table
from . import Evaluate

EXACT_UP_TO = 256  # values per image: as many backward passes per evaluation
NUDGE = 0.01  # of σ: the step of a central difference
PIXEL = 2 / 255  # width of one of 256 levels of a picture in [−1, 1]
BY_GRADIENT, BY_DIFFERENCES = "gradient", "differences"

#: (D(x), vᵀJv [B] for each direction v [B, …])
Products = Callable[[Tensor, float, Iterator[Tensor]], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class LogLikelihood(Settings):
    """How likely a model finds given pictures, in bits per dimension, by the change of variables along the ODE."""

    trace: str = knob(
        "auto",
        "tr ∂D/∂x: exact (as many products as an image has values), Hutchinson's estimate from random signs, or auto: "
        f"exact up to {EXACT_UP_TO} values.",
        options=("auto", "exact", "hutchinson"),
    )
    probes: int = knob(
        8,
        "Random sign vectors of Hutchinson's estimate; the error bar is their standard error and needs 2.",
        low=1,
        high=1000,
    )
    derivative: str = knob(
        BY_GRADIENT,
        "gradient: one backward pass per product; differences: two more evaluations per product, for a MODEL or GUIDER "
        "that cannot be differentiated.",
        options=(BY_GRADIENT, BY_DIFFERENCES),
    )
    method: str = knob(
        "rk4", "The Runge–Kutta method, in log σ, for x and log p.", options=tuple(TABLEAUX)
    )
    step_error: bool = knob(
        True,
        "Repeat with every second noise level, and report how far the result with all of them is still off (half the "
        "cost again).",
    )
    eight_bit: bool = knob(
        False,
        "The data are pictures of 256 levels in [−1, 1]: adds noise of the width of a level to them, and counts the bits "
        "of a pixel value as papers do, an upper bound. Else the density itself is measured.",
    )
    data_std: float = knob(
        1.0,
        "Standard deviation of the data, for the noise at the last level: variance α²·data_std² + σ². At high noise it "
        "hardly matters.",
        low=0.0,
        high=1000.0,
        advanced=True,
    )
    seed: int = knob(0, "Of the signs and of the noise on 256 levels.", low=0, high=2**64 - 1)

    def exact(self, dims: int) -> bool:
        return self.trace == "exact" or (self.trace == "auto" and dims <= EXACT_UP_TO)

    def measure(
        self,
        denoise: Evaluate,
        data: Tensor,
        path: Path,
        sigmas: Sequence[float],
        noise_scale: float = 1.0,
    ) -> Measured:
        """Of data [B, …] in the model's units; ``sigmas`` from noise to data, as for sampling.

        Raises ValueError for fewer than 2 levels above 0 (3 with ``step_error``), data that are not
        finite, or a model without gradient; FloatingPointError if D is not finite on the way.
        """
        if not torch.isfinite(data).all():
            raise ValueError("the data hold NaN or infinite values")
        levels = rising(path, sigmas)
        needed = 3 if self.step_error else 2
        if len(levels) < needed:
            raise ValueError(
                f"sigmas: {needed} different noise levels above 0 are needed, got {len(levels)}"
            )
        x0 = data.float()
        if self.eight_bit:
            normal = PerImageNoise(self.seed)(0, x0)
            x0 = x0 + PIXEL / 2 * torch.erf(normal / math.sqrt(2))  # uniform, ± half a level
        run = Run(self, denoise, path.host, noise_scale)
        nats = run.nats(x0, levels)
        coarse = run.nats(x0, thinned(levels)) if self.step_error else None
        return Measured(self, x0[0].numel(), nats, coarse, tuple(levels), run.evaluations)


def rising(path: Path, sigmas: Sequence[float]) -> list[float]:
    """The noise levels above 0, smallest first. Raises ValueError for levels that turn or repeat."""
    levels = sorted(s for s in sigmas if not s <= 0)
    Points.from_sigmas(path, levels)
    return levels


def thinned(levels: Sequence[float]) -> list[float]:
    """Every second level, and both ends."""
    return [*levels[:-1:2], levels[-1]]


class Run:
    """One measurement: x and log p from σ_0 to σ_T."""

    def __init__(
        self, settings: LogLikelihood, denoise: Evaluate, path: Path, noise_scale: float
    ) -> None:
        self.settings, self.path, self.noise_scale = settings, path, noise_scale
        self.evaluations, self._denoise = 0, denoise
        self._signs: list[Tensor] = []
        by_gradient = settings.derivative == BY_GRADIENT
        self.products: Products = self.backward if by_gradient else self.differences

    def nats(self, data: Tensor, levels: Sequence[float]) -> Tensor:
        """log p(data) in nats, float64 on the CPU: [1, B], or [probes, B] for Hutchinson's estimate."""
        tableau, dims = TABLEAUX[self.settings.method], data[0].numel()
        start, end = self.path.on(levels[0]), self.path.on(levels[-1])
        x, weights, traces = start.alpha * data, [], []
        for low, high in pairwise(levels):
            h = math.log(high / low)
            slopes: list[Tensor] = []
            for c, row, b in zip(tableau.c, tableau.a, tableau.b, strict=True):
                y = x + sum((h * a * k for a, k in zip(row, slopes, strict=True)), 0 * x)
                d, trace = self.traced(y, low * math.exp(c * h))
                slopes.append(y - d)  # dx/d log σ
                weights.append(h * b)
                traces.append(trace)
            x = x + sum((h * b * k for b, k in zip(tableau.b, slopes, strict=True)), 0 * x)
        traced = torch.stack(traces).cpu().double()  # the only number read from the device
        if not traced.isfinite().all() or not torch.isfinite(x).all():
            raise FloatingPointError(
                "D or its derivative is not finite on the way to the noise: the MODEL overflows (try bf16 or fp32 in "
                "Denoiser Settings), or there are too few noise levels"
            )
        change = torch.einsum("k,kpb->pb", torch.tensor(weights).double(), dims - traced)
        variance = (end.alpha * self.settings.data_std) ** 2 + (end.sigma * self.noise_scale) ** 2
        square = x.flatten(1).cpu().double().square().sum(1)
        last = -0.5 * (square / variance + dims * math.log(2 * math.pi * variance))
        return last + change + dims * math.log(start.alpha)

    def traced(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """D(x) and tr ∂D/∂x: [1, B], or one estimate per probe [probes, B]."""
        exact = self.settings.exact(x[0].numel())
        d, parts = self.products(x, sigma, units(x) if exact else self.signs(x))
        products = torch.stack(parts)
        return d, products.sum(0, keepdim=True) if exact else products

    def signs(self, like: Tensor) -> Iterator[Tensor]:
        """Rademacher vectors of every image, the same at every level; kept as int8."""
        if not self._signs:
            draw = PerImageNoise(self.settings.seed)
            self._signs = [draw(1 + i, like).sign().char() for i in range(self.settings.probes)]
        return (v.to(like.dtype) for v in self._signs)

    def backward(
        self, x: Tensor, sigma: float, directions: Iterator[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """vᵀJ by automatic differentiation; the images of a batch do not see one another."""
        with leaf(x) as y:
            d = self.denoise(y, sigma)
            if not d.requires_grad:
                raise ValueError(
                    "derivative = gradient: this MODEL or GUIDER gives D without its gradient; choose differences"
                )
            products = []
            for v in directions:
                (g,) = torch.autograd.grad(d, y, v.to(d), retain_graph=True)
                products.append(inner(g, v))
        return d.detach().to(x.dtype), products

    def differences(
        self, x: Tensor, sigma: float, directions: Iterator[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """vᵀ(D(x + hv) − D(x − hv))/2h, h = σ/100: where D bends, it bends at the scale of σ."""
        h, products = NUDGE * sigma, []
        for v in directions:
            up, down = self.denoise(x + h * v, sigma), self.denoise(x - h * v, sigma)
            products.append(inner(up - down, v) / (2 * h))
        return self.denoise(x, sigma).to(x.dtype), products

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        self.evaluations += 1
        return self._denoise(x, sigma)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ per image: [B]."""
    return (a.detach().float() * b).flatten(1).sum(1)


def units(like: Tensor) -> Iterator[Tensor]:
    """The unit vectors of one image, for all images of a batch."""
    for i in range(like[0].numel()):
        unit = torch.zeros_like(like).flatten(1)
        unit[:, i] = 1
        yield unit.view_as(like)


@dataclass(frozen=True)
class Measured:
    """log p of a batch: ``nats`` [1, B], or [probes, B]; ``coarse`` the same from every second level."""

    settings: LogLikelihood
    dims: int
    nats: Tensor
    coarse: Tensor | None
    levels: tuple[float, ...]
    evaluations: int

    @property
    def log_likelihood(self) -> list[float]:
        """Nats per image."""
        return self.nats.mean(0).tolist()

    @property
    def bits(self) -> list[float]:
        """Bits per dimension, per image."""
        offset = -math.log2(PIXEL) if self.settings.eight_bit else 0.0
        return [offset - nats * self._bits_per_nat for nats in self.log_likelihood]

    @property
    def error(self) -> list[float] | None:
        """Standard error of ``bits`` over the probes; None where the trace is exact or there is one probe."""
        if len(self.nats) < 2:
            return None
        error = self.nats.std(0) / math.sqrt(len(self.nats))
        return (error * self._bits_per_nat).tolist()

    @property
    def step_error(self) -> list[float] | None:
        """What finer steps would still change in ``bits``, by Richardson: |all − half|/(2^order − 1)."""
        if self.coarse is None:
            return None
        change = (self.nats.mean(0) - self.coarse.mean(0)).abs()
        order = TABLEAUX[self.settings.method].order
        return (change * self._bits_per_nat / (2**order - 1)).tolist()

    @property
    def _bits_per_nat(self) -> float:
        return 1 / (self.dims * math.log(2))

    def text(self) -> str:
        exact = self.settings.exact(self.dims)
        columns: dict[str, list[float] | None] = {
            "bits/dim": self.bits, "± trace": self.error, "± steps": self.step_error,
            "log p (nats)": self.log_likelihood,
        }  # fmt: skip
        shown = {name: values for name, values in columns.items() if values is not None}
        rows = [[f"image {i}", *row] for i, row in enumerate(zip(*shown.values(), strict=True))]
        mean = sum(self.bits) / len(self.bits)
        if self.settings.eight_bit:
            of = "Bits of a pixel value of 256 levels, noise within a level added: an upper bound"
        else:
            of = "Density of what the network sees, in its own units (bits/dim may be negative)"
        kind = "exact" if exact else f"Hutchinson, {self.settings.probes} probes"
        how = f"{self.settings.method} on {len(self.levels)} levels, trace {kind} by {self.settings.derivative}"
        return "\n".join(
            (
                text_table(["", *shown], rows),
                f"mean {mean:.4g} bits/dim over {len(rows)} image{'s' * (len(rows) != 1)} of {self.dims} values",
                f"{of}, blurred with σ = {self.levels[0]:.3g}.",
                f"{how}; {self.evaluations} evaluations.",
            )
        )

    def payload(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "bits_per_dim": self.bits,
            "trace_error": self.error,
            "step_error": self.step_error,
            "nats": self.log_likelihood,
            "dims": self.dims,
            "levels": len(self.levels),
            "sigma_min": self.levels[0],
            "sigma_max": self.levels[-1],
            "trace": "exact" if self.settings.exact(self.dims) else "hutchinson",
            "probes": len(self.nats),
            "derivative": self.settings.derivative,
            "eight_bit": self.settings.eight_bit,
            "evaluations": self.evaluations,
        }
