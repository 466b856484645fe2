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
    "Family of diffusers networks": (
        ("test_diffusers_networks.py", "test_diffusers_nodes.py", "test_family_table.py"),
        "auraflow or family_table",
    ),
    "Node": ((), ""),
}
#: Where a formula or a call stands once more, written from its source.
TRUTHS = {"tests/contracts.py", "tests/diffusers_cases.py"}
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
    assert len(set(files) - TRUTHS) <= 2


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the pack with every recipe in it, and one ``dev.sync``."""
    pack = tmp_path_factory.mktemp("extended") / "sampling_kit"
    shutil.copytree(PACK, pack, ignore=LEFT_OUT)
    for recipe in RECIPES.values():
        apply(recipe, pack)
    assert "written: CHANGELOG.md" in run(pack, "-m", "sampling_kit.dev.sync")
    return pack


def run(pack, *arguments):
    """What a command of the copy prints."""
    environment = os.environ | {"PYTHONPATH": str(pack.parent)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=pack.parent, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def tested(pack, files, *options):
    options = ("-n", "0", "-p", "no:cacheprovider", "--rootdir", str(pack), *options)
    config = ("-c", str(pack / "pyproject.toml"))
    return run(pack, "-m", "pytest", *options, *config, *(str(pack / "tests" / f) for f in files))


@pytest.mark.full
def test_additions_are_two_edits_and_one_command(extended):
    """All together: none is in another's way."""
    assert "everything is in step" in run(extended, "-m", "sampling_kit.dev.sync", "--check")
    tested(extended, ALWAYS)


@pytest.mark.full
@pytest.mark.parametrize("title", [title for title, (files, _) in TESTS.items() if files])
def test_an_addition_passes_the_tests_of_its_kind(title, extended):
    files, words = TESTS[title]
    said = tested(extended, files, "-k", words)
    assert re.search(r"\b[1-9]\d* passed", said) or "[100%]" in said
