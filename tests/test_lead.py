"""benchmarks.lead: each side brings its lists, chooses by some seeds and is judged by others."""

import json

import pytest
import torch

from sampling_kit.benchmarks import lead, lead_sides
from sampling_kit.benchmarks.lead_sides import Winner
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, GaussianAdams

FEW = 3


@pytest.fixture
def task():
    return lead_sides.task_of("drawn-0-cfg2", 2 * FEW)


def test_a_mixture_is_had_with_guidance_and_without(task):
    plain = lead_sides.task_of("drawn-0-none", 2)
    assert (task.name, plain.name) == ("drawn-0 cfg 2", "drawn-0") and lead.guidance(
        task.name
    ) == "CFG 2"
    x = plain.start
    assert not torch.equal(plain.denoise(x, 2.0), task.denoise(x, 2.0))


def test_our_side_takes_the_pair_that_is_best_on_the_seeds_it_chooses_by(task, monkeypatch):
    solvers = (DDIM(), AdamsBashforth(2), GaussianAdams(predictor=2, corrector=0))
    monkeypatch.setattr(lead_sides, "SCOUTS", solvers[:1])
    monkeypatch.setattr(lead_sides, "our_solvers", lambda: solvers)
    end = task.finer_run(40)
    best, tried = lead_sides.our_best(lead_sides.first(task, FEW), end[:FEW], 5)
    grids = lead_sides.our_grids(task)
    assert tried == len(grids) + lead_sides.GRIDS * len(solvers)
    errors = lead_sides.our_errors(lead_sides.first(task, FEW), end[:FEW], [best])[0]
    (scouted,) = lead_sides.on_grid(task, 5, solvers[:1], grids[0])
    one = lead_sides.our_errors(lead_sides.first(task, FEW), end[:FEW], [scouted])[0]
    assert lead_sides.size(errors) <= lead_sides.size(one)
    won, auto = lead_sides.ours({"drawn-0-cfg2": end}, [5], FEW)
    left = lead_sides.our_errors(lead_sides.rest(task, FEW), end[FEW:], [best])[0]
    assert won.rmse == lead_sides.size(left) and (won.tried, auto.side) == (tried, "auto")


@pytest.mark.parametrize("schedule", [ScaledLinearVP(), EDM(), RectifiedFlowSchedule(3.0)])
def test_peers_come_with_their_own_levels(schedule):
    """From the schedule's largest level to 0, each option another run."""
    pytest.importorskip("diffusers")
    runs = {name: levels(6) for name, levels in lead_sides.diffusers_levels(schedule, None).items()}
    top = schedule.path.host.at(schedule.kappa_max).sigma
    assert len(set(map(tuple, runs.values()))) == len(runs) >= 2
    for name, sigmas in runs.items():
        assert len(sigmas) == 7 and sigmas[-1] == 0, name
        assert 0.1 * top <= sigmas[0] <= top * (1 + 1e-6), name


def test_a_peer_pays_for_what_it_calls(task):
    pytest.importorskip("diffusers")
    (recipe,) = (r for r in lead_sides.peers.ON_VE if r.name == "HeunDiscrete")
    levels = {"falling": lambda n: [*(14.6 / 4**k for k in range(n)), 0.0]}
    found = list(lead_sides.pairs([recipe.contestant("VE")], lambda _: levels, task, 5))
    assert [len(pair.points) - 1 for pair in found] == [3], "2·3 − 1 evaluations"
    end = task.finer_run(40)
    assert found[0].error(task, end, 5) is not None and found[0].error(task, end, 4) is None
    winner = lead_sides.winner("diffusers", iter(found), task, end, 5, FEW)
    assert winner.solver == "HeunDiscrete" and winner.tried == 1 and winner.rmse >= 0


def test_the_table_counts_who_is_ahead(tmp_path, capsys):
    def row(problem, side, rmse, median):
        return Winner(problem, side, 5, "s", "levels", rmse, median, 9)

    rows = [
        *(row("a", side, r, r / 2) for side, r in (("ours", 1.0), ("auto", 3.0), ("ComfyUI", 2.0), ("diffusers", 4.0))),
        *(row("b", side, r, r) for side, r in (("ours", 2.0), ("auto", 1.0), ("diffusers", 1.0))),
        row("c cfg 2", "ours", 1.0, 1.0),
    ]  # fmt: skip
    file = tmp_path / "rows.json"
    lead.kept(file, rows[:4])
    assert (
        len(lead.kept(file, [*rows[4:], rows[0]])) == len(rows) == len(json.loads(file.read_text()))
    )
    lead.main(["--problems", "--keep", str(file)])
    text = capsys.readouterr().out
    assert "| none | 5 | 1.00 | 2.00 | 1.00 | 1 of 2 | 1.22 | 1.50 |" in text
    assert "A peer is ahead in 1: b with 5 (2.00)" in text and "cfg" not in text
