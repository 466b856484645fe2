"""The `sampling-kit` command, one file a subcommand. Heavy imports wait until a command needs them."""

from __future__ import annotations

import click

from ... import __version__
from .check import check_workflow
from .examples import run_example
from .fit import fit_solver
from .list_nodes import list_nodes
from .queue import queue_workflow
from .run import run_workflow
from .solver_text import solver_text
from .sweep import sweep_workflow
from .verify import verify_picture


@click.group()
@click.version_option(__version__, prog_name="sampling-kit")
def main() -> None:
    """Run ComfyUI workflows of diffusion samplers without ComfyUI."""


for command in (
    run_workflow,
    run_example,
    queue_workflow,
    check_workflow,
    sweep_workflow,
    verify_picture,
    list_nodes,
    fit_solver,
    solver_text,
):
    main.add_command(command)
