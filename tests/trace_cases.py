"""What the tests of traces share."""

from __future__ import annotations

import math

import torch

from sampling_kit.schedulers.measure.recorder import Recorder
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, Trailing, space
from sampling_kit.schedulers.split import Stepped

STD, SEED = 0.5, 11


# ------------------------------------------------------------------------ the engine, on N(0, STD²)


class Gaussian:
    """The exact D for data N(0, STD²), and where the ODE leads: x·√(variance'/variance)."""

    def __init__(self, path):
        self.path = path

    def variance(self, sigma):
        return (self.path.on(sigma).alpha * STD) ** 2 + sigma**2

    def __call__(self, x, sigma):
        return x * (self.path.on(sigma).alpha * STD**2 / self.variance(sigma))

    def flow(self, x, start, end):
        return x * math.sqrt(self.variance(end) / self.variance(start))


CASES = {"ve": space(EDM(), 12, Karras()), "flow": space(RectifiedFlowSchedule(), 12, Trailing())}


def recorded(solver, points, budget=1 << 30, batch=2, **more):
    """(trace, result, result without a trace) of a run of 3×4×4 images."""
    path, sigmas = points.path.host, points.sigmas()
    denoise = Gaussian(path)
    x = torch.randn(batch, 3, 4, 4, generator=torch.manual_seed(SEED)) * sigmas[0]
    noise, recorder = PerImageNoise(SEED), Recorder(path, sigmas, budget, **more)
    run = Stepped(solver, recorder.progress, recorder.passed)
    start = run.begin(points.path, x, sigmas, SEED)
    out = run.run(start, points.path, Run(recorder.watched(denoise), noise), sigmas)
    plain = sample(solver, points.path, Run(denoise, noise), x, sigmas)
    return recorder.finish(out, "solver", SEED, denoise), out, plain
