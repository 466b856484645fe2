"""Langevin predictor–corrector: the move against the paper and diffusers, marginals, order of draws."""

import itertools
import math

import pytest
import torch
from product import each

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, Flow, SubVP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, DDPM, EulerMaruyama, Langevin, State
from sampling_kit.schedulers.solver.langevin import PREDICTORS, langevin_move
from sampling_kit.schedulers.solver.run import Run, drive
from sampling_kit.schedulers.solver.selection import variants

PATHS = [VP(), VE(), Flow(), SubVP()]
on_every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
STD = 0.6
SIZE = 50_000  # of an image: its sample variance is known to √(2/SIZE) = 0.6 %


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(path, shape=(SIZE,)):
    return Gaussian(path, torch.zeros(shape).double(), STD)


def levels(path, n):
    """κ from 20 to 0.05."""
    return Points(path, tuple(20 * (0.05 / 20) ** (i / n) for i in range(n + 1)))


def variance(p):
    return (p.alpha * STD) ** 2 + p.sigma**2


# ------------------------------------------------------------------------------------------ the move


@each(path=PATHS, shape=[(7,), (3, 4, 4), (2, 3, 4, 4)])
def test_the_move_is_the_paper_s(path, shape):
    """ε = 2(r‖z‖/‖g‖)², x + εg + √(2ε)z with the score g (alg. 4, α = 1), for each image by itself."""
    at, r = path.at(1.5), 0.2
    x, d, z = (noise(3, *shape, seed=s) for s in range(3))
    g = (at.alpha * d - x) / at.sigma**2
    moved = langevin_move(x, d, at, z, r)
    for i in range(3):
        step = 2 * (r * z[i].norm() / g[i].norm()) ** 2
        expected = x[i] + step * g[i] + (2 * step).sqrt() * z[i]
        assert torch.allclose(moved[i], expected, rtol=1e-12, atol=1e-12)


def test_the_move_is_diffusers_for_one_image(monkeypatch):
    """(Theirs averages norms over the batch.)"""
    pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_sde_ve as theirs

    x, d, z = (noise(1, 3, 4, 4, seed=s) for s in range(3))
    monkeypatch.setattr(theirs, "randn_tensor", lambda *_, **__: z)
    scheduler = theirs.ScoreSdeVeScheduler(snr=0.15)
    scheduler.set_timesteps(10)
    scheduler.set_sigmas(10)
    expected = scheduler.step_correct((d - x) / 1.5**2, x).prev_sample
    found = langevin_move(x, d, VE().at(1.5), z, 0.15)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)  # theirs rounds to float32


def test_no_move_without_a_score():
    x = noise(2, 5)
    d = torch.stack([x[0], x[1] + 1])
    moved = langevin_move(x, d, VE().at(1.0), noise(2, 5, seed=1), 0.2)
    assert torch.equal(moved[0], x[0]) and not torch.equal(moved[1], x[1])


@pytest.mark.some(3)
@on_every_path
@pytest.mark.parametrize("snr", [0.1, 0.3])
def test_moves_settle_at_the_marginal_times_one_plus_snr_squared(path, snr):
    """From 4 times too large or too small a variance: V = V(1 − 2r²v/V)² + 4r²v has V = (1 + r²)v."""
    p, oracle = path.at(0.8), gaussian(path)
    x = torch.stack([0.5 * noise(SIZE), 2 * noise(SIZE, seed=1)]) * math.sqrt(variance(p))
    draw = PerImageNoise(5)
    for k in range(round(3 / snr**2)):
        x = langevin_move(x, oracle(x, p.sigma), p, draw(k + 1, x), snr)
    found = x.square().mean(1) / variance(p)
    assert found.tolist() == pytest.approx([1 + snr**2] * 2, rel=0.02)


# ------------------------------------------------------------------------------------------ the run


@on_every_path
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_corrector_improves_the_variance_of_few_steps(predictor, path):
    points = levels(path, 8)
    x = math.sqrt(variance(points[0])) * noise(1, SIZE)
    oracle, errors = gaussian(path), []
    for moves in (0, 4):
        state = State((x,))
        end = drive(
            Langevin(predictor, moves, 0.2).walk(points, state, PerImageNoise(1)), Run(oracle)
        ).x
        errors.append(abs(float(end.square().mean()) / variance(points[-1]) - 1))
    assert errors[0] > 0.05
    assert errors[1] < max(0.5 * errors[0], 0.06)


@pytest.mark.some(1)
@on_every_path
def test_marginals_of_many_steps(path):
    points = levels(path, 200)
    x = math.sqrt(variance(points[0])) * noise(1, 20_000)
    for solver in variants(Langevin):
        state, oracle = State((x,)), gaussian(path, (20_000,))
        end = drive(solver.walk(points, state, PerImageNoise(1)), Run(oracle)).x
        expected = variance(points[-1])
        assert float(end.square().mean()) == pytest.approx(expected, rel=0.06), solver


@each(
    case=itertools.product(
        [("reverse_sde", EulerMaruyama()), ("ancestral", DDPM()), ("ddim", DDIM())],
        [dict(corrector_steps=0), dict(snr=0.0)],
    ),
    path=PATHS,
)
def test_without_a_corrector_it_is_its_predictor(case, path):
    (predictor, plain), none = case
    points = Points(path, (*levels(path, 6).kappas, 0.0))
    oracle, x = gaussian(path, (5,)), 20 * noise(2, 5)
    solver, seen = Langevin(predictor, **none), []
    draw = PerImageNoise(3) if solver.stochastic else None
    ours = drive(solver.walk(points, State((x,)), draw), Run(oracle, callback=seen.append)).x
    theirs = plain.plan(points).solve(Run(oracle, PerImageNoise(3)), x)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert solver.stochastic == plain.stochastic and len(seen) == 7 == solver.nfe(7)


def test_a_small_snr_is_near_the_predictor():
    points, x = levels(Flow(), 6), noise(2, 50)
    oracle = gaussian(Flow(), (50,))
    still = DDIM().plan(points).solve(Run(oracle), x)
    for snr in (1e-2, 1e-4):
        moved = Langevin("ddim", 2, snr).solve(points, Run(oracle, PerImageNoise(0)), x)
        assert 0 < (moved - still).abs().max() < 30 * snr


@pytest.mark.parametrize("solver", [*variants(Langevin), Langevin("ddim", 3)], ids=repr)
def test_draws_are_numbered_in_order_and_a_run_resumes_bit_for_bit(solver):
    points = Points(Flow(), (math.inf, 5.0, 2.0, 0.4, 0.1, 0.0))
    oracle, x, draw, positions, calls = (
        gaussian(Flow(), (5,)),
        noise(2, 5),
        PerImageNoise(4),
        [],
        [],
    )

    def numbered(position, like):
        positions.append(position)
        return draw(position, like)

    def counted(x, sigma):
        calls.append(sigma)
        return oracle(x, sigma)

    before = x.clone()
    whole = solver.advance(points, Run(counted, numbered), State((x,)))
    assert positions == list(range(1, len(positions) + 1)) and whole.draws == len(positions)
    assert len(calls) == solver.nfe(5)
    for cut in range(6):
        steps = []
        half = solver.advance(points, Run(oracle, draw, steps.append), State((x,)), level=cut)
        assert half.stage == cut
        end = solver.advance(points, Run(oracle, draw, steps.append), half)
        assert torch.equal(end.x, whole.x) and end.draws == whole.draws
        assert [s.step for s in steps] == [0, 1, 2, 3, 4]
    assert torch.equal(x, before)


def test_bad_runs_are_refused():
    oracle, x = gaussian(VE(), (5,)), noise(1, 5)
    with pytest.raises(ValueError, match=r"draws noise.*must fall"):
        Langevin("ddim").solve(Points(VE(), (0.1, 1.0)), Run(oracle, PerImageNoise(0)), x)
    with pytest.raises(ValueError, match="pass a noise source"):
        Langevin().solve(levels(VE(), 2), Run(oracle), x)
    with pytest.raises(FloatingPointError, match=r"evaluation 2 \(σ = .*float64"):
        Langevin().solve(
            levels(VE(), 3),
            Run(lambda x, s: x * (math.nan if s < 15 else 0.0), PerImageNoise(0)),
            x,
        )
