"""What subcommands do before a workflow runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..context import Context, use
from ..prompt import Registry
from ..workflow import Workflow, WorkflowError


def context_of(workflow: Workflow, output: Path, input: Path, models: Path, device: str) -> Context:
    """A run without progress; previews go to output/temp."""
    temp = output / "temp"
    facts: dict[str, Any] = dict(models=models, typed=workflow.typed)
    return Context(output, input, temp, device, None, workflow.prompt, workflow.ui, **facts)


def refuse_mistakes(workflow: Workflow, nodes: Registry, context: Context) -> None:
    """Raise WorkflowError with one line per mistake."""
    from ..graph import check

    with use(context):
        errors = check(workflow, nodes)
    if errors:
        raise WorkflowError("\n       ".join(str(error) for error in errors))
