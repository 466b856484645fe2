"""The protocol of denoisers: D(x, σ) → x0, the only thing a solver ever sees."""

from __future__ import annotations

from torch import Tensor, nn

from ..path import Path


class Denoiser(nn.Module):
    """Base class. Call with x [B, *shape] and σ in the coordinates of ``path``: a float or a tensor [B].

    ``shape`` is the shape of one image, or None where any will do; ``classes`` the number of classes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...] | None = None, classes: int = 0) -> None:
        super().__init__()
        self.path, self.shape, self.classes = path, shape, classes

    prediction = "x0"
    pixels = 1  #: of the picture per row and column of x

    def check(self, x: Tensor) -> None:
        """Raises ValueError if x is not a batch of images of ``shape``."""
        if self.shape is None or tuple(x.shape[1:]) == self.shape:
            return
        node = "Empty Pixel Latent" if self.pixels == 1 else "Empty Diffusers Latent"
        size = [n * self.pixels for n in self.shape[1:]]
        hint = f" ({node}: width {size[1]}, height {size[0]})" if len(size) == 2 else ""
        raise ValueError(
            f"this denoiser knows images of shape {self.shape}, got a batch of shape {tuple(x.shape)}: "
            f"make the empty latent that size{hint}"
        )
