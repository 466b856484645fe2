"""Predictions: the six kinds, their inverses, and the v identity."""

import itertools
import math

import numpy as np
import pytest
import torch
from product import each

from sampling_kit.schedulers.noise_schedule import LinearVP, ScaledLinearVP
from sampling_kit.schedulers.path import PATHS, VP, Flow
from sampling_kit.schedulers.prediction import KINDS, Prediction, get_velocity

X0 = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EPS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

#: What a perfect network of each kind outputs, written from its definition.
DEFINITION = {
    "eps": lambda a, s: EPS,
    "v": lambda a, s: a * EPS - s * X0,
    "x0": lambda a, s: X0,
    "flow": lambda a, s: EPS - X0,
    "score": lambda a, s: -EPS / s,
}


@each(case=itertools.product([p() for p in PATHS], DEFINITION), kappa=[0.01, 1.0, 80.0])
def test_every_kind_gives_back_x0(case, kappa):
    path, kind = case
    p = path.at(kappa)
    x, out = p.alpha * X0 + p.sigma * EPS, DEFINITION[kind](p.alpha, p.sigma)
    if kind == "v" and not isinstance(path, VP):
        with pytest.raises(ValueError, match="VP"):
            Prediction(kind).check(path)
        return
    Prediction(kind).check(path)
    assert torch.allclose(Prediction(kind).to_x0(out, x, p.alpha, p.sigma), X0, atol=1e-8)
    assert torch.allclose(
        Prediction(kind).from_x0(X0, x, p.alpha, p.sigma) * (kind != "x0"),
        out * (kind != "x0"),
        atol=1e-6,
    )


@pytest.mark.parametrize("path", [p() for p in PATHS], ids=lambda p: p.name)
@pytest.mark.parametrize("kappa", [0.002, 0.5, 80.0])
def test_edm_preconditioning_is_table_1(path, kappa):
    p, s = path.at(kappa), 0.7
    y = X0 + kappa * EPS
    skip, out = s**2 / (kappa**2 + s**2), kappa * s / math.hypot(kappa, s)
    raw = Prediction("edm", s).from_x0(X0, p.alpha * y, p.alpha, p.sigma)
    assert torch.allclose(skip * y + out * raw, X0, atol=1e-9)
    assert torch.allclose(
        Prediction("edm", s).to_x0(raw, p.alpha * y, p.alpha, p.sigma), X0, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_at_pure_noise_only_eps_and_score_say_nothing(kind):
    prediction = Prediction(kind)
    if kind in ("eps", "score"):
        with pytest.raises(ValueError, match="pure noise"):
            prediction.to_x0(EPS, EPS, 0.0, 1.0)
    else:
        assert torch.isfinite(prediction.to_x0(X0, EPS, 0.0, 1.0)).all()


def test_flow_at_time_one_is_x_minus_v():
    assert torch.allclose(Prediction("flow").to_x0(EPS - X0, EPS, 0.0, 1.0), X0)
    assert Flow().on(1.0).alpha == 0


@pytest.mark.parametrize(
    "schedule",
    [LinearVP(), ScaledLinearVP(), ScaledLinearVP(zero_snr=True)],
    ids=["linear", "sd", "zero_snr"],
)
def test_the_v_identity_at_all_1000_timesteps(schedule):
    """get_velocity(sample=v, noise=x_t) = α·x_t − σ·v = x0 (the CogVideo trick), for every timestep."""
    for t in range(1000):
        p = schedule.path.at(float(schedule.kappa(t)))
        x, v = p.alpha * X0 + p.sigma * EPS, p.alpha * EPS - p.sigma * X0
        assert torch.allclose(get_velocity(v, x, p.alpha, p.sigma), X0, atol=1e-12)
        assert torch.allclose(Prediction("v").to_x0(v, x, p.alpha, p.sigma), X0, atol=1e-12)


def test_the_v_identity_in_diffusers_and_that_it_fails_off_vp():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(prediction_type="v_prediction")
    scheduler.alphas_cumprod = torch.from_numpy(LinearVP().alpha_bar.copy())
    t = torch.arange(1000)
    a = scheduler.alphas_cumprod.sqrt()[:, None, None]
    s = (1 - scheduler.alphas_cumprod).sqrt()[:, None, None]
    x, v = a * X0 + s * EPS, a * EPS - s * X0
    recovered = scheduler.get_velocity(v, x, t)
    assert (recovered - X0).abs().max() < 1e-12
    assert (scheduler.get_velocity(x, v, t) - X0).abs().max() > 1  # the arguments swapped
    with pytest.raises(ValueError, match="defined on VP"):
        get_velocity(X0, EPS, 0.5, 0.5)
    a, s = 0.5, 0.5  # on flow: α·x − σ·v = (α² + σ²)·x0
    assert torch.allclose(a * (a * X0 + s * EPS) - s * (a * EPS - s * X0), (a * a + s * s) * X0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'epsilon'"):
        Prediction("epsilon")


def test_table_times_are_the_training_timesteps():
    schedule = LinearVP()
    assert schedule.time(schedule.kappa(np.arange(1000))) == pytest.approx(np.arange(1000))
