"""docs/families.md names tests that there are, for every family."""

import ast
from pathlib import Path

from diffusers_folders import TINY

from sampling_kit.dev import family_table

TESTS = Path(__file__).parent


def test_every_folder_has_a_row():
    assert set(family_table.ROWS) == set(TINY)


def test_the_tests_are_there():
    assert len(family_table.tests()) > 20
    for test in family_table.tests():
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, test


def test_the_page_is_in_step():
    committed = family_table.PAGE.read_text(encoding="utf-8")
    assert committed == family_table.page(), "run: python -m sampling_kit.dev.sync"
