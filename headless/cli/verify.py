"""sampling-kit verify"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..terminal_text import say
from ..workflow import WorkflowError, load
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report


@click.command("verify", cls=JsonCommand)
@click.argument("png", type=click.Path(path_type=Path))
@options.settings_option
@options.input_option
@options.models_option
@options.device_option
@options.json_option
@options.debug_option
def verify_picture(
    png: Path, settings: Sequence[str], input_dir: Path, models_dir: Path, device: str, style: str | None, debug: bool
) -> None:  # fmt: skip
    """Run the workflow that PNG carries again and say whether it gives the same pixels.

    Ends with 0 if it does and 1 if not, naming what is not as it was. The run writes to a folder of its own. Paths of
    models outside of --models are taken only where --set repeats them.
    """
    report = Report(style, file=str(png))
    with errors_reported(debug, report):
        from ..registry import registry
        from ..reproduce import verify
        from ..settings_flags import with_settings
        from .prepare import context_of, refuse_mistakes

        nodes = registry()
        saved = load(png)
        loaded = with_settings(saved, nodes, settings)
        if loaded.prompt != saved.prompt:
            raise WorkflowError(
                "--set: verify runs the values of the picture; --set may only repeat them"
            )
        device = options.set_device(device)
        context = context_of(loaded, Path("output"), input_dir, models_dir, device)
        verdict = verify(png, nodes, context, lambda read: refuse_mistakes(read, nodes, context))
        say(f"{png}: {verdict}")
        if not verdict.same:
            raise SystemExit(1)
