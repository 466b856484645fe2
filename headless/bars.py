"""Progress bars on stderr: every bar of the command is made here. Needs tqdm when the first one is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .context import Progress
from .terminal_text import one_line

if TYPE_CHECKING:
    from tqdm import tqdm

Report = Callable[[int, str], None]  # step, and what stands behind the bar


def on_terminal() -> bool:
    """Whether somebody sees a bar."""
    return sys.stderr.isatty()


def bar(title: str = "", total: int | None = None, shown: bool = True, **look: Any) -> tqdm[Any]:
    """One bar of ``total`` steps, or without end; as wide as the terminal."""
    from tqdm import tqdm

    columns, lines = shutil.get_terminal_size()  # never 0, as some pseudo-terminals say
    look |= dict(ncols=columns, nrows=lines, disable=not shown)
    return tqdm(total=total, desc=one_line(title) or None, **look)


@contextmanager
def node_bars(name: Callable[[str], str]) -> Iterator[Progress]:
    """A run's progress callback that draws one bar per node, called ``name(node)``."""
    bars: dict[str, tqdm[Any]] = {}

    def report(node: str, step: int, total: int) -> None:
        if node not in bars:
            bars[node] = bar(name(node), total)
        bars[node].update(step - bars[node].n)

    try:
        yield report
    finally:
        for each in bars.values():
            each.close()


@contextmanager
def stage_bars() -> Iterator[Callable[[str], Report]]:
    """title → report(step, text): one stage after the other, one bar at a time."""
    bars: list[tqdm[Any]] = []

    def begin(title: str) -> Report:
        while bars:
            bars.pop().close()
        bars.append(bar(title, leave=False))

        def report(step: int, text: str = "") -> None:
            bars[-1].update(max(step - bars[-1].n, 0))
            if text:
                bars[-1].set_postfix_str(one_line(text))

        return report

    try:
        yield begin
    finally:
        for each in bars:
            each.close()
