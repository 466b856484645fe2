r"""Denoisers that are known in closed form and need no weights: the ground truth of every test here.

Mixture, Gaussian and ImageSet are the posterior mean D(x) = E[x0 | x = α·x0 + σ·ε] of some distribution of x0, on
any path, pure noise (α = 0) included. LocalScore is not: it takes a mean per neighbourhood, and no distribution has
it as its posterior mean. They are modules only so that a host can move their tensors about.

Conditioning: ``classes`` [B, K] holds non-negative weights over the K classes of the data, one row
per image; two non-zero entries blend two classes, None or a row of zeros means no condition.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..path import Path, coefficients
from .base import Denoiser


class Mixture(Denoiser):
    r"""Gaussian mixture: component k has weight w_k, mean μ_k and covariance U_kᵀ diag(v_k) U_k + c_k²·I.

    With s² = α²·variance + σ² along each direction and r = x − αμ_k,
    D = Σ_k γ_k(x)·[μ_k + α·variance/s² · r], γ_k ∝ w_k·N(x; αμ_k, α²Σ_k + σ²I).

    means [K, *shape]; floor c [K] ≥ 0; optional basis U [K, R, *shape] with orthonormal rows and
    variances v [K, R] ≥ 0 on top of c²; weights [K] > 0 (default equal); labels [K] class of each.
    """

    def __init__(
        self,
        path: Path,
        means: Tensor,
        floor: Tensor,
        basis: Tensor | None = None,
        variances: Tensor | None = None,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        count, shape = means.shape[0], tuple(means.shape[1:])
        labels = torch.zeros(count, dtype=torch.long) if labels is None else labels
        super().__init__(path, shape, int(labels.max()) + 1)
        means = means.reshape(count, -1)
        basis = (
            means.new_zeros(count, 0, means.shape[1])
            if basis is None
            else basis.reshape(count, -1, means.shape[1])
        )
        variances = means.new_zeros(count, 0) if variances is None else variances
        weights = means.new_ones(count) if weights is None else weights
        for name, value in dict(
            means=means,
            floor=floor,
            basis=basis,
            variances=variances,
            weights=weights,
            labels=labels,
        ).items():
            self.register_buffer(name, value)

    means: Tensor
    floor: Tensor
    basis: Tensor
    variances: Tensor
    weights: Tensor
    labels: Tensor

    @classmethod
    def fit(
        cls, path: Path, images: Tensor, rank: int, per_class: int = 1, sweeps: int = 8
    ) -> Mixture:
        """Principal components of ``images`` [K, N, *shape], ``per_class`` components for each class.

        Components are found by Lloyd's k-means from evenly spaced images; deterministic.
        """
        parts = []
        for label, data in enumerate(images.flatten(2)):
            groups = kmeans(data, per_class, sweeps)
            parts += [(label, len(g) / len(data), *principal_components(g, rank)) for g in groups]
        labels, weights, means, floors, bases, variances = zip(*parts, strict=True)
        return cls(
            path,
            torch.stack(means).reshape(-1, *images.shape[2:]),
            torch.stack(floors),
            torch.stack(bases),
            torch.stack(variances),
            torch.tensor(weights, dtype=images.dtype),
            torch.tensor(labels),
        )

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        self.check(x)
        alpha, sigma = coefficients(self.path, sigma, x.flatten(1))
        r, inside, s_iso, s_in, logits = self._compare(x, alpha, sigma)
        logits = logits + log_prior(self.weights, self.labels, classes, x.shape[0])
        gamma = torch.softmax(logits, 1)
        gain_iso = alpha * self.floor**2 / s_iso
        mean = gamma @ self.means + torch.einsum("bk,bkd->bd", gamma * gain_iso, r)
        if self.basis.shape[1]:
            gain_in = trailing(alpha, 3) * (self.variances + self.floor[:, None] ** 2) / s_in
            gain_in = gain_in - gain_iso[..., None]
            mean = mean + torch.einsum("bk,bkr,krd->bd", gamma, gain_in * inside, self.basis)
        return mean.reshape(x.shape)

    def class_logits(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """log p(x, class | σ) [B, K] up to one number per image: the exact classifier of these data."""
        self.check(x)
        alpha, sigma = coefficients(self.path, sigma, x.flatten(1))
        joint = self._compare(x, alpha, sigma)[-1] + self.weights.log()
        members = self.labels == torch.arange(self.classes, device=x.device)[:, None]
        return joint[:, None].masked_fill(~members, -torch.inf).logsumexp(-1)

    def _compare(
        self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """r [B, K, d], Ur [B, K, R], s² outside and inside the basis, log N(x; …) [B, K] up to a number."""
        r = x.flatten(1)[:, None] - trailing(alpha, 3) * self.means
        iso = self.floor**2
        a2, s2 = alpha * alpha, sigma * sigma
        s_iso = a2 * iso + s2
        d, rank = self.means.shape[1], self.variances.shape[1]
        if not rank:
            nothing = r[..., :0]
            log_p = (r * r).sum(-1) / s_iso + d * torch.log(torch.as_tensor(s_iso))
            return r, nothing, s_iso, nothing, -0.5 * log_p
        inside = torch.einsum("bkd,krd->bkr", r, self.basis)
        s_in = trailing(a2, 3) * (self.variances + iso[:, None]) + trailing(s2, 3)
        quad = ((r * r).sum(-1) - (inside**2).sum(-1)) / s_iso + (inside**2 / s_in).sum(-1)
        log_det = (d - rank) * torch.log(torch.as_tensor(s_iso)) + s_in.log().sum(-1)
        return r, inside, s_iso, s_in, -0.5 * (quad + log_det)


def trailing(value: float | Tensor, ndim: int) -> float | Tensor:
    """A per-image coefficient [B, 1] with trailing axes up to ``ndim``; floats pass through."""
    return value.reshape(-1, *(1,) * (ndim - 1)) if isinstance(value, Tensor) else value


def kmeans(data: Tensor, count: int, sweeps: int) -> list[Tensor]:
    """``data`` [N, d] split into at most ``count`` non-empty groups."""
    centres = data[torch.linspace(0, len(data) - 1, count).round().long()]
    for _ in range(sweeps):
        owner = torch.cdist(data, centres).argmin(1)
        centres = torch.stack(
            [data[owner == k].mean(0) if (owner == k).any() else centres[k] for k in range(count)]
        )
    return [data[owner == k] for k in range(count) if (owner == k).any()] if count > 1 else [data]


def principal_components(data: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean [d], floor [], basis [rank, d], extra variances [rank]) of ``data`` [N, d].

    The floor is the root mean square of what the basis leaves out, at least 0.01.
    """
    mean = data.mean(0)
    _, s, basis = torch.linalg.svd(data - mean, full_matrices=False)
    spectrum = s**2 / max(len(data) - 1, 1)
    kept = torch.zeros(rank, dtype=data.dtype)
    kept[: min(rank, len(spectrum))] = spectrum[:rank]
    left = (spectrum.sum() - kept.sum()).clamp(min=0) / max(data.shape[1] - rank, 1)
    floor = left.sqrt().clamp(min=0.01)
    full = torch.zeros(rank, data.shape[1], dtype=data.dtype)
    full[: min(rank, len(basis))] = basis[:rank]
    return mean, floor, full, (kept - floor**2).clamp(min=0)


def log_prior(weights: Tensor, labels: Tensor, classes: Tensor | None, batch: int) -> Tensor:
    """log of component weights [K] restricted to each image's classes: [B, K]."""
    prior = weights.log().expand(batch, -1)
    if classes is None:
        return prior
    chosen = classes.to(weights)[:, labels]
    free = chosen.sum(1, keepdim=True) == 0
    return prior + torch.where(free, torch.ones_like(chosen), chosen).log()


class Gaussian(Mixture):
    """One Gaussian N(mean, std²) with independent coordinates; ``std`` [*shape] or a number ≥ 0.

    D = m + α·s²/(α²s² + σ²)·(x − αm); :meth:`transport` is the exact probability-flow map.
    """

    def __init__(self, path: Path, mean: Tensor, std: Tensor | float) -> None:
        std = torch.as_tensor(std, dtype=mean.dtype)
        if std.ndim == 0:
            super().__init__(path, mean[None], std[None])
        else:
            d = mean.numel()
            super().__init__(
                path,
                mean[None],
                std.new_zeros(1),
                torch.eye(d, dtype=mean.dtype)[None],
                (std**2).reshape(1, d),
            )
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        self.check(x)
        alpha, sigma = coefficients(self.path, sigma, x)
        variance = self.std * self.std
        gain = alpha * variance / (alpha * alpha * variance + sigma * sigma)
        return self.mean + gain * (x - alpha * self.mean)

    def transport(self, x: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
        """Where the ODE takes x from (α, σ) = start to end: each coordinate scales with its deviation."""
        (a, s), (b, t) = start, end
        scale = ((b * b * self.std**2 + t * t) / (a * a * self.std**2 + s * s)).sqrt()
        return b * self.mean + scale * (x - a * self.mean)


class ImageSet(Denoiser):
    """The exact denoiser of a finite set of images: D = Σ softmax_i(−‖x − αx_i‖²/2σ²)·x_i.

    It memorises: samples are the images themselves. images [K, N, *shape], K classes.
    """

    def __init__(self, path: Path, images: Tensor) -> None:
        super().__init__(path, tuple(images.shape[2:]), images.shape[0])
        flat = images.flatten(2).flatten(0, 1)
        labels = torch.arange(images.shape[0]).repeat_interleave(images.shape[1])
        self.register_buffer("images", flat)
        self.register_buffer("energy", flat.square().sum(1))
        self.register_buffer("labels", labels)

    images: Tensor
    energy: Tensor
    labels: Tensor

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        self.check(x)
        alpha, sigma = coefficients(self.path, sigma, x.flatten(1))
        logits = (alpha * (x.flatten(1) @ self.images.T) - 0.5 * alpha * alpha * self.energy) / (
            sigma * sigma
        )
        logits = logits + log_prior(
            self.energy.new_ones(len(self.energy)), self.labels, classes, x.shape[0]
        )
        return (torch.softmax(logits, 1) @ self.images).reshape(x.shape)


class LocalScore(Denoiser):
    r"""New pictures without weights: every neighbourhood follows the training images on its own.

    D(x)[p] = Σ_i softmax_i(−d_i(p)/2σ²)·x_i[p], where d_i(p) is the squared distance of x to α·x_i
    in a Gaussian window around pixel p. The window's width falls with κ = σ/α,
    l² = 0.6² + (3.6·locality·κ^0.72·H/32)² pixels, so far-apart parts of a picture may follow
    different images. A small ``locality`` makes patchwork, a large one recalls whole images (an
    infinite one is :class:`ImageSet`). A denoiser, not the exact score of a density: its field is not
    a gradient. After Kamb & Ganguli 2025 (arXiv 2412.20292), with a smooth window of continuous width.

    images [K, N, C, H, W], K classes: floats in [−1, 1] or bytes; mirror images take part too, and W
    may be as large as you like. Every picture is compared with N of them, shared among its classes
    by weight: without a condition it is the local score of the first N/K images of every class.
    """

    def __init__(self, path: Path, images: Tensor, locality: float = 1.0) -> None:
        super().__init__(path, tuple(images.shape[2:]), images.shape[0])
        if not locality > 0:
            raise ValueError(f"locality = {locality}: must be above 0")
        self.locality, self.count = locality, images.shape[1]
        self.register_buffer("images", images)

    images: Tensor

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        self.check(x)
        alpha, sigma = coefficients(self.path, sigma, x)
        chosen = self._chosen(classes, x.device)
        size = max(1, TOGETHER.get(x.device.type, 2**24) // (self.count * x[0].numel()))
        parts = [slice(i, i + size) for i in range(0, len(x), size)]
        return torch.cat(
            [self._some(x[p], rows(alpha, p), rows(sigma, p), rows(chosen, p)) for p in parts]
        )

    def _some(
        self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor, chosen: Tensor
    ) -> Tensor:
        """D of x [B, C, H, W] from the images ``chosen`` [B or 1, N].

        With Q the sum over a window, −d/2σ² = Q[α·x_i·x − α²·x_i²/2]/σ² + a number that all images
        share. The distance to a mirrored image is that of the mirrored x to the image itself.
        Columns are done few at a time, which bounds the memory.
        """
        planes = self._planes(chosen, x.dtype)
        energy = sum(p * p for p in planes) * (alpha / 2)
        above, beside = self._windows(alpha, sigma, x)
        near, near_mirrored = (
            above @ (sum(p * v for p, v in zip(planes, view.unbind(2), strict=True)) - energy)
            for view in (x[:, None], x[:, None].flip(-1))
        )
        gain, width = alpha / (sigma * sigma), x.shape[-1]
        strips = []
        for left in range(0, width, STRIP):
            right = min(left + STRIP, width)
            here = slice(left, right)
            there = slice(width - right, width - left)  # the mirrored place
            plain = near @ beside[..., here]
            mirrored = (near_mirrored @ beside[..., there]).flip(-1)
            share = torch.softmax(torch.cat([plain, mirrored], 1) * gain, 1)
            plain, mirrored = share[:, : self.count], share[:, self.count :].flip(-1)
            strips.append(
                [
                    (plain * p[..., here]).sum(1) + (mirrored * p[..., there]).sum(1).flip(-1)
                    for p in planes
                ]
            )
        return torch.stack([torch.cat(channel, -1) for channel in zip(*strips, strict=True)], 1)

    def _planes(self, chosen: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """The channels of the images ``chosen`` [B, N], each [B, N, H, W] in [−1, 1]."""
        patches = self.images.flatten(0, 1)[chosen.flatten()].unflatten(0, chosen.shape)
        whole = patches.to(dtype)
        return list((whole if patches.is_floating_point() else whole / 127.5 - 1).unbind(2))

    def _chosen(self, classes: Tensor | None, device: torch.device) -> Tensor:
        """Which images [B or 1, N] every picture is compared with, among all K·N; no number leaves the device.

        Slot n belongs to the class in whose part of the cumulated weights (n + ½)/N falls; a class takes
        its images from the first.
        """
        weights = torch.ones(1, self.classes, device=device) if classes is None else classes.float()
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))
        ends = weights.cumsum(1) / weights.sum(1, keepdim=True)
        slot = torch.arange(self.count, device=device).expand(len(ends), -1)
        label = torch.searchsorted(ends, (slot + 0.5) / self.count).clamp(max=self.classes - 1)
        first = torch.searchsorted((slot + 0.5) / self.count, F.pad(ends, (1, -1)), right=True)
        return label * self.count + slot - first.gather(1, label)

    def _windows(
        self, alpha: float | Tensor, sigma: float | Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Window matrices over rows [(B, 1,) H, H] and columns [(B, 1,) W, W], unnormalised with 1 on the diagonal."""
        height, width = x.shape[-2:]
        unit = 3.6 * self.locality * height / 32
        if isinstance(alpha, Tensor):
            square = 0.36 + (unit * (sigma / alpha).clamp(max=1e4) ** 0.72) ** 2
        else:
            kappa = min(sigma / alpha, 1e4) if alpha else 1e4
            square = 0.36 + (unit * kappa**0.72) ** 2

        def window(n: int) -> Tensor:
            at = torch.arange(n, device=x.device, dtype=x.dtype)
            weights = torch.exp((at[:, None] - at).square() / (-2 * square))
            return F.threshold(weights, NEGLIGIBLE, 0.0)

        return window(height), window(width)


#: Values of images to work on side by side; on the CPU, one picture after the other is no slower.
TOGETHER = {"cpu": 0}
#: Columns that are worked on at a time.
STRIP = 64
#: Window weights below are 0: denormal numbers would slow the products down.
NEGLIGIBLE = 1e-12


def rows(value: Any, part: slice) -> Any:
    """The rows of a coefficient or index that ``part`` of the batch has; what all share stays as it is."""
    return value[part] if isinstance(value, Tensor) and len(value) > 1 else value
