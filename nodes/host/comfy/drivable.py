"""Whether our solvers can drive a MODEL: networks with a sampler of their own, and patches that count calls as steps."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import comfy.model_base
import torch
from torch import Tensor

from ....schedulers.path import Path
from ....schedulers.points import Points
from ....schedulers.solver import Solver
from ....schedulers.solver.base import host_plan
from ....schedulers.split import Part, Stepped

log = logging.getLogger("sampling_kit")

#: Methods of a network or of its MODEL that make the result themselves, and what such a network does.
OWN_SAMPLERS: dict[str, str] = {
    "init_kv_caches": "makes a video block by block and keeps each block in a cache for the next ones",
    "sample": "has a sampling method of its own",
    "sample_actions": "makes a policy's actions by a method of its own",
    "select_action": "makes a policy's actions by a method of its own",
    "generate": "generates its result by a method of its own",
}
CACHE = re.compile(r"(\w*?)(?<!kv)_?cache", re.IGNORECASE)
#: Caches as their packs call them, by what is left of "cache".
CACHES = {
    "easy": "EasyCache", "lazy": "LazyCache", "tea": "TeaCache", "fb": "FBCache", "firstblock": "FBCache",
    "mag": "MagCache", "taylor": "TaylorSeer", "wave": "WaveSpeed",
}  # fmt: skip


def require_drivable(model: Any) -> None:
    """Raises ValueError, which names the class, for a ``BaseModel`` that no SAMPLER can drive step by step."""
    network = model.diffusion_model
    for owner, base in ((network, object), (model, comfy.model_base.BaseModel)):
        for name, what in OWN_SAMPLERS.items():
            if callable(getattr(type(owner), name, None)) and not hasattr(base, name):
                raise ValueError(
                    f"model: {type(owner).__name__} {what} ({name}): a SAMPLER hands a network one state and one noise "
                    "level, and cannot drive it. Take the sampler that came with this MODEL"
                )


def caches(model_options: Mapping[str, Any]) -> list[str]:
    """Names of the caches in a MODEL's options that skip calls of the network by what the last call gave.

    By the keys of their wrappers; those that have no such key by what else they leave in the options.
    """
    options = model_options.get("transformer_options", {})
    tables = list(options.get("wrappers", {}).values())
    names = _named(str(key) for table in tables for key in table)
    if not names:
        functions = [f for table in tables for fs in table.values() for f in fs]
        functions += [f for fs in options.get("patches", {}).values() for f in fs]
        names = _named([*map(str, options), *map(_name, functions)])
    return sorted(names | _named([_name(model_options.get("model_function_wrapper"))]))


def _named(texts: Iterable[str]) -> set[str]:
    """The caches that texts speak of, as their packs call them."""
    found = (name.lower() for text in texts for name in CACHE.findall(text))
    short = (re.split(r"[_.]", name)[-1] for name in found)
    return {CACHES.get(name, f"{name.title()}Cache" if name else "a cache") for name in short}


def _name(function: Any) -> str:
    """The name of a function, or of the class of another callable."""
    return str(getattr(function, "__name__", type(function).__name__))


def warn_of_caches(
    solver: Solver, levels: Sequence[float], model_options: Mapping[str, Any]
) -> None:
    """A line in the log where a cache takes one call for one step and the solver makes more."""
    steps = len(levels) - 1
    if steps < 1 or (solver.planned and solver.nfe(steps) <= steps):
        return
    if names := caches(model_options):
        log.warning(
            "model: its cache (%s) takes each call of the network for a step and skips by what the last call gave, but %s "
            "calls it more than once a step, at levels between those of SIGMAS: what is skipped is not what its settings "
            "were made for. Take a solver with one call a step (UniPC, DPM-Solver++ multistep, DDIM), or leave it out",
            ", ".join(names), solver.title or type(solver).__name__,
        )  # fmt: skip


def look_before(
    solver: Solver | Part | Stepped, path: Path, levels: Sequence[float], options: Mapping[str, Any], x: Tensor
) -> None:  # fmt: skip
    """What the log says before a run from x of a MODEL with these options."""
    whole = solver if isinstance(solver, Solver) else solver.solver
    warn_of_caches(whole, levels, options)
    say_what_is_kept(whole, path, levels, x)


def say_what_is_kept(solver: Solver, path: Path, levels: Sequence[float], x: Tensor) -> None:
    """A line in the log: the bytes of earlier states and predictions that a run from x keeps."""
    if len(levels) < 2 or not solver.planned:
        return
    states, predictions = host_plan(solver, Points.from_sigmas(path, levels)).reach
    size = x.numel() * torch.float32.itemsize
    log.info(
        "%s: keeps %d states and %d predictions of %.3g MiB on %s",
        solver.title or type(solver).__name__, states, predictions, size / 2**20, x.device,
    )  # fmt: skip
