"""Points: the noise levels one run visits, on a path, checked once, in float64.

ComfyUI writes them as SIGMAS, a float32 tensor of the host path's σ (κ for every model that is not
flow, t for flow). :meth:`Points.from_sigmas` and :meth:`Points.sigmas` translate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property

from .path import VE, Flow, Path, Point

#: ComfyUI's finite stand-in for κ = ∞ in a zero-terminal-SNR table (ᾱ_T = 4.897e-8).
LARGEST_KAPPA = math.sqrt(1 / 4.8973451890853435e-08 - 1)


@dataclass(frozen=True)
class Points:
    """Noise levels on ``path``, as κ = σ/α: strictly falling (sampling) or strictly rising (inversion).

    Raises ValueError for NaN, negative, repeated or unordered levels, naming position and value.
    """

    path: Path
    kappas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kappas", tuple(float(k) for k in self.kappas))
        for i, kappa in enumerate(self.kappas):
            if not kappa >= 0:
                raise ValueError(f"noise level {i} is {kappa}: levels must be numbers, 0 or larger")
        steps = [b - a for a, b in zip(self.kappas, self.kappas[1:], strict=False)]
        wrong = next((i for i, d in enumerate(steps) if not d * steps[0] > 0), None)
        if wrong is not None:
            a, b = (self.host_sigma(k) for k in (wrong, wrong + 1))
            raise ValueError(
                f"noise levels {wrong} and {wrong + 1} are σ = {a:.6g} and {b:.6g}: a run must go strictly "
                "down (or, to invert, strictly up), without repeats or turns"
            )

    @classmethod
    def from_sigmas(cls, path: Path, sigmas: Iterable[float]) -> Points:
        """From ComfyUI's SIGMAS, for a model whose noise schedule lies on ``path``."""
        return cls(path, tuple(_kappa(path.host, float(s)) for s in sigmas))

    def sigmas(self) -> list[float]:
        """ComfyUI's SIGMAS; pure noise on VP (κ = ∞) becomes a finite value, see :func:`finite`."""
        return host_sigmas(self.path, self.kappas)

    def on(self, path: Path) -> Points:
        """The same noise levels in another path's coordinates."""
        return Points(path, self.kappas)

    @property
    def host(self) -> Points:
        """The same noise levels in the coordinates ComfyUI keeps its state in."""
        return self.on(self.path.host)

    def host_sigma(self, index: int) -> float:
        """The noise level at ``index`` as SIGMAS shows it; ∞ for pure noise on a path that is not flow."""
        kappa, host = self.kappas[index], self.path.host
        return kappa if isinstance(host, VE) else host.at(kappa).sigma

    @property
    def rising(self) -> bool:
        """Whether the run goes from data to noise."""
        return len(self) > 1 and self.kappas[1] > self.kappas[0]

    @cached_property
    def _points(self) -> tuple[Point, ...]:
        return tuple(self.path.at(k) for k in self.kappas)

    def __len__(self) -> int:
        return len(self.kappas)

    def __getitem__(self, index: int) -> Point:
        return self._points[index]

    @property
    def steps(self) -> Sequence[tuple[Point, Point]]:
        """(from, to) for every step of the run."""
        return tuple(zip(self._points, self._points[1:], strict=False))


def require_run(sigmas: Sized, name: str = "sigmas") -> None:
    """Raises ValueError, which names the input, for SIGMAS without a step."""
    if len(sigmas) < 2:
        raise ValueError(
            f"{name}: a run has 2 levels or more, got {len(sigmas)}; connect those of a scheduler, such as Steps"
        )


def finite(kappas: Sequence[float]) -> list[float]:
    """κ with ∞ replaced by the value ComfyUI uses, or by twice the largest other one if that is more."""
    largest = max((k for k in kappas if math.isfinite(k)), default=0.0)
    return [k if math.isfinite(k) else max(LARGEST_KAPPA, 2 * largest) for k in kappas]


def _kappa(host: Path, sigma: float) -> float:
    if not sigma >= 0 or math.isinf(sigma):
        raise ValueError(f"SIGMAS holds {sigma}: noise levels must be finite numbers, 0 or larger")
    if isinstance(host, Flow) and sigma > 1 + 1e-6:
        raise ValueError(
            f"SIGMAS holds {sigma:.6g}: on a flow model noise levels end at 1; these were made for another model"
        )
    return host.on(sigma).kappa


def host_sigmas(path: Path, kappas: Sequence[float]) -> list[float]:
    """The σ that ComfyUI's SIGMAS carry for levels of a schedule on ``path``; ∞ becomes finite, see :func:`finite`."""
    host = path.host
    return [host.at(k).sigma for k in (finite(kappas) if host == VE() else kappas)]
