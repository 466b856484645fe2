"""Fits in processes of their own are the same fits."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from sampling_kit.headless.calls import fit_processes
from sampling_kit.headless.calls.fit_model import fit
from sampling_kit.headless.calls.fit_processes import Job
from sampling_kit.headless.fit_workflow import Plan
from sampling_kit.headless.workflow import Workflow, WorkflowError
from sampling_kit.nodes.fit import fit_solver
from sampling_kit.schedulers.fit import compare
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.solver import DDIM


def small():
    """A workflow of a Gaussian of rank 3."""
    model = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 6, "kind.rank": 3}
    nodes = dict(
        m=("SamplingKitEmbeddedDenoiser", model),
        p=("SamplingKitClassCondition", dict(name="desert")),
        l=("SamplingKitEmptyPixelLatent", dict(width=24, height=24, batch_size=1)),
        g=("CFGGuider", dict(model=["m", 0], positive=["p", 0], negative=["p", 0], cfg=1.0)),
        r=("SamplerCustomAdvanced", dict(guider=["g", 0], latent_image=["l", 0])),
    )
    return {name: dict(class_type=kind, inputs=inputs) for name, (kind, inputs) in nodes.items()}


KNOBS = dict(nfes=(2, 3), seeds=range(10), held=4, levels=8, substeps=1, device="cpu", settings={"numbers": 1, "images": 4})  # fmt: skip


@pytest.mark.full
def test_the_number_of_processes_changes_no_number(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        compare, "USUAL", (DDIM(),)
    )  # what the table compares with, which is not fitted

    def hear(title):
        return lambda *words: said.append((title, *words))

    alone = fit(small(), output=tmp_path / "one" / "fit", **KNOBS)
    monkeypatch.setattr(fit_solver, "run_fit", None)  # in this process: it only reads
    both = fit(small(), output=tmp_path / "two" / "fit", workers=2, stage=hear, **KNOBS)
    assert [f.table.digest for f in both.fits] == [f.table.digest for f in alone.fits]
    assert [f.card["evaluations"] for f in both.fits] == [f.card["evaluations"] for f in alone.fits]
    fitting = [entry for entry in said if entry[0] == "fitting"]
    assert "2 fits in 2 processes" in fitting[0][2] and fitting[-1][1] == 1000
    assert {entry[2][:5] for entry in fitting[1:]} == {"NFE 2", "NFE 3"}


def test_a_process_that_is_killed_says_what_to_do(monkeypatch):
    monkeypatch.setattr(fit_processes, "run", os._exit)
    with pytest.raises(WorkflowError, match="fewer --workers"):
        fit_processes.in_processes([9], 1, lambda *told: None)


def test_jobs_take_the_gpus_in_turn(monkeypatch):
    places = Path("out"), Path("in"), Path("models")
    plan = Plan(Path("folder"), (4, 5, 6), Forward(), range(9), 4, 8, 1, 8, 1)
    job = Job(Workflow(Path("w"), {}), None, 1.0, None, plan, *places, "cuda", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    each = job.for_each()
    assert [(j.device, j.plan.nfes) for j in each] == [
        ("cuda:0", (4,)),
        ("cuda:1", (5,)),
        ("cuda:0", (6,)),
    ]
    assert {j.threads for j in each} == {3} and each == pickle.loads(pickle.dumps(each))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert {j.device for j in job.for_each()} == {"cuda"}
