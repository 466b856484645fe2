"""The one way from the command to the terminal. Nothing else of it prints, which a test holds.

``say`` makes every text fit for a terminal, whoever wrote it, so that no caller has to know where a title or a message
came from. ``one_line`` is for what stands within a line, such as the name of a bar.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..schedulers.printable import one_line, printable

__all__ = ["foreign_text_made_plain", "indented", "one_line", "printable", "say", "say_error"]


def say(text: object, err: bool = False) -> None:
    """Print ``text`` and a line break on stdout, or with ``err`` on stderr, made printable."""
    click.echo(printable(text), err=err)


def say_error(text: object) -> None:
    """Print "Error: …" on stderr; further lines of ``text`` are indented, so that none looks like another error."""
    say("Error: " + indented(text, 7).lstrip(), err=True)


def indented(text: object, by: int = 2) -> str:
    """Every line of ``text`` behind at least ``by`` spaces."""
    lines = printable(text).split("\n")
    return "\n".join(line if line.startswith(" " * by) else " " * by + line for line in lines)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def foreign_text_made_plain() -> Iterator[None]:
    """What libraries and nodes log, warn of or raise inside the block is printable too where Python prints it."""
    log, warn = logging.lastResort, warnings.formatwarning
    before = log.formatter if log else None

    def formatted(*args: Any, **kwargs: Any) -> str:
        return printable(warn(*args, **kwargs))

    if log:
        log.setFormatter(_PlainFormatter())
    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = warn
        if log:
            log.setFormatter(before)


def print_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """What Python prints of an error that nobody caught, made printable: for ``sys.excepthook``."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))
