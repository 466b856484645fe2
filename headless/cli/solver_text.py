"""sampling-kit solver-text"""

from __future__ import annotations

from pathlib import Path

import click

from ..calls.results import ArgumentError
from ..terminal_text import say
from .errors import errors_reported
from .options import debug_option


@click.command("solver-text")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--nfe",
    type=click.IntRange(1),
    help="Which fit of a family: its evaluations. Default: the only one.",
)
@debug_option
def solver_text(file: Path, nfe: int | None, debug: bool) -> None:
    """A solver as text, for Solver from Text: write the fit in FILE.safetensors, or prove the JSON in FILE.

    What a JSON text is worth (order, stability, error on exact Gaussian data) is printed as the node prints it; a wrong
    one is refused with the entry at fault.
    """
    with errors_reported(debug):
        try:
            say(_shown(file, nfe))
        except ValueError as error:
            raise ArgumentError(f"{file.name}: {error}") from None


def _shown(file: Path, nfe: int | None) -> str:
    """Raises ValueError saying what is wrong with the file, or with the text in it."""
    from ...schedulers.fit import fit_files
    from ...schedulers.measure.solver_proof import report
    from ...schedulers.solver.solver_text import MOST_CHARACTERS, fit_text, read

    if file.suffix != ".safetensors":
        with file.open(encoding="utf-8", errors="replace") as opened:
            return report(read(opened.read(MOST_CHARACTERS + 1)))
    family = fit_files.load(file)
    if nfe is None and len(family.fits) > 1:
        raise ValueError(
            f"it has fits for {', '.join(map(str, family.nfes))} evaluations: choose with --nfe"
        )
    return fit_text(family.at(nfe or family.nfes[0])).rstrip("\n")
