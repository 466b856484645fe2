"""sampling-kit queue"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from ..calls.run_on_servers import SERVER, queue
from ..workflow import NodeFailure
from . import options
from .errors import errors_reported
from .queue_bars import QueueBars
from .report import JsonCommand, Report


@click.command("queue", cls=JsonCommand)
@options.workflow_argument
@click.option(
    "--server",
    "servers",
    multiple=True,
    default=[SERVER],
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
        with QueueBars(output_dir, previews, report) as bars:
            done = queue(
                workflow,
                servers=servers,
                headers=headers,
                api_key=api_key,
                environment_proxies=environment_proxies,
                settings=settings,
                seed=seed,
                seeds=seeds,
                only=only,
                choices=choices,
                input=input_dir,
                output=output_dir,
                wait=watch,
                previews=previews,
                patience=patience,
                watcher=bars,
            )
        report.whole(jobs=[asdict(d) for d in done])
        failed = [d for d in done if d.error is not None]
        if failed:
            raise NodeFailure("\n       ".join(f"{d.label or 'job'}: {d.error}" for d in failed))
