"""sampling-kit queue"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..terminal_text import say
from ..workflow import NodeFailure, load
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report

if TYPE_CHECKING:
    from ..prompt import Registry


@click.command("queue", cls=JsonCommand)
@options.workflow_argument
@click.option(
    "--server",
    "servers",
    multiple=True,
    default=["http://127.0.0.1:8188"],
    show_default=True,
    metavar="URL",
    help="May be repeated: several servers share the jobs. ?token=... in it is kept.",
)
@options.server_header_option
@click.option(
    "--api-key",
    default="",
    metavar="KEY",
    help="Key for nodes that call paid services; better in the environment, as COMFY_API_KEY.",
)
@options.proxies_option
@options.settings_option
@options.seed_option
@options.seeds_option
@options.only_option
@options.choices_option
@options.input_option
@options.output_option
@click.option(
    "--watch/--no-watch", default=True, help="Wait for the results (default), or only submit."
)
@click.option(
    "--previews", is_flag=True, help="Keep the newest preview as preview.jpg in --output."
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server that does not answer.",
)
@options.json_option
@options.debug_option
def queue_workflow(
    workflow: Path,
    servers: Sequence[str],
    headers: Sequence[str],
    api_key: str,
    environment_proxies: bool,
    settings: Sequence[str],
    seed: int | None,
    seeds: Sequence[int] | None,
    only: Sequence[str],
    choices: bool,
    input_dir: Path,
    output_dir: Path,
    watch: bool,
    previews: bool,
    patience: float,
    style: str | None,
    debug: bool,
) -> None:
    """Run WORKFLOW on a ComfyUI server, or several, once per seed, and fetch the results.

    The same command again goes on where it was stopped: what the output folder holds is not run twice.
    Ctrl-C takes its own prompts off the server. Pictures in --input that LoadImage names are uploaded.
    WORKFLOW may be in the editor's format.
    """
    report = Report(style, workflow=str(workflow))
    with errors_reported(debug, report):
        plan = options.seeds_to_run(seed, seeds)
        from ..dynamic_prompts import may_choose
        from ..queue import Queue, access, object_info, to_api
        from .prepare import nodes_for_queue, queue_jobs
        from .queue_bars import QueueBars

        way_in = access(headers, api_key, os.environ, environment_proxies)
        read = load(workflow, lambda ui: to_api(ui, servers[0], way_in))
        nodes: Registry = {}
        if settings or only or plan != [None] or (choices and may_choose(read)):
            ask = partial(object_info, servers, way_in, patience, partial(say, err=True))
            nodes = nodes_for_queue(read, ask)
        jobs = queue_jobs(read, nodes, settings, only, plan, input_dir, choices)
        with QueueBars(output_dir, len(jobs), previews, report) as bars:
            queue = Queue(
                servers, output_dir, bars, patience, watch, previews=previews, access=way_in
            )
            done = asyncio.run(queue.run(jobs))
        report.whole(jobs=[asdict(d) for d in done])
        failed = [d for d in done if d.error is not None]
        if failed:
            raise NodeFailure("\n       ".join(f"{d.label or 'job'}: {d.error}" for d in failed))
