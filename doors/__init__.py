"""The engine in other people's loops: a diffusers scheduler, and k-diffusion functions.

    pipe.scheduler = KitScheduler.from_config(pipe.scheduler.config, solver=UniPC(3), spacing=Karras())
    x = k_diffusion_sampler(UniPC(3))(model, x, sigmas)

Each gives what our own run gives, to the rounding of floats (docs/python.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .k_diffusion import k_diffusion_sampler

if TYPE_CHECKING:
    from .diffusers_scheduler import KitScheduler

__all__ = ["KitScheduler", "k_diffusion_sampler"]


def __getattr__(name: str) -> Any:
    """KitScheduler is there once it is asked for: it needs diffusers."""
    if name == "KitScheduler":
        from .diffusers_scheduler import KitScheduler

        return KitScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
