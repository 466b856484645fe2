"""What a fit says: at once, every few seconds with rate and time left, and a verdict at its end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fit_cases import HELD, folders, guider_of, recording_of
from node_calls import returned

from sampling_kit.nodes.fit.fit_solver import METHODS, fitted
from sampling_kit.nodes.fit.talk import Talk, duration
from sampling_kit.schedulers.fit.problem import summary
from sampling_kit.schedulers.fit.starts import best_pair
from sampling_kit.schedulers.fit.verdict import Rival, verdict

__all__ = ["folders"]  # a fixture

QUICK = {"method": "forward", "numbers": 2, "bands": 1, "images": 6, "budget": 100_000}


def test_a_stage_is_said_at_once_and_then_every_second_with_rate_and_time_left():
    now, spent, said = [0.0], [100], []
    talk = Talk(lambda part, text: said.append((now[0], part, text)), lambda: now[0])
    talk.evaluations = lambda: spent[0]
    talk.stage("looking")
    assert said == [(0.0, 0, "looking")]
    for _ in range(40):  # an evaluation of 50 images every quarter of a second
        now[0] += 0.25
        spent[0] += 50
        talk.pulse()
    times = [t for t, *_ in said]
    assert max(b - a for a, b in pairwise(times)) <= 1.25 and len(said) == 11
    assert said[-1][2] == "looking, 200 evaluations a second"
    talk.stage("fit begins")
    now[0] += 30.0
    spent[0] += 600
    talk.now("fit: held-out error 0.1", 0.25)
    text = "fit: held-out error 0.1, 20 evaluations a second, 2 min left"
    assert said[-1] == (40.0, 250, text)
    talk.end("done")
    assert said[-1][1:] == (1000, "done")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")]
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rmse", "median", "end"),
    [(0.5, 0.5, "worth using."), (0.97, 0.5, "either will do."), (1.2, 0.5, "take that pair."), (0.5, 1.1, "take that pair.")],
)  # fmt: skip
def test_the_verdict_says_whether_to_use_it(rmse, median, end):
    pair = Rival("DDIM(), karras 7", 1.0, 1.0)
    text = verdict(6, dict(rmse=2.0, median=2.0), dict(rmse=rmse, median=median), pair)
    assert text.endswith(end) and text.count(".") - text.count("0.") - text.count("1.") == 1
    assert f"{round(100 * (1 - rmse / 2))} % less than its start" in text
    assert f"the best training-free pair with 6 evaluations ({pair.name})" in text
    in_place = verdict(6, dict(rmse=2.0), dict(rmse=1.0, median=1.0), pair, "pair")
    assert "few trajectories, so this is the best training-free pair" in in_place
    assert in_place.endswith("either will do.")
    assert "no training-free pair" in verdict(1, dict(rmse=2.0), dict(rmse=1.0), None)


def test_a_fit_talks_and_its_verdict_is_what_the_pairs_say():
    recording, said = recording_of(guider_of()), []
    fit = fitted(recording, METHODS["forward"](**{k: v for k, v in QUICK.items() if k != "method"}), 4, HELD, tell=lambda *told: said.append(told))  # fmt: skip
    texts = [text for _, text in said]
    assert "getting the model ready" in texts[0] and texts[-1] == fit.card["verdict"]
    assert any(t.startswith("fit") for t in texts) and said[-1][0] == 1000

    def best(ready):
        problem = recording.problem(ready, HELD)
        assert len(problem.held) == HELD
        pair = best_pair(problem, recording.schedule, 4)
        return summary(problem.errors(pair.table, problem.held))["rmse"]

    least, after = recording.ready(best), fit.card["after"]["rmse"]
    gain = round(100 * (1 - after / least))
    assert f"{gain} % less than the best training-free pair with 4 evaluations" in texts[-1]
    shown = returned("FitSolver", trajectories=recording, nfe=4, held_out=HELD, method=QUICK)
    assert shown.result[1].startswith(f"verdict: {fit.card['verdict']}\n")
