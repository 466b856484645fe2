"""Looking at models: prediction type, dtypes, precision, misfits, both loss conventions; no ComfyUI."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from product import each

from sampling_kit.benchmarks import v_identity
from sampling_kit.nodes import NODES, host
from sampling_kit.nodes.denoiser.embedded import scenes
from sampling_kit.nodes.inspect import difference as inspect
from sampling_kit.schedulers.denoiser.analytic import Gaussian, ImageSet, Mixture
from sampling_kit.schedulers.denoiser.wrap import InDtype, Relabelled
from sampling_kit.schedulers.measure import DTYPES, plain, precision, prediction_type, spread
from sampling_kit.schedulers.measure.compute_dtype import choose
from sampling_kit.schedulers.measure.model_facts import ModelFacts, Weights, misfits, step_shift
from sampling_kit.schedulers.native_schedule import ShiftedCosineVP, VPRange
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    LinearVP,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import KINDS, Prediction, get_velocity
from sampling_kit.schedulers.show import precision_plot
from sampling_kit.schedulers.spacing import FlowShift, Karras, Trailing, space

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SCHEDULES = {
    "VP": ScaledLinearVP(),
    "zero SNR": ScaledLinearVP(zero_snr=True),
    "VE": EDM(),
    "flow": RectifiedFlowSchedule(shift=3.0),
}
BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}


def kit(name, **inputs):
    """The outputs of one of our nodes, standalone."""
    return BY_ID[name].execute(**inputs).args


def pictures(count=4, size=24):
    return scenes(20, size)[:count, 0]


# ------------------------------------------------------------------------------- training losses


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


# ------------------------------------------------------------------------------ native schedules


@pytest.mark.parametrize(
    "schedule",
    [VPRange("log", 0.01, 100.0), VPRange("angle", 0.03, 500.0), ShiftedCosineVP(1.0), ShiftedCosineVP(2.0)],
    ids=str,
)  # fmt: skip
def test_native_schedules_are_their_own_inverse(schedule):
    times = np.linspace(schedule.t_min, schedule.t_max, 50)
    kappas = schedule.kappa(times)
    assert np.all(np.diff(kappas) > 0)
    assert np.allclose(schedule.time(kappas), times, rtol=1e-6, atol=1e-9)
    assert schedule.time(schedule.kappa_max * 2) == pytest.approx(schedule.t_max)
    assert len(space(schedule, 7, Karras())) == 8


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match="below sigma_max"):
        VPRange("log", 10.0, 1.0)


def test_sigmas_above_one_are_refused_on_flow():
    with pytest.raises(ValueError, match="end at 1"):
        Points.from_sigmas(Flow(), [14.6, 1.0, 0.0])


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


# --------------------------------------------------------------------------------------- misfits


def facts(schedule, kind="flow", **more):
    known = dict(sampling="S", weights=Weights(), compute=FP32, family=(FP16, BF16, FP32))
    return ModelFacts(prediction=Prediction(kind), schedule=schedule, **{**known, **more})


VP_FACTS = facts(ScaledLinearVP(), "eps")
FLOW3 = facts(RectifiedFlowSchedule(shift=3.0))
ZERO = facts(ScaledLinearVP(zero_snr=True), "v", zero_snr=True)


def sigmas_of(schedule, spacing=None, count=20, **options):
    return space(schedule, count, spacing or Trailing(), **options).sigmas()


@pytest.mark.parametrize(
    ("model", "sigmas", "words"),
    [
        (VP_FACTS, sigmas_of(ScaledLinearVP()), None),
        (VP_FACTS, sigmas_of(ScaledLinearVP(), Karras()), None),
        (VP_FACTS, None, None),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=3.0)), None),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=3.0), Karras()), None),
        (ZERO, sigmas_of(ScaledLinearVP(zero_snr=True)), None),
        (VP_FACTS, sigmas_of(ScaledLinearVP(zero_snr=True)), "above the largest"),
        (FLOW3, sigmas_of(ScaledLinearVP()), "above the largest"),
        (FLOW3, sigmas_of(ScaledLinearVP()), "end at 1"),
        (VP_FACTS, sigmas_of(ScaledLinearVP(), denoise=0.5), "below the model's largest"),
        (VP_FACTS, sigmas_of(ScaledLinearVP(), final="sigma_min"), "not at 0"),
        (VP_FACTS, [14.6, 1.0, 1.0, 0.0], "strictly"),
        (VP_FACTS, [14.6, math.nan, 0.0], "finite numbers"),
        (VP_FACTS, [], "nothing will be sampled"),
        (VP_FACTS, [14.6, 1e-3, 0.0], "below what the model was trained on"),
        (ZERO, sigmas_of(ScaledLinearVP(zero_snr=True), Karras(), 8), "little is decided"),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=9.0)), "applied twice"),
        (FLOW3, sigmas_of(RectifiedFlowSchedule(shift=3.0), FlowShift()), "applied twice"),
        (FLOW3, sigmas_of(RectifiedFlowSchedule()), "one of the two"),
        (facts(ScaledLinearVP(zero_snr=True), "eps", zero_snr=True), None, "zero terminal SNR"),
        (facts(EDM(), "edm", compute=FP16, weights=Weights(1, 2, BF16)), None, "overflow"),
        (facts(EDM(), "edm", compute=FP16, family=(BF16, FP32)), None, "trained in bf16"),
        (facts(EDM(), "edm", loaded_flow=True, loaded_sampling="F"), None, "rectified flow"),
        (facts(EDM(), "v", vp_state=True), None, "VOIDSampler"),
    ],
)
def test_misfits_are_named_and_nothing_else(model, sigmas, words):
    found = list(misfits(model, sigmas))
    assert (not found) if words is None else any(words in warning for warning in found), found
    json.dumps(model.payload(sigmas), allow_nan=False)
    assert ("WARNING" in model.report(sigmas)) == bool(found)


def test_an_unknown_prediction_is_said():
    (warning,) = misfits(ModelFacts("Mystery", None, EDM(), Weights(), FP32, (FP32,)))
    assert "Mystery" in warning and "Check Prediction Type" in warning


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("count", [4, 20, 50])
def test_the_shift_of_steps_is_found(shift, count):
    trailing = sigmas_of(RectifiedFlowSchedule(shift=shift), count=count)
    t = np.linspace(1, 1e-3, count)
    linspace = [*(shift * t / (1 + (shift - 1) * t)), 0.0]
    for sigmas in (trailing, linspace):
        found = step_shift(Points.from_sigmas(Flow(), sigmas).kappas)
        assert found == pytest.approx(shift, rel=0.02)
    karras = sigmas_of(RectifiedFlowSchedule(shift=shift), Karras(), max(count, 8))
    assert step_shift(Points.from_sigmas(Flow(), karras).kappas) is None


# ----------------------------------------------------------------------------- nodes, standalone


def model_of(kind, **schedule):
    chosen = kit("NoiseSchedule", kind={"kind": kind, **schedule})[0]
    what = {"kind": "mixture", "size": 24, "scenes": 10}
    return kit("EmbeddedDenoiser", kind=what, noise_schedule=chosen)[0]


def latent():
    return {"samples": scenes(10, 24)[:2, 0]}


KIND_OF = {"vp_scaled_linear": "eps", "ve_edm": "edm", "rectified_flow": "flow", "sub_vp": "eps"}


@pytest.mark.parametrize("kind", KIND_OF)
def test_our_models_say_what_they_are_and_are_it(kind):
    model = model_of(kind)
    text, told = kit("InspectDenoiser", model=model)
    assert json.loads(told)["prediction"].split()[0] == KIND_OF[kind] and KIND_OF[kind] in text
    verdict = json.loads(kit("CheckPredictionType", model=model, latent=latent())[1])
    assert verdict["agrees"] is True and verdict["best"] == KIND_OF[kind]


@pytest.mark.parametrize("kind", KIND_OF)
def test_a_mislabelled_model_is_found_and_put_right(kind):
    model, image = model_of(kind), latent()
    wrong, _ = kit("DenoiserSettings", model=model, prediction="x0")
    verdict = json.loads(kit("CheckPredictionType", model=wrong, latent=image)[1])
    assert (verdict["claimed"], verdict["best"]) == ("x0", KIND_OF[kind])
    right, text = kit("DenoiserSettings", model=wrong, prediction=verdict["best"])
    assert f"prediction: {KIND_OF[kind]}" in text

    def look(x0, denoise):
        sigma = spread(host.models.schedule_of(model), 1, 1.0, 1.0)[0]
        return denoise(x0, sigma)

    truth, off, back = (host.runs.probe(m, None, image, look) for m in (model, wrong, right))
    assert not torch.allclose(truth, off, atol=0.1)
    assert torch.allclose(truth, back, atol=1e-4)


def test_settings_leave_their_input_alone_and_can_be_undone():
    model = model_of("ve_edm")
    before = model.__dict__.copy()
    changed, text = kit("DenoiserSettings", model=model, prediction="v", compute_dtype="bf16")
    assert "bf16: as asked" in text and "solver state and time: fp32" in text
    assert host.models.facts_of(changed).compute == BF16
    assert model.__dict__ == before and host.models.facts_of(model).compute == FP32
    undone, _ = kit("DenoiserSettings", model=changed, prediction="edm", compute_dtype="as loaded")
    assert host.models.facts_of(undone) == host.models.facts_of(model)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        (dict(prediction="noise"), ValueError, "choose one of as loaded, eps"),
        (dict(compute_dtype="fp8"), ValueError, "auto, fp32"),
        (dict(noise_schedule=3), TypeError, "expected a NOISE_SCHEDULE, got int"),
        (dict(noise_schedule=RectifiedFlowSchedule()), ValueError, "choose the prediction as well"),
        (dict(model=3), TypeError, "expected a MODEL, got int"),
    ],
)
def test_bad_settings_are_named(inputs, error, words):
    with pytest.raises(error, match=words):
        kit("DenoiserSettings", **{"model": model_of("ve_edm"), **inputs})


def test_a_schedule_can_be_overridden():
    zero = kit("NoiseSchedule", kind={"kind": "vp_scaled_linear", "zero_snr": True})[0]
    changed, text = kit("DenoiserSettings", model=model_of("vp_scaled_linear"), noise_schedule=zero)
    assert host.models.schedule_of(changed) == zero and "Stable Diffusion" in text
    _, told = kit("InspectDenoiser", model=changed)
    assert json.loads(told)["zero_snr"] is True and "zero terminal SNR" in told


def test_the_audit_node_gives_plot_table_and_json():
    model = model_of("rectified_flow", shift=3.0)
    plot, text, told = kit("PrecisionAudit", model=model, latent=latent(), levels=3, steps=3)
    assert plot.ndim == 4 and plot.shape[-1] == 3 and float(plot.std()) > 0.1
    assert "bf16" in text and len(json.loads(told)["rows"]) == 2 * (3 + 2)
    sigmas = torch.tensor([1.0, 0.5, 0.2, 0.0])
    assert (
        json.loads(kit("PrecisionAudit", model=model, latent=latent(), sigmas=sigmas)[2])["steps"]
        == 3
    )
    with pytest.raises(ValueError, match="at least 2"):
        kit("PrecisionAudit", model=model, latent=latent(), sigmas=torch.tensor([1.0]))


@pytest.mark.parametrize("name", ["DenoiserSettings", "InspectDenoiser", "CheckPredictionType", "PrecisionAudit"])  # fmt: skip
def test_every_input_has_a_tooltip_and_the_page_gets_text(name):
    schema = BY_ID[name].define_schema()
    assert all(item.tooltip for item in schema.inputs) and all(o.tooltip for o in schema.outputs)
    inputs = {"latent": latent()} if name in ("CheckPredictionType", "PrecisionAudit") else {}
    shown = BY_ID[name].execute(model=model_of("ve_edm"), **inputs).ui
    assert list(shown) == ["text"] and isinstance(shown["text"][0], str)


def test_json_is_plain():
    value = {"a": math.nan, "b": (1, math.inf), "c": BF16, 2: None, "d": Flow()}
    assert (
        plain(value)["a"] is None and plain(value)["b"] == [1, None] and plain(value)["c"] == "bf16"
    )
