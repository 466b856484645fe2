"""Which diffusers folders a node may open: those below ``models/diffusers``, and what ships with the pack.

A choice is the folder's path below it, with "/" between the parts. Links are followed; what lies
outside in truth is refused, here for the folder and by ``read_folder`` for every file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ...schedulers.denoiser.diffusers import Folder, Weights, check, read_file, read_folder
from ...schedulers.denoiser.diffusers.folder import NETWORKS, reach_of
from .. import host
from ..host import io
from ..ui.file_names import is_there, leads_out
from ..ui.inputs import listed

KIND = "diffusers"
SHIPPED = Path(__file__).resolve().parents[2] / "embedded" / "diffusers"
MOST_FILES = 4096  # in one
DEPTH = 3  # as deep as models--owner--name/snapshots/revision


def names() -> list[str]:
    """The folders there are, for a combo."""
    roots = [*host.places.model_folders(KIND), SHIPPED]
    found = (p.relative_to(root).as_posix() for root in roots for p in _below(root, DEPTH))
    return sorted(set(found))  # fmt: skip


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inside = sorted(p for p in folder.iterdir() if p.name[0] != "." and os.path.isdir(p))
    except OSError:  # not there, or not ours to read
        return
    for path in inside if depth else ():
        if _holds_model(path):
            yield path
        else:
            yield from _below(path, depth - 1)


_file = os.path.isfile  # False where looking is forbidden; Path.is_file raises


def _holds_model(path: Path) -> bool:
    scheduler = ("scheduler_config.json", "scheduler/scheduler_config.json")
    bare = _file(path / "config.json") and any(_file(path / name) for name in scheduler)
    parts = any(_file(path / name / "config.json") for name in NETWORKS)
    return bare or parts or _file(path / "model_index.json")


def resolve(name: str, input: str = "folder") -> tuple[Path, Path]:
    """(folder, the root that all its files must lie in) of a choice.

    Without ComfyUI ``name`` may be an absolute path that a person typed (``typed_path``), which is then its own
    root. ValueError naming ``input`` if there is none, if it lies outside or if it holds no model.
    """
    roots = host.places.model_folders(KIND)
    places = " or ".join(map(str, roots)) or "models/diffusers"
    said = f"{input} = {str(name)[:200]!r}"
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{said}: choose a diffusers folder; they belong in {places}")
    path, outside = Path(name), leads_out(name)
    if path.is_absolute() and host.places.typed_path(name):
        return _with_model(path, said), reach_of(path.resolve())
    for root in () if outside else (*roots, SHIPPED):
        path = root / name
        if is_there(path) and path.is_dir():
            if path.resolve().is_relative_to(root.resolve()):
                return _with_model(path, said), root.resolve()
            outside = True
    if outside:
        raise ValueError(
            f"{said} leads outside of {places}: move or copy the folder there, or type its path, "
            f"--set NODE.{input}=PATH; paths in a workflow are not taken"
        )
    here = ", ".join(names()) or "none"
    raise ValueError(f"{said}: there is no such folder in {places}; copy it there. Found: {here}")


def _with_model(path: Path, said: str) -> Path:
    """``path``, if it is a folder that holds a model: others are not walked through."""
    if os.path.isdir(path) and _holds_model(path):
        return path
    raise ValueError(f"{said} is no folder of a model: give the one that holds model_index.json")


def open_folder(
    name: str, variant: str = "", network: str | None = None, input: str = "folder"
) -> Folder:
    """The configs of a choice, read and checked. ValueError naming ``input`` and what is wrong."""
    path, root = resolve(name, input)
    try:
        return read_folder(path, root, variant.strip() or None, network)
    except ValueError as error:
        raise ValueError(f"{input} = {name!r}: {error}") from None


def look_into(name: str, variant: str = "", network: str | None = None) -> None:
    """Raises ValueError where a run would for what the configs say; reads no weights."""
    folder = open_folder(name, variant, network)
    try:
        check(folder)
    except ValueError as error:
        raise ValueError(f"folder = {name!r}: {error}") from None


def stamp(name: str) -> list[Any]:
    """Changes when a file of the folder does: for ``fingerprint_inputs``, and to know what is loaded."""
    path, _ = resolve(name)
    files = sorted(islice((file for file in path.rglob("*") if file.is_file()), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise ValueError(
            f"folder = {name!r} has more than {MOST_FILES} files: it is no diffusers folder"
        )
    return [str(path.resolve()), *((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files)]


def folder_input(id: str = "folder") -> Any:
    """The widget. Nodes with it give their choice to :func:`resolve` in ``validate_inputs``."""
    return io.Combo.Input(
        id, options=listed(names),
        tooltip="A folder below models/diffusers, as save_pretrained writes it: model_index.json, scheduler, unet or "
        "transformer, vae, text encoders. safetensors only; nothing is downloaded.",
    )  # fmt: skip


# ---------------------------------------------------------------------------------- single files

FILES = "diffusion_models"
OWN = "the folder's own"


def file_names() -> list[str]:
    """The safetensors below models/diffusion_models, for a combo."""
    found = (
        file.relative_to(root).as_posix()
        for root in host.places.model_folders(FILES)
        for file in sorted(root.rglob("*.safetensors"))
    )
    return sorted(set(found))


def open_file(name: str, input: str = "weights") -> Weights | None:
    """The checked weights of a choice; None for the folder's own. ValueError naming ``input``."""
    if not name or name == OWN:
        return None
    roots = host.places.model_folders(FILES)
    places = " or ".join(map(str, roots)) or f"models/{FILES}"
    said = f"{input} = {str(name)[:200]!r}"
    if leads_out(name):
        if not (Path(name).is_absolute() and host.places.typed_path(name)):
            raise ValueError(
                f"{said} leads outside of {places}: copy the file there, or type its path, --set NODE.{input}=PATH"
            )
        roots = [Path(name).parent]
    try:
        for root in roots:
            if is_there(root / name):
                return read_file(root / name, root)
    except (OSError, ValueError) as error:
        raise ValueError(f"{said}: {error}") from None
    raise ValueError(f"{said}: there is no such file in {places}; copy it there")
