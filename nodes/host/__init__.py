"""The one door to the outside: ComfyUI where there is one, a stand-in where there is none.

Every node file imports its host from here and nothing else knows which of the two it got. Both sides
offer the same names; ``comfy/`` builds ComfyUI's own objects, ``alone/`` the smallest ones
that mean the same, for the headless runner.
"""

from __future__ import annotations

import importlib.util

PRESENT = importlib.util.find_spec("comfy_api") is not None

if PRESENT:
    from .comfy.api import ComfyExtension, io
    from .comfy.fit_field import (
        facts_of_guider,
        latent_shape,
        network_of_guider,
        noise_scale_of_guider,
        progress,
        schedule_of_guider,
        with_field,
    )
    from .comfy.folder_model import (  # pyright: ignore
        compute_device,
        latent_layout,
        make_diffusers,
        sized_flow,
    )
    from .comfy.guider import make_guider, probed
    from .comfy.model import (
        compute_choice,
        facts_of,
        in_dtype,
        latent_space,
        model_of,
        noise_scale,
        probe,
        raw_output,
        relabelled,
        schedule_of,
    )
    from .comfy.native_model import make_model
    from .comfy.places import (
        ABSOLUTE_FOLDERS,
        folder,
        loaded,
        model_folders,
        patcher,
        set_device,
    )
    from .comfy.route import add_route  # pyright: ignore
    from .comfy.sampler import make_sampler, solver_of
    from .comfy.traced import as_latent, path_of, run_sampler, sampler_name, traced
else:
    from .alone import io
    from .alone.fit_field import (
        facts_of_guider,
        latent_shape,
        network_of_guider,
        noise_scale_of_guider,
        progress,
        schedule_of_guider,
        with_field,
    )
    from .alone.guider import make_guider, model_of, probe, probed
    from .alone.model import (
        compute_choice,
        facts_of,
        in_dtype,
        latent_layout,
        latent_space,
        make_diffusers,
        make_model,
        noise_scale,
        raw_output,
        relabelled,
        schedule_of,
        sized_flow,
    )
    from .alone.places import (
        ABSOLUTE_FOLDERS,
        ComfyExtension,
        add_route,
        compute_device,
        folder,
        loaded,
        model_folders,
        patcher,
        set_device,
    )
    from .alone.sampler import make_sampler, solver_of
    from .alone.traced import as_latent, path_of, run_sampler, sampler_name, traced

__all__ = [
    "ABSOLUTE_FOLDERS",
    "PRESENT",
    "ComfyExtension",
    "add_route",
    "as_latent",
    "compute_choice",
    "compute_device",
    "facts_of",
    "facts_of_guider",
    "folder",
    "in_dtype",
    "io",
    "latent_layout",
    "latent_shape",
    "latent_space",
    "loaded",
    "make_diffusers",
    "make_guider",
    "make_model",
    "make_sampler",
    "model_folders",
    "model_of",
    "network_of_guider",
    "noise_scale",
    "noise_scale_of_guider",
    "patcher",
    "path_of",
    "probe",
    "probed",
    "progress",
    "raw_output",
    "relabelled",
    "run_sampler",
    "sampler_name",
    "schedule_of",
    "schedule_of_guider",
    "set_device",
    "sized_flow",
    "solver_of",
    "traced",
    "with_field",
]
