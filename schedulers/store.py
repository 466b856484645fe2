"""Files of tensors: one format for sampler states, trajectories, fits, predictors and networks.

A file is safetensors. Its metadata holds one entry, named after the kind of file, with a JSON object: the
format's ``version`` and the facts of that kind. Every kind has one :class:`Format`, which writes its files
(whole, finite, see ``whole_file``) and reads them as files of strangers: sizes and counts are bounded
before safetensors sees the file, and whatever is wrong becomes one :class:`BadFile` that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .strict_json import parse_json
from .whole_file import whole

#: Bytes of a file that is read into memory, and of its header.
LARGEST, LARGEST_TEXT = 2**32, 2**24
LARGEST_TABLES = 2**26  # of a file that holds tables of numbers, no pictures and no networks
#: Tensors in a file, and what each puts into the header: two strings and three keys.
MOST_TENSORS, STRINGS = 50_000, 5
#: Types of tensors: what NumPy and every device know.
KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "U8", "BOOL"}

WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)


class BadFile(ValueError):
    """A file that cannot be used: its name, the reason and the way out."""


@dataclass(frozen=True)
class Format:
    """A kind of file: ``header`` names its entry in the metadata, ``what`` it holds, for people.

    ``advice`` is the way out of a bad file ({file} stands for its path), ``diverged`` why numbers were not
    finite, ``infinity`` whether ∞ is a value (as the level of pure noise is), ``largest`` the most bytes,
    ``loose`` the entries of the metadata that files from before this module have in place of a JSON object.
    """

    header: str
    what: str
    version: int = 1
    advice: str = ""
    diverged: str = "what made it diverged"
    infinity: bool = False
    largest: int = LARGEST
    loose: tuple[str, ...] = ()

    def write(self, file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """A file of these; it appears whole or not at all. Raises ValueError for numbers that are not finite."""
        from safetensors.torch import save_file

        for name, t in tensors.items():
            if wrong := self._not_finite(t):
                raise ValueError(f"the {self.what} holds {wrong} ({name}); {self.diverged}")
        text = json.dumps({"version": self.version, **facts}, allow_nan=False)
        plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        with whole(file) as part:
            part.touch()
            mode = part.stat().st_mode  # save_file makes files that nobody else may read
            save_file(plain, part, {self.header: text})
            part.chmod(mode)

    @contextmanager
    def opened(self, file: Path) -> Iterator[OpenFile]:
        """The file while it is open. What is wrong with it, or found wrong inside the block, becomes a BadFile."""
        from safetensors import SafetensorError, safe_open

        try:
            check_size(file, self.largest)
            with safe_open(file, "pt") as content:
                yield OpenFile(self, content, self._facts(content.metadata() or {}), file)
                return
        except (BadFile, torch.OutOfMemoryError):
            raise
        except (SafetensorError, OSError) as error:
            reason = f"missing, cut short or damaged, or not a safetensors file ({error})"
        except KeyError as error:
            reason = f"{error} is missing"
        except WRONG as error:
            reason = " ".join(str(error).split())
        advice = f"; {self.advice.format(file=file)}" if self.advice else ""
        raise BadFile(f"{file.name}: not a usable {self.what}: {reason}{advice}") from None

    def _facts(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        if self.header not in metadata:
            if self.loose and all(name in metadata for name in self.loose):
                return {name: metadata[name] for name in self.loose}
            raise ValueError("it holds none")
        facts = parse_json(metadata[self.header])
        if not isinstance(facts, dict):
            raise ValueError("its description is no JSON object")
        if int(facts["version"]) > self.version:
            raise ValueError(
                f"format version {facts['version']}, but this Sampling Kit reads up to {self.version}: update it"
            )
        return facts

    def _not_finite(self, t: Tensor) -> str:
        """What a tensor holds that it must not; empty if nothing."""
        if not t.is_floating_point():
            return ""
        if self.infinity:
            return "NaN" if t.isnan().any() else ""
        return "" if t.isfinite().all() else "NaN or infinity"


@dataclass(frozen=True)
class OpenFile:
    """An open file and the facts in its header; tensors are read when they are asked for, and checked."""

    format: Format
    content: Any
    facts: dict[str, Any]
    file: Path

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, in memory of their own."""
        names = list(self.content.keys())
        for name in names:
            self._slice(name)
        return {name: self._checked(name, self.content.get_tensor(name)) for name in names}

    def part(self, name: str, index: Any) -> Tensor:
        """One tensor at an index of its first dimension."""
        return self._checked(name, self._slice(name)[index])

    def _slice(self, name: str) -> Any:
        part = self.content.get_slice(name)
        kind, shape = part.get_dtype(), part.get_shape()
        if kind not in KINDS or max(shape, default=0) > self.file.stat().st_size:
            raise ValueError(
                f"tensor {name} is of type {kind}, shape {shape}"
            )  # an empty one may say 10⁹ × 0
        return part

    def _checked(self, name: str, t: Tensor) -> Tensor:
        if wrong := self.format._not_finite(t):
            raise ValueError(f"{name} holds {wrong}")
        return t.clone()


def check_size(file: Path, largest: int = LARGEST) -> None:
    """Bound what a reader of the file would build. Raises ValueError; OSError for what is no whole file."""
    if not file.is_file():
        raise FileNotFoundError("there is no such file")
    size = file.stat().st_size
    if size > largest:
        limit = f"{largest >> 30} GB" if largest >> 30 else f"{largest >> 20} MB"
        raise ValueError(f"it is larger than {limit}")
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > size - 8:
            raise OSError("its header is longer than the file")
        if length > LARGEST_TEXT:
            raise ValueError(f"its header has more than {LARGEST_TEXT >> 20} MB of text")
        text = opened.read(length)
    strings = text.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"') // 2
    if strings > STRINGS * MOST_TENSORS:
        raise ValueError(f"its header describes more than {MOST_TENSORS} tensors")
