"""What `benchmarks.fit_limits` measures, on a problem that takes a second."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fit_cases import few
from test_fit_gain import gaussian_task

from sampling_kit.benchmarks import fit_gain, fit_limits
from sampling_kit.schedulers.fit.ends import Ends, table
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.solver import AdamsBashforth


def task():
    made = gaussian_task()
    made.judges = lambda count: replace(made.seen, held=torch.arange(count))
    return made


def short_of(monkeypatch, share):
    """A task whose ends are those of its fit and ``share`` of the last prediction."""
    at = task()
    table_ = table(at.seen, AdamsBashforth(2), 4, Ends(40.0, 0.05))
    fit = SimpleNamespace(table=table_)
    monkeypatch.setattr(fit_limits, "fit_of", lambda *which: fit)
    track = fit_limits.tracked(at.seen, table_, torch.arange(12))
    at.seen.end = track.y[-1] + share * track.d[-1]
    return at


@pytest.mark.parametrize("part", ["operator", "wide"])
def test_what_a_local_operator_could_mend_is_mended(monkeypatch, part):
    monkeypatch.setattr(fit_limits, "UNITS", 4)
    found = fit_limits.PARTS[part](short_of(monkeypatch, 0.3), 4, 12)
    assert found["corrected"]["rmse"] < 0.2 * found["fit"]["rmse"]


def test_last_weights_by_an_oracle_and_by_statistics(monkeypatch):
    found = fit_limits.weights(short_of(monkeypatch, 0.3), 4, 12)
    assert found["oracle"]["rmse"] < 1e-3 * found["fit"]["rmse"]
    assert found["ridge 0.0001"]["rmse"] < 0.1 * found["fit"]["rmse"]


def test_losses_are_fits_of_their_own(monkeypatch, tmp_path):
    few(monkeypatch)
    monkeypatch.setattr(fit_limits, "HUBERS", (huber := 0.5,))
    monkeypatch.setattr(fit_limits, "CAUCHYS", (cauchy := 0.35,))
    monkeypatch.setattr(fit_gain, "work_folder", lambda: tmp_path)
    with torch.no_grad():
        found = fit_limits.losses(task(), 3, 12)
    ways = {f"δ {Forward().huber:g}", f"δ {huber:g}", f"Cauchy {cauchy:g}"}
    assert set(found) == {"start", *ways}
    files = {file.name for file in tmp_path.iterdir()}
    assert len(files) == 3  # each was fitted
    assert all(found[way]["rmse"] < found["start"]["rmse"] for way in ways)
