"""Looking at native models of every class and correcting them: what ``model_nodes.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sampling_kit.headless import cli

pytestmark = pytest.mark.host

STD, MEAN = 0.5, 0.3  # as in model_nodes.py
DISCRETE = (0.0291672, 14.6146)
#: class → prediction, path, (smallest, largest σ), zero SNR, shift.
KNOWN: dict[str, tuple[str | None, str, tuple[float, float], bool, float | None]] = {
    "EPS": ("eps", "VP", DISCRETE, False, None),
    "V_PREDICTION": ("v", "VP", DISCRETE, False, None),
    "V_PREDICTION zsnr": ("v", "VP", (0.0291672, 4518.76), True, None),
    "V_PREDICTION_EDM": ("v", "VP", (0.002, 80.0), False, None),
    "STABLE_CASCADE": ("eps", "VP", (0.0100005, 99.995), False, None),
    "EDM": ("edm (σ_data 0.5)", "VE", (0.002, 80.0), False, None),
    "FLOW": ("flow", "flow", (0.002994, 1.0), False, 3.0),
    "V_PREDICTION_CONTINUOUS": ("v", "VP", (0.03, 500.0), False, None),
    "FLUX": ("flow", "flow", (0.00315139, 1.0), False, 3.158193),
    "IMG_TO_IMG": ("x0", "VP", DISCRETE, False, None),
    "FLOW_COSMOS": ("flow", "VE", (0.002, 80.0), False, None),
    "IMG_TO_IMG_FLOW": ("x0", "VP", DISCRETE, False, None),
    "V_PREDICTION_DDPM": ("v", "VP", (0.0291672, 4518.76), True, None),
    "FLOW_AV": ("flow", "flow", (0.00498008, 1.0), False, 5.0),
    "DiscreteEDM": ("eps", "VP", DISCRETE, False, None),
    "X0": ("x0", "VP", DISCRETE, False, None),
    "ContinuousEDM eps": ("eps", "VP", (0.002, 120.0), False, None),
    "LCM": (None, "VP", (0.134451, 14.6146), False, None),
}


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("model_nodes.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", KNOWN)
def test_every_model_sampling_class_is_known(measured, name):
    """Prediction, path, range; and the host's own D is the exact one for a network that outputs it."""
    found, (prediction, path, (low, high), zero_snr, shift) = (
        measured["inspected"][name],
        KNOWN[name],
    )
    assert (found["prediction"], found["path"], found["zero_snr"]) == (prediction, path, zero_snr)
    assert (found["sigma_min"], found["sigma_max"]) == pytest.approx((low, high), rel=1e-4)
    assert found["shift"] == (None if shift is None else pytest.approx(shift, rel=1e-5))
    assert found["error"] < 1e-4
    expected = {"V_PREDICTION_DDPM": "VOIDSampler", "LCM": "not known"}.get(name)
    assert [expected in w if expected else w for w in found["warnings"]] == [True] * bool(expected)


def test_none_is_left_out(measured):
    assert set(measured["inspected"]) == set(measured["checked"]) == set(KNOWN)


def test_our_solvers_reach_the_data_on_every_class(measured):
    assert len(measured["sampled"]) > 13
    for name, (mean, std) in measured["sampled"].items():
        assert mean == pytest.approx(MEAN, abs=0.02) and std == pytest.approx(STD, abs=0.02), name


@pytest.mark.parametrize("name", [n for n in KNOWN if n != "LCM"])
def test_the_prediction_is_found_on_every_class(measured, name):
    found, claimed = measured["checked"][name], str(KNOWN[name][0]).split()[0]
    assert (found["best"], found["claimed"]) == (claimed, claimed)
    assert found["agrees"] is not False


# --------------------------------------------------------------------------------- corrections

CASES = [
    "v network called eps", "x0 network called eps", "flow network called eps", "score network called eps",
    "x0 network called flow", "v network called flow", "v network called cosmos", "v network called image", "edm network called v",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mislabelled_checkpoint_is_put_right(measured, case):
    found = measured["corrected"][case]
    assert found["before"] > 0.5 and found["after"] < 1e-5
    assert found["again"] == found["before"] and found["untouched"]
    assert not found["facts"]["warnings"]


def test_a_model_s_own_schedule_changes_nothing(measured):
    """Same times for the network, same D: no class is turned into another that calls time differently."""
    assert len(measured["returned"]) == len(KNOWN) - 2
    for name, (time, error) in measured["returned"].items():
        assert time < 1e-3 and error < 1e-4, name


def test_noise_schedules_are_overridden(measured):
    zero = measured["corrected"]["zero SNR not known"]
    assert zero["facts"]["zero_snr"] and zero["facts"]["sigma_max"] == pytest.approx(
        4518.76, rel=1e-4
    )
    flux = measured["corrected"]["flux with another shift"]
    assert flux["facts"]["shift"] == 2.0 and "ModelSamplingFlux" in flux["facts"]["model_sampling"]
    assert max(zero["after"], flux["after"]) < 1e-5
    nothing = measured["corrected"]["nothing changed"]
    assert nothing["before"] == nothing["after"] and "as loaded" in nothing["text"]


def test_v_prediction_ddpm_needs_a_state_that_core_samplers_do_not_keep(measured):
    """Exact network: ours right as loaded; the core's euler only after Denoiser Settings."""
    found = measured["cogvideox"]
    for name in ("ours as loaded", "ours corrected", "euler corrected"):
        assert found[name] == pytest.approx([MEAN, STD], abs=0.02), name
    assert found["euler as loaded"] != pytest.approx([MEAN, STD], abs=0.1)
    assert "prediction v" in found["masked"]


# -------------------------------------------------------------------------------------- dtypes

SEEN = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@pytest.mark.parametrize("stored", SEEN)
@pytest.mark.parametrize("asked", SEEN)
def test_the_network_computes_in_the_dtype_asked_for(measured, stored, asked):
    """Weights in any dtype; time and state stay float32; undoing gives the same bits."""
    found = measured["precision"][f"{stored} {asked}"]
    if (stored, asked) == ("bf16", "fp16"):
        assert "stored in bf16" in found and "choose bf16, fp32 or auto" in found
        return
    assert found["seen"] == [SEEN[asked], "float32", SEEN[asked]]
    assert found["state"] == "float32"
    assert found["changed"] == (stored != asked)
    assert found["undone"] and found["again"]


@pytest.mark.parametrize("stored", SEEN)
def test_auto_says_why(measured, stored):
    found = measured["precision"][f"{stored} auto"]  # on the CPU, which is fast in fp32 only
    assert f"the weights are stored in {stored}" in found["text"] and found["seen"][0] == "float32"


def test_what_cannot_be_cast_is_named(measured):
    assert "plain torch layers (Conv2d" in measured["precision"]["plain layers"]
    assert "trained in bf16" in measured["precision"]["family"]
    assert "trained in bf16; this device is not fast" in measured["precision"]["family auto"]


def test_the_audit_names_the_overflow_only_where_it_is(measured):
    fine, bad = measured["audited"]["fine"], measured["audited"]["overflows"]
    assert not any("do not use" in v for v in fine["verdict"])
    assert ["do not use" in v for v in bad["verdict"]] == [False, True]
    for found in measured["audited"].values():
        assert (
            found["spread"] > 0.5 and found["shape"][0] == 1 and len(found["rows"]) == 2 * (3 + 2)
        )
    errors = {r["dtype"]: r["relative"] for r in fine["rows"] if r["what"] == "run"}
    assert errors["fp16"] < errors["bf16"] < 0.02


# --------------------------------------------------------------------------------------- misfits


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("right", []),
        ("kit steps", []),
        ("shifted twice", ["applied twice"]),
        ("flow shift spacing", ["applied twice"]),
        ("eps patched to flow", ["loaded as ModelSamplingDiscrete + EPS"]),
        ("eps steps on flow", ["above the largest", "end at 1"]),
        ("other range", ["above the largest", "little is decided"]),
        ("not to zero", ["not at 0"]),
        ("img2img", ["below the model's largest"]),
        ("karras on zero SNR", ["usual for Karras"]),
    ],
)
def test_misfits_of_steps_are_named(measured, case, words):
    found = measured["steps_checked"][case]
    assert len(found) == len(words) and all(w in f for w, f in zip(words, found, strict=True)), (
        found
    )


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("schedule", ["MysterySampling + EPS", "Denoiser Settings"]),
        ("inspect", ["MysterySampling + EPS", "Denoiser Settings"]),
        ("output", ["MysteryOutput is not known", "Check Prediction Type"]),
        ("no prediction", ["MysteryOutput", "choose one here"]),
        ("to flow", ["rectified flow", "choose the prediction as well"]),
        ("empty latent", ["all zero", "VAE Encode"]),
    ],
)
def test_unknown_classes_and_bad_inputs_are_named(measured, case, words):
    assert all(word in measured["unknown"][case] for word in words), measured["unknown"][case]


def test_settings_are_the_way_out_for_an_unknown_schedule(measured):
    assert float(measured["unknown"]["rescued"]) < 1e-3


# ------------------------------------------------------------------------- through the HTTP queue


def kit(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": f"SamplingKit{kind}", "inputs": inputs}


def graph(schedule: str) -> dict[str, Any]:
    """Postcards, half noise half picture, looked at in every way; the model mislabelled and corrected."""
    return {
        "schedule": kit("NoiseSchedule", kind=schedule),
        "model": kit(
            "EmbeddedDenoiser", **{"kind": "mixture", "kind.size": 24, "kind.scenes": 8},
            noise_schedule=["schedule", 0],
        ),
        "wrong": kit("DenoiserSettings", model=["model", 0], prediction="x0", compute_dtype="fp32"),
        "steps": kit(
            "Steps", noise_schedule=["schedule", 0], steps=4, spacing="trailing", denoise=1.0, final="zero"
        ),
        "guider": kit("Guider", model=["model", 0], positive=["class", 0]),
        "class": kit("ClassCondition", name="dawn mountains"),
        "noise": kit("PerImageNoise", seed=1),
        "sampler": kit("Euler"),
        "empty": kit("EmptyPixelLatent", width=24, height=24, batch_size=2),
        "drawn": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0],
                "sigmas": ["steps", 0], "latent_image": ["empty", 0],
            },
        },
        "inspect": kit("InspectDenoiser", model=["model", 0], sigmas=["steps", 0]),
        "check": kit("CheckPredictionType", model=["wrong", 0], latent=["drawn", 0], levels=4, seed=0),
        "audit": kit("PrecisionAudit", model=["model", 0], latent=["drawn", 0], levels=2, steps=2, seed=0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "best"),
    [("vp_scaled_linear", "eps"), ("ve_edm", "edm"), ("rectified_flow", "flow")],
)
def test_the_nodes_say_the_same_in_both_worlds(server, schedule, best, tmp_path):
    entry = server.wait(server.queue(graph(schedule)))
    assert entry["status"]["status_str"] == "success", entry["status"]
    there = {
        name: entry["outputs"][name]["text"][0] for name in ("inspect", "check", "audit", "wrong")
    }
    here = headless_texts(graph(schedule), tmp_path)
    assert f"{best} explains the output best, but the MODEL claims x0" in there["check"]
    assert there["wrong"] == here["wrong"]
    assert numbers(there["check"]) == pytest.approx(numbers(here["check"]), rel=0.05, abs=5e-3)
    assert np.isfinite(numbers(there["audit"])).all()
    for line in ("prediction", "path", "sigma max", "steps first"):
        (ours,), (theirs,) = (
            [t for t in x["inspect"].split("\n") if t.startswith(line)] for x in (here, there)
        )
        assert ours == theirs


def headless_texts(prompt: dict[str, Any], folder: Path) -> dict[str, str]:
    """{node: its text} of a run without ComfyUI."""
    file = folder / "graph.json"
    file.write_text(json.dumps(prompt), encoding="utf-8")
    arguments = ["run", str(file), "--output", str(folder), "--device", "cpu", "--json"]
    result = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    outputs = json.loads(result.stdout)["runs"][0]["outputs"]
    return {key: ui["text"][0] for key, ui in outputs.items() if "text" in ui}


def numbers(text: str) -> list[float]:
    """Of the table below the sentence, by row name."""
    rows = sorted(
        line.split("  ", 1) for line in text.split("\n")[1:] if "  " in line and "=" not in line
    )
    cells = (cell for _, rest in rows for cell in rest.split())
    return [
        float(c)
        for c in cells
        if c.replace(".", "").replace("e", "").replace("-", "").replace("+", "").isdigit()
    ]
