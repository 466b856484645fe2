"""Properties of all graphs, schedules, plans and inputs: made at random within what the nodes declare (hypothesis)."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import exact_for_constant, shift_invariant
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_sweep import workflow

from sampling_kit.headless.context import Context, use
from sampling_kit.headless.graph import check, execute
from sampling_kit.headless.prompt import AUTOGROW, DYNAMIC, WIDGETS
from sampling_kit.headless.registry import registry
from sampling_kit.headless.settings_flags import with_settings
from sampling_kit.headless.workflow import NodeFailure, Workflow
from sampling_kit.schedulers import noise_schedule, spacing
from sampling_kit.schedulers.path import PATHS, VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.settings import Settings
from sampling_kit.schedulers.solver import ALL as SOLVERS
from sampling_kit.schedulers.solver import AdamsBashforth, Plan, Restart, RungeKutta
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants

few = lambda count: settings(  # noqa: E731
    max_examples=count, deadline=None, derandomize=True, database=None
)
NODES = registry()


def plain(error: BaseException | None) -> None:
    """It is an error that says what is wrong, not one of a mistake in the code."""
    assert type(error) in (ValueError, FloatingPointError) and len(str(error)) > 15, repr(error)


def tried(act: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What ``act`` returns, or None where it says why not."""
    try:
        return act(*given, **named)
    except (ValueError, NodeFailure) as error:
        plain(error.__cause__ if isinstance(error, NodeFailure) else error)
        return None


# ------------------------------------------------------------------------------------------ graphs

#: Left out: what needs files, another run, or minutes.
SLOW = {
    "LoadImage", "VAEDecodeTiled", "VAEEncodeTiled", "SamplingKitLoadState", "SamplingKitLoadFittedSolver",
    "SamplingKitLoadDiffusersDenoiser", "SamplingKitDiffusersTextEncode", "SamplingKitDiffusersVAE",
    "SamplingKitEmptyDiffusersLatent", "SamplingKitRecordTrajectories", "SamplingKitFitSteps", "SamplingKitFitSolver",
    "SamplingKitSolverReport", "SamplingKitEmbeddedClassifier", "SamplingKitEmbeddedVAE", "SamplingKitLogLikelihood",
    "SamplingKitPrecisionAudit", "SamplingKitAdaptive", "SamplingKitReplay", "SamplingKitResumeState",
    "SamplingKitDiffusersClass",
}  # fmt: skip
DEPTH = 6  # nodes one under the other, where that can be
SIZES = {"size", "width", "height", "tile_size"}
SMALL = dict(steps=4, levels=4, batch_size=2, repeats=2, shuffles=8, directions=4, corrector_steps=2)  # fmt: skip


@cache
def makers(kind: str) -> list[tuple[str, int]]:
    """(node, output) that give one of the types of an input."""
    wanted = set(kind.split(","))
    return [
        (name, i)
        for name, node in NODES.items()
        if name not in SLOW
        for i, output in enumerate(node.define_schema().outputs)
        if wanted & {"*", output.io_type}
    ]


@cache
def heights() -> dict[str, int]:
    """Nodes that a node needs below itself at least, one under the other; infinite for none that can do it."""
    found = dict.fromkeys(NODES, math.inf)

    def height(item: Any) -> float:
        inner = item.extra["template"].input if item.io_type == AUTOGROW else item
        plain = item.io_type in WIDGETS or item.optional
        return 0 if plain else min((found[n] for n, _ in makers(inner.io_type)), default=math.inf)

    for _ in range(12):
        for name, node in NODES.items():
            found[name] = 1 + max(map(height, node.define_schema().inputs), default=0)
    return found


def number(draw: Any, name: str, kind: str, facts: dict[str, Any]) -> Any:
    low, high, usual = facts.get("min"), facts.get("max"), facts.get("default")
    if name in SIZES and kind == "INT":
        return 24 if usual else 0
    if kind == "INT":
        low = 0 if low is None else low
        return draw(st.integers(low, min(high or 9, max(low, SMALL.get(name, 6)))))
    return draw(st.floats(low, high) | st.sampled_from([low, high, usual]))


@st.composite
def graphs(draw: Any) -> dict[str, Any]:
    """A graph in which every link has a right type and every value lies in its range."""
    nodes: dict[str, Any] = {}

    def link(kind: str, depth: int) -> list[Any]:
        choices = makers(kind)
        there = [
            [key, i]
            for key, node in nodes.items()
            for name, i in choices
            if node["class_type"] == name
        ]
        if there and draw(st.booleans()):
            return draw(st.sampled_from(there))
        room = max(DEPTH - depth, min(heights()[name] for name, _ in choices))
        name, i = draw(st.sampled_from([c for c in choices if heights()[c[0]] <= room]))
        return [add(name, depth + 1), i]

    def schema(name: str) -> Any:
        return NODES[name].define_schema()

    def possible(item: Any, depth: int) -> bool:
        near = any(heights()[name] <= DEPTH - depth for name, _ in makers(item.io_type))
        return item.io_type in WIDGETS or near

    def value(item: Any, depth: int) -> Any:
        name, facts = item.id, item.as_dict()
        if name not in SIZES | set(SMALL) and "default" in facts and draw(st.integers(0, 3)):
            return facts["default"]
        if item.io_type in ("INT", "FLOAT"):
            return number(draw, name, item.io_type, facts)
        if item.io_type == "BOOLEAN":
            return draw(st.booleans())
        if item.io_type == "COMBO":
            return draw(st.sampled_from(list(facts["options"])))
        if item.io_type == "STRING":
            return facts.get("default", "")
        return link(item.io_type, depth)

    def fill(given: dict[str, Any], inputs: Any, prefix: str, depth: int) -> None:
        for item in inputs:
            name = prefix + item.id
            if item.io_type == AUTOGROW:
                template = item.extra["template"]
                for i in range(draw(st.integers(template.min, template.min + 1))):
                    given[f"{name}.{template.prefix}{i}"] = value(template.input, depth)
            elif item.optional and (not possible(item, depth) or draw(st.booleans())):
                continue
            elif item.io_type == DYNAMIC:
                options = [o for o in item.extra["options"] if not o.key.startswith("network")]
                option = draw(st.sampled_from(options) | st.just(options[0]))
                given[name] = option.key
                fill(given, option.inputs, f"{name}.", depth)
            else:
                given[name] = value(item, depth)

    def add(name: str, depth: int) -> str:
        inputs: dict[str, Any] = {}
        fill(inputs, schema(name).inputs, "", depth)
        nodes[str(len(nodes))] = {"class_type": name, "inputs": inputs}
        return str(len(nodes) - 1)

    ends = [
        n for n in NODES if schema(n).is_output_node and n not in SLOW and heights()[n] < math.inf
    ]
    add(draw(st.sampled_from(ends)), 0)
    return nodes


def context(prompt: dict[str, Any], folder: Path) -> Context:
    return Context(folder, folder, folder / "temp", "cpu", None, prompt, None)


@few(8)
@given(graphs())
def test_a_graph_within_what_nodes_declare_runs_or_says_why_not(prompt):
    made = Workflow(Path("random.json"), prompt)
    with tempfile.TemporaryDirectory() as folder:
        here = context(prompt, Path(folder))
        with use(here):
            errors = check(made, NODES)
        if errors:
            assert all(
                e.kind == "custom_validation_failed" and "raised" not in e.message for e in errors
            ), errors
            return
        tried(execute, made, NODES, here)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@few(60)
@given(st.data())
def test_set_changes_what_it_names_and_back(data):
    """Whatever the value, by id or by title; the workflow itself stays as it was."""
    plan = workflow()
    node = data.draw(st.sampled_from(sorted(plan.prompt)))
    name = data.draw(st.sampled_from(sorted(plan.prompt[node]["inputs"])))
    assume(plan.prompt[node]["inputs"][name] not in ("karras", "ve_edm", "gaussian"))
    value, before = data.draw(JSON), json.dumps(plan.prompt)
    written = json.dumps(value)
    changed = with_settings(plan, NODES, [f"{node}.{name}={written}"])
    expected = written if isinstance(value, dict) else value  # no input takes an object: a text
    assert changed.prompt[node]["inputs"][name] == expected and json.dumps(plan.prompt) == before
    old = json.dumps(plan.prompt[node]["inputs"][name])
    assert with_settings(changed, NODES, [f"{node}.{name}={old}"]).prompt == plan.prompt


@few(6)
@given(st.permutations(sorted(workflow().prompt)), st.permutations(range(100, 111)))
def test_the_order_and_the_names_of_nodes_change_nothing(order, names):
    called = dict(zip(sorted(workflow().prompt), map(str, names), strict=True))

    def renamed(value: Any) -> Any:
        return [called[value[0]], value[1]] if isinstance(value, list) else value

    prompt = {
        called[key]: node | {"inputs": {n: renamed(v) for n, v in node["inputs"].items()}}
        for key, node in ((key, workflow().prompt[key]) for key in order)
    }
    assert pixels(prompt) == pixels(workflow().prompt)


def pixels(prompt: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        execute(Workflow(Path("w.json"), prompt), NODES, context(prompt, Path(folder)))
        (file,) = Path(folder).rglob("*.png")
        with Image.open(file) as image:
            return image.tobytes()


# ------------------------------------------------------------------------- settings, as widgets give them


def knobs(kind: type[Settings]) -> st.SearchStrategy[Callable[[], Any]]:
    """The settings with any values within the declared ranges, or as they are; made when called."""

    def values(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
        meta, default = field.metadata, field.default
        if "table" in meta:
            return st.sampled_from([k() for k in meta["table"].values()])
        if meta["options"] is not None:
            return st.sampled_from(meta["options"])
        if isinstance(default, bool):
            return st.booleans()
        if isinstance(default, int | float):
            number = st.integers if isinstance(default, int) else st.floats
            return number(meta["low"], meta["high"])
        return st.text(max_size=12) | st.just(default)

    fields = [f for f in dataclasses.fields(kind) if "wire" not in f.metadata]
    chosen = st.fixed_dictionaries({}, optional={f.name: values(f) for f in fields})
    return chosen.map(lambda given: partial(kind, **given))


def any_of(kinds: Iterable[type[Settings]]) -> st.SearchStrategy[Callable[[], Any]]:
    return st.sampled_from(list(kinds)).flatmap(knobs)


SCHEDULES = any_of(noise_schedule.ALL.values())
SPACINGS = any_of(spacing.ALL.values())


@few(200)
@given(SCHEDULES, SPACINGS, st.integers(1, 200), st.sampled_from(spacing.FINAL), st.floats(0.3, 1))
def test_levels_fall_from_start_to_end(schedule, kind, steps, final, denoise):
    schedule, kind = tried(schedule), tried(kind)
    assume(schedule is not None and kind is not None)
    points = tried(spacing.space, schedule, steps, kind, denoise=denoise, final=final)
    if points is None or isinstance(kind, spacing.Explicit):  # as it is written, rising too
        return
    k = np.array(points.kappas)
    assert len(k) == steps + 1
    assert np.all(np.diff(k) < 0) and (k[-1] == 0) == (final == "zero")
    assert isinstance(kind, spacing.FlowShift) or k[0] <= schedule.kappa_max * (1 + 1e-9)


@few(100)
@given(SCHEDULES, st.floats(0, 1))
def test_time_and_noise_level_invert_each_other(schedule, share):
    schedule = tried(schedule)
    assume(schedule is not None and tried(lambda: schedule.kappa_max) is not None)
    assert 0 < schedule.kappa_min < schedule.kappa_max
    t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
    kappa = float(schedule.kappa(t))
    assume(kappa < 1e12)
    assert math.isclose(float(schedule.kappa(schedule.time(kappa))), kappa, rel_tol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: noise_schedule.LinearVP(0.0, 0.0).log_kappas,
        lambda: noise_schedule.ScaledLinearVP(0.0, 0.01).log_kappas,  # no noise at timestep 0
        lambda: noise_schedule.LinearVP(1e-4, 0.999, 10000).log_kappas,  # ᾱ underflows
        lambda: noise_schedule.ContinuousVP(0.1, 1000.0),
        lambda: noise_schedule.ContinuousSubVP(0.1, 400.0),
    ],
)
def test_a_schedule_beyond_float32_is_refused(make):
    with pytest.raises(ValueError, match="float32"):
        make()


# ------------------------------------------------------------------------------------------- plans


def weights(plan: Plan) -> list[float]:
    return [w for stage in plan.stages for w in (*stage.x, *stage.d, stage.noise)]


@st.composite
def levels(draw: Any) -> tuple[float, ...]:
    """2 to 13 values of κ that fall, some far from and some near each other; the last may be 0."""
    steps = draw(st.lists(st.floats(1e-3, 6) | st.just(40.0), min_size=1, max_size=12))
    top = draw(st.floats(-3, 7))
    found = [math.exp(top - down) for down in np.cumsum([0, *steps])]
    return (*found, 0.0) if draw(st.booleans()) else tuple(found)


@few(250)
@given(
    st.sampled_from([s for kind in SOLVERS if kind.planned for s in variants(kind)]),
    st.sampled_from(PATHS),
    levels(),
)
def test_any_solver_on_any_levels(solver, path, kappas):
    """Finite weights; and with D = c the run keeps x = α·c + σ·ε, whatever the levels are.

    A solver that draws noise is run with draws that are 0, and then without ε, which is not kept.
    """
    points = Points(path(), kappas)
    plan = solver.plan(points)
    assert all(map(math.isfinite, weights(plan))) and plan.nfe >= 1
    if not (exact_for_constant(solver) and shift_invariant(solver)) or plan.clip_x0:
        return
    c = torch.tensor([[3.0, -0.5]], dtype=torch.float64)
    p, q = points[0], points[-1]
    silent = lambda position, like: torch.zeros_like(like)  # noqa: E731
    rounding = 1e-14 * (1 + sum(map(abs, weights(plan)))) ** 2
    for eps in (0.0,) if plan.stochastic else (0.0, 1.0):
        end = plan.solve(Run(lambda x, s: c.expand_as(x), silent), p.alpha * c + p.sigma * eps)
        assert torch.allclose(end, q.alpha * c + q.sigma * eps, atol=rounding, rtol=1e-9)


@pytest.mark.parametrize(
    "solver",
    [RungeKutta("dormand_prince", "sigma"), Restart(), AdamsBashforth(4, start="single_step")],
    ids=repr,
)
def test_a_step_of_twenty_orders(solver):
    """p + (q − p) is 0 in floating point where q is far below p."""
    plan = solver.plan(Points(VE(), (1.0, 1e-20, 0.0)))
    assert all(map(math.isfinite, weights(plan)))


@few(100)
@given(any_of(SOLVERS))
def test_any_setting_of_a_solver_plans_or_is_refused(solver):
    solver = tried(solver)
    assume(solver is not None and solver.planned)
    plan = tried(solver.plan, Points(VE(), (20.0, 5.0, 1.0, 0.2, 0.0)))
    assert plan is None or all(map(math.isfinite, weights(plan)))


# ------------------------------------------------------------------------------------- node inputs


@few(100)
@given(st.sampled_from(sorted(NODES)), st.data())
def test_any_json_in_any_input_is_passed_or_refused(name, data):
    """The check never stumbles, whatever stands in the file."""
    inputs = {i.id: data.draw(JSON) for i in NODES[name].define_schema().inputs}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    prompt = {"1": {"class_type": name, "inputs": inputs}, "2": show}
    with tempfile.TemporaryDirectory() as folder, use(context(prompt, Path(folder))):
        for error in check(Workflow(Path("w.json"), prompt), NODES):
            assert error.hint and "raised" not in error.message, error
