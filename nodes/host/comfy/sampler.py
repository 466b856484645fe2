"""Our solvers as SAMPLER: a KSAMPLER with our function. See DESIGN §5."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
from torch import Tensor

from ....schedulers.guidance import GuidanceRun
from ....schedulers.measure.run_error import RunError
from ....schedulers.noise import DrawNoise, Louder, draws_of, images_of
from ....schedulers.path import Flow, Path
from ....schedulers.policy import usual_std
from ....schedulers.sample import require_latent, sample
from ....schedulers.solver import Progress, Run, Solver
from ....schedulers.solver.base import spans_of
from ....schedulers.solver.parallel import InRounds
from ....schedulers.split import Part, Stepped, Stopped
from ..guidance_wire import warn_of_flow_steps
from .drivable import look_before, require_drivable
from .kept_part import keeping
from .levels import several_of
from .missing import needed_by
from .model import noise_scale, schedule_of, state_for, wants_vp
from .step_level import noted

log = logging.getLogger("sampling_kit")


@needed_by("SAMPLER")
def solve(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None,
    callback: Any = None, disable: bool | None = None, *, solver: Solver | Part | Stepped,
    noise_sampler: Any = None,
) -> Tensor:  # fmt: skip
    """A k-diffusion style sampler function around one of our solvers, or a part of its run; ``model`` may be a wrapper of
    another pack, which hands on ``inner_model`` and little else."""
    extra = extra_args or {}
    guider = model.inner_model
    require_drivable(guider.model_patcher.model)
    path = schedule_of(guider.model_patcher).path
    levels = sigmas.tolist()
    if len(levels) > 1 or not isinstance(solver, Part):  # a Keep State may stop where it began
        require_latent(path, levels)
    seed, size = extra.get("seed"), noise_scale(guider.model_patcher)
    seed = 0 if seed is None else seed  # a 0 too may say for which images it is
    sampling = guider.model_patcher.get_model_object("model_sampling")
    require_mask_fits(sampling, extra.get("denoise_mask") is not None)
    solver, extra = keeping(solver, model, path, x, levels[0] if levels else 0.0, extra, size)
    masked = extra.get("denoise_mask") is not None
    warn_of_flow_steps(isinstance(path.host, Flow), levels, lambda: float(sampling.sigma_max))
    look_before(solver, path, levels, extra.get("model_options", {}), x)
    asked = [levels[0] if levels else 0.0]

    def denoise(y: Tensor, sigma: float) -> Tensor:
        asked[0] = sigma
        y = state_for(sampling, y, sigma)
        with standing_at(guider, sigma):
            return model(y, noted(y.new_full((y.shape[0],), sigma), sigma), **extra)

    together = several_of(model, extra, len(x), denoise, partial(state_for, sampling))
    check = comfy.model_management.throw_exception_if_processing_interrupted
    with comfy.utils.model_trange(len(levels) - 1, disable=disable) as bar:
        report = reporter(callback, bar)
        if isinstance(solver, Solver):
            noise = draws_of(seed, spans_of(solver, path, levels))
            if noise_sampler is not None:
                noise = handed(noise_sampler, levels, asked, solver)
            network = guider.model_patcher.model.diffusion_model
            with solver.watching(network) as ready, told_error(guider, ready, levels) as error:
                run = Run(
                    error.watching(denoise), Louder(noise, size), report, check, several=together
                )
                return sample(ready, path, run, x, levels)
        if noise_sampler is not None and solver.solver.stochastic:
            raise ValueError(
                "sampler: a pack hands a noise_sampler to Keep State, Resume State or Trace, whose runs go on in our own "
                "noise stream: leave that pack's noise out, or the state"
            )
        start = begun(solver, model, path, x, levels, seed, masked)
        extra = whole_levels(model, extra, sigmas, start)
        rules = getattr(guider, "run", None)
        memory = rules.remembered if isinstance(rules, GuidanceRun) else dict
        if isinstance(rules, GuidanceRun):
            rules.go_on(start.sigmas, start.memory)
        run = Run(
            denoise, Louder(start.draws(solver.solver, path), size), report, check, several=together
        )
        return solver.run(start, path, run, levels, memory)


@contextmanager
def told_error(guider: Any, solver: Solver, levels: Sequence[float]) -> Iterator[RunError]:
    """For a run in here: what it estimates of its error goes to our Guider's report, and with another's to the log."""
    schedule = schedule_of(guider.model_patcher)
    error = RunError.of(solver, schedule.path, levels, usual_std(schedule))
    yield error
    facts, rules = error.facts(), getattr(guider, "run", None)
    if isinstance(rules, GuidanceRun):
        rules.error = facts
    elif facts is not None:
        log.info("%s", facts)


def require_mask_fits(sampling: Any, masked: bool) -> None:
    """Raises ValueError for a noise mask on a MODEL whose state is scaled in its own way."""
    if wants_vp(sampling) and masked:
        raise ValueError(
            "latent_image: a noise mask does not work with this MODEL's V_PREDICTION_DDPM; put a Denoiser Settings "
            "node with prediction v before the sampler"
        )


def begun(
    solver: Part | Stepped, model: Any, path: Path, x: Tensor, levels: list[float], seed: int, masked: bool
) -> Stopped:  # fmt: skip
    """What a part of a run starts from. Under a mask the picture and its noise belong to the run: a later part
    has neither.

    Raises ValueError where another pack's wrapper hides them.
    """
    added = getattr(model, "noise", None)
    if masked and added is None:
        raise ValueError(
            "latent_image: a run in parts with a noise mask does not work inside another pack's sampler, which hides "
            "the picture and its noise; take that pack out, or the mask"
        )
    mine = {"picture": model.latent_image, "noise": added} if masked else {}
    noise_added = added is not None and bool(added.any())
    start = solver.begin(path, x, levels, seed, noise_added, mine, images_of(seed))
    if masked and "picture" in start.extra:
        model.latent_image, model.noise = start.extra["picture"], start.extra["noise"]
    return start


def whole_levels(
    model: Any, extra: dict[str, Any], sigmas: Tensor, start: Stopped
) -> dict[str, Any]:
    """The sampler's arguments with the whole run's SIGMAS where patches of the MODEL and masks read them."""
    if len(start.sigmas) == len(sigmas):
        return extra
    whole = sigmas.new_tensor(start.sigmas)
    if hasattr(model, "sigmas"):
        model.sigmas = whole  # what a denoise_mask_function reads
    options = extra.get("model_options", {})
    patches = {**options.get("transformer_options", {}), "sample_sigmas": whole}
    return {**extra, "model_options": {**options, "transformer_options": patches}}


def reporter(callback: Any, bar: Any) -> Callable[[Progress], None]:
    """The callback of a run, as the host's callback and its bar want it."""

    def report(p: Progress) -> None:
        if callback is not None:
            level = p.x.new_full((), p.sigma)
            callback(
                {"x": p.x, "i": p.step, "sigma": level, "sigma_hat": level, "denoised": p.denoised}
            )
        bar.update(p.step + 1 - bar.n)  # a solver that chooses its steps passes levels unevenly

    return report


@contextmanager
def standing_at(guider: Any, sigma: float) -> Iterator[None]:
    """A call of our Guider in here is for a state at ``sigma``, whatever level a wrapper on the way reports."""
    if not hasattr(guider, "state_level"):
        yield
        return
    guider.state_level = sigma
    try:
        yield
    finally:
        guider.state_level = None


def handed(
    noise_sampler: Any, levels: list[float], asked: list[float], solver: Solver
) -> DrawNoise:
    """The draws of a ``noise_sampler(σ, σ')`` of another pack, between the level last asked and the next of SIGMAS.

    Raises ValueError for a second draw on the way to one level: such a sampler's noises overlap; and for a solver that draws
    before it asks.
    """
    if isinstance(solver, InRounds) and solver.stochastic:
        raise ValueError(
            f"sampler: a pack hands its noise_sampler to {solver.title}, which draws for several levels before it comes to "
            "them; leave that pack's noise out, or take the solver itself"
        )
    drawn: set[float] = set()

    def draw(position: int, like: Tensor) -> Tensor:
        start = asked[0]
        end = next((level for level in levels if level < start), 0.0)
        if end in drawn:
            raise ValueError(
                f"sampler: a pack hands its noise_sampler to {solver.name_shown}, which draws twice on the way to one noise level, "
                "where such a sampler has one noise; use a solver that draws once a step, or leave that pack's noise out"
            )
        drawn.add(end)
        z: Tensor = noise_sampler(like.new_tensor(start), like.new_tensor(end))
        return z.to(like)

    return draw


def make_sampler(solver: Solver | Part | Stepped) -> Any:
    """SAMPLER around a solver; masks, previews and noise scaling are KSAMPLER's."""
    return comfy.samplers.KSAMPLER(solve, {"solver": solver})


def solver_of(sampler: Any) -> Solver | Part | Stepped | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    if getattr(sampler, "sampler_function", None) is not solve:
        return None
    return sampler.extra_options["solver"]
