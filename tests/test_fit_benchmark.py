"""The benchmark of fitted solvers: what it counts and how; the numbers themselves are its own output."""

from __future__ import annotations

import json

import pytest
import torch

from sampling_kit.benchmarks import fit as bench
from sampling_kit.benchmarks import problems, quality
from sampling_kit.embedded import fits
from sampling_kit.schedulers.denoiser.network import Attention, Config, Network, Residual
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth
from sampling_kit.schedulers.solver.fitted import FittedSolver, table_of


def result(rms: float, nfe: int = 6, failure: str = "", **changes: object) -> problems.Result:
    given = dict(
        problem="p", side="ours", solver="S", spacing="karras 7", steps=nfe, nfe=nfe, error=0.1
    )
    return problems.Result(**given | dict(failure=failure, rms=rms) | changes)


def test_rank_keeps_to_the_budget():
    found = bench.rank(
        [result(0.3), result(0.1, nfe=7), result(0.2), result(0.05, failure="bad")], 6
    )
    assert [r["rmse"] for r in found] == [0.2, 0.3]


def test_worst_is_over_guidances():
    rows = [
        dict(nfe=4, best=dict(ratio=0.5)),
        dict(nfe=4, best=dict(ratio=0.6)),
        dict(nfe=5),
    ]
    assert bench.worst(rows, "best", "ratio") == {"4": 0.6}


def test_a_contest_of_chosen_pairs():
    answers = {"mixture": problems.answer("mixture", 2).end}
    pairs = [
        [DDIM().call, "karras 7"],
        [AdamsBashforth(2).call, "exponential"],
    ]
    found = quality.our_results(answers, budgets=[5], seeds=2, only=pairs)
    assert [[r.solver, r.spacing] for r in found] == pairs
    assert all(r.rms >= r.error * 0.5 for r in found)


def random_network():
    torch.manual_seed(0)
    config = Config(channels=16, multiples=(1,), attention=(0,))
    net = Network(VE(), config).eval().requires_grad_(False)
    torch.nn.init.normal_(net.net.leave.weight, std=0.05)
    for part in net.modules():
        if isinstance(part, (Residual, Attention)):  # branches that do something
            layer = part.second if isinstance(part, Residual) else part.out
            torch.nn.init.normal_(layer.weight, std=0.05)
    return net


def test_a_row_compares_fit_and_pair(monkeypatch, tmp_path):
    """On a random network: the fit is the pair itself, so every ratio is 1."""
    net = random_network()
    monkeypatch.setattr(problems, "network", lambda: net)
    monkeypatch.setattr(bench, "reference", lambda: {"cond": torch.zeros(4, 3, 32, 32).double()})
    monkeypatch.setattr(fits, "FOLDER", tmp_path)
    problems.network_problem.cache_clear()
    problems.problem.cache_clear()
    points = problems.network_problem("network-cond", 4).points("karras 7", 4)
    solver = AdamsBashforth(2)
    monkeypatch.setattr(
        bench,
        "member",
        lambda g, m, n: FittedSolver(table_of(solver.plan(points)), dict(evaluations=7)),
    )
    pairs = [dict(side="ours", solver=solver.call, spacing="karras 7")]
    row = bench.row("cond", 4, 4, pairs, again=True)
    assert row["best"]["ratio"] == pytest.approx(1, rel=1e-4)
    assert row["forward"]["median_ratio"] == pytest.approx(1, rel=1e-4)
    assert json.dumps(row)
    problems.network_problem.cache_clear()
    problems.problem.cache_clear()


def test_fitting_seeds_are_not_the_benchmark_s():
    assert fits.FIRST_SEED > bench.ALL_SEEDS
    assert set(fits.NFES) == set(bench.BARS) == set(bench.FORWARD_BARS)


def test_the_fast_field_is_nearly_the_field():
    net, seeds = random_network(), torch.arange(4)
    x, rows = fits.starts(seeds) / 20, torch.arange(4)
    slow, fast = (fits.field(net, seeds, 2.0, fast) for fast in (False, True))
    error = (fast(x, 4.0, rows) - slow(x, 4.0, rows)).abs().max()
    assert 0 < error < 0.01


def test_making_fits_goes_on_where_it_was(tmp_path):
    effort = fits.Effort(6, 4, 1, 2, Forward(numbers=2, bands=0, images=3, budget=10**6))
    seeds = fits.FIRST_SEED + torch.arange(10)
    kept = tmp_path / "teacher.safetensors"
    made = []
    for _ in range(2):
        task = fits.part(fits.problem(random_network(), "cond", seeds, 4, kept), effort)
        assert task.evaluations == 10 * fits.TEACHER_STEPS
        made.append(fits.fitted(task, 3, effort, tmp_path / "3", lambda text: None))
    assert made[0] == made[1] and made[0].card == made[1].card
    assert (
        made[0].table.start == fits.START and made[0].card["start"].split(", σ ")[0] in fits.SOLVERS
    )
    fits.add(tmp_path / "family.safetensors", made[0])
    fits.add(tmp_path / "family.safetensors", made[1])
    assert fits.fit_files.load(tmp_path / "family.safetensors").nfes == (3,)


def test_shipped_fits_say_what_they_are_of():
    """Seeds as pairs, far from the benchmark's; within their budget."""
    for guidance in fits.GUIDANCE:
        assert fits.ready(guidance).nfes == fits.ready(guidance, "forward").nfes == fits.NFES
        for fit in fits.ready(guidance, "forward").fits:
            assert fit.card["evaluations"] <= Forward().allowed(fit.table.nfe)
            assert all(fits.FIRST_SEED <= a <= b for a, b in fit.card["seeds"])
            assert fit.card["guidance"] == fits.WORDS[guidance]
