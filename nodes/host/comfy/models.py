"""``host.models`` inside ComfyUI; what the functions do stands in ``protocol.py``.

Each function imports its file when it is called, so that a name ComfyUI drops costs only the nodes that need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....schedulers.denoiser import Denoiser
from ....schedulers.denoiser.diffusers import DiffusersDenoiser
from ....schedulers.measure.compute_dtype import Choice
from ....schedulers.measure.model_facts import ModelFacts
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.prediction import Prediction
from ....schedulers.size_shift import SizedFlow
from ..latent_layout import LatentLayout


def schedule_of(model: Any) -> NoiseSchedule:
    from .model import schedule_of

    return schedule_of(model)


def facts_of(model: Any) -> ModelFacts:
    from .model import facts_of

    return facts_of(model)


def noise_scale(model: Any) -> float:
    from .model import noise_scale

    return noise_scale(model)


def latent_space(model: Any) -> tuple[int | None, Callable[[Tensor], Tensor]]:
    from .model import latent_space

    return latent_space(model)


def latent_layout(model: Any) -> LatentLayout:
    from .folder_model import latent_layout

    return latent_layout(model)


def sized_flow(model: Any) -> SizedFlow | None:
    from .folder_model import sized_flow

    return sized_flow(model)


def compute_choice(model: Any, asked: str) -> Choice:
    from .model import compute_choice

    return compute_choice(model, asked)


def in_dtype(model: Any, dtype: torch.dtype | None) -> Any:
    from .model import in_dtype

    return in_dtype(model, dtype)


def relabelled(model: Any, prediction: str | None, schedule: NoiseSchedule | None) -> Any:
    from .model import relabelled

    return relabelled(model, prediction, schedule)


def raw_output(model: Any) -> Any:
    from .evaluation import raw_output

    return raw_output(model)


def make_model(
    build: Callable[[Any], Denoiser], schedule: NoiseSchedule, prediction: Prediction | None = None
) -> Any:
    from .native_model import make_model

    return make_model(build, schedule, prediction)


def make_diffusers(
    network: DiffusersDenoiser, vae: str, again: Callable[[], tuple[DiffusersDenoiser, str]]
) -> Any:
    from .folder_model import make_diffusers

    return make_diffusers(network, vae, again)
