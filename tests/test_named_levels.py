"""Named lists of levels: the published numbers, and what is made of them for other numbers of steps."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from sampling_kit.schedulers.noise_schedule import (
    EDM,
    CosineVP,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.spacing import Named, space
from sampling_kit.schedulers.spacing.named_rows import BY_NAME, ROWS, Row, row_table

from . import needs
from .host_server import find_root

SD, FLOW = ScaledLinearVP(), RectifiedFlowSchedule()
DOCS = Path(__file__).resolve().parent.parent / "docs" / "named-levels.md"
CURVES = [row for row in ROWS if row.pick == "curve" and len(row.lists[-1]) > 1]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
each_curve = pytest.mark.parametrize("row", CURVES, ids=lambda row: row.name)


def schedule_of(row):
    if row.unit == "flow":
        return FLOW
    return EDM(0.002, 700.0) if row.name == "AYS SVD" else SD


def sigmas_of(row, levels):
    return SD.kappa(levels) if row.unit == "timestep" else np.array(levels)


# --------------------------------------------------------------------------------------- the numbers


@pytest.fixture(scope="module")
def comfyui():
    folder = find_root()
    if folder is None:
        needs.missing("host", "no ComfyUI whose tables to compare: set COMFYUI_PATH")
    return folder


def table(folder, module):
    """NOISE_LEVELS of one of ComfyUI's files, read and not run."""
    source = (folder / "comfy_extras" / f"{module}.py").read_text(encoding="utf-8")
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "NOISE_LEVELS":
            return ast.literal_eval(line.value)
    raise AssertionError(f"{module} has no NOISE_LEVELS")


@pytest.mark.parametrize(
    ("module", "key", "name"),
    [
        ("nodes_align_your_steps", "SD1", "AYS SD 1.5"),
        ("nodes_align_your_steps", "SDXL", "AYS SDXL"),
        ("nodes_align_your_steps", "SVD", "AYS SVD"),
        ("nodes_optimalsteps", "FLUX", "OSS Flux"),
        ("nodes_optimalsteps", "Wan", "OSS Wan"),
        ("nodes_optimalsteps", "Chroma", "OSS Chroma"),
        ("nodes_gits", 1.2, "GITS SD 1.5"),
    ],
)
def test_lists_are_those_of_comfyui(comfyui, module, key, name):
    there = table(comfyui, module)[key]
    there = [there] if isinstance(there[0], float) else there
    assert [list(levels) for levels in BY_NAME[name].lists] == there


def test_distilled_lists_that_comfyui_s_text_holds(comfyui):
    source = (comfyui / "comfy" / "supported_models.py").read_text(encoding="utf-8")
    printed = re.search(r"class PiD\(.*?4 steps \[([0-9., ]+)\]", source, re.DOTALL)
    assert [float(word) for word in printed[1].split(",")] == [
        *BY_NAME["PiD distilled"].lists[0],
        0,
    ]


def test_turbo_s_levels_are_those_of_comfyui_s_node(comfyui):
    source = (comfyui / "comfy_extras" / "nodes_custom_sampler.py").read_text(encoding="utf-8")
    assert "torch.flip(torch.arange(1, 11) * 100 - 1, (0,))" in source
    assert BY_NAME["SD Turbo"].lists[0] == tuple(100 * k - 1 for k in range(10, 0, -1))
    assert SD.time(Named("SD Turbo").levels(SD, 4)) == pytest.approx([999, 899, 799, 699])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("AYS SD 1.5", "StableDiffusion"),
        ("AYS SDXL", "StableDiffusionXL"),
        ("AYS SVD", "StableDiffusionVideo"),
    ],
)
def test_align_your_steps_agrees_with_diffusers_rounded_lists(ours, theirs):
    schedules = pytest.importorskip("diffusers.schedulers").AysSchedules
    assert BY_NAME[ours].lists[0][:-1] == pytest.approx(schedules[f"{theirs}Sigmas"][:-1], abs=6e-3)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_lightning_s_timesteps_are_diffusers_trailing_ones(n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    assert SD.time(Named("SDXL Lightning").levels(SD, n)) == pytest.approx(
        scheduler.timesteps.numpy()
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8, 25, 50])
def test_lcm_s_timesteps_are_those_of_diffusers(n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.LCMScheduler()
    scheduler.set_timesteps(n)
    assert SD.time(Named("LCM").levels(SD, n)) == pytest.approx(scheduler.timesteps.numpy())


def test_ltx_s_levels_are_those_of_diffusers():
    theirs = pytest.importorskip("diffusers.pipelines.ltx2.utils")
    assert BY_NAME["LTX-2 distilled"].lists == (tuple(theirs.DISTILLED_SIGMA_VALUES),)
    stage = BY_NAME["LTX-2 distilled stage 2"].lists
    assert stage == (tuple(theirs.STAGE_2_DISTILLED_SIGMA_VALUES),)


# ------------------------------------------------------------------------------------ what rows are


@each_row
def test_a_row_says_what_it_is(row):
    assert row.model and row.solver and row.source
    assert row.unit in ("sigma", "flow", "timestep") and row.pick in Row.PICKS
    assert row.pick == "curve" or len(row.lists) == 1
    lengths = [len(levels) for levels in row.lists]
    assert lengths == sorted(set(lengths))
    for levels in row.lists:
        assert all(a > b > 0 for a, b in zip(levels, levels[1:]))  # noqa: B905, RUF007
        assert row.unit != "flow" or levels[0] <= 1


def test_names_are_unique_and_people_find_them_by_the_model():
    assert len(BY_NAME) == len(ROWS)
    for word in (
        "AYS SDXL",
        "DMD2",
        "Hyper-SD",
        "Lightning",
        "LCM-LoRA",
        "LTX",
        "Wan",
        "Chroma",
        "GITS",
    ):
        assert word in Named.aliases


def test_the_document_holds_every_row():
    assert row_table() in DOCS.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------- what runs get


@each_row
def test_a_listed_number_of_steps_gives_the_list(row):
    schedule = schedule_of(row)
    for levels in row.lists if row.pick == "curve" else ():
        listed = sigmas_of(row, levels[: len(levels) - row.closed])
        points = space(schedule, len(listed), Named(row.name))
        assert points.sigmas()[-1] == 0
        assert points.sigmas()[:-1] == pytest.approx(listed, rel=1e-6)


def test_a_run_to_the_smallest_level_is_the_whole_list():
    points = space(SD, 10, Named(), final="sigma_min")
    assert points.sigmas() == pytest.approx(BY_NAME["AYS SD 1.5"].lists[0], rel=1e-9)


@pytest.mark.some(13)
@each_curve
@pytest.mark.parametrize("n", [3, 7, 13, 33])
def test_another_number_of_steps_lies_on_the_monotone_cubic_in_log_sigma(row, n):
    long = [levels for levels in row.lists if len(levels) >= n + row.closed]
    levels = sigmas_of(row, long[0] if long else row.lists[-1])
    cubic = PchipInterpolator(np.arange(len(levels)), np.log(levels))
    places = np.linspace(0, len(levels) - 1, n + row.closed)
    expected = np.exp(cubic(places))[:n]
    ours = np.array(space(schedule_of(row), n, Named(row.name)).sigmas()[:-1])
    assert ours == pytest.approx(expected, rel=1e-5)
    assert np.all(np.diff(ours) < 0)


def test_a_first_level_printed_too_large_is_the_schedule_s_own():
    assert BY_NAME["GITS SD 1.5"].lists[0][0] < SD.kappa_max * (1 + 1e-3)
    assert Named().levels(EDM(0.002, 14.61), 10)[0] == 14.61


@pytest.mark.parametrize(
    ("name", "schedule", "steps", "words"),
    [
        ("AYS SD 1.5", FLOW, 5, "rectified flow, but the list is for Stable Diffusion 1.5"),
        ("OSS Flux", SD, 5, "VP or VE, but the list is for FLUX.1-dev"),
        ("AYS SVD", SD, 5, "starts at σ = 700, but the noise schedule ends at 14.6"),
        ("LCM", EDM(), 5, "timesteps of a table of 1000"),
        ("LCM", LinearVP(timesteps=500), 5, "timesteps of a table of 1000"),
        ("LCM", SD, 51, "steps = 51; the list has 50 levels"),
        ("SD Turbo", SD, 11, "steps = 11; the list has 10 levels"),
        ("Hyper-SDXL 1 step", SD, 2, "one level and cannot be drawn out to 2"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_words(name, schedule, steps, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        space(schedule, steps, Named(name))


@pytest.mark.parametrize("more", [{"final": "sigma_min"}, {"denoise": 0.5}])
def test_one_step_of_one_level_says_what_asks_for_more(more):
    words = (
        "named list: name = 'Hyper-SDXL 1 step': .* use 1 step, with denoise = 1 and final = zero"
    )
    with pytest.raises(ValueError, match=words):
        space(SD, 1, Named("Hyper-SDXL 1 step"), **more)
    with pytest.raises(ValueError, match="50 levels, which steps / denoise may not exceed"):
        space(SD, 50, Named("LCM"), **more)


def test_timesteps_are_those_of_the_schedule_s_own_table():
    cosine = CosineVP()
    assert cosine.time(Named("DMD2 SDXL").levels(cosine, 4)) == pytest.approx([999, 749, 499, 249])


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="choose one of AYS SD"):
        Named("AYS Flux")
