"""One format for files of tensors; what earlier versions wrote stays readable (tests/stored is theirs)."""

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sampling_kit.embedded import trained
from sampling_kit.schedulers import split, store
from sampling_kit.schedulers.denoiser import network
from sampling_kit.schedulers.fit import fit_files, forward, gradient, predictor, trajectories
from sampling_kit.schedulers.fit.trajectories import Trajectories, record
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import DDIM
from sampling_kit.schedulers.solver.fitted import Table
from sampling_kit.schedulers.store import LARGEST, LARGEST_TEXT, BadFile, Format

STORED = Path(__file__).parent / "stored"
FORMAT = Format("h", "thing", advice="make {file} anew")
FORMATS = (
    split.FORMAT, network.FORMAT, fit_files.FORMAT, forward.FORMAT, predictor.FORMAT, gradient.FORMAT,
    trajectories.ROWS,
)  # fmt: skip


# --------------------------------------------------------------------------- files of earlier versions


def test_a_state_of_before():
    stopped, latent = split.load(STORED / "state.safetensors")
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert (stopped.solver, stopped.path) == ("DPMSolverMultistep()", repr(VE()))
    assert (stopped.sigmas, stopped.level, stopped.seed) == ((3.0, 1.0, 0.0), 1, 5)
    assert (stopped.state.stage, stopped.state.draws) == (2, 1)
    tensors = (*stopped.state.anchors, *stopped.state.history, stopped.state.y)
    expected = (x, x + 1, x + 2, x + 3)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))
    assert torch.equal(stopped.extra["mask"], x + 4) and torch.equal(latent["samples"], x)


def test_a_fit_of_before():
    fit = fit_files.load(STORED / "fit.safetensors").at(2)
    assert fit.card["after"] == {"rmse": 0.125, "median": 0.0625} and fit.card["model"] == "abc"
    assert fit.table.levels == (np.inf, 0.5) and fit.table.d == ((0.5,), (0.75, 0.125))
    mix, none = fit.table.mix
    assert none is None and mix.knots == (0.0, 0.5) and mix.d.shape == (1, 2, 1, 1)


def test_an_unfinished_fit_of_before():
    state = forward.load(STORED / "unfinished_fit.safetensors")
    assert (state.damping, state.evaluations) == (0.5, 40)
    assert state.errors.tolist() == [0.5, np.inf] and state.first.tolist() == [1.0, np.inf]
    assert state.table.mix[0] is not None and state.start.mix[0] is None
    assert [(r.kind, r.rmse, r.taken) for r in state.records] == [
        ("numbers", np.inf, False),
        ("bands", 0.25, True),
    ]


def test_a_gradient_fit_of_before():
    rows = dict(x=(1.0, 0.25, 0.125), d=((0.5,), (0.75, 0.125)), steps=(0, 1))
    table = Table(start=2.0, levels=(2.0, 0.5), end=0.0, **rows)
    settings = gradient.Gradient(iterations=20)
    state = gradient.load(STORED / "gradient_fit.safetensors", table, settings)
    assert state.iteration == 10 and state.records[1].rmse == np.inf
    assert state.numbers["weights.1"].tolist() == [0.0, 0.0, 0.125]
    assert state.table.levels[1] == pytest.approx(0.5 * np.exp(0.125))


def test_a_predictor_of_before():
    kept, facts = predictor.load(STORED / "predictor.safetensors")
    assert facts["text"] == "kept" and all(bool((w == 0.25).all()) for w in kept.parameters())


def test_a_network_of_before():
    """The networks that ship were written by the first version."""
    file = trained.file("network")
    assert network.card(file) and network.load(file, VE(), network.Network)


def test_trajectories_of_before(tmp_path):
    """They are read, and a longer recording goes on with their rows."""
    kept = Trajectories.open(STORED / "trajectories")
    assert kept.count == 3 and kept.origin.kappas == (80.0, 1.0, 0.0)
    for file in (STORED / "trajectories").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    calls: list[int] = []

    def field(x: torch.Tensor, sigma: float, rows: torch.Tensor) -> torch.Tensor:
        calls.extend(rows.tolist())
        return x / (1 + sigma * sigma)

    longer = record(tmp_path, kept.origin, DDIM(), field, 4, batch=2)
    assert set(calls) == {2, 3}  # the last file had one row of two
    assert torch.equal(longer.x(1, torch.arange(2)), kept.x(1, torch.arange(2)))
    torch.testing.assert_close(longer.x(1)[2], kept.x(1)[2])


# ------------------------------------------------------------------------------------------ the format


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "a"
    x = torch.arange(6.0).reshape(2, 3)
    FORMAT.write(file, {"x": x.T, "same": x, "none": torch.zeros(0)}, {"a": [1, None]})
    with FORMAT.opened(file) as stored:
        assert stored.facts == {"version": 1, "a": [1, None]}
        tensors = stored.tensors()
        assert torch.equal(tensors["x"], x.T) and torch.equal(tensors["same"], x)
        assert torch.equal(stored.part("x", 1), x.T[1]) and tensors["none"].shape == (0,)
    assert file.stat().st_mode & 0o777 == _mode(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "other"]


def _mode(folder: Path) -> int:
    (folder / "other").touch()
    return (folder / "other").stat().st_mode & 0o777


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_are_finite(tmp_path, value):
    file, x = tmp_path / "a", torch.tensor([1.0, value])
    with pytest.raises(ValueError, match=r"thing holds NaN or infinity \(x\)"):
        FORMAT.write(file, {"x": x}, {})
    assert not list(tmp_path.iterdir())
    save_file({"x": x}, file, {"h": '{"version": 1}'})
    with pytest.raises(BadFile, match="a: not a usable thing: x holds NaN or infinity"):
        read(file)
    wide = Format("h", "thing", infinity=True)
    if value == torch.inf:
        wide.write(file, {"x": x}, {})
        assert torch.equal(read(file, wide)["x"], x)
    else:
        with pytest.raises(BadFile, match="x holds NaN"):
            read(file, wide)


def read(file: Path, kind: Format = FORMAT) -> dict[str, torch.Tensor]:
    with kind.opened(file) as stored:
        return stored.tensors()


@pytest.mark.some(11)
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.what)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing, cut short or damaged"),
        (b"", "missing, cut short or damaged"),
        (b"PK\x03\x04" * 9, "missing, cut short or damaged"),
        ({}, "it holds none"),
        ({"header": "[1]"}, "no JSON object"),
        ({"header": "{}"}, "'version' is missing"),
        ({"header": '{"version": "x"}'}, "invalid literal"),
        ({"header": '{"version": 1e999}'}, "not a JSON number"),
        ({"header": '{"version": 2}'}, "format version 2, but this Sampling Kit reads up to 1"),
    ],
)
def test_every_kind_has_one_kind_of_error(tmp_path, kind, content, reason):
    file = tmp_path / "a.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(
            {"x": torch.zeros(2)},
            file,
            dict.fromkeys([kind.header] * len(content), content.get("header", "")),
        )
    with pytest.raises(BadFile) as caught:
        read(file, kind)
    said = str(caught.value)
    assert said.startswith(f"a.safetensors: not a usable {kind.what}: ") and reason in said
    assert kind.advice.format(file=file) in said


def test_a_cut_file_is_refused(tmp_path):
    file = tmp_path / "a"
    FORMAT.write(file, {"x": torch.zeros(9)}, {})
    data = file.read_bytes()
    for count in range(0, len(data), 7):
        file.write_bytes(data[:count])
        with pytest.raises(BadFile, match="a: not a usable thing: missing, cut short or damaged"):
            read(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(BadFile, match=r"make .*a anew"):
        read(file)


def test_what_is_wrong_inside_the_block_is_wrong_with_the_file(tmp_path):
    FORMAT.write(tmp_path / "a", {}, {})
    for error, reason in (
        (KeyError("b"), "'b' is missing"),
        (RuntimeError("two\n lines"), "two lines"),
    ):
        with pytest.raises(BadFile, match=f"a: not a usable thing: {reason}; make"):
            raise_inside(tmp_path / "a", error)


def raise_inside(file: Path, error: Exception) -> None:
    with FORMAT.opened(file):
        raise error


def header(file: Path, text: bytes, data: bytes = b"") -> Path:
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def test_sizes_are_bounded(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, file, {"h": '"' + "x" * LARGEST_TEXT + '"'})
    with pytest.raises(BadFile, match="more than 16 MB of text"):
        read(file)
    save_file({"a": torch.zeros(2)}, file, {"h": '{"version": 1}'})
    with file.open("ab") as out:
        out.truncate(LARGEST + 1)
    with pytest.raises(BadFile, match="larger than 4 GB"):
        read(file)
    entry = {"dtype": "F32", "shape": [10**9, 0], "data_offsets": [0, 0]}
    text = json.dumps({"__metadata__": {"h": '{"version": 1}'}, "a": entry})
    with pytest.raises(BadFile, match=r"a is of type F32, shape \[1000000000, 0\]"):
        read(header(file, text.encode()))


@pytest.mark.parametrize("quote", ['"%d":"",', '"%d\\\\":"\\\\",'])
def test_counts_are_bounded_before_safetensors_sees_the_file(tmp_path, monkeypatch, quote):
    """Half a million entries in the metadata took seconds and gigabytes."""
    many = "".join(quote % i for i in range(500_000))
    file = header(tmp_path / "a", ('{"__metadata__":{' + many[:-1] + "}}").encode())
    began = time.process_time()
    with pytest.raises(BadFile, match="describes more than 50000 tensors"):
        read(file)
    assert time.process_time() - began < 1


def test_many_tensors_are_no_too_many(tmp_path):
    file = tmp_path / "a"
    FORMAT.write(file, {f"{i}": torch.zeros(1) for i in range(2000)}, {"text": '"\\' * 10_000})
    assert len(read(file)) == 2000
    store.check_size(file)
