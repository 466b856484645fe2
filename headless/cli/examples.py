"""sampling-kit examples"""

from __future__ import annotations

import click

from ..shipped import described, example
from ..terminal_text import say
from .run import run_workflow


@click.command(
    "examples",
    context_settings=dict(ignore_unknown_options=True, allow_interspersed_args=False),
    add_help_option=True,
)
@click.argument("name", required=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run_example(context: click.Context, name: str | None, options: tuple[str, ...]) -> None:
    """List the example workflows, or run the one called NAME, with the OPTIONS of `run`.

    Every command takes the name of an example in place of a file, too.
    """
    if name is None:
        widest = max(len(one) for one, _ in described())
        for one, heading in described():
            say(f"{one:{widest}}  {heading}".rstrip())
        return
    path = example(name)
    if path is None:
        raise click.UsageError(
            f"no example is called {name[:80]!r}; `sampling-kit examples` lists them"
        )
    with run_workflow.make_context("run", [str(path), *options], parent=context) as running:
        run_workflow.invoke(running)
