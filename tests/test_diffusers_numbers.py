"""The numbers of diffusers' own scheduler tests: ours agrees, or is listed with the reason."""

import pytest
import torch
from diffusers_numbers import LOOPS, NOT_RUN, draws, run, state
from diffusers_numbers import TABLE as LINEAR_TABLE
from diffusers_numbers import UNCLIP as COSINE_TABLE

from sampling_kit.doors.stepwise import Stepwise
from sampling_kit.schedulers.denoiser.diffusers.training import training_of
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, DDPM
from sampling_kit.schedulers.spacing import Karras, space

ROWS = {f"{file}: {name}": one for file, tests in LOOPS.items() for name, one in tests.items()}


def agrees(one):
    """To the digits that the test asks for; large numbers to 2e-4, since their table is float32."""
    x = run(one).abs()
    total = one.sum is None or abs(float(x.sum()) - one.sum) < max(1e-2, 2e-4 * one.sum)
    return total and abs(float(x.mean()) - one.mean) < max(one.tolerance, 2e-4 * one.mean)


@pytest.mark.some(21)
@pytest.mark.full
@pytest.mark.parametrize("name", ROWS)
def test_a_loop_has_the_printed_numbers_or_a_reason(name):
    one = ROWS[name]
    # numbers that all but vanish say nothing: both sides are below the tolerance
    assert agrees(one) == (not one.reason or one.mean < 1e-5), one.reason or "ours differs"


def test_most_agree():
    """And how many, for docs/elsewhere.md."""
    same = sum(1 + len(one.also) for one in ROWS.values() if not one.reason)
    other = sum(1 + len(one.also) for one in ROWS.values() if one.reason)
    assert (same, other, len(NOT_RUN)) == (62, 27, 10)
    assert all(one.reason in ("",) or len(one.reason) > 20 for one in ROWS.values())
    assert agrees(ROWS["dpm_multi: no_noise"]) and agrees(ROWS["unipc: noise"])


def variance(solver, trained, t, then):
    schedule = training_of(*trained).noise_schedule
    points = Points(VP(), (float(schedule.kappa(t)), float(schedule.kappa(then)), 0.0))
    return solver.plan(points).stages[1].noise


@pytest.mark.parametrize(
    ("t", "then", "printed"), [(420, 400, 0.14771), (980, 960, 0.3246), (487, 486, 0.00979), (999, 998, 0.02)]
)  # fmt: skip
def test_variances_of_ddim_and_ddpm(t, then, printed):
    assert variance(DDIM(1.0), LINEAR_TABLE, t, then) ** 2 == pytest.approx(printed, abs=1e-5)
    if t - then == 1:
        assert variance(DDPM(), LINEAR_TABLE, t, then) ** 2 == pytest.approx(printed, abs=1e-5)


@pytest.mark.parametrize(("t", "printed"), [(487, 0.0549625), (999, 0.9994987)])
def test_deviations_of_unclip(t, printed):
    assert variance(DDPM(), COSINE_TABLE, t, t - 1) == pytest.approx(printed, abs=1e-5)


@pytest.mark.parametrize(("solver", "total", "mean"), [(DDIM(), 1147.7904, 0.4982), (DDPM(), 1153.1833, 0.5005)])  # fmt: skip
def test_one_step_of_three_states_at_three_times(solver, total, mean):
    """Of the parallel schedulers: DDIM's step to the data, DDPM's mean one timestep down."""
    training, made = training_of(*LINEAR_TABLE), []
    for t, x in enumerate((state(), state() + 0.1, state() - 0.1)):
        levels = [t] if isinstance(solver, DDIM) or not t else [t, t - 1]
        kappas = [float(training.noise_schedule.kappa(level)) for level in levels]
        nothing = lambda position, like: torch.zeros_like(like)  # noqa: E731
        step = Stepwise(solver, Points(VP(), (*kappas, 0.0)), x, nothing)
        at = VP().at(kappas[0])
        d = training.prediction.to_x0(x * t / (t + 1), x, at.alpha, at.sigma).clamp(-1, 1)
        made.append(step.answer(d, torch.float64))
    x = torch.stack(made).abs()
    assert float(x.sum()) == pytest.approx(total, abs=1e-2)
    assert float(x.mean()) == pytest.approx(mean, abs=1e-3)


def test_karras_levels_of_flow():
    """UniPC with use_flow_sigmas and use_karras_sigmas: Karras' σ/(1 + σ)."""
    points = space(EDM(0.01, 200.0), 5, Karras())
    printed = [0.9950248599, 0.9787454605, 0.8774884343, 0.3604971766, 0.0099009862, 0.0]
    assert [Flow().at(k).sigma for k in points.kappas] == pytest.approx(printed, abs=1e-6)


@pytest.mark.full
def test_unclip_of_diffusers_in_double_has_our_numbers(monkeypatch):
    """The reason FLOAT32."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_unclip

    one = ROWS["unclip: all"]
    s = diffusers.UnCLIPScheduler(variance_type="fixed_small_log", clip_sample=True)
    s.alphas_cumprod = torch.from_numpy(training_of(*one.trained).noise_schedule.alpha_bar.copy())
    s.alphas = s.alphas_cumprod / torch.cat([torch.ones(1), s.alphas_cumprod[:-1]])
    s.betas = 1 - s.alphas
    draw, x = draws(), state()
    monkeypatch.setattr(scheduling_unclip, "randn_tensor", lambda *a, **k: draw(0, x))
    for t in s.timesteps:
        x = s.step(x * t / (t + 1), t, x).prev_sample
    ours = run(one)
    assert float((ours - x).abs().max()) < 1e-6
