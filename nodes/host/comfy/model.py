"""What a native MODEL says about itself, and clones that say something else.

ComfyUI builds ``model_sampling`` from two base classes: one reads the network's output (EPS, CONST, …),
one holds the noise schedule. Two tables here say what each means; whatever is in neither is unknown.
Nothing is changed in place: overrides are object patches on a clone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.model_sampling as ms
import numpy as np
import torch
from torch import Tensor, nn

from ....schedulers import noise_schedule as schedules
from ....schedulers.measure.compute_dtype import Choice, choose
from ....schedulers.measure.model_facts import ModelFacts, Weights, is_zero_snr, names_of
from ....schedulers.native_schedule import ShiftedCosineVP, VPRange
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.path import VE, VP, Flow
from ....schedulers.points import finite
from ....schedulers.prediction import Prediction

EDM_DATA = 0.5  # σ_data where EDM is asked for and the MODEL states none


# --------------------------------------------------------------------------- the two tables


class Reading:
    """Output class for a prediction that ComfyUI has no class for on this path."""

    sampling_kit_prediction: Prediction

    def calculate_denoised(
        self, sigma: Tensor, model_output: Tensor, model_input: Tensor
    ) -> Tensor:
        host = Flow() if isinstance(self, ms.CONST) else VE()
        return self.sampling_kit_prediction.read(model_output, model_input, host, sigma)


def kinds(*names: str) -> tuple[Any, ...]:
    """ComfyUI's classes of these names. One that it does not have is left out: no MODEL is of that class."""
    return tuple(getattr(ms, name) for name in names if hasattr(ms, name))


_OUTPUTS: dict[str, Callable[[Any], Prediction]] = {
    "EPS": lambda m: Prediction("eps"),
    "V_PREDICTION": lambda m: Prediction("v"),
    "V_PREDICTION_DDPM": lambda m: Prediction("v"),
    "EDM": lambda m: Prediction("edm", float(m.sigma_data)),
    "CONST": lambda m: Prediction("flow"),
    "COSMOS_RFLOW": lambda m: Prediction("flow"),
    "X0": lambda m: Prediction("x0"),
    "IMG_TO_IMG_FLOW": lambda m: Prediction("x0"),
}
#: The class whose ``calculate_denoised`` runs → what it takes the output for.
OUTPUTS: dict[type, Callable[[Any], Prediction]] = {
    Reading: lambda m: m.sampling_kit_prediction,
    **{kind: read for name, read in _OUTPUTS.items() for kind in kinds(name)},
}
#: The other way round, where ComfyUI has a class: (prediction, class of the state) → class.
CLASSES: dict[tuple[str, type], type] = {
    (prediction, state): output
    for prediction, state_name, name in (
        ("eps", "EPS", "EPS"), ("v", "EPS", "V_PREDICTION"), ("edm", "EPS", "EDM"), ("x0", "EPS", "X0"),
        ("flow", "CONST", "CONST"),
    )
    for state in kinds(state_name)
    for output in kinds(name)
}  # fmt: skip
#: Classes that hand the state to the network in a way of their own, kept when only the reading changes.
OWN_INPUT = kinds("COSMOS_RFLOW", "IMG_TO_IMG")


def _continuous(m: Any) -> NoiseSchedule:
    """EDM's own network on VE; others scale their input as on VP."""
    ends = float(m.sigma_min), float(m.sigma_max)
    return schedules.EDM(*ends) if isinstance(m, kinds("EDM")) else VPRange("log", *ends)


_SCHEDULES: tuple[tuple[str, Callable[[Any], NoiseSchedule]], ...] = (
    ("StableCascadeSampling", lambda m: ShiftedCosineVP(float(m.shift), float(m.cosine_s))),
    ("ModelSamplingDiscreteEDM", _continuous),
    ("ModelSamplingDiscrete", lambda m: schedules.Measured(tuple(m.sigmas.double().tolist()))),
    (
        "ModelSamplingContinuousV",
        lambda m: VPRange("angle", float(m.sigma_min), float(m.sigma_max)),
    ),
    # the state stays variance exploding; only what the network sees is divided by 1 + σ
    (
        "ModelSamplingCosmosRFlow",
        lambda m: schedules.EDM(float(m.sigma_min), float(m.sigma_max)),
    ),
    ("ModelSamplingContinuousEDM", _continuous),
    # ModelSamplingAV too: its sound travels scaled onto the video's schedule
    ("ModelSamplingDiscreteFlow", lambda m: schedules.RectifiedFlowSchedule(float(m.shift))),
    ("ModelSamplingFlux", lambda m: schedules.RectifiedFlowSchedule(math.exp(float(m.shift)))),
)
#: Schedule classes, derived ones before their bases → noise schedule.
SCHEDULES = tuple((kind, read) for name, read in _SCHEDULES for kind in kinds(name))


def schedule_of(model: Any) -> NoiseSchedule:
    """The noise schedule of a MODEL. Raises ValueError with the class's name if it is not known."""
    return schedule_in(model.get_model_object("model_sampling"))


def schedule_in(sampling: Any) -> NoiseSchedule:
    """The noise schedule of a ``model_sampling``; ours carry their own."""
    own = getattr(sampling, "sampling_kit_schedule", None)
    if own is not None:
        return own
    for kind, read in SCHEDULES:
        if isinstance(sampling, kind) and not _changes(sampling, kind):
            schedule = read(sampling)
            if isinstance(schedule.path, Flow) == is_flow(sampling):
                return schedule
            break
    raise ValueError(
        f"the Sampling Kit does not know the noise schedule of this MODEL ({names(sampling)}): give it one with a "
        "Denoiser Settings node"
    )


def _changes(sampling: Any, kind: type) -> bool:
    """Whether a class derived from ``kind`` has levels of its own, which are not guessed; a table is read as it is."""
    if kind is ms.ModelSamplingDiscrete:
        return False
    known = (k for k, _ in SCHEDULES if isinstance(sampling, k))
    return not any(type(sampling).sigma is k.sigma for k in known)


def prediction_in(sampling: Any) -> Prediction | None:
    """What a ``model_sampling`` takes the network's output for; None if the class is not known."""
    for kind in type(sampling).__mro__:
        if "calculate_denoised" in vars(kind):
            return OUTPUTS[kind](sampling) if kind in OUTPUTS else None
    return None


def is_flow(sampling: Any) -> bool:
    """Whether the state is (1 − σ)·x0 + σ·noise: of CONST's kind, with CONST's own ``noise_scaling``.

    A class of that kind that starts from something else (IMG_TO_IMG_FLOW, from 0.36 on IMG_TO_IMG_VELOCITY) is not flow.
    """
    return isinstance(sampling, ms.CONST) and type(sampling).noise_scaling is ms.CONST.noise_scaling


def wants_vp(sampling: Any) -> bool:
    """Whether the MODEL takes its state for x_t on VP.

    V_PREDICTION_DDPM (CogVideoX) is written for ComfyUI's VOIDSampler, which keeps that state; every
    other sampler keeps x_t/α = x0 + κ·ε, also on that MODEL.
    """
    return isinstance(sampling, kinds("V_PREDICTION_DDPM"))


def state_for(sampling: Any, x: Tensor, sigma: float) -> Tensor:
    """The state x0 + κ·ε (or flow's) as the MODEL wants it."""
    return x * (1 + sigma * sigma) ** -0.5 if wants_vp(sampling) else x


def names(sampling: Any) -> str:
    """The classes that ``model_sampling`` was put together from."""
    return names_of(_parts(type(sampling)))


STATES = kinds("EPS", "V_PREDICTION_DDPM", "CONST", "COSMOS_RFLOW")


def _parts(kind: type) -> Iterator[type]:
    mixed = issubclass(kind, nn.Module) and issubclass(kind, STATES)
    if not mixed and len(kind.__bases__) < 2:
        yield kind
        return
    for base in kind.__bases__:
        yield from _parts(base)


# ------------------------------------------------------------------------------------- facts


def facts_of(model: Any) -> ModelFacts:
    """What a MODEL says about itself, patches included."""
    sampling, base = model.get_model_object("model_sampling"), model.model
    loaded = model.object_patches_backup.get("model_sampling", base.model_sampling)
    schedule, weights = schedule_in(sampling), Weights.of(base.diffusion_model)
    return ModelFacts(
        sampling=names(sampling),
        prediction=prediction_in(sampling),
        schedule=schedule,
        weights=weights,
        compute=model.get_model_object("manual_cast_dtype") or base.get_dtype(),
        family=tuple(base.model_config.supported_inference_dtypes),
        zero_snr=isinstance(schedule.path, VP) and is_zero_snr(float(sampling.sigma_max)),
        noise_scale=noise_scale(model),
        loaded_sampling=names(loaded),
        loaded_flow=None if hasattr(sampling, "sampling_kit_prediction") else is_flow(loaded),
        clock=times_of(sampling, loaded),
        vp_state=wants_vp(sampling),
    )


def times_of(sampling: Any, loaded: Any) -> tuple[float, float] | None:
    """The time that the network is told at one and the same σ: now, and as the MODEL was loaded. None where either
    does not say or is not flow: other classes (EDM's, by its node) bring the clock that their network knows."""
    if not (is_flow(sampling) and is_flow(loaded)):
        return None
    sigma = torch.tensor([0.5])
    try:
        now, then = (float(s.timestep(sigma)) for s in (sampling, loaded))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None
    return now, then


def noise_scale(model: Any) -> float:
    """Standard deviation of the noise a flow MODEL was trained with."""
    return float(getattr(model.get_model_object("model_sampling"), "noise_scale", 1.0))


# --------------------------------------------------------------------------------- overrides


def relabelled(model: Any, prediction: str | None, schedule: NoiseSchedule | None) -> Any:
    """A clone that reads the output as ``prediction`` and knows ``schedule`` (None: as it is)."""
    old = model.get_model_object("model_sampling")
    if prediction is None and schedule is None:
        return model.clone()
    flow = is_flow(old) if schedule is None else isinstance(schedule.path, Flow)
    claimed = _named(prediction, old, flow)
    clone = model.clone()
    clone.add_object_patch("model_sampling", sampling_for(schedule, claimed, old))
    return clone


def _named(kind: str | None, old: Any, flow: bool) -> Prediction:
    """The prediction by name, or the one the MODEL has. Raises ValueError where that cannot be meant."""
    if kind is not None:
        stated = getattr(old, "sigma_data", EDM_DATA) if isinstance(old, kinds("EDM")) else EDM_DATA
        return Prediction(kind, float(stated))
    known = prediction_in(old)
    if known is None:
        raise ValueError(
            f"prediction: {names(old)} is not known to the Sampling Kit: choose one here"
        )
    if flow != is_flow(old):
        raise ValueError(
            f"prediction: the noise_schedule turns this MODEL ({names(old)}) into "
            f"{'rectified flow' if flow else 'a model that is not flow'}: choose the prediction as well"
        )
    return known


def sampling_for(schedule: NoiseSchedule | None, prediction: Prediction, old: Any = None) -> Any:
    """A ``model_sampling`` for a schedule (None: that of ``old``) and a prediction.

    Times stay what ``old`` calls them where its schedule class can hold the new schedule.
    """
    flow = is_flow(old) if schedule is None else isinstance(schedule.path, Flow)
    base, like = _holder(schedule, old)
    state = ms.CONST if flow else ms.EPS
    if like is not None:
        state = next((kind for kind in OWN_INPUT if isinstance(old, kind)), state)
    output = CLASSES.get((prediction.kind, state))
    outputs = (output,) if output else (Reading, state)
    kind = type(
        "SamplingKitModelSampling", (base, *outputs), {"sampling_kit_prediction": prediction}
    )
    sampling = copy.deepcopy(like) if like is not None else kind()
    sampling.__class__ = kind
    sampling.sigma_data = prediction.sigma_data if prediction.kind == "edm" else 1.0
    if schedule is not None:
        _fill(sampling, schedule)
        sampling.sampling_kit_schedule = schedule
    return sampling


def _holder(schedule: NoiseSchedule | None, old: Any) -> tuple[Any, Any]:
    """The schedule class that can hold ``schedule``, and the old object if it is of that class."""
    own = None if old is None else _schedule_class(old)
    if schedule is None:
        return own or type(old), old
    wanted = _holders(schedule)
    if own is not None and any(issubclass(own, w) and own.sigma is w.sigma for w in wanted):
        return own, old
    return wanted[0], None


def _holders(schedule: NoiseSchedule) -> tuple[Any, ...]:
    """ComfyUI's classes for a schedule, differing in what they call time; the first is the default."""
    if isinstance(schedule, ShiftedCosineVP):
        return (ms.StableCascadeSampling,)
    if isinstance(schedule, VPRange):
        angle = schedule.clock == "angle"
        return (ms.ModelSamplingContinuousV if angle else ms.ModelSamplingContinuousEDM,)
    if isinstance(schedule.path, Flow):
        return ms.ModelSamplingDiscreteFlow, *kinds("ModelSamplingFlux")
    if isinstance(schedule.path, VE):
        others = kinds("ModelSamplingContinuousV", "ModelSamplingCosmosRFlow")
        return ms.ModelSamplingContinuousEDM, *others
    return (ms.ModelSamplingDiscrete,)


def _schedule_class(sampling: Any) -> Any:
    """The part of a ``model_sampling`` that holds the noise schedule."""
    return next(p for p in _parts(type(sampling)) if issubclass(p, nn.Module))


def _fill(sampling: Any, schedule: NoiseSchedule) -> None:
    """Write ``schedule`` into a ``model_sampling`` that can hold it."""
    shift = float(getattr(schedule, "shift", 1.0))
    if isinstance(sampling, kinds("ModelSamplingFlux")):
        sampling.set_parameters(shift=math.log(shift))
    elif isinstance(sampling, kinds("ModelSamplingDiscreteFlow")):
        own = (
            {"audio_shift": sampling.audio_shift}
            if isinstance(sampling, kinds("ModelSamplingAV"))
            else {}
        )
        sampling.set_parameters(shift=shift, multiplier=sampling.multiplier, **own)
    elif isinstance(sampling, kinds("StableCascadeSampling")):
        sampling.set_parameters(shift, getattr(schedule, "offset", 0.008))
    elif isinstance(sampling, kinds("ModelSamplingContinuousEDM")):
        sampling.set_parameters(schedule.kappa_min, schedule.kappa_max, sampling.sigma_data)
    else:
        sampling.set_sigmas(levels(schedule))
        sampling.num_timesteps = len(sampling.sigmas)


def levels(schedule: NoiseSchedule) -> Tensor:
    """κ of a VP schedule as ComfyUI's table: its own timesteps, or 1000."""
    count = int(schedule.t_max) + 1 if schedule.discrete else 1000
    times = np.linspace(schedule.t_min, schedule.t_max, count)
    return torch.tensor(finite(schedule.kappa(times).tolist()))


def compute_choice(model: Any, asked: str) -> Choice:
    """The dtype that Denoiser Settings would choose."""
    stored, device = Weights.of(model.model.diffusion_model).stored, model.load_device
    management = comfy.model_management
    able = {
        torch.float16: management.should_use_fp16(device),
        torch.bfloat16: management.should_use_bf16(device),
    }
    fast = [dtype for dtype, ok in able.items() if ok]
    return choose(asked, stored, model.model.model_config.supported_inference_dtypes, fast)


def latent_space(model: Any) -> tuple[int | None, Callable[[Tensor], Tensor]]:
    """Channels of a MODEL's latents, and LATENT samples → the units the network sees."""
    return model.model.latent_format.latent_channels, model.model.process_latent_in


def in_dtype(model: Any, dtype: torch.dtype | None) -> Any:
    """A clone that computes in ``dtype``; None: in the one it was loaded with.

    Raises ValueError if the network has plain torch layers, whose weights ComfyUI does not cast.
    """
    clone = model.clone()
    if dtype is None:
        clone.set_model_compute_dtype(None)  # makes ComfyUI load the weights afresh
        clone.object_patches.pop("manual_cast_dtype")
        clone.force_cast_weights = False
        return clone
    network = model.model.diffusion_model
    if not getattr(network, "sampling_kit_casts", False):
        fixed = next((m for m in network.modules() if _is_fixed(m, dtype)), None)
        if fixed is not None:
            raise ValueError(
                f"compute dtype: this network has plain torch layers ({type(fixed).__name__} in {fixed.weight.dtype}), which "
                "compute in the dtype they are stored in; load the weights in another dtype instead"
            )
    clone.set_model_compute_dtype(dtype)
    return clone


_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm, nn.Embedding)


def _is_fixed(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a layer's weights stay in a dtype other than the one asked for."""
    weight = getattr(module, "weight", None)
    castable = hasattr(module, "comfy_cast_weights")
    return (
        isinstance(module, _LAYERS)
        and not castable
        and weight is not None
        and weight.dtype != dtype
    )
