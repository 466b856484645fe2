"""Guidance away from a worse prediction of the same condition: a weaker model, or a perturbed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..settings import knob
from .base import COND, WEAK, Call, Perturbation, Scaled, away, curve_knob
from .curve import Curve


@dataclass(frozen=True)
class Autoguidance(Scaled):
    """Autoguidance: away from a weaker version of the same model, with the same condition.

    D = D_weak + w·(D − D_weak). The weak model needs the same latent space and noise levels: a smaller
    or less trained network. One call of the weak model per evaluation.
    """

    title: ClassVar[str] = "Autoguidance"
    aliases: ClassVar[tuple[str, ...]] = ("autoguidance", "bad model", "weak model")
    paper: ClassVar[str] = "Karras et al. 2024 (arXiv 2406.02507)"
    needs: ClassVar[frozenset[str]] = frozenset({WEAK})
    scale: float = knob(2.0, "w: 1 is off.", low=0.0, high=100.0, step=0.01)
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        return away(d, call[WEAK], self.weight(call.level))


class Perturbed(Scaled):
    """D + s·(D_c − D_perturbed), the perturbation being the subclass's. One call per evaluation."""

    neutral: ClassVar[float] = 0.0
    layers: str

    @property
    def perturbation(self) -> Perturbation:
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        """The layers, without spaces and empty entries."""
        return tuple(name.strip() for name in self.layers.split(",") if name.strip())

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        return (self.perturbation,) if self.on else ()

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.perturbation.branch}) if self.on else frozenset()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        worse = call[self.perturbation.branch]
        return d + (call[COND] - worse) * self.weight(call.level)


@dataclass(frozen=True)
class PAG(Perturbed):
    """Perturbed-attention guidance: away from the prediction with self-attention made the identity.

    D ← D + s·(D_c − D_perturbed). Works without a prompt and beside CFG. One more network call.
    """

    title: ClassVar[str] = "PAG"
    aliases: ClassVar[tuple[str, ...]] = ("pag", "perturbed attention guidance")
    paper: ClassVar[str] = "Ahn et al. 2024 (arXiv 2403.17377)"
    scale: float = knob(3.0, "s: 0 is off.", low=0.0, high=100.0, step=0.01)
    layers: str = knob("", "Attention layers by name, with commas; empty: the model's middle.")
    curve: Curve = curve_knob()

    @property
    def perturbation(self) -> Perturbation:
        return Perturbation("identity", self.names())


@dataclass(frozen=True)
class SEG(Perturbed):
    """Smoothed-energy guidance: away from the prediction with blurred self-attention queries.

    D ← D + s·(D_c − D_perturbed). The blur's standard deviation takes the place of a second scale.
    One more network call.
    """

    title: ClassVar[str] = "SEG"
    aliases: ClassVar[tuple[str, ...]] = ("seg", "smoothed energy guidance")
    paper: ClassVar[str] = "Hong 2024 (arXiv 2408.00760)"
    scale: float = knob(3.0, "s: 0 is off.", low=0.0, high=100.0, step=0.01)
    layers: str = knob("", "Attention layers by name, with commas; empty: the model's middle.")
    blur: float = knob(
        100.0, "Standard deviation of the blur, in tokens; 9999 is their mean.",
        low=0.0, high=9999.0, step=0.1,
    )  # fmt: skip
    curve: Curve = curve_knob()

    @property
    def perturbation(self) -> Perturbation:
        return Perturbation("blur", self.names(), self.blur)


@dataclass(frozen=True)
class SkipLayer(Perturbed):
    """Skip-layer guidance: away from the prediction with some blocks left out.

    D ← D + s·(D_c − D_perturbed), usually only from 1 % to 20 % of the run. Which blocks matters much;
    usual are 7, 8, 9 of SD3.5 and Flux, 9 of Wan, 14 of LTX, otherwise the middle. One more network call.
    """

    title: ClassVar[str] = "Skip-Layer"
    aliases: ClassVar[tuple[str, ...]] = ("slg", "skip layer guidance", "spatiotemporal skip")
    paper: ClassVar[str] = "Hyung et al. 2024 (arXiv 2411.18664, STG); Stability AI for SD3.5"
    scale: float = knob(3.0, "s: 0 is off.", low=0.0, high=100.0, step=0.01)
    layers: str = knob("", "Blocks to leave out, with commas; empty: the model's usual ones.")
    curve: Curve = curve_knob()

    @property
    def perturbation(self) -> Perturbation:
        return Perturbation("skip", self.names())
