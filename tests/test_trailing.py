"""Timesteps of the trailing spacing, for every number of steps: the published rule, and diffusers'."""

from fractions import Fraction

import numpy as np
import pytest

from sampling_kit.schedulers.noise_schedule import LinearVP
from sampling_kit.schedulers.spacing import Trailing

T = 1000


def published(n):
    """round(T·k/n) − 1 for k = n … 1, in exact numbers; Fraction rounds halves to even."""
    return [round(Fraction(T * k, n)) - 1 for k in range(n, 0, -1)]


def ours(n):
    schedule = LinearVP()
    return schedule.time(Trailing().levels(schedule, n)).round().astype(int).tolist()


def test_the_rule_is_the_published_one_for_every_number_of_steps():
    wrong = [n for n in range(1, T + 1) if ours(n) != published(n)]
    assert wrong == []
    assert ours(16)[1:5] == [937, 874, 811, 749]


def test_diffusers_differs_only_where_its_floats_do():
    """It counts down in steps of the float T/n: a half may come out below or above itself, and one more
    timestep, −1, may follow the last."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(timestep_spacing="trailing")
    longer, halves = [], []
    for n in range(1, T + 1):
        theirs.set_timesteps(n)
        steps = theirs.timesteps.numpy()
        if len(steps) > n:
            assert steps[n:].tolist() == [-1]
            longer.append(n)
        at = np.flatnonzero(steps[:n] != np.array(published(n)))
        assert all(Fraction(T * (n - int(i)), n).denominator == 2 for i in at), n
        halves += [n] if len(at) else []
    assert (longer[:3], halves[:3]) == ([61, 103, 121], [48, 96, 112])
    assert len({*longer, *halves}) == 111
