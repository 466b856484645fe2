"""Guidance chains: closed form, what is evaluated, and what is off bit for bit."""

import pytest
import torch

from sampling_kit.nodes import _standalone as host
from sampling_kit.nodes.conditioning import class_conditioning
from sampling_kit.schedulers.denoiser import Denoiser, Gaussian
from sampling_kit.schedulers.guidance import CFG, COND, UNCOND, Guidance
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import Euler
from sampling_kit.schedulers.spacing import Karras, space

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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
        assert chain.branches(1.0) == {COND}
        assert chain.combine(X, 1.0, {COND: X}) is X
    assert Guidance((CFG(2.0),)).branches(1.0) == {COND, UNCOND}
    assert torch.allclose(Guidance((CFG(0.0),)).combine(X, 1.0, preds), preds[UNCOND])


def test_rules_apply_in_order_and_values_are_not_changed():
    preds = {COND: X, UNCOND: X.flip(0)}
    before = {name: d.clone() for name, d in preds.items()}
    once = Guidance().then(CFG(2.0)).combine(X, 1.0, preds)
    twice = Guidance((CFG(2.0), CFG(3.0))).combine(X, 1.0, preds)
    assert torch.allclose(twice, preds[UNCOND] + 3 * (once - preds[UNCOND]))
    assert all(torch.equal(preds[name], before[name]) for name in preds)


class Counting(Denoiser):
    calls = 0

    def forward(self, x, sigma, classes=None):
        Counting.calls += 1
        return 0.5 * x


@pytest.mark.parametrize(("scale", "calls"), [(1.0, 20), (3.0, 40)])
def test_branches_are_evaluated_only_where_they_count(scale, calls):
    Counting.calls = 0
    model = host.make_model(lambda path: Counting(path, None, 2), EDM())
    conds = {COND: class_conditioning([[1.0, 0.0]]), UNCOND: class_conditioning([[0.0, 0.0]])}
    guider = host.make_guider(model, conds, Guidance((CFG(scale),)))
    sigmas = torch.tensor(space(EDM(), 20, Karras()).sigmas())
    guider.sample(
        torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), host.make_sampler(Euler()), sigmas
    )
    assert Counting.calls == calls


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5), (2, 3, 4, 4), (2, 4, 3, 4, 4)])
def test_any_number_of_dimensions(shape):
    preds = {COND: torch.ones(shape), UNCOND: torch.zeros(shape)}
    assert torch.equal(
        Guidance((CFG(3.0),)).combine(torch.ones(shape), 1.0, preds), torch.full(shape, 3.0)
    )


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"CFG.scale = -1"):
        CFG(-1)
