"""The Guider without ComfyUI: what travels with a chain, masks, sharing, reports, and gradients in inference mode."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

from sampling_kit.nodes import NODES, host
from sampling_kit.nodes.host.guidance_wire import brought_by, fit_mask, placed
from sampling_kit.schedulers.guidance import (
    CFG,
    Compose,
    Guidance,
    Inpaint,
    Measurement,
    PiGDM,
    differentiable,
    ordinary,
)

BY_ID = {node.define_schema().node_id: node for node in NODES}
CONDITION = [[torch.zeros(1, 1, 10), {}]]


def kit(name, /, **inputs):
    return BY_ID[f"SamplingKit{name}"].execute(**inputs).result[0]


# ------------------------------------------------------------------------------------ on the wire


def test_composition_numbers_its_conditions_on_along_the_chain():
    a, b, c = ([[torch.full((1, 1, 10), float(i)), {}]] for i in range(3))
    mask = torch.ones(1, 4, 4)
    chain = kit(
        "Compose",
        conditions={"condition0": a, "condition1": b},
        weights="1, -2",
        masks={"mask1": mask},
    )
    chain = kit(
        "Compose", conditions={"condition3": c}, weights="3", guidance=kit("CFG", guidance=chain)
    )
    first, _, second = chain.rules
    assert (first.first, second.first, second.masks) == (1, 3, ())
    assert first.masks == (None, mask)
    assert chain.reads == {"cond", "uncond", "cond.1", "cond.2", "cond.3"}
    assert brought_by(chain) == {"cond.1": a, "cond.2": b, "cond.3": c}
    assert isinstance(kit("CFG"), Guidance) and brought_by(kit("CFG")) == {}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"weights": "1, 2"}, "2 for 1 conditions"),
        ({"weights": "one"}, "write numbers"),
        ({"weights": "1", "masks": {"mask2": torch.ones(1, 2, 2)}}, r"masks.mask2: there is no conditions.condition2"),
    ],
)  # fmt: skip
def test_composition_says_what_does_not_fit(inputs, words):
    with pytest.raises(ValueError, match=words):
        kit("Compose", conditions={"condition0": CONDITION}, **inputs)


def test_two_negative_prompts_are_refused():
    chain = kit("PerpNeg", negative_prompt=CONDITION)
    assert len(kit("PerpNeg", negative_prompt=CONDITION, guidance=chain).rules) == 2
    with pytest.raises(
        ValueError, match="two nodes of the chain bring a different negative_prompt"
    ):
        kit("PerpNeg", negative_prompt=[[torch.ones(1, 1, 10), {}]], guidance=chain)


# ----------------------------------------------------------------------------------- on the device


def test_masks_come_to_the_size_of_the_latent():
    x = torch.zeros(4, 3, 2, 8, 16)  # a video
    left = torch.zeros(1, 32, 64)
    left[..., :32] = 1
    assert fit_mask(left, x).shape == (1, 1, 1, 8, 16)
    assert torch.equal(fit_mask(left, x)[0, 0, 0, 0], (torch.arange(16) < 8).float())
    assert fit_mask(left.repeat(2, 1, 1), x).shape == (4, 1, 1, 8, 16)
    chain = placed(Guidance((CFG(), Compose("1", masks=(left,)))), x)
    assert chain.rules[0] == CFG() and chain.rules[1].masks[0].shape == (1, 1, 1, 8, 16)
    with pytest.raises(ValueError, match="a mask of Composition"):
        placed(Guidance((Compose("1", masks=(left,)),)), torch.zeros(2, 1, 50))


def test_what_rules_hold_comes_to_the_dtype_of_the_latent():
    known = Measurement(
        Inpaint(torch.ones(1, 1, 4, 4, dtype=torch.float64)), torch.ones(1, 3, 4, 4).double()
    )
    (rule,) = placed(Guidance((PiGDM(measurement=known),)), torch.zeros(1, 3, 4, 4)).rules
    assert rule.measurement.y.dtype == rule.measurement.operator.mask.dtype == torch.float32
    assert known.y.dtype == torch.float64
    with torch.inference_mode():  # as in a host: still fit for a graph
        mask = torch.ones(1, 4, 4)
        (rule,) = placed(Guidance((Compose("1", masks=(mask,)),)), torch.zeros(1, 3, 4, 4)).rules
    assert not rule.masks[0].is_inference()


# ----------------------------------------------------------------------------------------- runs


class Kept:
    def __init__(self):
        self.reports = []

    def put(self, report):
        self.reports.append(report)


def world(kind="rectified_flow", condition="dawn mountains"):
    schedule = kit("NoiseSchedule", kind={"kind": kind})
    small = {"kind": "gaussian", "size": 24, "scenes": 4, "rank": 2}
    model = kit("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
    sigmas = kit("Steps", noise_schedule=schedule, steps=5, spacing={"spacing": "trailing"})
    conds = [kit("ClassCondition", name=n) for n in (condition, "unconditional")]
    return model, conds, sigmas


def run(guider, sigmas):
    noise = kit("PerImageNoise", seed=1).generate_noise({"samples": torch.zeros(3, 3, 24, 24)})
    return guider.sample(noise, torch.zeros(3, 3, 24, 24), kit("DDIM"), sigmas)


def test_a_run_is_logged_and_reported_once(caplog):
    model, (positive, negative), sigmas = world()
    guider = kit(
        "Guider", model=model, positive=positive, negative=negative, guidance=kit("CFG", scale=3.0)
    )
    kept = Kept()
    marked = host.runs.probed(guider, kept)
    with caplog.at_level(logging.INFO, "sampling_kit"):
        out = run(marked, sigmas)
    (line,) = caplog.messages
    first = "Guider: 5 evaluations, 10 network calls, 0 saved where rules were off"
    assert line.startswith(f"{first}; estimated error ")
    (report,) = kept.reports
    assert len(report["steps"]) == 5 and report["steps"][0]["delta"]
    json.dumps(report, allow_nan=False)
    assert torch.equal(run(guider, sigmas), out) and len(kept.reports) == 1
    with pytest.raises(TypeError, match="connect a Guider of the Sampling Kit"):
        host.runs.probed(object(), kept)


def test_sharing_at_pure_noise(caplog):
    for kind, saved in (("rectified_flow", 4), ("vp_linear", 0)):
        model, (positive, negative), sigmas = world(kind)
        inputs = dict(
            model=model, positive=positive, negative=negative, guidance=kit("CFG", scale=3.0)
        )
        kept = Kept()
        shared = run(host.runs.probed(kit("Guider", **inputs, share_pure_noise=True), kept), sigmas)
        assert torch.allclose(shared, run(kit("Guider", **inputs), sigmas), atol=1e-5)
        assert kept.reports[0]["shared_images"] == saved
    model, (positive, negative), sigmas = world(condition="one of each")
    guider = kit("Guider", model=model, positive=positive, negative=negative, share_pure_noise=True)
    with pytest.raises(
        ValueError, match="share_pure_noise: the images of this batch have different conditions"
    ):
        run(guider, sigmas)


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [("vp_linear", 24, "its noise levels"), ("rectified_flow", 32, "its latents are")],
)
def test_a_weak_model_that_does_not_fit_is_refused(kind, size, words):
    model, (positive, _), _ = world()
    schedule = kit("NoiseSchedule", kind={"kind": kind})
    small = {"kind": "gaussian", "size": size, "scenes": 4, "rank": 2}
    weak = kit("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
    with pytest.raises(ValueError, match=f"weak_model: {words}"):
        kit("Guider", model=model, positive=positive, guidance=kit("Autoguidance", weak_model=weak))


# ------------------------------------------------------------------------------------- gradients


def test_ordinary_tensors_share_memory_and_can_be_differentiated_through():
    with torch.inference_mode():
        weight = torch.randn(4, 6)[:, ::2]
        held = {"a": [weight, 3], "b": (nn.Parameter(weight, requires_grad=False), None)}
    found = ordinary(held)
    alias, parameter = found["a"][0], found["b"][0]
    assert weight.is_inference() and not alias.is_inference() and not parameter.is_inference()
    assert isinstance(parameter, nn.Parameter) and alias.data_ptr() == weight.data_ptr()
    assert alias.stride() == weight.stride() and torch.equal(alias, weight)
    assert found["a"][1] == 3 and ordinary(alias) is alias
    x = torch.ones(4, requires_grad=True)
    (x @ alias).sum().backward()
    assert torch.allclose(x.grad, weight.sum(1))


def test_a_network_is_as_before_after_it_was_differentiated():
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
        net.table = torch.ones(3)
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers()), "table": net.table}
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
        net(x).sum().backward()
    with differentiable(net, "no module"):
        (net(x) * net.table).sum().backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(KeyError), differentiable(net):
        raise KeyError
    now = {**dict(net.named_parameters()), **dict(net.named_buffers()), "table": net.table}
    assert all(now[name] is tensors[name] for name in tensors)
