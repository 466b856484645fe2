"""Fits for several numbers of evaluations in processes of their own, each into the folder of the recording.

A fit is a function of its recording, its settings and the number of threads: batches are those of the recording, and every process has as many
threads as this one. So it does not matter for the numbers which process makes it, or how many there are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workflow import Workflow, WorkflowError

if TYPE_CHECKING:
    from ..fit_workflow import Plan


@dataclass(frozen=True)
class Job:
    """Fits of ``plan`` for another process: where the model comes from, and where it shall run."""

    workflow: Workflow
    embedded: str | None
    cfg: float
    node: str | None
    plan: Plan
    output: Path
    input: Path
    models: Path
    device: str
    threads: int

    def for_each(self) -> list[Job]:
        """One for every number of evaluations, on the GPUs in turn."""
        import torch

        gpus = torch.cuda.device_count() if self.device.startswith("cuda") else 0
        return [
            replace(
                self,
                plan=replace(self.plan, nfes=(nfe,)),
                device=f"cuda:{i % gpus}" if gpus > 1 else self.device,
            )
            for i, nfe in enumerate(self.plan.nfes)
        ]


def run(job: Job) -> str:
    """In the other process. What it has made lies in the recording's folder; the answer says it in words."""
    import torch

    from .. import fit_workflow as fitting
    from ..context import use
    from ..registry import registry
    from .preparation import context_of, set_device

    torch.set_num_threads(job.threads)
    nodes, device = registry(), set_device(job.device)
    here = context_of(job.workflow, job.output, job.input, job.models, device)
    with use(here), torch.inference_mode():
        source = fitting.source_of(job.workflow, nodes, here, job.embedded, job.cfg, job.node)
        recording = fitting.recording_of(source, job.plan, silent)
        ((nfe, fit),) = fitting.fits_of(recording, job.plan, lambda title: silent)
    return fitting.told(nfe, fit)


def silent(step: int, text: str = "") -> None:
    """Progress that nobody sees."""


def in_processes(
    jobs: Sequence[Job], workers: int, report: Callable[[int, str], None], parts: int = 1000
) -> None:
    """Run all; report(of ``parts``, text). Raises WorkflowError if a process was killed, and what a job raises."""
    fresh: Any = multiprocessing.get_context(
        "spawn"
    )  # forks of one whose torch has threads may hang
    report(0, f"{len(jobs)} fits in {min(workers, len(jobs))} processes")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=fresh) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                report(parts * done // len(jobs), future.result())
        except BrokenProcessPool:
            raise WorkflowError(
                "a process that fits was killed, perhaps for want of memory: give fewer --workers; the same call goes "
                "on where it stopped"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
