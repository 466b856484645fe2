"""How a command ends: one message and an exit code, and nothing half-written after a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..calls.results import ArgumentError
from ..extras import advice
from ..terminal_text import foreign_text_made_plain, print_traceback, say, say_error
from ..workflow import NodeFailure, WorkflowError, reason_of
from .report import Report


class Terminated(BaseException):
    """SIGTERM came. The command unwinds as after Ctrl-C: nothing half-written stays."""


@contextmanager
def termination_raised() -> Iterator[None]:
    """Raise Terminated where the main thread gets SIGTERM."""

    def terminate(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def arguments_refused() -> Iterator[None]:
    """An argument that means nothing is wrong usage."""
    try:
        yield
    except ArgumentError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def errors_reported(debug: bool, report: Report | None = None) -> Iterator[None]:
    """Turn an exception into one message on stderr and an exit code: 2 invalid, 1 failed, 130, 143.

    ``report`` is ended, or told of the failure, for those who read JSON.
    """
    report = report or Report(None)
    try:
        with termination_raised(), foreign_text_made_plain(), arguments_refused():
            yield
            report.end()
    except (click.exceptions.Exit, BrokenPipeError):  # click ends quietly when nobody reads
        raise
    except KeyboardInterrupt:
        report.fail("Interrupted", 130)
        say("Interrupted", err=True)
        raise SystemExit(130) from None
    except Terminated:
        report.fail("Terminated", 143)
        say("Terminated", err=True)
        raise SystemExit(143) from None
    except Exception as error:
        text, code = _told(error)
        report.fail(text, code)
        if debug:
            sys.excepthook = print_traceback
        if debug or isinstance(error, click.ClickException):
            raise
        say_error(text)
        raise SystemExit(code) from None


def _told(error: Exception) -> tuple[str, int]:
    """(the sentence for people, the exit code) of an exception."""
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, WorkflowError):
        return reason_of(error), 2
    if isinstance(error, NodeFailure):
        return reason_of(error), 1
    missing = advice(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    return missing or f"{reason_of(error, named=True)} (--debug shows where)", 1
