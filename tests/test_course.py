"""The course: its code runs and prints what the pages say, its claims hold, and both languages have the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sampling_kit.benchmarks import course
from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, Run

PAGES = course.pages()
CHINESE = course.FOLDER / "zh"
#: Where a rung's answer must be a claim that is checked, beside the printed numbers.
RUNGS = [page for page in PAGES if page.name[0].isdigit()]


@pytest.mark.some(3)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_it_says(page: Path):
    made = course.outcome(page.read_text(encoding="utf-8"))
    assert not made.faults, (
        "\n".join(made.faults) + "\nrun: python -m sampling_kit.benchmarks.course --write"
    )


@pytest.mark.parametrize("page", RUNGS, ids=lambda page: page.stem)
def test_every_exercise_is_predicted_run_and_answered(page: Path):
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"\*\*(Predict|Run|Answer)\.\*\*", text)
    assert parts and parts == ["Predict", "Run", "Answer"] * (len(parts) // 3)
    assert "<!-- check: " in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_chinese_page_has_the_same_code_outputs_checks_and_graphs(page: Path):
    english, chinese = (p.read_text(encoding="utf-8") for p in (page, CHINESE / page.name))
    assert course.blocks(chinese) == course.blocks(english)
    graphs = re.compile(r"\*\*([a-z\d]+(?:-[a-z\d]+)+|compare|idempotent)\*\*")
    assert graphs.findall(chinese) == graphs.findall(english)
    assert chinese.count("$$") == english.count("$$")
    assert len(re.findall(r"\*\*(?:预测|运行|答案)。\*\*", chinese)) == len(
        re.findall(r"\*\*(?:Predict|Run|Answer)\.\*\*", english)
    )


def test_the_graphs_of_the_course_are_templates():
    text = (course.FOLDER / "index.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `([a-z\d-]+)` \|", text)
    assert len(named) == 12
    examples = course.FOLDER.parent.parent / "example_workflows" / "api"
    assert all((examples / f"{name}.json").is_file() for name in named)


def test_a_word_of_the_course_is_in_the_glossary():
    words = (course.FOLDER.parent / "words.md").read_text(encoding="utf-8")
    for term in (
        "ε̂",
        "E[a",
        "posterior",
        "marginal",
        "score",
        "NFE",
        "RMSE",
        "η",
        "κ",
        "trajectory",
    ):
        assert term in words


def test_a_number_that_moved_is_seen_and_rounding_is_not():
    assert course.agree("RMSE 0.123, 8e-16", "RMSE 0.124, 3e-16")
    assert not course.agree("RMSE 0.123", "RMSE 0.133")
    assert not course.agree("0.0049 0 up to rounding", "0.0013 0 up to rounding")
    assert not course.agree("a 1", "b 1") and not course.agree("1 2", "1")
    assert not course.agree("9e-16", "1e-9")


def test_a_fault_of_a_page_is_named_and_written():
    text = "```python\nprint(f'{1 / 3:.2f}')\n```\n```text\n0.50\n```\n<!-- check: 1 > 2 -->\n"
    made = course.outcome(text)
    assert len(made.faults) == 2 and "not true: 1 > 2" in made.faults
    assert course.outcome(course.rewritten(text, made.printed)).faults == ("not true: 1 > 2",)


@pytest.mark.parametrize("steps", [1, 7])
def test_the_plane_to_drag_on_is_the_engines(steps: int):
    """docs/course/trajectories.js takes the engine's steps on the engine's denoiser."""
    node = shutil.which("node") or pytest.skip("node is not installed")
    code = (course.FOLDER / "trajectories.js").read_text(encoding="utf-8")
    code += (
        f"console.log(JSON.stringify([skPlane.levels({steps}), skPlane.run([14, 12], {steps})]))"
    )
    made = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    levels, way = json.loads(made.stdout)
    places = torch.tensor([[-2, 0], [1, 1.7], [1, -1.7]], dtype=torch.float64)
    model = Mixture(VE(), places, torch.full((3,), 0.2, dtype=torch.float64))
    start = torch.tensor([[14.0, 12.0]], dtype=torch.float64)
    end = DDIM().solve(Points(VE(), tuple(levels)), Run(model), start)
    assert torch.allclose(torch.tensor([way[-1]], dtype=torch.float64), end, rtol=0, atol=1e-9)
    assert len(way) == steps + 1
