"""Where the `sampling-kit` command begins: it starts, or says which extra a plain install lacks."""

from __future__ import annotations

import sys

from .extras import PACKAGE, advice


def main() -> None:
    """Run the command line. Without click it ends with 1 and says what to install."""
    try:
        from .cli import main as commands
    except ModuleNotFoundError as error:
        text = advice(error.name or "")
        if text is None:
            raise
        sys.exit(
            f"Error: {text} (for `sampling-kit queue` alone), or '{PACKAGE}[standalone]' to run workflows here"
        )
    commands(prog_name="sampling-kit")
