"""What `benchmarks.fit_transfer` changes, and what a row of it is."""

from __future__ import annotations

import pytest
import torch

from sampling_kit.benchmarks import fit_transfer, pages
from sampling_kit.benchmarks.problems import network


def test_changed_weights_are_a_matrix_of_low_rank_away():
    net = network()
    other = fit_transfer.changed(net, 0.05)
    seen = 0
    for before, after in zip(net.parameters(), other.parameters(), strict=True):
        move = (after - before).detach()
        if before.ndim < 2:
            assert not move.any()
        elif seen < 3 and min(before.flatten(1).shape) > fit_transfer.RANK:
            seen += 1
            move = move.flatten(1).double()
            assert float(move.norm() / before.norm()) == pytest.approx(0.05, rel=1e-3)
            values = torch.linalg.svdvals(move)
            assert values[fit_transfer.RANK] < 1e-4 * values[0]
    assert seen == 3


def test_a_row_on_changed_weights_and_its_page():
    place = fit_transfer.Place("weights changed by 2 %", "cond", 1.0, share=0.02)
    facts = fit_transfer.row(network(), place, 4, 1)
    assert 0 < facts["fit"]["rmse"] < 1 and facts["moved"] > 0
    begin, end = fit_transfer.MARKS
    page = pages.written(f"{begin}{end}", fit_transfer.MARKS, fit_transfer.table([facts]))
    assert "| no guidance | weights changed by 2 % |" in page
    assert all(pages.FIT.read_text(encoding="utf-8").count(mark) == 1 for mark in (begin, end))
