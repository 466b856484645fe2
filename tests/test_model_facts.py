"""What a model says of itself: its native schedule, and settings that do not fit it."""

import json
import math

import numpy as np
import pytest
from inspected import BF16, FP16, FP32

from sampling_kit.schedulers.measure.model_facts import ModelFacts, Weights, misfits, step_shift
from sampling_kit.schedulers.native_schedule import ShiftedCosineVP, VPRange
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import Prediction
from sampling_kit.schedulers.spacing import FlowShift, Karras, Trailing, space

# ------------------------------------------------------------------------------ native schedules


@pytest.mark.parametrize(
    "schedule",
    [VPRange("log", 0.01, 100.0), VPRange("angle", 0.03, 500.0), ShiftedCosineVP(1.0), ShiftedCosineVP(2.0)],
    ids=str,
)  # fmt: skip
def test_native_schedules_are_their_own_inverse(schedule):
    times = np.linspace(schedule.t_min, schedule.t_max, 50)
    kappas = schedule.kappa(times)
    assert np.all(np.diff(kappas) > 0)
    assert np.allclose(schedule.time(kappas), times, rtol=1e-6, atol=1e-9)
    assert schedule.time(schedule.kappa_max * 2) == pytest.approx(schedule.t_max)
    assert len(space(schedule, 7, Karras())) == 8


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match="below sigma_max"):
        VPRange("log", 10.0, 1.0)


def test_sigmas_above_one_are_refused_on_flow():
    with pytest.raises(ValueError, match="end at 1"):
        Points.from_sigmas(Flow(), [14.6, 1.0, 0.0])


# --------------------------------------------------------------------------------------- misfits


def facts(schedule, kind="flow", **more):
    known = dict(sampling="S", weights=Weights(), compute=FP32, family=(FP16, BF16, FP32))
    return ModelFacts(prediction=Prediction(kind), schedule=schedule, **{**known, **more})


VP_FACTS = facts(ScaledLinearVP(), "eps")
FLOW3 = facts(RectifiedFlowSchedule(shift=3.0))
ZERO = facts(ScaledLinearVP(zero_snr=True), "v", zero_snr=True)


def sigmas_of(schedule, spacing=None, count=20, **options):
    return space(schedule, count, spacing or Trailing(), **options).sigmas()


@pytest.mark.some(14)
@pytest.mark.parametrize(
    ("model", "sigmas", "words"),
    [
        (VP_FACTS, sigmas_of(ScaledLinearVP()), None),
        (VP_FACTS, sigmas_of(ScaledLinearVP(), Karras()), None),
        (VP_FACTS, None, None),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=3.0)), None),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=3.0), Karras()), None),
        (ZERO, sigmas_of(ScaledLinearVP(zero_snr=True)), None),
        (VP_FACTS, sigmas_of(ScaledLinearVP(zero_snr=True)), "above the largest"),
        (FLOW3, sigmas_of(ScaledLinearVP()), "above the largest"),
        (FLOW3, sigmas_of(ScaledLinearVP()), "end at 1"),
        (VP_FACTS, sigmas_of(ScaledLinearVP(), denoise=0.5), "below the model's largest"),
        (VP_FACTS, sigmas_of(ScaledLinearVP(), final="sigma_min"), "not at 0"),
        (VP_FACTS, [14.6, 1.0, 1.0, 0.0], "strictly"),
        (VP_FACTS, [14.6, math.nan, 0.0], "finite numbers"),
        (VP_FACTS, [], "nothing will be sampled"),
        (VP_FACTS, [14.6, 1e-3, 0.0], "below what the model was trained on"),
        (ZERO, sigmas_of(ScaledLinearVP(zero_snr=True), Karras(), 8), "little is decided"),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=9.0)), "applied twice"),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=3.0), FlowShift()), "applied twice"),
        (FLOW3, sigmas_of(RectifiedFlowSchedule()), "one of the two"),
        (facts(ScaledLinearVP(zero_snr=True), "eps", zero_snr=True), None, "zero terminal SNR"),
        (facts(EDM(), "edm", compute=FP16, weights=Weights(1, 2, BF16)), None, "overflow"),
        (facts(EDM(), "edm", compute=FP16, family=(BF16, FP32)), None, "trained in bf16"),
        (facts(EDM(), "edm", loaded_flow=True, loaded_sampling="F"), None, "rectified flow"),
        (facts(EDM(), "v", vp_state=True), None, "VOIDSampler"),
        (facts(RectifiedFlowSchedule(), clock=(500.0, 0.5)), None, "1000 times too large"),
        (facts(RectifiedFlowSchedule(), clock=(0.5, 500.0)), None, "1000 times too small"),
        (facts(RectifiedFlowSchedule(), clock=(500.0, 500.0)), None, None),
        (VP_FACTS, sigmas_of(RectifiedFlowSchedule()), "as a flow model's"),
    ],
)
def test_misfits_are_named_and_nothing_else(model, sigmas, words):
    found = list(misfits(model, sigmas))
    assert (not found) if words is None else any(words in warning for warning in found), found
    json.dumps(model.payload(sigmas), allow_nan=False)
    assert ("WARNING" in model.report(sigmas)) == bool(found)


def test_an_unknown_prediction_is_said():
    (warning,) = misfits(ModelFacts("Mystery", None, EDM(), Weights(), FP32, (FP32,)))
    assert "Mystery" in warning and "Check Prediction Type" in warning


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("count", [4, 20, 50])
def test_the_shift_of_steps_is_found(shift, count):
    trailing = sigmas_of(RectifiedFlowSchedule(shift=shift), count=count)
    t = np.linspace(1, 1e-3, count)
    linspace = [*(shift * t / (1 + (shift - 1) * t)), 0.0]
    for sigmas in (trailing, linspace):
        found = step_shift(Points.from_sigmas(Flow(), sigmas).kappas)
        assert found == pytest.approx(shift, rel=0.02)
    karras = sigmas_of(RectifiedFlowSchedule(shift=shift), Karras(), max(count, 8))
    assert step_shift(Points.from_sigmas(Flow(), karras).kappas) is None
