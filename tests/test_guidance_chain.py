"""Chains of rules: their order, what they evaluate and report, and their steps in a run."""

import itertools
import json
import math
from typing import ClassVar

import pytest
import torch
from guidance_worlds import KAPPAS, World, state

from sampling_kit.nodes import NODES, host
from sampling_kit.nodes.host.conditioning import class_conditioning
from sampling_kit.schedulers.denoiser import Denoiser, Gaussian
from sampling_kit.schedulers.guidance import (
    APG,
    CFG,
    COND,
    DPS,
    PAG,
    SEG,
    UNCOND,
    Autoguidance,
    CFGPlusPlus,
    CFGZeroStar,
    Compose,
    Constant,
    Guidance,
    Interval,
    PerpNeg,
    PiGDM,
    RectifiedCFGPlusPlus,
)
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM, Euler
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, Trailing, space

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --------------------------------------------------------------------------------------- the chain


def gaussian(mean, std):
    return Gaussian(VE(), torch.full((3,), mean, dtype=torch.float64), std)


def test_cfg_on_gaussians_is_the_closed_form():
    """D_c and D_u are linear, so the guided field is: D_u + w(D_c − D_u), written out."""
    w, sigma = 2.5, 0.7
    preds = {COND: gaussian(1.0, 0.5)(X, sigma), UNCOND: gaussian(-0.5, 1.5)(X, sigma)}
    gain_c, gain_u = 0.25 / (0.25 + sigma**2), 2.25 / (2.25 + sigma**2)
    d_c, d_u = 1 + gain_c * (X - 1), -0.5 + gain_u * (X + 0.5)
    guided = Guidance((CFG(w),)).combine(X, sigma, preds)
    assert torch.allclose(guided, w * d_c + (1 - w) * d_u)


def test_scale_one_and_the_empty_chain_are_off_bit_for_bit():
    preds = {COND: X, UNCOND: X.flip(0)}
    for chain in (Guidance(), Guidance((CFG(1.0),)), Guidance((CFG(1.0), CFG(1.0)))):
        assert chain.branches(1.0) == chain.reads == {COND}
        assert chain.combine(X, 1.0, {COND: X}) is X
    assert Guidance((CFG(2.0),)).branches(1.0) == {COND, UNCOND}
    assert torch.allclose(Guidance((CFG(0.0),)).combine(X, 1.0, preds), preds[UNCOND])


def test_rules_apply_in_order():
    preds = {COND: X, UNCOND: X.flip(0)}
    once = Guidance().then(CFG(2.0)).combine(X, 1.0, preds)
    twice = Guidance((CFG(2.0), CFG(3.0))).combine(X, 1.0, preds)
    assert torch.allclose(twice, preds[UNCOND] + 3 * (once - preds[UNCOND]))


def test_rules_that_add_commute_and_rules_that_scale_do_not():
    world, y = World(VE()), state()
    adding = [world.rule(c) for c in (PAG, SEG, Compose)]
    results = [world.run(Guidance(chain), y) for chain in itertools.permutations(adding)]
    assert all(torch.allclose(r, results[0], atol=1e-12) for r in results)
    first, then = (world.run(Guidance(c), y) for c in ((CFG(3.0), PAG()), (PAG(), CFG(3.0))))
    assert not torch.allclose(first, then)


def test_equal_perturbations_share_a_branch_and_different_ones_do_not():
    chain = Guidance((PAG(), PAG(1.0), PAG(3.0, "middle.0"), SEG(), SEG(blur=3.0)))
    assert len(chain.perturbations) == 4
    assert chain.reads == {COND, *chain.perturbations}
    assert chain.perturbations["perturbed.identity(middle.0)"].layers == ("middle.0",)


def test_the_chain_may_change_its_scale_during_a_run():
    """As ComfyUI's CFG Override does; the memory of other rules stays."""
    world, y = World(VE()), state()
    run = world.begin(Guidance((APG(momentum=0.5), CFG(2.0))))
    run(y, 3.0, world.evaluate)
    before = run.memory[0]["delta"]
    run.guidance = Guidance((APG(momentum=0.5), CFG(1.0)))
    run(y, 1.4, world.evaluate)
    assert run.memory[0]["delta"] is not before


def test_every_rule_remembers_for_itself():
    world, y = World(VE()), state()
    run = world.begin(Guidance((APG(2.0, momentum=0.5), APG(3.0, momentum=0.5))))
    run(y, 3.0, world.evaluate)
    first, second = (memory["delta"] for memory in run.memory)
    assert not torch.allclose(first, second)


# ------------------------------------------------------------------------------ calls and reports


class Counting(Denoiser):
    batches: ClassVar[list] = []

    def forward(self, x, sigma, classes=None):
        Counting.batches.append(len(x))
        return 0.5 * x


def batches_of_a_run(guidance, schedule, sigmas):
    """How many images each forward pass of the network had, in a run of one image."""
    Counting.batches.clear()
    model = host.models.make_model(lambda path: Counting(path, None, 2), schedule)
    conds = {COND: class_conditioning([[1.0, 0.0]]), UNCOND: class_conditioning([[0.0, 0.0]])}
    guider = host.runs.make_guider(model, conds, guidance)
    guider.sample(
        torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), host.runs.make_sampler(Euler()), sigmas
    )
    return list(Counting.batches)


@pytest.mark.parametrize(
    ("guidance", "batches"),
    [
        (Guidance(), [1] * 20),
        (Guidance((CFG(1.0),)), [1] * 20),
        (Guidance((CFG(3.0),)), [2] * 20),
        (Guidance((CFG(3.0, Constant()), CFG(2.0))), [2] * 20),
        (Guidance((RectifiedCFGPlusPlus(),)), [1, 2] * 20),
    ],
    ids=["none", "scale 1", "cfg", "two rules, one branch", "three per step"],
)
def test_branches_are_evaluated_only_where_they_count(guidance, batches):
    sigmas = torch.tensor(space(EDM(), 20, Karras()).sigmas())
    assert batches_of_a_run(guidance, EDM(), sigmas) == batches


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlowSchedule()], ids=["VE", "flow"])
def test_an_interval_over_40_percent_of_20_steps_makes_28_calls(schedule):
    sigmas = space(schedule, 20, Trailing()).sigmas()
    middle = Interval(sigma_low=sigmas[14], sigma_high=sigmas[6])  # steps 6 to 13
    guidance = Guidance((CFG(3.0, middle),))
    batches = batches_of_a_run(guidance, schedule, torch.tensor(sigmas))
    assert batches == [1] * 6 + [2] * 8 + [1] * 6

    world = World(schedule.path)
    run = guidance.begin(schedule.path, sigmas)
    sample(Euler(), schedule.path, Run(lambda x, s: run(x, s, world.evaluate)), state(), sigmas)
    report = run.report()
    assert report["network_calls"] == 28 and report["saved_calls"] == 12
    assert report["calls"] == {COND: 20, UNCOND: 8} and report["evaluations"] == 20
    assert [row["step"] for row in report["steps"] if not row["skipped"]] == list(range(6, 14))


def test_pure_noise_is_evaluated_once_for_the_batch_if_asked():
    """At t = 1 an exact D is E[x0 | c], whatever x is; off by default; counted."""
    world, sigmas = World(Flow()), (1.0, 0.5, 0.0)
    guidance = Guidance((CFG(3.0),))
    shared, apart = (
        guidance.begin(Flow(), sigmas, share_pure_noise=share) for share in (True, False)
    )
    for sigma in sigmas[:2]:
        same = [run(state(4), sigma, world.evaluate) for run in (shared, apart)]
        assert torch.allclose(*same, atol=1e-12)
    assert shared.report()["images"] == 2 + 8 and shared.report()["shared_images"] == 6
    assert apart.report()["images"] == 16 and apart.report()["shared_images"] == 0
    assert shared.report()["network_calls"] == apart.report()["network_calls"] == 4


def test_the_probe_reports_what_guidance_did():
    world, y = World(VE()), state()
    chain = Guidance((CFG(4.0, Interval(sigma_low=0.5)),))
    run = world.begin(chain, probe=True)
    for kappa in KAPPAS:
        run(y, kappa, world.evaluate)
    report = json.loads(json.dumps(run.report(), allow_nan=False))
    steps = report["steps"]
    assert [row["skipped"] for row in steps] == [[], [], [], [UNCOND]]
    assert steps[3]["delta"] is steps[3]["effective_weight"] is None
    c, u = (world.branch(n, y, 0.6) for n in (COND, UNCOND))
    assert steps[2]["delta"] == pytest.approx((c - u).flatten(1).norm(dim=1).tolist())
    cosine = torch.cosine_similarity(c.flatten(1), u.flatten(1))
    assert steps[2]["cosine"] == pytest.approx(cosine.tolist())
    assert steps[0]["effective_weight"] == pytest.approx([4.0] * 3)


def test_the_probe_is_finite_json_where_nothing_differs():
    run = Guidance((CFG(4.0),)).begin(VE(), (1.0, 0.0), probe=True)
    run(X, 1.0, lambda x, s, names: dict.fromkeys(names, torch.zeros_like(x)))
    assert run.report()["steps"][0]["effective_weight"] == [None] * 5
    json.dumps(run.report(), allow_nan=False)


# ------------------------------------------------------------------------------------ CFG++, steps


@pytest.mark.parametrize("path", [VE(), VP(), Flow()], ids=lambda p: p.name)
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
def test_cfg_plus_plus_is_the_paper_s_step_on_ddim(path, scale):
    """x' = α'·(D_u + λΔ) + σ'·ε_u, with ε_u = (x − αD_u)/σ, written out in the path's own coordinates."""
    kappas = (math.inf, *KAPPAS, 0.0) if path == Flow() else (*KAPPAS, 0.0)
    world, exact = World(path.host), World(path)
    x = first = state() * path.at(kappas[0]).sigma
    for kappa, after in itertools.pairwise(kappas):
        p, q = path.at(kappa), path.at(after)
        c, u = (exact.branch(n, x, p.sigma) for n in (COND, UNCOND))
        x = q.alpha * (u + scale * (c - u)) + q.sigma * (x - p.alpha * u) / p.sigma
    points = Points(path, kappas)
    run = Guidance((CFGPlusPlus(scale),)).begin(path, points.sigmas())
    scaled = first / path.at(kappas[0]).alpha if path == VP() else first
    for solver in (DDIM(), Euler()):
        ours = sample(
            solver, path, Run(lambda y, s: run(y, s, world.evaluate)), scaled, points.sigmas()
        )
        assert torch.allclose(ours, x, atol=1e-7 if path == VP() else 1e-9)


def test_cfg_plus_plus_and_rectified_need_a_run():
    for rule in (CFGPlusPlus(), RectifiedCFGPlusPlus()):
        with pytest.raises(ValueError, match=r"use it in a run"):
            Guidance((rule,)).combine(X, 1.0, {COND: X, UNCOND: X})


def test_zero_init_leaves_the_first_steps_of_the_flow_where_they_are():
    world, sigmas = World(Flow()), (1.0, 0.8, 0.5, 0.0)
    run = Guidance((CFGZeroStar(3.0, 2),)).begin(Flow(), sigmas)
    states = []
    sample(Euler(), Flow(), Run(lambda x, s: run(x, s, world.evaluate), callback=lambda p: states.append(p.x)), state(), sigmas)  # fmt: skip
    assert torch.allclose(states[0], states[2], atol=1e-12)
    assert [row["skipped"] for row in run.report()["steps"]] == [[UNCOND], [UNCOND], []]


def test_rules_through_the_model_say_so_where_it_has_no_gradient():
    world, y = World(VE()), state()
    for cls in (DPS, PiGDM):
        rule = world.rule(cls)
        with pytest.raises(ValueError, match=r"needs the gradient"):
            Guidance((rule,)).combine(y, 1.0, {COND: y})
        with pytest.raises(ValueError, match=r"connect a MEASUREMENT"):
            world.run(Guidance((cls(),)), y)


def test_the_guider_says_what_it_lacks():
    guider = {n.define_schema().node_id: n for n in NODES}["SamplingKitGuider"]
    model, cond = (
        host.models.make_model(lambda p: Counting(p, None, 2), EDM()),
        class_conditioning([[1.0, 0]]),
    )
    with pytest.raises(ValueError, match=r"negative: the guidance \(CFG\) needs it"):
        guider.execute(model, cond, guidance=Guidance((CFG(),)))
    for rule, name in (
        (PerpNeg(), "negative_prompt"),
        (Autoguidance(), "weak_model"),
        (Compose(), "conditions"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: the guidance \({rule.title}\) needs it"):
            guider.execute(model, cond, cond, guidance=Guidance((rule,)))
