"""docs/python.md: its code runs, its calls are calls, its names are the snapshot."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import re

import pytest

from sampling_kit import api
from sampling_kit.dev import public_names

PAGE = (public_names.ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CALLS = re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)


def test_the_five_functions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[0], "docs/python.md", "exec"), {})
    assert "reproduces bit for bit" in capsys.readouterr().out


def test_a_pipeline_in_ten_lines(tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from diffusers_folders import clip, network, save

    path = save("sd", tmp_path / "model")
    text_encoder, tokenizer = clip(path)
    pipe = diffusers.StableDiffusionPipeline(
        unet=network("sd"), vae=diffusers.AutoencoderKL.from_pretrained(path / "vae"), text_encoder=text_encoder,
        tokenizer=tokenizer, scheduler=diffusers.DDIMScheduler.from_pretrained(path / "scheduler"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(path)
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[1], "docs/python.md", "exec"), {})
    assert (tmp_path / "cat.png").is_file()
    assert len(BLOCKS[1].splitlines()) <= 10


def test_k_diffusion_in_ten_lines(capsys):
    here: dict = {}
    exec(compile(BLOCKS[2], "docs/python.md", "exec"), here)
    assert here["x"].shape == (1, 3, 8, 8) and 0.3 < float(here["x"].std()) < 3
    assert len([line for line in BLOCKS[2].splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("call", CALLS)
def test_the_calls_of_the_table_are_calls(call):
    (expression,) = ast.parse(call).body
    made = expression.value
    keywords = {k.arg: None for k in made.keywords}
    inspect.signature(getattr(api, made.func.id)).bind(*made.args, **keywords)


def test_the_table_has_all_five():
    assert {call.partition("(")[0] for call in CALLS} == {"run", "queue", "sweep", "fit", "verify"}


# ------------------------------------------------------------------------------------------- names

NOW = public_names.names()


def test_the_names_are_those_of_the_snapshot():
    kept = json.loads(public_names.FILE.read_text(encoding="utf-8"))
    assert not public_names.broken(kept, NOW), "this needs a major version"
    assert kept == NOW, "new names: python -m sampling_kit.dev.sync writes them"


def changed(change):
    new = copy.deepcopy(NOW)
    change(new)
    return public_names.broken(NOW, new)


def test_what_breaks_a_program_is_seen():
    assert NOW["api.run"]["workflow"] == "" and NOW["api.run"]["device"] == "'auto'"
    assert NOW["doors.KitScheduler.step"]["generator"] == "None"
    assert not changed(lambda n: n["api.run"].update(more="None"))
    assert not changed(lambda n: n.update({"api.new": {"x": ""}}))
    assert changed(lambda n: n.pop("api.run")) == ["api.run is gone"]
    assert changed(lambda n: n["api.run"].pop("seed")) == ["api.run: seed is gone"]
    assert changed(lambda n: n["api.run"].update(device="'cpu'"))
    assert changed(lambda n: n["api.run"].update(more="")) == ["api.run: more must be passed now"]
    first, star, *rest = NOW["api.run"]  # all but the workflow are passed by name
    moved = {k: NOW["api.run"][k] for k in (first, star, *reversed(rest))}
    assert not changed(lambda n: n.update({"api.run": moved}))
    fields = lambda n: n.update({"api.VerifyResult": dict(reversed(n["api.VerifyResult"].items()))})  # noqa: E731  # fmt: skip
    assert changed(fields) == ["api.VerifyResult: its order changed"]
