"""The host's part without ComfyUI: MODEL, GUIDER and SAMPLER that mean what ComfyUI's mean.

Only what the headless runner needs: a denoiser called directly, no weight patches, no memory
management. The duck types are ComfyUI's, so the stand-ins of its core nodes read the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ....schedulers.denoiser import Denoiser, latent
from ....schedulers.denoiser.diffusers import DiffusersDenoiser, Latents, lead
from ....schedulers.denoiser.parts import CudaMemory, InParts
from ....schedulers.denoiser.wrap import InDtype, Relabelled
from ....schedulers.guidance import (
    COND,
    UNCOND,
    WEAK,
    Guidance,
    GuidanceRun,
)
from ....schedulers.guidance.networks import BranchNetworks
from ....schedulers.measure import DTYPES, Evaluate
from ....schedulers.measure.compute_dtype import Choice, choose
from ....schedulers.measure.model_facts import ModelFacts, Weights, is_zero_snr
from ....schedulers.noise import PerImageNoise
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.path import VP, Flow
from ....schedulers.points import Points
from ....schedulers.prediction import Prediction, usual
from ....schedulers.sample import noised, require_latent, sample
from ....schedulers.size_shift import SizedFlow
from ....schedulers.solver import Progress, Run, Solver
from ....schedulers.split import Part, Stepped
from ..conditioning import Conditioning, class_weights
from ..diffusers_conditioning import from_conditioning
from ..guidance_wire import Holder, conclude, one_condition, placed
from ..latent_layout import LatentLayout, dtypes_of, layout_of, sized_flow_of

Callback = Callable[[int, Tensor, Tensor, int], None]
T = TypeVar("T")

_device = torch.device("cpu")


class ComfyExtension:
    """Base of the pack's extension object; only ComfyUI makes one."""


def add_route(path: str, answer: Callable[[bytes], tuple[int, dict[str, Any]]], most: int) -> None:
    """Only ComfyUI has a web server."""


def set_device(name: str) -> str:
    """Choose where models run: cpu, cuda, mps or auto. Returns the choice; ValueError if absent."""
    global _device
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if found[n])
    if not found.get(name.split(":")[0], False):
        here = ", ".join(n for n, there in found.items() if there)
        raise ValueError(f"device {name!r} is not available here; found: {here}")
    _device = torch.device(name)
    return name


_at_once: int | None = None


def set_images_at_once(count: int | None) -> None:
    """The most images a network takes in one call; None: what fits into a GPU's memory, else all."""
    global _at_once
    _at_once = count


def in_parts(network: Callable[..., Tensor]) -> InParts:
    memory = CudaMemory(_device) if _device.type == "cuda" else None
    return InParts(network, _at_once, memory)


_folder: Callable[[str], Path] = Path  # here, until the runner says where


def set_folders(find: Callable[[str], Path]) -> None:
    """Say where the folders "input" and "output" of the run that is going on are."""
    global _folder
    _folder = find


def folder(kind: str) -> Path:
    """The folder "input", "output" or "models" of the run that is going on."""
    return _folder(kind)


@dataclass(frozen=True)
class Patcher:
    """Stands for ComfyUI's ModelPatcher: a module that is on the device only while it is used."""

    model: nn.Module

    @property
    def load_device(self) -> torch.device:
        return _device


def patcher(module: nn.Module, kind: str, keep: bool = True) -> Patcher:
    """A handle on a "vae" or "text_encoder" for :func:`loaded`. Nothing takes its weights away here."""
    return Patcher(module)


@contextmanager
def loaded(patcher: Patcher, memory: int = 0) -> Iterator[torch.device]:
    """The module on the device inside the block, back on the CPU after it; yields the device."""
    patcher.model.to(_device)
    try:
        yield _device
    finally:
        patcher.model.to("cpu")


ABSOLUTE_FOLDERS = True  # who runs a workflow here also writes it


def model_folders(kind: str) -> list[Path]:
    """The folders for models of a kind; none outside of a run."""
    if _folder is Path:
        return []
    try:
        return [folder("models") / kind]
    except LookupError:
        return []


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


def make_model(
    build: Callable[[Any], Denoiser], schedule: NoiseSchedule, prediction: Prediction | None = None
) -> Model:
    """MODEL from ``build(path)`` → denoiser, a network that outputs ``prediction`` (default: the usual)."""
    denoiser = build(schedule.path.host).eval().requires_grad_(False)
    return Model(denoiser, schedule, prediction or usual(schedule.path))


def compute_device() -> str:
    """The kind of device that MODELs run on: "cuda", "cpu", …"""
    return _device.type


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
    cuda = _device.type == "cuda"
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


def probe(
    model: Model | Guider, positive: Conditioning | None, latent: dict[str, Any], look: Callable[[Tensor, Evaluate], T]
) -> T:  # fmt: skip
    """``look(x0, D)``: x0 the latent, D the MODEL under ``positive``, or a GUIDER's."""
    if isinstance(model, Guider):
        guider = probed(model, None)
    else:
        guider = make_guider(model, {COND: positive or [[None, {}]]}, Guidance())
    x0 = guider.model.latent_in(latent["samples"].to(_device, torch.float32))
    with torch.inference_mode():
        return look(x0, guider.denoiser(len(x0)))


def model_of(value: Any) -> Any:
    """The MODEL of a GUIDER; anything else as it is."""
    return value.model if isinstance(value, Guider) else value


class Guider:
    """GUIDER: conditionings by branch and a guidance chain over a model, and the model of ``weak``."""

    holder: Holder | None = None
    run: GuidanceRun | None = None

    def __init__(
        self, model: Model, conds: Mapping[str, Conditioning], guidance: Guidance,
        weak: Model | None = None, share_pure_noise: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.conds, self.guidance = model, conds, guidance
        self.weak_model, self.share_pure_noise = weak, share_pure_noise

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Sample from noise and latent_image [B, …] over SIGMAS; returns the final state, on the CPU."""
        if denoise_mask is not None:
            raise ValueError("a noise mask on the LATENT is supported inside ComfyUI only")
        self.run = self.new_run(sigmas.tolist())
        if len(sigmas):
            latent_image = self._sample(noise, latent_image, sampler, sigmas, callback, seed or 0)
        conclude(self.run, self.holder)
        return latent_image

    def _sample(
        self,
        noise: Tensor,
        latent: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        show: Callback | None,
        seed: int,
    ) -> Tensor:
        """From the LATENT wire to the denoiser's units and back."""
        latents, first = self.model.latents, lead.lead_of(self.model.inner, latent)

        def report(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            if show is not None:
                show(step, latents.to_vae(lead.without(x0, first)), lead.without(x, first), total)

        start = self.model.latent_in(latent)
        if first:
            noise, start = lead.start(noise, start, first, seed)
        out = sampler.sample(self, sigmas.tolist(), noise, start, report, seed)
        return latents.to_vae(lead.without(out, first))

    def new_run(self, sigmas: Sequence[float]) -> GuidanceRun:
        share, probe = self.share_pure_noise, self.holder is not None
        path = self.model.schedule.path
        return self.guidance.begin(path, sigmas, share_pure_noise=share, probe=probe)

    def denoiser(self, batch: int) -> Callable[[Tensor, float], Tensor]:
        """D(x, σ) of the run for ``batch`` images, with the conditionings made ready once."""
        run = self.run or self.new_run([])
        branches = self.branches(batch)

        def evaluate(x: Tensor, sigma: float, names: Sequence[str]) -> dict[str, Tensor]:
            return branches(x, sigma, names, None)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            if not run.records:
                run.guidance = placed(self.guidance, x)
            return run(x, sigma, evaluate)

        return denoise

    def branches(
        self, batch: int | None
    ) -> Callable[[Tensor, float | Tensor, Sequence[str], Tensor | None], dict[str, Tensor]]:
        """D(x, σ) by branch, with the conditionings made ready once, for ``batch`` images; or, with
        rows, image i with row rows[i] of every conditioning, counted around."""
        models = {COND: self.model}
        if self.weak_model is not None:
            models[WEAK] = self.weak_model
        networks = {name: model.denoiser.to(_device) for name, model in models.items()}
        self.refuse_perturbations()
        evaluate = BranchNetworks(networks, in_parts)

        def condition(branch: str) -> Any:
            model, cond = models.get(branch, self.model), self.conds.get(branch)
            return model.condition(branch, self.conds[COND] if cond is None else cond, batch)

        conditions = {name: condition(name) for name in {*self.conds, *models}}

        def for_images(name: str, count: int, rows: Tensor | None) -> Any:
            if rows is not None:
                return picked(conditions[name], rows)
            if batch is not None and count < batch:
                return shared(conditions[name], count, name)
            return conditions[name]

        def predictions(
            x: Tensor, sigma: float | Tensor, names: Sequence[str], rows: Tensor | None
        ) -> dict[str, Tensor]:
            return evaluate(x, sigma, {name: for_images(name, len(x), rows) for name in names})

        return predictions

    def refuse_perturbations(self) -> None:
        """Raises ValueError if the chain perturbs attention or blocks: no model here has any."""
        for rule in self.guidance.rules:
            if rule.perturbations:
                raise ValueError(
                    f"{rule.title}: not possible with this MODEL ({type(self.model.inner).__name__}), which has no "
                    "attention layers or blocks to change"
                )


def shared(given: Any, count: int, name: str) -> Any:
    """The first ``count`` rows of a condition (a tensor, tensors by name or None) that all images share."""
    if given is None:
        return None
    if isinstance(given, dict):
        return {key: shared(value, count, f"{name}'s {key}") for key, value in given.items()}
    one_condition(given, name)
    return given[:count]


def picked(given: Any, rows: Tensor) -> Any:
    """Rows of a condition (a tensor, tensors by name or None), counted around."""
    if isinstance(given, dict):
        return {key: picked(value, rows) for key, value in given.items()}
    return given if given is None else given[(rows % len(given)).to(given.device)]


def repeat_to(rows: Tensor | None, batch: int | None) -> Tensor | None:
    """Rows [B, …] repeated or cut to ``batch`` (None: as they are), as ComfyUI does with conditionings."""
    if rows is None or batch is None:
        return None if rows is None else rows.to(_device)
    times = -(-batch // len(rows))
    return rows.repeat(times, *(1,) * (rows.ndim - 1))[:batch].to(_device)


@dataclass(frozen=True)
class Sampler:
    """SAMPLER: a solver, a part of its run, or a run that shows its states."""

    solver: Solver | Part | Stepped

    def sample(
        self,
        guider: Guider,
        sigmas: list[float],
        noise: Tensor,
        latent: Tensor,
        callback: Callback | None,
        seed: int,
    ) -> Tensor:
        schedule = guider.model.schedule
        require_latent(schedule.path, sigmas)
        top = Points(schedule.path, (schedule.kappa_max,)).sigmas()[0]
        from_pure_noise = sigmas[0] > top or math.isclose(sigmas[0], top, rel_tol=1e-5)
        noise, latent = (t.to(_device, torch.float32) for t in (noise, latent))
        x = noised(schedule.path, sigmas[0], latent, noise, from_pure_noise)

        def report(p: Progress) -> None:
            if callback is not None:
                callback(p.step, p.denoised, p.x, p.steps)

        path, solver = schedule.path, self.solver
        with torch.no_grad():
            denoise = guider.denoiser(len(x))
            if isinstance(solver, Solver):
                with solver.watching(guider.model.inner) as ready:
                    run = Run(denoise, PerImageNoise(seed), report)
                    out = sample(ready, path, run, x, sigmas)
            else:
                start = solver.begin(path, x, sigmas, seed, bool(noise.any()))
                run = Run(denoise, PerImageNoise(start.seed), report)
                out = solver.run(start, path, run, sigmas)
        alpha = path.host.on(sigmas[-1]).alpha  # a flow LATENT is x/α
        return (out if alpha == 1 else out / alpha).cpu()


def make_sampler(solver: Solver | Part | Stepped) -> Sampler:
    return Sampler(solver)


def solver_of(sampler: Any) -> Solver | Part | Stepped | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    return sampler.solver if isinstance(sampler, Sampler) else None


def make_guider(
    model: Any, conds: Mapping[str, Conditioning], guidance: Guidance, *,
    weak: Any = None, share_pure_noise: bool = False,
) -> Guider:  # fmt: skip
    """GUIDER from conditionings by branch; ``weak``: the MODEL of that branch.

    Raises ValueError for a weak model that cannot stand beside the MODEL.
    """
    path = schedule_of(model).path.host
    if weak is not None and schedule_of(weak).path.host != path:
        raise ValueError(
            f"weak_model: its noise levels ({type(weak.schedule).__name__}) are not those of the MODEL "
            f"({type(model.schedule).__name__})"
        )
    shapes = {m.inner.shape for m in (model, weak) if m is not None} - {None}
    if len(shapes) > 1:
        raise ValueError(
            f"weak_model: its latents are {weak.inner.shape}, the MODEL's {model.inner.shape}"
        )
    return Guider(model, conds, guidance, weak, share_pure_noise)


def probed(guider: Any, holder: Holder | None) -> Guider:
    """The same guider without a run, which puts the report of every run into ``holder``."""
    if not isinstance(guider, Guider):
        raise TypeError(
            f"guider: connect a Guider of the Sampling Kit, not a {type(guider).__name__}"
        )
    copied = copy.copy(guider)
    copied.holder, copied.run = holder, None
    return copied
