"""The engine in other loops: each door gives what our own run gives, on exact denoisers."""

from __future__ import annotations

import pytest
import torch
from product import each
from solver_cases import EVERY_VARIANT, MEAN, STD

from sampling_kit.doors import KitScheduler, k_diffusion_sampler
from sampling_kit.doors.config_values import from_config, to_config
from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.path import VE, VP, Flow, rescale
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    Adaptive,
    DPMSolverMultistep,
    Euler,
    EulerAncestral,
    HeunEDM,
    Idempotent,
    Run,
    UniPC,
)
from sampling_kit.schedulers.spacing import ALL as SPACINGS
from sampling_kit.schedulers.spacing import Karras, Trailing, space

diffusers = pytest.importorskip("diffusers")
BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
TRAINED = {
    "eps": ("DDIMScheduler", BETAS | dict(prediction_type="epsilon")),
    "v": ("DDIMScheduler", BETAS | dict(prediction_type="v_prediction")),
    "v at zero terminal SNR": ("DDIMScheduler", BETAS | dict(prediction_type="v_prediction", rescale_betas_zero_snr=True)),
    "x0": ("DDPMScheduler", BETAS | dict(prediction_type="sample")),
    "flow": ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)),
    "edm": ("EDMEulerScheduler", {}),
}  # fmt: skip
SET = [s for s in EVERY_VARIANT if not isinstance(s, Adaptive)]


def made(trained, **more):
    kind, config = TRAINED[trained]
    return KitScheduler.from_config(config, trained_as=kind, **more)


def noise_of(seed):
    """Draws in order, as a loop with one generator makes them."""
    generator = torch.Generator().manual_seed(seed)
    return lambda position, like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def exact(path):
    """D of Gaussian data as [B, 3, 1, 1]."""
    return Gaussian(path, MEAN.reshape(3, 1, 1), STD.reshape(3, 1, 1))


def looped(s, x, change=lambda i, x: x, begin=None):
    """A pipeline's loop whose network is right about Gaussian data."""
    d, generator = exact(s.schedule.path), torch.Generator().manual_seed(5)
    prediction = s.training.prediction
    first = 0 if begin is None else begin
    if begin is not None:
        s.set_begin_index(begin)
    for i, t in enumerate(s.timesteps[first:], first):
        at = s.evaluations[i].label
        assert float(t) == pytest.approx(s.training.time(at.kappa), abs=1e-3)
        scaled = s.scale_model_input(x, t)
        seen = scaled / s.training.input_scale(at)
        x0 = d(seen, at.sigma)
        out = prediction.from_x0(x0, seen, at.alpha, at.sigma) if at.sigma or prediction.kind in "x0" else x0  # fmt: skip
        x = change(i, s.step(out, t, x, generator=generator, return_dict=False)[0])
    return x


def own(solver, points, x):
    """Our run, in ComfyUI's coordinates where they hold the levels."""
    noise = noise_of(5)
    _, c = rescale(points[0], points.path.host)
    _, back = rescale(points.host[len(points) - 1], points.path)
    return back * solver.solve(points, Run(exact(points.path.host), noise), c * x)


def state(s, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return s.init_noise_sigma * torch.randn(
        batch, 3, 1, 1, generator=generator, dtype=torch.float64
    )


@pytest.mark.some(10)
@each(by=type, solver=SET, trained=TRAINED)
def test_the_scheduler_s_loop_is_our_run(solver, trained):
    s = made(trained, solver=solver)
    s.set_timesteps(6)
    x = state(s)
    assert torch.allclose(looped(s, x), own(solver, s.points, x), rtol=1e-7, atol=1e-7)


@pytest.mark.some(10)
@each(by=type, solver=SET, model=[(VE(), 20.0, 0.0), (VP(), 14.6, 0.03), (Flow(), 0.95, 0.0)])
def test_the_k_diffusion_function_is_our_run(solver, model):
    path, top, end = model
    sigmas = torch.linspace(1, 0, 6, dtype=torch.float64) ** 2 * (top - end) + end
    points, x = (
        Points.from_sigmas(path, sigmas.tolist()),
        torch.randn(2, 3, 1, 1, dtype=torch.float64),
    )
    x, d, noise, seen = x * top, exact(path.host), noise_of(5), []

    def network(y, sigma, scale):
        assert sigma.shape == (2,) and float(sigma[0]) == float(sigma[1])
        return scale * d(y, float(sigma[0]))

    got = k_diffusion_sampler(solver, path)(
        network, x, sigmas, dict(scale=1.0), seen.append, True, noise_sampler=lambda a, b: noise(0, x)
    )  # fmt: skip
    assert torch.equal(got, solver.solve(points, Run(d, noise_of(5)), x))
    assert {"x", "i", "sigma", "sigma_hat", "denoised"} == seen[0].keys()
    assert [one["i"] for one in seen] == sorted({one["i"] for one in seen})


def test_k_diffusion_s_noise_is_asked_for_between_the_levels_of_the_run():
    asked, sigmas = [], torch.tensor([8.0, 4.0, 2.0, 0.0])

    def noise(a, b):
        asked.append((float(a), float(b)))
        return torch.zeros(1, 3, 1, 1)

    d = exact(VE())
    network = lambda y, sigma: d(y, float(sigma[0]))  # noqa: E731
    k_diffusion_sampler(EulerAncestral())(network, torch.ones(1, 3, 1, 1), sigmas, disable=True, noise_sampler=noise)  # fmt: skip
    assert asked == [(8.0, 4.0), (4.0, 2.0)]
    torch.manual_seed(0)
    drawn = k_diffusion_sampler(EulerAncestral())(network, torch.ones(1, 3, 1, 1), sigmas)
    torch.manual_seed(0)
    again = k_diffusion_sampler(EulerAncestral())(network, torch.ones(1, 3, 1, 1), sigmas)
    assert torch.equal(drawn, again)


@each(solver=[DDIM(), DPMSolverMultistep(), HeunEDM(), UniPC(3)], trained=["eps", "flow"])
def test_a_run_begins_in_the_middle(solver, trained):
    """Image to image: the pipeline slices the timesteps at t_start · order, noises its picture, and says so."""
    s = made(trained, solver=solver)
    s.set_timesteps(8)
    begin = 3 * s.order
    s.set_begin_index(begin)
    picture, noise = state(s, 1), state(s, 2)
    noised = s.add_noise(picture, noise, s.timesteps[begin : begin + 1])
    start = s.level_at(begin)
    rest = Points(s.points.path, tuple(k for k in s.points.kappas if k <= start.kappa * (1 + 1e-9)))
    assert torch.allclose(noised, start.alpha * picture + start.sigma * noise, rtol=0, atol=1e-12)
    assert len(rest) in (5, 6)
    got = looped(s, noised, begin=begin)
    assert torch.allclose(got, own(solver, rest, noised), rtol=1e-7, atol=1e-7)


def test_a_solver_that_begins_otherwise_than_it_goes_on_says_so():
    s = made("eps", solver=UniPC(3, start="single_step"))
    s.set_timesteps(8)
    with pytest.raises(ValueError, match="cannot begin in the middle"):
        looped(s, state(s), begin=5)


@pytest.mark.parametrize("solver", [Euler(), DPMSolverMultistep()])
def test_what_a_pipeline_changes_moves_the_solver_s_state(solver):
    """Inpainting puts back what is kept after each step: so does a run in parts whose state is edited."""
    s = made("eps", solver=solver)
    s.set_timesteps(6)
    x, mask = state(s), torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1)

    def put_back(i, x):
        return x if i == 5 else mask * x + (1 - mask) * 0.3

    got = looped(s, x, put_back)
    program, d = solver.plan(s.points), exact(s.points.path)
    from sampling_kit.schedulers.solver import State

    here = State((x,))
    for i in range(6):
        here = program.advance(Run(d), here, i + 1)
        reached = program.arrive(here, s.points[i + 1])
        here = reached.moved(put_back(i, reached.x))
    assert torch.allclose(got, here.x, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(got, looped_fresh(s, x), atol=1e-3)


def looped_fresh(s, x):
    s.set_timesteps(6)
    return looped(s, x)


def test_half_precision_latents_keep_the_state_in_float32():
    s = made("eps", solver=DPMSolverMultistep())
    s.set_timesteps(20)
    x = state(s).half()
    low = looped(s, x)
    s.set_timesteps(20)
    wide = looped(s, x.double())
    assert low.dtype == torch.float16
    assert float((low.double() - wide).abs().max()) < 4e-3


def test_what_decides_by_the_data_is_refused():
    for solver in (Adaptive(), Idempotent(3, 0.1)):
        with pytest.raises(ValueError, match="decides by the data"):
            made("eps", solver=solver).set_timesteps(4)


def test_timesteps_repeat_as_diffusers_heun_has_them():
    theirs = diffusers.HeunDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    theirs.set_timesteps(5)
    s = made("eps", solver=HeunEDM())
    s.set_timesteps(5)
    assert s.order == theirs.order == 2 and s.timesteps.dtype == torch.int64
    assert s.timesteps.tolist() == theirs.timesteps.tolist()
    assert s.sigmas[:-1].tolist() == pytest.approx(theirs.sigmas[:-1].tolist(), rel=1e-4)


def test_the_config_comes_back_from_a_file(tmp_path):
    s = made("flow", solver=UniPC(3), spacing=Karras(5.0))
    s.save_pretrained(tmp_path)
    again = KitScheduler.from_pretrained(tmp_path)
    assert (again.solver, again.spacing) == (s.solver, s.spacing)
    assert again.training == s.training and again.config.use_flow_sigmas
    other = KitScheduler.from_config(s.config, solver="Euler")
    assert other.solver == Euler() and other.training == s.training


@pytest.mark.parametrize("kind", [
    "DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "CogVideoXDDIMScheduler", "UniPCMultistepScheduler",
])  # fmt: skip
def test_the_config_of_a_scheduler_in_memory_says_enough(kind):
    s = KitScheduler.from_config(getattr(diffusers, kind)().config)
    assert s.config.num_train_timesteps == len(s) == 1000
    s.set_timesteps(4)
    assert len(s.timesteps) == 4


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="trained_as"):
        KitScheduler.from_config(diffusers.EDMEulerScheduler().config)
    with pytest.raises(ValueError, match="solver = 'Eulr': choose one of"):
        made("eps", solver="Eulr")
    with pytest.raises(ValueError, match="pass num_inference_steps"):
        made("eps").set_timesteps()
    with pytest.raises(RuntimeError, match="set_timesteps"):
        made("eps").step(torch.zeros(1), 1, torch.zeros(1))
    dynamic = KitScheduler.from_config(dict(use_dynamic_shifting=True))
    with pytest.raises(ValueError, match="pass mu"):
        dynamic.set_timesteps(4)
    s = made("eps")
    s.set_timesteps(2)
    x = looped(s, state(s))
    with pytest.raises(RuntimeError, match="the run is over"):
        s.step(x, s.timesteps[-1], x)


@pytest.mark.some(20)
@pytest.mark.parametrize("setting", [*(s for s in SET[::7]), *(kind() for kind in SPACINGS.values())], ids=repr)  # fmt: skip
def test_settings_go_through_json(setting):
    kinds = {type(setting).__name__: type(setting)}
    assert from_config(to_config(setting), kinds, "setting") == setting


def test_levels_may_be_passed():
    s = made("flow", spacing=Trailing())
    s.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])  # the ramp that pipelines pass
    assert s.points == space(s.schedule, 4, Trailing())
    s.set_timesteps(sigmas=[1.0, 0.9, 0.2])
    assert s.sigmas.tolist() == pytest.approx([3 * t / (1 + 2 * t) for t in (1.0, 0.9, 0.2, 0.0)])
    v = made("eps")
    v.set_timesteps(timesteps=[999, 500, 0])
    assert v.timesteps.tolist() == [999, 500, 0]
    v.set_timesteps(sigmas=[14.0, 2.0, 0.0])
    assert v.points.kappas == (14.0, 2.0, 0.0)
