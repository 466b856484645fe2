"""The honest baseline of fits: how rivals are chosen and kept, and what a ratio is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sampling_kit.benchmarks import fit_gain, fit_rivals, pages
from sampling_kit.benchmarks.fit_tasks import EMBEDDED, FIRST, JUDGES, Task
from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit import ends
from sampling_kit.schedulers.fit.grid import FIXED
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, DPMSolver


def gaussian_task():
    """Pictures of which a run from 80 sees nothing above 5."""
    scale = torch.logspace(-1, 0.5, 16).double().reshape(1, 4, 4)
    oracle = Gaussian(VE(), torch.zeros(16).double(), scale.flatten())
    field = lambda x, s, rows: oracle(x.flatten(1), s).reshape(x.shape)  # noqa: E731
    x = 80 * torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    rows = torch.arange(12)
    seen = Problem(VE(), field, 80.0, x, torch.zeros_like(x), rows[:6], rows[6:])
    fine = ends.table(seen, AdamsBashforth(2), 120, ends.Ends(80.0, 0.003))
    seen.end, seen.evaluations = seen.run(fine, rows), 0
    return SimpleNamespace(
        name="gaussian", weights="w", seen=seen, schedule=EDM(), data_std=float(seen.end.std())
    )


def few(monkeypatch):
    solvers = DDIM(), AdamsBashforth(2), AdamsBashforth(3), DPMSolver(2)
    monkeypatch.setattr(fit_rivals, "SCOUTS", solvers[:2])
    monkeypatch.setattr(fit_rivals, "SOLVERS", {s.call: s for s in solvers})
    monkeypatch.setattr(
        fit_rivals, "FIXED", {n: FIXED[n] for n in ("karras 7", "exponential", "trailing")}
    )


def test_the_best_pair_has_ends_of_its_own(monkeypatch, tmp_path):
    """Chosen from all, kept, and found again with the same numbers; other weights are refused."""
    few(monkeypatch)
    monkeypatch.setattr(fit_rivals, "STORED", tmp_path / "rivals.json")
    task = gaussian_task()
    row = fit_rivals.screen(task, 4)
    best, whole = row["best"]["mark"], row["whole"]["mark"]
    assert best["ends"] == "own" and whole["ends"] == "schedule"
    assert best["rmse"] < 0.8 * whole["rmse"]
    fit_rivals.keep(task, 4, row)
    pair = fit_rivals.stored_pair(task, 4, "best", "rmse")
    again = task.seen.errors(pair.table(task.seen), torch.arange(12)).square().mean().sqrt()
    assert float(again) == pytest.approx(row["best"]["rmse"]["rmse"])
    task.weights = "other"
    with pytest.raises(
        ValueError, match=r"run python -m benchmarks.fit_rivals --problems gaussian"
    ):
        fit_rivals.stored_pair(task, 4, "best", "rmse")


def test_a_screen_undoes_none_before_it_and_may_take_its_pairs_from_another_network(
    monkeypatch, tmp_path
):
    few(monkeypatch)
    monkeypatch.setattr(fit_rivals, "STORED", tmp_path / "rivals.json")
    task = gaussian_task()
    whole = fit_rivals.screen(task, 4)
    other = SimpleNamespace(name="other", weights="w")
    for where in (task, other):
        fit_rivals.keep(where, 4, whole)
    ddim = {solver.call: solver for solver in [DDIM()]}
    monkeypatch.setattr(fit_rivals, "SCOUTS", (DDIM(),))
    with monkeypatch.context() as patch:
        patch.setattr(fit_rivals, "SOLVERS", ddim)
        again = fit_rivals.screen(task, 4)
    assert again["best"]["rmse"]["solver"] != DDIM().call
    assert again["best"]["rmse"]["rmse"] <= whole["best"]["rmse"]["rmse"] * (1 + 1e-9)
    task.name = "new"
    like = fit_rivals.screen(task, 4, ["other"])
    assert like["like"] == ["other"] and like["evaluations"] < whole["evaluations"]
    assert {like["best"][by]["solver"] for by in ("rmse", "median")} <= {
        whole[among][by]["solver"] for among in ("best", "whole") for by in ("rmse", "median")
    }


def test_stored_rivals_are_pairs_of_the_kit():
    stored = fit_rivals.read()
    assert {"hsc"} <= set(stored)
    for name, facts in stored.items():
        if name in EMBEDDED:
            assert facts["weights"] == Task(name).weights
        for nfe, row in facts["nfe"].items():
            for among in ("best", "whole"):
                for by in ("mark", "rmse", "median"):
                    entry = row[among][by]
                    solver = fit_rivals.solver_of(entry["solver"])
                    assert solver.call == entry["solver"]
                    assert entry["spacing"] in FIXED
                    assert solver.nfe(len(entry["kappas"]) - 1) <= int(nfe)
                    assert entry["kappas"] == sorted(entry["kappas"], reverse=True)
                    assert among == "best" or entry["ends"] == "schedule"
                assert row["best"][by][by if by != "mark" else "rmse"] > 0
            assert row["best"]["rmse"]["rmse"] <= row["whole"]["rmse"]["rmse"]
            assert row["best"]["median"]["median"] <= row["whole"]["median"]["median"]


def test_every_pair_is_read_from_its_name(monkeypatch):
    """Also where it is no longer among those that are compared."""
    every = dict(fit_rivals.SOLVERS)
    monkeypatch.setattr(fit_rivals, "SOLVERS", {})
    assert all(fit_rivals.solver_of(name) == solver for name, solver in every.items())


def test_judges_have_chosen_nothing():
    assert JUDGES <= FIRST


def test_a_ratio_takes_the_same_seeds_on_both_sides():
    pair = np.random.default_rng(0).exponential(size=64)
    for of in (fit_gain.rmse, fit_gain.median, fit_gain.trimmed):
        found = fit_gain.ratio(of, pair / 2, pair, 50)
        assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    other = fit_gain.ratio(fit_gain.rmse, pair[::-1] / 2, pair, 50)
    assert other.low < 0.5 < other.high


def test_the_trimmed_error_leaves_out_the_worst():
    errors = np.array([1.0] * 98 + [50.0, 90.0])
    assert fit_gain.trimmed(errors) == 1 and fit_gain.rmse(errors) > 10


def test_a_row_of_the_table(monkeypatch):
    """The fit is the pair itself, so every ratio is 1 and the distances are one."""
    few(monkeypatch)
    task = gaussian_task()
    task.judges = lambda count: task.seen
    task.features = lambda images: images.flatten(1)[:, :3]
    task.seen.held = torch.arange(12)
    points = fit_rivals.spacings.space(EDM(), 4, FIXED["karras 7"])
    pair = fit_rivals.Pair(DDIM().call, "karras 7", "schedule", points.kappas)
    table = pair.table(task.seen)
    monkeypatch.setattr(fit_gain, "stored_pair", lambda *which: pair)
    monkeypatch.setattr(fit_gain, "fit_of", lambda *which: SimpleNamespace(table=table, card={}))
    facts = fit_gain.row(task, 4, 12)
    assert facts["best"]["rmse"]["value"] == facts["whole"]["median"]["value"] == 1
    assert facts["frechet"]["fit"] == facts["frechet"]["pair"]
    facts["problem"] = "hsc"
    begin, end = fit_gain.MARKS
    page = pages.written(f"a{begin}old{end}z", fit_gain.MARKS, fit_gain.table([facts]))
    assert "old" not in page and "1.00 [1.00, 1.00]" in page and page.endswith("z")
    both = fit_gain.table(
        [{**facts, "nfe": 3}, {**facts, "problem": "cond, made here"}], fit_gain.table([facts])
    )
    again = fit_gain.table([{**facts, "seeds": 5}], both).splitlines()
    keys = [tuple(line.split(" | ")[:3]) for line in again[2:]]
    assert keys == [("| hsc", "3", "12"), ("| hsc", "4", "5"), ("| cond, made here", "4", "12")]
