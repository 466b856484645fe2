"""MODEL without ComfyUI: a denoiser called directly, no weight patches, no memory management."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ....schedulers.denoiser import Denoiser, latent
from ....schedulers.denoiser.diffusers import DiffusersDenoiser, Latents
from ....schedulers.denoiser.wrap import InDtype, Relabelled
from ....schedulers.guidance import COND, UNCOND
from ....schedulers.measure import DTYPES
from ....schedulers.measure.compute_dtype import Choice, choose
from ....schedulers.measure.model_facts import ModelFacts, Weights, is_zero_snr
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.path import VP, Flow
from ....schedulers.prediction import Prediction, usual
from ....schedulers.size_shift import SizedFlow
from ..conditioning import Conditioning, class_weights
from ..diffusers_conditioning import from_conditioning
from ..latent_layout import LatentLayout, dtypes_of, layout_of, sized_flow_of
from . import places


@dataclass(frozen=True)
class Model:
    """MODEL: a denoiser in the coordinates of ``trained.path.host``, and what it is taken for.

    ``network`` says what the denoiser, seen as a network, outputs. ``claimed`` and ``claimed_schedule``
    stand for what ComfyUI's ``model_sampling`` says, right or wrong; ``raw``: return the output itself;
    ``latents``: how what comes over the LATENT wire becomes what the denoiser sees.
    """

    inner: Denoiser
    trained: NoiseSchedule
    network: Prediction
    claimed: Prediction | None = None
    claimed_schedule: NoiseSchedule | None = None
    dtype: torch.dtype | None = None
    raw: bool = False
    latents: Latents = field(default_factory=Latents)

    @property
    def schedule(self) -> NoiseSchedule:
        return self.claimed_schedule or self.trained

    @property
    def prediction(self) -> Prediction:
        return self.claimed or self.network

    @cached_property
    def denoiser(self) -> Denoiser:
        """D(x, σ) in the coordinates of ``schedule.path.host``, with everything above applied."""
        inner = self.inner if self.dtype is None else InDtype(self.inner, self.dtype)
        honest = (self.network, self.trained) == (self.prediction, self.schedule)
        if honest and not self.raw:
            return inner
        claims = self.prediction, self.schedule
        return Relabelled(inner, self.network, self.trained, *claims, raw=self.raw)

    def condition(self, name: str, cond: Conditioning, batch: int | None) -> Any:
        """What the denoiser takes for a CONDITIONING, with ``batch`` rows (None: its own), on the device."""
        context, extra = cond[0]
        if not isinstance(self.inner, DiffusersDenoiser):
            return repeat_to(class_weights(context, self.inner.classes), batch)
        where = {COND: "positive", UNCOND: "negative"}.get(name, name)
        tensors = from_conditioning(self.inner, context, extra, where)
        return {key: repeat_to(value, batch) for key, value in tensors.items()}

    def latent_in(self, latent: Tensor) -> Tensor:
        """A LATENT as the denoiser sees it; an empty one (zeros) stays empty, as in ComfyUI."""
        return self.latents.from_vae(latent) if bool(latent.count_nonzero()) else latent


def repeat_to(rows: Tensor | None, batch: int | None) -> Tensor | None:
    """Rows [B, …] repeated or cut to ``batch`` (None: as they are), as ComfyUI does with conditionings."""
    if rows is None or batch is None:
        return None if rows is None else rows.to(places.device())
    times = -(-batch // len(rows))
    return rows.repeat(times, *(1,) * (rows.ndim - 1))[:batch].to(places.device())


def make_model(
    build: Callable[[Any], Denoiser], schedule: NoiseSchedule, prediction: Prediction | None = None
) -> Model:
    """MODEL from ``build(path)`` → denoiser, a network that outputs ``prediction`` (default: the usual)."""
    denoiser = build(schedule.path.host).eval().requires_grad_(False)
    return Model(denoiser, schedule, prediction or usual(schedule.path))


def make_diffusers(network: DiffusersDenoiser, vae: str, again: Any) -> Model:
    """MODEL of a denoiser from a diffusers folder."""
    trained = network.trained
    path = trained.noise_schedule.path.host
    latents = network.latents or Latents()
    return Model(
        network.using(path=path), trained.noise_schedule, trained.prediction, latents=latents
    )


def latent_layout(model: Model) -> LatentLayout:
    """Of any MODEL."""
    network = model.inner
    if isinstance(network, DiffusersDenoiser):
        return layout_of(network)
    if isinstance(network, latent.InLatents):
        return LatentLayout(latent.CHANNELS, spatial=latent.RATIO)
    return LatentLayout(3, spatial=1)  # the shipped models draw pixels


def schedule_of(model: Any) -> NoiseSchedule:
    if not isinstance(model, Model):
        raise TypeError(f"expected a MODEL, got {type(model).__name__}")
    return model.schedule


def sized_flow(model: Any) -> SizedFlow | None:
    """The MODEL's schedule where its shift depends on the size."""
    return sized_flow_of(model.inner)


def facts_of(model: Any) -> ModelFacts:
    """What a MODEL says about itself."""
    schedule = schedule_of(model)
    weights = Weights.of(model.inner)
    return ModelFacts(
        sampling=type(schedule).__name__,
        prediction=model.prediction,
        schedule=schedule,
        weights=weights,
        compute=model.dtype or weights.stored,
        family=_family(model),
        zero_snr=isinstance(schedule.path, VP) and is_zero_snr(schedule.kappa_max),
        loaded_sampling=type(model.trained).__name__,
        loaded_flow=isinstance(model.trained.path, Flow),
    )


def noise_scale(model: Model) -> float:
    """Standard deviation of the noise a flow MODEL was trained with."""
    return 1.0


def relabelled(model: Model, prediction: str | None, schedule: NoiseSchedule | None) -> Model:
    """A MODEL whose output is read as ``prediction`` and that knows ``schedule`` (None: as it is)."""
    path = schedule_of(model).path
    if prediction is None and schedule is not None:
        flow = isinstance(schedule.path, Flow)
        if flow != isinstance(path, Flow):
            raise ValueError(
                f"prediction: the noise_schedule turns this MODEL into {'rectified flow' if flow else 'a model that is not flow'}: "
                "choose the prediction as well"
            )
    if prediction is not None:
        known = model.prediction if model.prediction.kind == "edm" else Prediction("edm")
        model = replace(model, claimed=Prediction(prediction, known.sigma_data))
    return model if schedule is None else replace(model, claimed_schedule=schedule)


def compute_choice(model: Model, asked: str) -> Choice:
    """The dtype that Denoiser Settings would choose."""
    cuda = places.device().type == "cuda"
    fast = [torch.float16] * cuda + [torch.bfloat16] * (cuda and torch.cuda.is_bf16_supported())
    return choose(asked, Weights.of(model.inner).stored, _family(model), fast)


def _family(model: Model) -> tuple[torch.dtype, ...]:
    """The dtypes its network computes well in."""
    network = model.inner
    return tuple(dtypes_of(network) if isinstance(network, DiffusersDenoiser) else DTYPES.values())


def in_dtype(model: Model, dtype: torch.dtype | None) -> Model:
    """A MODEL that computes in ``dtype``; None: in the one it was loaded with."""
    return replace(model, dtype=dtype)


def latent_space(model: Model) -> tuple[int | None, Callable[[Tensor], Tensor]]:
    """Channels of a MODEL's latents (None: any), and LATENT samples → the units the network sees."""
    schedule_of(model)
    shape = model.inner.shape
    return (None if shape is None else shape[0]), model.latents.from_vae


def raw_output(model: Model) -> Model:
    """A MODEL whose D is the network's output itself."""
    return replace(model, raw=True)
