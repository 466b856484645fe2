"""The target ``folder`` of ``benchmarks.fuzz``: model folders whose texts were changed.

An input is the name of one text of the folder that ships, a line break, and what stands there in its place. The weights
stay: a stranger's config asks for what it likes, and what it asks for must fit them.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from sampling_kit.benchmarks.mutate import Change, json_change

PACK = Path(__file__).resolve().parents[1]
SHIPPED = PACK / "embedded" / "diffusers" / "tiny-cogvideox"
#: Values that no small random change finds.
HARD = [
    10**9,
    20000,
    -1,
    0,
    65536,
    2**63,
    1e300,
    "org/name",
    [8] * 2000,
    [[1] * 50] * 50,
    {"a": 1},
    None,
    True,
    "x",
    [],
    "",
]


def texts() -> list[bytes]:
    """Every text of the folder, under its name."""
    files = sorted(SHIPPED.rglob("*.json"))
    return [f.relative_to(SHIPPED).as_posix().encode() + b"\n" + f.read_bytes() for f in files]


def change() -> Change:
    """Changes the text, or sets one field of it to a hard value."""
    inner = json_change(
        ("attn_implementation", "auto_map", "quantization_config", "_class_name", "architectures")
    )

    def changed(data: bytes, chance: Random) -> bytes:
        import json

        name, _, text = data.partition(b"\n")
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and value and chance.random() < 0.6:
            value[chance.choice(sorted(value))] = chance.choice(HARD)
            return name + b"\n" + json.dumps(value).encode()
        return name + b"\n" + inner(text, chance)

    return changed


@cache
def copy_in(folder: Path) -> Path:
    """A copy of the folder to write to."""
    return Path(shutil.copytree(SHIPPED, folder / "folder", dirs_exist_ok=True))


def run(data: bytes, folder: Path, promised: Any) -> None:
    """Open the part that the text belongs to; what it promises is a ValueError that names a file."""
    from sampling_kit.schedulers.denoiser import diffusers as kit

    name, _, text = data.partition(b"\n")
    names = [line.partition(b"\n")[0] for line in texts()]
    name = name if name in names else names[0]
    place = copy_in(folder)
    file = place / name.decode()
    kept = file.read_bytes()
    file.write_bytes(text)
    part = name.split(b"/")[0]
    try:
        with promised(ValueError):
            opened = kit.read_folder(place)
            if part in (b"tokenizer", b"text_encoder"):
                kit.load_text(opened).encode("a cat")
            elif part == b"vae":
                kit.load_vae(opened)
            else:
                kit.load(opened)
                kit.load_text(opened)
    except AssertionError:
        raise
    finally:
        file.write_bytes(kept)
