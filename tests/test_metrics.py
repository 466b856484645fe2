"""Distances between sets of images against closed forms and scipy."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from tolerance import rounding

from sampling_kit.schedulers.measure import metrics
from sampling_kit.schedulers.measure.metrics import (
    energy_distance,
    frechet,
    mmd,
    nearest,
    random_features,
    sliced_wasserstein,
)


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(n, d, seed=1):
    """[n, d] with mean 0 and covariance 1 exactly."""
    x = noise(n, d, seed=seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T).reshape(d, d))).T


SETS = [frechet, sliced_wasserstein, energy_distance, mmd]


# ---------------------------------------------------------------------------------------- Fréchet


def test_frechet_of_gaussians_is_the_closed_form():
    """‖m − m'‖² + tr(C + C' − 2(CC')^½), with scipy's matrix square root, for covariances that do not commute."""
    left, right, shift = noise(5, 5, seed=2), noise(5, 5, seed=3), noise(5, seed=4)
    a, b = whitened(400, 5) @ left.T, whitened(300, 5, seed=7) @ right.T + shift
    c, d = left @ left.T, right @ right.T
    root = scipy.linalg.sqrtm((c @ d).numpy()).real
    expected = shift.square().sum() + torch.trace(c + d) - 2 * np.trace(root)
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)


def test_frechet_in_one_dimension_and_with_fewer_images_than_features():
    a = whitened(100, 1)
    assert frechet(a, 3 * a + 2) == pytest.approx(4 + (3 - 1) ** 2)
    few = noise(5, 40)
    assert frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet(few, few + 1) == pytest.approx(40, rel=1e-6)


# ----------------------------------------------------------------------------- sliced Wasserstein


def test_sliced_wasserstein_of_a_shift_is_its_rms():
    a = noise(60, 3, 8, 8)
    shift = noise(3, 8, 8, seed=2)
    got = sliced_wasserstein(a, a[torch.randperm(60)] + shift, directions=4000)
    assert got == pytest.approx(shift.square().mean().sqrt().item(), rel=0.05)


def test_sliced_wasserstein_of_gaussians_is_the_closed_form():
    """For N(0, s²I) and N(0, r²I) every slice has W₂ = |s − r|."""
    a, b = noise(5000, 4), noise(5000, 4, seed=2)
    assert sliced_wasserstein(2 * a, 5 * b, directions=128) == pytest.approx(3, rel=0.02)


def test_sliced_wasserstein_on_a_line_is_scipys():
    """scipy knows W₁; for a constant gap W₂ is the same."""
    a = noise(50, 1)
    assert sliced_wasserstein(a, a.flip(0) + 3, directions=8) == pytest.approx(
        scipy.stats.wasserstein_distance(a[:, 0], a[:, 0] + 3), rel=1e-6
    )


def test_sliced_wasserstein_needs_sets_of_one_size():
    with pytest.raises(ValueError, match="one size, got 9 and 8"):
        sliced_wasserstein(noise(9, 4), noise(8, 4))


# -------------------------------------------------------------------------------- energy distance


def test_energy_distance_on_a_line_is_scipys():
    a, b = noise(700, 1), 2 * noise(900, 1, seed=2) + 0.5
    expected = scipy.stats.energy_distance(a[:, 0], b[:, 0])
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert energy_distance(a, a) == 0


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-5])
def test_energy_distance_of_nearly_equal_images(apart, monkeypatch):
    """|a|² − 2a·b + |b|² is rounding of |a|² there, and its root 3e-4 on some processors: here on all."""
    a = noise(5, 3, 24, 24)
    b = a + apart * noise(5, 3, 24, 24, seed=2)
    between, first, second = (
        (x.flatten(1)[:, None] - y.flatten(1)).norm(dim=2).mean()
        for x, y in ((a, b), (a, a), (b, b))
    )
    product = metrics._squared
    monkeypatch.setattr(metrics, "_squared", lambda *a: product(*a) + 1e-11)
    allowed = rounding(a[0].numel(), 2 * float(between), torch.float64)
    assert energy_distance(a, b) ** 2 == pytest.approx(
        float(2 * between - first - second), abs=allowed
    )


def test_energy_distance_of_gaussians_is_the_closed_form():
    """E‖N(0, s²I)‖ = s√2·Γ((d + 1)/2)/Γ(d/2), which gives all three terms for N(0, I) and N(0, r²I)."""
    d, r = 6, 3.0
    unit = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    expected = 2 * unit * math.sqrt(1 + r * r) - unit * math.sqrt(2) * (1 + r)
    got = energy_distance(whitened(4000, d), r * whitened(4000, d, seed=2))
    assert got**2 == pytest.approx(expected, rel=0.01)


# -------------------------------------------------------------------------------------------- MMD


def test_mmd_of_gaussians_is_the_closed_form():
    """E k = (w²/(w² + s² + r²))^(d/2)·exp(−‖m‖²/2(w² + s² + r²)) for N(0, s²I) against N(m, r²I)."""
    d, w, r = 4, 1.5, 2.0
    shift = torch.tensor([1.0, -1.0, 0.5, 0.0]).double()

    def kernel(s2, m2=0.0):
        total = w * w + s2
        return (w * w / total) ** (d / 2) * math.exp(-m2 / (2 * total))

    expected = kernel(2) + kernel(2 * r * r) - 2 * kernel(1 + r * r, float(shift.square().sum()))
    got = mmd(whitened(5000, d), r * whitened(5000, d, seed=2) + shift, w)
    assert got == pytest.approx(expected, rel=0.03)


def test_mmd_is_unbiased():
    """Mean over many small pairs of sets of one distribution: 0 within its own error."""
    got = torch.tensor(
        [mmd(noise(6, 3, seed=2 * i), noise(9, 3, seed=2 * i + 1), 1.0) for i in range(400)]
    )
    assert got.mean().abs() < 3 * got.std() / 20
    assert got.min() < 0


def test_mmd_is_the_sum_over_pairs():
    a, b = noise(7, 2, 3), noise(5, 2, 3, seed=2) + 1
    rows = torch.cat([a, b]).flatten(1)
    squares = (rows[:, None] - rows).square().sum(2)
    k = (-squares / (squares.mean())).exp()  # 2w² = E‖x − y‖²
    one, two = k[:7, :7], k[7:, 7:]
    expected = (one.sum() - 7) / 42 + (two.sum() - 5) / 20 - 2 * k[:7, 7:].mean()
    assert mmd(a, b) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="all images are one"):
        mmd(torch.ones(3, 4), torch.ones(3, 4))


# ---------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize("distance", SETS)
def test_order_blocks_and_dtype_do_not_matter(distance, monkeypatch):
    a, b = noise(40, 6), 1.3 * noise(40, 6, seed=2) + 0.2
    expected = distance(a, b)
    mixed = distance(a[torch.randperm(40)], b[torch.randperm(40)])
    assert mixed == pytest.approx(expected, rel=1e-5)
    assert distance(a.float(), b.float()) == pytest.approx(expected, rel=1e-4)
    assert distance(b, a) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(metrics, "CHUNK", 7)
    assert distance(a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", SETS)
def test_sets_that_cannot_be_compared_are_refused(distance):
    with pytest.raises(ValueError, match="differ in shape"):
        distance(noise(9, 4), noise(9, 5))
    if distance in (frechet, mmd):
        with pytest.raises(ValueError, match="at least 2 images"):
            distance(noise(1, 4), noise(1, 4))


def test_nearest_finds_the_copy_and_its_exact_distance(monkeypatch):
    known = noise(1200, 3, 8, 8).float()
    images = torch.cat([known[[700]], known[[3]] + 1e-4, known[[5]], noise(4, 3, 8, 8).float()])
    monkeypatch.setattr(metrics, "CHUNK", 5)
    near, index = nearest(images, known)
    assert index[:3].tolist() == [700, 3, 5]
    assert near[:3].tolist() == pytest.approx([0, 1e-4, 0], abs=1e-8)
    every = (images[3:, None].double() - known.double()).square().mean((2, 3, 4)).sqrt().min(1)
    assert near[3:].tolist() == pytest.approx(every.values.tolist(), rel=1e-5)
    assert index[3:].tolist() == every.indices.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("distance", SETS)
def test_the_device_does_not_matter(distance):
    a, b = noise(40, 6), 1.3 * noise(40, 6, seed=2)
    assert distance(a.cuda(), b) == pytest.approx(distance(a, b), rel=1e-4)


def test_features_are_fixed_and_of_the_promised_size(monkeypatch):
    images = noise(9, 3, 16, 24)
    rows = random_features(images)
    assert rows.shape == (9, 272)
    monkeypatch.setattr(metrics, "CHUNK", 4)
    assert torch.allclose(random_features(images), rows, atol=1e-5)
    with pytest.raises(ValueError, match="at least 8×8"):
        random_features(images[:, :1])
