"""Our solvers in KSampler's own lists, for nodes that take a sampler by name (FaceDetailer and its kind).

Off unless the user's setting ``SETTING`` is on when ComfyUI starts. It only adds: names begin with ``PREFIX``, none of
ComfyUI's is changed, and the functions stand beside ComfyUI's in ``comfy.k_diffusion.sampling``, where it looks them up by name.
"""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path

from ....schedulers.solver.published import ROWS

SETTING, PREFIX = "SamplingKit.KSamplerLists", "sampling_kit_"
MOST_BYTES = 1 << 20  # of the file of settings

log = logging.getLogger(__name__)


def names() -> dict[str, str]:
    """{name in the lists: published name}."""
    return {PREFIX + _plain(row.name): row.name for row in ROWS}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("++", "pp")).strip("_")


def wished(folder: Path) -> bool:
    """Whether the user whose settings lie in ``folder`` switched it on; a file that cannot be read is a no."""
    file = folder / "comfy.settings.json"
    try:
        if file.stat().st_size > MOST_BYTES:
            return False
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.get(SETTING) is True


def offer_if_wished() -> None:
    """Adds the names where the setting is on. What ComfyUI lacks for it is a warning, and the pack loads."""
    try:
        import folder_paths

        if wished(Path(folder_paths.get_user_directory()) / "default"):
            log.info("%d solvers are in KSampler's lists, as %s…", offer(), PREFIX)
    except (ImportError, AttributeError) as error:
        log.warning("%s: the solvers are not in KSampler's lists: %s", SETTING, error)


def offer() -> int:
    """Adds what is not there yet. Returns how many names ComfyUI has of ours."""
    import comfy.k_diffusion.sampling as functions
    import comfy.samplers

    from .sampler import solve

    solvers = {PREFIX + _plain(row.name): row.solver for row in ROWS}
    for name, solver in solvers.items():
        setattr(functions, f"sample_{name}", partial(solve, solver=solver))
        for names_there in (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES):
            if name not in names_there:
                names_there.append(name)
    return len(solvers)
