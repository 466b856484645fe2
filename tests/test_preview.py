"""The route that live plots ask, the nodes behind it, and the drawn spacing."""

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from product import each
from scipy.interpolate import PchipInterpolator

from sampling_kit.nodes import NODES
from sampling_kit.nodes.ui.live_route import MOST_BYTES, MOST_NODES, VALUES, answer
from sampling_kit.nodes.ui.payload import KEY
from sampling_kit.schedulers.measure.run_levels import MOST_LEVELS, Run, record
from sampling_kit.schedulers.noise_schedule import ALL as SCHEDULES
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.show.schedule_plot import plot
from sampling_kit.schedulers.solver import ALL as SOLVERS
from sampling_kit.schedulers.spacing import Drawn, Karras, Linspace, Trailing, space
from sampling_kit.schedulers.spacing.written import monotone_cubic

BY_ID = {node.define_schema().node_id: node for node in NODES}


def graph(**steps):
    """1 schedule → 2 Steps → 3 Plot Schedule (with 4 Schedule Editor); 5 DDIM → 6 Solver Table."""
    return {
        "1": {"class_type": "SamplingKitNoiseSchedule", "inputs": {"kind": "vp_linear"}},
        "2": {
            "class_type": "SamplingKitSteps", "title": "My steps",
            "inputs": {"noise_schedule": ["1", 0], "steps": 5, "spacing": "karras", **steps},
        },
        "3": {
            "class_type": "SamplingKitPlotSchedule",
            "inputs": {"sigmas.sigmas0": ["2", 0], "sigmas.sigmas1": ["4", 0], "y": "sigma"},
        },
        "4": {"class_type": "SamplingKitScheduleEditor", "inputs": {"noise_schedule": ["1", 0], "steps": 4}},
        "5": {"class_type": "SamplingKitDDIM", "inputs": {"eta": 0.0}},
        "6": {
            "class_type": "SamplingKitSolverTable",
            "inputs": {"sampler": ["5", 0], "sigmas": ["2", 0], "noise_schedule": ["1", 0]},
        },
    }  # fmt: skip


def ask(nodes, node):
    return answer(json.dumps({"graph": nodes, "node": node}).encode())


def at_once(act):
    """What ``act`` gives, which takes less than 50 ms; the best of five, since machines are busy."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        told = act()
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05
    return told


def shown(nodes, node):
    status, told = ask(nodes, node)
    assert status == 200, told
    return told


# ------------------------------------------------------------------------------- what is answered


def test_levels_are_those_of_the_run():
    (run,) = shown(graph(), "2")["runs"]
    points = space(LinearVP(), 5, Karras())
    np.testing.assert_allclose(run["sigma"], points.sigmas(), rtol=1e-6)
    np.testing.assert_allclose(run["lambda"][:-1], [points[i].lam for i in range(5)], rtol=1e-6)
    np.testing.assert_allclose(run["timestep"][:-1], LinearVP().time(points.kappas[:-1]), rtol=1e-6)
    assert run["lambda"][-1] is None and run["timestep"][-1] is None
    assert run["steps"] == 5 and run["every"] == 1


def test_a_preview_is_what_the_node_shows_after_its_run():
    schedule = BY_ID["SamplingKitNoiseSchedule"].execute(kind={"kind": "vp_linear"}).args[0]
    steps = BY_ID["SamplingKitSteps"].execute(
        noise_schedule=schedule, steps=5, spacing={"spacing": "karras"}
    )
    assert json.loads(steps.ui[KEY][0]) == shown(graph(), "2")
    sampler = BY_ID["SamplingKitDDIM"].execute(eta=0.0).args[0]
    table = BY_ID["SamplingKitSolverTable"].execute(
        sampler=sampler, sigmas=steps.args[0].double(), noise_schedule=schedule
    )
    after, before = json.loads(table.ui[KEY][0])["plan"], shown(graph(), "6")["plan"]
    assert {k: after[k] for k in after if k != "rows"} == {
        k: before[k] for k in before if k != "rows"
    }
    for a, b in zip(after["rows"], before["rows"], strict=True):
        assert [v if v is None else pytest.approx(v, rel=1e-5, abs=1e-6) for v in b] == a


def test_runs_are_overlaid_with_their_own_schedule_and_name():
    first, second = shown(graph(), "3")["runs"]
    assert (first["name"], second["name"]) == ("0: Karras, 5", "1: drawn curve, 4")
    assert len(first["sigma"]) == 6 and len(second["sigma"]) == 5
    assert first["timestep"] and second["timestep"]


def test_a_plan_has_a_row_per_stage_and_null_where_nothing_is_used():
    plan = shown(graph(), "6")["plan"]
    assert (plan["nfe"], plan["order"], plan["steps"], plan["stages"]) == (5, 1, 5, 6)
    assert plan["columns"][:5] == ["stage", "step", "σ", "path α", "path σ"]
    assert plan["rows"][0][plan["columns"].index("D[0]")] is None


@pytest.mark.some(12)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.__name__)
def test_every_solver_has_a_table_or_says_why_not(solver):
    nodes = graph()
    nodes["5"] = {"class_type": f"SamplingKit{solver.__name__}", "inputs": {}}
    status, told = ask(nodes, "6")
    if solver.planned:
        plan = told["plan"]
        assert status == 200 and plan["nfe"] > 0 and len(plan["rows"]) == plan["stages"]
        assert all(len(row) == len(plan["columns"]) for row in plan["rows"])
    else:
        assert status == 400 and "no table" in told["error"]


def test_what_only_a_run_can_tell_is_named():
    nodes = graph()
    nodes["1"] = {"class_type": "CheckpointLoaderSimple", "title": "My model"}
    assert shown(nodes, "2") == {"unknown": "My model"}
    assert shown(nodes, "6") == {"unknown": "My model"}
    editor = shown(nodes, "4")
    assert editor["unknown"] == "My model" and editor["curve"][:1] + editor["curve"][-1:] == [1, 0]


def test_the_runs_that_are_known_are_shown_beside_one_that_is_not():
    nodes = graph()
    nodes["4"] = {"class_type": "BasicScheduler", "title": "Native steps"}
    told = shown(nodes, "3")
    assert told["unknown"] == "Native steps" and [r["name"] for r in told["runs"]] == ["Karras, 5"]


def test_what_is_not_connected_is_named():
    nodes = graph()
    del nodes["2"]["inputs"]["noise_schedule"]
    assert shown(nodes, "3") == {"missing": "noise_schedule of “My steps”"}


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (dict(steps=10**6), "1000000: must be a whole number from 1 to 10000"),
        (dict(steps=10**400), "steps"),
        (dict(steps=0), "from 1 to 10000"),
        (dict(steps=True), "whole number"),
        (dict(steps="20"), "whole number"),
        (dict(steps=2.5), "whole number"),
        (dict(steps=None), "whole number"),
        (dict(steps={}), "whole number"),
        (dict(steps=10000), str(MOST_LEVELS)),
        (dict(steps=4000, denoise=0.01), str(MOST_LEVELS)),
        (dict(denoise=1e300), "0.01"),
        (dict(spacing="nothing"), "karras"),
        (dict(spacing=7), "karras"),
        (dict(**{"spacing.rho": -1}), "0.1"),
        (dict(final="end"), "zero"),
        (dict(spacing="explicit", **{"spacing.values": "9" * 20000}), "16384"),
        (dict(spacing="explicit", **{"spacing.values": "3, 2, nan"}), "nan"),
        (dict(spacing="explicit", **{"spacing.values": "1, 2"}), "strictly down"),
        (dict(spacing="drawn", **{"spacing.curve": "0:1"}), "2 to 64 points"),
        (dict(noise_schedule=["5", 0]), "NOISE_SCHEDULE"),
        (dict(noise_schedule=["2", 0]), "NOISE_SCHEDULE"),
        (dict(steps=["1", 0]), "needs a INT"),
        (dict(noise_schedule=["nowhere", 0]), "nowhere"),
        (dict(noise_schedule=[]), "link"),
        (dict(noise_schedule="text"), "link"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_in_words_and_at_once(inputs, words):
    status, told = at_once(lambda: ask(graph(**inputs), "2"))
    assert status == 400 and words in told["error"], told
    assert len(told["error"]) < 400


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(number):
    body = json.dumps({"graph": graph(denoise=0.5), "node": "2"}).replace("0.5", number)
    status, told = answer(body.encode())
    assert status == 400 and number in told["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"null",
        b'{"graph": {}, "node": "1"}',
        b'{"graph": [], "node": "1"}',
        b'{"graph": {"1": null}, "node": "1"}',
        b'{"graph": {"1": {"class_type": "SamplingKitSteps"}}, "node": "1"}',
        b'{"graph": {"1": {"class_type": "SamplingKitSteps", "inputs": []}}, "node": "1"}',
        b'{"graph": {"1": {"class_type": 5}}, "node": "1"}',
        b"[" * 60000,
        b'{"graph": ' * 6000,
        b" " * (MOST_BYTES + 1),
        json.dumps({"graph": {str(i): {} for i in range(MOST_NODES + 1)}, "node": "1"}).encode(),
        b'{"graph": {"1": {"class_type": "SamplingKitDDIM", "inputs": {}}}, "node": "1"}',
        b'{"graph": {"1": {"class_type": "SamplingKitDDIM", "inputs": {}}}, "node": "1", "file": "x"}',
    ],
    ids=range(17),
)
def test_bodies_that_are_no_request_are_refused(body):
    status, told = at_once(lambda: answer(body))
    assert status == 400 and told["error"]


def test_many_paths_to_one_node_are_walked_once():
    nodes = {
        "0": graph()["2"] | {"inputs": graph()["2"]["inputs"] | {"noise_schedule": ["s", 0]}},
        "s": graph()["1"],
    }
    for i in range(1, 60):
        links = {f"sigmas.sigmas{j}": [str(i - 1), 0] for j in range(8)}
        nodes[str(i)] = {"class_type": "SamplingKitPlotSchedule", "inputs": links}
    start = time.perf_counter()
    ask(nodes, "59")
    assert time.perf_counter() - start < 1


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["1", "2", "karras", "explicit", "drawn", "vp_cosine", "rectified_flow"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = sorted(
    {
        "noise_schedule",
        "sigmas",
        "sampler",
        "sigmas.sigmas0",
        "kind",
        "kind.timesteps",
        "spacing.rho",
    }
    | {item.id for node, _ in VALUES.values() for item in node.define_schema().inputs}
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_junk_is_answered_with_json_and_never_with_an_exception(data):
    nodes = graph()
    for _ in range(data.draw(st.integers(1, 4))):
        target = data.draw(st.sampled_from(sorted(nodes)))
        if data.draw(st.booleans()):
            nodes[target]["class_type"] = data.draw(
                st.sampled_from(sorted(VALUES)) | st.text(max_size=5)
            )
        nodes[target]["inputs"][data.draw(st.sampled_from(NAMES))] = data.draw(JUNK)
    status, told = ask(nodes, data.draw(st.sampled_from(sorted(nodes))))
    assert status in (200, 400)
    assert len(json.dumps(told, allow_nan=False)) < 256 * 1024


# -------------------------------------------------------------------------------- long and bounded


def test_payloads_stay_small_and_keep_both_ends():
    points = space(EDM(), 10000, Karras())
    runs = [Run(points, EDM(), str(i)) for i in range(8)]
    told = record(runs)
    assert len(json.dumps(told, allow_nan=False)) < 256 * 1024
    for run in told["runs"]:
        assert run["sigma"][0] == 80 and run["sigma"][-1] == 0
        assert run["steps"] == 10000 and len(run["sigma"]) <= MOST_LEVELS // 8 + 1
        assert min((len(run["sigma"]) - 1) * run["every"], 10000) == 10000


def test_levels_without_a_schedule_are_sigma_only():
    run = Run(Points.from_sigmas(VE(), [3.0, 1.0, 0.0]))
    assert run.values("sigma") == [3.0, 1.0, 0.0] and run.values("log_sigma")[-1] is None
    assert run.values("lambda") == [None] * 3
    (told,) = record([run])["runs"]
    assert told["lambda"] is None and told["timestep"] is None


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_gives_finite_payloads(name):
    run = Run(space(SCHEDULES[name](), 12, Trailing()), SCHEDULES[name]())
    json.dumps(record([run]), allow_nan=False)
    assert all(t is not None for t in run.values("timestep")[:-1])


def test_plots_are_pictures():
    runs = [
        Run(space(EDM(), 10, Karras()), EDM(), "a"),
        Run(space(EDM(), 5, Linspace()), EDM(), "b"),
    ]
    for y in ("log_sigma", "sigma", "lambda", "timestep"):
        picture = plot(runs, y, "progress")
        assert picture.shape == (1, 640, 960, 3) and picture.std() > 0.01


def test_plot_schedule_takes_plain_sigmas_and_text_that_steps_takes():
    node, sigmas = BY_ID["SamplingKitPlotSchedule"], torch.tensor([14.0, 3.0, 0.5, 0.0])
    picture, text, facts = node.execute(sigmas={"sigmas0": sigmas}, y="sigma").args
    assert picture.shape[-1] == 3 and text == "14, 3, 0.5, 0"
    assert json.loads(facts)["runs"][0]["lambda"] is None
    again = BY_ID["SamplingKitSteps"].execute(
        noise_schedule=EDM(), steps=1, spacing={"spacing": "explicit", "values": text}
    )
    assert torch.equal(again.args[0], sigmas)


def test_the_table_needs_a_solver_of_ours():
    with pytest.raises(ValueError, match="solver node"):
        BY_ID["SamplingKitSolverTable"].execute(
            sampler=object(), sigmas=torch.tensor([1.0, 0.0]), noise_schedule=EDM()
        )


# --------------------------------------------------------------------------------------- the curve


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
    st.lists(st.floats(0.01, 1), min_size=12, max_size=12),
)
def test_the_curve_is_the_monotone_cubic(widths, drops):
    x = np.concatenate([[0], np.cumsum(widths)]) / sum(widths)
    y = 1 - np.concatenate([[0], np.cumsum(drops[: len(widths)])]) / sum(drops)
    at = np.linspace(0, 1, 257)
    got = monotone_cubic(x, y, at)
    np.testing.assert_allclose(got, PchipInterpolator(x, y)(at), atol=1e-12)
    assert np.all(np.diff(got) < 0)


def test_a_straight_line_is_linspace_and_in_log_sigma_exponential():
    for schedule in (EDM(), RectifiedFlowSchedule(3.0)):
        straight = space(schedule, 9, Drawn("0:1, 1:0")).kappas
        np.testing.assert_allclose(straight, space(schedule, 9, Linspace()).kappas, rtol=1e-12)
    even = np.diff(np.log(space(EDM(), 9, Drawn("0:1, 1:0", "log_sigma")).kappas[:-1]))
    np.testing.assert_allclose(even, even[0])


@each(name=SCHEDULES, scale=["timestep", "sigma", "log_sigma"])
def test_drawn_levels_fall_from_the_height_of_the_first_point(name, scale):
    schedule = SCHEDULES[name]()
    for n in (1, 2, 3, 20, 500):
        points = space(schedule, n, Drawn("0:1, 0.2:0.9, 0.3:0.1, 1:0", scale))
        assert len(points) == n + 1 and points.kappas[-1] == 0
        assert points.kappas[0] == pytest.approx(schedule.kappa_max)
        if n > 1:
            assert points.kappas[-2] == pytest.approx(schedule.kappa_min, rel=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", "1, 2", "0:1", "0:1, 0.5:0.5", "0:1, 0.5:0.5, 0.5:0.4, 1:0", "0:0, 1:1", "0:2, 1:0", "0:nan, 1:0", "0:1, 1:-1", "0.1:1, 1:0"],
)  # fmt: skip
def test_a_text_that_is_no_curve_is_refused(text):
    with pytest.raises(ValueError, match=r"drawn curve: curve"):
        Drawn(text)


# --------------------------------------------------------------------------------------- the sum


def many(count, **steps):
    """A Plot Schedule over ``count`` Steps."""
    made = graph(**steps)
    nodes = {f"s{i}": made["2"] | {"inputs": made["2"]["inputs"] | steps} for i in range(count)}
    links = {f"sigmas.sigmas{i}": [f"s{i}", 0] for i in range(count)}
    plot_ = {"class_type": "SamplingKitPlotSchedule", "inputs": {**links, "y": "sigma"}}
    return {"1": made["1"], **nodes, "3": plot_}


def test_what_many_nodes_make_together_is_bounded():
    """Each of them within its bounds; the sum is not."""
    body = json.dumps({"node": "3", "graph": many(8, steps=2000)}).encode()
    start = time.thread_time()
    status, told = answer(body)
    assert status == 400 and "levels in all" in told["error"]
    assert time.thread_time() - start < 1
    assert answer(json.dumps({"node": "3", "graph": many(4, steps=1000)}).encode())[0] == 200


def test_no_further_node_is_begun_after_a_second(monkeypatch):
    monkeypatch.setattr("sampling_kit.nodes.ui.live_route.MOST_SECONDS", -1.0)
    status, told = answer(json.dumps({"node": "2", "graph": graph()}).encode())
    assert status == 400 and "takes more than" in told["error"]


@pytest.mark.some(10)
@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_request_of_the_largest_kind_ends_soon(name):
    """Every node at the most of all its numbers, behind as many others as the bounds let through."""
    most = {}
    for item in VALUES[name][0].define_schema().inputs:
        facts = item.as_dict()
        if item.io_type in ("INT", "FLOAT") and facts.get("max") is not None:
            most[item.id] = min(facts["max"], MOST_LEVELS)
    made = graph(steps=MOST_LEVELS)
    made["x"] = {"class_type": name, "inputs": most | {"noise_schedule": ["1", 0]}}
    made["6"]["inputs"] = {"sampler": ["x", 0], "sigmas": ["2", 0], "noise_schedule": ["1", 0]}
    for node in ("x", "6"):
        start = time.thread_time()
        status, _ = answer(json.dumps({"node": node, "graph": made}).encode())
        assert status in (200, 400) and time.thread_time() - start < 3
