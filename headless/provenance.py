"""What a saved picture says about how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..schedulers.strict_json import parse_json
from .context import Context
from .prompt import SEEDS
from .workflow import Prompt

CHUNK = "sampling_kit"  # the PNG text that holds the facts, as JSON


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of everything that can change a pixel."""
    from importlib.metadata import PackageNotFoundError, version

    import numpy
    import torch

    try:
        pack = version("comfyui-sampling-kit")
    except PackageNotFoundError:
        pack = "not installed"
    return dict(
        sampling_kit=pack,
        torch=torch.__version__,
        numpy=numpy.__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
    )


def be_deterministic(threads: int | None = None) -> None:
    """Refuse operations that need not give the same bits twice, and fix the number of threads."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if threads:
        torch.set_num_threads(threads)


def facts(context: Context) -> dict[str, Any]:
    """What stands in the PNG beside its workflow: versions, device, threads, seeds, plans."""
    import torch

    return dict(
        versions=versions(),
        device=context.device,
        device_name=device_name(context.device),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        seeds=dict(seeds(context.prompt)),
        plans=list(context.plans),
    )


def device_name(device: str) -> str:
    import torch

    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"


def seeds(prompt: Prompt) -> Iterator[tuple[str, int]]:
    """("node.input", value) of every seed."""
    for node, entry in prompt.items():
        for name, value in entry["inputs"].items():
            if name.split(".")[-1] in SEEDS and type(value) is int:
                yield f"{node}.{name}", value


COLUMNS = {"path α": "alpha", "path σ": "sigma"}


def plan_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a plan's table: the same numbers, the same digest. Columns have the names of pictures saved before."""
    named = ({COLUMNS.get(k, k): v for k, v in row.items() if k != "σ"} for row in rows)
    return hashlib.sha256(json.dumps(list(named)).encode()).hexdigest()


def pixel_digest(pixels: Any) -> str:
    """SHA-256 of a uint8 array and its shape."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def read_facts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The :func:`facts` among a picture's texts; nothing where they are damaged."""
    try:
        written = parse_json(texts.get(CHUNK, "{}"))
    except ValueError:
        return {}
    return written if isinstance(written, dict) else {}
