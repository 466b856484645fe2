"""The host's part inside ComfyUI: native MODEL, GUIDER and SAMPLER.

Only the files of this folder import comfy.

Nothing of the host is patched or copied: a model is a BaseModel around a module, a guider a subclass
of CFGGuider, a sampler a KSAMPLER with our function. See DESIGN §5.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor, nn

from ....schedulers.denoiser import Denoiser, latent
from ....schedulers.denoiser.wrap import call_in, input_scale
from ....schedulers.guidance import (
    CFG,
    COND,
    NEGATIVE,
    UNCOND,
    WEAK,
    Call,
    Guidance,
    GuidanceRun,
    differentiable,
    ordinary,
)
from ....schedulers.noise import PerImageNoise
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.path import VE, Flow
from ....schedulers.points import LARGEST_KAPPA
from ....schedulers.prediction import Prediction, usual
from ....schedulers.sample import require_latent, sample
from ....schedulers.solver import Progress, Run, Solver
from ....schedulers.solver.run import DrawNoise
from ....schedulers.split import Part, Stepped
from ..conditioning import Conditioning, class_weights
from ..guidance_wire import Holder, conclude, one_condition, placed
from .model import (
    compute_choice,
    facts_of,
    in_dtype,
    is_flow,
    latent_space,
    model_of,
    names,
    noise_scale,
    probe,
    raw_output,
    relabelled,
    sampling_for,
    schedule_of,
    state_for,
    wants_vp,
)
from .perturb import perturbed

__all__ = [
    "ComfyExtension",
    "compute_choice",
    "facts_of",
    "folder",
    "in_dtype",
    "io",
    "latent_space",
    "loaded",
    "make_guider",
    "make_model",
    "make_sampler",
    "model_folders",
    "model_of",
    "noise_scale",
    "patcher",
    "probe",
    "probed",
    "raw_output",
    "relabelled",
    "schedule_of",
    "set_device",
    "solver_of",
    "typed_path",
]

ms = comfy.model_sampling
ModelType = comfy.model_base.ModelType


def set_device(name: str) -> str:
    """ComfyUI chooses its own device."""
    raise RuntimeError("inside ComfyUI the device is set on ComfyUI's command line")


def folder(kind: str) -> Path:
    """ComfyUI's folder "input" or "output"."""
    return Path(folder_paths.get_directory_by_type(kind))


def typed_path(name: str) -> bool:
    """Whether a person typed this absolute path for this run. Never here: workflows come from anywhere."""
    return False


def model_folders(kind: str, new: bool = False) -> list[Path]:
    """ComfyUI's folders for models of a kind; new ones go to the first."""
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


# ----------------------------------------------------------------- modules beside the MODEL: VAE, text


def patcher(module: nn.Module, kind: str, keep: bool = True) -> Any:
    """A ModelPatcher by which ComfyUI moves ``module`` as it moves its own "vae" or "text_encoder".

    Without ``keep`` the weights are gone (on the device "meta") once it is moved off its device, by /free
    or to make room. The module itself must live on: ComfyUI counts its models while it unloads them.
    """
    mm = comfy.model_management
    device, offload = getattr(mm, f"{kind}_device")(), getattr(mm, f"{kind}_offload_device")()
    made = comfy.model_patcher.ModelPatcher(module, load_device=device, offload_device=offload)
    if not keep:
        event = comfy.patcher_extension.CallbacksMP.ON_DETACH
        made.add_callback(event, lambda owner, whole: owner.model.to("meta") if whole else None)
    return made


@contextmanager
def loaded(patcher: Any, memory: int = 0) -> Iterator[torch.device]:
    """The module on its device, with room for ``memory`` bytes besides; yields the device."""
    mm = comfy.model_management
    mm.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    with mm.cuda_device_context(patcher.load_device):
        yield patcher.load_device


# ---------------------------------------------------------------------------- our MODEL, natively


class PixelSpace(comfy.latent_formats.LatentFormat):
    """Latents that are RGB pictures in [−1, 1]."""

    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors: ClassVar = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class BlockSpace(comfy.latent_formats.LatentFormat):
    """The latents of ``schedulers/denoiser/latent.py``; a preview shows the blocks' average colours."""

    latent_channels = latent.CHANNELS
    spacial_downscale_ratio = latent.RATIO
    latent_rgb_factors: ClassVar = [list(row) for row in latent.PREVIEW]


class PixelModel(comfy.supported_models_base.BASE):
    """ComfyUI's configuration object for a model that we build ourselves."""

    latent_format = PixelSpace
    memory_usage_factor = 0.1


class FractionalTable(ms.ModelSamplingDiscrete):
    """A training table whose timesteps are interpolated instead of rounded, so that σ survives the trip."""

    def timestep(self, sigma: Tensor) -> Tensor:
        table = self.log_sigmas.to(sigma.device)
        at = sigma.float().log().clamp(table[0], table[-1])
        # zero terminal SNR: the steps' stand-in for infinity may be smaller than the table's
        pure = (at > math.log(LARGEST_KAPPA) - 1e-5) & (at > table[-2])
        at = torch.where(pure, table[-1], at)
        high = torch.searchsorted(table, at).clamp(1, len(table) - 1)
        low, up = table[high - 1], table[high]
        return (high - 1) + (at - low) / (up - low)


class Network(nn.Module):
    """A denoiser in the clothes of a network: takes ComfyUI's input and time, returns the prediction.

    It computes in the dtype of its input.
    """

    dtype = torch.float32
    sampling_kit_casts = True

    def __init__(
        self, denoiser: Denoiser, prediction: Prediction, sigma_of: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.denoiser, self.prediction, self.sigma_of = denoiser, prediction, sigma_of

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, control: Any = None,
        transformer_options: Any = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        self.denoiser.to(x.device)
        dtype, host, sigma = x.dtype, self.denoiser.path, self.sigma_of(timesteps.float())
        level = sigma.reshape(-1, *(1,) * (x.ndim - 1))
        x = x.float() / input_scale(host, self.prediction, level)
        inputs = x, sigma, class_weights(context, self.denoiser.classes)
        if dtype == torch.float32:
            d = self.denoiser(*inputs)
        else:
            d = call_in(dtype, self.denoiser, *inputs)
        return self.prediction.write(d, x, host, sigma)


def _table() -> nn.Module:
    """The blank of VP and sub-VP: a table with interpolated timesteps."""

    class Sampling(FractionalTable, ms.EPS):
        pass

    return Sampling()


def make_model(
    build: Callable[[Any], Denoiser], schedule: NoiseSchedule, prediction: Prediction | None = None
) -> Any:
    """Native MODEL from ``build(path)`` → denoiser, outputting ``prediction`` (default: the usual one)."""
    prediction = prediction or usual(schedule.path)
    kind = {Flow: ModelType.FLOW, VE: ModelType.EDM}.get(type(schedule.path), ModelType.EPS)
    sampling = sampling_for(schedule, prediction, _table() if kind is ModelType.EPS else None)
    sigma_of = sampling.sigma  # except on flow, where it would shift what timestep() did not
    if kind is ModelType.FLOW:
        sigma_of = partial(torch.div, other=sampling.multiplier)
    denoiser = build(schedule.path.host)
    config = PixelModel({"disable_unet_model_creation": True})
    if isinstance(denoiser, latent.InLatents):
        config.latent_format = BlockSpace()
    offload = comfy.model_management.unet_offload_device()
    base = comfy.model_base.BaseModel(config, model_type=kind, device=offload)
    base.model_sampling = sampling
    base.diffusion_model = Network(denoiser, prediction, sigma_of).eval().requires_grad_(False)
    return comfy.model_patcher.CoreModelPatcher(
        base, load_device=comfy.model_management.get_torch_device(), offload_device=offload
    )


# --------------------------------------------------------------------------------------- SAMPLER


def solve(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None,
    callback: Any = None, disable: bool | None = None, *, solver: Solver | Part | Stepped,
) -> Tensor:  # fmt: skip
    """A k-diffusion style sampler function around one of our solvers, or a part of its run."""
    extra = extra_args or {}
    path = schedule_of(model.inner_model.model_patcher).path
    levels = sigmas.tolist()
    require_latent(path, levels)
    bar = comfy.utils.model_trange(len(levels) - 1, disable=disable)
    seed = extra.get("seed") or 0
    size = noise_scale(model.inner_model.model_patcher)
    sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
    if wants_vp(sampling) and extra.get("denoise_mask") is not None:
        raise ValueError(
            "latent_image: a noise mask does not work with this MODEL's V_PREDICTION_DDPM; put a Denoiser Settings "
            "node with prediction v before the sampler"
        )

    def noise(seed: int) -> DrawNoise:
        draw = PerImageNoise(seed)
        return lambda position, like: draw(position, like) * size

    def denoise(y: Tensor, sigma: float) -> Tensor:
        y = state_for(sampling, y, sigma)
        return model(y, noted(y.new_full((y.shape[0],), sigma), sigma), **extra)

    def report(p: Progress) -> None:
        if callback is not None:
            level = p.x.new_full((), p.sigma)
            callback(
                {"x": p.x, "i": p.step, "sigma": level, "sigma_hat": level, "denoised": p.denoised}
            )
        bar.update(p.step + 1 - bar.n)  # a solver that chooses its steps passes levels unevenly

    check = comfy.model_management.throw_exception_if_processing_interrupted
    with bar:
        if isinstance(solver, Solver):
            with solver.watching(model.inner_model.model_patcher.model.diffusion_model) as ready:
                return sample(ready, path, Run(denoise, noise(seed), report, check), x, levels)
        masked = extra.get("denoise_mask") is not None
        # under a mask the picture and its noise belong to the run: a later part has neither
        mine = {"picture": model.latent_image, "noise": model.noise} if masked else {}
        start = solver.begin(path, x, levels, seed, bool(model.noise.any()), mine)
        if masked and start.extra:
            model.latent_image, model.noise = start.extra["picture"], start.extra["noise"]
        return solver.run(start, path, Run(denoise, noise(start.seed), report, check), levels)


def make_sampler(solver: Solver | Part | Stepped) -> Any:
    """SAMPLER around a solver; masks, previews and noise scaling are KSAMPLER's."""
    return comfy.samplers.KSAMPLER(solve, {"solver": solver})


def noted(timestep: Tensor, sigma: float) -> Tensor:
    """``timestep`` [B] with its level written on it, so that our Guider need not read it from the device."""
    timestep.sampling_kit_sigma = sigma  # type: ignore[attr-defined]
    return timestep


def level_of(timestep: Tensor) -> float:
    """σ of a step: as :func:`noted`, else (other samplers) read back."""
    known: float | None = getattr(timestep, "sampling_kit_sigma", None)
    return float(timestep.flatten()[0]) if known is None else known


def solver_of(sampler: Any) -> Solver | Part | Stepped | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    if getattr(sampler, "sampler_function", None) is not solve:
        return None
    return sampler.extra_options["solver"]


# ---------------------------------------------------------------------------------------- GUIDER


@dataclass(frozen=True)
class HostCFG(CFG):
    """The chain's CFG, done by the MODEL's own ``sampler_cfg_function``: (D_c, D_u, weight) → D."""

    function: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def apply(self, d: Tensor, call: Call) -> Tensor:
        assert self.function is not None
        return self.function(d, call[UNCOND], self.weight(call.level))


class Held:
    """SAMPLER that samples nothing: calls ``then`` while its guider's MODEL is loaded and ready."""

    def __init__(self, then: Callable[[dict[str, Any]], Any]) -> None:
        self.then = then
        self.out: Any = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        self.out = self.then(extra_args["model_options"])
        return latent_image


class Guider(comfy.samplers.CFGGuider):
    """A guidance chain as GUIDER: the branches of a step that share a model and its options in one call of
    the host, whose hooks are respected.

    What the MODEL's functions are given: before CFG, after CFG and in place of the batch call the pair
    (cond, uncond) that they know; branches beyond it pass them by.
    """

    #: Branch → what the host calls its condition; others keep their name.
    names: ClassVar = {COND: "positive", UNCOND: "negative", NEGATIVE: "negative prompt"}

    guidance = Guidance()
    weak_model: Any = None
    share_pure_noise = False
    holder: Holder | None = None

    run: GuidanceRun | None = None
    ready: Guidance | None = None  # the chain on the run's device
    weak: tuple[Any, dict[str, Any]] | None = None  # during a run: its guider and model options

    def set_guidance(self, guidance: Guidance) -> None:
        self.guidance, self.run = guidance, None
        self.scale = next((rule.scale for rule in guidance.rules if isinstance(rule, CFG)), 1.0)
        self.cfg = self.scale

    def set_branches(self, conds: Mapping[str, Conditioning]) -> None:
        """Conditionings by branch."""
        kinds = {UNCOND: "negative", NEGATIVE: "negative"}  # what the host is told they are
        self.inner_set_conds(
            {
                self.names.get(name, name): [
                    [text, {"prompt_type": kinds.get(name, "positive"), **more}]
                    for text, more in cond
                ]
                for name, cond in conds.items()
            }
        )

    # ------------------------------------------------------------------------------- a run

    def sample(
        self, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """CFGGuider's, with a new run of the guidance, and a weaker model loaded beside the MODEL."""
        self.run, self.ready = self.new_run(sigmas.tolist()), None
        sample = partial(super().sample, noise, latent_image, sampler, sigmas, *args, **kwargs)
        try:
            if self.weak_model is None or WEAK not in self.guidance.reads or not len(sigmas):
                out = sample()
            else:
                out = self.beside_weak(sample, noise, latent_image, sigmas, *args, **kwargs)
        finally:
            self.weak = self.ready = None
            for name in ("inner_model", "loaded_models", "conds"):  # an interrupted run leaves them
                vars(self).pop(name, None)
        conclude(self.run, self.holder)
        return out

    def beside_weak(
        self, sample: Callable[[], Any], noise: Any, latent_image: Any, sigmas: Tensor,
        denoise_mask: Any = None, callback: Any = None, disable_pbar: bool = False, seed: int | None = None,
    ) -> Any:  # fmt: skip
        """``sample`` while the host holds the weak model, prepared as for a run of its own.

        For the MODEL it is one of the additional models of its condition, so that both are loaded
        together.
        """
        weak = comfy.samplers.CFGGuider(self.weak_model)
        plain = self.original_conds
        weak.original_conds = {"positive": [dict(cond) for cond in plain["positive"]]}
        together = [
            cond | {"additional_models": [weak.model_patcher]} for cond in plain["positive"]
        ]

        def main(options: dict[str, Any]) -> Any:
            self.weak = weak, options
            return sample()

        held = Held(main)
        self.original_conds = plain | {"positive": together}
        try:
            weak.sample(noise, latent_image, held, sigmas, denoise_mask, None, disable_pbar, seed)
        finally:
            self.original_conds = plain
        return held.out

    def new_run(self, sigmas: list[float]) -> GuidanceRun:
        flow = isinstance(self.model_patcher.get_model_object("model_sampling"), ms.CONST)
        share, probe = self.share_pure_noise, self.holder is not None
        path = Flow() if flow else VE()
        return self.guidance.begin(path, sigmas, share_pure_noise=share, probe=probe)

    def guidance_now(self, x: Tensor, cfg_function: Any) -> Guidance:
        """The chain on x's device, with the CFG scale that the host may set for a step (CFG Override) and
        the MODEL's own function in the place of CFG."""
        if self.ready is None:
            self.ready = placed(self.guidance, x)
        rules, changed = list(self.ready.rules), self.cfg != self.scale
        for i, rule in enumerate(rules):
            if isinstance(rule, CFG):
                scale = self.cfg if changed else rule.scale
                rules[i] = (
                    HostCFG(scale, rule.curve, cfg_function)
                    if cfg_function
                    else CFG(scale, rule.curve)
                )
        return Guidance(tuple(rules))

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None,
        seed: int | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        options = model_options or {}
        sigma = level_of(timestep)
        run = self.run or self.new_run([])
        shared: dict[str, Any] = {
            "sigma": timestep, "timestep": timestep, "input": x, "model": self.inner_model,
            "model_options": options,
        }  # fmt: skip
        own = options.get("sampler_cfg_function")
        conds = [self.conds.get("positive"), None]

        def host_cfg(d: Tensor, uncond: Tensor, weight: float) -> Tensor:
            """The MODEL's function, which takes and gives x − D."""
            named = {"cond_denoised": d, "uncond_denoised": uncond, "cond_scale": weight}
            pair = {
                "cond": y - d,
                "uncond": y - uncond,
                "input_cond": conds[0],
                "input_uncond": conds[1],
            }
            return y - own({**shared, "input": y, **named, **pair})

        run.guidance = self.guidance_now(x, own and host_cfg)
        always = options.get("disable_cfg1_optimization", False)
        also = (UNCOND,) if always and self.conds.get("negative") is not None else ()
        here = run.ladder.at(sigma)
        weights = [r.weight(here) for r in run.guidance.rules if isinstance(r, CFG)]
        shared["cond_scale"] = weights[0] if weights else self.cfg

        def evaluate(y: Tensor, level: float, names: Sequence[str]) -> dict[str, Tensor]:
            at = timestep if level == sigma else torch.full_like(timestep, level)
            if len(y) < len(x):
                self.require_one_condition(names)
            known = shared | {"sigma": at[: len(y)], "timestep": at[: len(y)], "input": y}
            return self.predictions(known, options, names)

        with run.scope(x, sigma) as y, self.with_gradients(y):
            if y.requires_grad:
                shared |= {"sigma": ordinary(timestep), "timestep": ordinary(timestep)}
            preds = run.predict(y, sigma, evaluate, also)
            if UNCOND in preds:
                conds[1] = self.conds.get("negative")
            d = run.combine(y, sigma, preds, evaluate)
            cond = preds[COND].detach()
            uncond = preds[UNCOND].detach() if UNCOND in preds else torch.zeros_like(cond)
        named = {"cond_denoised": cond, "uncond_denoised": uncond}  # zeros: as the host itself
        for fn in options.get("sampler_post_cfg_function", []):
            d = fn(shared | named | {"denoised": d, "cond": conds[0], "uncond": conds[1]})
        return d

    # -------------------------------------------------------------------------- the network

    def predictions(
        self, known: dict[str, Any], options: dict[str, Any], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """D of every branch at ``known["input"]``: one call for each model and set of options.

        ``known`` is what the host tells its functions.
        """
        y, at, special = known["input"], known["timestep"], self.guidance.perturbations
        if y.requires_grad:
            at, options = ordinary(at), on_one_device(options)
            known = known | {"timestep": at, "sigma": at, "model_options": options}
        plain = [name for name in names if name != WEAK and name not in special]
        found = self.plain(known, options, plain) if plain else {}
        for name in (n for n in names if n in special):
            changed = perturbed(options, special[name])
            conds = [self.condition(COND, y.requires_grad)]
            (found[name],) = comfy.samplers.calc_cond_batch(self.inner_model, conds, y, at, changed)
        if WEAK in names:
            assert self.weak is not None
            guider, own = self.weak
            own = on_one_device(own) if y.requires_grad else own
            conds = [readable(guider.conds["positive"], y.requires_grad)]
            model = guider.inner_model
            (found[WEAK],) = comfy.samplers.calc_cond_batch(model, conds, y, at, own)
        return found

    def plain(
        self, known: dict[str, Any], options: dict[str, Any], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """The branches of the MODEL as it is, with the host's functions before CFG."""
        y, at = known["input"], known["timestep"]
        order = [COND, UNCOND, *sorted(set(names) - {COND, UNCOND})]
        conds = [self.condition(n, y.requires_grad) if n in names else None for n in order]

        def call(some: list[Any]) -> list[Tensor]:
            return comfy.samplers.calc_cond_batch(self.inner_model, some, y, at, options)

        own, pair = options.get("sampler_calc_cond_batch_function"), conds[:2]
        if own is None:
            preds = call(conds)
        else:
            preds = [*own(known | {"conds": pair}), *(call(conds[2:]) if conds[2:] else ())]
        for fn in options.get("sampler_pre_cfg_function", []):
            preds[:2] = fn(known | {"conds": pair, "conds_out": preds[:2]})
        return {name: d for name, d in zip(order, preds, strict=True) if name in names}

    def condition(self, branch: str, gradient: bool) -> Any:
        """The host's conditions of a branch."""
        return readable(self.conds[self.names.get(branch, branch)], gradient)

    @contextmanager
    def with_gradients(self, y: Tensor) -> Iterator[None]:
        """Where D is needed as a function of y, everything loaded for the run can be differentiated."""
        if not y.requires_grad:
            yield
            return
        models = [getattr(patcher, "model", patcher) for patcher in self.loaded_models]
        try:
            with differentiable(self.inner_model, *models):
                yield
        except RuntimeError as error:
            if not any(words in str(error) for words in ("nference tensor", "inplace operation")):
                raise
            titles = ", ".join(rule.title for rule in self.guidance.rules if rule.gradient)
            raise ValueError(
                f"guidance: {titles} needs the gradient of the MODEL, which a patch, a part of it or weights "
                f"that do not fit in memory do not give: {error}"
            ) from error

    def require_one_condition(self, names: Sequence[str]) -> None:
        """Raises ValueError unless every image of the batch has the same condition."""
        for name in names:
            key = self.names.get(COND if name in self.guidance.perturbations else name, name)
            group = (
                self.weak[0].conds["positive"] if name == WEAK and self.weak else self.conds[key]
            )
            for cond in group:
                for what, rows in image_rows(cond):
                    one_condition(rows, f"{what} of {name}")


def on_one_device(options: dict[str, Any]) -> dict[str, Any]:
    """Model options without the clones on other GPUs, which the host runs without a graph."""
    return {key: value for key, value in options.items() if key != "multigpu_clones"}


def image_rows(cond: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """(what, tensor [B, …]) of a condition's parts that may differ from image to image."""
    for what, held in cond["model_conds"].items():
        if not isinstance(held, comfy.conds.CONDConstant):
            found = held.cond if isinstance(held.cond, list) else [held.cond]
            yield from ((what, t) for t in found if isinstance(t, Tensor) and t.ndim)
    if isinstance(cond.get("mask"), Tensor):
        yield "mask", cond["mask"]
    control = cond.get("control")
    while control is not None:
        hint = getattr(control, "cond_hint_original", None)
        if isinstance(hint, Tensor):
            yield "control", hint
        control = getattr(control, "previous_controlnet", None)


def readable(conds: list[dict[str, Any]], gradient: bool) -> list[dict[str, Any]]:
    """Conditions whose tensors a graph can hold, if there is to be one."""
    return [_readable(cond) for cond in conds] if gradient else conds


def _readable(cond: dict[str, Any]) -> dict[str, Any]:
    held = {key: copy.copy(value) for key, value in cond["model_conds"].items()}
    for value in held.values():
        value.cond = ordinary(value.cond)
    return ordinary(cond) | {"model_conds": held}


def make_guider(
    model: Any, conds: Mapping[str, Conditioning], guidance: Guidance, *,
    weak: Any = None, share_pure_noise: bool = False,
) -> Guider:  # fmt: skip
    """GUIDER over a native MODEL from conditionings by branch; ``weak``: the MODEL of that branch.

    Raises ValueError for a weak model that cannot stand beside the MODEL.
    """
    if weak is not None:
        require_partner(model, weak)
    guider = Guider(model)
    guider.set_branches(conds)
    guider.set_guidance(guidance)
    guider.weak_model, guider.share_pure_noise = weak, share_pure_noise
    return guider


def require_partner(model: Any, weak: Any) -> None:
    """Raises ValueError unless ``weak`` has the MODEL's states and latents, and weights of its own."""
    if weak.is_clone(model):
        raise ValueError(
            "weak_model: it is the MODEL's own network, which can only have one set of weights at a time; "
            "load another file, or use PAG, SEG or Skip-Layer"
        )
    here, there = (m.get_model_object("model_sampling") for m in (model, weak))
    if (is_flow(here), wants_vp(here)) != (is_flow(there), wants_vp(there)):
        raise ValueError(
            f"weak_model: its noise levels ({names(there)}) are not those of the MODEL ({names(here)})"
        )
    ours, theirs = (m.model.latent_format.latent_channels for m in (model, weak))
    if ours != theirs:
        raise ValueError(f"weak_model: its latents have {theirs} channels, the MODEL's {ours}")


def probed(guider: Any, holder: Holder) -> Guider:
    """The same guider, which puts the report of every run into ``holder``."""
    if not isinstance(guider, Guider):
        raise TypeError(
            f"guider: connect a Guider of the Sampling Kit, not a {type(guider).__name__}"
        )
    copied = copy.copy(guider)
    copied.holder = holder
    return copied
