"""What a saved picture says about how it was made, and whether it can be made again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schedulers.files import parse_json
from .context import Context
from .overrides import SEEDS
from .workflow import Prompt, WorkflowError, load

if TYPE_CHECKING:
    from .graph import Registry

CHUNK = "sampling_kit"  # the PNG text that holds the facts, as JSON


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of everything that can change a pixel."""
    from importlib.metadata import PackageNotFoundError, version

    import numpy
    import torch

    try:
        own = version("comfyui-sampling-kit")
    except PackageNotFoundError:
        own = "not installed"
    return dict(
        sampling_kit=own,
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


def plan_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a plan's table: the same numbers, the same digest."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def pixel_digest(pixels: Any) -> str:
    """SHA-256 of a uint8 array and its shape."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


# ---------------------------------------------------------------------------------------- verify


@dataclass(frozen=True)
class Verdict:
    """``same``: bit for bit. ``differences``: {what: (then, now)} of everything that is not as it was."""

    same: bool
    differences: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        head = "reproduces bit for bit" if self.same else "does NOT reproduce"
        lines = [
            f"  {name}: {then} then, {now} now" for name, (then, now) in self.differences.items()
        ]
        if self.same and lines:
            head += ", although these differ"
        return "\n".join([head, *lines])


def verify(png: Path, nodes: Registry, context: Context, check: Callable[[Any], None]) -> Verdict:
    """Run the workflow in ``png`` again, as far as possible as it was run, and compare.

    Raises WorkflowError if the file holds no workflow, or its workflow saves no picture.
    """
    import numpy as np
    import torch
    from PIL import Image

    from .graph import execute
    from .png import is_png, read_text_chunks

    workflow = load(png)
    if not is_png(png):
        raise WorkflowError(
            f"{png} is not a PNG: verify needs a picture that was saved with its workflow"
        )
    then = _facts(read_text_chunks(png))
    with Image.open(png) as file:
        pixels = np.asarray(file)
    check(workflow)
    threads = torch.get_num_threads()
    try:
        if isinstance(then.get("threads"), int) and 1 <= then["threads"] <= 1024:
            torch.set_num_threads(then["threads"])
        with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch:
            here = Path(scratch)
            context = replace(
                context, output=here / "output", temp=here / "temp", prompt=workflow.prompt
            )
            shown = execute(workflow, nodes, context)
            made = dict(_pictures(shown, here))
            now = facts(context)
    finally:
        torch.set_num_threads(threads)
    if not made:
        raise WorkflowError(f"{png}: its workflow saves no picture")
    place = str(then.get("node")), then.get("image")
    # a picture that ComfyUI saved does not say which of the run's pictures it is
    mine = [made[key] for key in made if key == place] or list(made.values())
    same = any(np.array_equal(one, pixels) for one in mine)
    differences = dict(_changes(then, now))
    if "pixels" in then and then["pixels"] != pixel_digest(pixels):
        differences["the file's own pixels"] = "as saved", "edited since"
    if not same:
        alike = [one for one in mine if one.shape == pixels.shape]
        if alike:
            far = min(int(np.abs(one.astype(int) - pixels).max()) for one in alike)
            differences["pixels"] = "", f"differ by up to {far} of 255"
        else:
            differences["size"] = pixels.shape, mine[0].shape
    return Verdict(same, differences)


def _facts(texts: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = parse_json(texts.get(CHUNK, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _pictures(shown: Mapping[str, Any], folder: Path) -> Iterator[tuple[tuple[str, int], Any]]:
    """((node, number), pixels) of every PNG that a run saved."""
    import numpy as np
    from PIL import Image

    for node, ui in shown.items():
        for i, entry in enumerate(ui.get("images") or ()):
            path = folder / entry["type"] / entry["subfolder"] / entry["filename"]
            if path.suffix == ".png":
                with Image.open(path) as file:
                    yield (node, i), np.asarray(file)


def _changes(
    then: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Facts that were written down and are not as they were."""
    for name, value in now.items():
        before = then.get(name)
        if name == "versions" and isinstance(before, dict):
            for part, version in value.items():
                if before.get(part) != version:
                    yield part, (before.get(part), version)
        elif name == "plans" and isinstance(before, list):
            for i, (a, b) in enumerate(zip(before, value, strict=False)):
                for part in a if isinstance(a, dict) else ():
                    if a[part] != b.get(part):
                        yield f"plan {i + 1}, {part}", (a[part], b.get(part))
        elif name in then and before != value:
            yield name, (before, value)
