"""Sweeps: the work list, a folder that survives every kill, and Ray workers that die."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sampling_kit.benchmarks.reliability import two_nodes
from sampling_kit.headless.registry import registry
from sampling_kit.headless.sweep import Crew, Folder, Item, Worker, axes, digest, sweep, work_list
from sampling_kit.headless.sweep import crew as module
from sampling_kit.headless.sweep.table import table
from sampling_kit.headless.workflow import NodeFailure, Workflow, WorkflowError


def workflow() -> Workflow:
    """Six pictures' worth of work in some milliseconds: one Gaussian, 24×24 pixels, three steps."""
    ve = {"kind": "ve_edm", "kind.sigma_min": 0.02, "kind.sigma_max": 80.0}
    steps = {"steps": 3, "spacing": "karras", "spacing.rho": 7.0, "denoise": 1.0, "final": "zero"}
    model = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 4, "kind.rank": 2}
    wires = {"noise": ["7", 0], "guider": ["6", 0], "sampler": ["8", 0], "sigmas": ["2", 0]}
    nodes = {
        "1": ("SamplingKitNoiseSchedule", ve),
        "2": ("SamplingKitSteps", steps | {"noise_schedule": ["1", 0]}),
        "3": ("SamplingKitEmbeddedDenoiser", model | {"noise_schedule": ["1", 0]}),
        "4": ("SamplingKitClassCondition", {"name": "sunset sea"}),
        "5": ("SamplingKitEmptyPixelLatent", {"width": 24, "height": 24, "batch_size": 1}),
        "6": ("SamplingKitGuider", {"model": ["3", 0], "positive": ["4", 0]}),
        "7": ("SamplingKitPerImageNoise", {"seed": 0}),
        "8": ("SamplingKitEuler", {"noise": 1.0}),
        "9": ("SamplerCustomAdvanced", wires | {"latent_image": ["5", 0]}),
        "10": ("SamplingKitLatentToImage", {"latent": ["9", 0]}),
        "11": ("SaveImage", {"images": ["10", 0], "filename_prefix": "sweep/a"}),
    }
    prompt = {k: {"class_type": c, "inputs": i} for k, (c, i) in nodes.items()}
    return Workflow(Path("test.json"), prompt)


GRID, SEEDS = ["2.steps=2,3"], range(3)


def items() -> list[Item]:
    return work_list(workflow(), registry(), GRID, SEEDS)


def picture(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (2, 2), value).save(out, "PNG")
    return out.getvalue()


class Inline(Crew):
    """The same contract without Ray; ``stop_after`` items it is killed."""

    stop_after = 10**9

    def work(self, items, finished):
        for i, item in enumerate(items):
            if i >= self.stop_after:
                raise KeyboardInterrupt
            data = {"a.png": picture(item.index)}
            finished(
                item,
                dict(
                    nfe=1,
                    network_calls=1,
                    seconds=0.1,
                    texts=[],
                    files={n: digest(n, d) for n, d in data.items()},
                ),
                data,
            )
        return {}


# ------------------------------------------------------------------------------------- work list


def test_every_combination_once_seeds_innermost():
    found = items()
    assert [i.values for i in found] == [
        {"2.steps": n, "seed": s} for n in ("2", "3") for s in SEEDS
    ]
    assert [i.prompt["7"]["inputs"]["seed"] for i in found] == [0, 1, 2, 0, 1, 2]
    assert [i.prompt["2"]["inputs"]["steps"] for i in found] == [2, 2, 2, 3, 3, 3]
    assert len({json.dumps(i.prompt) for i in found}) == 6


def test_quoted_values_may_hold_commas():
    assert axes(['4.name="a, b",c']) == [("4.name", ["a, b", "c"])]


@pytest.mark.parametrize("grid", ["steps=1", "2.steps", "2.steps=", "9.nothing=1", "77.x=1"])
def test_a_grid_that_names_nothing(grid):
    with pytest.raises(WorkflowError, match=r"--grid|--set"):
        work_list(workflow(), registry(), [grid], None)


def test_a_sweep_too_large_to_be_meant():
    grid = ["2.steps=" + ",".join(map(str, range(1, 101)))] * 3
    with pytest.raises(WorkflowError, match="limit"):
        work_list(workflow(), registry(), grid, range(2))


# ---------------------------------------------------------------------------------------- folder


def run(folder: Path, crew: Crew) -> tuple[int, int]:
    return sweep(workflow(), items(), GRID, SEEDS, folder, crew)


def test_a_prompt_stays_in_its_cell_of_the_table():
    prompt = "[cat|dog]\non a chair"
    took = {"nfe": 3, "network_calls": 3, "seconds": 1.5}
    record = {"index": 0, "6.text": prompt, **took, "files": {}}
    *_, row = table([record]).splitlines()
    assert row == r"| 0 | [cat\|dog] on a chair | 3 | 3 | 1.5 |  |"


def test_a_stopped_sweep_goes_on(tmp_path):
    crew = Inline()
    crew.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, crew)
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 2
    half = tmp_path / "items" / ".000003.part"  # what a kill between two writes leaves
    half.mkdir()
    (half / "a.png").write_bytes(b"half")
    crew.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, crew)
    assert run(tmp_path, Inline()) == (3, 3)
    assert run(tmp_path, Inline()) == (6, 0)
    records = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [r["index"] for r in records] == list(range(6))
    assert sorted(os.listdir(tmp_path / "items")) == [f"{i:06}" for i in range(6)]
    assert len((tmp_path / "table.md").read_text().splitlines()) == 8
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300 and sheet.height > 300


def test_another_sweep_is_refused(tmp_path):
    run(tmp_path, Inline())
    with pytest.raises(WorkflowError, match="another seeds"):
        sweep(workflow(), items(), GRID, range(4), tmp_path, Inline())


def test_a_second_sweep_is_refused_before_it_touches_anything(tmp_path):
    """What the first one is writing stays, and so does its description."""
    with Folder.opened(tmp_path, {"seeds": 1}):
        half = tmp_path / "items" / ".000000.part"
        half.mkdir()
        (half / "a.png").write_bytes(b"half")
        before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
        for spec in ({"seeds": 1}, {"seeds": 2}):
            refused = pytest.raises(WorkflowError, match="another sweep is working")
            with refused, Folder.opened(tmp_path, spec):
                pass
        assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    with Folder.opened(tmp_path, {"seeds": 1}):
        assert not half.exists()


def test_an_item_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    real = Path.write_bytes

    def full(self, data):
        if self.name == "b.png":
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    files = {"a.png": picture(1), "sub/b.png": picture(2)}
    record = dict(nfe=1, network_calls=1, seconds=1, texts=[], files=dict.fromkeys(files, ""))
    with Folder.opened(tmp_path, {}) as folder:
        with pytest.raises(OSError, match="space"):
            folder.add(items()[0], record, files)
        assert folder.done(items()) == set() and os.listdir(folder.items) == []
        monkeypatch.undo()
        folder.add(items()[0], record, files)
    with Folder.opened(tmp_path, {}) as folder:
        assert folder.done(items()) == {"000000"}
    assert (tmp_path / "items" / "000000" / "sub" / "b.png").read_bytes() == picture(2)


def test_an_item_that_comes_twice_is_not_written_over(tmp_path):
    record = dict(nfe=1, network_calls=1, seconds=1, texts=[], files={"a.png": ""})
    with Folder.opened(tmp_path, {}) as folder:
        folder.add(items()[0], record, {"a.png": picture(1)})
        with pytest.raises(OSError, match=r"not empty|exists"):
            folder.add(items()[0], record, {"a.png": picture(2)})
    assert (tmp_path / "items" / "000000" / "a.png").read_bytes() == picture(1)


# ---------------------------------------------------------------------------------------- damage


def emptied(item: Path) -> None:
    (item / "a.png").write_bytes(b"")


def bit_flipped(item: Path) -> None:
    data = bytearray((item / "a.png").read_bytes())
    data[-20] ^= 1
    (item / "a.png").write_bytes(data)


def without_its_picture(item: Path) -> None:
    (item / "a.png").unlink()


def empty_folder(item: Path) -> None:
    shutil.rmtree(item)
    item.mkdir()


def a_file_instead(item: Path) -> None:
    shutil.rmtree(item)
    item.write_text("x")


def record_of(text: str) -> Callable[[Path], object]:
    return lambda item: (item / "record.json").write_text(text)


def record_of_another_item(item: Path) -> None:
    shutil.copy(item.with_name("000003") / "record.json", item / "record.json")


DAMAGE = {
    "emptied": emptied, "bit": bit_flipped, "no picture": without_its_picture, "empty folder": empty_folder,
    "file": a_file_instead, "no JSON": record_of("{"), "empty record": record_of(""), "list": record_of("[]"),
    "not of its kind": record_of('{"index": 2, "files": {}}'), "deep": record_of("[" * 5000),
    "not UTF-8": lambda item: (item / "record.json").write_bytes(b"\xff\xfe"), "another": record_of_another_item,
}  # fmt: skip


@pytest.mark.some(4)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_item_is_named_put_aside_and_done_again(tmp_path, damage):
    run(tmp_path, Inline())
    before = (tmp_path / "items" / "000002" / "a.png").read_bytes()
    DAMAGE[damage](tmp_path / "items" / "000002")
    told: list[str] = []
    assert sweep(workflow(), items(), GRID, SEEDS, tmp_path, Inline(), note=told.append) == (5, 1)
    (line,) = told
    assert line.startswith("item 000002 is damaged") and "aside/000002-1" in line
    assert (tmp_path / "aside" / "000002-1").exists()
    assert (tmp_path / "items" / "000002" / "a.png").read_bytes() == before
    assert run(tmp_path, Inline()) == (6, 0)


def test_strays_are_named_and_passed_over(tmp_path):
    run(tmp_path, Inline())
    (tmp_path / "items" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "items" / "999999").mkdir()
    (tmp_path / "items" / ".DS_Store").write_bytes(b"x")
    told: list[str] = []
    assert sweep(workflow(), items(), GRID, SEEDS, tmp_path, Inline(), note=told.append) == (6, 0)
    assert len(told) == 2 and all("passed over" in line for line in told)
    assert "999999" in told[0] and "Thumbs.db" in told[1]
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 5000, "\0" * 100])
def test_a_damaged_description_is_written_anew_and_items_say_their_graph(tmp_path, text):
    run(tmp_path, Inline())
    spec = (tmp_path / "sweep.json").read_text()
    (tmp_path / "sweep.json").write_text(text)
    told: list[str] = []
    assert sweep(workflow(), items(), GRID, SEEDS, tmp_path, Inline(), note=told.append) == (6, 0)
    assert len(told) == 1 and "sweep.json is damaged" in told[0]
    assert (tmp_path / "sweep.json").read_text() == spec
    (tmp_path / "sweep.json").write_text(text)
    other = work_list(workflow(), registry(), ["2.steps=4,5"], SEEDS)
    assert sweep(workflow(), other, ["2.steps=4,5"], SEEDS, tmp_path, Inline()) == (0, 6)
    assert len(list((tmp_path / "aside").iterdir())) == 6, "results of another sweep are no results"


@pytest.mark.parametrize("place", ["", "items", ".lock"])
def test_a_place_that_takes_no_results(tmp_path, place):
    out = tmp_path / "out"
    if place == ".lock":
        (out / place).mkdir(parents=True)
    else:
        out.mkdir(exist_ok=True) if place else None
        (out / place if place else out).write_text("x")
    with pytest.raises(WorkflowError, match=r"takes no results.*choose another --output"):
        run(out, Inline())


def test_a_folder_of_an_older_version_counts(tmp_path):
    """Its records have digests of pixels only, and those are compared."""
    run(tmp_path, Inline())
    for name in ("000001", "000002"):
        file = tmp_path / "items" / name / "record.json"
        record = json.loads(file.read_text())
        del record["stored"], record["graph"]
        file.write_text(json.dumps(record))
    emptied(tmp_path / "items" / "000002")
    assert run(tmp_path, Inline()) == (5, 1)


# --------------------------------------------------------------------------------------- workers


def worker(tmp_path: Path) -> Worker:
    return Worker("cpu", 1, str(tmp_path), str(tmp_path))


def test_a_worker_counts_and_hashes(tmp_path):
    record, files = worker(tmp_path).run("x", items()[0].prompt)
    assert list(files) == ["sweep/a_00001_.png"]
    assert record["nfe"] == record["network_calls"] == 2
    assert record["files"] == {n: digest(n, d) for n, d in files.items()}


def test_a_worker_keeps_its_model_and_a_file_that_changed_is_read_again(tmp_path):
    crew = worker(tmp_path)
    results = [crew.run("x", i.prompt) for i in items()[:2]]
    again = worker(tmp_path).run("x", items()[1].prompt)
    assert results[1][0]["files"] == again[0]["files"], "what is kept changes nothing"
    assert results[0][0]["files"] != again[0]["files"]
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    hashes = set()
    for value in (10, 200):
        (tmp_path / "in.png").write_bytes(picture(value))
        os.utime(tmp_path / "in.png", (value, value))
        hashes |= set(crew.run("x", prompt)[0]["files"].values())
    assert len(hashes) == 2


def test_a_pixel_hash_ignores_the_text_of_a_png():
    plain, again = picture(7), io.BytesIO()
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b")
    Image.new("L", (2, 2), 7).save(again, "PNG", pnginfo=text)
    assert plain != again.getvalue()
    assert (
        digest("a.png", plain) == digest("a.png", again.getvalue()) != digest("a.png", picture(8))
    )


# ------------------------------------------------------------------------------------------- Ray


class Fatal(Worker):
    """A worker whose process dies as from a lack of memory: once at item 2, always at item 4."""

    def run(self, name, prompt):
        mark = self.input / "died"
        if name == "000002" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "000004":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "000005":
            raise NodeFailure("node 9 failed: no")
        return super().run(name, prompt)


def test_workers_that_die_are_replaced_and_reported(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs ray (extra 'scale')")
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    )
    monkeypatch.setattr(module, "Worker", Fatal)
    started = time.monotonic()
    with pytest.raises(NodeFailure) as failure:
        run(tmp_path / "out", Crew(2, device="cpu", input=tmp_path, models=tmp_path))
    text = str(failure.value)
    assert "2 items failed" in text
    assert "000004: 3 workers died" in text
    assert "000005: node 9 failed: no" in text
    there = set(os.listdir(tmp_path / "out" / "items"))
    assert there == {"000000", "000001", "000002", "000003"}
    assert (tmp_path / "died").exists()
    monkeypatch.undo()
    alone = worker(tmp_path)
    for name, item in zip(sorted(there), items(), strict=False):
        record = json.loads((tmp_path / "out" / "items" / name / "record.json").read_text())
        assert record["files"] == alone.run(name, item.prompt)[0]["files"], (
            "one worker, the same pixels"
        )
    assert time.monotonic() - started < 300


def test_a_cluster_of_two_nodes(tmp_path):
    """One core each, and a worker needs one: both nodes work, and the pixels are those of one worker."""
    pytest.importorskip("ray", reason="needs ray (extra 'scale')")
    with two_nodes() as address:
        crew = Crew(2, address, "cpu", 1, tmp_path, tmp_path)
        assert run(tmp_path / "out", crew) == (0, 6)
    alone = worker(tmp_path)
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    for record, item in zip(map(json.loads, lines), items(), strict=True):
        assert record["files"] == alone.run("x", item.prompt)[0]["files"]
