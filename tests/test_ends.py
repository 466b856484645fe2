"""Where a run begins and ends: the choices of Ends, and the policy that uses them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sampling_kit.benchmarks import policy as benchmark
from sampling_kit.nodes.schedule.schedules import Steps
from sampling_kit.nodes.ui.inputs import inputs_for
from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.noise_schedule import (
    ALL,
    EDM,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import GaussianAdams, GradientEstimation
from sampling_kit.schedulers.spacing import ByRule, NoiseShare, SkipLast, Typed, space

from .product import each

WRITTEN = ("explicit", "named")
FREE = [name for name in spacings.ALL if name not in WRITTEN]


@each(kind=FREE, schedule=list(ALL))
def test_every_spacing_keeps_typed_ends(schedule, kind):
    schedule = ALL[schedule]()
    top = min(schedule.kappa_max, 400.0)
    first, last = (float(schedule.kappa(schedule.time(k))) for k in (top / 3, top / 100))
    ends = Typed(*Points(schedule.path, (first, last)).sigmas())
    near = (
        0.5 if schedule.discrete else 1e-6 * schedule.t_max
    )  # some spacings go by whole timesteps
    times = pytest.approx(schedule.time([first, last]).tolist(), abs=near)
    for n, final in ((2, "zero"), (7, "zero"), (7, "sigma_min")):
        points = space(schedule, n, spacings.ALL[kind](), ends=ends, final=final)
        above = points.kappas[:-1] if final == "zero" else points.kappas
        assert len(points) == n + 1
        assert schedule.time([above[0], above[-1]]).tolist() == times


@pytest.mark.parametrize("kind", [*WRITTEN])
def test_a_written_list_says_its_ends_itself(kind):
    with pytest.raises(ValueError, match="set ends = schedule"):
        space(ScaledLinearVP(), 10, spacings.ALL[kind](), ends=Typed(9, 1))


def test_skipping_leaves_out_the_smallest_level_and_nothing_else():
    longer = space(EDM(), 7, spacings.Karras()).kappas
    skipped = space(EDM(), 6, spacings.Karras(), ends=SkipLast()).kappas
    assert skipped == (*longer[:-2], 0.0)
    flow = RectifiedFlowSchedule()
    trailing = space(flow, 6, spacings.Trailing(), ends=SkipLast())
    assert trailing == space(flow, 6, spacings.Trailing())  # it stops above by itself


def test_a_rule_narrows_both_ends_less_and_less():
    ranges = [ByRule(0.5, 32).range(EDM(), n, n) for n in range(1, 50)]
    firsts, lasts = zip(*ranges[1:], strict=True)
    assert list(firsts) == sorted(firsts) and list(lasts) == sorted(lasts, reverse=True)
    assert lasts[0] == 0.5 * 0.5 and firsts[2] < 50 and lasts[-1] < 0.003
    img2img = space(EDM(), 4, spacings.Karras(), denoise=0.5, ends=ByRule())
    last = space(EDM(), 4, spacings.Karras(), ends=ByRule()).kappas[-2]
    assert img2img.kappas[-2] == pytest.approx(last)


@pytest.mark.parametrize("ends", [Typed(90, 1), Typed(1, 2), Typed(1, 1), Typed(2, 0.001)])
def test_typed_ends_outside_of_the_schedule_are_refused(ends):
    with pytest.raises(ValueError, match="0 stands for the schedule's own"):
        space(EDM(), 5, spacings.Karras(), ends=ends)


@pytest.mark.some(4)
@each(
    schedule=[*(kind() for kind in ALL.values()), ScaledLinearVP(zero_snr=True)],
    guided=[False, True],
)
def test_auto_chooses_for_every_schedule_and_number(schedule, guided):
    for nfe in (1, 2, 3, 4, 7, 20, 100):
        for denoise in (1.0, 0.6, 0.1):
            found = policy.choose(schedule, nfe, guided=guided, denoise=denoise)
            points = found.points(schedule, found.steps, denoise)
            assert found.solver.nfe(found.steps) <= nfe and points.kappas[-1] == 0
            assert (points.kappas[0], len(points) - 1) == (pytest.approx(found.first), found.steps)
            found.solver.plan(points)
            assert found.text.startswith("auto: ") and "ends at σ" in found.text


def test_a_rule_is_where_its_two_equations_hold():
    for n in (4, 7, 12):
        first, last = ByRule(0.8, 20).range(EDM(1e-5, 1e5), n, n)
        g = math.log(first / last) / (n - 1) ** 2
        assert last == pytest.approx(0.8 * min(0.6 * g, 0.5))
        assert first == pytest.approx(2.0 * 0.8 * 20 / math.sqrt(g))


def test_old_versions_stay_and_unknown_ones_are_refused():
    found = [policy.choose(LinearVP(), 8, version=v) for v in policy.POLICIES]
    assert [c.version for c in found] == list(policy.POLICIES)
    assert policy.choose(LinearVP(), 8) == found[-1]
    first = policy.choose(EDM(), 6, version=1, side=64)
    assert (first.solver, first.spacing) == (GradientEstimation(), NoiseShare(1.75, 0.5))
    levels = [80.0, 9.01862075, 3.10237363, 1.34016766, 0.52362161, 0.11060771]
    assert first.points(EDM(), 6).kappas[:-1] == pytest.approx(levels), "of pictures that are saved"
    second = policy.choose(EDM(), 5, version=2, guided=True, cfg=5.0, side=64)
    assert second.solver == GaussianAdams(predictor=2, corrector=2)
    levels = [80.0, 6.96190609, 2.18628744, 0.77919845, 0.16269500]
    assert second.points(EDM(), 5).kappas[:-1] == pytest.approx(levels), (
        "of pictures that are saved"
    )
    with pytest.raises(ValueError, match="version 99"):
        policy.choose(LinearVP(), 8, version=99)
    with pytest.raises(ValueError, match="at least 1 evaluation"):
        policy.choose(LinearVP(), 0)
    with pytest.raises(ValueError, match="denoise = 0"):
        found[0].points(LinearVP(), 4, 0)


@each(schedule=[EDM(), LinearVP(), RectifiedFlowSchedule(3.0)])
def test_auto_of_strong_guidance_corrects_nothing(schedule):
    """Where D is steep a corrector swings up; a scale that is not known counts as strong."""
    for nfe in (3, 5, 12, 25):
        strong = policy.choose(schedule, nfe, guided=True, cfg=7.0, version=3)
        assert strong.solver == GaussianAdams(predictor=2, corrector=0)
        assert policy.choose(schedule, nfe, guided=True, version=3) == strong
    mild = policy.choose(schedule, 12, guided=True, cfg=2.0, version=3)
    assert mild.solver == policy.choose(schedule, 12, version=3).solver == GaussianAdams()


def test_auto_with_strong_guidance_ends_near_the_exact_end():
    """CFG 5 on a mixture, 5 evaluations: version 2 ends further away than the data are wide."""
    at = benchmark.bench("drawn-9", 4)
    errors = [benchmark.score_of(at, 5, version).rmse for version in (2, 3)]
    assert errors[0] > 1 and errors[1] < 0.2


@pytest.mark.some(1)
@pytest.mark.parametrize("name", ["drawn-0-cfg5", "drawn-1-cfg5", "drawn-6-cfg5"])
def test_auto_of_three_steps_with_strong_guidance_is_nearer_than_euler(name):
    """Version 3 takes a second value at once, and ends at least four times as far away."""
    at = benchmark.bench(name, 8)
    three, four = (benchmark.score_of(at, 3, version).rmse for version in (3, 4))
    solver, spacing = benchmark.DEFAULTS["ComfyUI euler, simple"]
    euler = at.play("euler", solver, space(at.task.schedule, 3, spacing))
    assert four < 0.8 * euler.rmse and three > 4 * four


@each(schedule=[EDM(), LinearVP(), RectifiedFlowSchedule(3.0)])
def test_every_version_has_a_row_for_every_run(schedule):
    """Any number of evaluations, without guidance, with CFG 2, 7 and one that is not known: levels that fall, down to 0."""
    for version in policy.POLICIES:
        for nfe in (1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 17, 18, 30, 31, 200):
            for guidance in (
                {},
                {"guided": True, "cfg": 2.0},
                {"guided": True, "cfg": 7.0},
                {"guided": True},
            ):
                choice = policy.choose(schedule, nfe, version=version, **guidance)
                kappas = choice.points(schedule, choice.steps).kappas
                assert choice.solver.nfe(choice.steps) == nfe and kappas[-1] == 0
                assert all(a > b for a, b in pairwise(kappas)), (version, nfe, guidance)


def test_ddim_uniform_is_comfyui_s():
    """comfy/samplers.py, ddim_scheduler: sigmas[1], [1 + ss], … with ss = T//n, where n divides T."""
    table = np.exp(np.linspace(math.log(0.002), math.log(80), 1000))
    expected = table[1::125][::-1]
    ours = space(EDM(), 8, spacings.HostTable("ddim_uniform")).kappas[:-1]
    assert ours == pytest.approx(expected)
    with pytest.raises(ValueError, match="the table has 1000"):
        space(EDM(), 1000, spacings.HostTable())


def test_steps_node_takes_ends_and_auto():
    def levels(spacing, **inputs):
        return Steps.run(EDM(), 6, {"spacing": spacing}, **inputs).points

    whole = levels("exponential")
    assert whole == space(EDM(), 6, spacings.Exponential())
    own = levels("exponential", ends={"ends": "own", "first": 40.0, "last": 0.1})
    assert (own.kappas[0], own.kappas[-2]) == (40.0, 0.1)
    rule = levels("karras", ends={"ends": "rule", "data_std": 0.5})
    assert rule == space(EDM(), 6, spacings.Karras(), ends=ByRule(0.5))
    for final, count in (("sigma_min", 7), ("zero", 7)):
        auto = levels("auto", final=final)
        assert len(auto) == count and (auto.kappas[-1] == 0) == (final == "zero")
    half = levels("auto", denoise=0.5)
    assert half.kappas[0] == pytest.approx(policy.start_level(EDM(), 0.5))
    small = levels("auto", latent={"samples": torch.zeros(1, 3, 8, 8)})
    assert small.kappas[-2] == pytest.approx(ByRule(0.7, 8).range(EDM(), 6, 6)[1])
    assert small.kappas[0] < 80 == auto.kappas[0] and small.kappas[-2] < auto.kappas[-2]
    typed = levels("auto", ends={"ends": "own", "first": 30.0, "last": 0.3})
    assert (typed.kappas[0], typed.kappas[-2]) == (30.0, 0.3)


def test_a_new_steps_node_has_the_newest_auto_and_a_prompt_without_it_the_first():
    facts = inputs_for(policy.Auto)[0].as_dict()
    assert facts["default"] == facts["max"] == policy.LATEST == max(policy.POLICIES)
    assert policy.Auto().version == 1
    versions = [
        Steps.run(EDM(), 6, {"spacing": "auto", **kind}).points
        for kind in ({}, *({"version": v} for v in policy.POLICIES))
    ]
    assert len(set(versions)) == 1, "levels for any solver: the same so far, docs/choosing.md"
    with pytest.raises(ValueError, match="version = 99"):
        Steps.run(EDM(), 6, {"spacing": "auto", "version": 99})
