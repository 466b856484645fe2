"""Equality with other implementations, where those are right: diffusers, and EDM's algorithm."""

import itertools
import math

import numpy as np
import pytest
import torch
from product import each

from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, DDPM, Euler, HeunEDM, RectifiedFlow
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import space

MEAN, STD = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([0.5, 1.5, 0.8]).double()
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Draws:
    """The k-th draw of a run, the same for both sides."""

    def __call__(self, position, like):
        generator = torch.Generator().manual_seed(position)
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def in_double(scheduler, schedule, n):
    """diffusers' scheduler with our float64 table, so that only the algorithms are compared."""
    scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha_bar.copy())
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.alphas = scheduler.alphas_cumprod / torch.cat(
        [torch.ones(1), scheduler.alphas_cumprod[:-1]]
    )
    scheduler.betas = 1 - scheduler.alphas
    scheduler.set_timesteps(n)
    return scheduler


def states(plan, denoise, noise):
    """Every state the denoiser saw, and the last one."""
    seen = []
    end = plan.solve(Run(denoise, noise, lambda s: seen.append(s.x)), X)
    return [*seen[1:], end]


def network_output(oracle, schedule, x, t, kind):
    p = schedule.path.at(float(schedule.kappa(int(t))))
    x0 = oracle(x, p.sigma)
    eps = (x - p.alpha * x0) / p.sigma
    return {"epsilon": eps, "sample": x0, "v_prediction": p.alpha * eps - p.sigma * x0}[kind]


@pytest.mark.some(3)
@each(
    case=itertools.product(
        [(50, "trailing"), (50, "leading"), (20, "leading"), (1000, "leading")],
        ["epsilon", "sample", "v_prediction"],
    ),
    eta=[0.0, 0.5, 1.0],
)
def test_ddim_equals_diffusers_step_for_step(case, eta):
    from diffusers import DDIMScheduler

    (n, spacing), kind = case
    schedule, oracle = LinearVP(), Gaussian(VP(), MEAN, STD)
    theirs = in_double(
        DDIMScheduler(timestep_spacing=spacing, prediction_type=kind, clip_sample=False),
        schedule,
        n,
    )
    ours = states(DDIM(eta=eta).plan(space(schedule, n, spacings.ALL[spacing]())), oracle, Draws())
    x = X
    for i, t in enumerate(theirs.timesteps):
        out = network_output(oracle, schedule, x, t, kind)
        noise = Draws()(i + 1, x) if eta else None
        x = theirs.step(out, t, x, eta=eta, variance_noise=noise).prev_sample
        assert torch.allclose(ours[i], x, rtol=1e-9, atol=1e-9)


VARIANCES = {"small": "fixed_small", "large": "fixed_large", "interpolated": "learned_range"}


@pytest.mark.some(2)
@each(
    case=itertools.product([(50, "trailing"), (50, "leading"), (1000, "leading")], VARIANCES),
    clip=[0.0, 1.0],
)
def test_ddpm_equals_diffusers_step_for_step(case, clip, monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    (n, spacing), variance = case
    schedule, oracle, mix = LinearVP(), Gaussian(VP(), MEAN, STD), 0.3
    theirs = in_double(
        DDPMScheduler(
            timestep_spacing=spacing, variance_type=VARIANCES[variance], clip_sample=clip > 0
        ),
        schedule,
        n,
    )
    solver = DDPM(variance=variance, mix=mix, clip_x0=clip)
    ours = states(solver.plan(space(schedule, n, spacings.ALL[spacing]())), oracle, Draws())
    x = X
    for i, t in enumerate(theirs.timesteps):
        monkeypatch.setattr(
            scheduling_ddpm, "randn_tensor", lambda *a, k=i + 1, **kw: Draws()(k, X)
        )
        out = network_output(oracle, schedule, x, t, "epsilon")
        if variance == "interpolated":  # the network's second half holds 2·mix − 1
            out = torch.cat([out, torch.full_like(out, 2 * mix - 1)], 1)
        x = theirs.step(out, t, x).prev_sample
        # theirs adds noise on arrival at x0 unless the last timestep is 0, as it is with leading only
        noisy_end = i == n - 1 and spacing == "trailing" and variance != "small"
        assert torch.allclose(ours[i], x, rtol=1e-9, atol=1e-9) != noisy_end


def test_ddim_from_zero_terminal_snr_equals_diffusers():
    from diffusers import DDIMScheduler

    schedule, oracle = ScaledLinearVP(zero_snr=True), Gaussian(VP(), MEAN, STD)
    config = dict(
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
    )
    theirs = in_double(DDIMScheduler(**config), schedule, 10)
    points = space(schedule, 10, spacings.Trailing())
    assert points[0].alpha == 0
    ours, x = states(DDIM().plan(points), oracle, None), X
    for i, t in enumerate(theirs.timesteps):
        x = theirs.step(network_output(oracle, schedule, x, t, "v_prediction"), t, x).prev_sample
        assert torch.allclose(ours[i], x, rtol=1e-9, atol=1e-9)


def edm_sampler(denoise, x, levels, churn, low, high, size, draws, correct):
    """Karras et al. 2022, algorithm 2, as printed."""
    n = len(levels) - 1
    x, k = x * 1.0, 0
    for i in range(n):
        t, t_next = levels[i], levels[i + 1]
        gamma = min(churn / n, math.sqrt(2) - 1) if low <= t <= high else 0.0
        t_hat = t + gamma * t
        if gamma > 0:
            k += 1
            x = x + math.sqrt(t_hat**2 - t**2) * size * draws(k, x)
        d = (x - denoise(x, t_hat)) / t_hat
        x_next = x + (t_next - t_hat) * d
        if correct and t_next != 0:
            d_next = (x_next - denoise(x_next, t_next)) / t_next
            x_next = x + (t_next - t_hat) * (d + d_next) / 2
        x = x_next
    return x


@each(
    case=itertools.product([1, 2, 7, 18], [(Euler, False), (HeunEDM, True)]), churn=[0.0, 5.0, 40.0]
)
def test_euler_and_heun_equal_the_edm_algorithm(case, churn):
    n, (solver, correct) = case
    points = space(EDM(), n, spacings.Karras())
    oracle, x = Gaussian(VE(), MEAN, STD), 80 * X
    ours = solver(churn=churn, churn_from=0.05, churn_to=50.0, noise=1.003)
    reference = edm_sampler(oracle, x, points.kappas, churn, 0.05, 50.0, 1.003, Draws(), correct)
    assert torch.allclose(
        ours.plan(points).solve(Run(oracle, Draws()), x), reference, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("n", [1, 4, 28])
def test_rectified_flow_equals_diffusers(shift, n):
    from diffusers import FlowMatchEulerDiscreteScheduler

    points = space(RectifiedFlowSchedule(shift), n, spacings.Trailing())
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / n, n))
    assert points.sigmas() == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)
    theirs.sigmas = torch.tensor(points.sigmas(), dtype=torch.float64)
    oracle, x = Gaussian(Flow(), MEAN, STD), X
    ours = states(RectifiedFlow().plan(points), oracle, None)
    for i, (t, sigma) in enumerate(zip(theirs.timesteps, points.sigmas(), strict=False)):
        v = (x - oracle(x, sigma)) / sigma
        x = theirs.step(v, t, x).prev_sample.double()
        assert torch.allclose(ours[i], x, rtol=1e-6, atol=1e-6)  # theirs steps in float32


def test_heun_on_flow_equals_diffusers():
    from diffusers import FlowMatchHeunDiscreteScheduler

    n = 6
    theirs = FlowMatchHeunDiscreteScheduler()
    theirs.set_timesteps(n)
    sigmas = [*theirs.sigmas[::2].tolist(), 0.0]
    points = Points.from_sigmas(Flow(), sigmas)
    oracle, x = Gaussian(Flow(), MEAN, STD), X
    for t, sigma in zip(theirs.timesteps, theirs.sigmas.tolist(), strict=False):
        x = theirs.step((x - oracle(x, sigma)) / sigma, t, x).prev_sample.double()
    assert torch.allclose(HeunEDM().plan(points).solve(Run(oracle), X), x, rtol=1e-4, atol=1e-4)


def test_flow_euler_is_x_plus_dt_v():
    points = space(RectifiedFlowSchedule(), 5, spacings.Trailing())
    oracle, x = Gaussian(Flow(), MEAN, STD), X
    for p, q in points.steps:
        x = x + (q.sigma - p.sigma) * (x - oracle(x, p.sigma)) / p.sigma
    assert torch.allclose(RectifiedFlow().plan(points).solve(Run(oracle), X), x, atol=1e-12)
