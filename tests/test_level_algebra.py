"""SIGMAS cut, joined and resampled: against the formulas, and what wrong places are told."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.interpolate import PchipInterpolator

from sampling_kit.headless.cli import main
from sampling_kit.nodes.schedule.level_algebra import EditLevels, JoinLevels, SplitAtLevel
from sampling_kit.schedulers.level_algebra import (
    BOUNDARIES,
    EDITS,
    UNITS,
    Clip,
    Level,
    Resample,
    Start,
    WanImage,
    WanText,
    joined,
)
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.spacing import Karras, Trailing, space

EXAMPLE = Path(__file__).resolve().parent.parent / "example_workflows" / "api" / "two-experts.json"
SD = ScaledLinearVP()
RUN = (14.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
OPEN = RUN[:-1]


def curve(levels, places):
    return np.exp(PchipInterpolator(np.arange(len(levels)), np.log(levels))(places))


# ---------------------------------------------------------------------------------------- resample


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 40])
@pytest.mark.parametrize("run", [RUN, OPEN], ids=["to zero", "to its last level"])
def test_resampled_levels_lie_on_the_monotone_cubic_in_log_sigma(run, steps):
    levels = Resample(steps).of(run)
    count = steps if run is RUN else steps + 1
    assert len(levels) == steps + 1 and levels[0] == 14 and levels[-1] == run[-1]
    assert levels[:count] == pytest.approx(curve(OPEN, np.linspace(0, 5, count)), rel=1e-12)
    assert all(a > b for a, b in pairwise(levels))


@pytest.mark.parametrize("run", [RUN, OPEN], ids=["to zero", "to its last level"])
def test_as_many_steps_as_before_are_the_run_bit_for_bit(run):
    assert Resample(len(run) - 1).of(run) == run


def test_a_geometric_run_stays_geometric():
    run = tuple(float(s) for s in np.geomspace(80, 0.01, 9))
    assert Resample(23).of(run) == pytest.approx(np.geomspace(80, 0.01, 24), rel=1e-12)


# ------------------------------------------------------------------------------------------- start


def test_a_start_keeps_the_number_of_steps_on_the_same_curve():
    levels = Start(3.0).of(RUN)
    places = np.interp(3.0, curve(OPEN, np.linspace(0, 5, 50001))[::-1], np.linspace(5, 0, 50001))
    assert len(levels) == len(RUN) and levels[0] == 3.0 and levels[-1] == 0
    assert levels[:-1] == pytest.approx(curve(OPEN, np.linspace(places, 5, 6)), rel=1e-7)


def test_a_start_without_that_keeps_the_levels_below():
    assert Start(3.0, keep_steps=False).of(RUN) == (3.0, 2.0, 1.0, 0.5, 0.0)
    assert Start(2.0, keep_steps=False).of(RUN) == (2.0, 1.0, 0.5, 0.0)


def test_a_start_at_the_top_changes_nothing():
    assert Start(14.0).of(RUN) == RUN == Start(0.0, "share").of(RUN)


def test_a_start_at_a_share_is_that_of_the_curve():
    assert Start(0.5, "share", keep_steps=False).of(RUN) == (2.0, 1.0, 0.5, 0.0)


# -------------------------------------------------------------------------------------------- clip


def test_a_clip_keeps_what_is_between_and_puts_its_ends():
    assert Clip(5.0, 0.7).of(RUN) == (5.0, 4.0, 2.0, 1.0, 0.7)
    assert Clip(8.0, 0.0).of(RUN) == (8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
    assert Clip(0.5, 1.0, "share").of(RUN) == (2.0, 1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    "schedule", [SD, LinearVP(), RectifiedFlowSchedule(3.0)], ids=lambda s: s.title
)
def test_timesteps_are_those_of_the_schedule(schedule):
    run = tuple(space(schedule, 10, Trailing()).sigmas())
    scale = schedule.t_max if schedule.t_max > 1 else 1.0
    levels = Clip(0.8 * scale, 0.2 * scale, "timestep").of(run, schedule)
    host = schedule.path.host
    ends = [host.at(float(schedule.kappa(t * scale))).sigma for t in (0.8, 0.2)]
    assert (levels[0], levels[-1]) == pytest.approx(ends, rel=1e-12)
    assert set(levels[1:-1]) <= set(run)


def test_timesteps_on_flow_are_a_thousandth_too():
    flow = RectifiedFlowSchedule(3.0)
    run = tuple(space(flow, 10, Trailing()).sigmas())
    assert Clip(800, 200, "timestep").of(run, flow) == Clip(0.8, 0.2, "timestep").of(run, flow)


# ------------------------------------------------------------------------------------ split and join


@pytest.mark.some(8)
@pytest.mark.parametrize("steps", [4, 8, 20, 40])
@pytest.mark.parametrize("shift", [5.0, 8.0, 12.0])
@pytest.mark.parametrize(("kind", "ratio"), [(WanText, 0.875), (WanImage, 0.9)])
def test_wan_s_experts_change_where_its_pipeline_changes_them(steps, shift, kind, ratio):
    """A step's model is that of its first timestep t: high where t ≥ boundary_ratio · 1000 (diffusers, pipeline_wan)."""
    run = space(RectifiedFlowSchedule(shift), steps, Trailing()).sigmas()
    timesteps = [1000 * s for s in run[:-1]]
    assert kind().cut(tuple(run)) == sum(t >= ratio * 1000 for t in timesteps)


def test_a_level_on_the_boundary_is_the_high_part_s_in_float32():
    run = torch.tensor([1.0, 0.9, 0.5, 0.0])
    high, low, step = SplitAtLevel.execute(run, {"boundary": "wan22_image_to_video"}).result
    assert (step, high.tolist(), low.tolist()) == (2, run[:3].tolist(), run[2:].tolist())


@pytest.mark.parametrize(
    ("value", "unit", "count"),
    [(2.0, "sigma", 4), (1.9, "sigma", 4), (0.5, "share", 3), (0.34, "share", 2)],
)
def test_a_boundary_of_your_own(value, unit, count):
    assert Level(value, unit).cut(RUN) == count


def test_a_boundary_in_timesteps():
    run = tuple(space(SD, 10, Trailing()).sigmas())
    assert Level(500, "timestep").cut(run, SD) == sum(SD.time(s) >= 500 for s in run[:-1])


def test_the_parts_of_a_split_join_to_the_run_bit_for_bit():
    run = torch.tensor(space(EDM(), 12, Karras()).sigmas())
    boundary = {"boundary": "level", "value": 1.0, "unit": "sigma"}
    high, low, step = SplitAtLevel.execute(run, boundary).result
    assert len(high) == step + 1 and high[-1] == low[0] < 1 <= high[-2]
    assert torch.equal(JoinLevels.execute(high, low).result[0], run)


def test_a_gap_between_two_runs_becomes_a_step():
    assert joined((8.0, 4.0), (2.0, 1.0, 0.0)) == (8.0, 4.0, 2.0, 1.0, 0.0)


# ------------------------------------------------------------------------------------- wrong places


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: Start(15.0).of(RUN), "start = 15 (sigma): lies outside the run, which goes from σ = 14 to 0"),
        (lambda: Start(0.4).of(RUN), "start = 0.4 (sigma): no step is left below it"),
        (lambda: Start(0.5).of(OPEN), "start = 0.5 (sigma): no step is left"),
        (lambda: Start(0.5).of(RUN), "σ = 0.5 is the run's last level above 0 and cannot be drawn out to 6 steps"),
        (lambda: Clip(1.0, 0.2).of(OPEN), "end = 0.2 (sigma): lies outside the run, which goes from σ = 14 to 0.5"),
        (lambda: Clip(1.0, 2.0).of(RUN), "end = 2 (sigma): must lie later in the run than start = 1 (sigma)"),
        (lambda: Clip(0.7, 0.2, "share").of(RUN), "end = 0.2 (share)"),
        (lambda: Clip(3.0, 1.0, "share").of(RUN), "start = 3 (share): shares of the steps lie between 0 and 1"),
        (lambda: Clip(500, 3, "timestep").of(RUN), "start = 500 (timestep): connect noise_schedule"),
        (lambda: Clip(1200, 3, "timestep").of(RUN, SD), "start = 1200 (timestep): the noise schedule has timesteps 0 to 999"),
        (lambda: Clip(999, 3, "timestep").of(RUN, SD), "start = 999 (timestep): lies outside the run, which goes from timestep 991.9 to 0"),
        (lambda: Resample(3).of((1.0,)), "sigmas: a run has 2 levels or more, got 1"),
        (lambda: Resample(3).of((1.0, 0.0)), "cannot be drawn out to 3 steps"),
        (lambda: Resample(3).of((1.0, 2.0, 3.0)), "levels 0 and 1 are σ = 1 and 2; they must fall"),
        (lambda: Resample(3).of((math.inf, 2.0, 0.0)), "levels 0 and 1"),
        (lambda: WanText().cut((0.8, 0.5, 0.0)), "boundary = 0.875 (sigma): all 2 steps start below it, so the high part would have none"),
        (lambda: Level(0.1).cut(RUN), "boundary = 0.1 (sigma): all 6 steps start above it, so the low part would have none"),
        (lambda: Level(2.0, "share").cut(RUN), "boundary = 2 (share): shares of the steps lie between"),
        (lambda: joined(RUN, (0.4, 0.0)), "first: ends at σ = 0"),
        (lambda: joined((2.0, 1.0), (1.5, 0.0)), "second: begins at σ = 1.5, above σ = 1"),
        (lambda: joined((2.0,), (1.5, 0.0)), "first: a run has 2 levels or more"),
    ],
)  # fmt: skip
def test_a_wrong_place_is_told_in_the_unit_it_was_typed_in(run, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        run()


# ------------------------------------------------------------------------------------------- nodes


@pytest.mark.parametrize("name", EDITS)
def test_the_node_is_the_edit(name):
    run = torch.tensor(RUN)
    given = {"steps": 9} if name == "resample" else {"start": 4.0}
    (edited,) = EditLevels.execute(run, {"edit": name} | given).result
    expected = EDITS[name](**given).of(RUN)
    assert torch.equal(edited, torch.tensor(expected, dtype=torch.float32))


def test_the_nodes_take_timesteps_from_their_schedule():
    run = torch.tensor(space(SD, 10, Trailing()).sigmas())
    edit = {"edit": "start", "start": 499.0, "unit": "timestep", "keep_steps": False}
    (edited,) = EditLevels.execute(run, edit, SD).result
    assert SD.time(float(edited[0])) == pytest.approx(499, abs=1e-3)
    boundary = {"boundary": "level", "value": 499.0, "unit": "timestep"}
    assert SplitAtLevel.execute(run, boundary, SD).result[2] == 6


def test_two_experts_that_are_one_network_are_its_run_bit_for_bit(tmp_path):
    """The example with the large network on both sides: state and noise cross the boundary."""
    small = ["Steps.steps=6", "Empty Pixel Latent.batch_size=2", "High-noise model.kind=network"]
    small += ["Image Sheet.row_labels=", "Image Sheet.reference=0"]  # rows are compared
    command = ["run", str(EXAMPLE), *(part for s in small for part in ("--set", s))]
    done = CliRunner().invoke(main, [*command, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.rglob("*.png")
    picture = np.asarray(Image.open(file).convert("RGB"))
    high = (len(picture) - 6) // 3  # three rows, a gap of 6 around each
    rows = [picture[6 + i * high : (i + 1) * high] for i in range(3)]
    assert np.array_equal(rows[1], rows[2]) and rows[0].std() > 10


def test_every_choice_has_a_title_and_units_are_few():
    assert UNITS == ("sigma", "timestep", "share")
    assert all(kind.title for kind in (*EDITS.values(), *BOUNDARIES.values()))
