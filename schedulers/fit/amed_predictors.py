"""What answers AMED's question at every step, and what a network sees of the model to do so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Side of the map that features are pooled to.
POOLED = 8


class Predictor(nn.Module):
    """(r, c, a) [B, 3] for the step from κ to κ' (``amed_fit.py``): r in (0, 1), c within 1 ± ``reach`` and a within
    1 ± ``shift``."""

    def __init__(self, reach: float = 0.2, shift: float = 0.2) -> None:
        super().__init__()
        self.reach, self.shift = reach, shift

    def limited(self, raw: Tensor) -> Tensor:
        """(r, c, a) [..., 3] from any three numbers; 0 gives ½, 1, 1."""
        r, c, a = raw.unbind(-1)
        wide = lambda v, by: 1 + by * (2 * v.sigmoid() - 1)  # noqa: E731
        return torch.stack([r.sigmoid(), wide(c, self.reach), wide(a, self.shift)], -1)


class Constants(Predictor):
    """Three numbers per step; at first ½, 1, 1, which is DPM-Solver-2 with the geometric midpoint."""

    def __init__(self, steps: int, reach: float = 0.2, shift: float = 0.2) -> None:
        super().__init__(reach, shift)
        self.raw = nn.Parameter(torch.zeros(steps, 3))

    def forward(self, step: int, p: float, q: float, features: Tensor | None, count: int) -> Tensor:
        return self.limited(self.raw[step]).expand(count, 3)


class FeaturePredictor(Predictor):
    """AMED's network, about 9 000 weights: the bottleneck's map [B, 64] to 4 numbers, each level to 8, and
    one linear map to each answer. Without features their part is 0. At first it answers ½, 1, 1."""

    def __init__(self, reach: float = 0.2, shift: float = 0.2, seed: int = 0) -> None:
        super().__init__(reach, shift)
        self.seen = nn.Sequential(nn.Linear(POOLED**2, 128), nn.SiLU(), nn.Linear(128, 4))
        self.level = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
        self.out = nn.Linear(20, 3)
        draw_weights(self, seed)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, step: int, p: float, q: float, features: Tensor | None, count: int) -> Tensor:
        at = self.out.weight
        if features is None:
            seen = at.new_zeros(count, 4)
        else:
            seen = self.seen(features.to(at)).expand(count, 4)
        levels = [self.level(waves(k).to(at)).expand(count, 8) for k in (p, q)]
        return self.limited(self.out(torch.cat([seen, *levels], 1)))


def draw_weights(net: nn.Module, seed: int) -> None:
    """Linear layers as PyTorch begins them, U(±1/√inputs), but from the seed: not from what ran before."""
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for weight in layer.parameters():
                nn.init.uniform_(weight, -bound, bound, generator=generator)


def waves(kappa: float) -> Tensor:
    """A level as 8 numbers: sin and cos of 2^i·ln κ / 4, i = 0 … 3."""
    angles = torch.tensor([math.log(kappa) / 4 * 2.0**i for i in range(4)])
    return torch.cat([angles.sin(), angles.cos()])


#: What the place between a U-Net's way down and its way up is called, in ComfyUI, diffusers and here.
MIDDLES = ("middle_block", "mid_block", "middle")


def middle_of(net: nn.Module) -> nn.Module | None:
    """The bottleneck of a U-Net; None for a model that has none."""
    for name, part in net.named_modules():
        if name.rpartition(".")[2] in MIDDLES:
            return part[-1] if isinstance(part, nn.ModuleList) else part
    return None


class Bottleneck:
    """Features of a model: what ``module`` returned since they were last asked for, averaged over channels and
    pooled, [B, 64]. Use as a context. Where guidance evaluates several branches, in one call or in several, an
    image's features are the mean of theirs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.seen: list[Tensor] = []

    def __enter__(self) -> Bottleneck:
        self.handle = self.module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        h = output[0] if isinstance(output, tuple | list) else output
        if h.ndim == 4:
            self.seen.append(pooled(h.detach()))

    def __call__(self, count: int) -> Tensor | None:
        """For a batch of ``count`` images; None if the model has no such map."""
        if not self.seen:
            return None
        branches = torch.cat(self.seen).split(count)
        self.seen = []
        return torch.stack([rows for rows in branches if len(rows) == count]).mean(0)


def pooled(h: Tensor) -> Tensor:
    """[B, 64] from a map [B, C, H, W]."""
    mean = h.float().mean(1, keepdim=True)
    return nn.functional.adaptive_avg_pool2d(mean, POOLED).flatten(1)


Features = Callable[[int], "Tensor | None"]
