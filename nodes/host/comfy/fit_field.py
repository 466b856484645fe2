"""Fits inside ComfyUI: any GUIDER as a field, who it is, and progress.

A GUIDER can only be asked while it samples, when its models are loaded and its conditions are made
ready: so a fit is a SAMPLER that asks and leaves the latent as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import comfy.conds
import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ....schedulers.fit.fingerprint import contents, fingerprint
from ....schedulers.fit.problem import Field
from ....schedulers.guidance import differentiable, ordinary
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.points import Points
from ..guider_field import Facts, Ready, cfg_in_words, dealt, in_words, prepared, refuse_memory
from .conditions import image_rows, readable
from .guider import Guider
from .model import facts_of, noise_scale, schedule_of, state_for
from .native_model import Network
from .step_level import noted

T = TypeVar("T")


def latent_shape(guider: Any, latent: Tensor) -> tuple[int, ...]:
    """Of one image, with the channels that the guider's MODEL has."""
    import comfy.sample

    if getattr(latent, "is_nested", False):
        raise ValueError(
            "latent: of several parts (video and its sound): solvers are fitted for one part only"
        )
    return tuple(comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent).shape[1:])


def facts_of_guider(guider: Any) -> Facts:
    """Raises TypeError for what has no MODEL."""
    patcher = getattr(guider, "model_patcher", None)
    if patcher is None:
        raise TypeError(f"guider: expected a GUIDER with a MODEL, got {type(guider).__name__}")
    weak = getattr(guider, "weak_model", None)
    models = {"": patcher} | ({"weak.": weak} if weak is not None else {})
    tensors = [(f"{key}{n}", t) for key, m in models.items() for n, t in weights_of(m)]
    found = facts_of(patcher)
    own = isinstance(guider, Guider)
    words = in_words(guider.guidance) if own else cfg_in_words(float(getattr(guider, "cfg", 1.0)))
    if type(guider).__name__ not in ("Guider", "Guider_Basic", "CFGGuider"):
        words = f"{type(guider).__name__}, {words}"
    return Facts(
        fingerprint(tensors),
        fingerprint(contents(guider.original_conds), values=512),
        str(found.prediction),
        words,
    )


def weights_of(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights as they are without patches, and the patches. A patched weight counts by its shape: whether
    the patch is already in it depends on what is loaded."""
    net, prefix = patcher.model.diffusion_model, "diffusion_model."
    if isinstance(net, Network):  # ours: the same fingerprint as without ComfyUI
        net, prefix = net.denoiser, f"{prefix}denoiser."
    patched = {key.removeprefix(prefix) for key in patcher.patches}
    for name, t in (*net.named_parameters(), *net.named_buffers()):
        yield name, torch.empty(t.shape, device="meta") if name in patched else t
    yield from contents(patcher.patches, "patches")
    options = patcher.model_options
    yield from contents({k: v for k, v in options.items() if k != "transformer_options"}, "options")
    yield from contents(options.get("transformer_options", {}), "transformer")


def network_of_guider(guider: Any) -> torch.nn.Module:
    net: torch.nn.Module = guider.model_patcher.model.diffusion_model
    return net


def schedule_of_guider(guider: Any) -> NoiseSchedule:
    return schedule_of(guider.model_patcher)


def noise_scale_of_guider(guider: Any) -> float:
    return noise_scale(guider.model_patcher)


def with_field(
    guiders: Sequence[Any], shape: Sequence[int], batch: int, seed: int, then: Callable[[Ready], T]
) -> T:
    """``then`` with D(x, σ, rows) of the guiders in turn, while all are sampling; memory is made free for
    ``batch`` images of ``shape``. Rows count around within a guider's conditions."""
    fields: list[Field] = []
    refusals: list[str] = []
    out: list[T] = []

    def enter(left: Sequence[Any]) -> None:
        if not left:
            check = comfy.model_management.throw_exception_if_processing_interrupted
            refusal = next(filter(None, refusals), "")
            out.append(then(Ready(dealt(fields), check, refusal)))
            return
        guider = left[0]

        def ask(
            model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None,
            disable: Any = None,
        ) -> Tensor:  # fmt: skip
            fields.append(field_of(guider, model, extra_args or {}))
            refusals.append(why_not_differentiable(guider))
            enter(left[1:])
            return torch.zeros_like(x)

        zeros = torch.zeros(batch, *shape)
        schedule = schedule_of_guider(guider)
        top = torch.tensor(Points(schedule.path, (schedule.kappa_max,)).sigmas())
        guider.sample(zeros, zeros, comfy.samplers.KSAMPLER(ask), top, disable_pbar=True, seed=seed)

    enter(guiders)
    return out[0]


def field_of(guider: Any, model: Any, extra: dict[str, Any]) -> Field:
    """D of a guider that is sampling; ``model`` and ``extra`` are what its sampler was given."""
    whole, patcher = guider.conds, guider.model_patcher
    sampling = patcher.get_model_object("model_sampling")
    single = all(most_rows(cond) == 1 for conds in whole.values() for cond in conds)
    own = guider if isinstance(guider, Guider) else None
    if own is not None and own.run is not None:
        own.run.keep_graph = True

    def field(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        y, level, told = prepared(x, sigma, patcher.load_device)
        y = state_for(sampling, y, level)
        if not single:
            guider.conds = {k: [of_rows(c, rows) for c in conds] for k, conds in whole.items()}
        try:
            with with_gradients(guider, y) as known:
                at = y.new_full((len(y),), level) if told is None else told.contiguous()
                d = model(y, noted(at, level), **known(extra))
        finally:
            guider.conds = whole
        if own is not None and own.run is not None:
            refuse_memory(own.run)
            own.run.records.clear()
        return d.to(x.device)

    return field


@contextmanager
def with_gradients(guider: Any, y: Tensor) -> Iterator[Callable[[Any], Any]]:
    """Where y needs a gradient, the guider's models and conditions are tensors that a graph can hold."""
    if not y.requires_grad:
        yield lambda extra: extra
        return
    loaded = [getattr(patcher, "model", patcher) for patcher in guider.loaded_models]
    before = guider.conds
    guider.conds = {k: readable(conds, True) for k, conds in before.items()}
    try:
        with differentiable(guider.inner_model, *loaded):
            yield ordinary
    finally:
        guider.conds = before


def why_not_differentiable(guider: Any) -> str:
    """ "" if D of this guider's MODEL can be differentiated by x as it is loaded."""
    patcher = guider.model_patcher
    small = {p.dtype for p in patcher.model.diffusion_model.parameters() if p.element_size() < 2}
    if small:
        return f"the MODEL's weights are quantised ({', '.join(sorted(map(str, small)))})"
    if getattr(patcher.model, "model_lowvram", False):
        return "the MODEL's weights do not fit in memory and are moved in for each call"
    return ""


def most_rows(cond: dict[str, Any]) -> int:
    """The most images that a part of the condition holds."""
    return max((len(t) for _, t in image_rows(cond)), default=1)


def of_rows(cond: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """The condition of some images. Raises ValueError for a mask or a control image per image."""
    parts = dict(cond["model_conds"])
    for name, held in parts.items():
        if not isinstance(held, comfy.conds.CONDConstant):
            held = copy.copy(held)
            pick = lambda t: t[(rows % len(t)).to(t.device)] if t.ndim else t  # noqa: E731
            held.cond = (
                [pick(t) for t in held.cond] if isinstance(held.cond, list) else pick(held.cond)
            )
            parts[name] = held
    plain = {k: v for k, v in cond.items() if k in ("mask", "control")}
    if plain and most_rows({**plain, "model_conds": {}}) > 1:
        raise ValueError(
            "guider: a mask or control image for each image of a batch; give all the same one"
        )
    return cond | {"model_conds": parts}
