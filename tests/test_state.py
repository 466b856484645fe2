"""Runs in parts: split anywhere, carried on wires, bit-equal to the run in one go."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from node_calls import node, one
from state_cases import SEED, STEPS, Graph, folders, graphs, split

from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import ALL
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.spacing import Trailing, space
from sampling_kit.schedulers.split import Handover, Part

__all__ = ["folders", "graphs"]  # fixtures


SOLVERS = {
    "Euler": {},
    "Euler with churn": {"churn": 20.0},
    "HeunEDM": {},
    "UniPC": {},
    "DPMSolverMultistep": {"eta": 1.0},
    "SASolver": {},
}


@pytest.mark.some(5)
@pytest.mark.parametrize("kind", ["vp_linear", "rectified_flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_two_samplers_draw_what_one_draws(graphs, kind, name):
    graph, solver = graphs[kind], one(name.split()[0], **SOLVERS[name])
    whole = graph.run(solver, graph.sigmas)["samples"]
    for step in range(STEPS):
        low = split(graph.sigmas, step)[1]
        out, _ = graph.rest(solver, *graph.first(solver, step), low)
        assert torch.equal(out["samples"], whole), step
    high, low = split(graph.sigmas, 3)
    bare = graph.run(solver, low, graph.run(solver, high))["samples"]  # without the state
    assert torch.allclose(bare, whole, atol=1e-5) == (name in ("Euler", "HeunEDM"))


def test_three_parts_and_a_second_run_of_the_last(graphs):
    graph, solver = graphs["rectified_flow"], one("DPMSolverMultistep", eta=1.0)
    whole = graph.run(solver, graph.sigmas)["samples"]
    middle, low = split(graph.sigmas[2:], 2)
    between = graph.rest(solver, *graph.first(solver, 2), middle)
    for _ in range(2):  # as when ComfyUI takes the first parts from its cache
        assert torch.equal(graph.rest(solver, *between, low)[0]["samples"], whole)


def test_an_inversion_can_be_split_too(graphs):
    graph, solver = graphs["vp_linear"], one("UniPC")
    picture = graph.run(solver, graph.sigmas)
    graph = Graph("vp_linear")
    graph.sigmas = one("FlipSigmas", sigmas=graph.sigmas)
    whole = graph.run(solver, graph.sigmas, picture)["samples"]
    high, low = split(graph.sigmas, 3)
    sampler, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    half = graph.run(sampler, high, picture)
    assert torch.equal(graph.rest(solver, half, state, low)[0]["samples"], whole)


def test_an_edited_latent_keeps_the_history():
    """The step after an edit is DPM-Solver++(2M)'s, from the edited x and the D of before (eq. 5.4)."""
    graph, solver, level = Graph("ve_edm"), one("DPMSolverMultistep"), 4
    latent, state = graph.first(solver, level)
    edited = {**latent, "samples": latent["samples"] * 0.9 + 0.1}
    sigmas = graph.sigmas[level : level + 2]
    denoise = graph.guider.denoiser(3)
    half = graph.run(solver, graph.sigmas[:level])["samples"]  # where the D of before was found
    x, before, here, there = edited["samples"], *map(float, graph.sigmas[level - 1 : level + 2])
    h, h_before = math.log(here / there), math.log(before / here)
    old, new = denoise(half, before), denoise(x, here)
    d = new + h / (2 * h_before) * (new - old)
    expected = there / here * x + (1 - there / here) * d
    out = graph.rest(solver, edited, state, sigmas, edited=True)[0]["samples"]
    assert torch.allclose(out, expected, atol=1e-5)
    forgetful = graph.run(solver, sigmas, edited)["samples"]
    assert (out - forgetful).abs().max() > 1e-3


# ------------------------------------------------------------------------------- the engine alone


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "schedule", [LinearVP(), EDM(), RectifiedFlowSchedule()], ids=["VP", "VE", "flow"]
)
def test_every_solver_splits_at_every_level_of_a_video(schedule):
    path, n = schedule.path, 5
    sigmas = torch.tensor(space(schedule, n, Trailing()).sigmas()).tolist()
    x = torch.randn(2, 3, 2, 4, 4, generator=torch.manual_seed(0)) * max(sigmas[0], 1)

    def denoise(x, sigma):
        p = path.host.on(sigma)
        return torch.tanh(x * p.alpha / (p.alpha**2 + p.sigma**2) + 0.1)

    for solver in (v for kind in ALL for v in variants(kind) if v.planned):
        whole = sample(solver, path, Run(denoise, PerImageNoise(SEED)), x, sigmas)
        for level in range(n + 1):
            first, steps = Part(solver, Handover(), tuple(sigmas)), []
            start = first.begin(path, x, sigmas[: level + 1], SEED)
            y = first.run(start, path, Run(denoise, PerImageNoise(SEED)), sigmas[: level + 1])
            last = Part(solver, Handover(), after=first.out)
            start = last.begin(path, y * (1 + 1e-7), sigmas[level:], 0)
            draw, seen = PerImageNoise(start.seed), lambda p, s=steps: s.append((p.step, p.steps))
            end = last.run(start, path, Run(denoise, draw, seen), sigmas[level:])
            assert torch.equal(end, whole), (solver, level)
            assert steps == [(i, n - level) for i in range(n - level)], (solver, level)


def test_what_does_not_fit_the_state_is_named(graphs):
    graph, other, solver = graphs["rectified_flow"], graphs["vp_linear"], one("UniPC")
    latent, state = graph.first(solver, 3)
    high, low = split(graph.sigmas, 3)
    with pytest.raises(ValueError, match=r"solver of the state is UniPC.*DDIM"):
        graph.rest(one("DDIM"), latent, state, low)
    with pytest.raises(ValueError, match=r"UniPC.*max_order=2.*max_order=3"):
        graph.rest(one("UniPC", max_order=3), latent, state, low)
    with pytest.raises(ValueError, match=r"noise schedule of the state is Flow.*VP"):
        other.rest(solver, latent, state, low)
    with pytest.raises(ValueError, match=r"latent of the state is \(3, 3.*\(6, 3"):
        graph.rest(solver, {**latent, "samples": latent["samples"].repeat(2, 1, 1, 1)}, state, low)
    with pytest.raises(ValueError, match=r"stopped at level 3 \(σ = 0.5\).*from σ = 0.333333"):
        graph.rest(solver, latent, state, low[1:])
    with pytest.raises(ValueError, match="low_sigmas of SplitSigmas with step = 3"):
        graph.rest(solver, latent, state, high)
    with pytest.raises(ValueError, match=r"differs from the state by up to 0\.\d+ .*edited"):
        graph.rest(solver, {**latent, "samples": latent["samples"] + 0.2}, state, low)
    with pytest.raises(ValueError, match="DisableNoise"):
        graph.run(node("ResumeState", sampler=solver, state=state)[0], low, latent, graph.noise)


def test_one_keep_state_for_two_runs_is_noticed(graphs):
    """The state is that of the sampler's last run; the first run's latent is not its own."""
    graph, solver = graphs["rectified_flow"], one("UniPC")
    sampler, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    high, low = split(graph.sigmas, 3)
    latent = graph.run(sampler, high)
    graph.run(sampler, high, noise=one("PerImageNoise", seed=SEED + 1))
    with pytest.raises(ValueError, match="its own Keep State"):
        graph.rest(solver, latent, state, low)


def test_what_cannot_be_kept_is_named(graphs):
    graph, solver = graphs["rectified_flow"], one("UniPC")
    with pytest.raises(ValueError, match=r"beginning of those at Keep State.*high_sigmas"):
        graph.first(solver, 3, graph.sigmas[1:])
    kept, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    with pytest.raises(ValueError, match="there is no state yet"):
        graph.rest(solver, graph.latent, state, graph.sigmas)
    with pytest.raises(ValueError, match="there is no state yet"):
        node("SaveState", state=state, latent=graph.latent)
    with pytest.raises(ValueError, match="not Keep State or Resume State"):
        node("KeepState", sampler=kept, sigmas=graph.sigmas)
    with pytest.raises(ValueError, match="not another sampler"):
        node("KeepState", sampler=object(), sigmas=graph.sigmas)
    with pytest.raises(ValueError, match="2 levels or more"):
        node("KeepState", sampler=solver, sigmas=graph.sigmas[:1])
    with pytest.raises(TypeError, match="SAMPLER_STATE"):
        node("ResumeState", sampler=solver, state=3)
    for name in ("Adaptive", "Langevin"):
        with pytest.raises(ValueError, match="cannot be split"):
            node("KeepState", sampler=one(name), sigmas=graph.sigmas)


def test_an_interrupted_run_leaves_no_state(graphs):
    """Nor that of the run before it, which would be taken for its own."""
    graph, solver = graphs["rectified_flow"], one("UniPC")
    sampler, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    high = split(graph.sigmas, 3)[0]
    graph.run(sampler, high)
    assert state.stopped is not None

    def stop(step, *_):
        if step == 1:
            raise KeyboardInterrupt

    noise = graph.noise.generate_noise(graph.latent)
    with pytest.raises(KeyboardInterrupt):
        graph.guider.sample(noise, graph.latent["samples"], sampler, high, callback=stop)
    assert state.stopped is None


def test_a_kept_state_is_not_changed_by_going_on(graphs):
    graph, solver = graphs["vp_linear"], one("SASolver")
    latent, state = graph.first(solver, 3)
    kept = state.stopped.state
    copies = replace(
        kept,
        anchors=tuple(t.clone() for t in kept.anchors),
        history=tuple(t.clone() for t in kept.history),
        y=kept.y.clone(),
        arrived=kept.x.clone(),
    )
    graph.rest(solver, latent, state, split(graph.sigmas, 3)[1])
    with torch.inference_mode():
        latent["samples"].zero_()
    for name in ("anchors", "history"):
        assert all(map(torch.equal, getattr(kept, name), getattr(copies, name)))
    assert torch.equal(kept.y, copies.y) and torch.equal(kept.x, copies.x)
