"""sampling-kit check"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..terminal_text import say
from ..workflow import Workflow, load
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report

if TYPE_CHECKING:
    from ..prompt import Registry


@click.command("check", cls=JsonCommand)
@options.workflow_argument
@options.settings_option
@click.option(
    "--server",
    metavar="URL",
    help="Check for this ComfyUI server: its nodes, and the models that it lists.",
)
@options.server_header_option
@options.proxies_option
@options.input_option
@options.models_option
@options.json_option
@options.debug_option
def check_workflow(
    workflow: Path, settings: Sequence[str], server: str | None, headers: Sequence[str], environment_proxies: bool,
    input_dir: Path, models_dir: Path, style: str | None, debug: bool,
) -> None:  # fmt: skip
    """Say what is wrong with WORKFLOW, without running it: here, or on a server."""
    report = Report(style, workflow=str(workflow))
    with errors_reported(debug, report):
        from ..calls.preparation import context_of, refuse_mistakes
        from ..editor_graph import converter
        from ..settings_flags import with_settings

        where = ""
        if server is None:
            from ..registry import registry

            nodes = registry()
        else:
            nodes, where = _nodes_of(server, headers, environment_proxies)
        loaded = with_settings(load(workflow, converter(nodes)), nodes, settings)
        if server is not None:
            loaded = _as_sent(loaded, input_dir)
        context = context_of(loaded, Path("output"), input_dir, models_dir, "cpu")
        refuse_mistakes(loaded, nodes, context, where)
        report.put(nodes=len(loaded.prompt))
        if not report:
            say(f"{workflow}: fine{f' for {where}' if where else ''}, {len(loaded.prompt)} nodes")


def _nodes_of(server: str, headers: Sequence[str], proxies: bool) -> tuple[Registry, str]:
    """(a server's nodes, its address without secrets)."""
    from ..object_info import registry_of
    from ..queue import access, object_info
    from ..queue.access import address

    way_in = access(headers, "", os.environ, proxies)
    return registry_of(object_info([server], way_in)), address(server).base


def _as_sent(workflow: Workflow, input_dir: Path) -> Workflow:
    """With the names that `queue` gives pictures of this machine."""
    from ..queue import with_uploads

    return with_uploads(workflow, input_dir)[0]
