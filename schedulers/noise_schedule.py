"""Noise schedules: a path plus the time it was trained with, t ↔ κ, and its range.

What ComfyUI calls ``model_sampling`` and diffusers hides in a scheduler's constructor. A schedule
says which noise levels exist and what a network calls them; which of them a run visits is decided
by a spacing (``spacing/``). All values are float64 numpy arrays; κ = σ/α as in ``path.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .path import VE, VP, Flow, Path, SubVP
from .settings import Settings, knob

Array = NDArray[np.float64]
MOST = 87.0  # log κ of what SIGMAS, which are float32, can hold


@dataclass(frozen=True)
class NoiseSchedule(Settings):
    """Base class: ``kappa(t)`` and its inverse ``time(κ)`` on [t_min, t_max], increasing."""

    path: ClassVar[Path]

    @property
    def t_min(self) -> float:
        """Time of the smallest noise level the network knows."""
        raise NotImplementedError

    @property
    def t_max(self) -> float:
        """Time of the largest noise level the network knows."""
        raise NotImplementedError

    @property
    def discrete(self) -> bool:
        """Whether the network was trained on whole timesteps 0 … t_max only."""
        return False

    def kappa(self, t: ArrayLike) -> Array:
        """κ at times ``t`` (any shape; clipped to the range)."""
        raise NotImplementedError

    def time(self, kappa: ArrayLike) -> Array:
        """Inverse of :meth:`kappa`; fractional for tables, clipped to the range."""
        raise NotImplementedError

    @property
    def kappa_min(self) -> float:
        return float(self.kappa(self.t_min))

    @property
    def kappa_max(self) -> float:
        return float(self.kappa(self.t_max))


def cosine_alpha_bar(u: Array, offset: float) -> Array:
    """ᾱ(u) = cos²((u + s)/(1 + s)·π/2), Nichol & Dhariwal 2021, eq. 17."""
    return np.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2


@dataclass(frozen=True)
class Tabulated(NoiseSchedule):
    """A variance-preserving schedule known at whole timesteps 0 … T−1 by its log κ.

    Between them log κ is interpolated linearly, as k-diffusion and ComfyUI do; where the last entry
    is infinite (zero terminal SNR), α is interpolated linearly on the last interval instead.
    """

    path: ClassVar[Path] = VP()

    @cached_property
    def log_kappas(self) -> Array:
        """log κ at timesteps 0 … T−1, strictly increasing; the last may be +∞."""
        alpha_bar: Array = np.cumprod(1 - self.betas(), dtype=np.float64)
        shift = getattr(self, "snr_shift", 1.0)
        alpha_bar = alpha_bar / (shift + (1 - shift) * alpha_bar)  # κ² grows by the shift
        with np.errstate(divide="ignore", invalid="ignore"):
            if getattr(self, "zero_snr", False):
                alpha_bar = zero_terminal_snr(alpha_bar)
            table: Array = 0.5 * (np.log1p(-alpha_bar) - np.log(alpha_bar))
            finite = table[:-1] if table[-1] == math.inf else table
            if not (np.all(np.diff(table) > 0) and -math.inf < finite[0] and finite[-1] < MOST):
                raise ValueError(
                    f"{self}: the noise must rise at every timestep, from above 0 to what float32 holds, and to pure noise "
                    "only at the last; β must be above 0, and smaller for more timesteps"
                )
        return table

    def betas(self) -> Array:
        raise NotImplementedError

    @property
    def alpha_bar(self) -> Array:
        """ᾱ_t = α_t², the table diffusers calls alphas_cumprod."""
        return 1 / (1 + np.exp(2 * self.log_kappas))

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return float(len(self.log_kappas) - 1)

    @property
    def discrete(self) -> bool:
        return True

    def kappa(self, t: ArrayLike) -> Array:
        t = np.clip(np.asarray(t, np.float64), 0, self.t_max)
        table, last = self._finite, len(self._finite) - 1
        kappa = np.exp(np.interp(t, np.arange(last + 1), table))
        if last == self.t_max:
            return kappa
        with np.errstate(divide="ignore"):
            alpha = (self.t_max - np.maximum(t, last)) / math.hypot(1, math.exp(table[-1]))
            return np.where(t > last, np.sqrt(np.maximum(1 / alpha**2 - 1, 0)), kappa)

    def time(self, kappa: ArrayLike) -> Array:
        kappa = np.asarray(kappa, np.float64)
        table, last = self._finite, len(self._finite) - 1
        with np.errstate(divide="ignore"):
            t = np.interp(np.log(kappa), table, np.arange(last + 1.0))
        if last == self.t_max:
            return t
        beyond = self.t_max - math.hypot(1, math.exp(table[-1])) / np.hypot(1, kappa)
        return np.where(kappa > math.exp(table[-1]), beyond, t)

    @cached_property
    def _finite(self) -> Array:
        return self.log_kappas[np.isfinite(self.log_kappas)]


def zero_terminal_snr(alpha_bar: Array) -> Array:
    """Shift and scale √ᾱ so that it ends at 0 and starts where it did (Lin et al. 2024, alg. 1)."""
    root = np.sqrt(alpha_bar)
    return np.square((root - root[-1]) * root[0] / (root[0] - root[-1]))


_TIMESTEPS = "Number of training timesteps T."
_ZERO_SNR = (
    "Rescale so that the last timestep is pure noise (zero terminal SNR). Not for eps networks."
)


@dataclass(frozen=True)
class LinearVP(Tabulated):
    """The DDPM schedule: β rises linearly with the timestep (Ho et al. 2020)."""

    title: ClassVar[str] = "VP linear β (DDPM)"
    aliases: ClassVar[tuple[str, ...]] = ("linear", "DDPM betas")
    beta_start: float = knob(1e-4, "β of the first timestep.", low=0.0, high=0.999, step=1e-5)
    beta_end: float = knob(0.02, "β of the last timestep.", low=0.0, high=0.999, step=1e-5)
    timesteps: int = knob(1000, _TIMESTEPS, low=2, high=10000)
    zero_snr: bool = knob(False, _ZERO_SNR)

    def betas(self) -> Array:
        return np.linspace(self.beta_start, self.beta_end, self.timesteps)


@dataclass(frozen=True)
class ScaledLinearVP(Tabulated):
    """The latent-diffusion schedule: √β rises linearly (Stable Diffusion, SDXL, CogVideoX)."""

    title: ClassVar[str] = "VP scaled linear β (Stable Diffusion)"
    aliases: ClassVar[tuple[str, ...]] = ("scaled_linear", "stable diffusion", "SDXL")
    beta_start: float = knob(0.00085, "β of the first timestep.", low=0.0, high=0.999, step=1e-5)
    beta_end: float = knob(0.012, "β of the last timestep.", low=0.0, high=0.999, step=1e-5)
    timesteps: int = knob(1000, _TIMESTEPS, low=2, high=10000)
    zero_snr: bool = knob(False, _ZERO_SNR)
    snr_shift: float = knob(
        1.0,
        "Divide the signal-to-noise ratio α²/σ² by this, before any zero-SNR rescale (CogVideoX 2B: 3).",
        low=0.01,
        high=100.0,
        step=0.1,
        advanced=True,
    )

    def betas(self) -> Array:
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.timesteps) ** 2


@dataclass(frozen=True)
class CosineVP(Tabulated):
    """The cosine schedule ᾱ = cos² (Nichol & Dhariwal 2021)."""

    title: ClassVar[str] = "VP cosine"
    aliases: ClassVar[tuple[str, ...]] = ("cosine", "squaredcos_cap_v2", "improved DDPM")
    offset: float = knob(
        0.008, "The offset s that keeps β from vanishing near t = 0.", low=0.0, high=0.5, step=1e-3
    )
    max_beta: float = knob(
        0.999, "β is capped here.", low=0.1, high=0.9999, step=1e-3, advanced=True
    )
    timesteps: int = knob(1000, _TIMESTEPS, low=2, high=10000)
    zero_snr: bool = knob(False, _ZERO_SNR)

    def betas(self) -> Array:
        alpha_bar = cosine_alpha_bar(np.arange(self.timesteps + 1) / self.timesteps, self.offset)
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], self.max_beta)


@dataclass(frozen=True)
class SigmoidVP(Tabulated):
    """β follows a sigmoid between its ends (GeoDiff; diffusers' ``sigmoid``)."""

    title: ClassVar[str] = "VP sigmoid"
    aliases: ClassVar[tuple[str, ...]] = ("sigmoid", "GeoDiff")
    beta_start: float = knob(
        1e-4, "β approached at the first timestep.", low=0.0, high=0.999, step=1e-5
    )
    beta_end: float = knob(
        0.02, "β approached at the last timestep.", low=0.0, high=0.999, step=1e-5
    )
    timesteps: int = knob(1000, _TIMESTEPS, low=2, high=10000)
    zero_snr: bool = knob(False, _ZERO_SNR)

    def betas(self) -> Array:
        gate = 1 / (1 + np.exp(-np.linspace(-6, 6, self.timesteps)))
        return gate * (self.beta_end - self.beta_start) + self.beta_start


@dataclass(frozen=True)
class ContinuousVP(NoiseSchedule):
    """Continuous-time VP, log α = −¼t²(β₁ − β₀) − ½tβ₀ on t ∈ [0.001, 1] (Song et al. 2021)."""

    path: ClassVar[Path] = VP()
    title: ClassVar[str] = "VP continuous (score SDE)"
    aliases: ClassVar[tuple[str, ...]] = ("VPSDE", "score SDE", "continuous")
    beta_min: float = knob(0.1, "β at t = 0.", low=1e-4, high=100.0, step=0.01)
    beta_max: float = knob(20.0, "β at t = 1.", low=1e-3, high=1000.0, step=0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_min + self.beta_max > 4 * MOST:  # log κ ≈ B/2 at t = 1
            raise ValueError(
                f"{self.title}: beta_min + beta_max = {self.beta_min + self.beta_max:g}: must be at most "
                f"{4 * MOST:g}, where σ/α is the largest that float32 holds"
            )

    @property
    def t_min(self) -> float:
        return 1e-3

    @property
    def t_max(self) -> float:
        return 1.0

    # With B = ½t²(β₁ − β₀) + tβ₀ = −2 log α: VP has κ² = e^B − 1, sub-VP κ = 2 sinh(B/2).
    def kappa(self, t: ArrayLike) -> Array:
        t = np.clip(np.asarray(t, np.float64), self.t_min, self.t_max)
        return self._kappa_of(t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min)))

    def time(self, kappa: ArrayLike) -> Array:
        return np.clip(self.unbounded_time(kappa), self.t_min, self.t_max)

    def unbounded_time(self, kappa: ArrayLike) -> Array:
        """:meth:`time` continued beyond the trained range."""
        b = self._b_of(np.minimum(np.asarray(kappa, np.float64), 1e100))
        root = np.sqrt(np.maximum(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b, 0))
        return 2 * b / (self.beta_min + root)

    def _kappa_of(self, b: Array) -> Array:
        return np.sqrt(np.expm1(b))

    def _b_of(self, kappa: Array) -> Array:
        return np.log1p(kappa**2)


@dataclass(frozen=True)
class ContinuousSubVP(ContinuousVP):
    """Continuous-time sub-VP: α as in continuous VP, σ = 1 − α² (Song et al. 2021)."""

    path: ClassVar[Path] = SubVP()
    title: ClassVar[str] = "sub-VP continuous (score SDE)"
    aliases: ClassVar[tuple[str, ...]] = ("subVPSDE", "sub-VP")

    def _kappa_of(self, b: Array) -> Array:
        return 2 * np.sinh(b / 2)

    def _b_of(self, kappa: Array) -> Array:
        return 2 * np.arcsinh(kappa / 2)


@dataclass(frozen=True)
class EDM(NoiseSchedule):
    """Variance exploding, t = σ on [σ_min, σ_max] (Karras et al. 2022)."""

    path: ClassVar[Path] = VE()
    title: ClassVar[str] = "VE (EDM)"
    aliases: ClassVar[tuple[str, ...]] = ("EDM", "VE", "variance exploding", "Karras")
    sigma_min: float = knob(0.002, "Smallest noise level.", low=1e-6, high=1e4, step=1e-4)
    sigma_max: float = knob(80.0, "Largest noise level.", low=1e-5, high=1e5, step=0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"{self.title}: sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}"
            )

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def kappa(self, t: ArrayLike) -> Array:
        return np.clip(np.asarray(t, np.float64), self.sigma_min, self.sigma_max)

    def time(self, kappa: ArrayLike) -> Array:
        return self.kappa(kappa)


@dataclass(frozen=True)
class RectifiedFlowSchedule(NoiseSchedule):
    """Rectified flow with a time shift, σ = s·t/(1 + (s − 1)·t) on t ∈ [0.001, 1] (SD3, Flux, Wan).

    A shift by s multiplies κ by s, that is, it moves λ by −log s; shifts compose by multiplication.
    """

    path: ClassVar[Path] = Flow()
    title: ClassVar[str] = "Rectified flow"
    aliases: ClassVar[tuple[str, ...]] = ("flow matching", "rectified flow", "SD3", "Flux", "shift")
    shift: float = knob(
        1.0, "Time shift s: more steps at high noise for s > 1.", low=0.01, high=100.0, step=0.01
    )

    @property
    def t_min(self) -> float:
        return 1e-3

    @property
    def t_max(self) -> float:
        return 1.0

    def kappa(self, t: ArrayLike) -> Array:
        t = np.clip(np.asarray(t, np.float64), self.t_min, self.t_max)
        with np.errstate(divide="ignore"):
            return self.shift * t / (1 - t)

    def time(self, kappa: ArrayLike) -> Array:
        kappa = np.asarray(kappa, np.float64)
        ratio = 1 / (
            1 + np.divide(self.shift, kappa, out=np.full_like(kappa, np.inf), where=kappa > 0)
        )
        return np.clip(ratio, self.t_min, self.t_max)


@dataclass(frozen=True)
class Measured(Tabulated):
    """A table read off an existing model: κ at timesteps 0 … T−1."""

    kappas: tuple[float, ...] = ()

    @cached_property
    def log_kappas(self) -> Array:
        table = np.asarray(self.kappas, np.float64)
        if len(table) < 2 or not (table[0] > 0 and np.all(np.diff(table) > 0)):
            raise ValueError(
                "a model's noise table must hold at least 2 positive, increasing values"
            )
        return np.log(table)


ALL: dict[str, type[NoiseSchedule]] = {
    "vp_linear": LinearVP,
    "vp_scaled_linear": ScaledLinearVP,
    "vp_cosine": CosineVP,
    "vp_sigmoid": SigmoidVP,
    "vp_continuous": ContinuousVP,
    "sub_vp": ContinuousSubVP,
    "ve_edm": EDM,
    "rectified_flow": RectifiedFlowSchedule,
}
