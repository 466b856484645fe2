"""A table for every picture, and noise on top of a table, on denoisers that are exact."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_fit_gain import gaussian_task

from sampling_kit.benchmarks import fit_gain, fit_instances, fit_noise
from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit.ends import Ends, table
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth

# ------------------------------------------------------------------------------- instances


def kinds(count: int = 48):
    """Which of two tables suits a picture is seen in its first feature; a third is best for none, but second for all."""
    draw = np.random.default_rng(0)
    kind = np.arange(count) % 2
    looks = np.stack([kind + 0.05 * draw.normal(size=count), draw.normal(size=count)], 1)
    known = np.stack([np.full(count, 0.9), *(np.where(kind == k, 0.5, 2.0) for k in (0, 1))])
    return looks, known, kind


@pytest.mark.parametrize("rule", [fit_instances.nearest_rule, fit_instances.ridge_rule])
def test_a_rule_takes_what_did_best_on_those_that_look_alike(rule):
    looks, known, kind = kinds()
    assert rule(looks, known, looks[:6]).tolist() == (1 + kind[:6]).tolist()


def test_a_rule_keeps_the_fit_where_looks_say_nothing():
    looks, known, _ = kinds()
    blind = np.random.default_rng(1).normal(size=looks.shape)
    picks = fit_instances.ridge_rule(blind, known, blind)
    assert np.mean(picks == 0) > 0.9  # the others cost ln 2 / .9 as often as they gain


def test_luck_is_what_an_oracle_gains_with_the_ratios_of_other_pictures():
    """Where every picture has its own best table by chance, the shuffled oracle gains as much; where none gains, nothing."""
    draw = np.random.default_rng(0)
    chance = np.exp(0.3 * draw.normal(size=(9, 400)))
    chance[0] = 1.0
    lucky = fit_instances.shuffled(chance)
    assert lucky["median"] == pytest.approx(np.median(chance.min(0)), rel=0.05)
    assert lucky["median"] < 0.75
    assert fit_instances.shuffled(np.maximum(chance, 1.0))["rmse"] == pytest.approx(1.0)


def test_tables_around_a_fit_share_its_first_prediction_and_only_the_oracle_is_sure_to_gain(
    monkeypatch,
):
    task = gaussian_task()
    fit = SimpleNamespace(table=table(task.seen, AdamsBashforth(2), 4, Ends(40.0, 0.05)))
    monkeypatch.setattr(fit_instances, "fit_of", lambda *which: fit)
    monkeypatch.setattr(fit_instances, "ratio", partial(fit_gain.ratio, draws=20))
    task.many = task.judges = lambda count: replace(task.seen, held=torch.arange(12))
    task.twins = lambda count, turn: task.judges(count)
    tables = fit_instances.around(fit.table)
    assert len({t.levels[1:] for t in tables}) == 1 + fit_instances.TABLES
    assert {(t.levels[0], t.x[0]) for t in tables} == {(fit.table.levels[0], fit.table.x[0])}
    found = fit_instances.instances(task, 4, 12)
    oracle = found["oracle"]["rmse"]
    assert oracle < found["fit"]["rmse"]
    assert found["twin 0.1"]["rmse"] == oracle  # these twins are the pictures themselves
    rules = [facts["rmse"] for name, facts in found.items() if " by " in name]
    assert len(rules) == 4 and min(rules) >= oracle


# ----------------------------------------------------------------------------------- noise

STD, COUNT = 0.5, 64


def pictures():
    """Gaussian pictures, and where their ODE ends."""
    oracle = Gaussian(VE(), torch.zeros(16).double(), torch.full((16,), STD).double())
    field = lambda x, s, rows: oracle(x.flatten(1), s).reshape(x.shape)  # noqa: E731
    x = torch.randn(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double() * 80
    end, rows = x * STD / math.hypot(80, STD), torch.arange(COUNT)
    return Problem(VE(), field, 80.0, x, end, rows, rows)


def test_noise_keeps_the_marginals_and_none_changes_nothing():
    """At every level a state's deviation is that of the data and the noise, whatever the noise per step."""
    at = pictures()
    fine = table(at, DDIM(), 48, Ends(80.0, 0.01))
    plain = fit_noise.ran(at, fit_noise.noisy(fine, (0.0,) * 47))
    assert torch.equal(plain, at.run(fine, at.held))
    once, again = (fit_noise.ran(at, fit_noise.noisy(fine, (0.1,) * 47), seed) for seed in (1, 2))
    assert float(once.std() / plain.std()) == pytest.approx(1, abs=0.04)
    alike = torch.corrcoef(torch.stack([once.flatten(), again.flatten(), plain.flatten()]))
    assert alike[0, 1] < 0.9 and alike[0, 2] < 0.95


def test_amounts_are_above_zero_where_a_coarse_run_is_too_narrow_and_never_by_rmse(monkeypatch):
    """Few steps of DDIM end with too little deviation. Noise gives it back; no noise brings an end nearer to the ODE's."""
    monkeypatch.setattr(fit_noise, "SWEEPS", 1)
    at = pictures()
    coarse = table(at, DDIM(), 3, Ends(80.0, 0.3))
    assert at.run(coarse, at.held).std() < 0.9 * at.end.std()
    task = SimpleNamespace(features=lambda ends: ends.flatten(1)[:, :3])
    found = fit_noise.searched(task, at, coarse)
    assert found["by RMSE"] == (0.0, 0.0)
    assert max(found["by distance"]) > 0
    run = {name: fit_noise.ran(at, fit_noise.noisy(coarse, g)) for name, g in found.items()}
    looks = {"exact": at.end, "fit": run["by RMSE"], "noise": run["by distance"]}
    far = fit_noise.distances({name: task.features(ends) for name, ends in looks.items()})
    assert far["noise"]["apart"]["more"] < 0 == far["fit"]["apart"]["more"]
    assert far["exact"]["same"]["value"] == pytest.approx(0, abs=1e-9)
    assert far["exact"]["apart"]["value"] > 0
