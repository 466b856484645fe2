"""Facts about diffusers' schedulers, each of which docs/elsewhere.md states."""

import math

import pytest
import torch
from test_elsewhere import X, in_double

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise_schedule import LinearVP
from sampling_kit.schedulers.path import VP

diffusers = pytest.importorskip("diffusers")
OUT = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SCHEDULE = LinearVP()


def table(t):
    """(α, σ) of the training table at t."""
    alpha_bar = float(SCHEDULE.alpha_bar[int(t)])
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def ddim_step(x, eps, start, end):
    """The DDIM step from (α, σ) to another."""
    x0 = (x - start[1] * eps) / start[0]
    return end[0] * x0 + end[1] * eps


@pytest.mark.parametrize(("spacing", "n", "i"), [("linspace", 10, 0), ("trailing", 30, 1)])
def test_ddim_of_diffusers_steps_past_its_own_grid(spacing, n, i):
    """To t − 1000//n, whatever the next timestep is."""
    s = in_double(diffusers.DDIMScheduler(timestep_spacing=spacing, clip_sample=False), SCHEDULE, n)
    t, following = (int(v) for v in s.timesteps[i : i + 2])
    assert t - 1000 // n != following
    got = s.step(OUT, t, X).prev_sample
    assert torch.allclose(got, ddim_step(X, OUT, table(t), table(t - 1000 // n)), atol=1e-9)
    assert not torch.allclose(got, ddim_step(X, OUT, table(t), table(following)), atol=1e-4)


def test_ddim_inverse_of_diffusers_asks_at_the_target_s_time():
    """The state is at t − 1000//n, the network is told t, and that output is taken for the state's own."""
    s = in_double(diffusers.DDIMInverseScheduler(timestep_spacing="leading", clip_sample=False), SCHEDULE, 10)  # fmt: skip
    t = int(s.timesteps[3])
    got = s.step(OUT, t, X).prev_sample
    assert torch.allclose(got, ddim_step(X, OUT, table(t - 100), table(t)), atol=1e-9)


def pndm_error(kind, n):
    """Largest error of PNDM's last state against the exact solution for Gaussian data."""
    options = dict(skip_prk_steps=True, timestep_spacing="leading", prediction_type=kind)
    s = in_double(diffusers.PNDMScheduler(set_alpha_to_one=True, **options), SCHEDULE, n)
    oracle = Gaussian(VP(), torch.zeros(3).double(), torch.full((3,), 1.5).double())
    size = lambda t: math.hypot(1.5 * table(t)[0], table(t)[1])  # noqa: E731
    first, last = int(s.timesteps[0]), int(s.timesteps[-1])
    x = X
    for t in s.timesteps[:-1]:
        x0 = oracle(x, table(t)[1])
        alpha, sigma = table(t)
        eps = (x - alpha * x0) / sigma
        out = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0}[kind]
        x = s.step(out, t, x).prev_sample
    # the exact flow of N(0, 1.5²) keeps x over its standard deviation
    return float((x - X * size(last) / size(first)).abs().max())


def test_pndm_of_diffusers_has_order_1_with_v_prediction():
    """It combines outputs; earlier v, which belong to other noise levels, are read at the present one."""
    orders = {
        kind: math.log2(pndm_error(kind, 125) / pndm_error(kind, 250))
        for kind in ("epsilon", "v_prediction")
    }
    assert 0.7 < orders["v_prediction"] < 1.3
    assert orders["epsilon"] > 1.7


def test_pndm_of_diffusers_extrapolates_on_the_step_to_0():
    """It does not end on its last prediction of x0."""
    options = dict(skip_prk_steps=True, set_alpha_to_one=True, timestep_spacing="leading")
    s = in_double(diffusers.PNDMScheduler(**options), SCHEDULE, 10)
    x = X
    for i, t in enumerate(s.timesteps):
        out = OUT * (1 + i)
        if i == len(s.timesteps) - 1:
            ends_on = (x - table(t)[1] * out) / table(t)[0]
        x = s.step(out, t, x).prev_sample
    assert int(t) == 0
    assert float((x - ends_on).abs().max()) > 1e-3


def test_lms_of_diffusers_started_midway_uses_order_4_on_no_history():
    s = diffusers.LMSDiscreteScheduler()
    s.set_timesteps(10)
    s.set_begin_index(5)
    here, there = (float(v) for v in s.sigmas[5:7])
    x, out = X.float(), OUT.float()
    got = s.step(out, s.timesteps[5], x).prev_sample
    weight = float(((got - x) / out).mean())
    assert weight == pytest.approx(s.get_lms_coefficient(4, 5, 0), rel=1e-4)
    assert abs(weight / (there - here) - 1) > 0.3  # a step on one velocity has σ' − σ


def test_ipndm_of_diffusers_discards_its_first_output():
    """Its first α is 0, and multiplies the output."""
    s = diffusers.IPNDMScheduler()
    s.set_timesteps(10)
    assert float(s.alphas[0]) == 0
    first = s.step(OUT, s.timesteps[0], X).prev_sample
    s.set_timesteps(10)
    assert torch.equal(first, s.step(5 - 2 * OUT, s.timesteps[0], X).prev_sample)


def test_the_float32_table_of_diffusers_is_8e_5_off_at_t_0():
    theirs = float(diffusers.DDIMScheduler().alphas_cumprod[0].double())
    kappa = math.sqrt((1 - theirs) / theirs)
    assert abs(kappa / float(SCHEDULE.kappa(0)) - 1) == pytest.approx(8.3e-5, rel=0.05)
