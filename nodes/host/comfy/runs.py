"""``host.runs`` inside ComfyUI; what the functions do stands in ``protocol.py``.

Each function imports its file when it is called, so that a name ComfyUI drops costs only the nodes that need it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from ....schedulers.guidance import Guidance
from ....schedulers.measure import Evaluate
from ....schedulers.measure.trace import View
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.path import Path
from ....schedulers.solver import Solver
from ....schedulers.split import Part, Stepped
from ..conditioning import Conditioning
from ..guidance_wire import Holder
from ..guider_field import Facts, Ready
from ..trace_watch import Watch

T = TypeVar("T")


def make_guider(
    model: Any,
    conds: Mapping[str, Conditioning],
    guidance: Guidance,
    *,
    weak: Any = None,
    share_pure_noise: bool = False,
) -> Any:
    from .guider import make_guider

    return make_guider(model, conds, guidance, weak=weak, share_pure_noise=share_pure_noise)


def probed(guider: Any, holder: Holder) -> Any:
    from .guider import probed

    return probed(guider, holder)


def blocked(why: str = "") -> Any:
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(why or None)


def consumer() -> Hashable:
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None
    context: Hashable = get_executing_context()
    return context


def refused(class_type: str, input: str, value: Any) -> str:
    from comfy_execution.graph import get_input_info

    node_class = sys.modules["nodes"].NODE_CLASS_MAPPINGS[class_type]  # ComfyUI's, by its name
    kind, _, options = get_input_info(node_class, input)
    choices = kind if isinstance(kind, list) else (options or {}).get("options")
    if choices and kind not in ("INT", "FLOAT", "STRING", "BOOLEAN") and value not in choices:
        return f"choose one of {', '.join(map(str, list(choices)[:20]))}"
    low, high = ((options or {}).get(name) for name in ("min", "max"))
    if kind == "INT" and value != int(value):
        return "it must be a whole number"
    if kind in ("INT", "FLOAT") and not (low is None or value >= low):
        return f"the smallest is {low}"
    if kind in ("INT", "FLOAT") and not (high is None or value <= high):
        return f"the largest is {high}"
    return ""


def reported(sampler: Any, report: Callable[[float], float]) -> Any:
    from .reported import reported

    return reported(sampler, report)


def model_of(value: Any) -> Any:
    from .evaluation import model_of

    return model_of(value)


def probe(
    model: Any,
    positive: Conditioning | None,
    latent: dict[str, Any],
    look: Callable[[Tensor, Evaluate], T],
) -> T:
    from .evaluation import probe

    return probe(model, positive, latent, look)


def make_sampler(solver: Solver | Part | Stepped) -> Any:
    from .sampler import make_sampler

    return make_sampler(solver)


def solver_of(sampler: Any) -> Solver | Part | Stepped | None:
    from .sampler import solver_of

    return solver_of(sampler)


def sampler_name(sampler: Any) -> str:
    from .traced import sampler_name

    return sampler_name(sampler)


def run_sampler(
    noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any]
) -> dict[str, Any]:
    from .traced import run_sampler

    return run_sampler(noise, guider, sampler, sigmas, latent)


def traced(sampler: Any, watch: Watch) -> Any:
    from .traced import traced

    return traced(sampler, watch)


def path_of(guider: Any) -> Path:
    from .traced import path_of

    return path_of(guider)


def as_latent(view: View, x: Tensor, like: dict[str, Any]) -> dict[str, Any]:
    from .traced import as_latent

    return as_latent(view, x, like)


def facts_of_guider(guider: Any) -> Facts:
    from .fit_field import facts_of_guider

    return facts_of_guider(guider)


def schedule_of_guider(guider: Any) -> NoiseSchedule:
    from .fit_field import schedule_of_guider

    return schedule_of_guider(guider)


def noise_scale_of_guider(guider: Any) -> float:
    from .fit_field import noise_scale_of_guider

    return noise_scale_of_guider(guider)


def network_of_guider(guider: Any) -> nn.Module:
    from .fit_field import network_of_guider

    return network_of_guider(guider)


def latent_shape(guider: Any, latent: Tensor) -> tuple[int, ...]:
    from .fit_field import latent_shape

    return latent_shape(guider, latent)


def with_field(
    guiders: Sequence[Any], shape: Sequence[int], batch: int, seed: int, then: Callable[[Ready], T]
) -> T:
    from .fit_field import with_field

    return with_field(guiders, shape, batch, seed, then)
