"""What a run estimates of its own error: right on Gaussian data, near on mixtures, and free."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sampling_kit.api import run
from sampling_kit.benchmarks import error_estimate, pages, policy
from sampling_kit.headless import shipped as examples
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.guidance import Guidance
from sampling_kit.schedulers.measure.run_error import CALIBRATION, MOST, RunError, more
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import (
    DDPM,
    Adaptive,
    DPMSolverMultistep,
    Euler,
    GaussianAdams,
    HeunEDM,
    Run,
    UniPC,
)

from .product import each
from .test_no_waiting import Waits

STD = 0.7


def of_gaussian(schedule, solver, steps):
    """(estimate, true error) on one Gaussian value of deviation STD."""
    points = spacings.space(schedule, steps, spacings.NoiseShare(1.0))
    sigmas, host = points.sigmas(), schedule.path.host

    def denoise(x, sigma):
        alpha = host.on(sigma).alpha
        return x * (alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2))

    start = host.on(sigmas[0])
    x = torch.full((1, 1, 1, 1), start.sigma, dtype=torch.float64)
    exact = x * STD / math.hypot(start.alpha * STD, start.sigma)
    error = RunError.of(solver, schedule.path, sigmas, STD)
    end = solver.solve(points, Run(error.watching(denoise)), x)
    return error.facts().rms, float((end - exact).abs())


@each(
    schedule=[EDM(), RectifiedFlowSchedule(3.0), ScaledLinearVP()],
    solver=[Euler(), UniPC(), HeunEDM()],
)
def test_on_gaussian_data_it_tends_to_the_true_error(schedule, solver):
    guess, true = of_gaussian(schedule, solver, 60)
    assert guess / CALIBRATION == pytest.approx(true, rel=0.16)


def test_on_a_mixture_its_order_is_that_of_the_true_errors(monkeypatch):
    monkeypatch.setattr(error_estimate, "SOLVERS", (Euler(), DPMSolverMultistep(), GaussianAdams()))
    pairs = list(error_estimate.measure(policy.bench("mixture", 4)))
    cells = error_estimate.row("mixture", pairs)
    assert cells[1] == str(3 * 2 * 8 * 4) and float(cells[2]) >= 0.8
    assert 0.3 < float(cells[-1]) < 0.7, "the evaluations that it asks for halve the error"


def test_it_costs_no_evaluation_and_changes_nothing():
    points = spacings.space(EDM(), 6, spacings.Karras())
    x = 80 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    calls = []

    def denoise(y, sigma):
        calls.append(sigma)
        return y / (1 + sigma**2)

    plain = UniPC().solve(points, Run(denoise), x)
    error = RunError.of(UniPC(), VE(), points.sigmas(), 1.0)
    watched = UniPC().solve(points, Run(error.watching(denoise)), x)
    assert torch.equal(plain, watched) and len(calls) == 12
    facts = error.facts()
    assert len(facts.images) == 2
    assert facts.rms == pytest.approx(math.hypot(*facts.images) / math.sqrt(2))


def test_nothing_is_read_before_the_end():
    points = spacings.space(EDM(), 6, spacings.Karras())
    error = RunError.of(UniPC(), VE(), points.sigmas(), 1.0)
    run = Run(error.watching(lambda x, sigma: x * 0.5), finite=False)
    with Waits() as mode:
        UniPC().solve(points, run, torch.empty(1, 2, 4, 4, device="meta"))
    assert error.count == 6 and not mode.found


def test_a_run_that_is_not_linear_in_its_predictions_has_none():
    sigmas = spacings.space(EDM(), 6, spacings.Karras()).sigmas()
    assert RunError.of(UniPC(), VE(), sigmas, 1.0).weights
    many = spacings.space(EDM(), MOST + 1, spacings.Karras()).sigmas()
    rising = sigmas[-2::-1]
    runs = [(DDPM(), sigmas), (Adaptive(), sigmas), (object(), sigmas), (UniPC(), rising)]
    for solver, levels in [*runs, (UniPC(), many), (UniPC(), sigmas[:2]), (UniPC(), [])]:
        error = RunError.of(solver, VE(), levels, 1.0)
        assert error.weights is None and error.facts() is None
        assert error.watching(torch.relu) is torch.relu


def test_so_many_more_halve_it():
    assert [more(n, 2) for n in (1, 5, 10, 20)] == [1, 3, 5, 9]
    assert [more(n, 1) for n in (1, 10)] == [1, 10]


def test_guidance_reports_it():
    run = Guidance().begin()
    assert run.report()["error"] is None
    error = RunError((0.0, 1.0), 2)
    error.watching(lambda x, sigma: x)(torch.ones(2, 3), 1.0)
    run.error = error.facts()
    report = json.loads(json.dumps(run.report(), allow_nan=False))["error"]
    assert report == {"rms": 1.0, "images": [1.0, 1.0], "more": 1}
    assert str(run.error).endswith("about 1 more evaluation would halve it")


def test_a_run_without_comfyui_tells_it(tmp_path):
    prompt = json.loads((examples.FOLDER / "api" / "euler-edm.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        if node["class_type"] == "SamplingKitEmbeddedDenoiser":
            node["inputs"] = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 4, "kind.rank": 2, "noise_schedule": node["inputs"]["noise_schedule"]}  # fmt: skip
        if node["class_type"] == "SamplingKitEmptyPixelLatent":
            node["inputs"] = {"width": 24, "height": 24, "batch_size": 2}
    file = tmp_path / "w.json"
    file.write_text(json.dumps(prompt))
    (result,) = run(file, output=tmp_path / "out")
    assert all(0 < error.rms < 1 and error.more >= 1 for error in result.errors)
    assert len(result.errors) == sum(
        n["class_type"] == "SamplerCustomAdvanced" for n in prompt.values()
    )


def test_a_measured_part_of_a_page_is_replaced():
    marks = pages.marks("x")
    page = "a\n" + "old".join(marks) + "\nz"
    assert pages.written(page, marks, "new") == f"a\n{marks[0]}\n\nnew\n\n{marks[1]}\nz"
    with pytest.raises(ValueError, match="has not one"):
        pages.written("a", marks, "new")
