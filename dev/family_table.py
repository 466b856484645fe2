"""Which tests hold a family of diffusers networks to its pipeline, and what cannot be done: docs/families.md.

    python -m sampling_kit.dev.family_table         # print it; dev.sync writes it

A cell names a test (below ``tests/``), or says why there is none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ..schedulers.denoiser.diffusers.families import FAMILIES
from ..schedulers.text_table import markdown_table

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
RUNS, PIPELINES = "test_diffusers_runs.py::", "test_diffusers_pipelines.py::"
MORE, BESIDE, COG = (
    "test_diffusers_families.py::",
    "test_diffusers_beside.py::",
    "test_cogvideox_folders.py::",
)
NETWORKS = "test_diffusers_networks.py::"
TABLES, FLOWS, EDMS = (
    f"{NETWORKS}test_x0_equals_ddim_s_on_tables", f"{NETWORKS}test_x0_equals_the_scheduler_s_on_flow",
    f"{NETWORKS}test_x0_equals_euler_s_on_edm",
)  # fmt: skip
SCORE = f"{NETWORKS}test_x0_of_a_score_network_is_tweedie_s"
STABLE, ONE_PATH = f"{RUNS}test_stable_diffusion_pipelines", "not a text network: no negative"
FILES = f"{MORE}test_variant_and_sharded_files_of_every_family"
BOTH = "in the run"


@dataclass(frozen=True)
class Row:
    """Of one tiny folder. ``run``: the whole run against the pipeline (same noise, 3 steps or more); ``network``: one
    evaluation with its conditioning; ``negative``, ``sizes`` (not square), ``batch`` (2 prompts)."""

    run: str
    network: str
    negative: str = BOTH
    sizes: str = BOTH
    batch: str = BOTH


NO_PIPELINE = "no pipeline of diffusers runs such a network; the network alone is compared"
UNCONDITIONAL = dict(negative="nothing to negate: it has no conditioning")
ROWS: dict[str, Row] = {
    "cogvideox-2b": Row(f"{RUNS}test_cogvideox_pipeline", TABLES, sizes=f"{COG}test_prompt_to_frames_is_the_pipeline_s"),
    "cogvideox-5b": Row(f"{RUNS}test_cogvideox_pipeline", TABLES),
    "cogvideox-1.5": Row(f"{COG}test_prompt_to_frames_is_the_pipeline_s", TABLES, batch=TABLES),
    "dit": Row(f"{MORE}test_dit", TABLES, sizes="diffusers' DiT takes square latents only: `test_dit_of_diffusers_takes_square_latents_only`"),
    "flux": Row(f"{RUNS}test_flux_pipeline", FLOWS, negative="guidance is distilled: its pipeline has none by default"),
    "ltx": Row(f"{PIPELINES}test_ltx_with_the_shift_for_its_size", FLOWS),
    "pixart-alpha": Row(f"{MORE}test_pixart_alpha", TABLES),
    "pixart-sigma": Row(f"{PIPELINES}test_pixart", TABLES),
    "sana": Row(f"{PIPELINES}test_sana", FLOWS),
    "sd3": Row(f"{RUNS}test_sd3_pipeline", FLOWS),
    "ddpm": Row(f"{RUNS}test_ddpm_pipeline", TABLES, sizes=TABLES, **UNCONDITIONAL),
    "ddim-x0": Row(f"{RUNS}test_ddim_pipeline", TABLES, sizes=TABLES, **UNCONDITIONAL),
    "ddpm-classes": Row(NO_PIPELINE, TABLES, negative=ONE_PATH, sizes=TABLES, batch=TABLES),
    "ddpm-learned": Row(NO_PIPELINE, TABLES, sizes=TABLES, batch=TABLES, **UNCONDITIONAL),
    "edm-v": Row(NO_PIPELINE, EDMS, sizes=EDMS, batch=EDMS, **UNCONDITIONAL),
    "svd-like": Row("Stable Video Diffusion's network is another class, not among the families; its clock alone is compared", EDMS, sizes=EDMS, batch=EDMS, **UNCONDITIONAL),
    "ncsn": Row("its pipeline corrects before it predicts, by the batch's mean: docs/elsewhere.md", SCORE, sizes=SCORE, batch=SCORE, **UNCONDITIONAL),
    "sd": Row(STABLE, TABLES),
    "sd2-v": Row(STABLE, TABLES),
    "sdxl": Row(STABLE, TABLES),
    "sdxl-refiner": Row("its pipeline is image to image; the run is SDXL's, the score its own", TABLES, negative="test_diffusers_names.py::test_the_refiner_s_negative_has_a_lower_aesthetic_score", sizes=TABLES, batch=TABLES),
    "sd-inpaint": Row(f"{MORE}test_inpainting", TABLES),
    "instruct-pix2pix": Row(f"{MORE}test_instruct_pix2pix", TABLES),
    "edm": Row(NO_PIPELINE, EDMS, negative=EDMS, sizes=EDMS, batch=EDMS),
    "wan": Row(f"{PIPELINES}test_wan", FLOWS),
    "wan-i2v": Row(f"its picture is compared ({BESIDE}test_wan_from_a_picture), the run is Wan's", FLOWS, negative=f"{PIPELINES}test_wan", sizes=FLOWS, batch=FLOWS),
}  # fmt: skip
#: What is refused when a folder is loaded, and where that is shown.
REFUSED = (
    ("x4 upscaler (`num_class_embeds`)", "it is told a noise level beside the picture, which no conditioning carries", "test_diffusers_names.py::test_what_no_conditioning_can_carry_is_refused_at_load"),
    ("unCLIP (`class_embed_type: projection`)", "it takes an image embedding as class", "test_diffusers_names.py::test_what_no_conditioning_can_carry_is_refused_at_load"),
    ("Wan TI2V, image to video", "every token has a time of its own; text to video runs", "test_diffusers_names.py::test_a_picture_for_a_network_that_sees_none_is_refused"),
    ("networks of other classes", "the message lists those that are known", "test_diffusers_refusals.py::test_unknown_classes"),
)  # fmt: skip
COLUMNS = (
    "folder", "class", "whole run", "network and conditioning", "negative", "not square", "two prompts",
)  # fmt: skip
HEAD = """# Families of diffusers folders

What holds each family to diffusers. "In the run" means that the whole run has it: a negative prompt, a size that is not
square, two prompts in one batch. Cells name tests below `tests/`, or say why there is none. Variants and sharded files are
read by one loader: `{files}`.

{table}
## Refused at load, with the reason

{refused}
Written by `python -m sampling_kit.dev.sync` from `dev/family_table.py`; a test compares it with the families and the tests.
"""


def tests() -> set[str]:
    """Every test that the table names."""
    cells = [c for row in ROWS.values() for c in (row.run, row.network, row.negative, row.sizes, row.batch)]  # fmt: skip
    words = (word.strip("(),`") for cell in (*cells, *(r[2] for r in REFUSED), FILES) for word in cell.split())  # fmt: skip
    return {word for word in words if "::" in word}


def _code(cell: str) -> str:
    return f"`{cell}`" if "::" in cell and " " not in cell else cell


def page() -> str:
    """docs/families.md."""
    rows = []
    for kind, family in FAMILIES.items():
        for name in family.tiny:
            row = ROWS.get(name, Row(*["not entered in dev/family_table.py yet"] * 5))
            cells = (row.run, row.network, row.negative, row.sizes, row.batch)
            rows.append([name, kind, *map(_code, cells)])
    refused = [[what, why, _code(test)] for what, why, test in REFUSED]
    return HEAD.format(
        files=FILES,
        table=markdown_table(COLUMNS, rows),
        refused=markdown_table(("what", "why", "shown by"), refused),
    )


if __name__ == "__main__":
    sys.stdout.write(page())
