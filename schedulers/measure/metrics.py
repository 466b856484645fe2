"""How far two batches are apart: image by image, and as samples of two distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """Root mean square and largest absolute difference; PSNR = 20·log10(peak/rmse) dB, None if that is not finite."""

    rmse: float
    largest: float
    psnr: float | None


def distances(a: Tensor, b: Tensor, peak: float | None = None) -> tuple[Distance, ...]:
    """One per image of a, b [B, …]. ``peak``: the range of values; None: that of each image of ``a``.

    Raises ValueError for different shapes, NaN or infinity.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"the shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    each = []
    for x, y in zip(a.double(), b.double(), strict=True):
        rmse, largest = (x - y).square().mean().sqrt().item(), (x - y).abs().max().item()
        if not math.isfinite(rmse):
            raise ValueError("there are NaN or infinite values; the run that made them diverged")
        span = peak or (x.max() - x.min()).item()
        psnr = 20 * math.log10(span / rmse) if rmse and span else None
        each.append(Distance(rmse, largest, psnr))
    return tuple(each)


# ------------------------------------------------------------------------------- two sets of images
#
# Deterministic and independent of the order of the images. Sets are images [N, …] or their features
# [N, F], on any device. Pairs are taken CHUNK by CHUNK images at a time.

CHUNK = 512
WIDTHS = 16, 32, 64  # channels of the random convolutions; each halves the side


@torch.no_grad()
def random_features(images: Tensor) -> Tensor:
    """Features [B, 272] of images [B, 3, H, W] in [−1, 1], H, W ≥ 8, from fixed random convolutions.

    Three layers of 3×3 convolution with weights that sum to 0 (always the same), leaky ReLU and 2×2
    average; features are mean and log deviation of every channel, and the colours of a 4×4 grid. A
    stand-in for Inception features that needs no download: fit for comparing models on one data set,
    not for quoting.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 8:
        raise ValueError(
            f"expected images [B, 3, H, W] of at least 8×8 pixels, got {tuple(images.shape)}"
        )
    generator, weights = torch.Generator().manual_seed(0), []
    for inside, outside in zip((3, *WIDTHS), WIDTHS, strict=False):
        weight = torch.randn(outside, inside, 3, 3, generator=generator) / math.sqrt(4.5 * inside)
        weights.append((weight - weight.mean((2, 3), keepdim=True)).to(images.device))
    rows = []
    for part in images.split(CHUNK):
        h = part.float()
        columns = [F.adaptive_avg_pool2d(h, 4).flatten(1)]
        for weight in weights:
            h = F.leaky_relu(F.conv2d(h, weight, padding=1), 0.1)
            columns += [h.mean((2, 3)), (h.std((2, 3)) + 0.01).log()]
            h = F.avg_pool2d(h, 2)
        rows.append(torch.cat(columns, 1))
    return torch.cat(rows)


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets of features [N, F], [M, F], each taken for a Gaussian.

    ‖m − m'‖² + tr(C + C' − 2(C^½ C' C^½)^½) (Heusel et al. 2017), float64 on the CPU. It falls with the
    number of images: compare only sets of one size.
    """
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"expected features [N, F], got {tuple(a.shape)}, {tuple(b.shape)}")
    _comparable(a, b, least=2)
    a, b = a.cpu().double(), b.cpu().double()
    values, vectors = torch.linalg.eigh(torch.cov(a.T).reshape(a.shape[1], -1))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ torch.cov(b.T).reshape(root.shape) @ root)
    spread = a.var(0).sum() + b.var(0).sum() - 2 * cross.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + spread).clamp(min=0).item()


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 512, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two sets of as many images [N, …], in units of one value.

    √(mean over random unit directions θ of W₂²(⟨θ, a⟩, ⟨θ, b⟩)) (Bonneel et al. 2015); W₂ of two
    samples on a line compares them in order. A shift of every value by δ has the distance δ.
    """
    if len(a) != len(b):
        raise ValueError(f"the sets must be of one size, got {len(a)} and {len(b)} images")
    _comparable(a, b)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(a[0].numel(), directions, generator=generator)
    total = 0.0
    for some in (theta / theta.norm(dim=0)).split(64, 1):
        first, second = (
            torch.cat([part.flatten(1).float() @ some.to(t.device) for part in t.split(CHUNK)])
            for t in (a, b)
        )
        gap = first.sort(0).values - second.sort(0).values.to(first.device)
        total += gap.square().mean(0).sum().item()
    return math.sqrt(total / directions)


def nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each image [B, …]: RMS distance to the nearest of ``others`` [N, …], and its index."""
    _comparable(images, others)
    far, where = [], []
    for part in images.split(CHUNK):
        best = torch.full((len(part),), math.inf, device=part.device)
        index = torch.zeros(len(part), dtype=torch.long, device=part.device)
        for start, some in zip(range(0, len(others), CHUNK), others.split(CHUNK), strict=True):
            closest = _squared(part, some.to(part.device)).min(1)
            closer = closest.values < best
            best = torch.where(closer, closest.values, best)
            index = torch.where(closer, closest.indices + start, index)
        # the product form above rounds; the distance itself is that of the two images
        gap = part.float() - others[index.to(others.device)].to(part.device).float()
        far.append(gap.flatten(1).square().mean(1).sqrt())
        where.append(index)
    return torch.cat(far), torch.cat(where)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Energy distance √(2E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖) of two sets [N, …], [M, …] (Székely & Rizzo 2013).

    0 only for equal distributions. Each image counts as a pair with itself, so it is never negative
    and falls with the number of images; in one dimension it is ``scipy.stats.energy_distance``.
    """
    _comparable(a, b)
    between, first, second = _pairs(a, b, Tensor.sqrt)
    energy = 2 * between / (len(a) * len(b)) - first / len(a) ** 2 - second / len(b) ** 2
    return math.sqrt(max(energy, 0.0))


def mmd(a: Tensor, b: Tensor, width: float | None = None) -> float:
    """Squared maximum mean discrepancy of two sets [N, …], [M, …] with k = exp(−‖x − y‖²/2w²), unbiased.

    E k(X, X') + E k(Y, Y') − 2E k(X, Y) without pairs of an image with itself (Gretton et al. 2012, eq.
    3): its mean does not depend on the number of images, and for equal distributions it scatters about
    0, below it too. ``width`` w: None: w² = half the mean of ‖x − y‖² over the two sets put together.
    """
    _comparable(a, b, least=2)
    if width is None:
        both = torch.cat([a, b.to(a.device)]).flatten(1)
        width2 = both.float().var(0, correction=0).sum().item()
    else:
        width2 = width * width
    if not (math.isfinite(width2) and width2 > 0):
        raise ValueError(f"the kernel's width² is {width2}: all images are one, or not finite")
    between, first, second = _pairs(a, b, lambda d: (d / (-2 * width2)).exp())
    n, m = len(a), len(b)
    same = (first - n) / (n * (n - 1)) + (second - m) / (m * (m - 1))
    return same - 2 * between / (n * m)


def _comparable(a: Tensor, b: Tensor, least: int = 1) -> None:
    """Raises ValueError for sets that hold images of different shapes, or too few."""
    if a.ndim < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"the sets differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if min(len(a), len(b)) < least:
        raise ValueError(f"each set needs at least {least} images, got {len(a)} and {len(b)}")


def _wide(t: Tensor) -> torch.dtype:
    return torch.float32 if t.device.type == "mps" else torch.float64


def _squared(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """‖a_i − b_j‖² [N, M] as |a|² − 2a·b + |b|²: one matrix product, exact to rounding of |a|²."""
    a, b = (t.flatten(1).to(dtype) for t in (a, b))
    squares = [t.square().sum(1) for t in (a, b)]
    return torch.addmm(squares[0][:, None] + squares[1], a, b.T, alpha=-2).clamp(min=0)


def _exact_where_close(d: Tensor, a: Tensor, b: Tensor, share: float = 1e-6) -> Tensor:
    """``d`` of ``_squared``, where small against |a|² + |b|², from the differences: rounding of |a|² is all
    that a product tells of equal images, and its root is far from 0."""
    a, b = (t.flatten(1).to(d.dtype) for t in (a, b))
    close = d <= share * (a.square().sum(1)[:, None] + b.square().sum(1))
    for i in close.any(1).nonzero().flatten().tolist():
        d[i, close[i]] = (b[close[i]] - a[i]).square().sum(1)
    return d


def _pairs(a: Tensor, b: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """Σ f(‖x − y‖²) over the pairs (a, b), (a, a) and (b, b); equal images are exactly 0 apart."""
    centre = a.flatten(1).mean(0, dtype=_wide(a)).reshape(a.shape[1:])

    def total(x: Tensor, y: Tensor) -> float:
        amount, same = 0.0, x is y
        for i, one in enumerate(x.split(CHUNK)):
            for j, two in enumerate(y.split(CHUNK)):
                if same and j < i:  # block (j, i) counts twice
                    continue
                near, far = (t.to(centre.device) - centre for t in (one, two))
                d = _exact_where_close(_squared(near, far, _wide(a)), near, far)
                amount += f(d).sum().item() * (2 if same and i != j else 1)
        return amount

    return total(a, b), total(a, a), total(b, b)
