"""A diffusers folder, read without running anything in it: configs and *.safetensors only.

    model_index.json                                  optional: the pipeline and its components
    scheduler/scheduler_config.json                   the noise schedule (``training.py``)
    unet | transformer / config.json + weights        the network (``families/``)
    vae, text_encoder*, tokenizer*                    optional (``vae.py``, ``text.py``)

A network's own folder works too, with the scheduler's config in it or beside it. Every file must lie,
symbolic links resolved, inside the folder or inside ``root``; pickles are never opened; nothing is
downloaded. Every refusal is one ValueError naming the file, the value and the way out.
"""

from __future__ import annotations

import math
import re
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...strict_json import parse_json

Config = Mapping[str, Any]

CONFIG_LIMIT = 1 << 20
INDEX_LIMIT = 16 << 20
HEADER_LIMIT = 16 << 20
NETWORKS = ("unet", "transformer", "transformer_2")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

#: safetensors' names of dtypes, and bytes per element.
DTYPES: dict[str, tuple[torch.dtype | None, int]] = {
    "F64": (torch.float64, 8),
    "F32": (torch.float32, 4),
    "F16": (torch.float16, 2),
    "BF16": (torch.bfloat16, 2),
    "F8_E4M3": (torch.float8_e4m3fn, 1),
    "F8_E5M2": (torch.float8_e5m2, 1),
    "I64": (torch.int64, 8),
    "I32": (torch.int32, 4),
    "I16": (torch.int16, 2),
    "I8": (torch.int8, 1),
    "U8": (torch.uint8, 1),
    "BOOL": (torch.bool, 1),
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file, as its header describes it."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Weights:
    """The checked safetensors files of one component; ``single``: a file of its own, see :func:`read_file`."""

    files: tuple[Path, ...]
    tensors: Mapping[str, Stored] = field(repr=False)
    variant: str | None = None
    single: bool = False

    @property
    def bytes(self) -> int:
        return sum(t.bytes for t in self.tensors.values())

    @property
    def parameters(self) -> int:
        return sum(math.prod(t.shape) for t in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype most of the elements are stored in."""
        counts: Counter[torch.dtype] = Counter()
        for t in self.tensors.values():
            if t.dtype.is_floating_point:
                counts[t.dtype] += math.prod(t.shape)
        return counts.most_common(1)[0][0] if counts else torch.float32


@dataclass(frozen=True)
class Component:
    """One sub-folder: its class's name and config."""

    path: Path
    kind: str
    config: Config = field(repr=False)


@dataclass(frozen=True)
class Folder:
    """A diffusers folder whose configs have been read; weights are read by name, on request."""

    path: Path
    root: Path
    pipeline: str
    network: Component
    scheduler: Component
    index: Config = field(repr=False)
    variant: str | None = None

    @cached_property
    def network_weights(self) -> Weights:
        return self.weights(self.network)

    def weights(self, part: Component, stem: str = "diffusion_pytorch_model") -> Weights:
        """The checked weights of a component. The network must have ``variant``, others may."""
        return read_weights(self.root, part.path, stem, self.variant, part == self.network)

    def has(self, name: str) -> bool:
        return (self.path / name).is_dir() and self.index.get(name) != [None, None]

    def part(self, name: str) -> Component:
        """The component in sub-folder ``name``. Raises ValueError if there is none."""
        if not self.has(name):
            raise ValueError(
                f"{self.path} has no folder {name!r}: use a complete diffusers folder, or a model from elsewhere"
            )
        return _component(self.root, self.path / name, self.index.get(name))

    def files(self, name: str) -> Path:
        """Sub-folder ``name`` for a library that reads it itself: every file in it checked."""
        folder = self.path / name
        if not folder.is_dir():
            raise ValueError(f"{self.path} has no folder {name!r}: use a complete diffusers folder")
        for file in sorted(folder.rglob("*")):
            inside(self.root, file)
            if file.name == "adapter_config.json":  # transformers would look for its base model
                raise ValueError(f"{file} is an adapter's: use a folder with the weights merged")
        return folder


def read_folder(
    path: str | Path,
    root: str | Path | None = None,
    variant: str | None = None,
    network: str | None = None,
) -> Folder:
    """Read the configs of a diffusers folder and check them. Loads no weights.

    ``root``: where files may lie (default: the folder itself). ``variant``: which weights, if there are
    several (``fp16``, …). ``network``: which sub-folder, if there are several networks.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder: give the folder that holds model_index.json")
    base = path.resolve()
    limit = Path(root).resolve() if root is not None else reach_of(base)
    if not base.is_relative_to(limit):
        raise ValueError(f"{path} leads to {base}, outside {limit}: move or copy it there")
    index = read_json(limit, base / "model_index.json") if _there(base, "model_index.json") else {}
    networks = [n for n in NETWORKS if (base / n).is_dir() and index.get(n) != [None, None]]
    if network is not None:
        networks = [n for n in (network,) if (base / n).is_dir()]
    if not networks and _there(base, "config.json"):
        part = _component(limit, base, None)
        beside = base.parent if root is None else limit
        scheduler, reach = _scheduler_of_bare(base, limit, beside)
        whole = base if scheduler.path.is_relative_to(base) else base.parent
        if whole != base and _there(whole, "model_index.json"):  # a part of a complete folder
            index = read_json(reach, whole / "model_index.json")
        kind = str(index.get("_class_name", ""))
        return Folder(whole, reach, kind, part, scheduler, index, variant)
    if len(networks) != 1:
        what = "no network" if not networks else f"{len(networks)} networks ({', '.join(networks)})"
        way = (
            "name one of them" if networks else "it needs unet/ or transformer/ with a config.json"
        )
        raise ValueError(f"{path} holds {what}: {way}")
    part = _component(limit, base / networks[0], index.get(networks[0]))
    scheduler = _component(
        limit, base / "scheduler", index.get("scheduler"), "scheduler_config.json"
    )
    return Folder(base, limit, str(index.get("_class_name", "")), part, scheduler, index, variant)


def reach_of(folder: Path) -> Path:
    """Where the files of a folder by itself may lie: in it; those of a hub's snapshot in its repository.

    models--owner--name/snapshots/revision holds links into models--owner--name/blobs.
    """
    repository = folder.parent.parent
    snapshot = folder.parent.name == "snapshots" and (repository / "blobs").is_dir()
    return repository if snapshot else folder


def _scheduler_of_bare(base: Path, limit: Path, beside: Path) -> tuple[Component, Path]:
    """The scheduler of a network's own folder, and the folder that all files must lie in."""
    name = "scheduler_config.json"
    for folder, reach in (
        (base, limit),
        (base / "scheduler", limit),
        (base.parent / "scheduler", beside),
    ):
        if _there(folder, name):
            return _component(reach, folder, None, name), reach
    raise ValueError(
        f"{base} has no {name}, neither in it nor in scheduler/ in it or beside it: copy the one the model was "
        "trained with there"
    )


def _there(folder: Path, name: str) -> bool:
    return (folder / name).is_symlink() or (folder / name).exists()


def _component(root: Path, folder: Path, entry: Any, name: str = "config.json") -> Component:
    """A component from its config; ``entry`` is its [library, class] in model_index.json."""
    file = folder / name
    if not _there(folder, name):
        raise ValueError(f"{file} is missing: without it the model cannot be told; copy it there")
    config = read_json(root, file)
    classes = config.get("architectures")
    kind = config.get("_class_name") or (classes[:1] if isinstance(classes, list) else None)
    kind = kind[0] if isinstance(kind, list) and kind else kind
    named = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if named and kind and named != kind:
        raise ValueError(f"{file} is a {kind}, but model_index.json says {named}: correct one")
    kind = kind or named
    if not isinstance(kind, str) or not re.fullmatch(r"\w+", kind):
        raise ValueError(
            f"{file} names no class (_class_name = {kind!r:.60}): add it to the config"
        )
    if config.get("quantization_config"):
        raise ValueError(f"{file}: quantised weights are not supported; use the original weights")
    return Component(folder, kind, config)


def inside(root: Path, file: Path) -> Path:
    """``file`` resolved, a regular file or folder inside ``root``. Raises ValueError otherwise."""
    real = file.resolve()
    if not real.is_relative_to(root):
        raise ValueError(
            f"{file} leads to {real}, outside {root}: put a copy of the file there, or give a hub's folder as "
            "models--owner--name/snapshots/revision, blobs beside it"
        )
    if not real.exists():
        raise ValueError(f"{file} is missing: the folder is incomplete, copy it again")
    mode = real.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{file} is not a regular file")
    return real


#: "at": (file, field, value) of the config that was looked at last, to name it where the value turns out wrong.
last_read: dict[str, tuple[Path, str, Any]] = {}


class Fields(dict[str, Any]):
    """A config from ``file`` that remembers in :data:`last_read` what was asked for last."""

    file: Path

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        last_read["at"] = self.file, name, value
        return value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401


def read_json(root: Path, file: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """A JSON object from a file of at most ``limit`` bytes."""
    real = inside(root, file)
    size = real.stat().st_size
    if size > limit:
        raise ValueError(
            f"{file} has {size} bytes, a config at most {limit}: it is no diffusers config"
        )
    fields = Fields(_object(file, real.read_bytes()))
    fields.file = file
    return fields


def _object(file: Path, text: bytes) -> dict[str, Any]:
    try:
        value = parse_json(text.decode("utf-8"), float)  # Infinity is what diffusers writes
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}): copy the file again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds a {type(value).__name__}, not an object")
    return value


# --------------------------------------------------------------------------------------- weights


def read_weights(
    root: Path, folder: Path, stem: str, variant: str | None, strict: bool = True
) -> Weights:
    """Find and check the safetensors of one component: a single file, or an index with its shards.

    Without ``variant``, or where it is missing and not ``strict``, the plain file is taken, or the only
    variant there is.
    """
    there = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        single = re.fullmatch(rf"{stem}(?:\.(\w+))?\.safetensors", file.name)
        shards = re.fullmatch(rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json", file.name)
        older = re.fullmatch(rf"{stem}\.safetensors\.(\w+)\.index\.json", file.name)
        match = single or shards or older
        if match:
            there[match[1] or ""] = file
    variant = variant if strict or variant in there else None
    picked = variant or ("" if "" in there or len(there) != 1 else next(iter(there)))
    if picked not in there:
        raise ValueError(_no_weights(folder, stem, variant, sorted(there)))
    file = there[picked]
    if file.suffix == ".safetensors":
        return Weights((inside(root, file),), read_header(root, file), picked or None)
    weight_map = read_json(root, file, INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{file} has no weight_map: copy the file again")
    shards_of: dict[str, set[str]] = {}
    for key, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise ValueError(
                f"{file}: {key!r} is said to lie in {name!r}; shards are *.safetensors in the same folder"
            )
        shards_of.setdefault(name, set()).add(key)
    tensors: dict[str, Stored] = {}
    for name, keys in shards_of.items():
        header = read_header(root, folder / name)
        lost = sorted(keys - header.keys())
        if lost:
            raise ValueError(f"{folder / name} lacks {lost[0]!r} that {file.name} says it holds")
        tensors |= header
    files = tuple(inside(root, folder / name) for name in sorted(shards_of))
    return Weights(files, tensors, picked or None)


def read_file(file: str | Path, root: str | Path | None = None) -> Weights:
    """One safetensors file as trainers and other programs write it, to go with the configs of a folder.

    The names of its weights may be diffusers' or another program's that diffusers can convert.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is no .safetensors file: convert it first")
    limit = Path(root).resolve() if root is not None else file.parent.resolve()
    return Weights((inside(limit, file),), read_header(limit, file), single=True)


def _no_weights(folder: Path, stem: str, variant: str | None, variants: list[str]) -> str:
    if variants:
        asked = f"variant {variant!r}" if variant else "weights without a variant"
        return f"{folder} has no {asked}: choose one of {', '.join(v or 'none' for v in variants)}"
    pickles = (
        [f.name for f in sorted(folder.iterdir()) if f.suffix in PICKLES] if folder.is_dir() else []
    )
    if pickles:
        return (
            f"{folder / pickles[0]} is a pickle, which can run code and is never opened: convert it, where you "
            "trust it, with save_pretrained(..., safe_serialization=True)"
        )
    return f"{folder} has no {stem}.safetensors: the folder is incomplete, copy it again"


def read_header(root: Path, file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, from its header: no data is read.

    Layout: 8 bytes little-endian header length N, N bytes JSON {name: dtype, shape, data_offsets}, data.
    """
    real = inside(root, file)
    size = real.stat().st_size
    with real.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > HEADER_LIMIT:
            raise ValueError(
                f"{file} announces a header of {length} bytes, more than {HEADER_LIMIT}: it is not a safetensors file"
            )
        if length < 2 or 8 + length > size:
            raise ValueError(f"{file} has {size} bytes and is cut off: copy it again")
        header = _object(file, stream.read(length))
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for key, entry in header.items():
        try:
            dtype, width = DTYPES[entry["dtype"]]
            shape = tuple(int(n) for n in entry["shape"])
            begin, stop = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(
                f"{file}: cannot read the header's entry {key!r:.80}: {entry!r:.80}"
            ) from None
        if dtype is None or min((*shape, 0)) < 0 or stop - begin != math.prod(shape) * width:
            raise ValueError(
                f"{file}: the header's entry {key!r:.80} contradicts itself: {entry!r:.80}"
            )
        tensors[key] = Stored(dtype, shape)
        end = max(end, stop)
    if 8 + length + end != size:
        raise ValueError(
            f"{file} has {size} bytes, its header describes {8 + length + end}: it is cut off or damaged, copy it again"
        )
    return tensors
