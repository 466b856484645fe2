"""Langevin inpainting: the conditional distribution of exact Gaussians and mixtures, masks hard and soft, order of draws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from node_calls import folders, node, one
from product import each

from sampling_kit.benchmarks.inpainting import sampled, world
from sampling_kit.nodes import host
from sampling_kit.nodes.host.alone.masks import latent_mask
from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.guidance import Guidance
from sampling_kit.schedulers.inpainting import Inpainting, KeptPart, LangevinMoves, plainly
from sampling_kit.schedulers.measure.two_samples import chance
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    Adaptive,
    DPMSolverMultistep,
    HeunEDM,
    Langevin,
    Run,
)

__all__ = ["folders"]  # a fixture

PATHS = [VP(), VE(), Flow()]
COUNT = 300
RUN = (20.0, 8.0, 3.0, 1.0, 0.3, 0.0)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half(shape):
    """A mask that keeps the left half."""
    mask = torch.ones(1, *shape[1:]).double()
    mask[..., : shape[-1] // 2] = 0
    return mask


def part(shape=(3, 2, 4, 4), mask=None, **more):
    return KeptPart(
        draw(*shape, seed=1), draw(*shape, seed=2), half(shape) if mask is None else mask, **more
    )


def run_of(solver, path, kept, x, calls=None, steps=None):
    data = Gaussian(path.host, torch.zeros(x.shape[1:]).double(), 0.7)

    def denoise(y, sigma):
        (calls if calls is not None else []).append(y)
        return data(y, sigma)

    report = None if steps is None else steps.append
    return solver.solve(Points(path, RUN), Run(denoise, PerImageNoise(3), report), x)


# ---------------------------------------------------------------------------------- the distribution


def p_value(problem, method, path):
    """Of the new values against exact draws from their conditional distribution."""
    made = sampled(problem, method, path, COUNT)
    return chance(problem.exact(COUNT, seed=1), problem.new(made.x), 200)


@pytest.mark.some(1)
@each(kind=["one component", "several components", "soft mask"], path=PATHS)
def test_what_is_new_follows_the_conditional_distribution(kind, path):
    """The bound is the permutation test's: batches of one distribution have a p below 2 % once in fifty seeds."""
    problem = world(kind)
    assert p_value(problem, "Langevin, 10 moves", path) > 0.02
    assert p_value(problem, "plain masking", path) < 0.01


def test_the_closed_form_is_the_posterior_of_a_gaussian():
    """E[u | y] of one component, by the formula of conditional expectation."""
    problem = world("soft mask")
    one_component = replace(problem, means=problem.means[:1], covariances=problem.covariances[:1], weights=torch.ones(1).double())  # fmt: skip
    seen = problem.deviation.isfinite()
    noise = problem.deviation[seen] ** 2
    c = problem.covariances[0]
    gain = c[:, seen] @ torch.linalg.inv(c[seen][:, seen] + noise.diag())
    mean = problem.means[0] + gain @ (problem.y - problem.means[0])[seen]
    draws = one_component.exact(20_000)
    assert torch.allclose(draws.mean(0), mean[problem.deviation > 0], atol=0.05)


# ------------------------------------------------------------------------------------------- the run


@each(
    solver=[DDIM(), DDIM(1.0), HeunEDM(), DPMSolverMultistep(), Langevin(), Adaptive()],
    path=PATHS,
    shape=[(2, 4, 8), (2, 3, 4, 4), (1, 2, 3, 4, 4)],
)
def test_the_picture_stays_and_every_step_is_reported_once(solver, path, shape):
    kept, calls, steps = part(shape), [], []
    inpaint = Inpainting(solver, LangevinMoves(moves=2), kept)
    out = run_of(inpaint, path, kept, draw(*shape) * path.host.at(RUN[0]).sigma, calls, steps)
    still = (half(shape) == 0).expand(shape)
    assert torch.equal(out[still], kept.picture[still]) and out.isfinite().all()
    assert all(torch.equal(p.denoised[still], kept.picture[still]) for p in steps)
    if not isinstance(solver, Adaptive):
        assert [p.step for p in steps] == list(range(len(RUN) - 1))
        assert len(calls) == inpaint.nfe(len(RUN) - 1)


@each(solver=[HeunEDM(), DDIM(1.0), DPMSolverMultistep()], path=PATHS)
def test_without_moves_it_is_plain_masking(solver, path):
    """On data whose values depend on one another: what stands in the kept part's place counts at every question."""
    problem = world("one component")
    data, points, shape = problem.denoiser(path.host), Points(path, RUN), (3, 1, 1, 6)
    kept = KeptPart(problem.y.expand(shape), draw(*shape, seed=2), problem.mask)
    x = draw(*shape) * points.host[0].sigma
    inpaint = Inpainting(solver, LangevinMoves(moves=0), kept)
    out = inpaint.solve(points, Run(data, PerImageNoise(3)), x)
    plain = solver.solve(points, Run(plainly(data, kept, path), PerImageNoise(3)), x)
    assert torch.allclose(out, plain, atol=1e-10)


def test_an_image_does_not_depend_on_its_batch():
    kept, x = part(), draw(3, 2, 4, 4) * RUN[0]
    whole = run_of(Inpainting(DDIM(), kept=kept), VE(), kept, x)
    first = KeptPart(kept.picture[:1], kept.noise[:1], kept.mask)
    assert torch.equal(run_of(Inpainting(DDIM(), kept=first), VE(), first, x[:1]), whole[:1])


@each(path=PATHS)
def test_gaussian_data_keep_their_variance_for_moves_of_any_size(path):
    """Free of a mask the moves leave the marginal of a level as it is: Leimkuhler & Matthews, not Euler–Maruyama."""
    at, std = path.at(0.8), 0.7
    shape = (1, 40_000)
    data = Gaussian(path.host, torch.zeros(shape[1:]).double(), std)
    host = path.host.at(0.8)
    x = draw(*shape) * math.hypot(host.alpha * std, host.sigma)
    points = Points(path, (0.9, 0.8, 0.7))
    moves = LangevinMoves(moves=30, size=1.0)
    inner = Inpainting(DDIM(), moves)
    seen = []
    inner.solve(points, Run(lambda y, s: seen.append((y, s)) or data(y, s), PerImageNoise(1)), x)
    last = [y for y, s in seen if s == pytest.approx(host.sigma)][-2]
    assert last.std().item() == pytest.approx(math.hypot(host.alpha * std, host.sigma), rel=0.015)
    assert at.kappa == pytest.approx(0.8)


def test_an_interrupt_is_seen_between_moves():
    kept, calls = part(), []

    def check():
        if len(calls) == 4:
            raise InterruptedError

    data = Gaussian(VE(), torch.zeros(2, 4, 4).double(), 0.7)
    run = Run(lambda y, s: calls.append(1) or data(y, s), PerImageNoise(1), check=check)
    with pytest.raises(InterruptedError):
        Inpainting(DDIM(), kept=kept).solve(Points(VE(), RUN), run, draw(3, 2, 4, 4) * 20)
    assert len(calls) == 4  # one step, and three of its five moves


def test_a_mask_that_follows_the_level_is_asked_at_every_step():
    mask = half((3, 2, 4, 4))
    asked = []

    def mask_at(sigma):
        asked.append(sigma)
        return torch.ones_like(mask) if sigma < 2 else mask

    kept = part(mask=mask, mask_at=mask_at)
    out = run_of(
        Inpainting(DDIM(), LangevinMoves(moves=1), kept), VE(), kept, draw(3, 2, 4, 4) * 20
    )
    assert asked == list(RUN[:-1])
    assert not torch.equal(out[..., :2], kept.picture[..., :2])  # freed at 1


# ------------------------------------------------------------------------------------------- nodes


def graph(sampler, mask=True, latent=None):
    """A run of the node's SAMPLER on a 3 × 8 × 8 picture of ones, the left half kept."""
    build = lambda path: Gaussian(path, torch.zeros(3, 8, 8), torch.ones(3, 8, 8))  # noqa: E731
    model = host.models.make_model(build, EDM(sigma_min=0.01, sigma_max=20.0))
    guider = host.runs.make_guider(model, {"cond": [[torch.zeros(1, 1, 1), {}]]}, Guidance())
    latent = {"samples": torch.ones(2, 3, 8, 8)} if latent is None else latent
    if mask:
        latent = one("SetLatentNoiseMask", samples=latent, mask=half((1, 16, 16))[0].float())
    sigmas = torch.tensor([20.0, 5.0, 1.0, 0.0])
    noise = one("PerImageNoise", seed=3)
    return one("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)  # fmt: skip


@pytest.mark.parametrize("trace", [False, True])
def test_the_node_keeps_what_the_mask_keeps(trace):
    sampler = one("LangevinInpainting", sampler=one("DDIM"))
    out = graph(one("Trace", sampler=sampler, memory=16) if trace else sampler)
    assert (out["samples"][..., :4] == 1).all() and not (out["samples"][..., 4:] == 1).any()
    plain = graph(one("DDIM"))
    assert torch.allclose(plain["samples"][..., :4], torch.ones(2, 3, 8, 4), atol=1e-6)
    assert not torch.allclose(plain["samples"], out["samples"])


def test_what_cannot_be_inpainted_is_refused():
    inpaint = one("LangevinInpainting", sampler=one("DDIM"))
    with pytest.raises(ValueError, match="needs a noise mask"):
        graph(inpaint, mask=False)
    with pytest.raises(ValueError, match="cannot run inside Langevin Inpainting"):
        one("LangevinInpainting", sampler=inpaint)
    with pytest.raises(ValueError, match="cannot be split"):
        node("KeepState", sampler=inpaint, sigmas=torch.tensor([2.0, 1.0, 0.0]))
    wide = part((1, 2, 4, 4))
    with pytest.raises(ValueError, match="picture under the mask"):
        run_of(Inpainting(DDIM(), kept=wide), VE(), wide, draw(2, 2, 4, 4))


@pytest.mark.parametrize(
    ("shape", "mask"),
    [((3, 4, 8), (3, 1, 16)), ((3, 4, 8, 8), (1, 16, 16)), ((1, 4, 3, 8, 8), (3, 1, 16, 16))],
)
def test_a_mask_takes_the_shape_of_the_latent(shape, mask):
    assert latent_mask(torch.ones(mask), shape).shape == shape
    with pytest.raises(ValueError, match="does not fit"):
        latent_mask(torch.ones(2, 2), shape)
