"""What a model is found to be: its prediction, and what its dtypes cost."""

import json
import math

import pytest
import torch
from inspected import BF16, FP16, FP32, normal
from product import each

from sampling_kit.nodes.denoiser.embedded import scenes
from sampling_kit.schedulers.denoiser.analytic import Gaussian, ImageSet, Mixture
from sampling_kit.schedulers.denoiser.wrap import InDtype, Relabelled
from sampling_kit.schedulers.measure import DTYPES, precision, prediction_type, spread
from sampling_kit.schedulers.measure.compute_dtype import choose
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.prediction import KINDS, Prediction
from sampling_kit.schedulers.show import precision_plot

SCHEDULES = {
    "VP": ScaledLinearVP(),
    "zero SNR": ScaledLinearVP(zero_snr=True),
    "VE": EDM(),
    "flow": RectifiedFlowSchedule(shift=3.0),
}


def pictures(count=4, size=24):
    return scenes(20, size)[:count, 0]


# ------------------------------------------------------------------------------- prediction type


def data(kind, host_path):
    """(exact denoiser, pictures from its distribution)."""
    images = scenes(20, 24)
    if kind == "gaussian":
        x0 = 0.3 + 0.5 * normal(3, 4, 3, 24, 24).float()
        return Gaussian(host_path, torch.full((3, 24, 24), 0.3), 0.5), x0
    if kind == "mixture":
        return Mixture.fit(host_path, images, 12), images[:4, 0]
    return ImageSet(host_path, images), images[:4, 1]


def raw(denoiser, kind, schedule):
    """The denoiser as a network that outputs ``kind``."""
    prediction = Prediction(kind)
    return Relabelled(denoiser, prediction, schedule, prediction, schedule, raw=True)


@pytest.mark.some(6)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("kind", ["gaussian", "mixture", "images"])
def test_the_prediction_is_found_whatever_the_model_claims(schedule, kind):
    denoiser, x0 = data(kind, schedule.path.host)
    for truth in KINDS:
        network = raw(denoiser, truth, schedule)
        for claim in (truth, "eps" if truth != "eps" else "v"):
            verdict = prediction_type.check(network, x0, schedule, Prediction(claim), levels=6)
            assert verdict.best == truth
            assert verdict.agrees in ((claim == truth), None)
            assert kind == "gaussian" or verdict.clear
            json.dumps(verdict.payload(), allow_nan=False)


def test_a_flipped_sign_is_found():
    schedule = RectifiedFlowSchedule()
    denoiser, x0 = data("mixture", schedule.path.host)
    network = raw(denoiser, "flow", schedule)
    verdict = prediction_type.check(lambda x, s: -network(x, s), x0, schedule, Prediction("flow"))
    assert verdict.best == "flow, sign flipped" and "flip the sign" in verdict.sentence()


def test_noise_and_nothing_are_not_called_clear():
    schedule, x0 = ScaledLinearVP(), pictures()
    noise = prediction_type.check(lambda x, s: torch.randn_like(x), x0, schedule, None)
    assert not noise.clear and noise.agrees is None
    broken = prediction_type.check(lambda x, s: x * math.nan, x0, schedule, Prediction("v"))
    assert "not finite" in broken.sentence()
    json.dumps(broken.payload(), allow_nan=False)


def test_latents_must_not_be_empty():
    with pytest.raises(ValueError, match="all zero"):
        prediction_type.check(lambda x, s: x, torch.zeros(1, 3, 4, 4), EDM(), None)


@pytest.mark.parametrize("shape", [(2, 6, 40), (2, 3, 8, 8), (2, 3, 4, 6, 6)], ids=len)
def test_any_number_of_dimensions(shape):
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    denoiser = Gaussian(VE(), torch.ones(shape[1:]), 0.3)
    network = raw(denoiser, "v", EDM())
    assert prediction_type.check(network, x0, EDM(), None).best == "v"


# ------------------------------------------------------------------------------------ relabelled


@each(kind=KINDS, schedule=SCHEDULES.values())
def test_a_network_read_as_what_it_is_is_the_denoiser(schedule, kind):
    denoiser, x0 = data("mixture", schedule.path.host)
    same = Relabelled(denoiser, Prediction(kind), schedule, Prediction(kind), schedule)
    for sigma in spread(schedule, 5, 0.05, 20.0):
        point = schedule.path.host.on(sigma)
        x = point.alpha * x0 + point.sigma * torch.randn_like(x0)
        assert torch.allclose(same(x, sigma), denoiser(x, sigma), atol=2e-4)


def test_a_wrong_schedule_makes_a_wrong_time():
    """κ of the wrong table at the same timestep is what the network takes the state for."""
    sd, ddpm = ScaledLinearVP(), LinearVP()
    denoiser, x0 = data("gaussian", VE())
    wrong = Relabelled(denoiser, Prediction("x0"), sd, Prediction("x0"), ddpm)
    kappa = float(ddpm.kappa(700))
    taken_for = float(sd.kappa(700))
    x = x0 + kappa * torch.randn_like(x0)
    scale = ((1 + taken_for**2) / (1 + kappa**2)) ** 0.5
    assert torch.allclose(wrong(x, kappa), denoiser(x * scale, taken_for), atol=1e-5)


# ------------------------------------------------------------------------------------- precision


def test_a_dtype_changes_the_arithmetic_and_not_the_denoiser():
    denoiser, x0 = data("mixture", VE())
    before = {k: t.clone() for k, t in denoiser.state_dict().items()}
    exact = denoiser(x0, 0.5)
    rough = InDtype(denoiser, BF16)(x0, 0.5)
    assert rough.dtype == FP32 and 0 < float((rough - exact).abs().max()) < 0.1
    assert all(torch.equal(t, before[k]) for k, t in denoiser.state_dict().items())
    assert torch.equal(denoiser(x0, 0.5), exact)


@pytest.mark.parametrize(
    ("asked", "stored", "family", "fast", "expected", "words"),
    [
        ("auto", BF16, (BF16, FP16, FP32), (FP16, BF16), BF16, "stored in bf16"),
        ("auto", FP16, (FP16, BF16, FP32), (FP16, BF16), FP16, "stored in fp16"),
        ("auto", FP32, (FP16, BF16, FP32), (FP16, BF16), FP32, "stored in fp32"),
        ("auto", FP16, (BF16, FP32), (FP16, BF16), BF16, "trained in bf16"),
        ("auto", FP16, (BF16, FP16, FP32), (FP16, BF16), BF16, "trained in bf16"),
        ("auto", BF16, (BF16, FP32), (), FP32, "not fast in bf16"),
        ("auto", torch.float8_e4m3fn, (BF16, FP32), (FP16, BF16), BF16, "storing only"),
        ("auto", torch.float64, (FP16, FP32), (FP16,), FP32, "float64"),
        ("fp32", BF16, (BF16,), (BF16,), FP32, "as asked"),
        ("bf16", FP16, (FP16,), (FP16,), BF16, "as asked"),
        ("fp16", FP32, (FP16, BF16, FP32), (), FP16, "as asked"),
    ],
)
def test_the_dtype_is_chosen_with_a_reason(asked, stored, family, fast, expected, words):
    choice = choose(asked, stored, family, fast)
    assert choice.dtype == expected and words in choice.why


@pytest.mark.parametrize(
    ("asked", "stored", "family", "words"),
    [
        ("fp16", BF16, (BF16, FP16, FP32), "stored in bf16"),
        ("fp16", FP16, (BF16, FP32), "trained in bf16"),
        ("fp8", BF16, (BF16,), "choose one of"),
    ],
)
def test_bf16_weights_are_not_run_in_fp16(asked, stored, family, words):
    with pytest.raises(ValueError, match=words):
        choose(asked, stored, family)


def audited(denoiser, schedule, x0, names=("fp32", "bf16", "fp16")):
    steps = [*spread(schedule, 6), 0.0]

    def measured(name):
        network = denoiser if name == "fp32" else InDtype(denoiser, DTYPES[name])
        others = [n for n in names if n != name] if name == "fp32" else []
        return precision.measure(network, x0, schedule, spread(schedule, 4), steps, rounded=others)

    return precision.compare({name: measured(name) for name in names}, len(steps) - 1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_audit_sees_rounding(schedule):
    """bf16 has 8 bits and fp16 11: at small σ their errors are some 2⁻⁸ and 2⁻¹¹ of D."""
    denoiser, x0 = data("gaussian", schedule.path.host)
    result = audited(denoiser, schedule, x0)
    low = {n: result.of("network", n)[-1].gap for n in ("bf16", "fp16")}
    assert 2**-11 < low["bf16"].relative < 2**-7
    if not low["fp16"].nonfinite:  # σ² underflows on VE
        assert 2**-14 < low["fp16"].relative < 2**-10
    assert [r.sigma for r in result.of("network", "bf16")] == spread(schedule, 4)
    assert len(result.of("state", "bf16")) == len(result.of("run", "bf16")) == 1
    assert 0 < result.of("state", "bf16")[0].gap.relative < 0.02
    json.dumps(result.payload(), allow_nan=False)


class Overflowing(torch.nn.Module):
    """x0 = x/2 by way of numbers that fp16 does not hold."""

    path, shape, classes = VE(), None, 0

    def forward(self, x, sigma, classes=None):
        return x * 1e5 / 2e5


def test_the_audit_names_an_overflow_and_no_nan_reaches_json():
    x0 = pictures() + 2
    result = audited(Overflowing(), EDM(), x0)
    bf16, fp16 = result.verdict()
    assert "NaN" not in bf16 and "do not use fp16" in fp16
    assert any(row.gap.nonfinite for row in result.of("network", "fp16"))
    assert result.of("run", "fp16")[0].gap.max is None
    assert "NaN" not in json.dumps(result.payload(), allow_nan=False).replace(
        "are NaN", ""
    ).replace("in NaN", "")


def test_no_dtype_is_blamed_for_what_is_nan_in_fp32():
    class Broken(Overflowing):
        def forward(self, x, sigma, classes=None):
            return x * math.nan

    first, *others = audited(Broken(), EDM(), pictures()).verdict()
    assert "fp32" in first and "not to blame" in first
    assert not any("do not use" in sentence for sentence in others)


def test_gaps():
    one = torch.ones(4)
    assert precision.Gap.between(one, one) == precision.Gap(0.0, 0.0, 0.0, 0)
    assert precision.Gap.between(one, torch.zeros(4)).relative is None
    half = precision.Gap.between(torch.tensor([1.0, math.nan, math.inf, 1.5]), one)
    assert half.nonfinite == 2 and half.max == 0.5


@pytest.mark.parametrize("case", ["fine", "overflows"])
def test_the_plot_is_a_picture(case):
    denoiser = Overflowing() if case == "overflows" else data("gaussian", VE())[0]
    plot = precision_plot.plot(audited(denoiser, EDM(), pictures() + 2))
    assert plot.shape == (1, 480, 960, 3) and plot.dtype == FP32
    assert float(plot.min()) >= 0 and float(plot.max()) == 1 and float(plot.std()) > 0.1
