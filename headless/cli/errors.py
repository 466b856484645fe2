"""How a command ends: one message and an exit code, and nothing half-written after a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..terminal_text import foreign_text_made_plain, print_traceback, say, say_error
from ..workflow import NodeFailure, WorkflowError


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
def errors_reported(debug: bool) -> Iterator[None]:
    """Turn an exception into one message on stderr and an exit code: 2 invalid, 1 failed, 130, 143."""
    try:
        with termination_raised(), foreign_text_made_plain():
            yield
    except (click.exceptions.Exit, BrokenPipeError):  # click ends quietly when nobody reads
        raise
    except KeyboardInterrupt:
        say("Interrupted", err=True)
        raise SystemExit(130) from None
    except Terminated:
        say("Terminated", err=True)
        raise SystemExit(143) from None
    except Exception as error:
        if debug:
            sys.excepthook = print_traceback
        if debug or isinstance(error, click.ClickException):
            raise
        expected = isinstance(error, WorkflowError | NodeFailure)
        text = str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)"
        say_error(text)
        raise SystemExit(2 if isinstance(error, WorkflowError) else 1) from None
