"""The command as people and programs meet it: examples, seeds, JSON on failure, what is not installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import test_headless_cli
from test_headless_cli import REGISTRY, Paint, call, graph_of

import sampling_kit
from sampling_kit.headless import extras, graph
from sampling_kit.headless import shipped as examples
from sampling_kit.headless.cli import options
from sampling_kit.headless.prompt import title
from sampling_kit.headless.registry import registry

work = test_headless_cli.work  # a fixture
ROOT = Path(sampling_kit.__file__).parent


def test_version():
    assert sampling_kit.__version__ in call("--version").stdout


def test_examples_are_listed_with_what_they_show():
    lines = call("examples").stdout.splitlines()
    assert [line.split()[0] for line in lines] == examples.names() and len(lines) >= 30
    assert next(one for one in lines if one.startswith("ddim-eta")).endswith(
        "DDIM, with η as a knob"
    )


def test_an_example_that_loads_a_checkpoint_says_that_it_needs_comfyui():
    """And only those: every other holds nothing but nodes that run here."""
    lines = call("examples").stdout.splitlines()
    for name, line in zip(examples.names(), lines, strict=True):
        prompt = json.loads((examples.FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
        elsewhere = {node["class_type"] for node in prompt.values()} - set(registry())
        assert line.endswith("(needs ComfyUI)") == bool(elsewhere), (name, elsewhere)
    refused = call("run", "sd15-text-to-image")
    assert refused.exit_code == 2 and "CheckpointLoaderSimple" in refused.stderr


def test_an_example_runs_by_its_name(work, monkeypatch):
    """As an argument of any command and by `examples NAME`; a file of that name comes first."""
    monkeypatch.setattr(examples, "FOLDER", work.parent)
    (work.parent / "api").mkdir()
    (work.parent / "api" / "grey.json").write_text(json.dumps(graph_of()))
    assert "fine, 2 nodes" in call("check", "grey").stdout
    listed = call("examples", "grey", "--set", "1.steps=4", "--output", "there", "--json")
    assert listed.exit_code == 0, listed.output
    assert Path(json.loads(listed.stdout)["runs"][0]["files"][0]).parent.name == "there"
    Path("grey").write_text("{}")
    assert call("check", "grey").exit_code == 2
    wrong = call("examples", "gray")
    assert wrong.exit_code == 2 and "no example is called 'gray'" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [5]),
        ("1,2,7-9", [1, 2, 7, 8, 9]),
        ("3,1", [3, 1]),
        ("1,2,2,3", [1, 2, 3]),
        ("0-2", [0, 1, 2]),
    ],
)
def test_seeds(text, seeds):
    assert list(options.parse_seeds(None, None, text)) == seeds


@pytest.mark.parametrize("text", ["", "1,", "a", "1-", "-1", "2-1", "٣", "0-2000000", "0-999999,5"])
def test_what_is_no_seeds(text):
    with pytest.raises(click.BadParameter):
        options.parse_seeds(None, None, text)


def test_seeds_of_a_list_run_in_its_order(work):
    answer = json.loads(call("run", work, "--seeds", "9,2-3", "--json").stdout)
    assert [one["seed"] for one in answer["runs"]] == [9, 2, 3]


def test_fit_wants_seeds_in_a_row(work):
    result = call("fit", work, "--output", "f", "--seeds", "1,5")
    assert result.exit_code == 2 and "leaves seeds out" in result.stderr


FAILURES = {
    "failed": (["run", "w.json", "--set", "1.label=break"], 1, "the paint is dry"),
    "interrupted": (["run", "w.json", "--set", "1.label=stop"], 130, "Interrupted"),
    "invalid": (["check", "w.json", "--input", "x", "--models", "y"], 0, ""),
    "no file": (["check", "none.json"], 2, "no such file"),
    "no file of run": (["run", "none.json"], 2, "no such file"),
    "no file of verify": (["verify", "none.png"], 2, "no such file"),
    "no file of sweep": (["sweep", "none.json"], 2, "no such file"),
    "no file of queue": (["queue", "none.json"], 2, "no such file"),
    "no file of fit": (["fit", "none.json", "--output", "f"], 2, "no such file"),
    "wrong option": (["run", "w.json", "--nope"], 2, "--nope"),
    "two kinds of seeds": (["queue", "w.json", "--seed", "1", "--seeds", "2"], 2, "not both"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("flag", ["--json", "--json=lines"])
def test_json_is_json_whatever_happens(work, name, flag):
    arguments, code, words = FAILURES[name]
    result = call(*arguments, flag)
    assert result.exit_code == code, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    last = lines[-1]
    if flag == "--json":
        assert len(lines) == 1
        error = last.get("error")
    else:
        assert all("event" in line for line in lines)
        error = last if last["event"] == "error" else None
        assert last["event"] == ("error" if code else "end")
    assert (error is None) == (code == 0)
    if error is not None:
        assert error["code"] == code and words in error["message"] and words in result.stderr


def test_runs_before_a_failure_are_in_the_object(work, monkeypatch):
    real = Paint.execute.__func__

    def second_fails(cls, noise_seed, **more):
        if noise_seed == 2:
            raise ValueError("empty tube")
        return real(cls, noise_seed, **more)

    monkeypatch.setattr(Paint, "execute", classmethod(second_fails))
    answer = json.loads(call("run", work, "--seeds", "1-2", "--json").stdout)
    assert [run["seed"] for run in answer["runs"]] == [1]
    assert answer["error"]["kind"] == "failed" and "empty tube" in answer["error"]["message"]


def test_events_come_as_lines(work):
    result = call("run", work, "--seeds", "1-2", "--json=lines")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("run") == 2
    assert dict(event="progress", node="1", step=1, total=2) in events
    assert set(events[-1]) == {"event", "workflow"}, "runs were told as they came"


def test_a_title_or_an_error_without_words_still_has_a_name(work, monkeypatch):
    for error in (RuntimeError(), ValueError(" "), AssertionError(), MemoryError()):
        monkeypatch.setattr(Paint, "execute", classmethod(_raising(error)))
        stderr = call("run", work).stderr
        assert stderr.endswith(f"failed: {type(error).__name__}\n"), stderr
    prompt = graph_of()
    prompt["1"]["_meta"] = {"title": " "}
    assert title(prompt, "1", REGISTRY) == "Paint"
    prompt["1"]["class_type"] = ""
    assert title(prompt, "1", REGISTRY) == "(no class)"


def _raising(error: Exception) -> Any:
    def execute(cls, **_):
        raise error

    return execute


# ------------------------------------------------------------------------------ what is not installed


def test_the_extras_are_those_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = {"PIL": "pillow"}
    for module, extra in extras.EXTRAS.items():
        row = re.search(rf"^{extra} = \[(.*)\]$", text, re.MULTILINE)
        assert row and f'"{names.get(module, module)}>=' in row[1], (module, extra)


def test_check_names_a_missing_extra(work, monkeypatch):
    monkeypatch.setattr(Paint, "LIBRARIES", ("no_such_library",), raising=False)
    result = call("check", work)
    assert result.exit_code == 2
    assert "Needs no_such_library, not installed" in result.stderr


def test_nodes_of_diffusers_folders_say_that_they_need_it(monkeypatch):
    from sampling_kit.headless.registry import registry

    named = {name for name, node in registry().items() if getattr(node, "LIBRARIES", ())}
    assert {"SamplingKitLoadDiffusersDenoiser", "SamplingKitDiffusersTextEncode"} <= named
    monkeypatch.setitem(sys.modules, "diffusers", None)
    loaded = graph.load(examples.example("cogvideox"))
    wrong = [e for e in graph.check(loaded, registry()) if e.kind == "missing_extra"]
    assert wrong and "comfyui-sampling-kit[diffusers]" in wrong[0].hint


def without(modules: list[str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in a Python that lacks ``modules``."""
    code = (
        "import sys\n"
        "class Lacks:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Lacks())\n"
        "from sampling_kit.headless.command import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_a_plain_install_says_which_extra_is_missing(tmp_path):
    (tmp_path / "w.json").write_text("{}")
    for lacking, command, extra in (
        (["click", "torch"], ["run", "w.json"], "[standalone]"),
        (["torch"], ["run", "w.json"], "[standalone]"),
        (["torch", "numpy", "aiohttp"], ["queue", "w.json"], "[queue]"),
    ):
        result = without(lacking, *command, cwd=tmp_path)
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
        assert extra in result.stderr and "not installed" in result.stderr


def test_a_workflow_runs_with_what_standalone_installs(tmp_path):
    """README's first command: what other extras bring is not there."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    row = re.search(r"^standalone = \[(.*)\]$", text, re.MULTILINE)
    assert row
    brings = {name.replace("pillow", "PIL") for name in re.findall(r'"([\w-]+)', row[1])}
    lacking = sorted({*extras.EXTRAS} - brings)
    assert lacking == ["aiohttp", "diffusers", "ray", "transformers"]
    small = ["--set", "Steps.steps=1", "--set", "Embedded Denoiser.kind.scenes=4"]
    example = examples.FOLDER / "api" / "ddim-eta.json"
    result = without(lacking, "run", str(example), *small, "--output", "out", cwd=tmp_path)
    assert result.returncode == 0 and list(tmp_path.rglob("*.png")), result.stderr


def test_the_queue_works_without_torch(tmp_path):
    pytest.importorskip("aiohttp", reason="needs aiohttp (extra 'queue')")
    from fake_comfy import graph as paint
    from test_queue_faults import play

    (tmp_path / "w.json").write_text(json.dumps(paint(0)))
    lacking = ["torch", "numpy", "PIL", "safetensors", "matplotlib", "ray"]

    async def scene(fake):
        import asyncio

        server = f"http://127.0.0.1:{fake.port}"
        options = ["--server", server, "--seeds", "3,5", "--set", "1.seed=1", "--json"]
        result = await asyncio.to_thread(
            without, lacking, "queue", "w.json", *options, cwd=tmp_path
        )
        return result, fake.ran

    result, ran = play(scene, 120)
    assert result.returncode == 0, result.stderr
    assert sorted(ran) == [3, 5]
    assert [job["label"] for job in json.loads(result.stdout)["jobs"]] == ["seed3", "seed5"]


def test_the_shell_completes_examples_and_files():
    from click.shell_completion import ShellComplete

    from sampling_kit.headless.cli import main

    shell = ShellComplete(main, {}, "sampling-kit", "_SAMPLING_KIT_COMPLETE")
    found = shell.get_completions(["run"], "ddim")
    assert "ddim-eta" in [item.value for item in found]
    assert "file" in [item.type for item in found]
