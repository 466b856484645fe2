r"""The trained denoiser that ships: a small class-conditional U-Net, and a noise-conditional classifier.

Both see a state of any path through EDM's preconditioning (Karras et al. 2022, table 1). With
κ = σ/α and x/α in place of their σ and x, and s = σ_data,

    D = α·s²/r² · x + σ·s/r · F(x/r, ln κ / 4),   r² = σ² + α²s²,

which stays finite at α = 0 and at σ = 0; κ is held within the range that was trained. The noise
embedding has at most one cycle per unit of ln κ / 4, so that D is smooth in σ and its ODE has a
reference solution (a usual Fourier embedding makes D a thousand times rougher).

A U-Net of ours and not diffusers' UNet2DModel: pictures enter as 2×2 blocks of pixels and a learned
map tells rows and columns apart, which gives a lower loss per megabyte and per second on the CPU.

Files are safetensors in fp16 with the configuration in the header; :func:`load` checks them whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..path import Path, coefficients
from ..store import Format
from .base import Denoiser

#: Noise-to-data ratios that networks are trained for; κ outside is held at the ends.
KAPPA = 0.002, 80.0
#: Cycles per unit of ln κ / 4 in the noise embedding.
CYCLES = 0.05, 1.0
FORMAT = Format(
    "sampling_kit_network",
    "network of the Sampling Kit",
    advice="fetch the pack again, or make it with python -m sampling_kit.embedded.train",
)


@dataclass(frozen=True)
class Config:
    """What a network is made of; ``size`` is one picture's side in pixels, levels halve its side."""

    kind: str = "denoiser"
    channels: int = 48
    multiples: tuple[int, ...] = (1, 2, 3)
    blocks: int = 1
    attention: tuple[int, ...] = (1, 2)
    patch: int = 2
    size: int = 32
    colours: int = 3
    classes: int = 10
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        whole = [self.channels, self.blocks, self.patch, self.size, self.colours, self.classes]
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}: choose one of {', '.join(KINDS)}")
        if min(whole) < 1 or not self.multiples or min(self.multiples) < 1:
            raise ValueError("counts and sizes must be above 0")
        if max(whole) > 4096 or max(self.multiples) > 64 or len(self.multiples) > 8:
            raise ValueError("a count or size is too large to be true")
        if self.channels % GROUP or self.size % (self.patch << (len(self.multiples) - 1)):
            raise ValueError(
                f"channels must be a multiple of {GROUP} and size of patch·2^(levels − 1)"
            )
        if not 0 < self.sigma_data < 100:
            raise ValueError(f"sigma_data = {self.sigma_data}: must lie between 0 and 100")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.colours, self.size, self.size

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Config:
        """From JSON; raises ValueError or TypeError for anything that is not a configuration."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if set(values) != set(fields):
            raise ValueError(f"its fields are {sorted(values)}, expected {sorted(fields)}")
        typed: dict[str, Any] = {}
        for name, value in values.items():
            default: Any = fields[name].default
            if isinstance(default, tuple):
                typed[name] = tuple(int(v) for v in value)
            else:
                typed[name] = type(default)(value)
        return cls(**typed)


# ------------------------------------------------------------------------------------------ blocks

GROUP = 16  # channels per group of the normalisation, and per unit of ``Config.channels``
HEAD = 32  # channels per attention head; GROUP where that does not divide them


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP, channels)


def zero(module: nn.Conv2d) -> nn.Conv2d:
    """The same layer with weights 0, so that a residual branch starts as nothing."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return module


class Residual(nn.Module):
    """Two 3×3 convolutions; the embedding [B, E] scales and shifts what is between them."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, padding=1)
        self.second = zero(nn.Conv2d(outside, outside, 3, padding=1))
        self.before, self.between = norm(inside), norm(outside)
        self.modulation = nn.Linear(embedding, 2 * outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(e)[..., None, None].chunk(2, 1)
        inner = self.between(self.first(F.silu(self.before(h))))
        return self.skip(h) + self.second(F.silu(torch.addcmul(inner + shift, inner, scale)))


class Attention(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // (HEAD if channels % HEAD == 0 else GROUP)
        self.before = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        b, c, height, width = h.shape
        qkv = self.qkv(self.before(h)).reshape(b, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.unbind(1)
        # few pixels: plain products beat a fused kernel here, and can be differentiated twice
        scores = q.mT @ k * (c // self.heads) ** -0.5
        weights = scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
        return h + self.out((v @ weights.mT).reshape(b, c, height, width))


class Level(nn.ModuleList):
    """One block of a level: a residual block, then attention where there is some."""

    def __init__(self, inside: int, outside: int, embedding: int, attend: bool) -> None:
        attention = [Attention(outside)] if attend else []
        super().__init__([Residual(inside, outside, embedding), *attention])

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        for part in self:
            h = part(h, e)
        return h


class Encoder(nn.Module):
    """The way down, shared by both networks: x [B, C, H, W] → features, coarsest last."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        c, self.patch = config.channels, config.patch
        self.width = 4 * c  # of the embedding
        side = config.size // config.patch
        self.waves = c // 2
        self.noise = nn.Sequential(nn.Linear(c, self.width), nn.SiLU())
        self.noise_out = nn.Linear(self.width, self.width)
        # the last row is the learned "no condition"
        self.table = nn.Parameter(torch.randn(classes + 1, self.width)) if classes else None
        self.enter = nn.Conv2d(config.colours * config.patch**2, c, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(c, side, side))
        self.features = [c]
        self.levels = nn.ModuleList()
        for i, multiple in enumerate(config.multiples):
            level = nn.ModuleList()
            for _ in range(config.blocks):
                level.append(
                    Level(self.features[-1], c * multiple, self.width, i in config.attention)
                )
                self.features.append(c * multiple)
            self.levels.append(level)

    def embed(self, log_kappa: Tensor, classes: Tensor | None) -> Tensor:
        """[B, E] from ln κ [B] (float64 or float32) and class weights [B, K] or None."""
        low, high = (math.log(v) for v in CYCLES)
        at = dict(dtype=log_kappa.dtype, device=log_kappa.device)
        cycles = torch.linspace(low, high, self.waves, **at).exp()  # type: ignore[call-overload]
        angle = (log_kappa / 4)[:, None] * cycles * (2 * math.pi)
        waves = torch.cat([angle.sin(), angle.cos()], 1).to(self.place.dtype)
        e = self.noise_out(self.noise(waves))
        if self.table is not None:
            rows = self.table.new_zeros(len(e), len(self.table) - 1)
            rows = rows if classes is None else classes.to(rows).expand(len(e), -1)
            total = rows.sum(1, keepdim=True)
            free = (total == 0).to(rows)
            e = e + torch.cat([rows / (total + free), free], 1) @ self.table
        return F.silu(e)

    def forward(self, x: Tensor, e: Tensor) -> list[Tensor]:
        h = self.enter(F.pixel_unshuffle(x, self.patch)) + self.place
        maps = [h]
        for i, level in enumerate(self.levels):
            if i:
                h = F.avg_pool2d(h, 2)
            for block in level:  # type: ignore[attr-defined]
                h = block(h, e)
                maps.append(h)
        return maps


class UNet(nn.Module):
    """F(x, ln κ, classes) [B, C, H, W]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.down = Encoder(config, config.classes)
        c, width, kept = config.channels, self.down.width, list(self.down.features)
        inside = kept[-1]
        self.middle = nn.ModuleList(Level(inside, inside, width, i == 0) for i in range(2))
        self.up = nn.ModuleList()
        for i, multiple in reversed(list(enumerate(config.multiples))):
            level = nn.ModuleList()
            for _ in range(config.blocks + (i == 0)):
                level.append(Level(inside + kept.pop(), c * multiple, width, i in config.attention))
                inside = c * multiple
            self.up.append(level)
        self.after = norm(inside)
        self.leave = zero(nn.Conv2d(inside, config.colours * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor, log_kappa: Tensor, classes: Tensor | None) -> Tensor:
        e = self.down.embed(log_kappa, classes)
        maps = self.down(x, e)
        h = maps[-1]
        for block in self.middle:
            h = block(h, e)
        for i, level in enumerate(self.up):
            if i:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            for block in level:  # type: ignore[attr-defined]
                h = block(torch.cat([h, maps.pop()], 1), e)
        return F.pixel_shuffle(self.leave(F.silu(self.after(h))), self.down.patch)


# ---------------------------------------------------------------------------------------- networks


class Network(Denoiser):
    """The U-Net as a denoiser: D(x, σ, classes) for x [B, *config.shape] on ``path``, in [−1, 1] at σ = 0.

    ``classes`` [B, K] are relative weights: two non-zero entries blend the two embeddings; None or a
    row of zeros takes the learned embedding of "no condition".
    """

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, config.shape, config.classes)
        self.config = config
        self.net = UNet(config)

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        self.check(x)
        inputs, (skip, out), log_kappa = preconditioned(x, self.path, sigma, self.config.sigma_data)
        f = self.net(inputs, log_kappa, classes)
        return (skip * x + out * f).to(x.dtype)


class Classifier(nn.Module):
    """log p(class | x, σ) up to a constant: logits [B, K] of x [B, *config.shape] on ``path``.

    The way down of the U-Net without classes, averaged over the picture; differentiable in x.
    """

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__()
        self.path, self.config = path, config
        self.down = Encoder(config, 0)
        self.after = norm(self.down.features[-1])
        self.leave = nn.Linear(self.down.features[-1], config.classes)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.config.shape:
            raise ValueError(
                f"this classifier knows images of shape {self.config.shape}, got {tuple(x.shape)}"
            )
        inputs, _, log_kappa = preconditioned(x, self.path, sigma, self.config.sigma_data)
        h = self.down(inputs, self.down.embed(log_kappa, None))[-1]
        return self.leave(F.silu(self.after(h)).mean((2, 3)))

    def class_logits(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The logits, by the name that :class:`Mixture` has for its exact ones."""
        return self(x, sigma)


KINDS: dict[str, type[Network] | type[Classifier]] = {
    "denoiser": Network,
    "classifier": Classifier,
}


def preconditioned(
    x: Tensor, path: Path, sigma: float | Tensor, data: float
) -> tuple[Tensor, tuple[float | Tensor, float | Tensor], Tensor]:
    """(x/r, (factor of x, factor of F), ln κ [B]) as in the head of this file.

    The noise level is worked out in float32 at least, whatever the dtype of x.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    a, s = coefficients(path, sigma, wide)
    r2 = s * s + (a * data) ** 2
    r = r2**0.5
    low, high = KAPPA
    if isinstance(s, Tensor) and isinstance(a, Tensor):
        kappa = (s / a.clamp(min=1e-30)).clamp(low, high).flatten()
        log_kappa = kappa.log().expand(len(x))
    else:
        level = math.log(min(max(float(s) / float(a) if a else high, low), high))
        log_kappa = torch.full((len(x),), level, dtype=wide.dtype, device=x.device)
    return (wide / r).to(x.dtype), (a * data * data / r2, s * data / r), log_kappa


# ------------------------------------------------------------------------------------------- files

T = TypeVar("T", Network, Classifier)


def save(model: Network | Classifier, file: File, card: Mapping[str, object]) -> None:
    """Write the weights in fp16. ``card`` says how they were made (steps, seed, data, loss …)."""
    tensors = {name: t.half() for name, t in model.state_dict().items()}
    for name, t in tensors.items():
        if not t.isfinite().all():
            raise ValueError(f"{name} holds values that fp16 cannot: the training diverged")
    FORMAT.write(file, tensors, {"config": dataclasses.asdict(model.config), "card": dict(card)})


def load(file: File, path: Path, kind: type[T]) -> T:
    """The network in ``file`` with float32 weights, in evaluation mode, on ``path``.

    Raises BadFile saying what is wrong with the file and how to make a new one.
    """
    with FORMAT.opened(file) as stored:
        config = Config.read(stored.facts["config"])
        if KINDS[config.kind] is not kind:
            raise ValueError(f"it holds a {config.kind}")
        tensors = {name: t.float() for name, t in stored.tensors().items()}
        if config.blocks * len(config.multiples) > len(tensors):  # before they are built
            raise ValueError(f"{config.blocks} blocks per level, but only {len(tensors)} tensors")
        with torch.device("meta"):
            model = kind(path, config)
        if misfit := next(_misfits(model.state_dict(), tensors), None):
            raise ValueError(misfit)
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def card(file: File) -> dict[str, Any]:
    """What the header says about how the weights were made; errors as in :func:`load`."""
    with FORMAT.opened(file) as stored:
        card = stored.facts.get("card")
    return card if isinstance(card, dict) else {}


def _misfits(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(expected.keys() ^ tensors.keys()):
        yield f"tensor {name} is {'missing' if name in expected else 'not part of the network'}"
    for name, t in tensors.items():
        if t.shape != expected[name].shape:
            yield f"{name} has shape {tuple(t.shape)}, expected {tuple(expected[name].shape)}"
