"""Tests over several axes: by default each value of each axis with the others taking turns, in full every combination.

    @each(solver=STILL, path=PATHS)
    def test_a_run_ends(solver, path): ...

runs each solver once, on the paths in turn; ``pytest --full`` runs each solver on each path. With ``by=type``
the solvers of a class are one item by default (and the report names the one that failed): for short tests,
of which there would be thousands. What a path can hide (α = 1 on VE) a short test asks on every path itself.

A test that takes long and whose kind another, shorter test covers is marked ``full`` and runs with ``--full``.
Of a test with many cases of one kind, ``@pytest.mark.some(n)`` runs n by default, the first, the last and what lies
evenly between them. A test asked for by its own name (``file.py::test``) runs whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Several:
    """The values of one axis that one item takes one after another."""

    values: Row


def each(by: Callable[[Any], Any] | None = None, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrise a test over named axes: which combinations it runs, ``rows`` says.

    By default rows whose first axis has the same ``by`` make one item.
    """
    return pytest.mark.each(by, **{name: tuple(values) for name, values in axes.items()})


def rows(axes: Sequence[Sequence[Any]], full: bool) -> list[Row]:
    """The combinations: all of them, or as many as the longest axis has values.

    Row i holds value i of the longest axis. Another axis of n values goes through all of them in each n rows,
    and begins one later (the next axis two later, …) with the next n: so an order of the longest axis that
    repeats itself, such as orders 1, 2, 3 of one solver after another, does not meet the same values always.
    """
    if full:
        return list(itertools.product(*axes))
    longest = max(range(len(axes)), key=lambda k: len(axes[k]))
    others = [k for k in range(len(axes)) if k != longest]
    shift = {k: s for s, k in enumerate(others, start=1)} | {longest: 0}

    def value(k: int, i: int) -> Any:
        return axes[k][(i + shift[k] * (i // len(axes[k]))) % len(axes[k])]

    return [tuple(value(k, i) for k in range(len(axes))) for i in range(len(axes[longest]))]


def parametrize(metafunc: pytest.Metafunc) -> None:
    """What ``each`` asks for, for pytest_generate_tests."""
    full = metafunc.config.getoption("full")
    for mark in metafunc.definition.iter_markers("each"):
        (by,), names = mark.args, list(mark.kwargs)
        chosen = rows(list(mark.kwargs.values()), full)
        if by is None or full:
            metafunc.parametrize(names, chosen, ids=["-".join(map(label, row)) for row in chosen])
            continue
        groups: dict[Any, list[Row]] = {}
        for row in chosen:
            groups.setdefault(by(row[0]), []).append(row)
        several = [tuple(map(Several, zip(*group, strict=True))) for group in groups.values()]
        metafunc.parametrize(names, several, ids=[label(key) for key in groups])


def run(item: pytest.Function) -> bool | None:
    """Runs a test once for each row of its ``Several``, for pytest_pyfunc_call; None: it has none."""
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    several = {name: v.values for name, v in arguments.items() if isinstance(v, Several)}
    if not several:
        return None
    for row in zip(*several.values(), strict=True):
        here = dict(zip(several, row, strict=True))
        try:
            item.obj(**(arguments | here))
        except BaseException:
            item.add_report_section("call", "of several", f"it failed for {here}")
            raise
    return True


def left_out(items: Sequence[pytest.Item], names: Sequence[str]) -> list[pytest.Item]:
    """The cases of ``some`` that a default run leaves out; ``names`` are what it was asked for."""
    named = {name.partition("[")[0].rpartition("/")[2] for name in names if "::" in name}
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        test = item.nodeid.partition("[")[0]
        if item.get_closest_marker("some") and test.rpartition("/")[2] not in named:
            cases.setdefault(test, []).append(item)
    return [
        case
        for same in cases.values()
        for i, case in enumerate(same)
        if i not in spread(len(same), *same[0].get_closest_marker("some").args)  # type: ignore[union-attr]
    ]


def spread(count: int, some: int) -> set[int]:
    """``some`` of ``count`` places, the first and the last among them and the rest evenly between."""
    if some >= count:
        return set(range(count))
    return {round(i * (count - 1) / max(some - 1, 1)) for i in range(some)}


def label(value: Any) -> str:
    """What stands for a value in a test's id: its name, if it has one; a tuple's, one after another."""
    if isinstance(value, tuple):
        return "-".join(map(label, value))
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else value if isinstance(value, str) else repr(value)
