"""The benchmarks run, say what they promise, and their yardsticks are right. Small settings only."""

import json
import math

import pytest
import torch
from needs import missing

from sampling_kit.benchmarks import batched, overhead, peers, problems, quality
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.solver import DDIM, Euler, HeunEDM
from sampling_kit.schedulers.solver.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers and new numpy
SMALL = dict(budgets=(4, 6), seeds=4)


@pytest.mark.parametrize("path", [VE(), Flow()], ids=lambda p: p.name)
@pytest.mark.parametrize("make", [problems.mixture, problems.postcard_mixture])
def test_the_fast_mixture_is_the_mixture(make, path):
    slow = make(path)
    fast, shape = problems.two_products(slow), slow.shape
    for sigma in (1.0, 0.5, 0.02) if path == Flow() else (14.6, 1.0, 0.03):
        x = problems.gaussian_noise(3, *shape) * max(sigma, 1)
        assert torch.allclose(fast(x, sigma), slow(x, sigma), rtol=0, atol=1e-10)


@pytest.mark.some(1)
@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_the_answer_is_known_better_than_any_contestant_comes(name):
    assert problems.answer(name, seeds=4).uncertainty < 1e-5


def test_the_answer_is_where_many_steps_of_heun_end():
    task = problems.problem("mixture", 4)
    plan = HeunEDM().plan(task.points("karras 7", 600))
    end = plan.solve(Run(task.denoise), task.start)
    assert problems.rmse(end, problems.answer("mixture", 4).end).max() < 1e-3


def test_evaluations_are_counted_and_paid_for():
    end = problems.answer("mixture", 2).end
    results = problems.contest(
        "ours", quality.our_contestants([HeunEDM]), {"mixture": end}, (4, 5), seeds=2
    )
    assert {(r.steps, r.nfe) for r in results} == {(2, 3), (3, 5)}


def test_a_plan_with_two_names_runs_once():
    end = problems.answer("mixture", 2).end
    results = problems.contest(
        "ours", quality.our_contestants([DDIM, Euler]), {"mixture": end}, (4,), seeds=2
    )
    assert len(results) == len({r.spacing for r in results}) == len(problems.SPACINGS) - 1


def test_diffusers_euler_is_ours():
    pytest.importorskip("diffusers")
    task = problems.problem("mixture", 2)
    points = task.points("karras 7", 6)
    theirs = peers.Recipe("EulerDiscreteScheduler", slope=True).play(task, points, task.denoise)
    ours = Euler().plan(points).solve(Run(task.denoise), task.start)
    assert torch.allclose(theirs, ours, atol=1e-5)


@pytest.mark.full
def test_quality_says_who_is_ahead():
    pytest.importorskip("diffusers")
    ends = {"mixture": problems.answer("mixture", 4).end}
    results = quality.our_results(ends, **SMALL) + peers.diffusers_results(ends, **SMALL)
    assert not [r for r in results if r.failure]
    rows = quality.table(results, ["mixture"], SMALL["budgets"])
    assert [(row["problem"], row["nfe"]) for row in rows] == [("mixture", 4), ("mixture", 6)]
    for row in rows:
        assert math.isfinite(row["ratio"]) and row["ours"]["error"] > 0
        assert row["ours"]["nfe"] <= row["nfe"] and row["diffusers"]["nfe"] <= row["nfe"]
    json.dumps(rows)


def test_behind_lists_the_rows_a_peer_wins():
    def result(side, error):
        return problems.Result("mixture", side, "S", "karras 7", 4, 4, error)

    rows = quality.table([result("ours", 2.0), result("ComfyUI", 1.0)], ["mixture"], (4,))
    assert quality.behind(rows) == [
        ["mixture", 4, "ours: S, karras 7", "ComfyUI: S, karras 7", 2.0]
    ]
    rows = quality.table([result("ours", 1.0), result("ComfyUI", 1.0002)], ["mixture"], (4,))
    assert rows[0]["winner"] == "tie" and quality.behind(rows) == []


@pytest.mark.full
@pytest.mark.host
def test_comfy_is_measured_where_there_is_one():
    if peers.comfy_root() is None:
        missing("host", "no ComfyUI: set COMFYUI_PATH, or install one in ~/comfy/ComfyUI")
    results = peers.comfy_results(
        {"mixture": problems.answer("mixture", 2).end},
        budgets=(5,),
        seeds=2,
        spacings=("karras 7",),
    )
    assert {"euler", "dpmpp_2m", "ipndm 3", "uni_pc_bh2"} <= {r.solver for r in results}
    assert all(math.isfinite(r.error) and r.nfe <= 5 for r in results)


def test_overhead_of_every_family():
    pytest.importorskip("diffusers")
    data = overhead.measure([(1, 4, 8, 8)], steps=4, repeats=1)
    assert {row["family"] for row in data["rows"]} >= {"euler", "heun", "ddim", "ddpm"}
    for row in data["rows"]:
        assert 0 < row["ratio"] <= data["worst_ratio"] < math.inf
        assert row["ours"] > 0 and row["diffusers"] > 0 and row["kernels"] > 0
    json.dumps(data)


def test_one_forward_pass_is_timed_against_two():
    row = batched.measure("network-small", threads=1, batch=2, repeats=1)
    assert (row["threads"], row["batch"]) == (1, 2) and torch.get_num_threads() >= 1
    assert row["ratio"] == row["two_passes"] / row["one_pass"] > 0
    assert row["distance"] < 1e-4, "both ways give one D"
