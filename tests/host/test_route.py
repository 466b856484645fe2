"""The pack's route in a real ComfyUI: what the page asks before a run."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sampling_kit.nodes.ui.live_route import MOST_BYTES, ROUTE, preview

pytestmark = pytest.mark.host

GRAPH = {
    "1": {"class_type": "SamplingKitNoiseSchedule", "inputs": {"kind": "rectified_flow", "kind.shift": 3.0}},
    "2": {"class_type": "SamplingKitSteps", "inputs": {"noise_schedule": ["1", 0], "steps": 9, "spacing": "trailing"}},
    "3": {"class_type": "SamplingKitPlotSchedule", "inputs": {"sigmas.sigmas0": ["2", 0], "y": "lambda"}},
    "4": {"class_type": "SamplingKitHeunEDM", "inputs": {"churn": 0.0}},
    "5": {
        "class_type": "SamplingKitSolverTable",
        "inputs": {"sampler": ["4", 0], "sigmas": ["2", 0], "noise_schedule": ["1", 0]},
    },
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("node", ["2", "3", "5"])
def test_the_host_answers_as_we_do_without_it(server: Any, prefix: str, node: str) -> None:
    request = {"graph": GRAPH, "node": node}
    assert json.loads(server.request(prefix + ROUTE, request)) == preview(request)


def test_a_million_steps_are_refused_at_once(server: Any) -> None:
    steps = GRAPH["2"] | {"inputs": GRAPH["2"]["inputs"] | {"steps": 10**6}}
    request = {"graph": GRAPH | {"2": steps}, "node": "2"}
    took = []
    for _ in range(5):
        start = time.perf_counter()
        told = json.loads(server.request(ROUTE, request))
        took.append(time.perf_counter() - start)
        assert "1000000" in told["error"]
    assert min(took) < 0.05


def test_a_long_body_is_not_read_to_its_end(server: Any) -> None:
    told = json.loads(server.request(ROUTE, {"graph": {}, "node": "x" * (4 * MOST_BYTES)}))
    assert str(MOST_BYTES) in told["error"]


def test_many_nodes_together_are_bounded_and_the_server_goes_on(server: Any) -> None:
    """Each within its bounds, sixty together: refused; meanwhile other requests are answered."""
    steps = GRAPH["2"] | {"inputs": GRAPH["2"]["inputs"] | {"steps": 1000}}
    nodes = {f"s{i}": steps for i in range(60)}
    links = {f"sigmas.sigmas{i}": [f"s{i}", 0] for i in range(60)}
    plot = {"class_type": "SamplingKitPlotSchedule", "inputs": {**links, "y": "sigma"}}
    start = time.perf_counter()
    told = json.loads(server.request(ROUTE, {"graph": {"1": GRAPH["1"], **nodes, "3": plot}, "node": "3"}))  # fmt: skip
    assert time.perf_counter() - start < 3
    assert "runs" in told or "error" in told
    assert json.loads(server.request(ROUTE, {"graph": GRAPH, "node": "2"}))["runs"]
