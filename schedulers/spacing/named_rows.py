"""Lists of noise levels that were published with a model, or searched for one: numbers, no code.

Every list runs from the largest level down and leaves out the final 0. Each row says where its numbers stand; the tests
compare them with ComfyUI and diffusers where those are installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..text_table import markdown_table

Levels = tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One name of the menu.

    ``lists``: by the number of levels, shortest first. ``unit``: "sigma" (κ of VP and VE), "flow" (t of rectified flow)
    or "timestep" (of a table of 1000). ``closed``: the last level of a list is the schedule's smallest, in whose place
    a run ends. ``pick``: how a number of steps that no list has is made: "curve" resamples, "spread" and "first" take
    levels of the one list. ``words``: what people search for.
    """

    PICKS: ClassVar[tuple[str, ...]] = ("curve", "spread", "first")
    name: str
    model: str
    solver: str
    source: str
    unit: str
    lists: tuple[Levels, ...]
    closed: bool = False
    pick: str = "curve"
    words: tuple[str, ...] = ()


# fmt: off
_GITS: tuple[Levels, ...] = (
    (14.61464119, 0.803307, 0.02916753),
    (14.61464119, 1.56271636, 0.52423614, 0.02916753),
    (14.61464119, 2.36326075, 0.92192322, 0.36617002, 0.02916753),
    (14.61464119, 2.84484982, 1.24153244, 0.59516323, 0.25053367, 0.02916753),
    (14.61464119, 5.85520077, 2.05039096, 0.95350921, 0.45573691, 0.17026083, 0.02916753),
    (14.61464119, 5.85520077, 2.45070267, 1.24153244, 0.64427125, 0.29807833, 0.09824532, 0.02916753),
    (14.61464119, 5.85520077, 2.45070267, 1.36964464, 0.803307, 0.45573691, 0.25053367, 0.09824532, 0.02916753),
    (
        14.61464119, 5.85520077, 2.84484982, 1.61558151, 0.95350921, 0.59516323, 0.36617002, 0.19894916, 0.09824532,
        0.02916753,
    ),
    (
        14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381, 0.32104823, 0.19894916,
        0.09824532, 0.02916753,
    ),
    (
        14.61464119, 5.85520077, 2.95596409, 1.84880662, 1.24153244, 0.83188516, 0.59516323, 0.41087446, 0.27464288,
        0.17026083, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 5.85520077, 3.07277966, 1.98035145, 1.36964464, 0.95350921, 0.69515091, 0.50118381, 0.36617002,
        0.25053367, 0.17026083, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 6.77309084, 3.46139455, 2.36326075, 1.56271636, 1.08895338, 0.803307, 0.59516323, 0.45573691,
        0.34370604, 0.25053367, 0.17026083, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 6.77309084, 3.46139455, 2.45070267, 1.61558151, 1.162866, 0.86115354, 0.64427125, 0.50118381,
        0.38853383, 0.29807833, 0.22545385, 0.17026083, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125,
        0.50118381, 0.38853383, 0.29807833, 0.22545385, 0.17026083, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125,
        0.50118381, 0.41087446, 0.32104823, 0.25053367, 0.19894916, 0.13792117, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125,
        0.50118381, 0.41087446, 0.34370604, 0.27464288, 0.22545385, 0.17026083, 0.13792117, 0.09824532, 0.02916753,
    ),
    (
        14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.20157266, 0.92192322, 0.72133851,
        0.57119018, 0.45573691, 0.36617002, 0.29807833, 0.25053367, 0.19894916, 0.17026083, 0.13792117, 0.09824532,
        0.02916753,
    ),
    (
        14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244, 0.95350921, 0.74807048,
        0.59516323, 0.4783645, 0.38853383, 0.32104823, 0.27464288, 0.22545385, 0.19894916, 0.17026083, 0.13792117,
        0.09824532, 0.02916753,
    ),
    (
        14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244, 0.95350921, 0.74807048,
        0.59516323, 0.50118381, 0.41087446, 0.34370604, 0.29807833, 0.25053367, 0.22545385, 0.19894916, 0.17026083,
        0.13792117, 0.09824532, 0.02916753,
    ),
)
_AYS_SD1: Levels = (
    14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
    0.3977456272, 0.1515232662, 0.0291671582,
)
_AYS_SDXL: Levels = (
    14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708,
    0.2332364134, 0.1114188177, 0.0291671582,
)
_AYS_SVD: Levels = (
    700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002,
)
_OSS_FLUX: Levels = (
    0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001,
)
_OSS_WAN: Levels = (
    1.0, 0.997, 0.995, 0.993, 0.991, 0.989, 0.987, 0.985, 0.98, 0.975, 0.973, 0.968, 0.96, 0.946, 0.927, 0.902,
    0.864, 0.776, 0.539, 0.208, 0.001,
)
_OSS_CHROMA: Levels = (
    0.992, 0.99, 0.988, 0.985, 0.982, 0.978, 0.973, 0.968, 0.961, 0.953, 0.943, 0.931, 0.917, 0.9, 0.881, 0.858,
    0.832, 0.802, 0.769, 0.731, 0.69, 0.646, 0.599, 0.55, 0.501, 0.451, 0.402, 0.355, 0.311, 0.27, 0.232, 0.199,
    0.169, 0.143, 0.12, 0.101, 0.084, 0.07, 0.058, 0.048, 0.001,
)
# fmt: on

_AYS = "Sabour et al. 2024 (arXiv 2404.14507), research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html"
_OSS = "Pei et al. 2025 (arXiv 2503.21774), github.com/bebebe666/OptimalSteps"
_LTX = "github.com/Lightricks/LTX-2, ltx_pipelines/utils/constants.py"
_SDE = "stochastic solvers, and DPM++ 2M"

ROWS: tuple[Row, ...] = (
    Row("AYS SD 1.5", "Stable Diffusion 1.5", _SDE, _AYS, "sigma", (_AYS_SD1,), True, words=("AYS",)),
    Row("AYS SDXL", "SDXL", _SDE, _AYS, "sigma", (_AYS_SDXL,), True),
    Row("AYS SVD", "Stable Video Diffusion", _SDE, _AYS, "sigma", (_AYS_SVD,), True, words=("SVD",)),
    Row(
        "GITS SD 1.5", "Stable Diffusion 1.5", "DDIM, iPNDM",
        "Chen et al. 2024 (arXiv 2405.11326), github.com/zju-pi/diff-sampler, coefficient 1.20", "sigma", _GITS, True,
        words=("GITS",),
    ),
    Row("OSS Flux", "FLUX.1-dev", "Euler", _OSS, "flow", (_OSS_FLUX,), True, words=("optimal steps", "Flux")),
    Row("OSS Wan", "Wan 2.1", "Euler", _OSS, "flow", (_OSS_WAN,), True, words=("Wan",)),
    Row("OSS Chroma", "Chroma", "Euler", _OSS, "flow", (_OSS_CHROMA,), True, words=("Chroma",)),
    Row(
        "LCM", "networks distilled as latent consistency models: LCM-LoRA, DMD2 (its diffusers recipe), TCD", "LCM, TCD",
        "Luo et al. 2023 (arXiv 2310.04378), 50 steps of DDIM thinned evenly as in diffusers' LCMScheduler", "timestep",
        (tuple(float(t) for t in range(999, 0, -20)),), pick="spread", words=("LCM-LoRA", "TCD"),
    ),
    Row(
        "SDXL Lightning", "SDXL Lightning, and Hyper-SD with DDIM", "Euler, DDIM",
        "arXiv 2402.13929; ByteDance asks for trailing timesteps", "timestep",
        ((999.0,), (999.0, 499.0), (999.0, 749.0, 499.0, 249.0), (999.0, 874.0, 749.0, 624.0, 499.0, 374.0, 249.0, 124.0)),
        words=("Lightning", "Hyper-SD"),
    ),
    Row(
        "SD Turbo", "SD Turbo, SDXL Turbo", "Euler, Euler a", "ComfyUI's SDTurboScheduler: the first of ten levels",
        "timestep", (tuple(float(t) for t in range(999, 0, -100)),), pick="first", words=("SDXL Turbo",),
    ),
    Row(
        "DMD2 SDXL", "DMD2 for SDXL", "LCM", "github.com/tianweiy/DMD2, demo/text_to_image_sdxl.py and README", "timestep",
        ((399.0,), (999.0, 749.0, 499.0, 249.0)), words=("DMD2",),
    ),
    Row(
        "Hyper-SDXL 1 step", "Hyper-SDXL's one-step network", "one step", "arXiv 2404.13686, ByteDance/Hyper-SD README",
        "timestep", ((800.0,),), words=("Hyper-SDXL",),
    ),
    Row(
        "LTX-2 distilled", "LTX-2, 2.3 and 2.5 distilled, LTX-Video 0.9.8 distilled", "Euler", _LTX, "flow",
        ((1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875),), words=("LTX",),
    ),
    Row("LTX-2 distilled stage 2", "LTX-2 distilled, after the upscaler", "Euler", _LTX, "flow", ((0.909375, 0.725, 0.421875),)),
    Row(
        "FLUX.2-dev Turbo", "FLUX.2-dev with fal's Turbo LoRA", "Euler", "model card of fal/FLUX.2-dev-Turbo", "flow",
        ((1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031),), words=("FLUX.2 Turbo",),
    ),
    Row("PiD distilled", "PiD", "Euler", "ComfyUI, comfy/supported_models.py", "flow", ((0.999, 0.866, 0.634, 0.342),)),
)  # fmt: skip


def row_table() -> str:
    """The rows as a Markdown table: names, models, steps that a list has, solvers, sources."""
    lines = []
    for row in ROWS:
        counts = [len(levels) - row.closed for levels in row.lists]
        listed = ", ".join(map(str, counts)) if row.pick == "curve" else f"1 to {counts[0]}"
        if len(counts) > 4:
            listed = f"{counts[0]} to {counts[-1]}"
        lines.append((row.name, row.model, listed, row.solver, row.source))
    return markdown_table(("list", "model", "steps listed", "made for", "source"), lines)


BY_NAME: dict[str, Row] = {row.name: row for row in ROWS}
