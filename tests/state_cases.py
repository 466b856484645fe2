"""What the tests of kept states share: graphs as nodes make them."""

from __future__ import annotations

import pytest
from node_calls import node, one

from sampling_kit.headless.context import Context, use

STEPS, SEED = 6, 11


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """What the runner says to the nodes that it runs."""
    (tmp_path / "output").mkdir()
    places = (tmp_path / kind for kind in ("output", "input", "temp"))
    with use(Context(*places, "cpu", None, {}, None)):
        yield tmp_path


# ---------------------------------------------------------------------- graphs, as nodes make them


class Graph:
    """A model on a noise schedule, and three pictures to be."""

    def __init__(self, kind):
        schedule = one("NoiseSchedule", kind={"kind": kind})
        small = {"kind": "gaussian", "size": 24, "scenes": 6, "rank": 3}
        model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
        condition = one("ClassCondition", name="one of each")
        self.guider = one("Guider", model=model, positive=condition)
        self.latent = one("EmptyPixelLatent", width=24, height=24, batch_size=3)
        self.noise = one("PerImageNoise", seed=SEED)
        self.sigmas = one(
            "Steps", noise_schedule=schedule, steps=STEPS, spacing={"spacing": "trailing"}
        )

    def run(self, sampler, sigmas, latent=None, noise=None):
        return one(
            "SamplerCustomAdvanced",
            noise=noise or (self.noise if latent is None else one("DisableNoise")),
            guider=self.guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent or self.latent,
        )

    def first(self, solver, step, sigmas=None):
        """(LATENT, SAMPLER_STATE) of a run that stops at ``step``."""
        sampler, state = node("KeepState", sampler=solver, sigmas=self.sigmas)
        return self.run(sampler, split(self.sigmas, step)[0] if sigmas is None else sigmas), state

    def rest(self, solver, latent, state, sigmas, **more):
        """(LATENT, SAMPLER_STATE) of the part over ``sigmas``."""
        sampler, state = node("ResumeState", sampler=solver, state=state, **more)
        return self.run(sampler, sigmas, latent), state


def split(sigmas, step):
    return node("SplitSigmas", sigmas=sigmas, step=step)


@pytest.fixture(scope="module")
def graphs():
    return {kind: Graph(kind) for kind in ("vp_linear", "rectified_flow")}
