"""x ← f(x): projections are done at once, Gaussians shrink to their mean at a known rate."""

import json

import pytest
import torch

from sampling_kit.nodes import NODES
from sampling_kit.nodes.denoiser.embedded import scenes
from sampling_kit.schedulers.denoiser import Gaussian, ImageSet, Mixture
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import Idempotent
from sampling_kit.schedulers.solver.run import Run, drive

BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}


def kit(name, /, **inputs):
    return BY_ID[name].execute(**inputs).args


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plane():
    """Data on a plane through 5-dimensional space: at σ → 0 the denoiser is the projection P onto it."""
    basis = torch.linalg.qr(noise(5, 5)).Q[:2][None]
    model = Mixture(VE(), torch.zeros(1, 5), torch.zeros(1), basis, torch.ones(1, 2))
    return model, basis[0].T @ basis[0]


def test_a_projection_is_idempotent():
    model, projection = plane()
    x, points = noise(4, 5), Points(VE(), (1e-4, 0.0))
    out, residuals = drive(Idempotent(4).iterate(points, x), Run(model))
    assert torch.allclose(out, x @ projection, atol=1e-5)
    assert len(residuals) == 3 and max(map(max, residuals)) < 1e-6


def test_an_image_set_at_low_noise_is_a_projection_onto_its_images():
    """f(z) is one of the images, and f(f(z)) the same one."""
    pictures = scenes(12, 24)[:2]
    model = ImageSet(VE(), pictures)
    z = 0.5 * noise(6, 3, 24, 24)
    out, residuals = drive(Idempotent(2).iterate(Points(VE(), (0.05, 0.0)), z), Run(model))
    gaps = torch.cdist(out.flatten(1), pictures.flatten(0, 1).flatten(1)).min(1).values
    assert gaps.max() < 1e-3 and max(residuals[0]) < 1e-4


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_a_gaussian_shrinks_to_its_mean_at_the_known_rate(sigma):
    """D − m = g·(x − m) with g = s²/(s² + σ²), so fⁿ(x) − m = gⁿ(x − m) and the residual is g^n(1 − g)|x − m|."""
    mean, std = torch.tensor([0.3, -0.2, 0.8]), 0.7
    model, x = Gaussian(VE(), mean, std), noise(2, 3)
    out, residuals = drive(Idempotent(6).iterate(Points(VE(), (sigma, 0.0)), x), Run(model))
    g = std**2 / (std**2 + sigma**2)
    assert torch.allclose(out, mean + g**6 * (x - mean), atol=1e-5)
    size = (x - mean).square().mean(1).sqrt()
    for n, row in enumerate(residuals, 1):
        assert row == pytest.approx((g**n * (1 - g) * size).tolist(), rel=1e-4, abs=2e-7)


def test_one_application_is_one_step_of_any_solver():
    model, x = Gaussian(VE(), torch.zeros(3), 0.5), noise(2, 3)
    once = sample(Idempotent(1), VE(), Run(model), x, [2.0, 0.0])
    assert torch.equal(once, model(x, 2.0))


@pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.name)
def test_every_level_is_applied_in_order(path):
    calls = []

    def f(x, sigma):
        calls.append(sigma)
        return x * 0.5

    out = sample(Idempotent(3), path, Run(f), torch.ones(1, 2), [0.8, 0.4, 0.0])
    assert calls == pytest.approx([0.8] * 3 + [0.4] * 3)
    assert torch.allclose(out, torch.full((1, 2), 0.5**6))


def test_it_stops_when_nothing_changes():
    calls = []

    def f(x, sigma):
        calls.append(sigma)
        return x.clamp(-1, 1)

    sample(Idempotent(50, 1e-6), VE(), Run(f), torch.full((1, 2), 3.0), [1.0, 0.0])
    assert len(calls) == 2  # to 1, and a look that it stays


def test_a_run_that_ends_above_zero_leaves_a_state_of_that_level():
    """On flow a LATENT is x/α: the host divides, so the picture is f(x) itself."""
    out = sample(Idempotent(1), Flow(), Run(lambda x, s: x + 1), torch.zeros(1, 2), [0.8, 0.4])
    assert torch.allclose(out, torch.full((1, 2), 0.6))


def test_in_parts_as_in_one_go():
    model, points = Gaussian(Flow(), torch.tensor([0.3, 0.1]), 0.7), Points(Flow(), (3.0, 1.0, 0.0))
    from sampling_kit.schedulers.solver import State

    start, solver = State((noise(2, 2),)), Idempotent(2)
    half = solver.advance(points, Run(model), start, level=1)
    assert torch.allclose(
        solver.advance(points, Run(model), half).x,
        solver.advance(points, Run(model), start).x,
        atol=1e-6,
    )


def test_a_d_that_is_not_finite_is_refused():
    with pytest.raises(FloatingPointError, match="evaluation 1"):
        sample(Idempotent(2), VE(), Run(lambda x, s: x / 0), torch.ones(1, 2), [1.0, 0.0])


def test_the_nodes():
    model = kit("EmbeddedDenoiser", kind={"kind": "images", "size": 24, "scenes": 8})[0]
    positive = kit("ClassCondition", name="unconditional")[0]
    guider = kit("Guider", model=model, positive=positive)[0]
    sampler = kit("Idempotent", repeats=3)[0]
    z, empty = noise(2, 3, 24, 24), torch.zeros(2, 3, 24, 24)
    out = guider.sample(z, empty, sampler, torch.tensor([0.5, 0.05, 0.0]))
    residual, text, told = kit("Idempotence", model=guider, latent={"samples": out}, sigma=0.05)
    assert residual < 1e-3 and "‖f(x) − x‖" in text
    assert len(json.loads(told)["residuals"]) == 3
    far = kit("Idempotence", model=model, latent={"samples": z}, sigma=0.05)[0]
    assert far > 0.5
