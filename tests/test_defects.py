"""The planter of defects: its rows are up to date, and it tells what is noticed from what is not."""

import pytest

from sampling_kit.benchmarks.defect import Defect
from sampling_kit.benchmarks.defects import ROOT, hunt, stale
from sampling_kit.benchmarks.planted import DEFECTS

FILE = "schedulers/points.py"
TESTS = ("tests/test_known_steps.py::test_pure_noise_lies_above_every_other_level",)


def row(old, new, inside="", name="a row", file=FILE, tests=TESTS):
    return Defect(name, file, old, new, tests, inside)


def test_no_row_is_stale():
    """Every text is there exactly once, what replaces it is Python, and the tests' files exist."""
    assert stale(DEFECTS) == []


def test_every_row_names_tests_that_exist():
    for defect in DEFECTS:
        for test in defect.tests:
            file, _, function = test.partition("::")
            assert not function or f"def {function}(" in (ROOT / file).read_text("utf-8"), test


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (row("no such text", ""), "0 times, not once"),
        (row("return", ""), "times, not once"),
        (row("class Points:", "class Points"), "no Python"),
        (row("x", "y", inside="class Nothing"), "'class Nothing' is there 0 times"),
        (row("x", "y", file="schedulers/nothing.py"), "no file"),
        (row("LARGEST_KAPPA, 2", "1", tests=("tests/test_nothing.py",)), "no file"),
    ],
)
def test_a_stale_row_is_named(wrong, words):
    (said,) = stale([wrong])
    assert said.startswith("a row") and words in said
    assert stale([row("LARGEST_KAPPA, 2", "LARGEST_KAPPA, 3")]) == []


def test_a_text_is_looked_for_inside_of_one_class_or_function():
    text = "class A(\n    B\n):\n    x = 1\n\n\n@c\nclass D:\n    x = 1\n"
    assert row("x = 1", "x = 2", "class A(").planted(text) == text.replace("x = 1", "x = 2", 1)
    assert row("x = 1", "x = 2", "class D").planted(text).endswith("x = 2\n")
    with pytest.raises(ValueError, match="2 times"):
        row("x = 1", "x = 2").planted(text)


@pytest.mark.full
def test_what_is_noticed_and_what_survives(capsys):
    """In a copy: the file here stays as it is."""
    known = next(d for d in DEFECTS if d.name == "points: pure noise below the other levels")
    harmless = row("2 * largest)", "3 * largest)", name="harmless")
    noticed, survivor = hunt([known, harmless])
    assert noticed.noticed and not noticed.survived
    assert survivor.survived and not survivor.noticed
    assert "harmless: SURVIVES" in capsys.readouterr().out
    assert stale(DEFECTS) == []
