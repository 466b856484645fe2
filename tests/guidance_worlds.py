"""What the tests of guidance run on: predictions of every branch, and states."""

import dataclasses

import torch

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.guidance import (
    COND,
    UNCOND,
    Inpaint,
    Measurement,
)

KAPPAS = (3.0, 1.4, 0.6, 0.2)
SHAPE = (3, 4, 4)
BRANCHES = {UNCOND: None, COND: 0, "negative": 1, "weak": 0}


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class World:
    """Exact denoisers for every branch, on a path: a mixture of six Gaussians in three classes."""

    def __init__(self, path, shape=SHAPE):
        self.path, self.shape = path, shape
        self.mixture = self.make(0.3)
        self.weak = self.make(0.8)
        self.calls = []

    def make(self, std):
        means = normal(6, *self.shape)
        floor = torch.full((6,), std, dtype=torch.float64)
        return Mixture(self.path, means, floor, labels=torch.tensor([0, 0, 1, 1, 2, 2]))

    def evaluate(self, x, sigma, names):
        self.calls.append(tuple(names))
        return {name: self.branch(name, x, sigma) for name in names}

    def branch(self, name, x, sigma):
        if name.startswith("perturbed"):
            return 0.7 * self.branch(COND, x, sigma) + 0.1 * self.branch(UNCOND, x, sigma)
        number = BRANCHES[name] if name in BRANCHES else int(name.split(".")[1]) % 3
        rows = None if number is None else torch.eye(3)[[number] * len(x)]
        return (self.weak if name == "weak" else self.mixture)(x, sigma, rows)

    def rule(self, cls, **knobs):
        """A rule at its defaults, with whatever its wires need."""
        known = normal(1, *self.shape, seed=7)
        wires = {
            "CLASSIFIER": self.mixture.class_logits,
            "MEASUREMENT": Measurement(Inpaint((known > 0).double()), known),
            "MASKS": (),
        }
        for field in dataclasses.fields(cls):
            if "wire" in field.metadata:
                knobs.setdefault(field.name, wires[field.metadata["wire"]])
        return cls(**knobs)

    def begin(self, guidance, kappas=KAPPAS, **options):
        return guidance.begin(
            self.path, [self.path.host.at(k).sigma for k in (*kappas, 0.0)], **options
        )

    def run(self, guidance, y, **options):
        """D at y = x/α for each of KAPPAS, in one run."""
        run = self.begin(guidance, **options)
        points = [self.path.host.at(kappa) for kappa in KAPPAS]
        return torch.stack([run(y * p.alpha, p.sigma, self.evaluate) for p in points])


def state(batch=3, shape=SHAPE):
    return 2 * normal(batch, *shape, seed=3)
