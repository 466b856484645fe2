"""Guidance rules: what holds for every one, what it reads, and where it is off bit for bit.

Rules are taken from ``ALL``: one that is added is tested here without being named.
"""

import dataclasses
import itertools
import math

import pytest
import torch
from contracts import off
from guidance_worlds import KAPPAS, World, state
from product import each

from sampling_kit.nodes import NODES
from sampling_kit.schedulers.guidance import (
    ALL,
    CFG,
    COND,
    Compose,
    Constant,
    FrequencyDecoupled,
    Guidance,
    Interval,
    Linear,
)
from sampling_kit.schedulers.guidance.curve import NO_LIMIT
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.prediction import Prediction

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
    inside = bool(cls.beside)  # of the network, which these exact ones have no attention for
    assert torch.allclose(d, world.run(Guidance((CFG(4.0),)), y)) == inside


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
