"""Names in workflows lead only to the folders that a person configured; typed paths are another matter."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from sampling_kit.headless.cli import main
from sampling_kit.headless.context import Context, use
from sampling_kit.headless.core import CORE_NODES
from sampling_kit.nodes import NODES
from sampling_kit.nodes.denoiser import folders
from sampling_kit.nodes.fit.fitted_solver import SHIPPED, fit_file
from sampling_kit.nodes.ui.file_names import LONGEST, split_prefix

BY_ID = {node.define_schema().node_id: node for node in (*NODES, *CORE_NODES)}
FIT = "network-cond-forward.safetensors"
OUT = [
    "/", "/etc", "/etc/passwd", "/proc/self", "..", "../..", "a/../../b", "C:\\x", "C:x", "\\\\host\\share",
    str(SHIPPED / FIT),
]  # fmt: skip
ODD = [".", "", " ", "\0", "x" * 300, "a/" * 3000, "a" * 10**6, "\ud800", "é" * 200]


@pytest.fixture(autouse=True)
def running(tmp_path):
    for name in ("models/diffusers", "models/solvers", "output", "input"):
        (tmp_path / name).mkdir(parents=True)
    places = [tmp_path / name for name in ("output", "input", "temp")]
    context = Context(*places, "cpu", None, {}, None, models=tmp_path / "models")
    with use(context):
        yield context


#: Every input that names a file or folder: node, input.
NAMES = [
    ("SamplingKitLoadFittedSolver", "file"),
    ("SamplingKitSaveFittedSolver", "name"),
    ("SamplingKitLoadDiffusersDenoiser", "folder"),
    ("SamplingKitLoadDiffusersDenoiser", "weights"),
    ("SamplingKitDiffusersVAE", "folder"),
    ("SamplingKitDiffusersTextEncode", "folder"),
    ("SamplingKitRecordTrajectories", "folder"),
    ("SamplingKitLoadState", "file"),
    ("SamplingKitSaveState", "filename_prefix"),
    ("SamplingKitGrid", "name"),
    ("SamplingKitGridCell", "file"),
    ("LoadImage", "image"),
    ("SaveImage", "filename_prefix"),
    ("SaveAnimatedWEBP", "filename_prefix"),
]


@pytest.mark.some(40)
@pytest.mark.parametrize("name", [*OUT, *ODD], ids=lambda name: repr(name[:20]))
@pytest.mark.parametrize(("node", "input"), NAMES)
def test_a_name_that_leads_out_or_nowhere_is_refused_soon_and_does_not_raise(node, input, name):
    if node == "SamplingKitLoadDiffusersDenoiser":
        values = {"folder": None, "weights": None, input: name}
        if (input, name) == ("weights", ""):
            return  # the folder's own
    else:
        values = {input: name}
    start = time.process_time()
    verdict = BY_ID[node].validate_inputs(**values)
    assert time.process_time() - start < 1
    new = "Save" in node or "Record" in node or node == "SamplingKitGrid"
    if new and name in ("é" * 200, " "):  # a name like others
        return
    assert isinstance(verdict, str) and verdict


def test_the_list_of_names_is_whole():
    """Every input that is called like a file stands above, but for those that choose something else."""
    words = ("file", "folder", "filename_prefix", "image", "weights", "name")
    text = ("STRING", "COMBO")
    present = {
        (id, item.id)
        for id, node in BY_ID.items()
        for item in node.define_schema().inputs
        if item.io_type in text and item.id in words
    }
    no_names = {
        ("SamplingKitClassCondition", "name"), ("SamplingKitPostcards", "name"), ("SamplingKitCompose", "weights"),
        ("SamplingKitAdamsBashforth", "weights"), ("SamplingKitDPMSolverMultistep", "weights"),
    }  # fmt: skip
    assert present - set(NAMES) == no_names


def test_a_typed_path_is_taken_and_the_same_text_in_a_workflow_is_not(running, tmp_path):
    import shutil
    from dataclasses import replace

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folders.SHIPPED / "tiny-cogvideox", elsewhere)
    fit = str(SHIPPED / FIT)
    with pytest.raises(ValueError, match=r"--set NODE\.folder=PATH"):
        folders.resolve(str(elsewhere))
    with pytest.raises(ValueError, match=r"--set NODE\.file=PATH"):
        fit_file(fit)
    with use(replace(running, typed=frozenset([str(elsewhere), fit, "/", "/etc/passwd"]))):
        assert folders.resolve(str(elsewhere)) == (elsewhere, elsewhere.resolve())
        assert fit_file(fit) == SHIPPED / FIT
        with pytest.raises(ValueError, match="no folder of a model"):
            folders.resolve("/")
        with pytest.raises(ValueError, match="leads outside"):
            fit_file("/etc/passwd")


def test_from_the_command_line(tmp_path):
    fit = str(SHIPPED / FIT)
    graph = {
        "1": {"class_type": "SamplingKitLoadFittedSolver", "inputs": {"file": fit, "nfe": 6}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }
    file = tmp_path / "w.json"
    file.write_text(json.dumps(graph))
    call = lambda *a: CliRunner().invoke(main, [*map(str, a), "--output", str(tmp_path / "o")])  # noqa: E731
    refused = call("run", file)
    assert refused.exit_code == 2 and "--set NODE.file=PATH" in refused.stderr
    assert call("run", file, "--set", f"1.file={fit}").exit_code == 0
    graph["1"]["inputs"]["file"] = FIT
    file.write_text(json.dumps(graph))
    assert call("run", file).exit_code == 0


def test_a_long_prefix_is_refused_before_anything_is_sampled(tmp_path):
    inside = tmp_path / "output"
    for name in ("a" * (LONGEST + 1), f"b/{'é' * 101}/c", "a/" * 600 + "b"):
        with pytest.raises(ValueError, match="shorten it"):
            split_prefix(name, inside)
    longest = "a" * LONGEST
    assert split_prefix(longest, inside) == ("", longest)
    (inside / f"{longest}_00001_.png").write_bytes(b"")  # the system takes it


def test_a_folder_with_very_many_files_is_no_model(tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "models" / "diffusers" / "many"
    shutil.copytree(folders.SHIPPED / "tiny-cogvideox", copy)
    assert folders.stamp("many")
    monkeypatch.setattr(folders, "MOST_FILES", 3)
    with pytest.raises(ValueError, match="more than 3 files"):
        folders.stamp("many")


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path, monkeypatch):
    import os

    (tmp_path / "models" / "diffusers" / "closed").mkdir()
    listed = Path.iterdir

    def iterdir(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "closed" not in folders.names() and os.path.isdir(tmp_path / "models/diffusers/closed")
