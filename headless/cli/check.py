"""sampling-kit check"""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal_text import say
from ..workflow import load
from .errors import errors_reported
from .options import debug_option, input_option, json_option, models_option, workflow_argument
from .report import JsonCommand, Report


@click.command("check", cls=JsonCommand)
@workflow_argument
@input_option
@models_option
@json_option
@debug_option
def check_workflow(
    workflow: Path, input_dir: Path, models_dir: Path, style: str | None, debug: bool
) -> None:
    """Say what is wrong with WORKFLOW, without running it."""
    report = Report(style, workflow=str(workflow))
    with errors_reported(debug, report):
        from ..registry import registry
        from .prepare import context_of, refuse_mistakes

        loaded = load(workflow)
        context = context_of(loaded, Path("output"), input_dir, models_dir, "cpu")
        refuse_mistakes(loaded, registry(), context)
        report.put(nodes=len(loaded.prompt))
        if not report:
            say(f"{workflow}: fine, {len(loaded.prompt)} nodes")
