"""Traced runs without ComfyUI; see ``comfy/traced.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....schedulers.measure.trace import View
from ....schedulers.path import Path
from ....schedulers.several_levels import answered, by_level
from ....schedulers.solver import Solver
from ....schedulers.split import Stepped
from ..trace_watch import StandIn, Watch, label, stochastic, together
from . import places
from .guider import Guider
from .sampler import Callback, Sampler, solver_of


class Asked(StandIn):
    """A guider whose denoiser tells a recorder of every evaluation."""

    def __init__(self, guider: Guider, watched: Callable[[Any], Any]) -> None:
        super().__init__(guider)
        object.__setattr__(self, "_watched", watched)

    def denoiser(self, batch: int) -> Any:
        return self._watched(self._real.denoiser(batch))

    def denoisers(self, batch: int) -> Any:
        """Several levels stay one call of the network, of which each level is told as an evaluation."""
        plain, several = self._real.denoisers(batch)

        def every(x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
            d = several(x, sigmas)

            def told(rows: slice, sigma: float) -> Tensor:
                out: Tensor = self._watched(lambda part, level: d[rows])(x[rows], sigma)
                return out

            return answered(by_level(len(x), sigmas, batch), told)

        return self._watched(plain), every


@dataclass(frozen=True)
class Traced:
    """The SAMPLER ``inner``, whose runs are recorded; what they draw is the same bit for bit."""

    inner: Any
    watch: Watch

    def sample(
        self, guider: Guider, sigmas: list[float], noise: Tensor, latent: Tensor,
        callback: Callback | None, seed: int,
    ) -> Tensor:  # fmt: skip
        path, run, solver = path_of(guider), guider.run, solver_of(self.inner)
        assert run is not None
        ours = isinstance(solver, Solver)
        run.probe = True

        recorder = self.watch.begin(path, sigmas, run.numbers_at)

        def told(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            if not ours:
                recorder.step(x0)
            if callback is not None:
                with recorder.aside():
                    callback(step, x0, x, total)

        inner = self.inner
        if isinstance(solver, Solver):
            inner = Sampler(Stepped(solver, recorder.progress, recorder.passed))
        asked: Any = Asked(guider, recorder.watched)
        out: Tensor = inner.sample(asked, sigmas, noise, latent, told, seed)
        end = out * path.on(sigmas[-1]).alpha  # a flow LATENT is x/α
        guider.run = guider.new_run(sigmas)  # whose evaluations do not count in the report
        try:
            with torch.no_grad():
                self.watch.trace = recorder.finish(
                    end, sampler_name(self), seed, guider.denoiser(len(end)), stochastic=stochastic(solver),
                    view=View(guider.model.latents.to_vae), together=together(solver, len(end)),
                )  # fmt: skip
        finally:
            guider.run = run
        return out


def path_of(guider: Guider) -> Path:
    """The path of a GUIDER's states, a host's."""
    return guider.model.schedule.path.host


def traced(sampler: Any, watch: Watch) -> Traced:
    """SAMPLER that does what ``sampler`` does and leaves a trace of each run in ``watch``."""
    return Traced(sampler, watch)


def untraced(sampler: Any) -> Any:
    """The SAMPLER inside of any number of traces."""
    while isinstance(sampler, Traced):
        sampler = sampler.inner
    return sampler


def sampler_name(sampler: Any) -> str:
    """What a SAMPLER is called, and what is set in it."""
    sampler = untraced(sampler)
    return label(solver_of(sampler), type(sampler).__name__)


def as_latent(view: View, x: Tensor, like: dict[str, Any]) -> dict[str, Any]:
    """LATENT of x in the denoiser's units, and with the rest of the LATENT ``like``."""
    return {**like, "samples": view.to_latent(x)}


def run_sampler(
    noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any]
) -> dict[str, Any]:
    """The LATENT that SamplerCustomAdvanced makes, counted and with progress as there."""
    drawn, start = noise.generate_noise(latent), latent["samples"]
    tell = places.progress(len(sigmas) - 1)
    tell(0, "")

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        tell(step + 1, "")

    samples = guider.sample(
        drawn, start, sampler, sigmas, latent.get("noise_mask"), callback=callback, seed=noise.seed
    )
    places.ran(guider, sampler, sigmas.tolist())
    ratios = "downscale_ratio_spacial", "downscale_ratio_temporal"
    return {k: v for k, v in latent.items() if k not in ratios} | {"samples": samples}
