"""Texts that would cost minutes or gigabytes as objects are counted first: a second and 512 MB, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sampling_kit.headless.workflow import JSON_LIMIT, MOST_NODES, WorkflowError, load
from sampling_kit.schedulers.store import LARGEST_TABLES, LARGEST_TEXT
from sampling_kit.schedulers.strict_json import MOST_VALUES, count_values, parse_json

resource = pytest.importorskip("resource", reason="peak memory of a process")
PACK = Path(__file__).resolve().parents[1]
SECONDS, MEGABYTES = 1.0, 512

#: For each file and call: a process that has imported everything prints what the reader says of the file, the seconds
#: that took and the megabytes that it grew by.
MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
import safetensors.torch
from sampling_kit.headless.graph import check
from sampling_kit.headless.registry import registry
from sampling_kit.headless.workflow import load
from sampling_kit.schedulers.denoiser.diffusers import folder
from sampling_kit.schedulers.fit import fit_files, forward, trajectories

nodes = registry()
for node in nodes.values():
    node.define_schema()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
for file, call in json.loads(sys.argv[1]):
    if not os.fork():
        before, start = peak(), time.process_time()
        names = dict(globals(), file=Path(file), said="")
        try:
            exec(call, names)
        except ValueError as error:
            names["said"] = str(error)
        print(json.dumps([names["said"], time.process_time() - start, peak() - before]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, call
"""


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, float]]:
    """{case: (what was said, seconds, MB)}."""
    folder, calls = tmp_path_factory.mktemp("costly"), []
    for number, (make, call, _) in enumerate(COSTLY.values()):
        make(folder / str(number))
        calls.append((str(folder / str(number)), call))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(calls)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(PACK.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    shutil.rmtree(folder)
    assert ended.returncode == 0, ended.stderr
    return dict(zip(COSTLY, map(json.loads, ended.stdout.splitlines()), strict=True))


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
    written(file, struct.pack("<Q", LARGEST_TEXT + 1))
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


CHECK = "errors = check(load(file), nodes); said = errors and str(errors[0])[:200]"
COSTLY: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "many values": (many_values, CHECK, "more than"),
    "empty lists": (empty_lists, CHECK, "more than"),
    "a cycle": (cycle, CHECK, "more than"),
    "a long number": (long_number, CHECK, "not a JSON number"),
    "many numbers": (many_numbers, CHECK, "must be an object"),
    "one text": (one_text, CHECK, "does not run here"),
    "chunks": (png_of_chunks, CHECK, "chunks"),
    "metadata keys": (metadata_keys, "fit_files.load(file)", "MB of text"),
    "a sparse fit": (sparse_fit, "fit_files.load(file)", "larger than 64 MB"),
    "a long header": (long_header, "forward.load(file)", "larger than"),
    "a recording": (recording, "trajectories._description(file)", "more than 1 MB"),
    "shards": (shards, "folder.read_json(file.parent, file, folder.INDEX_LIMIT)", "more than"),
}  # fmt: skip


@pytest.mark.some(1)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process a case")
@pytest.mark.parametrize("name", COSTLY)
def test_a_second_and_512_megabytes(name, costs):
    said, seconds, more = costs[name]
    print(f"{name}: {seconds:.2f} s, {more:.0f} MB: {said[:80]}")
    assert COSTLY[name][2] in said and more < MEGABYTES and seconds < SECONDS


def test_counts_are_of_marks_outside_and_inside_of_texts():
    count_values("," * MOST_VALUES)
    for text in ("," * (MOST_VALUES + 1), "[{" * MOST_VALUES):
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
