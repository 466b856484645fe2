"""Texts that would cost minutes or gigabytes as objects are counted first: a second and 512 MB, in a process of its own."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sampling_kit.headless.workflow import JSON_LIMIT, MOST_NODES, WorkflowError, load
from sampling_kit.schedulers.files import (
    LARGEST_HEADER,
    LARGEST_TABLES,
    MOST_VALUES,
    count_values,
    parse_json,
)

resource = pytest.importorskip("resource", reason="peak memory of a process")
PACK = Path(__file__).resolve().parents[1]
SECONDS, MEGABYTES = 1.0, 512

#: Prints what the reader says of a file, the seconds that took and the megabytes that the process grew by.
MEASURE = """
import json, resource, sys, time
from pathlib import Path
{imports}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
before, start, said = peak(), time.process_time(), ""
file = Path(sys.argv[1])
try:
    {call}
except ValueError as error:
    said = str(error)
print(json.dumps([said, time.process_time() - start, peak() - before]))
"""


def cost(imports: str, call: str, file: Path) -> tuple[str, float, float]:
    """(what was said, seconds, MB)."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE.format(imports=imports, call=call), str(file)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(PACK.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said, seconds, more = json.loads(ended.stdout.splitlines()[-1])
    return said, seconds, more


def written(file: Path, *parts: bytes) -> None:
    with file.open("wb") as out:
        for part in parts:
            out.write(part)


def many_values(file: Path) -> None:
    written(file, b'{"1":{"class_type":"N","inputs":{"a":[', b"0," * (15 * 2**20), b"0]}}}")


def empty_lists(file: Path) -> None:
    written(file, b"[", b"[],[]," * (5 * 2**20), b"0]")


def cycle(file: Path) -> None:
    count = 300_000
    node = '"%d":{"class_type":"PreviewAny","inputs":{"source":["%d",0]}}'
    nodes = ",".join(node % (i, (i + 1) % count) for i in range(count))
    written(file, b"{", nodes.encode(), b"}")


def long_number(file: Path) -> None:
    written(file, b'{"1":{"class_type":"N","inputs":{"a":', b"9" * (31 * 2**20), b"}}}")


def many_numbers(file: Path) -> None:
    """Just under 200 digits each, so that every digit might begin a number that is too large."""
    written(file, b'{"a":"', (b"9" * 199 + b" ") * (31 * 2**20 // 200), b'"}')


def one_text(file: Path) -> None:
    """A text of 31 MB with a letter that takes four bytes, where a number belongs."""
    start = b'{"1":{"class_type":"EmptyLatentImage","inputs":{"width":"'
    written(file, start, "\U0001f600".encode(), b"x" * (31 * 2**20), b'"}}}')


def png_of_chunks(file: Path) -> None:
    chunk = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    written(file, b"\x89PNG\r\n\x1a\n", header, chunk * 3_000_000)


def tensors(header: bytes, size: int = 0) -> tuple[bytes, bytes]:
    return struct.pack("<Q", len(header)), header


def metadata_keys(file: Path) -> None:
    keys = b",".join(b'"%d":""' % i for i in range(5_000_000))
    written(file, *tensors(b'{"__metadata__":{' + keys + b"}}"))


def sparse_fit(file: Path) -> None:
    """4 GB of nothing under the name of a fit."""
    entry = {"dtype": "F64", "shape": [2**29 - 64], "data_offsets": [0, 2**32 - 512]}
    facts = json.dumps({"version": 1, "fits": []})
    header = json.dumps({"__metadata__": {"sampling_kit_fit": facts}, "a": entry}).encode()
    written(file, *tensors(header.ljust(504)))
    os.truncate(file, 2**32)


def long_header(file: Path) -> None:
    written(file, struct.pack("<Q", LARGEST_HEADER + 1))
    os.truncate(file, 2**32)


def recording(file: Path) -> None:
    file.touch()
    os.truncate(file, 2**32)


def shards(file: Path) -> None:
    written(
        file,
        b'{"weight_map":{',
        b",".join(b'"%d":"a.safetensors"' % i for i in range(600_000)),
        b"}}",
    )


WORKFLOW = "from sampling_kit.headless.workflow import load; from sampling_kit.headless.graph import check; from sampling_kit.headless.registry import registry; nodes = registry()"
CHECK = "errors = check(load(file), nodes); said = errors and str(errors[0])[:200]"
FIT = "from sampling_kit.schedulers.fit import store, trajectories; import safetensors.torch"
FOLDER = "from sampling_kit.schedulers.denoiser.diffusers import folder"
COSTLY: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "many values": (many_values, WORKFLOW, CHECK, "more than"),
    "empty lists": (empty_lists, WORKFLOW, CHECK, "more than"),
    "a cycle": (cycle, WORKFLOW, CHECK, "more than"),
    "a long number": (long_number, WORKFLOW, CHECK, "not a JSON number"),
    "many numbers": (many_numbers, WORKFLOW, CHECK, "must be an object"),
    "one text": (one_text, WORKFLOW, CHECK, "Node class not found"),
    "chunks": (png_of_chunks, WORKFLOW, CHECK, "chunks"),
    "metadata keys": (metadata_keys, FIT, "store.load(file)", "MB of text"),
    "a sparse fit": (sparse_fit, FIT, "store.load(file)", "larger than 64 MB"),
    "a long header": (long_header, FIT, "store.load_state(file)", "larger than"),
    "a recording": (recording, FIT, "trajectories._description(file)", "more than 4 MB"),
    "shards": (shards, FOLDER, "folder.read_json(file.parent, file, folder.INDEX_LIMIT)", "more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_a_second_and_512_megabytes(name, tmp_path):
    make, imports, call, words = COSTLY[name]
    file = tmp_path / "file"
    make(file)
    said, seconds, more = cost(imports, call, file)
    print(f"{name}: {seconds:.2f} s, {more:.0f} MB: {said[:80]}")
    assert words in said and more < MEGABYTES and seconds < SECONDS


def test_counts_are_of_marks_outside_and_inside_of_texts():
    count_values("," * MOST_VALUES)
    count_values(b"[" * MOST_VALUES)
    for text in ("," * (MOST_VALUES + 1), "[{" * MOST_VALUES, b"," * (MOST_VALUES + 1)):
        with pytest.raises(ValueError, match="more than"):
            count_values(text)
    with pytest.raises(ValueError, match="more than"):
        parse_json("[" + "1," * (MOST_VALUES + 1) + "1]")


def test_the_most_nodes(tmp_path):
    file = tmp_path / "w.json"
    for count in (MOST_NODES, MOST_NODES + 1):
        file.write_text(
            json.dumps({str(i): {"class_type": "a", "inputs": {}} for i in range(count)})
        )
        if count > MOST_NODES:
            with pytest.raises(WorkflowError, match="5001 nodes"):
                load(file)
        else:
            assert len(load(file).prompt) == count
    assert JSON_LIMIT == 2**25 and LARGEST_TABLES == 2**26
