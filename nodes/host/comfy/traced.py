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


class Traced(comfy.samplers.KSAMPLER):
    """The SAMPLER ``inner``, whose runs are recorded; what they draw is the same bit for bit.

    As every SAMPLER of ours it has ``sampler_function``, ``extra_options`` and ``inpaint_options``, which packs that wrap
    a SAMPLER call in place of ``sample``.
    """

    def __init__(self, inner: Any, watch: Watch) -> None:
        options = getattr(inner, "inpaint_options", {})
        super().__init__(traced_function, {"inner": inner, "watch": watch}, options)
        self.inner, self.watch = inner, watch

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        return bool(self.inner.max_denoise(model_wrap, sigmas))

    @needed_by("Trace")
    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Any = None, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        taping = Taping(self.inner, self.watch, model_wrap, sigmas.tolist(), extra_args)

        def told(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            taping.step(x0)
            if callback is not None:
                with taping.recorder.aside():
                    callback(step, x0, x, total)

        out: Tensor = taping.inner.sample(
            Asked(model_wrap, taping.evaluation), sigmas, taping.watched, told, noise, latent_image, denoise_mask,
            disable_pbar,
        )  # fmt: skip
        end = out * path_of(model_wrap).on(taping.levels[-1]).alpha  # a flow LATENT is x/α
        taping.finish(end, denoise_mask is not None)
        return out


def traced_function(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None, callback: Any = None,
    disable: bool | None = None, *, inner: Any, watch: Watch, **options: Any,
) -> Tensor:  # fmt: skip
    """A traced SAMPLER as a k-diffusion style sampler function, for a pack's SAMPLER around it.

    Raises ValueError for an inner SAMPLER without such a function.
    """
    if not hasattr(inner, "sampler_function"):
        raise ValueError(
            f"sampler: another pack's sampler is around a Trace of {name_of(inner)}, which has no sampler function that it "
            "could call: put Trace around that pack's sampler instead"
        )
    extra = extra_args or {}
    taping = Taping(inner, watch, model.inner_model, sigmas.tolist(), extra)

    def told(facts: dict[str, Any]) -> None:
        taping.step(facts["denoised"])
        if callback is not None:
            with taping.recorder.aside():
                callback(facts)

    used = taping.inner
    out: Tensor = used.sampler_function(
        Asked(model, taping.evaluation), x, sigmas, extra_args=taping.watched, callback=told, disable=disable,
        **used.extra_options, **options,
    )  # fmt: skip
    taping.finish(out, extra.get("denoise_mask") is not None)
    return out


class Taping:
    """One recorded run: ``inner`` is the SAMPLER to run, ``watched`` its arguments."""

    def __init__(
        self, inner: Any, watch: Watch, guider: Any, levels: list[float], extra: dict[str, Any]
    ) -> None:
        self.watch, self.guider, self.levels = watch, guider, levels
        self.solver, self.name = solver_of(inner), name_of(inner)
        self.ours = isinstance(self.solver, Solver)
        self.asked = 0.0  # the level of the newest evaluation
        self.numbers: dict[float, tuple[Tensor, ...] | None] = {}
        self.recorder = watch.begin(path_of(guider), levels, self.numbers_at)
        self.options, self.seed = extra.get("model_options", {}), extra.get("seed")
        after = [*self.options.get(AFTER_CFG, []), self.after_cfg]
        self.watched = {**extra, "model_options": {**self.options, AFTER_CFG: after}}
        self.inner = inner
        if isinstance(self.solver, Solver):
            stepped = Stepped(self.solver, self.recorder.progress, self.recorder.passed)
            self.inner = make_sampler(stepped)

    def after_cfg(self, args: dict[str, Any]) -> Tensor:
        cond, uncond = args["cond_denoised"], args["uncond_denoised"]
        there = args.get("uncond") is not None  # else the host hands zeros
        self.numbers[self.asked] = observed(cond, uncond, args["denoised"]) if there else None
        out: Tensor = args["denoised"]
        return out

    def step(self, x0: Tensor) -> None:
        """The host's callback: our solvers tell their steps themselves."""
        if not self.ours:
            self.recorder.step(x0)

    def evaluation(self, x: Tensor, sigma: Tensor) -> None:
        self.asked = level_of(sigma)
        self.numbers[self.asked] = None
        self.recorder.evaluation(x, self.asked)

    def numbers_at(self, sigma: float) -> tuple[Tensor, ...] | None:
        """Of the newest evaluation at ``sigma``; of the newest of all if there was none: a wrapper may tell another level."""
        return self.numbers.get(sigma, self.numbers.get(self.asked))

    def finish(self, end: Tensor, masked: bool) -> None:
        """The trace of the run, which ended in the state ``end``."""
        guider, solver, again = self.guider, self.solver, None
        if self.watch.doubling and not masked:
            again = denoiser(guider, self.options, self.seed)
        with own_run(guider, self.levels):
            self.watch.trace = self.recorder.finish(
                end, label(solver, self.name), self.seed or 0, again,
                stochastic=stochastic(solver), view=view_of(guider), together=together(solver, len(end)),
            )  # fmt: skip


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
