"""A denoiser with something about it changed: the dtype it computes in, or how its output is read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from ..noise_schedule import NoiseSchedule
from ..path import Flow, Path
from ..prediction import Number, Prediction
from .base import Denoiser


def call_in(dtype: torch.dtype, denoiser: Denoiser, x: Tensor, *inputs: object) -> Tensor:
    """``denoiser(x, *inputs)`` with weights and x in ``dtype``; the result in x's own dtype.

    The denoiser itself is left as it is: its weights are cast for the call. σ and time stay float32.
    """
    tensors = {**dict(denoiser.named_parameters()), **dict(denoiser.named_buffers())}
    cast = {k: t.to(dtype) for k, t in tensors.items() if t.is_floating_point()}
    return functional_call(denoiser, cast, (x.to(dtype), *inputs)).to(x.dtype)


class InDtype(Denoiser):
    """``inner`` computing in ``dtype``; x and D keep the dtype the solver uses."""

    def __init__(self, inner: Denoiser, dtype: torch.dtype) -> None:
        super().__init__(inner.path, inner.shape, inner.classes)
        self.inner, self.dtype = inner, dtype

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        return call_in(self.dtype, self.inner, x, sigma, classes)


class Relabelled(Denoiser):
    """``inner`` seen as a network that outputs ``network`` and was trained with ``trained``, run as
    if it were a ``reading`` network of ``schedule``: what a mislabelled checkpoint does.

    With ``raw`` it returns the output itself. Where nothing is mislabelled it equals ``inner``.
    Times of two schedules are matched as fractions of their ranges.
    """

    def __init__(
        self,
        inner: Denoiser,
        network: Prediction,
        trained: NoiseSchedule,
        reading: Prediction,
        schedule: NoiseSchedule,
        raw: bool = False,
    ) -> None:
        super().__init__(schedule.path.host, inner.shape, inner.classes)
        self.inner, self.network, self.trained = inner, network, trained
        self.reading, self.schedule, self.raw = reading, schedule, raw

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        sigma = float(sigma)
        seen = self._trained_sigma(sigma)
        size = input_scale(self.path, self.reading, sigma) / input_scale(
            self.inner.path, self.network, seen
        )
        scaled = x * size
        out = self.network.write(self.inner(scaled, seen, classes), scaled, self.inner.path, seen)
        return out if self.raw else self.reading.read(out, x, self.path, sigma)

    def _trained_sigma(self, sigma: float) -> float:
        """The σ that the network takes its time for, in its own host's coordinates."""
        if self.schedule == self.trained:
            return sigma
        t = float(self.schedule.time(self.path.on(sigma).kappa))
        if self.schedule.discrete and self.trained.discrete:
            fraction = t  # whole timesteps mean the same in every table
        else:
            fraction = t * self.trained.t_max / self.schedule.t_max
        return self.inner.path.at(float(self.trained.kappa(fraction))).sigma


def input_scale(host: Path, prediction: Prediction, sigma: Number) -> Number:
    """What the state is multiplied with before a network sees it: 1 on flow, 1/√(σ² + σ_data²) else."""
    if isinstance(host, Flow):
        return 1.0
    s = prediction.sigma_data if prediction.kind == "edm" else 1.0
    return 1 / (sigma * sigma + s * s) ** 0.5
