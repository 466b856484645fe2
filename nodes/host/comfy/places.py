"""``host.places`` inside ComfyUI: its folders, devices and progress bar.

A module of ComfyUI's is imported by the function that needs it, so that a name it drops costs only the nodes that
call the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

OWN_KINDS = ("solvers",)  # of models, which ComfyUI does not know by itself


def folder(kind: str) -> Path:
    """ComfyUI's folder "input" or "output"."""
    import folder_paths

    return Path(folder_paths.get_directory_by_type(kind))


def typed_path(name: str) -> bool:
    """Whether a person typed this absolute path for this run. Never here: workflows come from anywhere."""
    return False


def model_folders(kind: str, new: bool = False) -> list[Path]:
    """ComfyUI's folders for models of a kind; new ones go to the first."""
    import folder_paths

    if kind in OWN_KINDS:
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


def set_device(name: str) -> str:
    """ComfyUI chooses its own device."""
    raise RuntimeError("inside ComfyUI the device is set on ComfyUI's command line")


def compute_device() -> str:
    """The kind of device that MODELs run on: "cuda", "cpu", …"""
    import comfy.model_management

    return str(comfy.model_management.get_torch_device().type)


def patcher(module: nn.Module, kind: str, keep: bool = True) -> Any:
    """A ModelPatcher by which ComfyUI moves ``module`` as it moves its own "vae" or "text_encoder".

    Without ``keep`` the weights are gone (on the device "meta") once it is moved off its device, by /free
    or to make room. The module itself must live on: ComfyUI counts its models while it unloads them.
    """
    import comfy.model_management as mm
    import comfy.model_patcher

    device, offload = getattr(mm, f"{kind}_device")(), getattr(mm, f"{kind}_offload_device")()
    made = comfy.model_patcher.ModelPatcher(module, load_device=device, offload_device=offload)
    if not keep:
        import comfy.patcher_extension

        event = comfy.patcher_extension.CallbacksMP.ON_DETACH
        made.add_callback(event, lambda owner, whole: owner.model.to("meta") if whole else None)
    return made


@contextmanager
def loaded(patcher: Any, memory: int = 0) -> Iterator[torch.device]:
    """The module on its device, with room for ``memory`` bytes besides; yields the device."""
    import comfy.model_management as mm

    mm.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    with mm.cuda_device_context(patcher.load_device):
        yield patcher.load_device


def progress(total: int) -> Callable[[int, str], None]:
    """tell(step, text): the executing node's bar, and the text below it."""
    import comfy.utils
    from comfy_execution.utils import get_executing_context

    bar, context = comfy.utils.ProgressBar(total), get_executing_context()

    def tell(step: int, text: str = "") -> None:
        bar.update_absolute(min(step, total), total)
        if text and context is not None:
            from server import PromptServer

            instance = getattr(PromptServer, "instance", None)
            if instance is not None:
                instance.send_progress_text(text, context.node_id)

    return tell
