"""``host.runs`` without ComfyUI: GUIDER and SAMPLER made, asked, traced and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ....schedulers.guidance import COND, Guidance
from ....schedulers.measure import Evaluate
from ..conditioning import Conditioning
from . import io, places
from .fit_field import (
    facts_of_guider,
    latent_shape,
    network_of_guider,
    noise_scale_of_guider,
    schedule_of_guider,
    with_field,
)
from .guider import Guider, probed
from .models import Model, schedule_of
from .sampler import make_sampler, solver_of
from .told_level import reported
from .traced import as_latent, path_of, run_sampler, sampler_name, traced

__all__ = [
    "as_latent",
    "blocked",
    "consumer",
    "facts_of_guider",
    "latent_shape",
    "make_guider",
    "make_sampler",
    "model_of",
    "network_of_guider",
    "noise_scale_of_guider",
    "path_of",
    "probe",
    "probed",
    "refused",
    "reported",
    "run_sampler",
    "sampler_name",
    "schedule_of_guider",
    "solver_of",
    "traced",
    "with_field",
]

T = TypeVar("T")


def blocked(why: str = "") -> io.Blocked:
    return io.Blocked(why)


def refused(class_type: str, input: str, value: Any) -> str:
    """Nothing: here the whole graph is made, and checked, before anything runs."""
    return ""


def consumer() -> None:
    """Nobody says; nodes here keep to themselves what they set."""


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


def model_of(value: Any) -> Any:
    """The MODEL of a GUIDER; anything else as it is."""
    return value.model if isinstance(value, Guider) else value


def probe(
    model: Model | Guider, positive: Conditioning | None, latent: dict[str, Any], look: Callable[[Tensor, Evaluate], T]
) -> T:  # fmt: skip
    """``look(x0, D)``: x0 the latent, D the MODEL under ``positive``, or a GUIDER's."""
    if isinstance(model, Guider):
        guider = probed(model, None)
    else:
        guider = make_guider(model, {COND: positive or [[None, {}]]}, Guidance())
    x0 = guider.model.latent_in(latent["samples"].to(places.device(), torch.float32))
    with torch.inference_mode():
        return look(x0, guider.denoiser(len(x0)))
