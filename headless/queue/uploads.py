"""Pictures of this machine that a graph names: each goes to the server once, under a name made of its bytes.

Taken are files below the input folder, and what a person typed by --set; a stranger's workflow reaches nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..workflow import Workflow, WorkflowError
from . import limits
from .faults import JobFails

FOLDER = "sampling_kit"  # below the server's input folder
LOADERS = {"LoadImage", "LoadImageMask"}  # classes whose "image" is a file of the input folder
KIND = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True)
class Upload:
    """A file here and its name there. ``place``: "input", or "temp" for what the server is to forget when it ends."""

    path: Path
    digest: str
    place: str = "input"

    @property
    def filename(self) -> str:
        kind = self.path.suffix.lower()
        return self.digest[:32] + (kind if KIND.fullmatch(kind) else ".png")

    @property
    def name(self) -> str:
        """As a workflow says it."""
        mark = "" if self.place == "input" else f" [{self.place}]"
        return f"{FOLDER}/{self.filename}{mark}"

    def content(self) -> bytes:
        """The bytes. Raises JobFails where they are not those that the name was made of."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise JobFails(f"{self.path} cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise JobFails(f"{self.path} was changed while the jobs ran: run the command again")
        return data


def with_uploads(
    workflow: Workflow, folder: Path, place: str = "input"
) -> tuple[Workflow, tuple[Upload, ...]]:
    """The workflow with the names that local pictures have on a server, and those pictures.

    A name that is no file below ``folder`` stays: the server may have it. Raises WorkflowError for a file that
    cannot be read or is larger than UPLOAD_BYTES.
    """
    prompt, uploads = dict(workflow.prompt), dict[Path, Upload]()
    for key, node in workflow.prompt.items():
        if node["class_type"] not in LOADERS:
            continue
        path = local_file(node["inputs"].get("image"), folder, workflow.typed)
        if path is not None:
            if path not in uploads:
                uploads[path] = Upload(path, _digest(path), place)
            prompt[key] = {**node, "inputs": {**node["inputs"], "image": uploads[path].name}}
    changed = workflow if not uploads else replace(workflow, prompt=prompt, ui=None)
    return changed, tuple(uploads.values())


def local_file(name: Any, folder: Path, typed: Collection[str]) -> Path | None:
    """The file here that a workflow's value names, or None."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return None
    try:
        if name in typed and Path(name).is_file():
            return Path(name).resolve()
        path = (folder / name.removesuffix("[input]").rstrip()).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name that no file can have, links in a circle
        return None


def _digest(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > limits.UPLOAD_BYTES:
            most = limits.UPLOAD_BYTES >> 20
            raise WorkflowError(f"{path} has {size >> 20} MB; pictures of up to {most} MB are sent")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WorkflowError(f"{path} cannot be read: {error.strerror or error}") from None
