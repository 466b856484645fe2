"""One process of a sweep: it runs graphs and hands their files over."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...nodes import host
from ...schedulers.show.open_picture import open_picture
from ...schedulers.whole_file import passing
from ..context import Context
from ..graph import execute
from ..provenance import pixel_digest
from ..registry import registry
from ..workflow import Prompt, Workflow

Record = dict[str, Any]
Files = dict[str, bytes]


class Worker:
    """Runs graphs in its own process and keeps what does not change between them."""

    def __init__(
        self,
        device: str,
        threads: int,
        input: str,
        models: str,
        typed: frozenset[str] = frozenset(),
    ) -> None:
        torch.set_num_threads(threads)
        self.device = str(host.places.set_device(device))
        self.input, self.models = Path(input), Path(models)
        self.typed, self.nodes = typed, registry()
        self.kept: dict[str, Any] = {}

    def run(self, name: str, prompt: Prompt) -> tuple[Record, Files]:
        """(what happened, the files it made by name); NodeFailure where a node raises."""
        with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch, passing():
            output, temp = Path(scratch) / "output", Path(scratch) / "temp"
            here = Context(
                output,
                self.input,
                temp,
                self.device,
                None,
                prompt,
                None,
                models=self.models,
                typed=self.typed,
            )
            started = time.perf_counter()
            shown = execute(Workflow(Path(name), prompt), self.nodes, here, self.kept)
            seconds = time.perf_counter() - started
            folder = output if output.exists() else temp
            files = {
                file.relative_to(folder).as_posix(): file.read_bytes()
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
        texts = [text for ui in shown.values() for text in ui.get("text", ())]
        record = dict(
            nfe=here.tally["evaluations"],
            network_calls=here.tally["network_calls"],
            seconds=round(seconds, 4),
            texts=list(dict.fromkeys(texts)),
            files={name: digest(name, data) for name, data in files.items()},
        )
        return record, files


def digest(name: str, data: bytes) -> str:
    """SHA-256 of a PNG's pixels (its text says when and where it was made), of another file's bytes."""
    if name.lower().endswith(".png"):
        with open_picture(data) as image:
            return pixel_digest(np.asarray(image))
    return hashlib.sha256(data).hexdigest()
