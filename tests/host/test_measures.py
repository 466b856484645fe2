"""Log-Likelihood, Idempotence, Distances and the translations in a real ComfyUI."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tolerance import rounding

pytestmark = pytest.mark.host

SCHEDULES = {
    "flow": ({"kind": "rectified_flow", "kind.shift": 1.0}, "trailing"),
    "VP": ({"kind": "vp_scaled_linear", "kind.zero_snr": False}, "trailing"),
    "VE": ({"kind": "ve_edm", "kind.sigma_min": 0.01, "kind.sigma_max": 80.0}, "exponential"),
}
LIKELIHOOD = {
    "trace": "hutchinson", "probes": 2, "method": "heun", "step_error": False, "seed": 0,
}  # fmt: skip


def kit(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": f"SamplingKit{kind}", "inputs": inputs}


def shown(server: Any, graph: dict[str, Any], ids: list[str]) -> list[Any]:
    """The JSON outputs (number 2) of the nodes ``ids``."""
    texts = {f"p{i}": {"class_type": "PreviewAny", "inputs": {"source": [i, 2]}} for i in ids}
    entry = server.wait(server.queue(graph | texts))
    assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)
    return [json.loads(entry["outputs"][name]["text"][0]) for name in texts]


@pytest.mark.parametrize("name", SCHEDULES)
def test_likelihood_by_gradient_and_by_differences_of_models_and_guiders(server, name):
    """A native CFGGuider gives D without its gradient; all others both ways; all numbers agree."""
    schedule, spacing = SCHEDULES[name]
    gaussian = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 20, "kind.rank": 4}
    conds = {"positive": ["pos", 0], "negative": ["neg", 0]}
    graph = {
        "sch": kit("NoiseSchedule", **schedule),
        "steps": kit("Steps", noise_schedule=["sch", 0], steps=8, spacing=spacing, denoise=1.0, final="zero"),
        "model": kit("EmbeddedDenoiser", noise_schedule=["sch", 0], **gaussian),
        "pos": kit("ClassCondition", name="snow"),
        "neg": kit("ClassCondition", name="unconditional"),
        "cards": kit("Postcards", name="snow", size=24, batch_size=2, seed=3),
        "latent": kit("ImageToLatent", image=["cards", 0]),
        "cfg": kit("CFG", scale=1.0, curve="constant"),
        "guider": kit("Guider", model=["model", 0], guidance=["cfg", 0], **conds),
        "native": {"class_type": "CFGGuider", "inputs": {"model": ["model", 0], "cfg": 1.0, **conds}},
    }  # fmt: skip
    given = dict(latent=["latent", 0], sigmas=["steps", 0], **LIKELIHOOD)
    cases = [
        kit("LogLikelihood", model=["model", 0], positive=["pos", 0], derivative="gradient", **given),
        kit("LogLikelihood", model=["guider", 0], derivative="gradient", **given),
        kit("LogLikelihood", model=["guider", 0], derivative="differences", **given),
        kit("LogLikelihood", model=["native", 0], derivative="differences", **given),
    ]  # fmt: skip
    asked = {f"l{i}": case for i, case in enumerate(cases)}
    asked["idem"] = kit(
        "Idempotence", model=["guider", 0], latent=["latent", 0], sigma=0.3, repeats=2
    )
    asked["far"] = kit(
        "Distances", a=["cards", 0], b=["cards", 0], directions=16, shuffles=9, seed=0
    )
    *bits, idem, far = shown(server, graph | asked, list(asked))
    for other in bits[1:]:
        assert other["bits_per_dim"] == pytest.approx(bits[0]["bits_per_dim"], abs=2e-3)
    assert idem["residuals"][0][0] > idem["residuals"][1][0] > 0
    mean = 3**0.5 * 24 * 2  # no two of the cards, with values in [−1, 1], are farther apart
    assert far["energy"] ** 2 <= rounding(3 * 24 * 24, mean, torch.float64) and far["p"] == 1


def test_the_host_serves_our_translations_help_and_blueprints(server):
    told = server.get("/i18n")
    assert told["zh"]["nodeDefs"]["SamplingKitDDIM"]["display_name"] == "DDIM 求解器"
    assert told["zh"]["nodeCategories"]["Sampling Kit"] == "采样套件"
    assert told["en"]["nodeDefs"]["SamplingKitDDIM"]["display_name"] == "DDIM Solver"
    page = server.request("/extensions/comfyui-sampling-kit/docs/SamplingKitDDIM/zh.md").decode()
    assert page.startswith("# DDIM 求解器")
    names = {entry["name"] for entry in server.get("/global_subgraphs").values()}
    assert {"Auto", "DDPM", "DDIM", "DPM++ 2M", "Euler", "Rectified Flow", "UniPC"} <= names
