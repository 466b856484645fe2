"""Folders and devices without ComfyUI: where models run, how many images at once, where files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....schedulers.denoiser.parts import CudaMemory, InParts

_device = torch.device("cpu")


def device() -> torch.device:
    """Where MODELs run, as :func:`set_device` chose."""
    return _device


def set_device(name: str) -> str:
    """Choose where models run: cpu, cuda, mps or auto. Returns the choice; ValueError if absent."""
    global _device
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if found[n])
    if not found.get(name.split(":")[0], False):
        here = ", ".join(n for n, there in found.items() if there)
        raise ValueError(f"device {name!r} is not available here; found: {here}")
    _device = torch.device(name)
    return name


def compute_device() -> str:
    """The kind of device that MODELs run on: "cuda", "cpu", …"""
    return _device.type


_at_once: int | None = None


def set_images_at_once(count: int | None) -> None:
    """The most images a network takes in one call; None: what fits into a GPU's memory, else all."""
    global _at_once
    _at_once = count


def in_parts(network: Callable[..., Tensor]) -> InParts:
    memory = CudaMemory(_device) if _device.type == "cuda" else None
    return InParts(network, _at_once, memory)


_folder: Callable[[str], Path] = Path  # here, until the runner says where


def set_folders(find: Callable[[str], Path]) -> None:
    """Say where the folders "input" and "output" of the run that is going on are."""
    global _folder
    _folder = find


def folder(kind: str) -> Path:
    """The folder "input", "output" or "models" of the run that is going on."""
    return _folder(kind)


@dataclass(frozen=True)
class Patcher:
    """Stands for ComfyUI's ModelPatcher: a module that is on the device only while it is used."""

    model: nn.Module

    @property
    def load_device(self) -> torch.device:
        return _device


def patcher(module: nn.Module, kind: str, keep: bool = True) -> Patcher:
    """A handle on a "vae" or "text_encoder" for :func:`loaded`. Nothing takes its weights away here."""
    return Patcher(module)


@contextmanager
def loaded(patcher: Patcher, memory: int = 0) -> Iterator[torch.device]:
    """The module on the device inside the block, back on the CPU after it; yields the device."""
    patcher.model.to(_device)
    try:
        yield _device
    finally:
        patcher.model.to("cpu")


_typed: Callable[[str], bool] = lambda name: True  # noqa: E731  # until the runner says which


def set_typed(typed: Callable[[str], bool]) -> None:
    """Say which absolute paths a person typed for the run that is going on."""
    global _typed
    _typed = typed


def typed_path(name: str) -> bool:
    """Whether a person typed this absolute path for this run; a program that calls nodes itself is one, too."""
    try:
        return _typed(name)
    except LookupError:
        return True


def model_folders(kind: str, new: bool = False) -> list[Path]:
    """The folders for models of a kind, or with ``new`` the one to write them to; none outside of a run."""
    if _folder is Path:
        return []
    try:
        return [folder("models_to_write" if new else "models") / kind]
    except LookupError:
        return []


Ran = Callable[[Any, Any, list[float]], None]


def forgotten(guider: Any, sampler: Any, sigmas: list[float]) -> None:
    """What becomes of a run's counts until the runner says otherwise."""


_ran: Ran = forgotten


def set_ran(ran: Ran) -> None:
    """Say who keeps what a GUIDER counted in a run of ``sampler`` over ``sigmas`` that a node made itself."""
    global _ran
    _ran = ran


def ran(guider: Any, sampler: Any, sigmas: list[float]) -> None:
    """A node has made such a run."""
    _ran(guider, sampler, sigmas)


Report = Callable[[int, int], None]


def nobody(step: int, total: int) -> None:
    """Whom progress is told until the runner says otherwise."""


_report: Report = nobody


def set_progress(report: Report) -> None:
    """Say whom to tell that the executing node has done ``step`` of ``total`` steps."""
    global _report
    _report = report


def progress(total: int) -> Callable[[int, str], None]:
    """tell(step, text) for the executing node; the text is for ComfyUI's page."""

    def tell(step: int, text: str = "") -> None:
        _report(min(step, total), total)

    return tell
