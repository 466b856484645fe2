"""A node for a ComfyUI under test: a CONDITIONING from a file, in the place of a text encoder of many gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from safetensors.torch import load_file


class StoredConditioning:
    """models/conditioning/NAME.safetensors: ``cond`` [1, tokens, width], and ``pooled_output`` [1, width] or nothing."""

    CATEGORY = "tests"
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": ("STRING", {})}}

    def load(self, name: str) -> tuple[Any]:
        tensors = load_file(Path(folder_paths.models_dir) / "conditioning" / f"{name}.safetensors")
        return ([[tensors["cond"], {"pooled_output": tensors.get("pooled_output")}]],)


NODE_CLASS_MAPPINGS = {"TestStoredConditioning": StoredConditioning}
