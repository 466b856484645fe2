"""Classifier, measurements, probe and what they feed, through the nodes, without ComfyUI."""

import json
import math

import pytest
import torch

from sampling_kit.headless.core import MaskComposite, SolidMask
from sampling_kit.nodes import NODES
from sampling_kit.nodes.guidance.measurement import DEGRADE, MEASURED, known
from sampling_kit.schedulers.guidance import Gray
from sampling_kit.schedulers.measure import guidance_report as reports

BY_ID = {node.define_schema().node_id: node for node in NODES}
SIZE, BATCH = 24, 3
MIXTURE = {"kind": "mixture", "size": SIZE, "scenes": 20, "components": 2, "rank": 4}
LATENT = {"samples": torch.zeros(BATCH, 3, SIZE, SIZE)}


def kit(kind, /, **inputs):
    """The outputs of one of our nodes."""
    return BY_ID[f"SamplingKit{kind}"].execute(**inputs).args


def model_on(kind="ve_edm"):
    schedule = kit("NoiseSchedule", kind={"kind": kind})[0]
    return kit("EmbeddedDenoiser", kind=MIXTURE, noise_schedule=schedule)[0]


def condition(name):
    return kit("ClassCondition", name=name)[0]


def sigmas_of(model, steps=8, denoise=1.0, spacing="trailing"):
    schedule = kit("NoiseScheduleFromModel", model=model)[0]
    spacing = {"spacing": spacing}
    return kit("Steps", noise_schedule=schedule, steps=steps, spacing=spacing, denoise=denoise)[0]


def run(guider, sigmas, latent=LATENT):
    noise = kit("PerImageNoise", seed=3)[0].generate_noise(latent)
    return guider.sample(noise, latent["samples"], kit("DDIM", eta=0.0)[0], sigmas, seed=3)


def pictures(count=BATCH):
    return kit("Postcards", name="one of each", seed=2**31, size=SIZE, batch_size=count)


# ------------------------------------------------------------------------------------- classifier


@pytest.mark.parametrize("kind", ["vp_linear", "ve_edm", "rectified_flow"])
def test_the_exact_classifier_makes_the_unconditional_model_conditional(kind):
    """∇ log p(x|c) = ∇ log p(x) + ∇ log p(c|x), at every step of a run, image i for class i."""
    model = model_on(kind)
    part = 0.75 if kind == "rectified_flow" else 1.0  # at exactly t = 1 the rule is off
    sigmas = sigmas_of(model, 9, denoise=part)
    classifier = kit("EmbeddedClassifier", model=model, kind=MIXTURE)[0]
    guidance = kit("ClassifierGuidance", scale=1.0, label=-1, classifier=classifier)[0]
    nothing, each = condition("unconditional"), condition("one of each")
    guided = run(kit("Guider", model=model, positive=nothing, guidance=guidance)[0], sigmas)
    exact = run(kit("Guider", model=model, positive=each)[0], sigmas)
    without = run(kit("Guider", model=model, positive=nothing)[0], sigmas)
    assert (without - exact).abs().max() > 0.3
    assert (guided - exact).abs().max() < 2e-3


def test_the_classifier_works_in_the_host_s_inference_mode():
    with torch.inference_mode():
        model = model_on()
        classifier = kit("EmbeddedClassifier", model=model, kind=MIXTURE)[0]
        guidance = kit("ClassifierGuidance", classifier=classifier)[0]
        positive = condition("unconditional")
        guider = kit("Guider", model=model, positive=positive, guidance=guidance)[0]
        assert torch.isfinite(run(guider, sigmas_of(model, 3))).all()


def test_classifier_guidance_without_a_classifier_says_so():
    model = model_on()
    guidance = kit("ClassifierGuidance")[0]
    guider = kit("Guider", model=model, positive=condition("desert"), guidance=guidance)[0]
    with pytest.raises(ValueError, match="connect a CLASSIFIER"):
        run(guider, sigmas_of(model, 2))


# ------------------------------------------------------------------------------------ measurement


def hole():
    """MASK with a square of unknown pixels, from the core's mask nodes."""
    nowhere = SolidMask.execute(0.0, SIZE, SIZE).args[0]
    square = SolidMask.execute(1.0, 8, 10).args[0]
    return MaskComposite.execute(nowhere, square, 6, 4, "add").args[0]


KINDS = {
    "inpaint": {"kind": "inpaint"},
    "downsample": {"kind": "downsample", "factor": 4},
    "gray": {"kind": "gray"},
    "blur": {"kind": "blur", "std": 1.0},
}


def measure(model, kind, picture=None, **more):
    images = pictures()[0] if picture is None else picture
    return kit("Measurement", model=model, picture=images, kind=KINDS[kind], mask=hole(), **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["ve_edm", "rectified_flow"])
def test_ddnm_ends_with_a_picture_that_has_the_measurement(kind, path):
    model = model_on(path)
    measurement, shown = measure(model, kind)
    assert shown.shape == (BATCH, SIZE, SIZE, 3) and 0 <= shown.min() <= shown.max() <= 1
    guidance = kit("DDNM", measurement=measurement)[0]
    _, positive = pictures()
    guider = kit("Guider", model=model, positive=positive, guidance=guidance)[0]
    x = run(guider, sigmas_of(model))
    plain = run(kit("Guider", model=model, positive=positive)[0], sigmas_of(model))
    assert measurement.residual(x).abs().max() < 2e-3
    assert measurement.residual(plain).abs().max() > 0.1


def test_ddnm_inpainting_keeps_the_known_pixels_and_fills_the_hole():
    model, (images, positive) = model_on(), pictures()
    guidance = kit("DDNM", measurement=measure(model, "inpaint")[0])[0]
    guider = kit("Guider", model=model, positive=positive, guidance=guidance)[0]
    x = run(guider, sigmas_of(model)) / 2 + 0.5
    free, truth = hole()[0] > 0.5, images.movedim(-1, 1)
    assert (x - truth)[..., ~free].abs().max() < 1e-5
    assert (x - 0.5)[..., free].abs().mean() > 0.05


@pytest.mark.parametrize("rule", ["DPS", "PiGDM"])
def test_rules_through_the_model_come_closer_to_the_measurement(rule):
    model, (_, positive) = model_on(), pictures()
    measurement, _ = measure(model, "downsample", noise=0.05, seed=5)
    guidance = kit(rule, measurement=measurement)[0]
    sigmas = sigmas_of(model, 10, spacing="karras")
    guided = run(kit("Guider", model=model, positive=positive, guidance=guidance)[0], sigmas)
    plain = run(kit("Guider", model=model, positive=positive)[0], sigmas)

    def far(x):
        return float(measurement.residual(x).square().mean())

    assert far(guided) < 0.6 * far(plain)


def test_a_measurement_given_as_measured_is_the_one_made_of_the_picture():
    model, (images, _) = model_on(), pictures()
    made = {kind: measure(model, kind)[0] for kind in KINDS}
    for kind, (measurement, shown) in {k: measure(model, k) for k in KINDS}.items():
        small = shown[:, ::4, ::4] if kind == "downsample" else shown
        if kind == "blur":  # beyond 0 and 1 a picture cannot say it
            small = (made[kind].y / 2 + 0.5).movedim(1, -1)
        again, _ = measure(model, kind, picture=small, picture_is=MEASURED)
        assert torch.allclose(again.y, measurement.y, atol=1e-5), kind
        assert again.sigma_y == 0
    latent = {"samples": images.movedim(-1, 1) * 2 - 1}
    assert torch.equal(measure(model, "gray", picture=latent)[0].y, made["gray"].y)


def test_the_measurement_s_noise_is_per_image_and_only_added_when_made():
    model = model_on()
    clean, noisy = (measure(model, "downsample", noise=n, seed=9)[0] for n in (0.0, 0.3))
    noise = noisy.y - clean.y
    assert abs(float(noise.std()) / 0.3 - 1) < 0.1 and noisy.sigma_y == 0.3
    single = measure(model, "downsample", picture=pictures()[0][1:2], noise=0.3, seed=10)[0]
    assert torch.equal(single.y[0], noisy.y[1])
    small = torch.rand(1, 6, 6, 3)
    given = measure(model, "downsample", picture=small, picture_is=MEASURED, noise=0.3)[0]
    assert torch.allclose(given.y, small.movedim(-1, 1) * 2 - 1) and given.sigma_y == 0.3


def test_a_latent_pixel_is_known_where_all_of_it_is():
    mask = torch.zeros(1, 16, 16)
    mask[:, 8:, 9:] = 1
    fine = known(mask, torch.zeros(2, 4, 2, 2))
    assert fine.shape == (1, 1, 2, 2) and fine.flatten().tolist() == [1, 1, 1, 0]
    assert known(mask, torch.zeros(2, 4, 3, 2, 2)).shape == (1, 1, 1, 2, 2)
    assert known(torch.zeros(1, 2, 2), torch.zeros(1, 3, 8, 8)).min() == 1


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (dict(kind={"kind": "inpaint"}), "mask: inpaint needs a MASK"),
        (dict(kind={"kind": "tea"}), "kind = 'tea': choose one of inpaint, downsample, gray, blur"),
        (dict(kind={"kind": "downsample", "factor": 5}), "multiples of 5"),
        (dict(kind={"kind": "gray"}, picture_is="x"), f"choose '{DEGRADE}' or '{MEASURED}'"),
        (dict(kind={"kind": "gray"}, noise=-1.0), "noise = -1"),
        (dict(kind={"kind": "inpaint"}, mask=torch.zeros(2, 8, 8)), "2 masks for 3 pictures"),
        (dict(kind={"kind": "gray"}, picture={"samples": torch.zeros(1, 4, 8, 8)}), "4 channels.*have 3"),
    ],
)  # fmt: skip
def test_wrong_measurements_say_what_to_do(inputs, words):
    given = dict(model=model_on(), picture=pictures()[0]) | inputs
    with pytest.raises(ValueError, match=words):
        kit("Measurement", **given)


def test_colour_is_not_asked_of_four_channels():
    with pytest.raises(ValueError, match="3 colour channels"):
        Gray().check(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("operation", ["multiply", "add", "subtract", "and", "or", "xor"])
def test_masks_combine_as_the_core_s(operation):
    """On 0 and 1 the arithmetic operations are the logical ones, clamped; parts outside are cut."""
    a, b = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]]), torch.tensor([[[0.0, 0.0, 1.0, 1.0, 1.0]]])
    want = {
        "multiply": [0, 0, 0, 1], "and": [0, 0, 0, 1], "add": [0, 1, 1, 1], "or": [0, 1, 1, 1],
        "subtract": [0, 1, 0, 0], "xor": [0, 1, 1, 0],
    }  # fmt: skip
    assert (
        MaskComposite.execute(a, b, 0, 0, operation).args[0].flatten().tolist() == want[operation]
    )
    assert a.flatten().tolist() == [0, 1, 0, 1]
    moved = MaskComposite.execute(torch.zeros(1, 2, 2), torch.ones(1, 5, 5), 1, 1, "add").args[0]
    assert moved.flatten().tolist() == [0, 0, 0, 1]


# ------------------------------------------------------------------------------------------ probe


def probed(guidance, model=None, steps=20):
    """(result with the probe, without, what Guidance Report says) of a run with CFG-like guidance."""
    model = model or model_on("rectified_flow")
    positive, negative = condition("one of each"), condition("unconditional")
    guider = kit("Guider", model=model, positive=positive, negative=negative, guidance=guidance)[0]
    watched, holder = kit("GuidanceProbe", guider=guider)
    sigmas = sigmas_of(model, steps)
    x, plain = run(watched, sigmas), run(guider, sigmas)
    return x, plain, kit("GuidanceReport", report=holder, latent={"samples": x})


def test_the_probe_counts_28_calls_and_changes_nothing():
    interval = {"curve": "interval", "sigma_low": 0.3, "sigma_high": 0.7}
    x, plain, (plot, text, told) = probed(kit("CFG", scale=4.0, curve=interval)[0])
    assert torch.equal(x, plain)
    facts = json.loads(told)
    assert (facts["network_calls"], facts["saved_calls"], facts["evaluations"]) == (28, 12, 20)
    assert text.startswith("28 network calls in 20 evaluations (cond 20, uncond 8), 12 saved")
    assert len(facts["steps"]) == 20 and len(text.splitlines()) == 23
    assert plot.ndim == 4 and plot.shape[0] == 1 and float(plot.std()) > 0.05
    for row in facts["steps"]:
        inside = 0.3 + 1e-6 < row["sigma"] < 0.7 + 1e-6
        assert (row["skipped"] == []) == inside and (row["delta"] is not None) == inside


def test_the_probe_s_weight_is_the_scale_and_its_numbers_are_right():
    scale, model = 2.5, model_on("ve_edm")
    _, _, (_, _, told) = probed(kit("CFG", scale=scale)[0], model, steps=4)
    first = json.loads(told)["steps"][0]
    x = kit("PerImageNoise", seed=3)[0].generate_noise(LATENT) * first["sigma"]
    classes = torch.eye(10)[:BATCH]
    cond, uncond = (model.denoiser(x, first["sigma"], c).flatten(1) for c in (classes, None))
    assert first["delta"] == pytest.approx((cond - uncond).norm(dim=1).tolist(), rel=1e-3)
    angle = torch.cosine_similarity(cond, uncond)
    assert first["cosine"] == pytest.approx(angle.tolist(), abs=1e-3)
    assert first["effective_weight"] == pytest.approx([scale] * BATCH, rel=1e-3)


def test_a_report_without_an_unconditional_branch_is_drawn_too():
    model = model_on()
    guider = kit("Guider", model=model, positive=condition("desert"))[0]
    watched, holder = kit("GuidanceProbe", guider=guider)
    with pytest.raises(ValueError, match="has not run"):
        kit("GuidanceReport", report=holder, latent=LATENT)
    run(watched, sigmas_of(model, 3))
    plot, text, _ = kit("GuidanceReport", report=holder, latent=LATENT)
    assert text.startswith("3 network calls in 3 evaluations (cond 3), 0 saved") and plot.std() > 0
    with pytest.raises(TypeError, match="Guidance Probe"):
        kit("GuidanceReport", report={}, latent=LATENT)


def test_means_leave_out_what_is_not_there():
    assert (
        reports.mean([1.0, None, 3.0]) == 2 and reports.mean([None]) is reports.mean(None) is None
    )
    row = dict(step=0, sigma=1.0, calls={"cond": 1, "weak": 2}, skipped=[], delta=[math.pi, None], cosine=None, effective_weight=None)  # fmt: skip
    report = dict(network_calls=3, evaluations=1, calls=row["calls"], saved_calls=0, shared_images=4, steps=[row])  # fmt: skip
    text = reports.text(report)
    assert "cond, weak 2" in text and "3.14" in text and "4 images shared" in text
