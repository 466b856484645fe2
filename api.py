"""Everything the `sampling-kit` command does, as five functions, and the engine as doors for other pipelines.

    from sampling_kit.api import run
    run("ddpm", seed=7, output="out")[0].files

``run``, ``queue``, ``sweep``, ``fit`` and ``verify`` are what the command line itself calls (docs/python.md). The names
in ``__all__`` here and in ``sampling_kit.doors`` keep their meaning within a major version.
"""

from .headless.calls.fit_model import fit
from .headless.calls.results import (
    ArgumentError,
    Done,
    FitResult,
    NodeProgress,
    RunResult,
    SweepResult,
    VerifyResult,
    Watcher,
)
from .headless.calls.run_here import run
from .headless.calls.run_on_servers import queue
from .headless.calls.run_variants import sweep
from .headless.calls.verify_pictures import verify
from .headless.workflow import NodeFailure, Workflow, WorkflowError

__all__ = [
    "ArgumentError",
    "Done",
    "FitResult",
    "NodeFailure",
    "NodeProgress",
    "RunResult",
    "SweepResult",
    "VerifyResult",
    "Watcher",
    "Workflow",
    "WorkflowError",
    "fit",
    "queue",
    "run",
    "sweep",
    "verify",
]
