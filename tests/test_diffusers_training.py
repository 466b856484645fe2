"""Scheduler configs of diffusers folders, against diffusers' schedulers."""

import inspect
import itertools
import math

import diffusers_cases as cases
import numpy as np
import pytest
from diffusers_folders import TINY

from sampling_kit.schedulers.denoiser.diffusers import training
from sampling_kit.schedulers.noise_schedule import Measured, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.prediction import Prediction

diffusers = pytest.importorskip("diffusers")
folders, ours, theirs = cases.folders, cases.ours, cases.theirs
no_gradients = cases.no_gradients
every = pytest.mark.parametrize("name", TINY)


# --------------------------------------------------------------------------------- noise schedules


@pytest.mark.some(11)
@pytest.mark.parametrize("kind", training.SCHEDULERS)
def test_defaults_are_the_class_s(kind):
    """An empty config means what the class's own constructor means."""
    signature = inspect.signature(getattr(diffusers, kind).__init__).parameters
    own = {n: p.default for n, p in signature.items() if p.default is not p.empty}
    assert training.training_of(kind, {}) == training.training_of(kind, own)


KINDS = ("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "CogVideoXDDIMScheduler")
SHAPES = ("linear", "scaled_linear", "squaredcos_cap_v2", "trained", "short")


@pytest.mark.some(14)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("kind", "betas"), [*itertools.product(KINDS, SHAPES), ("DDPMScheduler", "sigmoid")]
)
def test_tables_are_diffusers(kind, betas, zero):
    options = dict(rescale_betas_zero_snr=zero, beta_start=0.001, beta_end=0.015)
    options |= dict(beta_schedule=betas) if betas not in ("trained", "short") else {}
    if betas == "trained":
        options |= dict(
            trained_betas=np.linspace(0.001, 0.02, 500).tolist(), num_train_timesteps=500
        )
    if betas == "short":
        options |= dict(num_train_timesteps=100)
    if kind.startswith("Cog") and betas != "scaled_linear":
        options |= dict(snr_shift_scale=3.0 if betas == "trained" else 1.0)
    theirs = getattr(diffusers, kind)(**options)
    expected = theirs.alphas_cumprod.double().numpy()
    schedule = training.training_of(kind, dict(theirs.config)).noise_schedule
    found = schedule.alpha_bar
    if zero:
        assert found[-1] == 0
        assert expected[-1] < 1e-7  # Euler keeps 2⁻²⁴
        found, expected = found[:-1], expected[:-1]
    assert len(found) == len(expected)
    # float32: relative 1e-5, and near zero SNR what the subtraction of two close numbers leaves
    assert np.allclose(np.sqrt(found), np.sqrt(expected), rtol=2e-5, atol=2e-6)


def test_the_snr_shift_multiplies_kappa():
    plain, shifted = ScaledLinearVP(), ScaledLinearVP(snr_shift=3.0)
    assert np.allclose(
        np.exp(shifted.log_kappas), math.sqrt(3) * np.exp(plain.log_kappas), rtol=1e-9
    )


@pytest.mark.parametrize("name", ["flux", "ltx"])
@pytest.mark.parametrize("tokens", [256, 1000, 4096])
@pytest.mark.parametrize("rule", ["exponential", "linear"])
def test_the_dynamic_shift_is_the_pipeline_s(name, tokens, rule):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    kind, options = TINY[name].scheduler
    s = getattr(diffusers, kind)(**(options | dict(time_shift_type=rule, shift_terminal=None)))
    c = s.config
    mu = calculate_shift(
        tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift
    )
    s.set_timesteps(sigmas=np.linspace(1, 0.1, 10), mu=mu)
    found = training.training_of(kind, dict(c)).at(tokens).noise_schedule
    levels = [Flow().at(float(k)).sigma for k in found.kappa(np.linspace(1, 0.1, 10))]
    assert levels == pytest.approx(s.sigmas[:-1].tolist(), rel=1e-5)


def test_flow_shifts_and_ranges_are_read():
    of = training.training_of
    assert of("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)).noise_schedule == RectifiedFlowSchedule(3.0)  # fmt: skip
    flow = dict(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    for kind in (
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DEISMultistepScheduler",
    ):
        t = of(kind, flow)
        assert (t.noise_schedule, t.prediction.kind, t.time(math.inf)) == (RectifiedFlowSchedule(5.0), "flow", 1000)  # fmt: skip
    t = of("EDMEulerScheduler", dict(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7))
    assert (t.noise_schedule.kappa_min, t.noise_schedule.kappa_max) == (0.01, 50.0)
    assert t.prediction == Prediction("edm", 0.7)
    assert of("DDPMScheduler", dict(predict_epsilon=False)).prediction.kind == "x0"
    assert isinstance(of("DDPMScheduler", dict(trained_betas=[0.1, 0.2, 0.3])).noise_schedule, Measured)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("MyScheduler", {}, "scheduler MyScheduler is not known"),
        ("DDIMScheduler", dict(prediction_type="noise"), "prediction_type = 'noise' is not known; known: epsilon"),
        ("DDIMScheduler", dict(beta_schedule="cubic"), "beta_schedule = 'cubic' is not known"),
        ("DDIMScheduler", dict(beta_end=3.0), "beta_end = 3.0: must lie between"),
        ("DDIMScheduler", dict(num_train_timesteps="many"), "num_train_timesteps|timesteps = 'many'"),
        ("DDIMScheduler", dict(trained_betas=[0.1, 2.0]), "trained_betas must be"),
        ("UniPCMultistepScheduler", dict(prediction_type="flow_prediction"), "without use_flow_sigmas contradicts"),
        ("UniPCMultistepScheduler", dict(prediction_type="v_prediction", use_flow_sigmas=True), "v prediction is defined on VP"),
        ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True), "invert_sigmas"),
        ("EDMEulerScheduler", dict(prediction_type="sample"), "takes epsilon or v_prediction"),
        ("EDMEulerScheduler", dict(sigma_max=0.001), "must be below"),
        ("EulerDiscreteScheduler", dict(timestep_type="continuous"), "timestep_type = 'continuous'"),
    ],
)  # fmt: skip
def test_contradictory_scheduler_configs_are_refused(kind, config, says):
    with pytest.raises(ValueError, match=says) as caught:
        training.training_of(kind, config, "X/scheduler_config.json")
    assert str(caught.value).startswith("X/scheduler_config.json: ")
