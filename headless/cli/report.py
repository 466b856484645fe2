"""What a command prints for programs: one JSON object at the end, or an event a line as things happen.

`--json` prints one object, `--json=lines` events. Both are whole whatever happens: a failure is an ``error`` in the
object, or the last event, on stdout; the sentence for people stands on stderr beside it.
"""

from __future__ import annotations

import json
from typing import Any

import click

from ..terminal_text import say

OBJECT, LINES = "object", "lines"
KINDS = {1: "failed", 2: "invalid", 130: "interrupted", 143: "terminated"}  # by exit code


class Report:
    """Facts of one command. ``style``: OBJECT, LINES, or None for silence."""

    def __init__(self, style: str | None, **facts: Any) -> None:
        self.style, self.facts = style, facts
        if style == LINES:
            self._line("start", facts)

    def __bool__(self) -> bool:
        return self.style is not None

    def put(self, **facts: Any) -> None:
        """Facts of the whole command: the object's own, or those of the last event."""
        self.facts |= facts

    def whole(self, **facts: Any) -> None:
        """Facts of the object alone: who reads events has heard them."""
        if self.style == OBJECT:
            self.facts |= facts

    def add(self, group: str, kind: str, facts: dict[str, Any]) -> None:
        """One more entry of the list ``group`` of the object, or an event of this kind."""
        if self.style == LINES:
            self._line(kind, facts)
        else:
            self.facts.setdefault(group, []).append(facts)

    def event(self, kind: str, **facts: Any) -> None:
        """What only those hear who asked for events: progress, notes."""
        if self.style == LINES:
            self._line(kind, facts)

    def fail(self, message: str, code: int) -> None:
        """The command ends with this exit code; ``message`` is what stderr says."""
        error = dict(kind=KINDS.get(code, "failed"), message=message, code=code)
        if self.style == LINES:
            self._line("error", error)
        elif self.style == OBJECT:
            self._print(self.facts | {"error": error})

    def end(self) -> None:
        """The command is done."""
        if self.style == LINES:
            self._line("end", self.facts)
        elif self.style == OBJECT:
            self._print(self.facts)

    def _line(self, kind: str, facts: dict[str, Any]) -> None:
        self._print({"event": kind, **facts})

    def _print(self, facts: dict[str, Any]) -> None:
        say(json.dumps(facts, allow_nan=False))


class JsonCommand(click.Command):
    """A command with json_option: `--json=lines` means events, and wrong usage is told in JSON too."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        end = args.index("--") if "--" in args else len(args)
        args[:end] = [_plain(arg) for arg in args[:end]]
        style = (
            LINES if "--json-lines" in args[:end] else OBJECT if "--json" in args[:end] else None
        )
        try:
            return super().make_context(info_name, args, *rest, **more)
        except click.UsageError as error:
            Report(style).fail(error.format_message(), error.exit_code)
            raise


def _plain(argument: str) -> str:
    """The forms of --json that click does not know, as it knows them."""
    return {"--json=lines": "--json-lines", "--json=object": "--json"}.get(argument, argument)


def json_option(command: Any) -> Any:
    """--json and --json=lines, as the parameter ``style``."""
    lines = click.option("--json-lines", "style", flag_value=LINES, hidden=True, default=None)
    whole = click.option(
        "--json",
        "style",
        flag_value=OBJECT,
        default=None,
        help="Print one JSON object instead of text; --json=lines prints an event a line.",
    )
    return whole(lines(command))
