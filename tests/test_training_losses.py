"""Training losses: the targets of networks, and what one error weighs in another."""

import itertools

import pytest
import torch
from inspected import normal
from product import each

from sampling_kit.benchmarks import v_identity
from sampling_kit.nodes.inspect import difference as inspect
from sampling_kit.schedulers.noise_schedule import (
    LinearVP,
)
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.prediction import KINDS, Prediction, get_velocity


@each(path_and_kind=itertools.product([VP(), VE(), Flow()], KINDS), kappa=[0.05, 1.0, 12.0])
def test_the_target_is_what_a_perfect_network_outputs(path_and_kind, kappa):
    path, kind = path_and_kind
    if kind == "v" and path != VP():
        return
    p, prediction = path.at(kappa), Prediction(kind, 0.7)
    x0, eps = normal(0, 3, 5), normal(1, 3, 5)
    target = prediction.target(x0, eps, p.alpha, p.sigma)
    x = p.alpha * x0 + p.sigma * eps
    assert torch.allclose(prediction.to_x0(target, x, p.alpha, p.sigma), x0, atol=1e-9)
    assert torch.equal(
        prediction.loss(target, x0, eps, p.alpha, p.sigma), torch.zeros(3, dtype=x0.dtype)
    )


@each(kind=KINDS, kappa=[0.05, 1.0, 12.0])
def test_the_two_loss_conventions_differ_by_a_weight(kind, kappa):
    """‖x0(out) − x0‖² = b²·‖out − target‖², with b² = σ² for v and κ² for eps."""
    p, prediction = VP().at(kappa), Prediction(kind)
    x0, eps, out = normal(0, 3, 5), normal(1, 3, 5), normal(2, 3, 5)
    first, second = (prediction.loss(out, x0, eps, p.alpha, p.sigma, on) for on in ("output", "x0"))
    weight = prediction.x0_loss_weight(p.alpha, p.sigma)
    assert torch.allclose(second, weight * first, rtol=1e-9)
    known = {"v": p.sigma**2, "eps": kappa**2, "x0": 1.0}
    assert weight == pytest.approx(known.get(kind, weight))


def test_cogvideo_s_loss_is_the_velocity_loss():
    """get_velocity(v, x_t) against x0, weighted with 1/(1 − ᾱ), is ‖v − target‖²."""
    p = VP().at(2.0)
    x0, eps, out = normal(0, 3, 5), normal(1, 3, 5), normal(2, 3, 5)
    x = p.alpha * x0 + p.sigma * eps
    cogvideo = (get_velocity(out, x, p.alpha, p.sigma) - x0).square().mean(1) / (1 - p.alpha**2)
    assert torch.allclose(cogvideo, Prediction("v").loss(out, x0, eps, p.alpha, p.sigma))


def test_a_loss_on_something_else_is_refused():
    with pytest.raises(ValueError, match="output or x0"):
        Prediction("v").loss(normal(0, 1, 2), normal(0, 1, 2), normal(0, 1, 2), 0.6, 0.8, "eps")


@pytest.mark.parametrize(
    ("dtype", "bound"), [("fp64", 2e-15), ("fp32", 2e-6), ("fp16", 1e-2), ("bf16", 8e-2)]
)
def test_the_v_identity_per_dtype(dtype, bound):
    """Rounding only: at most the bound, and not much less either (the page's numbers are these)."""
    for table in v_identity.TABLES.values():
        error = v_identity.kit_error(table, v_identity.DTYPES[dtype])
        assert bound / 20 < error < bound


def test_the_v_identity_needs_its_argument_order():
    assert v_identity.kit_error(LinearVP(), torch.float64, swapped=True) > 1


def test_the_v_identity_page_is_the_benchmark(capsys):
    """The kit's rows of the page, to the factor of 2 that another machine may round differently."""
    page = inspect.__file__.rsplit("/nodes/", 1)[0] + "/docs/v-prediction.md"
    with open(page, encoding="utf-8") as file:
        printed = file.read().split("<!-- benchmarks.v_identity -->\n")[1].split("\n\n")[0]
    cells = [line.strip("|").split("|") for line in printed.split("\n")[2:]]
    shown = {(c[0].strip(), c[1].strip()): [float(x) for x in c[2:]] for c in cells}
    for name, table in v_identity.TABLES.items():
        found = [v_identity.kit_error(table, d) for d in v_identity.DTYPES.values()]
        for ours, theirs in zip(found, shown["coefficients float64", name], strict=True):
            assert 0.5 < ours / theirs < 2
