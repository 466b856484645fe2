"""What is run by default, and what in full: every value of every axis, and no test lost in silence."""

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from product import rows, spread

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def test_default_rows_hold_every_value_and_full_ones_every_combination():
    for sizes in ((7,), (3, 7), (7, 3, 2), (4, 4), (160, 4, 3, 3)):
        axes = [range(n) for n in sizes]
        chosen = rows(axes, full=False)
        assert len(chosen) == max(sizes)
        assert [set(column) for column in zip(*chosen, strict=True)] == [set(a) for a in axes]
        assert rows(axes, full=True) == list(itertools.product(*axes))


def test_axes_that_repeat_together_still_meet():
    """Orders 1, 2, 3 of one solver after another on three paths, two settings of three: each pair is met."""
    orders = [1, 2, 3] * 9
    chosen = rows([orders, "abc", "xyz"], full=False)
    assert {row[:2] for row in chosen} == set(itertools.product((1, 2, 3), "abc"))
    assert {row[1:] for row in chosen} == set(itertools.product("abc", "xyz"))


def test_some_are_the_ends_and_what_lies_between():
    assert spread(9, 3) == {0, 4, 8} and spread(9, 2) == {0, 8} and spread(9, 1) == {0}
    for count in range(1, 40):
        for some in range(1, 45):
            assert len(spread(count, some)) == min(count, some)


LITTLE = """
import pytest
from product import each

@each(a=[1, 2, 3], b="xy")
def test_a_product(a, b):
    assert (a, b) != (3, "x")

@each(by=type, a=[1, 2, 3, 0.5], b="xy")
def test_of_each_type(a, b, tmp_path):
    assert a != 2

@pytest.mark.full
def test_that_takes_long():
    pass

@pytest.mark.some(2)
@pytest.mark.parametrize("c", range(5))
def test_alike(c):
    assert c != 2
"""


#: What pytest is asked for, each in the folder of LITTLE.
ASKED = {"default": [""], "full": ["", "--full"], "named": ["/test_little.py::test_alike"]}


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """{what is asked: what pytest says about LITTLE}, with the hooks of these tests; torch is imported once."""
    folder = tmp_path_factory.mktemp("little")
    (folder / "test_little.py").write_text(LITTLE)
    shutil.copy(TESTS / "conftest.py", folder)
    options = [
        "-q",
        "-rsf",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "-c",
        os.devnull,
    ]
    options += ["-o", "pythonpath=", "--rootdir", str(folder)]
    asked = [[*options, f"{folder}{first}", *more] for first, *more in ASKED.values()]
    code = "import json, sys, pytest\nfor a in json.load(sys.stdin): pytest.main(a); print('//', flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(asked), capture_output=True, text=True, cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT.parent)])},
    )  # fmt: skip
    return dict(zip(ASKED, done.stdout.split("//\n"), strict=False))


def test_a_test_that_is_named_runs_whole(little):
    assert "1 failed, 4 passed" in little["named"], little


def test_by_default_axes_take_turns_and_items_are_few(little):
    said = little["default"]
    assert "test_of_each_type[int]" in said and "it failed for {'a': 2, 'b': 'y'}" in said
    assert "1 failed, 6 passed, 1 skipped" in said, said
    assert "left out by default: pytest --full" in said and "3 deselected" in said


def test_in_full_every_combination_is_an_item(little):
    said = little["full"]
    assert "4 failed, 16 passed" in said, said
    assert "test_a_product[3-x]" in said and "skipped" not in said


# ------------------------------------------------------------------------- nothing is lost in silence

#: What a host or browser test may still lack where ComfyUI and a browser are required.
OTHER_REASONS = ("left out by default: ", "no newer frontend: ")


def test_host_and_browser_tests_are_all_there_and_fail_where_they_are_required():
    """On a machine that has nothing of it: each is collected, and none is skipped for the lack."""
    files = sorted([*(TESTS / "host").glob("test_*.py"), *(TESTS / "browser").glob("test_*.py")])
    written = set()
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "pytestmark = pytest.mark.host" in text, file
        names = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
        written |= {f"{file.relative_to(ROOT).as_posix()}::{n}" for n in names if n[:5] == "test_"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-vv",
        "-rs",
        "--tb=line",
        "--assert=plain",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *map(str, files), str(TESTS / "test_page.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT.parent), "COMFYUI_PATH": os.devnull, "PATH": ""}
        | {needs.VARIABLE: ",".join(needs.KINDS)},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(written) > 100 and written == {
        line.split("[")[0].split()[0] for line in said if line.startswith(("tests/host/", "tests/browser/"))
    }  # fmt: skip
    skipped = [line for line in said if line.startswith("SKIPPED")]
    assert all(any(why in line for why in OTHER_REASONS) for line in skipped), skipped
    for kind in ("host", "eslint"):  # a browser is looked for where there is a ComfyUI
        assert f"{needs.VARIABLE} asks for {kind}: no " in done.stdout


def test_a_browser_that_is_not_there_is_never_merely_skipped():
    text = (TESTS / "browser" / "test_browser.py").read_text(encoding="utf-8")
    assert len(re.findall(r'missing\(\s*"browser",\s*"no ', text)) == 3
    assert text.count("pytest.skip(") == text.count("pytest.skip(NO_FRONTEND)") == 1


@pytest.mark.parametrize("kind", needs.KINDS)
def test_what_is_not_there_is_skipped_unless_it_is_required(kind, monkeypatch):
    monkeypatch.delenv(needs.VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="none here: install it"):
        needs.missing(kind, "none here: install it")
    monkeypatch.setenv(needs.VARIABLE, f"{kind}, host")
    with pytest.raises(pytest.fail.Exception, match=f"asks for {kind}: none here: install it"):
        needs.missing(kind, "none here: install it")


def test_an_unknown_kind_is_named(monkeypatch):
    monkeypatch.setenv(needs.VARIABLE, "host, browsers")
    with pytest.raises(pytest.UsageError, match=r"'browsers'; kinds are host, browser, eslint"):
        needs.required()
