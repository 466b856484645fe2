"""No solver waits for a device: nothing of a run is read back from it, and only noise is copied to it.

Every variant runs on device "meta", whose tensors hold no numbers (to read one is an error), under a mode that counts
what a GPU would have to wait for. Adaptive, which says in its help that it reads a number a step, is left out.
"""

from collections import Counter

import pytest
import torch
from solver_cases import EVERY_VARIANT, geometric
from torch.utils._python_dispatch import TorchDispatchMode

from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.solver import Adaptive, Run

from .product import each

WAITING = ("aten::_local_scalar_dense", "aten::nonzero")


class Waits(TorchDispatchMode):
    """Counts reads, and copies between devices by direction."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name in WAITING and args[0].device.type != "cpu":
            self.found[name] += 1
        result = function(*args, **(kwargs or {}))
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[1] if name == "aten::copy_" else args[0]
            if source.device != result.device:
                self.found[f"{source.device.type} to {result.device.type}"] += 1
        return result


def waits(solver, path, steps=5):
    """(what was counted, draws of noise) of a run on device "meta"."""
    points = geometric(path, 10.0, 0.1, steps)
    draws = []

    def noise(position, like):
        draws.append(position)
        return PerImageNoise(3)(position, like)

    x = torch.empty(1, 2, 4, 4, device="meta")
    with Waits() as mode:
        end = solver.solve(points, Run(lambda x, sigma: x * 0.5, noise, finite=False), x)
    assert end.device.type == "meta"
    return mode.found, len(draws)


@pytest.mark.some(12)
@each(
    by=type, solver=[s for s in EVERY_VARIANT if not isinstance(s, Adaptive)], path=[VE(), Flow()]
)
def test_no_solver_reads_from_the_device(solver, path):
    found, draws = waits(solver, path)
    assert found.pop("cpu to meta", 0) <= draws, "one copy per draw of noise, and nothing else"
    assert not found


def test_what_waits_is_counted():
    with Waits() as mode, pytest.raises(RuntimeError):  # there is no number to read
        torch.empty((), device="meta").item()
    assert dict(mode.found) == {"aten::_local_scalar_dense": 1}
    with Waits() as mode:
        torch.zeros(3).to("meta")
        torch.zeros(()).item()
    assert dict(mode.found) == {"cpu to meta": 1}


def test_adaptive_is_the_one_that_reads():
    with pytest.raises(NotImplementedError, match="meta"):
        waits(Adaptive(), VE())
