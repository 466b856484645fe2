"""The examples of docs/extending.md work as they stand: added to a copy of the pack, with nothing else edited."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[1]
PAGE = (PACK / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```$', re.M | re.S)
RECIPES = {
    title: BLOCK.findall(body) for title, body in re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", PAGE, re.M)
}  # fmt: skip
#: The tests of a kind, and of its addition alone in those that go through all there are.
TESTS = {
    "Solver": (
        (
            *("test_solvers.py", "test_solver_marginals.py", "test_solver_runs.py"),
            *("test_state.py", "test_properties.py", "test_trace.py"),
        ),
        "Halfway or halfway",
    ),
    "Guidance rule": (
        ("test_guidance.py", "test_guidance_rules.py", "test_guidance_nodes.py"),
        "EqualSize or equal",
    ),
    "Spacing": (("test_schedules.py", "test_grid.py"), "even"),
    "Node": ((), ""),
}
#: What every addition has to pass whole.
ALWAYS = ("test_nodes.py", "test_interface.py", "test_locales.py", "test_docs.py", "test_layers.py")
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__", "node_modules", "*.egg-info"
)  # fmt: skip


def added(text: str, edit: str) -> str:
    """The text with the edit's "+" lines after (or before) its one other line."""
    lines = edit.splitlines()
    (line,) = (line[1:] for line in lines if not line.startswith("+"))
    assert text.count(f"{line}\n") == 1, f"{line!r} is not a line of the file, or not the only one"
    new = "\n".join(
        line.removeprefix("+") for line in (row[row.startswith(" ") :] for row in lines)
    )
    return text.replace(f"{line}\n", f"{new}\n")


def apply(recipe: list[tuple[str, str, str]], root: Path) -> list[str]:
    """Writes and edits the recipe's files below ``root``; their names."""
    for kind, name, text in recipe:
        file = root / name
        if kind == "python":
            assert not file.exists()
            file.write_text(text, encoding="utf-8")
        else:
            file.write_text(added(file.read_text(encoding="utf-8"), text), encoding="utf-8")
    return sorted({name for _, name, _ in recipe})


def test_every_recipe_has_its_tests():
    assert set(TESTS) == set(RECIPES)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_is_a_file_and_an_edit(title, tmp_path):
    edited = {name for kind, name, _ in RECIPES[title] if kind == "diff"}
    for name in edited:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACK / name, tmp_path / name)
    for kind, name, _ in RECIPES[title]:
        if kind == "python":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    files = apply(RECIPES[title], tmp_path)
    truth = {"tests/contracts.py"} if title == "Spacing" else set()
    assert len(set(files) - truth) <= 2


@pytest.mark.full
@pytest.mark.parametrize("title", RECIPES)
def test_an_addition_is_two_edits_and_one_command(title, tmp_path):
    pack = tmp_path / "sampling_kit"
    shutil.copytree(PACK, pack, ignore=LEFT_OUT)
    apply(RECIPES[title], pack)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    assert "written: CHANGELOG.md" in run("-m", "sampling_kit.dev.sync")
    assert "everything is in step" in run("-m", "sampling_kit.dev.sync", "--check")
    options = ("-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "--rootdir", str(pack))
    config = ("-c", str(pack / "pyproject.toml"))
    run(*options, *config, *(str(pack / "tests" / name) for name in ALWAYS))
    files, words = TESTS[title]
    if files:
        said = run(*options, *config, "-k", words, *(str(pack / "tests" / name) for name in files))
        assert re.search(r"\b[1-9]\d* passed", said) or "[100%]" in said
