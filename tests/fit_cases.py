"""What the tests of fits share: folders, guiders and recordings."""

from __future__ import annotations

import pytest
import torch
from node_calls import one

from sampling_kit.headless.context import Context, use
from sampling_kit.schedulers.fit import compare, grid
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, DPMSolverMultistep

SMALL = {"kind": "gaussian", "size": 24, "scenes": 6, "rank": 3}
COUNT, HELD = 12, 4


def few(monkeypatch):
    """Few training-free pairs, for speed."""
    spacings = {name: grid.FIXED[name] for name in ("trailing", "uniform λ", "karras 7")}
    monkeypatch.setattr(grid, "FIXED", spacings)
    monkeypatch.setattr(compare, "STARTS", (DDIM(), DPMSolverMultistep()))
    monkeypatch.setattr(compare, "USUAL", (DDIM(), DPMSolverMultistep(), AdamsBashforth(2)))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """What the runner says to the nodes that it runs, and its inference mode."""
    few(monkeypatch)
    (tmp_path / "output").mkdir()
    places = (tmp_path / kind for kind in ("output", "input", "temp"))
    here = Context(*places, "cpu", None, {}, None, models=tmp_path / "models")
    with use(here), torch.inference_mode():
        yield tmp_path


def guider_of(schedule="ve_edm", name="one of each", cfg=2.0, **settings):
    model = one(
        "EmbeddedDenoiser",
        kind={**SMALL, **settings},
        noise_schedule=one("NoiseSchedule", kind={"kind": schedule}),
    )
    conds = [one("ClassCondition", name=n) for n in (name, "unconditional")]
    return one("CFGGuider", model=model, positive=conds[0], negative=conds[1], cfg=cfg)


def empty(batch=1):
    return one("EmptyPixelLatent", width=24, height=24, batch_size=batch)


def recording_of(guider, **changes):
    knobs = dict(seed=7, count=COUNT, levels=14, substeps=3, batch=5, folder="fits") | changes
    return one("RecordTrajectories", guider=guider, latent=knobs.pop("latent", empty()), **knobs)


def calls(guider):
    """A list that grows with every network call of the guider."""
    found, inner = [], guider.model.inner
    inner.register_forward_hook(lambda *args: found.append(1))
    return found


def sampled(guider, sampler, sigmas, batch=COUNT):
    noise, latent = one("PerImageNoise", seed=7), empty(batch)
    wires = dict(noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)
    return one("SamplerCustomAdvanced", **wires)["samples"]
