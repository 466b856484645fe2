"""The one door to the outside: ComfyUI where there is one, a stand-in where there is none.

Every node file imports its host from here and nothing else knows which of the two it got. Both sides
offer the same names; ``_comfy.py`` builds ComfyUI's own objects, ``_standalone.py`` the smallest ones
that mean the same, for the headless runner.
"""

from __future__ import annotations

import importlib.util

PRESENT = importlib.util.find_spec("comfy_api") is not None

if PRESENT:
    from ._comfy import (  # pyright: ignore
        ComfyExtension,
        compute_choice,
        facts_of,
        folder,
        in_dtype,
        io,
        make_guider,
        make_model,
        make_sampler,
        noise_scale,
        probe,
        raw_output,
        relabelled,
        schedule_of,
        set_device,
        solver_of,
    )
else:
    from . import io_standalone as io
    from ._standalone import (
        ComfyExtension,
        compute_choice,
        facts_of,
        folder,
        in_dtype,
        make_guider,
        make_model,
        make_sampler,
        noise_scale,
        probe,
        raw_output,
        relabelled,
        schedule_of,
        set_device,
        solver_of,
    )

__all__ = [
    "PRESENT",
    "ComfyExtension",
    "compute_choice",
    "facts_of",
    "folder",
    "in_dtype",
    "io",
    "make_guider",
    "make_model",
    "make_sampler",
    "noise_scale",
    "probe",
    "raw_output",
    "relabelled",
    "schedule_of",
    "set_device",
    "solver_of",
]
