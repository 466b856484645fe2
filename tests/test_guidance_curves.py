"""Curves and levels of guidance: weights over time and noise, and which step a level is."""

import math

import pytest

from sampling_kit.schedulers.guidance import (
    CFG,
    CURVES,
    PAG,
    UNCOND,
    CFGZeroStar,
    Compose,
    Constant,
    Cosine,
    FrequencyDecoupled,
    Interval,
    Linear,
    PerStep,
    Power,
    Steps,
    Table,
)
from sampling_kit.schedulers.guidance.level import Ladder, Level
from sampling_kit.schedulers.path import VE, VP, Flow, Point

# --------------------------------------------------------------------------------- curves and levels


def at(t):
    return Level(t, Point(1 - t, t))


def test_curves_are_the_written_functions_of_t():
    for t in (0.0, 0.3, 0.5, 0.9, 1.0):
        assert Constant()(at(t)) == 1
        if t:
            assert Linear(2, 0.5)(at(t)) == pytest.approx(0.5 + 1.5 * t)
            assert Cosine(2, 0.5)(at(t)) == pytest.approx(0.5 + 0.75 * (1 - math.cos(math.pi * t)))
            assert Power(0, 2, 3.0)(at(t)) == pytest.approx(2 * (1 - t**3))
    table = Table("0.8:1, 0.2: 3; 0.5:0")
    assert [table(at(t)) for t in (1, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1)] == pytest.approx(
        [1, 1, 0.5, 0, 1.5, 3, 3]
    )


def test_curves_mean_the_same_on_every_path_and_ranges_are_in_sigmas():
    for cls in CURVES.values():
        kappa = 1.7
        levels = [Level(1.0, path.at(kappa), step=0) for path in (VE(), VP(), Flow())]
        assert len({round(cls()(level), 12) for level in levels}) == 1
    interval = Interval(sigma_low=0.2, sigma_high=0.7)
    assert [interval(at(t)) for t in (0.2, 0.21, 0.7, 0.71)] == [0, 1, 1, 0]


def test_a_weight_goes_from_neutral_to_the_scale():
    assert CFG(5.0, Linear(0, 1)).weight(at(0.25)) == pytest.approx(1 + 0.75 * 4)
    assert PAG(3.0, curve=Linear(0, 1)).weight(at(0.25)) == pytest.approx(0.75 * 3)
    assert CFG(0.1, Linear(1, 1)).weight(at(0.3)) == 0.1  # exactly
    assert CFG(5.0, Linear(1, 0)).branches(at(0.5)) == {UNCOND}


def step(n):
    """A level of step n, from 1."""
    return Level(0.5, Point(0.5, 0.5), step=n - 1)


def test_a_list_holds_the_scale_of_every_step():
    rule = CFG(7.0, PerStep("6, 5; 4 1"))
    assert [rule.weight(step(n)) for n in (1, 2, 3, 4, 9)] == [6, 5, 4, 1, 1]
    assert [bool(rule.branches(step(n))) for n in (1, 3, 4, 9)] == [True, True, False, False]
    assert CFG(1.0, PerStep("1, 3")).branches(step(2)) == {UNCOND}
    assert not CFG(7.0, PerStep("1")).reads
    assert [PAG(3.0, curve=PerStep("2, 0")).active(step(n)) for n in (1, 2)] == [True, False]
    assert rule.with_cfg(2.0).weight(step(1)) == 2, "the host's scale stays in force"
    wide = FrequencyDecoupled(9.0, 5.0, curve=PerStep("5, 1"))
    assert (wide.stepped(step(1)).scale, wide.stepped(step(1)).low) == (5, 3)
    assert [wide.active(step(n)) for n in (1, 2)] == [True, False]
    assert CFGZeroStar(curve=PerStep("1, 4")).rests(step(1)) is False


def test_guidance_from_one_step_to_another():
    rule = CFG(7.0, Steps(2, 3))
    assert [rule.weight(step(n)) for n in (1, 2, 3, 4)] == [1, 7, 7, 1]
    assert Steps(3)(step(50)) == 1
    for curve in (Steps(), PerStep()):
        with pytest.raises(ValueError, match="follows the steps"):
            CFG(7.0, curve).weight(at(0.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Table("1:0, oops"),
        lambda: Table("0.5:1, 0.5:2"),
        lambda: Table("2:1"),
        lambda: PerStep("6, x"),
        lambda: PerStep(""),
        lambda: Interval(sigma_low=-1.0),
        lambda: Interval(sigma_high=math.inf),
        lambda: CFG(2.0, "interval"),
        lambda: Compose("1, x"),
        lambda: Compose("1", masks=(None, None)),
        lambda: CFG(-1),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(
        ValueError, match=r"^(table|per step|Interval|CFG|Composition|interval)[:.]"
    ):
        make()


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"CFG: scale = -1"):
        CFG(-1)


@pytest.mark.parametrize(
    ("sigmas", "sigma", "step"),
    [
        ((8, 4, 2, 1, 0), 8, 0),
        ((8, 4, 2, 1, 0), 10, 0),  # churned above the first level
        ((8, 4, 2, 1, 0), 5, 0),  # a midpoint belongs to the step around it
        ((8, 4, 2, 1, 0), 4, 1),
        ((8, 4, 2, 1, 0), 4 * (1 - 1e-7), 1),  # float32
        ((8, 4, 2, 1, 0), 0.1, 3),
        ((1, 2, 4), 1, 0),
        ((1, 2, 4), 2, 1),
        ((1, 2, 4), 3, 1),
        ((), 3, None),
        ((3,), 3, None),
    ],
)
def test_the_step_of_a_level(sigmas, sigma, step):
    level = Ladder.make(VP(), sigmas).at(sigma)  # SIGMAS of a VP model are in VE coordinates
    assert level.step == step and level.point == Point(1.0, sigma)
    assert level.end == (None if step is None else Point(1.0, sigmas[step + 1]))
