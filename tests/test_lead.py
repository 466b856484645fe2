"""benchmarks.lead: each side brings its lists, chooses by some seeds and is judged by others."""

import json
import math

import pytest
import torch

from sampling_kit.benchmarks import lead, lead_choice, lead_ours, lead_peers, lead_skrample
from sampling_kit.benchmarks.lead_choice import Seeds, Winner, size
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, GaussianAdams

FEW, ROUNDS = 3, ((2, 4), (3, 1))


@pytest.fixture
def seeds(monkeypatch):
    for module in (lead_choice, lead_ours):
        monkeypatch.setattr(module, "CHOSEN_BY", FEW)
    task = lead_choice.task_of("drawn-0-cfg2", 2 * FEW)
    return Seeds(task, task.finer_run(40))


def test_a_mixture_is_had_with_guidance_and_without(seeds):
    task, plain = seeds.task, lead_choice.task_of("drawn-0-none", 2)
    assert (task.name, plain.name) == ("drawn-0 cfg 2", "drawn-0") and lead.guidance(
        task.name
    ) == "CFG 2"
    x = plain.start
    assert not torch.equal(plain.denoise(x, 2.0), task.denoise(x, 2.0))


def test_a_side_goes_by_rmse_and_the_median_to_more_seeds():
    """On three seeds "lucky" has the least RMSE and "rare" the least median; on five "rare" errs less."""
    errors = {
        "lucky": [0.1, 0.1, 0.1, 9.0, 9.0],
        "steady": [0.3, 0.3, 0.3, 0.3, 0.3],
        "rare": [0.05, 0.05, 1.0, 0.05, 0.05],
        "worse": [0.8, 0.8, 0.8, 0.1, 0.1],
        "broken": None,
    }
    played = []

    def play(pairs, seeds):
        played.append((list(pairs), len(seeds.end)))
        part = slice(*((0, 3) if len(seeds.end) == 3 else (3, 5)))
        return [
            None if errors[p] is None else torch.tensor(errors[p][part]).double() for p in pairs
        ]

    task = lead_choice.task_of("drawn-0-none", 5)
    five = Seeds(task, task.start)
    assert lead_choice.best(list(errors), play, five, ((3, 1), (5, 1))) == ("rare", 4)
    assert played == [(list(errors), 3), (["lucky", "rare"], 2)]
    with pytest.raises(ValueError, match="no pair runs"):
        lead_choice.best(["broken"], play, five, ((3, 1),))


def test_our_side_takes_the_pair_that_is_best_on_the_seeds_it_chooses_by(seeds, monkeypatch):
    solvers = (DDIM(), AdamsBashforth(2), GaussianAdams(predictor=2, corrector=0))
    monkeypatch.setattr(lead_ours, "SCOUTS", solvers[:1])
    monkeypatch.setattr(lead_ours, "our_solvers", lambda: solvers)
    monkeypatch.setattr(lead_choice.best, "__defaults__", (ROUNDS,))
    best, tried = lead_choice.best(lead_ours.our_choices(seeds, 5), lead_ours.play, seeds)
    grids = lead_ours.best_grids(seeds.part(0, FEW), 5, lead_ours.our_grids(seeds.task))
    assert lead_ours.GRIDS <= len(grids) <= 2 * lead_ours.GRIDS
    assert tried <= len(grids) * len(solvers) and tried > len(solvers)
    first = seeds.part(0, FEW)
    (errors,) = lead_ours.play([best], first)
    scouted = lead_ours.on_grid(seeds.task, 5, solvers[:1], grids[0])
    assert size(errors) <= size(lead_ours.play(scouted, first)[0])
    won, auto = lead_ours.ours({"drawn-0-cfg2": seeds.end}, [5])
    (left,) = lead_ours.play([best], seeds.part(FEW))
    assert won.rmse == size(left) and (won.tried, auto.side) == (tried, "auto")


@pytest.mark.parametrize("schedule", [ScaledLinearVP(), EDM(), RectifiedFlowSchedule(3.0)])
def test_peers_come_with_their_own_levels(schedule):
    """From the schedule's largest level to 0, each option another run."""
    pytest.importorskip("diffusers")
    runs = {name: levels(6) for name, levels in lead_peers.diffusers_levels(schedule, None).items()}
    top = schedule.path.host.at(schedule.kappa_max).sigma
    assert len(set(map(tuple, runs.values()))) == len(runs) >= 2
    for name, sigmas in runs.items():
        assert len(sigmas) == 7 and sigmas[-1] == 0, name
        assert 0.1 * top <= sigmas[0] <= top * (1 + 1e-6), name


def test_a_peer_pays_for_what_it_calls(seeds, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(lead_choice.best, "__defaults__", (ROUNDS,))
    (recipe,) = (r for r in lead_peers.peers.ON_VE if r.name == "HeunDiscrete")
    levels = {"falling": lambda n: [*(14.6 / 4**k for k in range(n)), 0.0]}
    found = list(lead_peers.pairs([recipe.contestant("VE")], lambda _: levels, seeds.task, 5))
    assert [len(pair.points) - 1 for pair in found] == [3], "2·3 − 1 evaluations"
    assert found[0].errors(seeds, 5) is not None and found[0].errors(seeds, 4) is None
    winner = lead_peers.theirs("diffusers", [recipe.contestant("VE")], lambda _: levels, seeds, 5)
    assert winner.solver == "HeunDiscrete" and winner.tried == 1 and winner.rmse >= 0


def test_a_table_of_skrample_is_the_run_that_it_was_read_off(seeds):
    """Euler's: states and weights on the variance-preserving path, the run on ours."""
    kappas = (14.0, 3.0, 0.7, 0.0)
    points = Points(VE(), kappas)
    plan = DDIM().plan(points)
    sigmas = [k / math.hypot(1, k) for k in kappas]
    alphas = [1 / math.hypot(1, k) for k in kappas]
    states = [[sigmas[0], alphas[0], 1.0, []]]
    for i in range(3):
        _, _, start, weights = states[-1]
        keep = sigmas[i + 1] / sigmas[i]
        more = alphas[i + 1] - alphas[i] * keep
        row = [start * keep, [*(w * keep for w in weights), more]]
        states.append([sigmas[i + 1], alphas[i + 1], *row])
    choice = lead_skrample.choice(
        {"sampler": "Euler", "levels": "own", "states": states}, seeds.task.path
    )
    ours = lead_ours.Choice("DDIM()", "own", plan, points)
    (there,), (here,) = (lead_ours.play([c], seeds) for c in (choice, ours))
    torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-12)
    assert choice.plan.nfe == 3 and size(here) > 1e-3


def test_where_there_is_no_skrample_the_reason_is_said(monkeypatch, capsys):
    monkeypatch.setenv("SKRAMPLE_PYTHON", "/bin/false")
    for name, value in dict(CHOSEN_BY=1, JUDGED_BY=1, DRAWN_STEPS=2).items():
        monkeypatch.setattr(lead, name, value)
    assert list(lead.measure(["drawn-0-none"], [4], ["skrample"])) == []
    assert "skrample is left out: SKRAMPLE_PYTHON, /bin/false: " in capsys.readouterr().out


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
    assert lead.findings(lead.cells(rows[-1:])) == "No row has both sides."
    assert "| none | 5 | 1.00 | 2.00 | 1.00 | 1 of 2 | 1.22 | 1.50 |" in text
    assert "A peer is ahead in 1: b with 5 (2.00)" in text and "cfg" not in text
