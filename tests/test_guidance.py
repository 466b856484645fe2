"""Guidance chains: what holds for every rule, what is evaluated, and what is off bit for bit.

Rules are taken from ``ALL``: one that is added is tested here without being named.
"""

import dataclasses
import itertools
import json
import math
from typing import ClassVar

import pytest
import torch
from contracts import off
from product import each

from sampling_kit.nodes import NODES, host
from sampling_kit.nodes.host.conditioning import class_conditioning
from sampling_kit.schedulers.denoiser import Denoiser, Gaussian, Mixture
from sampling_kit.schedulers.guidance import (
    ALL,
    APG,
    CFG,
    COND,
    CURVES,
    DPS,
    PAG,
    SEG,
    UNCOND,
    Autoguidance,
    CFGPlusPlus,
    CFGZeroStar,
    Compose,
    Constant,
    Cosine,
    FrequencyDecoupled,
    Guidance,
    Inpaint,
    Interval,
    Linear,
    Measurement,
    PerpNeg,
    PiGDM,
    Power,
    RectifiedCFGPlusPlus,
    Table,
)
from sampling_kit.schedulers.guidance.curve import NO_LIMIT
from sampling_kit.schedulers.guidance.level import Ladder, Level
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, VP, Flow, Point
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import Prediction
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM, Euler
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, Trailing, space

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KAPPAS = (3.0, 1.4, 0.6, 0.2)
SHAPE = (3, 4, 4)
BRANCHES = {UNCOND: None, COND: 0, "negative": 1, "weak": 0}


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class World:
    """Exact denoisers for every branch, on a path: a mixture of six Gaussians in three classes."""

    def __init__(self, path, shape=SHAPE):
        self.path, self.shape = path, shape
        self.mixture = self.make(0.3)
        self.weak = self.make(0.8)
        self.calls = []

    def make(self, std):
        means = normal(6, *self.shape)
        floor = torch.full((6,), std, dtype=torch.float64)
        return Mixture(self.path, means, floor, labels=torch.tensor([0, 0, 1, 1, 2, 2]))

    def evaluate(self, x, sigma, names):
        self.calls.append(tuple(names))
        return {name: self.branch(name, x, sigma) for name in names}

    def branch(self, name, x, sigma):
        if name.startswith("perturbed"):
            return 0.7 * self.branch(COND, x, sigma) + 0.1 * self.branch(UNCOND, x, sigma)
        number = BRANCHES[name] if name in BRANCHES else int(name.split(".")[1]) % 3
        rows = None if number is None else torch.eye(3)[[number] * len(x)]
        return (self.weak if name == "weak" else self.mixture)(x, sigma, rows)

    def rule(self, cls, **knobs):
        """A rule at its defaults, with whatever its wires need."""
        known = normal(1, *self.shape, seed=7)
        wires = {
            "CLASSIFIER": self.mixture.class_logits,
            "MEASUREMENT": Measurement(Inpaint((known > 0).double()), known),
            "MASKS": (),
        }
        for field in dataclasses.fields(cls):
            if "wire" in field.metadata:
                knobs.setdefault(field.name, wires[field.metadata["wire"]])
        return cls(**knobs)

    def begin(self, guidance, kappas=KAPPAS, **options):
        return guidance.begin(
            self.path, [self.path.host.at(k).sigma for k in (*kappas, 0.0)], **options
        )

    def run(self, guidance, y, **options):
        """D at y = x/α for each of KAPPAS, in one run."""
        run = self.begin(guidance, **options)
        points = [self.path.host.at(kappa) for kappa in KAPPAS]
        return torch.stack([run(y * p.alpha, p.sigma, self.evaluate) for p in points])


def state(batch=3, shape=SHAPE):
    return 2 * normal(batch, *shape, seed=3)


# ------------------------------------------------------------------------------ every rule of ALL

every_rule = pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)


@each(cls=ALL, path=[VE(), Flow()])
def test_a_neutral_rule_is_off_bit_for_bit_and_costs_nothing(cls, path):
    world, y = World(path), state()
    bare = world.run(Guidance(), y)
    world.calls.clear()
    assert torch.equal(world.run(Guidance((off(cls),)), y), bare)
    assert set(world.calls) == {(COND,)}


@every_rule
def test_a_rule_does_something_and_stays_finite(cls):
    world, y = World(VE()), state()
    d = world.run(Guidance((CFG(4.0), world.rule(cls))), y)
    assert torch.isfinite(d).all()
    assert not torch.allclose(d, world.run(Guidance((CFG(4.0),)), y))


@every_rule
def test_outside_its_interval_a_rule_is_off_bit_for_bit(cls):
    world, y = World(VE()), state()
    rule = world.rule(cls, curve=Interval(sigma_low=0.1, sigma_high=0.15))
    bare = world.run(Guidance(), y)
    world.calls.clear()
    assert torch.equal(world.run(Guidance((rule,)), y), bare)
    assert set(world.calls) == {(COND,)}


@every_rule
def test_an_interval_over_everything_is_no_interval(cls):
    world, y = World(VE()), state()
    ranged = Interval(sigma_low=0.0, sigma_high=NO_LIMIT)
    results = [
        world.run(Guidance((world.rule(cls, curve=c),)), y)
        for c in (Constant(), ranged, Linear(1, 1))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@every_rule
def test_images_do_not_see_their_batch_mates(cls):
    world, y = World(VE()), state(4)
    rule = world.rule(cls)
    if cls.__name__ == "ClassifierGuidance":
        rule = dataclasses.replace(rule, label=1)
    whole = world.run(Guidance((rule,)), y)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(world.run(Guidance((rule,)), y[order]), whole[:, order], atol=1e-12)
    assert torch.allclose(world.run(Guidance((rule,)), y[2:3]), whole[:, 2:3], atol=1e-12)


@every_rule
def test_the_scale_means_the_same_on_every_path(cls):
    y = state()
    on_ve, on_flow = (w.run(Guidance((w.rule(cls),)), y) for w in (World(VE()), World(Flow())))
    assert torch.allclose(on_ve, on_flow, rtol=1e-9, atol=1e-9)


@each(cls=ALL, shape=[(2, 6), (3, 4, 4), (3, 2, 4, 4), (1, 24)])
def test_audio_pictures_video_and_packed_latents(cls, shape):
    """3-, 4- and 5-D; [B, 1, N] is how ComfyUI packs video with audio."""
    world, y = World(VE(), shape), state(2, shape)
    guidance = Guidance((world.rule(cls),))
    if cls is FrequencyDecoupled and len(shape) < 3:
        with pytest.raises(ValueError, match=r"height and width.*packed"):
            world.run(guidance, y)
    else:
        assert world.run(guidance, y).shape == (len(KAPPAS), *y.shape)


@every_rule
def test_runs_do_not_remember_one_another_and_values_are_not_changed(cls):
    world, y = World(VE()), state()
    guidance, before = Guidance((world.rule(cls),)), y.clone()
    assert torch.equal(world.run(guidance, y), world.run(guidance, y))
    assert torch.equal(y, before)


@every_rule
def test_predictions_are_not_changed_in_place(cls):
    world, y = World(VE()), state()
    seen = []

    def evaluate(x, sigma, names):
        preds = world.evaluate(x, sigma, names)
        seen.append((preds, {n: p.detach().clone() for n, p in preds.items()}))
        return preds

    world.begin(Guidance((world.rule(cls),)))(y, 1.4, evaluate)
    assert all(torch.equal(p[n], copy[n]) for p, copy in seen for n in copy)


@every_rule
def test_what_is_read_is_what_is_announced(cls):
    world = World(VE())
    rule = world.rule(cls)
    run = world.begin(Guidance((rule,)))
    run(state(), 1.4, world.evaluate)
    assert set(itertools.chain(*world.calls)) == {COND} | rule.reads
    assert set(world.calls[0]) == run.branches(1.4) <= {COND} | rule.reads


@each(cls=ALL, kind=["eps", "v", "flow", "edm"])
def test_the_scale_does_not_depend_on_the_network_s_prediction(cls, kind):
    """D from a network of any kind is the same D, so the same guided D; papers differ on this."""
    world, y = World(VE()), state()
    rule = world.rule(cls)
    prediction = Prediction(kind)

    def through(x, sigma, names):
        n = math.hypot(1, sigma)  # VP coordinates, where every kind is defined
        arguments = (x / n, 1 / n, sigma / n)
        return {
            name: prediction.to_x0(prediction.from_x0(d, *arguments), *arguments)
            for name, d in world.evaluate(x, sigma, names).items()
        }

    run, other = (world.begin(Guidance((rule,))) for _ in range(2))
    assert torch.allclose(run(y, 0.6, world.evaluate), other(y, 0.6, through), atol=1e-9)


@every_rule
def test_inference_mode_as_a_host_runs_it(cls):
    world = World(VE())
    rule, y = world.rule(cls), state()
    with torch.inference_mode():
        d = world.begin(Guidance((rule,)))(y.clone(), 1.4, world.evaluate)
    assert not d.requires_grad
    assert torch.equal(d, world.begin(Guidance((rule,)))(y, 1.4, world.evaluate))


@every_rule
def test_every_rule_has_a_paper_a_node_and_widgets_that_make_it(cls):
    node = {n.define_schema().node_id: n for n in NODES}[f"SamplingKit{cls.__name__}"]
    assert cls.paper in node.define_schema().description
    assert "curve" in {i.id for i in node.define_schema().inputs}
    curve = {"curve": "interval", "sigma_low": 0.1, "sigma_high": None}
    wires = {"conditions": {"condition0": "a condition"}} if cls is Compose else {}
    for knobs, expected in (({"curve": curve}, cls(curve=Interval(sigma_low=0.1))), ({}, cls())):
        assert node.execute(**wires, **knobs).result[0].rules == (expected,)


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


# --------------------------------------------------------------------------------- curves and levels


def at(t):
    return Level(t, Point(1 - t, t))


def test_curves_are_the_written_functions_of_t():
    for t in (0.0, 0.3, 0.5, 0.9, 1.0):
        assert Constant()(at(t)) == 1
        if t:
            assert Linear(2, 0.5)(at(t)) == pytest.approx(0.5 + 1.5 * t)
            assert Cosine(2, 0.5)(at(t)) == pytest.approx(0.5 + 0.75 * (1 - math.cos(math.pi * t)))
            assert Power(0, 2, 3.0)(at(t)) == pytest.approx(2 * (1 - t**3))
    table = Table("0.8:1, 0.2: 3; 0.5:0")
    assert [table(at(t)) for t in (1, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1)] == pytest.approx(
        [1, 1, 0.5, 0, 1.5, 3, 3]
    )


def test_curves_mean_the_same_on_every_path_and_ranges_are_in_sigmas():
    for cls in CURVES.values():
        kappa = 1.7
        levels = [Level(1.0, path.at(kappa)) for path in (VE(), VP(), Flow())]
        assert len({round(cls()(level), 12) for level in levels}) == 1
    interval = Interval(sigma_low=0.2, sigma_high=0.7)
    assert [interval(at(t)) for t in (0.2, 0.21, 0.7, 0.71)] == [0, 1, 1, 0]


def test_a_weight_goes_from_neutral_to_the_scale():
    assert CFG(5.0, Linear(0, 1)).weight(at(0.25)) == pytest.approx(1 + 0.75 * 4)
    assert PAG(3.0, curve=Linear(0, 1)).weight(at(0.25)) == pytest.approx(0.75 * 3)
    assert CFG(0.1, Linear(1, 1)).weight(at(0.3)) == 0.1  # exactly
    assert CFG(5.0, Linear(1, 0)).branches(at(0.5)) == {UNCOND}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Table("1:0, oops"),
        lambda: Table("0.5:1, 0.5:2"),
        lambda: Table("2:1"),
        lambda: Interval(sigma_low=-1.0),
        lambda: Interval(sigma_high=math.inf),
        lambda: CFG(2.0, "interval"),
        lambda: Compose("1, x"),
        lambda: Compose("1", masks=(None, None)),
        lambda: CFG(-1),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ValueError, match=r"(Table|Interval|CFG|Compose)[.:]"):
        make()


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"CFG.scale = -1"):
        CFG(-1)


@pytest.mark.parametrize(
    ("sigmas", "sigma", "step"),
    [
        ((8, 4, 2, 1, 0), 8, 0),
        ((8, 4, 2, 1, 0), 10, 0),  # churned above the first level
        ((8, 4, 2, 1, 0), 5, 0),  # a midpoint belongs to the step around it
        ((8, 4, 2, 1, 0), 4, 1),
        ((8, 4, 2, 1, 0), 4 * (1 - 1e-7), 1),  # float32
        ((8, 4, 2, 1, 0), 0.1, 3),
        ((1, 2, 4), 1, 0),
        ((1, 2, 4), 2, 1),
        ((1, 2, 4), 3, 1),
        ((), 3, None),
        ((3,), 3, None),
    ],
)
def test_the_step_of_a_level(sigmas, sigma, step):
    level = Ladder.make(VP(), sigmas).at(sigma)  # SIGMAS of a VP model are in VE coordinates
    assert level.step == step and level.point == Point(1.0, sigma)
    assert level.end == (None if step is None else Point(1.0, sigmas[step + 1]))


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
