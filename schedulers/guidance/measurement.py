"""Measurements y = A·x0 + noise: the linear operators of inverse problems, exact where they can be.

Each operator has A, its adjoint Aᵀ, and solves (a·AAᵀ + b)·z = r, which is easy because AAᵀ is a number
on what is measured (inpainting, averaging, grey) or diagonal in Fourier space (blur). From that follow
the pseudo-inverse A⁺ = Aᵀ(AAᵀ)⁻¹ and the posterior of Gaussian data. Data axes are [B, C, …, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from .base import needs_picture


@dataclass(frozen=True, eq=False)
class Operator:
    """A linear A. ``gram`` is AAᵀ where it is a number."""

    title: ClassVar[str] = ""

    def check(self, x: Tensor) -> None:
        """Raises ValueError for a latent that A cannot measure."""
        needs_picture(self.title, x)

    @property
    def gram(self) -> float:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """A·x."""
        raise NotImplementedError

    def adjoint(self, r: Tensor) -> Tensor:
        """Aᵀ·r."""
        raise NotImplementedError

    def solve(self, r: Tensor, a: float, b: float) -> Tensor:
        """(a·AAᵀ + b)⁻¹·r for r in A's range, a > 0, b ≥ 0."""
        return r / (a * self.gram + b)


@dataclass(frozen=True, eq=False)
class Inpaint(Operator):
    """A = the known pixels: x where the mask is above ½, 0 elsewhere. Any number of axes."""

    title: ClassVar[str] = "Inpainting"
    mask: Tensor

    @property
    def gram(self) -> float:
        return 1.0

    def check(self, x: Tensor) -> None:
        try:
            fits = torch.broadcast_shapes(self.mask.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"Inpainting: a mask of shape {tuple(self.mask.shape)} does not fit latents of shape "
                f"{tuple(x.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.mask.to(x) > 0.5)

    def adjoint(self, r: Tensor) -> Tensor:
        return self.forward(r)


@dataclass(frozen=True, eq=False)
class Downsample(Operator):
    """A = the mean of each factor × factor block (super-resolution)."""

    title: ClassVar[str] = "Super-resolution"
    factor: int = 4

    @property
    def gram(self) -> float:
        return 1 / self.factor**2

    def check(self, x: Tensor) -> None:
        super().check(x)
        if any(n % self.factor for n in x.shape[-2:]):
            raise ValueError(
                f"Super-resolution: height and width {tuple(x.shape[-2:])} must be multiples of {self.factor}"
            )

    def forward(self, x: Tensor) -> Tensor:
        k, (h, w) = self.factor, x.shape[-2:]
        return x.reshape(*x.shape[:-2], h // k, k, w // k, k).mean((-3, -1))

    def adjoint(self, r: Tensor) -> Tensor:
        k = self.factor
        return r.repeat_interleave(k, -2).repeat_interleave(k, -1) / k**2


@dataclass(frozen=True, eq=False)
class Gray(Operator):
    """A = luma of three colour channels (colourisation), ITU-R BT.601."""

    title: ClassVar[str] = "Colourisation"
    luma: ClassVar[tuple[float, float, float]] = (0.299, 0.587, 0.114)

    @property
    def gram(self) -> float:
        return sum(w * w for w in self.luma)

    def check(self, x: Tensor) -> None:
        super().check(x)
        if x.shape[1] != 3:
            raise ValueError(f"Colourisation: needs 3 colour channels, not {x.shape[1]}")

    def forward(self, x: Tensor) -> Tensor:
        r, g, b = self.luma
        return x[:, 0:1] * r + x[:, 1:2] * g + x[:, 2:3] * b

    def adjoint(self, r: Tensor) -> Tensor:
        return torch.cat([r * w for w in self.luma], 1)


@dataclass(frozen=True, eq=False)
class Blur(Operator):
    """A = a Gaussian blur of ``std`` pixels with periodic borders (deblurring).

    Frequencies that A shrinks below ``floor`` count as not measured: its pseudo-inverse leaves them out.
    """

    title: ClassVar[str] = "Deblurring"
    std: float = 2.0
    floor: float = 1e-2

    def response(self, x: Tensor) -> Tensor:
        """What A multiplies each frequency of rfft2 with: real, so A = Aᵀ."""
        h, w = x.shape[-2:]
        return blur_response(h, w, self.std, self.floor, x.dtype, x.device)

    def _filter(self, x: Tensor, by: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * by, s=x.shape[-2:])

    def forward(self, x: Tensor) -> Tensor:
        return self._filter(x, self.response(x))

    def adjoint(self, r: Tensor) -> Tensor:
        return self.forward(r)

    def solve(self, r: Tensor, a: float, b: float) -> Tensor:
        h = self.response(r)
        bottom = a * h * h + b
        return self._filter(r, torch.where(h == 0, 0.0, 1 / torch.where(h == 0, 1.0, bottom)))


@lru_cache(maxsize=8)
def blur_response(
    h: int, w: int, std: float, floor: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[h, w//2 + 1], computed in float64 on the CPU: transforms of a wrapped Gaussian."""
    lines = []
    for n, transform in ((h, torch.fft.fft), (w, torch.fft.rfft)):
        at = torch.arange(n, dtype=torch.float64)
        copies = at + n * torch.arange(-3, 4, dtype=torch.float64)[:, None]
        kernel = torch.exp(-0.5 * (copies / std) ** 2).sum(0)
        lines.append(transform(kernel / kernel.sum()).real)
    product = lines[0][:, None] * lines[1]
    return torch.where(product.abs() < floor, 0.0, product).to(dtype).to(device)


OPERATORS: dict[str, type[Operator]] = dict(
    inpaint=Inpaint, downsample=Downsample, gray=Gray, blur=Blur
)


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A·x0 + sigma_y·noise, in the units of the model's latents. y [B or 1, …] as A gives it.

    Put y and masks on the run's device first: elsewhere they are copied at every evaluation.
    """

    operator: Operator
    y: Tensor
    sigma_y: float = 0.0

    def residual(self, d: Tensor) -> Tensor:
        """y − A·d. Raises ValueError where shapes do not fit."""
        self.operator.check(d)
        a = self.operator.forward(d)
        if self.y.shape[1:] != a.shape[1:] or len(self.y) not in (1, len(a)):
            raise ValueError(
                f"{self.operator.title}: measuring latents of shape {tuple(d.shape)} gives "
                f"{tuple(a.shape)}, but y has shape {tuple(self.y.shape)}"
            )
        y = self.y.to(d)
        return (self.operator.forward(y) if isinstance(self.operator, Inpaint) else y) - a

    def pull(self, r: Tensor, variance: float) -> Tensor:
        """Aᵀ(AAᵀ·variance + σ_y²)⁻¹·r: the gradient of log N(y; A·d, …) in d. Variance > 0."""
        return self.operator.adjoint(self.operator.solve(r, variance, self.sigma_y**2))
