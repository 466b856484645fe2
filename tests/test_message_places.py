"""A message names the place that a person can see: a node's or a setting's title, never one of our classes."""

import ast
from functools import cache
from pathlib import Path

import pytest
import trees

from sampling_kit.schedulers.spacing.in_noise import Karras
from sampling_kit.schedulers.spacing.written import Drawn

ROOT = Path(__file__).resolve().parent.parent
FILES = [p for folder in ("schedulers", "nodes") for p in sorted((ROOT / folder).rglob("*.py"))]


@cache
def classes():
    return {n.name for p in FILES for n in trees.nodes(p) if isinstance(n, ast.ClassDef)}


@cache
def titles():
    """What a setting is called where a person sees it, as its class says."""
    return {
        node.value.value
        for path in FILES
        for node in trees.nodes(path)
        if isinstance(node, ast.AnnAssign)
        and getattr(node.target, "id", "") == "title"
        and isinstance(node.value, ast.Constant)
    }


def raised(path):
    """The message of every ``raise Error("…")``, with {type(self).__name__} as code."""
    for node in trees.nodes(path):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            message = node.exc.args[0]
            if isinstance(message, ast.JoinedStr | ast.Constant):
                yield node.lineno, ast.unparse(message).lstrip("f").strip("\"'")


def begins_with_a_class(message):
    word = message.replace(":", ".").partition(".")[0].strip()
    return word in classes() - titles() or message.startswith("{type(self).__name__}")


def test_no_message_begins_with_a_class():
    assert len(classes()) > 100 and sum(1 for path in FILES for _ in raised(path)) > 300
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for path in FILES
        for line, text in raised(path)
        if begins_with_a_class(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_setting_is_named_by_its_title():
    with pytest.raises(ValueError, match=r"^Karras: rho = -1: must lie between"):
        Karras(rho=-1)
    with pytest.raises(ValueError, match=r"^drawn curve: curve = '0:1'"):
        Drawn("0:1")
