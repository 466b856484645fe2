"""Normalized attention guidance by hand, and two prompts in one attention."""

import pytest
import torch

from sampling_kit.schedulers.guidance import CFG, NAG, PAG, SEG, Guidance, Interval
from sampling_kit.schedulers.guidance.nag import normalized
from sampling_kit.schedulers.guidance.two_prompts import crossed, joint
from sampling_kit.schedulers.path import Flow


def tokens(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PLUS, MINUS = tokens(2, 5, 6), tokens(2, 5, 6, seed=1)


def test_a_token_computed_by_hand():
    plus, minus = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])
    # z̃ = 3z⁺ − 2z⁻ = (3, −5), of length 8 where z⁺ has 2
    assert normalized(plus, minus, 3.0, 4.0, 1.0).tolist() == [3.0, -5.0]
    assert normalized(plus, minus, 3.0, 2.0, 1.0).tolist() == [1.5, -2.5]
    assert normalized(plus, minus, 3.0, 2.0, 0.5).tolist() == [1.25, -1.75]


def test_what_leaves_attention_as_it_was():
    assert torch.equal(normalized(PLUS, MINUS, 4.0, 2.0, 0.0), PLUS)
    assert torch.allclose(normalized(PLUS, MINUS, 1.0, 1.0, 1.0), PLUS)
    assert torch.allclose(normalized(PLUS, PLUS, 7.0, 1.0, 1.0), PLUS)


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_no_token_grows_beyond_tau(tau):
    far = normalized(PLUS, MINUS, 50.0, tau, 1.0)
    lengths, before = far.abs().sum(-1), PLUS.abs().sum(-1)
    assert torch.allclose(lengths, tau * before)
    straight = MINUS + 50.0 * (PLUS - MINUS)
    assert torch.allclose(far / lengths[..., None], straight / straight.abs().sum(-1, keepdim=True))


def test_half_precision_and_nothing_at_all_stay_finite():
    plus = torch.full((1, 3000), 60.0, dtype=torch.float16)  # whose sum is beyond fp16
    z = normalized(plus, -plus, 5.0, 2.5, 0.5)
    assert torch.allclose(z, torch.full_like(z, 60 * (1 + 2.5) / 2))
    assert torch.equal(normalized(torch.zeros(2), torch.ones(2), 5.0, 2.5, 1.0), torch.zeros(2))


def attend(q, k, v):
    return torch.softmax(q @ k.mT, -1) @ v


@pytest.mark.parametrize("order", [("plus", "minus", "picture"), ("plus", "picture", "minus")])
def test_each_prompt_sees_itself_and_the_picture(order):
    sizes, start, parts = {"plus": 2, "minus": 3, "picture": 4}, 0, {}
    for name in order:
        parts[name] = slice(start, start + sizes[name])
        start += sizes[name]
    q, k, v = (tokens(2, 9, 6, seed=n) for n in range(3))
    rows = torch.tensor([True, False])
    out = joint(attend, q, k, v, parts, lambda plus, minus: plus - 2 * minus, rows)
    alone = {}
    for prompt in ("plus", "minus"):
        seen = [i for name in (prompt, "picture") for i in range(9)[parts[name]]]
        alone[prompt] = attend(*(t[:, seen] for t in (q, k, v)))
        assert torch.allclose(out[:, parts[prompt]], alone[prompt][:, : sizes[prompt]])
    plus, minus = (alone[name][:, sizes[name] :] for name in ("plus", "minus"))
    assert torch.allclose(out[0, parts["picture"]], (plus - 2 * minus)[0])
    assert torch.allclose(out[1, parts["picture"]], plus[1])


def test_a_picture_attends_to_each_prompt_alone():
    q, k, v = tokens(2, 4, 6), tokens(2, 5, 6, seed=1), tokens(2, 5, 6, seed=2)
    out = crossed(attend, q, k, v, 2, lambda plus, minus: minus, None)
    assert torch.allclose(out, attend(q, k[:, 2:], v[:, 2:]))


def test_it_costs_no_branch_and_is_off_where_its_curve_or_share_is():
    rule = NAG(curve=Interval(sigma_low=0.4, sigma_high=0.8))
    run = Guidance((rule,)).begin(Flow(), [0.9, 0.6, 0.0])
    assert run.branches(0.6) == {"cond"}
    inside = [run.guidance.in_attention(run.ladder.at(s)) for s in (0.9, 0.6)]
    assert inside[0] is None
    assert torch.equal(inside[1](PLUS, MINUS), normalized(PLUS, MINUS, 5.0, 2.5, 0.25))
    for off in (NAG(scale=1.0), NAG(alpha=0.0)):
        assert Guidance((off,)).in_attention(run.ladder.at(0.6)) is None


@pytest.mark.parametrize("other", [NAG(), PAG(), SEG()])
def test_two_rules_cannot_change_one_attention(other):
    with pytest.raises(ValueError, match=f"NAG and {other.title} both change the attention"):
        Guidance((CFG(), NAG(), other)).require_one_attention()
