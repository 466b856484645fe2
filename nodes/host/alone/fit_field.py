"""Fits without ComfyUI: GUIDERs as fields, who they are, and progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from ....schedulers.fit.fingerprint import contents, fingerprint
from ....schedulers.fit.problem import Field
from ....schedulers.noise_schedule import NoiseSchedule
from ..guidance_wire import placed
from ..guider_field import Facts, Ready, dealt, in_words, prepared, refuse_memory
from . import places
from .guider import Guider

T = TypeVar("T")


def latent_shape(guider: Guider, latent: Tensor) -> tuple[int, ...]:
    """Of one image, as the model sees it."""
    return tuple(guider.model.latents.from_vae(latent[:1].float()).shape[1:])


def facts_of_guider(guider: Guider) -> Facts:
    """Raises TypeError for a foreign GUIDER."""
    if not isinstance(guider, Guider):
        raise TypeError(f"guider: expected a GUIDER, got {type(guider).__name__}")
    models = {"": guider.model} | ({"weak.": guider.weak_model} if guider.weak_model else {})
    tensors = [
        (f"{key}{name}", t)
        for key, model in models.items()
        for name, t in (*model.inner.named_parameters(), *model.inner.named_buffers())
    ]
    return Facts(
        fingerprint(tensors),
        fingerprint(contents(guider.conds), values=512),
        str(guider.model.prediction),
        in_words(guider.guidance),
    )


def network_of_guider(guider: Guider) -> nn.Module:
    return guider.model.inner


def schedule_of_guider(guider: Guider) -> NoiseSchedule:
    return guider.model.schedule


def noise_scale_of_guider(guider: Guider) -> float:
    return 1.0


def with_field(
    guiders: Sequence[Guider], shape: Sequence[int], batch: int, seed: int, then: Callable[[Ready], T]
) -> T:  # fmt: skip
    """``then`` with D(x, σ, rows) of the guiders in turn; rows count around within a guider's conditions."""
    return then(Ready(dealt([field_of(guider) for guider in guiders])))


def field_of(guider: Guider) -> Field:
    run = guider.guidance.begin(guider.model.schedule.path)
    run.keep_graph = True
    branches = guider.branches(None)

    begun: list[bool] = []

    def field(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        y, level, told = prepared(x, sigma, places.device())
        if not begun:
            run.guidance = placed(guider.guidance, y)
            begun.append(True)

        def evaluate(z: Tensor, s: float, names: Sequence[str]) -> dict[str, Tensor]:
            at = s if told is None or s != level else told
            return branches(z, at, names, rows)

        d = run(y, level, evaluate)
        refuse_memory(run)
        run.records.clear()  # thousands of evaluations: nobody reads them
        return d.to(x.device)

    return field
