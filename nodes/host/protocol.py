"""Everything that nodes ask of a host, in three Protocols: ``host.models``, ``host.runs``, ``host.places``.

``comfy/`` and ``alone/`` each have a module for each of them; mypy compares both with what stands here.
MODEL, GUIDER, SAMPLER, NOISE and LATENT are the host's own objects, so they are Any.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...schedulers.denoiser import Denoiser
from ...schedulers.denoiser.diffusers import DiffusersDenoiser
from ...schedulers.guidance import Guidance
from ...schedulers.measure import Evaluate
from ...schedulers.measure.compute_dtype import Choice
from ...schedulers.measure.model_facts import ModelFacts
from ...schedulers.measure.trace import View
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.path import Path as ProbabilityPath
from ...schedulers.prediction import Prediction
from ...schedulers.size_shift import SizedFlow
from ...schedulers.solver import Solver
from ...schedulers.split import Part, Stepped

if TYPE_CHECKING:
    from .conditioning import Conditioning
    from .guidance_wire import Holder
    from .guider_field import Facts, Ready
    from .latent_layout import LatentLayout
    from .trace_watch import Watch

T = TypeVar("T")


class Models(Protocol):
    """MODEL: what it says about itself, copies that say something else, and new ones."""

    def schedule_of(self, model: Any, /) -> NoiseSchedule:
        """The noise schedule. Raises ValueError or TypeError where it is not known."""

    def facts_of(self, model: Any, /) -> ModelFacts:
        """What a MODEL says about itself."""

    def noise_scale(self, model: Any, /) -> float:
        """Standard deviation of the noise that a flow MODEL was trained with."""

    def latent_space(self, model: Any, /) -> tuple[int | None, Callable[[Tensor], Tensor]]:
        """Channels of a MODEL's latents (None: any), and LATENT samples → the units the network sees."""

    def latent_layout(self, model: Any, /) -> LatentLayout:
        """Channels, dimensions and scales of a MODEL's latents."""

    def sized_flow(self, model: Any, /) -> SizedFlow | None:
        """The MODEL's schedule where its shift depends on the size, None elsewhere."""

    def compute_choice(self, model: Any, asked: str, /) -> Choice:
        """The dtype that Denoiser Settings would choose."""

    def in_dtype(self, model: Any, dtype: torch.dtype | None, /) -> Any:
        """A MODEL that computes in ``dtype``; None: in the one it was loaded with."""

    def relabelled(
        self, model: Any, prediction: str | None, schedule: NoiseSchedule | None, /
    ) -> Any:
        """A MODEL whose output is read as ``prediction`` and that knows ``schedule`` (None: as it is)."""

    def raw_output(self, model: Any, /) -> Any:
        """A MODEL whose D is the network's output itself."""

    def make_model(
        self, build: Callable[[Any], Denoiser], schedule: NoiseSchedule,
        prediction: Prediction | None = None, /,
    ) -> Any:  # fmt: skip
        """MODEL from ``build(path)`` → denoiser, outputting ``prediction`` (default: the usual one)."""

    def make_diffusers(
        self, network: DiffusersDenoiser, vae: str, again: Callable[[], tuple[DiffusersDenoiser, str]], /
    ) -> Any:  # fmt: skip
        """MODEL of a diffusers network and the class of its folder's VAE ("": none); ``again()`` loads both once more."""


class Runs(Protocol):
    """GUIDER and SAMPLER: made, asked, traced and run."""

    def make_guider(
        self, model: Any, conds: Mapping[str, Conditioning], guidance: Guidance, /, *,
        weak: Any = None, share_pure_noise: bool = False,
    ) -> Any:  # fmt: skip
        """GUIDER from conditionings by branch. Raises ValueError for a weak MODEL that cannot stand beside it."""

    def probed(self, guider: Any, holder: Holder, /) -> Any:
        """The same GUIDER, which puts the report of every run into ``holder``."""

    def blocked(self, why: str = "", /) -> Any:
        """An output that keeps the nodes which get it from running: without an error, or with the error ``why``."""

    def refused(self, class_type: str, input: str, value: Any, /) -> str:
        """Why a node that is added to a running graph cannot have a value ("": it can), as far as its class says."""

    def consumer(self) -> Hashable:
        """Which node of which run is executing; None where nobody says."""

    def model_of(self, value: Any, /) -> Any:
        """The MODEL of a GUIDER; anything else as it is."""

    def probe(
        self, model: Any, positive: Conditioning | None, latent: dict[str, Any],
        look: Callable[[Tensor, Evaluate], T], /,
    ) -> T:  # fmt: skip
        """``look(x0, D)``: x0 the latent [B, …], D the MODEL under ``positive``, or a GUIDER's."""

    def make_sampler(self, solver: Solver | Part | Stepped, /) -> Any:
        """SAMPLER around a solver, or a part of its run."""

    def solver_of(self, sampler: Any, /) -> Solver | Part | Stepped | None:
        """What :meth:`make_sampler` was given; None for any other SAMPLER."""

    def sampler_name(self, sampler: Any, /) -> str:
        """What a SAMPLER is called, and what is set in it."""

    def run_sampler(
        self, noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any], /
    ) -> dict[str, Any]:
        """The LATENT that SamplerCustomAdvanced makes."""

    def traced(self, sampler: Any, watch: Watch, /) -> Any:
        """SAMPLER that does what ``sampler`` does and leaves a trace of each run in ``watch``."""

    def reported(self, sampler: Any, report: Callable[[float], float], /) -> Any:
        """SAMPLER that does what ``sampler`` does, with the model told ``report(σ)`` at σ."""

    def path_of(self, guider: Any, /) -> ProbabilityPath:
        """The path of a GUIDER's states, a host's."""

    def as_latent(self, view: View, x: Tensor, like: dict[str, Any], /) -> dict[str, Any]:
        """LATENT of x [B, …] in the denoiser's units, with the rest of the LATENT ``like``."""

    def facts_of_guider(self, guider: Any, /) -> Facts:
        """Who a GUIDER is. Raises TypeError for what has no MODEL."""

    def schedule_of_guider(self, guider: Any, /) -> NoiseSchedule:
        """The noise schedule of its MODEL."""

    def noise_scale_of_guider(self, guider: Any, /) -> float:
        """:meth:`Models.noise_scale` of its MODEL."""

    def network_of_guider(self, guider: Any, /) -> nn.Module:
        """The network of its MODEL."""

    def latent_shape(self, guider: Any, latent: Tensor, /) -> tuple[int, ...]:
        """The shape of one image as its MODEL sees it."""

    def with_field(
        self, guiders: Sequence[Any], shape: Sequence[int], batch: int, seed: int,
        then: Callable[[Ready], T], /,
    ) -> T:  # fmt: skip
        """``then`` with D(x, σ, rows) of the GUIDERs in turn, while all can be asked."""


class Places(Protocol):
    """Folders, devices, and the bar that shows progress."""

    def typed_path(self, name: str, /) -> bool:
        """Whether a person typed this absolute path for this run: workflows may not hold one."""

    def folder(self, kind: str, /) -> Path:
        """The folder "input" or "output"."""

    def model_folders(self, kind: str, /, new: bool = False) -> list[Path]:
        """The folders for models of a kind; with ``new`` the first is the one to write to."""

    def set_device(self, name: str, /) -> str:
        """Choose where models run. Returns the choice; ValueError if it is absent."""

    def compute_device(self) -> str:
        """The kind of device that MODELs run on: "cuda", "cpu", …"""

    def patcher(self, module: nn.Module, kind: str, keep: bool = True) -> Any:
        """A handle on a "vae" or "text_encoder" for :meth:`loaded`; without ``keep`` its weights may go."""

    def loaded(self, patcher: Any, memory: int = 0) -> AbstractContextManager[torch.device]:
        """The module on its device, with room for ``memory`` bytes besides; yields the device."""

    def progress(self, total: int, /) -> Callable[[int, str], None]:
        """tell(step, text): the bar of the executing node, and the text below it."""
