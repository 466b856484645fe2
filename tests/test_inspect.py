"""Inspection and settings of denoisers, as nodes without a host."""

import json
import math

import pytest
import torch
from inspected import BF16, FP32

from sampling_kit.nodes import NODES, host
from sampling_kit.nodes.denoiser.embedded import scenes
from sampling_kit.schedulers.measure import plain, spread
from sampling_kit.schedulers.noise_schedule import (
    RectifiedFlowSchedule,
)
from sampling_kit.schedulers.path import Flow

BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}


def kit(name, **inputs):
    """The outputs of one of our nodes, standalone."""
    return BY_ID[name].execute(**inputs).args


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
    with pytest.raises(ValueError, match="sigmas: a run has 2 levels or more, got 1; connect"):
        kit("PrecisionAudit", model=model, latent=latent(), sigmas=torch.tensor([1.0]))


@pytest.mark.parametrize("name", ["DenoiserSettings", "InspectDenoiser", "CheckPredictionType", "PrecisionAudit"])  # fmt: skip
def test_every_input_has_a_tooltip_and_the_page_gets_text(name):
    schema = BY_ID[name].define_schema()
    assert all(item.tooltip for item in schema.inputs) and all(o.tooltip for o in schema.outputs)
    inputs = {"latent": latent()} if name in ("CheckPredictionType", "PrecisionAudit") else {}
    shown = BY_ID[name].execute(model=model_of("ve_edm"), **inputs).ui
    assert set(shown) <= {"text", "sampling_kit_picture"} and isinstance(shown["text"][0], str)


def test_json_is_plain():
    value = {"a": math.nan, "b": (1, math.inf), "c": BF16, 2: None, "d": Flow()}
    assert (
        plain(value)["a"] is None and plain(value)["b"] == [1, None] and plain(value)["c"] == "bf16"
    )
