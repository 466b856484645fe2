"""What a MODEL is, as a host reads it off, and what does not fit together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..noise_schedule import NoiseSchedule
from ..path import Flow
from ..points import LARGEST_KAPPA, Points
from ..prediction import Prediction
from . import plain

#: Above this κ the state is noise to within 2 %: little is decided there.
MOSTLY_NOISE = 50.0
#: A run may begin here in place of the largest level: the mean of a small picture is not decided yet.
HIGH_ENOUGH = 20.0


@dataclass(frozen=True)
class Weights:
    """Parameters and buffers of a network: how many, how large, in which dtype most of them are."""

    count: int = 0
    bytes: int = 0
    stored: torch.dtype = torch.float32

    @classmethod
    def of(cls, network: nn.Module) -> Weights:
        tensors = [*network.parameters(), *network.buffers()]
        sizes: dict[torch.dtype, int] = {}
        for t in tensors:
            sizes[t.dtype] = sizes.get(t.dtype, 0) + t.numel()
        numbers = {d: n for d, n in sizes.items() if d.is_floating_point} or sizes
        stored = max(numbers, key=lambda d: numbers[d]) if numbers else torch.float32
        return cls(sum(sizes.values()), sum(t.numel() * t.element_size() for t in tensors), stored)


@dataclass(frozen=True)
class ModelFacts:
    """A MODEL as its host describes it.

    sampling: class names; prediction: None if not known; compute: the dtype the network runs in;
    family: those this kind of model is good in; loaded_flow: whether it was flow before somebody
    patched it (None: patched on purpose); vp_state: the MODEL wants x_t, not x0 + κ·ε; clock: the time that the
    network is told at one σ, now and as it was loaded.
    """

    sampling: str
    prediction: Prediction | None
    schedule: NoiseSchedule
    weights: Weights
    compute: torch.dtype
    family: tuple[torch.dtype, ...]
    zero_snr: bool = False
    noise_scale: float = 1.0
    loaded_sampling: str = ""
    loaded_flow: bool | None = None
    vp_state: bool = False
    clock: tuple[float, float] | None = None

    @property
    def flow(self) -> bool:
        return isinstance(self.schedule.path, Flow)

    @property
    def schedule_name(self) -> str:
        return self.schedule.title or type(self.schedule).__name__

    @property
    def shift(self) -> float | None:
        """Time shift of a flow model."""
        return float(getattr(self.schedule, "shift", 1.0)) if self.flow else None

    @property
    def sigma_range(self) -> tuple[float, float]:
        """As SIGMAS shows them."""
        kappas = self.schedule.kappa_max, self.schedule.kappa_min
        high, low = Points(self.schedule.path, kappas).sigmas()
        return low, high

    def payload(self, sigmas: Sequence[float] | None = None) -> dict[str, Any]:
        """Everything as finite JSON, warnings included."""
        low, high = self.sigma_range
        return plain(
            {
                "model_sampling": self.sampling,
                "prediction": None if self.prediction is None else str(self.prediction),
                "path": self.schedule.path.name,
                "schedule": self.schedule_name,
                "sigma_min": low,
                "sigma_max": high,
                "timesteps": int(self.schedule.t_max) + 1 if self.schedule.discrete else None,
                "zero_snr": self.zero_snr,
                "shift": self.shift,
                "noise_scale": self.noise_scale,
                "dtype_stored": self.weights.stored,
                "dtype_compute": self.compute,
                "parameters": self.weights.count,
                "megabytes": self.weights.bytes / 2**20,
                "steps": None if sigmas is None else steps_facts(sigmas),
                "warnings": list(misfits(self, sigmas)),
            }
        )

    def report(self, sigmas: Sequence[float] | None = None) -> str:
        """The same for people."""
        facts = self.payload(sigmas)
        steps, warnings = facts.pop("steps"), facts.pop("warnings")
        rows = {k: v for k, v in {**facts, **(steps or {})}.items() if v is not None}
        width = max(map(len, rows))
        lines = [f"{k.replace('_', ' '):{width}}  {_text(v)}" for k, v in rows.items()]
        lines += [f"WARNING: {w}" for w in warnings] or ["no misfit found"]
        return "\n".join(lines)


def steps_facts(sigmas: Sequence[float]) -> dict[str, Any]:
    """Number of steps, first, last and smallest non-zero noise level."""
    positive = [s for s in sigmas if s > 0]
    return {
        "steps": max(len(sigmas) - 1, 0),
        "steps_first": sigmas[0] if len(sigmas) else None,
        "steps_last": sigmas[-1] if len(sigmas) else None,
        "steps_smallest": min(positive, default=None),
    }


def misfits(facts: ModelFacts, sigmas: Sequence[float] | None = None) -> Iterator[str]:
    """Sentences about what will probably not give the picture that was wanted."""
    kind = facts.prediction.kind if facts.prediction else None
    if kind is None:
        yield (
            f"the prediction of {facts.sampling} is not known: find it with Check Prediction Type and "
            "set it with Denoiser Settings"
        )
    if facts.zero_snr and kind in ("eps", "score"):
        yield (
            f"{kind} prediction with zero terminal SNR: at the first step the output says nothing about x0; "
            "the checkpoint is probably v prediction, or its noise schedule is not zero SNR"
        )
    if facts.vp_state:
        yield (
            "V_PREDICTION_DDPM is made for ComfyUI's VOIDSampler, whose state is divided by √(σ² + 1); our solvers "
            "divide it too, but KSampler and other samplers do not and are wrong: for those, and for noise masks, "
            "put Denoiser Settings with prediction v before them"
        )
    if facts.loaded_flow is not None and facts.loaded_flow != facts.flow:
        yield (
            f"the model was loaded as {facts.loaded_sampling} and patched to {facts.sampling}: "
            "one is rectified flow and the other is not, so the network sees inputs and times it does not know"
        )
    yield from _clock_misfits(facts)
    yield from _dtype_misfits(facts)
    if sigmas is not None:
        yield from _step_misfits(facts, [float(s) for s in sigmas])


def _clock_misfits(facts: ModelFacts) -> Iterator[str]:
    """A patched clock: ModelSamplingSD3 counts 0 … 1000, ModelSamplingAuraFlow and Flux 0 … 1."""
    if facts.clock is None:
        return
    now, loaded = facts.clock
    if loaded == 0 or 0.5 < abs(now / loaded) < 2:
        return
    much = "too large" if abs(now) > abs(loaded) else "too small"
    factor = max(abs(now / loaded), abs(loaded / now) if now else math.inf)
    yield (
        f"a patch changed the model's clock: at σ = 0.5 the network is told the time {now:.4g}, and knows that level as "
        f"{loaded:.4g}: {factor:.4g} times {much}. Shift it with the node for its family (ModelSamplingSD3 counts to 1000, "
        "ModelSamplingAuraFlow and ModelSamplingFlux to 1), or shift the steps"
    )


def steps_of_flow(flow: bool, sigmas: Sequence[float], high: float) -> bool:
    """Whether steps for a model that is not flow, whose largest σ is ``high``, look as if they were made for flow: from
    exactly 1 down to 0."""
    return (
        not flow and len(sigmas) > 2 and high > 2 and abs(sigmas[0] - 1) < 1e-4 and sigmas[-1] == 0
    )


def _dtype_misfits(facts: ModelFacts) -> Iterator[str]:
    if facts.compute != torch.float16:
        return
    if facts.weights.stored == torch.bfloat16:
        yield "weights stored in bf16 compute in fp16: activations may overflow; use bf16 or fp32"
    elif torch.float16 not in facts.family:
        yield "this kind of model was trained in bf16 and computes in fp16: activations may overflow"


def _step_misfits(facts: ModelFacts, sigmas: list[float]) -> Iterator[str]:
    low, high = facts.sigma_range
    if len(sigmas) < 2:
        yield f"SIGMAS holds {len(sigmas)} levels: nothing will be sampled"
        return
    if sigmas[0] > high * 1.001:
        yield (
            f"the steps start at σ = {sigmas[0]:.5g}, above the largest the model knows, {high:.5g}: "
            "they were made for another model"
        )
    try:
        points = Points.from_sigmas(facts.schedule.path, sigmas)
    except ValueError as error:
        yield str(error)
        return
    if points.rising:
        return
    if steps_of_flow(facts.flow, sigmas, high):
        yield (
            f"the steps run from exactly 1 to 0, as a flow model's; this one is not flow and starts at σ = {high:.4g}: the "
            "picture will be washed out. Make the steps from this MODEL's noise schedule"
        )
    top = min(0.9 * facts.schedule.kappa_max, HIGH_ENOUGH)
    if points.kappas[0] < top and sigmas[0] < 0.98 * high:
        yield (
            f"the steps start at σ = {sigmas[0]:.5g}, below the model's largest, {high:.5g}: right for img2img and "
            "the second part of a split run; from an empty latent the result is dull and grey"
        )
    if sigmas[-1] != 0:
        yield f"the steps end at σ = {sigmas[-1]:.4g}, not at 0: noise is left in the result, unless another run takes over"
    smallest = min(s for s in sigmas if s > 0)
    if smallest < 0.5 * low:
        yield f"the smallest step σ = {smallest:.3g} is below what the model was trained on, {low:.3g}"
    noisy = sum(k > MOSTLY_NOISE for k in points.kappas[:-1])
    if not facts.flow and noisy > max(1, len(sigmas) // 3):
        yield (
            f"{noisy} of {len(sigmas) - 1} steps lie above σ = {MOSTLY_NOISE:g}, where little is decided: "
            f"{'usual for Karras steps on zero SNR; ' if facts.zero_snr else ''}use trailing or uniform λ steps"
        )
    if facts.flow:
        yield from _shift_misfits(facts.shift or 1.0, points.kappas)


def _shift_misfits(shift: float, kappas: Sequence[float]) -> Iterator[str]:
    by_steps = step_shift(kappas)
    if by_steps is None or abs(math.log(by_steps / shift)) < 0.05:
        return
    twice = abs(math.log(by_steps / shift**2)) < 0.05
    yield (
        f"the steps are shifted by {by_steps:.3g} and the MODEL by {shift:.3g}: "
        + (
            f"the shift of {shift:.3g} was applied twice; shift either the MODEL or the steps"
            if twice
            else "one of the two is not meant; the steps count, the MODEL's only makes steps"
        )
    )


def step_shift(kappas: Sequence[float]) -> float | None:
    """The s for which these steps are evenly spaced in time and shifted by s, or None if they are not.

    Evenly spaced means t_i = 1 − i/n (trailing, ComfyUI's simple) or n values from 1 to 0.001 and then 0.
    A shift multiplies κ = t/(1 − t) by s, so κ_i·(1 − t_i)/t_i is s at every inner step.
    """
    n = len(kappas) - 1
    if n < 3 or kappas[-1] != 0:
        return None
    grids = (1 - np.arange(n) / n, np.linspace(1, 1e-3, n))
    for t in grids:
        inner = slice(1, n - (t[-1] < 0.5 / n))
        ratio = np.array(kappas[:n])[inner] * (1 - t[inner]) / t[inner]
        if len(ratio) > 1 and ratio.min() > 0 and ratio.max() / ratio.min() < 1.06:
            return float(np.exp(np.log(ratio).mean()))
    return None


def is_zero_snr(kappa_max: float) -> bool:
    """Whether a VP table ends at (ComfyUI's stand-in for) pure noise."""
    return kappa_max > 0.99 * LARGEST_KAPPA


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def names_of(kinds: Iterable[type]) -> str:
    """Class names, joined."""
    return " + ".join(kind.__name__ for kind in kinds)
