"""Train AMED Predictor: what is trained is what runs, it is kept, it looks at the bottleneck, and its file is checked."""

from __future__ import annotations

import re

import pytest
import torch
from fit_cases import HELD, calls, folders, guider_of, recording_of, sampled
from node_calls import node, one
from safetensors.torch import save_file
from torch import nn

from sampling_kit.nodes.fit.train_predictor import levels
from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers.fit import predictor
from sampling_kit.schedulers.fit.amed_predictors import (
    Bottleneck,
    FeaturePredictor,
    middle_of,
    pooled,
)

__all__ = ["folders"]  # a fixture
SETTINGS = dict(steps=3, held_out=HELD, rounds=3)


def stated(text):
    """(RMSE untrained, trained)."""
    return tuple(
        map(float, re.search(r"trajectories: (\S+) untrained, (\S+) trained", text).groups())
    )


@pytest.mark.some(1)
@pytest.mark.parametrize("schedule", ["ve_edm", "rectified_flow", "vp_scaled_linear"])
def test_what_is_trained_is_what_runs_and_is_kept(schedule):
    guider = guider_of(schedule)
    recording = recording_of(guider)
    sampler, sigmas, text = node("TrainAMED", trajectories=recording, **SETTINGS)
    before, after = stated(text)
    assert after < 0.9 * before
    assert "levels only" in text and "5 evaluations" in text
    off = sampled(guider, sampler, sigmas) - recording.trajectories.end()
    rms = off[-HELD:].square().flatten(1).mean(1).sqrt()
    assert float(rms.square().mean().sqrt()) == pytest.approx(after, rel=2e-3)
    found = calls(guider)
    again = node("TrainAMED", trajectories=recording, **SETTINGS)
    assert again[2] == text and not found, "the second time it is read"


def test_the_bottleneck_is_found_and_asked():
    schedule = one("NoiseSchedule", kind={"kind": "ve_edm"})
    model = one("EmbeddedDenoiser", kind={"kind": "network-small"}, noise_schedule=schedule)
    conds = [one("ClassCondition", name=name) for name in ("one of each", "unconditional")]
    guider = one("CFGGuider", model=model, positive=conds[0], negative=conds[1], cfg=2.0)
    latent = one("EmptyPixelLatent", width=32, height=32, batch_size=1)
    recording = recording_of(guider, latent=latent, count=6, levels=8, substeps=1)
    inputs = dict(trajectories=recording, steps=2, held_out=2, rounds=1, rate=0.02)
    sampler, sigmas, text = node("TrainAMED", **inputs)
    assert "looks at the bottleneck" in text
    before, after = stated(text)
    assert after < before
    latent = one("EmptyPixelLatent", width=32, height=32, batch_size=6)
    wires = dict(noise=one("PerImageNoise", seed=7), guider=guider, latent_image=latent)
    end = one("SamplerCustomAdvanced", sampler=sampler, sigmas=sigmas, **wires)["samples"]
    off = end - recording.trajectories.end()
    rms = off[-2:].square().flatten(1).mean(1).sqrt()
    assert float(rms.square().mean().sqrt()) == pytest.approx(after, rel=2e-3)


def test_as_a_plug_in():
    guider = guider_of()
    recording = recording_of(guider)
    base = one("DPMSolverMultistep")
    _, _, text = node("TrainAMED", trajectories=recording, sampler=base, **SETTINGS)
    before, after = stated(text)
    assert after <= before and "DPMSolverMultistep" in text
    with pytest.raises(ValueError, match="one evaluation per step"):
        node("TrainAMED", trajectories=recording, sampler=one("HeunEDM"), **SETTINGS)


def test_what_it_cannot_learn_from_is_said():
    recording = recording_of(guider_of(), more={"guider0": guider_of(name="snow")}, count=8)
    with pytest.raises(ValueError, match="several prompts"):
        node("TrainAMED", trajectories=recording, **SETTINGS)
    recording = recording_of(guider_of())
    with pytest.raises(ValueError, match="end at 0"):
        node("TrainAMED", trajectories=recording, sigmas=torch.tensor([5.0, 1.0, 0.1]), **SETTINGS)
    with pytest.raises(ValueError, match="the trajectories at"):
        node(
            "TrainAMED", trajectories=recording, sigmas=torch.tensor([500.0, 1.0, 0.0]), **SETTINGS
        )


@pytest.mark.parametrize("name", ["ve_edm", "rectified_flow", "vp_scaled_linear", "sub_vp"])
def test_levels_start_where_there_is_still_a_number(name):
    kappas = levels(schedules.ALL[name](), 4, None).kappas
    assert len(kappas) == 5 and kappas[0] <= 80.0 * (1 + 1e-9) and kappas[-1] == 0


def test_features_are_the_mean_of_the_branches():
    net = nn.Sequential()
    net.add_module("middle_block", nn.Identity())
    h = torch.randn(6, 5, 8, 8)
    with Bottleneck(middle_of(net)) as features:
        net(h)  # CFG in one call
        together = features(3)
        net(h[:3]), net(h[3:])  # and in two
        assert torch.equal(together, features(3))
        assert features(3) is None
    assert torch.allclose(together, (pooled(h[:3]) + pooled(h[3:])) / 2)
    assert middle_of(nn.Linear(2, 2)) is None


def test_a_file_that_is_none(tmp_path):
    good, bad = FeaturePredictor(), tmp_path / "bad.safetensors"
    nn.init.normal_(good.out.weight)
    predictor.save(tmp_path / "a.safetensors", good, {"text": "x"})
    again, facts = predictor.load(tmp_path / "a.safetensors")
    assert facts["text"] == "x" and torch.equal(again.out.weight, good.out.weight)
    state = good.state_dict()
    for tensors, header in (
        (state, "{}"),
        (state, '{"version": 99}'),
        (state | {"out.bias": torch.full((3,), float("nan"))}, '{"version": 1}'),
        (state | {"out.bias": torch.zeros(4)}, '{"version": 1}'),
        ({"x": torch.zeros(1)}, '{"version": 1}'),
    ):
        save_file(tensors, bad, {predictor.FORMAT.header: header})
        with pytest.raises(ValueError, match=r"bad\.safetensors: not a usable AMED predictor"):
            predictor.load(bad)
    bad.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a safetensors file"):
        predictor.load(bad)
