"""ComfyUI's folders and devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import folder_paths
import torch
from torch import nn


def set_device(name: str) -> str:
    """ComfyUI chooses its own device."""
    raise RuntimeError("inside ComfyUI the device is set on ComfyUI's command line")


def folder(kind: str) -> Path:
    """ComfyUI's folder "input" or "output"."""
    return Path(folder_paths.get_directory_by_type(kind))


ABSOLUTE_FOLDERS = False  # workflows come from anywhere: only models folders may be opened


def model_folders(kind: str) -> list[Path]:
    """ComfyUI's folders for models of a kind."""
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


def patcher(module: nn.Module, kind: str, keep: bool = True) -> Any:
    """A ModelPatcher by which ComfyUI moves ``module`` as it moves its own "vae" or "text_encoder".

    Without ``keep`` the weights are gone (on the device "meta") once it is moved off its device, by /free
    or to make room. The module itself must live on: ComfyUI counts its models while it unloads them.
    """
    mm = comfy.model_management
    device, offload = getattr(mm, f"{kind}_device")(), getattr(mm, f"{kind}_offload_device")()
    made = comfy.model_patcher.ModelPatcher(module, load_device=device, offload_device=offload)
    if not keep:
        event = comfy.patcher_extension.CallbacksMP.ON_DETACH
        made.add_callback(event, lambda owner, whole: owner.model.to("meta") if whole else None)
    return made


@contextmanager
def loaded(patcher: Any, memory: int = 0) -> Iterator[torch.device]:
    """The module on its device, with room for ``memory`` bytes besides; yields the device."""
    mm = comfy.model_management
    mm.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    with mm.cuda_device_context(patcher.load_device):
        yield patcher.load_device
