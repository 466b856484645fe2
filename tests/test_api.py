"""The five functions of sampling_kit.api, and that the command line is their caller."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from test_headless_cli import REGISTRY, graph_of

from sampling_kit import api
from sampling_kit.headless import cli, registry
from sampling_kit.headless.calls.preparation import setting_texts
from sampling_kit.headless.calls.run_variants import _grid_texts
from sampling_kit.headless.sweep import axes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the nodes of test_headless_cli."""
    monkeypatch.setattr(registry, "registry", lambda: REGISTRY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_takes_a_graph_and_returns_a_result_a_seed(here):
    steps, results = [], []
    made = api.run(
        graph_of(), seeds=[4, 9], settings={"1.steps": 3}, device="cpu", progress=steps.append, done=results.append
    )  # fmt: skip
    assert list(made) == results and [one.seed for one in made] == [4, 9]
    assert all(file.is_file() and file.is_absolute() for one in made for file in one.files)
    assert {s.title for s in steps} == {"My paint v1.5"} and {s.total for s in steps} == {3}
    assert api.Workflow is type(api.run.__globals__["opened"](made[0].files[0]))


def test_the_command_prints_what_run_returns(here, capsys):
    Path("w.json").write_text(json.dumps(graph_of()))
    (made,) = api.run("w.json", device="cpu", output="a")
    cli.main(["run", "w.json", "--device", "cpu", "--output", "b"], standalone_mode=False)
    assert Path(capsys.readouterr().out.strip()).read_bytes() == made.files[0].read_bytes()


def test_verify_returns_an_error_for_each_picture_that_is_none(here):
    (made,) = api.run(graph_of(), device="cpu")
    Path("none.png").write_bytes(b"no picture")
    good, bad = api.verify([made.files[0], "none.png"], device="cpu")
    assert good.reproduces and good.verdict is not None and good.verdict.same
    assert not bad.reproduces and isinstance(bad.error, api.WorkflowError)


def test_queue_returns_what_each_job_made(here):
    fake_comfy = pytest.importorskip("fake_comfy")

    async def play():
        fake = fake_comfy.Fake()
        await fake.start()
        server = f"http://127.0.0.1:{fake.port}"
        try:
            return await asyncio.to_thread(
                api.queue, fake_comfy.graph(0), servers=[server], seeds=[1, 2]
            )
        finally:
            await fake.crash()

    done = asyncio.run(asyncio.wait_for(play(), 60))
    assert [one.label for one in done] == ["seed1", "seed2"]
    assert all((Path("output") / name).is_file() for one in done for name in one.files)


def test_mistakes_raise_and_nothing_exits(here):
    with pytest.raises(api.ArgumentError, match="not both"):
        api.run(graph_of(), seed=1, seeds=[2])
    with pytest.raises(api.ArgumentError, match="not available here"):
        api.run(graph_of(), device="cuda:99")
    with pytest.raises(api.WorkflowError, match="no node is called"):
        api.run(graph_of(), settings={"9.steps": 3})
    with pytest.raises(api.WorkflowError, match="Nothing"):
        api.run({"1": {"class_type": "Nothing", "inputs": {}}}, device="cpu")
    with pytest.raises(api.ArgumentError, match="embedded moon: choose one of"):
        api.fit(embedded="moon", output="x")


def test_values_arrive_as_they_are():
    assert setting_texts({"a.b": 3, "a.c": "7", "a.d": "x", "a.e": True}) == ["a.b=3", 'a.c="7"', "a.d=x", "a.e=true"]  # fmt: skip
    values = [1, "two, three", 'say "x"']
    assert axes(_grid_texts({"a.b": values})) == [("a.b", ["1", "two, three", 'say "x"'])]


CALLS = {
    "run": api.run, "queue": api.queue, "sweep": api.sweep, "verify": api.verify, "fit": api.fit,
}  # fmt: skip
#: How the command calls what the function calls otherwise, and what only one of them has.
NAMES = {
    "output_dir": "output", "input_dir": "input", "models_dir": "models", "watch": "wait", "address": "ray", "style": None, "debug": None,
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_command_has_the_function_s_arguments_and_defaults(name):
    command, parameters = cli.main.commands[name], inspect.signature(CALLS[name]).parameters
    context = command.make_context(name, ["x", "--output", "x"] if name == "fit" else ["x"])
    for option in command.params:
        argument = NAMES.get(option.name, option.name)
        if argument is None or option.name in ("json_lines", "workflow", "pictures"):
            continue
        assert argument in parameters, f"--{option.name}"
        theirs = parameters[argument].default
        if theirs is not inspect.Parameter.empty:
            ours = context.params[option.name]
            same = (list(ours), list(theirs)) if isinstance(theirs, tuple | range) else (str(ours), str(theirs))  # fmt: skip
            assert same[0] == same[1], f"--{option.name}"


def test_results_are_frozen_values():
    kinds = [getattr(api, name) for name in api.__all__ if name.endswith("Result")]
    assert len(kinds) == 4
    assert all(is_dataclass(kind) and kind.__dataclass_params__.frozen and fields(kind) for kind in kinds)  # fmt: skip


def test_the_functions_wait_with_what_is_heavy():
    code = "import sys, sampling_kit.api; print(sorted({'torch', 'numpy', 'aiohttp', 'ray', 'click', 'tqdm'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert out.stdout.strip() == "[]", out.stderr
