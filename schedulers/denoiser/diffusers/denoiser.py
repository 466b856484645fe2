"""A diffusers network as a denoiser: D(x, σ) → x0 on any path, and the parts a host needs.

    x at (α, σ) on ``path``  →  c·x at the same κ on the network's own path  →  c_in·c·x  →  network
    →  sign·output  →  prediction.to_x0

State and coefficients are float32 and Python floats, the network runs in its own dtype, and time is
handed to it in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...noise_schedule import NoiseSchedule
from ...path import Path, rescale
from ...size_shift import tokens_of
from ..base import Denoiser
from .families import family_of
from .family import Beside, Call, Conditioning, Facts, Family
from .folder import Config, Folder, Weights
from .limits import check_scheduler, errors_named
from .loading import build, library
from .loading import set_dtype as cast
from .training import Training, read_training
from .vae import Latents, latents_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def choose_dtype(
    choice: str, stored: torch.dtype, kind: str, config: Config, device: str = "cpu"
) -> tuple[torch.dtype, str]:
    """(compute dtype, why) from ``choice`` (auto, fp32, bf16, fp16), the stored dtype and the class.

    bfloat16 has float32's range, float16 ends at 65504: what was trained in bfloat16 may overflow in
    float16, silently. Raises ValueError for fp16 with such a network.
    """
    if choice != "auto" and choice not in DTYPES:
        raise ValueError(f"dtype = {choice!r}: choose one of auto, {', '.join(DTYPES)}")
    trained = family_of(kind).trained(config)
    bf16 = torch.bfloat16 in (stored, trained)
    because = "the weights are stored in bfloat16" if stored == torch.bfloat16 else ""
    because = because or f"{kind} with this config was trained in bfloat16"
    if choice == "fp16" and bf16:
        raise ValueError(
            f"dtype = 'fp16': {because} and may overflow in float16: choose bf16, fp32 or auto"
        )
    if choice != "auto":
        return DTYPES[choice], "as asked"
    if stored == torch.bfloat16 or (bf16 and stored == torch.float16):
        return torch.bfloat16, because
    if stored == torch.float16 and device == "cpu":
        return torch.float32, "the weights are stored in float16, which a CPU computes slowly"
    if stored == torch.float16:
        return torch.float16, "the weights are stored in float16, the dtype they were trained in"
    return torch.float32, f"the weights are stored in {str(stored).removeprefix('torch.')}"


@errors_named
def load(
    folder: Folder,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    path: Path | None = None,
    weights: Weights | None = None,
) -> DiffusersDenoiser:
    """The denoiser of a folder. ``dtype`` by name goes through :func:`choose_dtype`, a torch.dtype does not.

    ``weights``: of another file (``read_file``) in place of the folder's, which then needs no weights.
    """
    part = folder.network
    where = f"{part.path}/config.json"
    family = family_of(part.kind, where)
    family.check(part.config, where)
    check_scheduler(folder.scheduler)
    training = read_training(folder.scheduler).seen_in(family.patch(part.config))
    library("diffusers")
    weights = weights or folder.network_weights
    reason = "as asked"
    if isinstance(dtype, str):
        dtype, reason = choose_dtype(dtype, weights.dtype, part.kind, part.config, device)
    network = build(part, weights, dtype)
    vae = latents_of(folder)
    config = {**dict(getattr(network, "config", {})), **part.config}
    facts = Facts(config, folder.part("vae").config if vae else {}, folder.index, folder.pipeline)
    beside = family.beside(family, facts)
    return DiffusersDenoiser(network, part.kind, config, training, path, vae, reason, beside).to(
        device
    )


class DiffusersDenoiser(Denoiser):
    """A network of diffusers as D(x, σ) → x0, with x and σ in the coordinates of ``path``.

    ``network``: the bare module; ``trained``: its noise schedule, prediction and clock;
    ``latents``: how its latents relate to its VAE's, None where the folder has no VAE;
    ``dtype_reason``: why it runs in ``dtype``; ``beside``: what it sees after x.
    """

    def __init__(
        self,
        network: nn.Module,
        kind: str,
        config: Mapping[str, Any],
        training: Training,
        path: Path | None = None,
        latents: Latents | None = None,
        dtype_reason: str = "",
        beside: Beside | None = None,
    ) -> None:
        super().__init__(path or training.noise_schedule.path)
        self.network, self.kind, self.config, self.trained = network, kind, config, training
        self.family: Family = family_of(kind)
        self.latents = latents
        self.dtype_reason = dtype_reason
        self.beside = beside or self.family.beside(self.family, Facts(config))

    # ------------------------------------------------------------------------------------- facts

    @property
    def prediction(self) -> str:  # type: ignore[override]
        """What the network outputs: eps, v, x0, flow, edm or score."""
        return self.trained.prediction.kind

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.trained.noise_schedule

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        keep = frozenset(getattr(self.network, "_keep_in_fp32_modules", None) or ())
        for name, value in self.network.named_parameters():
            if value.is_floating_point() and not keep.intersection(name.split(".")):
                return value.dtype
        return torch.float32

    @property
    def channels(self) -> int:
        """Channels of x."""
        return self.family.latent_channels(self.config)

    @property
    def dims(self) -> int:
        """Axes of x after batch and channels: 2 for pictures, 3 for video (frames first)."""
        return self.family.dims

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the conditioning tensors it cannot do without."""
        extra = ("concat",) if self.family.concat_channels(self.config) else ()
        return (*self.family.needs(self.config), *extra)

    @property
    def may(self) -> tuple[str, ...]:
        """Names of the conditioning tensors it can use but need not have."""
        return tuple(name for name in self.family.may if name not in self.needs)

    def tokens(self, shape: tuple[int, ...]) -> int:
        """Image tokens of a latent of ``shape`` [C, …]; what ``trained.at`` asks for."""
        return tokens_of(shape, self.family.patch(self.config))

    # ------------------------------------------------------------------------------- other readings

    def using(
        self, training: Training | None = None, path: Path | None = None
    ) -> DiffusersDenoiser:
        """The same network read by another training (mislabelled folders) or on another path."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.trained = training or self.trained
        other.path = path or (self.path if training is None else training.noise_schedule.path)
        return other

    def set_dtype(self, dtype: torch.dtype) -> DiffusersDenoiser:
        """Cast the network in place, without any rule; keeps what its class wants in float32."""
        cast(self.network, dtype)
        self.dtype_reason = "as asked"
        return self

    # ------------------------------------------------------------------------------------ the call

    def check(self, x: Tensor) -> None:
        """Raises ValueError if x is not a batch of latents the network takes."""
        patch, shape = self.family.patch(self.config), tuple(x.shape)
        axes = "batch, channels, " + ("frames, " if self.dims == 3 else "") + "height, width"
        if x.ndim != 2 + self.dims or x.shape[1] != self.channels:
            raise ValueError(
                f"{self.kind} takes latents of {self.channels} channels ({axes}), got shape {shape}: "
                "make the empty latent that shape"
            )
        if self.family.square and shape[-1] != shape[-2]:
            raise ValueError(
                f"{self.kind} takes square latents only, got shape {shape}: make the empty latent square"
            )
        if any(n % p for n, p in zip(shape[2:], patch, strict=True)):
            raise ValueError(
                f"{self.kind} takes latents whose sizes are multiples of {patch}, got shape {shape}: make the empty "
                "latent that size"
            )

    def forward(self, x: Tensor, sigma: float | Tensor, cond: Conditioning | None = None) -> Tensor:
        """x0 in float32 (or x's float64) from x [B, C, …] and σ: a float, or one a picture [B].

        ``cond``: tensors by name (see ``family.py``) with batch 1 or B. A σ tensor is best on the CPU.
        FloatingPointError if the output is not finite (checked on the CPU, and in float16 everywhere).
        """
        self.check(x)
        sigmas = sigma.flatten().tolist() if isinstance(sigma, Tensor) else [float(sigma)]
        if len(set(sigmas)) == 1:
            sigmas = sigmas[:1]
        if len(sigmas) not in (1, len(x)):
            raise ValueError(f"σ holds {len(sigmas)} values for a batch of {len(x)}")
        points, factors = zip(
            *(rescale(self.path.on(s), self.noise_schedule.path) for s in sigmas), strict=True
        )
        spread = Spread(x)
        inner = x.to(spread.dtype) * spread(factors)
        times = [self.trained.time(p.kappa) for p in points]
        t = torch.tensor(times, dtype=torch.float32).to(x.device, non_blocking=True)
        scaled = inner * spread([self.trained.input_scale(p) for p in points])
        out = self.raw(scaled, t.expand(len(x)), cond or {})
        if x.device.type == "cpu" or self.dtype == torch.float16:
            self.require_finite(out, sigmas)
        alpha, level = spread([p.alpha for p in points]), spread([p.sigma for p in points])
        return self.trained.prediction.to_x0(out.to(spread.dtype), inner, alpha, level)

    def used(self, cond: Conditioning) -> dict[str, Tensor]:
        """The tensors of ``cond`` that the network takes. Raises ValueError if one it needs is missing."""
        missing = [name for name in self.needs if cond.get(name) is None]
        if missing:
            raise ValueError(
                f"{self.kind} needs the conditioning {', '.join(map(repr, missing))}: encode it with the folder's "
                "own encoders"
            )
        return {k: cond[k] for k in (*self.needs, *self.may) if cond.get(k) is not None}

    def picture(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The conditioning "concat" of a picture's own VAE latents z [B, C, …].

        ``mask`` [B, 1, …], 1 where it is to be drawn anew (None: everywhere), of z's size or a multiple.
        """
        scaled = self.latents.from_vae if self.latents else lambda z: z
        seen = scaled(z) if self.beside.factor is None else z * self.beside.factor
        if not self.beside.mask:
            return seen
        drawn = seen.new_ones(1, 1, *seen.shape[2:]) if mask is None else resized(mask.to(seen), z)
        drawn = 1 - drawn if self.beside.kept else drawn
        channels = drawn.expand(len(seen), self.beside.mask, *seen.shape[2:])
        return torch.cat([channels, seen], 1)

    def raw(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's output in x's layout, float32, times ``trained.sign``.

        x: its input, already on its own path and scaled; t [B]: diffusers' timesteps, any float dtype.
        Not checked: see :meth:`require_finite`.
        """
        dtype = self.dtype
        conditions = {k: fit(k, v, len(x)).to(x.device) for k, v in self.used(cond).items()}
        for name in ("text", "pooled", "image", "concat"):
            if name in conditions:
                conditions[name] = conditions[name].to(dtype)
        inputs = x.to(dtype)
        if self.family.concat_channels(self.config):
            picture = filled(conditions["concat"], x.shape[2] if self.dims == 3 else 0)
            expected = (self.family.concat_channels(self.config), *x.shape[2:])
            if tuple(picture.shape[1:]) != expected:
                raise ValueError(
                    f"{self.kind} sees a picture of shape {expected} beside x, got {tuple(picture.shape[1:])}: give the "
                    "picture and the empty latent the same size"
                )
            inputs = torch.cat([inputs, picture], 1)
        t = t.to(x.device, torch.float32)
        pixels = self.latents.spatial if self.latents else self.family.pixels
        height, width = (n * pixels for n in x.shape[-2:])
        call = Call(
            inputs, t * self.family.time(self.config), conditions, self.config, (height, width)
        )
        with exact_time(self.network, self.family.exact_time, t):
            out = self.network(**self.family.arguments(call), return_dict=False)[0]
        out = self.family.unpack(out, call)[:, : self.channels]  # a learned variance comes after
        return out.float() * self.trained.sign

    def require_finite(self, out: Tensor, sigmas: Sequence[float]) -> None:
        """Raises FloatingPointError naming network, σ and dtype if ``out`` is not finite."""
        if bool(torch.isfinite(out.sum(dtype=torch.float32)) or torch.isfinite(out).all()):
            return
        hint = "check the weights, the conditioning and the prediction type"
        if self.dtype == torch.float16:
            hint = "float16 ends at 65504 and overflowed: set dtype to bf16, or fp32"
        raise FloatingPointError(
            f"{self.kind} returned NaN or infinity at σ = {max(sigmas):g} in {NAMES.get(self.dtype, self.dtype)}: {hint}"
        )


@contextmanager
def exact_time(network: nn.Module, name: str, t: Tensor) -> Iterator[None]:
    """Hand t to the submodule ``name`` as it is: Flux rounds its time to its own dtype before embedding it."""
    if not name:
        yield
        return
    embed = network.get_submodule(name)
    hook = embed.register_forward_pre_hook(lambda module, args: (t, *args[1:]))
    try:
        yield
    finally:
        hook.remove()


class Spread:
    """Numbers, one or one a picture, as a factor for x [B, …]: a float, or a tensor in x's float dtype."""

    def __init__(self, x: Tensor) -> None:
        self.shape, self.device = (-1,) + (1,) * (x.ndim - 1), x.device
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

    def __call__(self, values: Sequence[float]) -> Any:
        if len(values) == 1:
            return values[0]
        return torch.tensor(values, dtype=self.dtype).reshape(self.shape).to(self.device)


def fit(name: str, value: Tensor, batch: int) -> Tensor:
    """A conditioning tensor with ``batch`` rows: as it is, or its only row repeated."""
    if value.ndim == 0 or len(value) not in (1, batch):
        rows = "no rows" if value.ndim == 0 else f"{len(value)} rows"
        raise ValueError(
            f"conditioning {name!r} has {rows} for a batch of {batch}: give 1 or {batch}"
        )
    return value.expand(batch, *value.shape[1:])


def filled(picture: Tensor, frames: int) -> Tensor:
    """Latents of a picture or of a video's first frames, followed by zeros up to ``frames`` latent frames."""
    missing = frames - picture.shape[2] if picture.ndim == 5 else 0
    return F.pad(picture, (0, 0, 0, 0, 0, missing)) if missing > 0 else picture


def resized(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [B, 1, (F,) H, W] or [B, H, W] in the size of latents, each value 0 or 1."""
    mask = mask[:, None] if mask.ndim == like.ndim - 1 else mask[:, :1]
    if like.ndim == 4 and mask.ndim == 4 and mask.shape[2:] != like.shape[2:]:
        mask = F.interpolate(mask, like.shape[2:], mode="bilinear")
    return mask.round()
