"""The nodes of a trace: replay from any step, what cannot be replayed, and the wire."""

from __future__ import annotations

import pytest
import torch
from node_calls import folders, one
from node_calls import returned as node
from trace_cases import CASES, SEED, recorded

from sampling_kit.nodes.host.trace_watch import Watch
from sampling_kit.schedulers.measure.trace import MEBI
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import HeunEDM

__all__ = ["folders"]  # a fixture


# ----------------------------------------------------------------------------------------- nodes


class Graph:
    """A model on a noise schedule, and two pictures to be, with guidance."""

    def __init__(self, kind="rectified_flow", steps=6):
        schedule = one("NoiseSchedule", kind={"kind": kind})
        small = {"kind": "gaussian", "size": 24, "scenes": 6, "rank": 3}
        model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
        positive, negative = (
            one("ClassCondition", name=n) for n in ("one of each", "unconditional")
        )
        self.guidance = {"guidance": one("CFG", scale=2.0), "negative": negative}
        self.guider = one("Guider", model=model, positive=positive, **self.guidance)
        self.other = one("Guider", model=model, positive=positive)
        self.latent = one("EmptyPixelLatent", width=24, height=24, batch_size=2)
        self.noise = one("PerImageNoise", seed=SEED)
        self.sigmas = one(
            "Steps", noise_schedule=schedule, steps=steps, spacing={"spacing": "trailing"}
        )

    def run(self, sampler, sigmas=None, latent=None, guider=None):
        return one(
            "SamplerCustomAdvanced",
            noise=self.noise if latent is None else one("DisableNoise"),
            guider=guider or self.guider,
            sampler=sampler,
            sigmas=self.sigmas if sigmas is None else sigmas,
            latent_image=latent or self.latent,
        )


@pytest.fixture(scope="module")
def graphs():
    return {kind: Graph(kind) for kind in ("vp_linear", "rectified_flow")}


SOLVERS = {
    "Euler": {}, "Euler with churn": {"churn": 20.0}, "UniPC": {}, "DPMSolverMultistep": {"eta": 1.0}, "SASolver": {},
    "Restart": {},
}  # fmt: skip


@pytest.mark.some(5)
@pytest.mark.parametrize("kind", ["vp_linear", "rectified_flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_replay_goes_on_bit_for_bit_from_any_step(graphs, kind, name):
    graph, solver = graphs[kind], one(name.split()[0], **SOLVERS[name])
    whole = graph.run(solver)["samples"]
    sampler, watch = node("Trace", sampler=solver, memory=64).result
    out = graph.run(sampler)
    assert torch.equal(out["samples"], whole)
    for step in (0, 1, 3, 5):
        parts = node("Replay", trace=watch, latent=out, step=step).result
        assert torch.equal(graph.run(*parts)["samples"], whole), step
    other = graph.run(*node("Replay", trace=watch, latent=out, step=1).result, guider=graph.other)
    assert not torch.equal(other["samples"], whole)


@pytest.mark.parametrize("name", ["Adaptive", "Langevin"])
def test_solvers_without_a_plan_are_traced_and_start_anew(graphs, name):
    graph, solver = graphs["vp_linear"], one(name)
    whole = graph.run(solver)["samples"]
    sampler, watch = node("Trace", sampler=solver, memory=64).result
    out = graph.run(sampler)
    assert torch.equal(out["samples"], whole)
    trace = watch.trace
    assert trace.stochastic == (name == "Langevin")
    assert sum(trace.curve("nfe")) == trace.nfe > len(trace)
    if name == "Langevin":
        assert trace.curve("sigma") == pytest.approx(graph.sigmas[:-1].tolist(), rel=1e-6)
        replayed = graph.run(*node("Replay", trace=watch, latent=out, step=2).result)["samples"]
        assert torch.isfinite(replayed).all()
        return
    assert "each image has steps of its own" in trace.summary()
    with pytest.raises(ValueError, match="trace one image, or set together"):
        node("Replay", trace=watch, latent=out, step=2)
    sampler, watch = node("Trace", sampler=one(name, together=True), memory=64).result
    out = graph.run(sampler)
    again = graph.run(*node("Replay", trace=watch, latent=out, step=2).result)["samples"]
    assert torch.allclose(again, out["samples"], atol=0.02)


def test_no_replay_anew_under_a_mask(graphs):
    graph = graphs["vp_linear"]
    sampler, watch = node("Trace", sampler=one("Langevin"), memory=64).result
    masked = {**graph.run(sampler), "noise_mask": torch.ones(1, 24, 24)}
    with pytest.raises(ValueError, match="it has a noise mask"):
        node("Replay", trace=watch, latent=masked, step=2)


def test_replay_with_another_solver_is_a_run_from_there(graphs):
    graph, euler, unipc = graphs["vp_linear"], one("Euler"), one("UniPC")
    sampler, watch = node("Trace", sampler=euler, memory=64).result
    out = graph.run(sampler)
    parts = node("Replay", trace=watch, latent=out, step=2, sampler=unipc).result
    assert parts[0] is unipc and torch.equal(parts[1], graph.sigmas[2:])
    high, low = node("SplitSigmas", sigmas=graph.sigmas, step=2).result
    want = graph.run(unipc, low, graph.run(euler, high))["samples"]
    assert torch.allclose(graph.run(*parts)["samples"], want, atol=1e-5)


def test_the_trace_of_a_guided_run(graphs):
    graph = graphs["rectified_flow"]
    sampler, watch = node("Trace", sampler=one("HeunEDM"), memory=64).result
    out = graph.run(sampler)
    trace = watch.trace
    assert trace.curve("weight")[:2] == pytest.approx([2.0] * 2, abs=1e-3)
    assert trace.curve("weight")[-1] is None  # there the two predictions are the same
    assert trace.curve("delta")[0] > trace.curve("delta")[1] > 0 == trace.curve("delta")[-1]
    assert trace.curve("cosine") == pytest.approx([0.78, 0.98, 1, 1, 1, 1], abs=0.02)
    graph.run(sampler, guider=graph.other)
    assert watch.trace.curve("delta") == [None] * 6  # and the trace is that of the last run
    shown = node("ShowTrace", trace=watch, latent=out)
    assert shown.result[2].shape == (7, 24, 24, 3)
    (told,) = shown.ui["sampling_kit_trace"]
    assert told["steps"] == 6 and told["nfe"] == 11 and shown.ui["text"] == [watch.trace.summary()]


def test_step_doubling_changes_neither_the_result_nor_the_guidance_report(graphs):
    graph, solver = graphs["rectified_flow"], one("UniPC")
    guider, report = node("GuidanceProbe", guider=graph.guider).result
    sampler, watch = node("Trace", sampler=solver, memory=64, local_error="step doubling").result
    out = graph.run(sampler, guider=guider)
    assert torch.equal(out["samples"], graph.run(solver)["samples"])
    assert report.report["evaluations"] == 6 == watch.trace.nfe
    assert None not in watch.trace.curve("doubling")
    small, few = node("Trace", sampler=solver, memory=0, local_error="step doubling").result
    graph.run(small)
    assert "no step doubling: not every state is kept" in few.trace.summary()


def test_a_trace_of_a_trace_and_of_a_part(graphs):
    graph, solver = graphs["vp_linear"], one("UniPC")
    inner, first = node("Trace", sampler=solver, memory=64).result
    outer, second = node("Trace", sampler=inner, memory=64).result
    whole = graph.run(solver)["samples"]
    assert torch.equal(graph.run(outer)["samples"], whole)
    assert first.trace.nfe == second.trace.nfe == 6
    keep, state = node("KeepState", sampler=solver, sigmas=graph.sigmas).result
    high, low = node("SplitSigmas", sigmas=graph.sigmas, step=3).result
    traced, watch = node("Trace", sampler=keep, memory=64).result
    half = graph.run(traced, high)
    assert len(watch.trace) == 3 and watch.trace.solver == "UniPC"
    resume, _ = node("ResumeState", sampler=solver, state=state).result
    assert torch.equal(graph.run(resume, low, half)["samples"], whole)


def test_an_interrupted_run_leaves_no_trace(graphs):
    graph = graphs["vp_linear"]
    sampler, watch = node("Trace", sampler=one("Euler"), memory=64).result
    out = graph.run(sampler)
    assert watch.trace is not None

    def stop(*_):
        raise KeyboardInterrupt

    noise = graph.noise.generate_noise(graph.latent)
    with pytest.raises(KeyboardInterrupt):
        graph.guider.sample(noise, graph.latent["samples"], sampler, graph.sigmas, callback=stop)
    with pytest.raises(ValueError, match="there is no trace yet"):
        node("ShowTrace", trace=watch, latent=out)


def test_mistakes_get_one_clear_error(graphs):
    graph = graphs["rectified_flow"]
    sampler, watch = node("Trace", sampler=one("Euler"), memory=0).result
    for kind in ("ShowTrace", "Replay"):
        with pytest.raises(ValueError, match="there is no trace yet"):
            node(
                kind, trace=watch, latent=graph.latent, **({"step": 1} if kind == "Replay" else {})
            )
        with pytest.raises(TypeError, match="expected a TRACE"):
            node(kind, trace=3, latent=graph.latent, **({"step": 1} if kind == "Replay" else {}))
    out = graph.run(sampler)
    with pytest.raises(ValueError, match="kept no state; give Trace more memory"):
        node("Replay", trace=watch, latent=out, step=1)
    with pytest.raises(ValueError, match="the batch has images 0 to 1"):
        node("ShowTrace", trace=watch, latent=out, image=2)
    sampler, watch = node("Trace", sampler=one("Euler"), memory=1).result
    out = graph.run(sampler)
    with pytest.raises(ValueError, match=r"kept steps 0, 1, 2, 3, 4, 5$"):
        node("Replay", trace=watch, latent=out, step=6)
    with pytest.raises(ValueError, match="pure noise"):
        node("Replay", trace=watch, latent=out, step=0, sampler=one("UniPC"))


def test_no_steps_no_trace_trouble(graphs):
    graph = graphs["vp_linear"]
    sampler, watch = node("Trace", sampler=one("Euler"), memory=1).result
    out = graph.run(sampler, graph.sigmas[:1])
    assert len(watch.trace) == 0
    assert node("ShowTrace", trace=watch, latent=out).result[2].shape == (1, 24, 24, 3)


def test_the_wire_holds_what_was_asked_for():
    _, watch = node("Trace", sampler="any", memory=3).result
    assert isinstance(watch, Watch) and watch.budget == 3 * MEBI and not watch.doubling


def test_inversions_are_traced():
    points = CASES["ve"]
    rising = Points(points.path, tuple(reversed(points.kappas[:-1])))
    trace, out, plain = recorded(HeunEDM(), rising)
    assert torch.equal(out, plain) and all(e is not None for e in trace.curve("error")[:-1])
