"""What rides on the wires without ComfyUI: rules' memory over the parts of a run, images of a batch, NOISE."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from node_calls import folders, node, one

from sampling_kit.schedulers.guidance import ALL as RULES
from sampling_kit.schedulers.guidance import DDNM, UNCOND, ClassifierGuidance
from sampling_kit.schedulers.noise import BatchSeed, PerImageNoise, images_of
from sampling_kit.schedulers.split import load, save

__all__ = ["folders"]  # a fixture

WIRED = {ClassifierGuidance, DDNM}  # they need a CLASSIFIER, a MEASUREMENT
GUIDED = [rule for rule in RULES if rule().reads <= {UNCOND} and not rule.gradient]
GUIDED = [rule for rule in GUIDED if rule not in WIRED and not rule.beside]


class Runs:
    """Runs of one model over six steps, which may be split at the third."""

    def __init__(self, schedule, batch=2):
        schedule = one("NoiseSchedule", kind={"kind": schedule})
        small = {"kind": "gaussian", "size": 24, "scenes": 8, "rank": 2}
        self.model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
        self.sigmas = one(
            "Steps", noise_schedule=schedule, steps=6, spacing={"spacing": "trailing"}
        )
        self.latent = {"samples": torch.zeros(batch, 3, 24, 24)}

    def __call__(self, rule, sampler, sigmas=None, latent=None, noise=None):
        cond = {name: one("ClassCondition", name=name) for name in ("snow", "desert")}
        chain = {} if rule is None else {"guidance": one(rule.__name__)}
        guider = one(
            "Guider", model=self.model, positive=cond["snow"], negative=cond["desert"], **chain
        )
        return one(
            "SamplerCustomAdvanced", noise=noise or one("PerImageNoise", seed=3), guider=guider, sampler=sampler,
            sigmas=self.sigmas if sigmas is None else sigmas, latent_image=latent or self.latent,
        )  # fmt: skip

    def halves(self):
        return self.sigmas[:4], self.sigmas[3:]


@pytest.mark.some(10)
@pytest.mark.parametrize("rule", GUIDED, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("schedule", ["vp_scaled_linear", "rectified_flow"])
def test_a_rule_remembers_over_the_parts_of_a_run_and_a_replay(rule, schedule, tmp_path):
    run, sampler = Runs(schedule), one("UniPC")
    high, low = run.halves()
    taped, trace = node("Trace", sampler=sampler, memory=64)[:2]
    whole = run(rule, taped)["samples"]
    keep, state = node("KeepState", sampler=sampler, sigmas=run.sigmas)
    half = run(rule, keep, high)
    file = tmp_path / "state.safetensors"
    save(state.stopped, file, half)
    state.stopped, _ = load(file)
    resume = one("ResumeState", sampler=sampler, state=state)
    silence = one("DisableNoise")
    assert torch.equal(run(rule, resume, low, half, silence)["samples"], whole)
    played, levels, start = node("Replay", trace=trace, latent=run.latent, step=3)
    assert torch.equal(run(rule, played, levels, start, silence)["samples"], whole)


def test_one_draft_of_ten_is_finished_as_in_the_batch():
    run, sampler = Runs("vp_scaled_linear", batch=5), one("SASolver")
    high, low = run.halves()
    whole = run(None, sampler)["samples"]
    third = {"samples": torch.zeros(1, 3, 24, 24), "batch_index": [2]}
    same = partial(
        torch.allclose, rtol=0, atol=1e-5
    )  # this network rounds by its batch; bit-equal in host/wires.py
    assert same(run(None, sampler, latent=third)["samples"], whole[2:3])
    keep, state = node("KeepState", sampler=sampler, sigmas=run.sigmas)
    drafts = run(None, keep, high)
    resume = one("ResumeState", sampler=sampler, state=state)
    for rows in ([2], [3, 1]):
        some = {"samples": drafts["samples"][rows], "batch_index": rows}
        assert same(run(None, resume, low, some, one("DisableNoise"))["samples"], whole[rows])
    edited = {"samples": drafts["samples"][:1] + 1}
    with pytest.raises(ValueError, match=r"5 images, the latent 1.*LatentFromBatch"):
        run(None, resume, low, edited, one("DisableNoise"))


def test_the_images_of_a_state_are_in_its_file(tmp_path):
    run, sampler = Runs("rectified_flow", batch=1), one("SASolver")
    high, low = run.halves()
    fifth = {**run.latent, "batch_index": [4]}
    whole = run(None, sampler, latent=fifth)["samples"]
    keep, state = node("KeepState", sampler=sampler, sigmas=run.sigmas)
    half = run(None, keep, high, fifth)
    save(state.stopped, tmp_path / "s.safetensors", {"samples": half["samples"]})
    state.stopped, _ = load(tmp_path / "s.safetensors")
    assert state.stopped.images == (4,)
    resume = one("ResumeState", sampler=sampler, state=state)
    assert torch.equal(run(None, resume, low, half, one("DisableNoise"))["samples"], whole)


def test_a_seed_may_say_which_images_it_is_for():
    seed = BatchSeed(10, [2, 0])
    assert seed == 10 and images_of(seed) == (2, 0) and images_of(10) is None
    like = torch.zeros(2, 3)
    assert torch.equal(
        PerImageNoise(seed, images_of(seed))(1, like)[0], PerImageNoise(12)(1, like)[0]
    )


@pytest.mark.parametrize("kind", ["PerImageNoise", "RandomNoise"])
def test_packs_may_set_the_seed_of_a_noise(kind):
    seed = {"PerImageNoise": "seed", "RandomNoise": "noise_seed"}[kind]
    ours, other, wanted = (one(kind, **{seed: s}) for s in (1, 1, 7))
    copied = copy.copy(ours)
    ours.seed = 7
    assert (ours.seed, other.seed, copied.seed) == (7, 1, 1)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    assert torch.equal(ours.generate_noise(latent), wanted.generate_noise(latent))


def test_the_cfg_that_a_host_sets_is_off_at_one_for_every_scale():
    for rule in (rule for rule in RULES if getattr(rule, "guides", False)):
        assert rule().with_cfg(rule().cfg) == rule()
        assert rule().with_cfg(9.0).cfg == pytest.approx(9.0)
        if rule.__name__ != "CFGPlusPlus":
            assert not rule().with_cfg(1.0).reads
