"""Several questions to the route of live plots in one request, and noise schedules that a run left behind."""

from __future__ import annotations

import json

from test_preview import graph, shown

from sampling_kit.nodes.ui import remembered
from sampling_kit.nodes.ui.live_route import answer
from sampling_kit.schedulers.noise_schedule import LinearVP


def test_requests_are_answered_together():
    """Each as if it came alone; a bad one says so in its place; what takes too long is put off."""
    nodes = graph()
    requests = [{"graph": nodes, "node": name} for name in ("2", "6", "nowhere")]
    status, told = answer(json.dumps({"requests": requests}).encode())
    answers = told["answers"]
    assert status == 200 and answers[:2] == [shown(nodes, "2"), shown(nodes, "6")]
    assert answers[2].keys() == {"error"}
    for bad in ({"requests": [requests[0]] * 65}, {"requests": {}}, {"requests": [], "node": "2"}):
        assert answer(json.dumps(bad).encode())[0] == 400


def test_requests_that_take_too_long_together_are_put_off(monkeypatch):
    monkeypatch.setattr("sampling_kit.nodes.ui.live_route.MOST_SECONDS", 1e-9)
    request = {"graph": {"5": graph()["5"]}, "node": "5"}
    _, told = answer(json.dumps({"requests": [request] * 3}).encode())
    assert told["answers"][1:] == [{"later": True}] * 2 and "later" not in told["answers"][0]


def test_the_noise_schedule_of_a_run_is_remembered():
    """Steps after a node that only a run can tell stay live with what the run left, under a name that says nothing."""
    schedule = LinearVP()
    (name,) = remembered.schedule_on_page(schedule)[remembered.SCHEDULE]
    assert remembered.schedule_on_page(schedule)[remembered.SCHEDULE] == [name] and len(name) == 32
    nodes = graph() | {
        "1": {
            "class_type": "SamplingKitNoiseScheduleFromModel",
            "title": "My model",
            "remembered": name,
        }
    }
    live, plain = shown(nodes, "2"), shown(graph(), "2")
    assert live == plain | {"remembered": "My model"}
    nodes["2"]["inputs"]["steps"] = 9
    assert shown(nodes, "2")["runs"][0]["steps"] == 9
    for other in ("0" * 32, None, 5, ["x"]):
        nodes["1"]["remembered"] = other
        assert shown(nodes, "2") == {"unknown": "My model"}
    for _ in range(remembered.MOST):
        remembered.schedule_on_page(LinearVP())
    assert remembered.recall(name) is None
