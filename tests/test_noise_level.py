"""How much noise a picture says to be in it, and runs that begin there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from node_calls import folders, node, one  # noqa: F401

from sampling_kit.embedded import postcards
from sampling_kit.headless.core.sampling import BatchNoise
from sampling_kit.schedulers.measure.noise_level import noise_level


def cards(size, count=10):
    scenes = np.stack([postcards.scene(k % 10, 900 + k, size) for k in range(count)])
    return torch.from_numpy(scenes).float().movedim(-1, 1) / 127.5 - 1


def noisy(x, std, seed=1):
    return x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("std", [0.1, 0.3, 1.0])
def test_the_noise_of_drawn_pictures(size, std):
    """Each within 4 of its errors and 10 %, their mean within 6 %."""
    found = noise_level(noisy(cards(size), std))
    assert found.std.shape == found.error.shape == (10,)
    assert ((found.std - std).abs() < torch.maximum(4 * found.error, torch.tensor(0.1 * std))).all()
    assert abs(found.mean / std - 1) < 0.06


def test_a_clean_picture_and_a_picture_of_noise_alone():
    assert noise_level(cards(64)).std.max() < 0.02
    shapes = (3, 1, 24, 40), (2, 4, 32, 32), (1, 16, 16, 16), (2, 4, 3, 16, 16), (1, 3, 8, 8)
    for shape in shapes:
        found = noise_level(noisy(torch.zeros(shape), 2.0))
        assert ((found.std - 2) / found.error).abs().max() < 4, shape


def test_more_noise_is_measured_as_more_and_the_unit_is_the_picture_s():
    x = cards(32, 4)
    levels = [noise_level(noisy(x, std)).mean for std in (0.05, 0.1, 0.2, 0.4)]
    assert levels == sorted(levels)
    twice = noise_level(2 * noisy(x, 0.2)).mean
    assert twice == pytest.approx(2 * levels[2], rel=1e-6)


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="6 × 9 is too small"):
        noise_level(torch.zeros(1, 3, 9, 6))
    with pytest.raises(ValueError, match="not finite"):
        noise_level(torch.full((1, 3, 8, 8), torch.nan))


SCHEDULES = {
    "VP": ({"kind": "vp_scaled_linear", "kind.zero_snr": False}, lambda kappa: kappa),
    "VE": ({"kind": "ve_edm", "kind.sigma_min": 0.02, "kind.sigma_max": 80.0}, lambda kappa: kappa),
    "flow": ({"kind": "rectified_flow", "kind.shift": 1.0}, lambda kappa: kappa / (1 + kappa)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_begins_at_the_level_of_the_noise_with_the_picture_as_it_is(name):
    """In SIGMAS the level is s on VP and VE, s/(1 + s) on flow, where AddNoise gives α·y for the picture y."""
    kind, sigma_of = SCHEDULES[name]
    kind = {key.removeprefix("kind."): value for key, value in kind.items()}
    schedule = one("NoiseSchedule", kind=kind)
    model = one("EmbeddedDenoiser", kind={"kind": "network-small"}, noise_schedule=schedule)
    steps = one(
        "Steps", noise_schedule=schedule, steps=10, spacing={"spacing": "karras", "rho": 7.0}
    )
    y = noisy(cards(32, 4), 0.4)
    begun, sigma, report = node(
        "StartAtMeasuredNoise", model=model, latent={"samples": y}, sigmas=steps
    )
    assert sigma == pytest.approx(sigma_of(0.4), rel=0.08)
    assert len(begun) == 11 and float(begun[0]) == pytest.approx(sigma) and float(begun[-1]) == 0
    assert report.startswith("noise 0.4") and report.count("picture") == 4
    bare = {"samples": torch.zeros(2, 3, 32, 32)}
    made = one("AddNoise", model=model, noise=BatchNoise(3), sigmas=begun[:1], latent_image=bare)
    scale = 1 - sigma if name == "flow" else 1.0
    again = node(
        "StartAtMeasuredNoise",
        model=model,
        latent={"samples": made["samples"] / scale},
        sigmas=steps,
    )
    assert again[1] == pytest.approx(sigma, rel=0.03)
    few = one(
        "StartAtMeasuredNoise", model=model, latent={"samples": y}, sigmas=steps, keep_steps=False
    )
    assert few.tolist() == pytest.approx([sigma, *(s for s in steps.tolist() if s < sigma)])


def test_a_picture_without_noise_or_with_nothing_else_is_refused():
    schedule = one("NoiseSchedule", kind={"kind": "ve_edm", "sigma_min": 0.02, "sigma_max": 80.0})
    model = one("EmbeddedDenoiser", kind={"kind": "network-small"}, noise_schedule=schedule)
    steps = torch.tensor([10.0, 1.0, 0.1, 0.0])
    with pytest.raises(ValueError, match=r"clean enough for this model; .* denoise in Steps"):
        node("StartAtMeasuredNoise", model=model, latent={"samples": cards(32, 1)}, sigmas=steps)
    loud = {"samples": noisy(cards(32, 1), 30.0)}
    with pytest.raises(ValueError, match=r"σ = 3\d.* 10 to 0.1: there is nothing left"):
        node("StartAtMeasuredNoise", model=model, latent=loud, sigmas=steps)
