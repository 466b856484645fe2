"""Traced runs inside ComfyUI: a SAMPLER around any SAMPLER that tells a recorder what happens.

Nothing of the host is patched: the wrapped sampler is handed a stand-in for its guider that counts, a callback that
notes and calls the host's, and model options with one more function after CFG, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.nested_tensor
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ....schedulers.guidance.chain import observed
from ....schedulers.measure.trace import View
from ....schedulers.path import VE, Flow, Path
from ....schedulers.solver import Solver
from ....schedulers.solver.run import Denoise
from ....schedulers.split import Stepped
from ..trace_watch import StandIn, Watch, label, stochastic, together
from .guider import Guider
from .missing import needed_by
from .model import is_flow, state_for
from .sampler import make_sampler, solver_of
from .step_level import level_of, noted

AFTER_CFG = "sampler_post_cfg_function"


class Asked(StandIn):
    """A guider that tells a recorder of every evaluation: ``tell(x, sigma)``, with what a call of it is given."""

    def __init__(self, guider: Any, tell: Callable[[Any, Any], None]) -> None:
        super().__init__(guider)
        object.__setattr__(self, "_tell", tell)

    def __call__(self, x: Tensor, sigma: Any, *args: Any, **more: Any) -> Any:
        self._tell(x, sigma)
        return self._real(x, sigma, *args, **more)


class Traced(comfy.samplers.Sampler):
    """The SAMPLER ``inner``, whose runs are recorded; what they draw is the same bit for bit."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self.inner, self.watch = inner, watch

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        return bool(self.inner.max_denoise(model_wrap, sigmas))

    @needed_by("Trace")
    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Any = None, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        levels, solver = sigmas.tolist(), solver_of(self.inner)
        path = path_of(model_wrap)
        ours = isinstance(solver, Solver)
        newest: list[tuple[Tensor, ...] | None] = [None]
        recorder = self.watch.begin(path, levels, lambda: newest[0])

        def after_cfg(args: dict[str, Any]) -> Tensor:
            cond, uncond = args["cond_denoised"], args["uncond_denoised"]
            there = args.get("uncond") is not None  # else the host hands zeros
            newest[0] = observed(cond, uncond, args["denoised"]) if there else None
            return args["denoised"]

        def told(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            if not ours:
                recorder.step(x0)
            if callback is not None:
                with recorder.aside():
                    callback(step, x0, x, total)

        def evaluation(x: Tensor, sigma: Tensor) -> None:
            newest[0] = None
            recorder.evaluation(x, level_of(sigma))

        options = extra_args.get("model_options", {})
        watched = {**options, AFTER_CFG: [*options.get(AFTER_CFG, []), after_cfg]}
        inner = self.inner
        if isinstance(solver, Solver):
            inner = make_sampler(Stepped(solver, recorder.progress, recorder.passed))
        out: Tensor = inner.sample(
            Asked(model_wrap, evaluation), sigmas, {**extra_args, "model_options": watched}, told, noise,
            latent_image, denoise_mask, disable_pbar,
        )  # fmt: skip
        again = None
        if self.watch.doubling and denoise_mask is None:
            again = denoiser(model_wrap, options, extra_args.get("seed"))
        end = out * path.on(levels[-1]).alpha  # a flow LATENT is x/α
        with own_run(model_wrap, levels):
            self.watch.trace = recorder.finish(
                end, label(solver, name_of(self.inner)), extra_args.get("seed") or 0, again,
                stochastic=stochastic(solver), view=view_of(model_wrap), together=together(solver, len(out)),
            )  # fmt: skip
        return out


def path_of(guider: Any) -> Path:
    """The path of a GUIDER's states, a host's."""
    return Flow() if is_flow(guider.model_patcher.get_model_object("model_sampling")) else VE()


def denoiser(guider: Any, options: dict[str, Any], seed: int | None) -> Denoise:
    """D(x, σ) of a guider whose MODEL is loaded."""
    sampling = guider.model_patcher.get_model_object("model_sampling")

    def denoise(x: Tensor, sigma: float) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        x = state_for(sampling, x, sigma)
        timestep = noted(x.new_full((len(x),), sigma), sigma)
        d: Tensor = guider(x, timestep, model_options=options, seed=seed)
        return d

    return denoise


@contextmanager
def own_run(guider: Any, levels: list[float]) -> Iterator[None]:
    """Evaluations inside count neither in the report of our Guider's run nor in what its rules remember."""
    if not isinstance(guider, Guider):
        yield
        return
    run = guider.run
    guider.run = guider.new_run(levels)
    try:
        yield
    finally:
        guider.run = run


def name_of(sampler: Any) -> str:
    """What a SAMPLER of others is called."""
    if isinstance(sampler, Traced):
        return name_of(sampler.inner)
    function = getattr(sampler, "sampler_function", None)
    name = str(getattr(function, "__name__", type(sampler).__name__))
    return name.removeprefix("sample_").removesuffix("_function")


def view_of(guider: Any) -> View:
    """How ComfyUI shows the latents of a run."""
    model, shapes = guider.model_patcher.model, getattr(guider.inner_model, "latent_shapes", None)
    shown = model.latent_format

    def tensor(values: Any) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.float32)

    return View(
        model.process_latent_out,
        tensor(shown.latent_rgb_factors),
        tensor(shown.latent_rgb_factors_bias),
        tuple(tuple(s[1:]) for s in shapes or ()) if shapes and len(shapes) > 1 else (),
        shown.latent_rgb_factors_reshape,
    )


def traced(sampler: Any, watch: Watch) -> Traced:
    """SAMPLER that does what ``sampler`` does and leaves a trace of each run in ``watch``."""
    return Traced(sampler, watch)


def as_latent(view: View, x: Tensor, like: dict[str, Any]) -> dict[str, Any]:
    """LATENT of x in the denoiser's units, and with the rest of the LATENT ``like``."""
    samples = view.to_latent(x)
    if view.shapes:
        shapes = [(len(x), *shape) for shape in view.shapes]
        parts = comfy.utils.unpack_latents(samples, shapes)
        samples = comfy.nested_tensor.NestedTensor(parts)
    return {**like, "samples": samples}


def run_sampler(
    noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any]
) -> dict[str, Any]:
    """The LATENT that SamplerCustomAdvanced makes; its progress, preview and interrupts."""
    from comfy_extras.nodes_custom_sampler import (
        SamplerCustomAdvanced,
    )

    made: dict[str, Any] = SamplerCustomAdvanced.execute(
        noise, guider, sampler, sigmas, latent
    ).args[0]
    return made


def sampler_name(sampler: Any) -> str:
    """What a SAMPLER is called, and what is set in it."""
    return label(solver_of(sampler), name_of(sampler))
