"""Numbers that papers and model cards print about schedules; the published lists of levels are in test_named_levels.py."""

import math

import numpy as np
import pytest

from sampling_kit.schedulers.denoiser.diffusers.training import training_of
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    CosineVP,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.size_shift import SizeShift
from sampling_kit.schedulers.spacing import Karras, Leading, Linspace, Trailing, space

#: Lin et al. 2023 (arXiv 2305.08891), table 1: SNR(T) and √ᾱ_T.
LAST = {
    "cosine": (CosineVP(), 2.428735e-09, 4.928220e-05),
    "linear": (LinearVP(), 4.035993e-05, 0.006353),
    "Stable Diffusion": (ScaledLinearVP(), 0.004682, 0.068265),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_timestep_s_signal(name):
    schedule, snr, signal = LAST[name]
    alpha_bar = float(schedule.alpha_bar[-1])
    assert alpha_bar / (1 - alpha_bar) == pytest.approx(snr, rel=1e-4)
    assert math.sqrt(alpha_bar) == pytest.approx(signal, rel=1e-4)


#: The same, table 2: T = 1000, 10 steps, timesteps from 1.
SELECTED = {
    Leading(): [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
    Linspace(): [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
    Trailing(): [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
}


@pytest.mark.parametrize("spacing", SELECTED, ids=repr)
def test_ten_of_a_thousand_timesteps(spacing):
    schedule = LinearVP()
    times = schedule.time(np.array(space(schedule, 10, spacing).kappas[:-1])) + 1
    assert times.round(6).tolist() == SELECTED[spacing]


def test_the_levels_of_stable_diffusion():
    """k-diffusion's σ_min and σ_max."""
    schedule = ScaledLinearVP()
    assert schedule.kappa_max == pytest.approx(14.6146, abs=1e-4)
    assert schedule.kappa_min == pytest.approx(0.0292, abs=1e-4)


#: Pixels' latent tokens → shift: FLUX.1's sampling code (256² to 1024²), LTX-Video's config, Krea's and SD 3.5's shifts.
SHIFTS = [
    (SizeShift(), 256, 1.6487), (SizeShift(), 1024, 1.8776), (SizeShift(), 4096, 3.1582),
    (SizeShift(0.95, 2.05, 1024, 4096), 1024, 2.5857), (SizeShift(0.95, 2.05, 1024, 4096), 4096, 7.7679),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "tokens", "shift"), SHIFTS)
def test_shifts_by_size(rule, tokens, shift):
    assert rule.at(tokens) == pytest.approx(shift, abs=1e-4)


@pytest.mark.parametrize(
    ("shift", "levels"),
    [(3.0, [1, 0.9, 0.75, 0.5]), (1.0, [1, 0.75, 0.5, 0.25]), (5.0, [1, 0.9375, 0.8333, 0.625]), (8.0, [1, 0.96, 0.8889, 0.7273])],
    ids=["SD3", "Flux schnell", "Wan 720p", "shift 8"],
)  # fmt: skip
def test_four_steps_of_flow(shift, levels):
    """σ = s·t/(1 + (s − 1)t), Esser et al. 2024 (arXiv 2403.03206), eq. 23."""
    points = space(RectifiedFlowSchedule(shift), 4, Trailing())
    assert [Flow().at(k).sigma for k in points.kappas[:-1]] == pytest.approx(levels, abs=1e-4)


def test_edm_s_18_levels():
    """Karras et al. 2022, eq. 5: σ from 80 to 0.002, ρ = 7."""
    printed = [
        80, 57.586, 40.785, 28.375, 19.352, 12.910, 8.400, 5.315, 3.257, 1.923, 1.088, 0.5853, 0.2964, 0.1395, 0.0599, 0.0228, 0.0075, 0.0020, 0,
    ]  # fmt: skip
    assert space(EDM(), 18, Karras()).kappas == pytest.approx(printed, rel=2e-2, abs=1e-3)


V_LATENT = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")  # fmt: skip


def cogvideox(shift):
    config = dict(snr_shift_scale=shift, rescale_betas_zero_snr=True, **V_LATENT)
    return training_of("CogVideoXDDIMScheduler", config).noise_schedule


def test_cogvideox_s_schedule():
    """SNR/3 for 2B, SNR for 5B (Yang et al. 2024, arXiv 2408.06072, sec. 2.3), both to zero at T. CogVideo #454 prints ᾱ₅₀₀."""
    two, five = cogvideox(3.0), cogvideox(1.0)
    assert two.alpha_bar[-1] == five.alpha_bar[-1] == 0
    assert two.alpha_bar[500] == pytest.approx(0.0953, abs=1e-4)
    snr = lambda s: 1 / ScaledLinearVP(snr_shift=s).kappa(500) ** 2  # noqa: E731
    assert snr(1.0) / snr(3.0) == pytest.approx(3)
