"""Reported Level: what the model is told, against the exact answer, in parts and with rules that remember."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from node_calls import folders, node, one
from product import each

from sampling_kit.nodes import host
from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.guidance import Guidance
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.reported_level import ReportedLevel

__all__ = ["folders"]  # a fixture

RUN = (8.0, 4.0, 2.0, 1.0, 0.0)
BUMP = "0:0, 0.5:1, 1:0"


def test_the_level_told_follows_the_curve_over_the_steps():
    reported = ReportedLevel(0.2, BUMP)
    assert [reported.at(s, RUN) for s in (8.0, 2.0, 0.0)] == [8.0, 2.0 * 0.8, 0.0]
    assert 3.0 * 0.8 < reported.at(3.0, RUN) < 3.0  # between two steps
    assert reported.at(9.0, RUN) == 9.0  # above the run: its start
    assert ReportedLevel(-0.5, "0:1, 1:1").at(1.0, RUN) == 1.5
    assert ReportedLevel(0.0, BUMP).at(2.0, RUN) == 2.0


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ("0:0, 0.5", "write points progress:height"),
        ("0:0, 0.5:1", "exactly 0 to exactly 1"),
        ("0:0, 0.6:1, 0.5:1, 1:0", "progress rising"),
        ("0:0, 1:2", "heights lie between 0 and 1"),
        ("0:0, 1:nan", "heights lie between 0 and 1"),
    ],
)
def test_a_curve_that_is_none_is_refused(curve, says):
    with pytest.raises(ValueError, match=says):
        ReportedLevel(0.1, curve)


class Exact:
    """Data N(0, 1) on VE, in six Euler steps."""

    def __init__(self):
        build = lambda path: Gaussian(path, torch.zeros(3, 8, 8), torch.ones(3, 8, 8))  # noqa: E731
        self.model = host.models.make_model(build, EDM(sigma_min=0.01, sigma_max=20.0))
        self.sigmas = torch.tensor([20.0, 9.0, 4.0, 2.0, 1.0, 0.4, 0.0])
        self.guider = host.runs.make_guider(
            self.model, {"cond": [[torch.zeros(1, 1, 1), {}]]}, Guidance()
        )
        self.latent = {"samples": torch.zeros(1, 3, 8, 8)}

    def run(self, sampler):
        return one(
            "SamplerCustomAdvanced", noise=one("PerImageNoise", seed=3), guider=self.guider, sampler=sampler,
            sigmas=self.sigmas, latent_image=self.latent,
        )["samples"]  # fmt: skip


def test_euler_ends_where_the_exact_denoiser_at_the_told_levels_leads():
    exact = Exact()
    sampler = one(
        "ReportedLevel", sampler=one("Euler"), sigmas=exact.sigmas, amount=0.3, curve=BUMP
    )
    levels = exact.sigmas.tolist()
    x = (
        one("PerImageNoise", seed=3).generate_noise(exact.latent).double()
        * (1 + levels[0] ** 2) ** 0.5
    )
    reported = ReportedLevel(0.3, BUMP)
    for sigma, after in pairwise(levels):
        d = x / (1 + reported.at(sigma, levels) ** 2)
        x = x + (after - sigma) * (x - d) / sigma
    torch.testing.assert_close(exact.run(sampler).double(), x, rtol=0, atol=2e-5)
    plain = exact.run(one("Euler"))
    assert not torch.allclose(exact.run(sampler), plain, atol=0.02)
    twice = one("ReportedLevel", sampler=sampler, sigmas=exact.sigmas, amount=0.0)
    assert torch.equal(exact.run(twice), exact.run(sampler))


@each(rule=["CFGZeroStar", "APG", "CFGPlusPlus"], schedule=["rectified_flow", "vp_scaled_linear"])
def test_a_reported_level_in_parts_is_the_run_in_one_go(rule, schedule):
    schedule = one("NoiseSchedule", kind={"kind": schedule})
    small = {"kind": "gaussian", "size": 24, "scenes": 8, "rank": 2}
    model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
    sigmas = one("Steps", noise_schedule=schedule, steps=6, spacing={"spacing": "trailing"})
    cond = [one("ClassCondition", name=name) for name in ("snow", "desert")]
    guider = one("Guider", model=model, positive=cond[0], negative=cond[1], guidance=one(rule))
    solver, latent = one("UniPC"), {"samples": torch.zeros(2, 3, 24, 24)}

    def told(sampler):
        return one("ReportedLevel", sampler=sampler, sigmas=sigmas, amount=0.15, curve=BUMP)

    def run(sampler, levels, start, noise):
        return one(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=levels, latent_image=start
        )  # fmt: skip

    noise = one("PerImageNoise", seed=3)
    whole = run(told(solver), sigmas, latent, noise)["samples"]
    keep, state = node("KeepState", sampler=solver, sigmas=sigmas)
    half = run(told(keep), sigmas[:4], latent, noise)
    resume = one("ResumeState", sampler=solver, state=state)
    end = run(told(resume), sigmas[3:], half, one("DisableNoise"))["samples"]
    assert torch.equal(end, whole)
    assert not torch.equal(whole, run(solver, sigmas, latent, noise)["samples"])


def test_levels_that_rise_are_refused():
    with pytest.raises(ValueError, match="whose noise levels fall"):
        one("ReportedLevel", sampler=one("Euler"), sigmas=torch.tensor([0.0, 1.0]))
