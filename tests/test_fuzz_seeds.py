"""Fuzzing in small: what ``benchmarks.fuzz`` once found, the inputs it begins with, and some seconds of changes."""

from __future__ import annotations

from random import Random

import pytest

from sampling_kit.benchmarks import fuzz
from sampling_kit.benchmarks.fuzz import SEEDS, TARGETS, Target, examine, seeds_of
from sampling_kit.benchmarks.mutate import flipped

pytestmark = pytest.mark.filterwarnings("ignore")  # of NumPy and Pillow about what they are given


@pytest.fixture(scope="module", params=TARGETS)
def name(request: pytest.FixtureRequest) -> str:
    for data in TARGETS[request.param].good()[:1]:
        TARGETS[request.param].run(data)  # imports
    return request.param


def fails(target: Target, data: bytes) -> str:
    finding = examine(target, data)
    return f"{finding.what}\n{finding.detail}" if finding else ""


def test_good_inputs_and_old_findings(name):
    target = TARGETS[name]
    seeds = {f"example {i}": data for i, data in enumerate(target.good())} | seeds_of(name)
    found = {label: fails(target, data) for label, data in seeds.items()}
    assert not any(found.values()), "\n".join(f"{k}: {v}" for k, v in found.items() if v)


def test_changed_inputs(name):
    target, chance = TARGETS[name], Random(0)
    inputs, change = [*target.good(), *seeds_of(name).values()], target.change()
    for _ in range(target.tried):
        data = chance.choice((flipped, change))(chance.choice(inputs), chance)
        assert not fails(target, data), data[:1000]


def test_every_seed_belongs_to_a_target():
    assert {folder.name for folder in SEEDS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize(
    ("run", "limit", "what"),
    [
        (lambda data: 1 / 0, {}, "ZeroDivisionError at test_fuzz_seeds.py"),
        (lambda data: sum(range(10**6)), dict(SECONDS=1e-3), "slow"),
        (
            lambda data: b"0" * (2**20 * round(fuzz.peak())),
            dict(MEGABYTES=50, SECONDS=60.0),
            "large",
        ),
        (lambda data: None, {}, None),
    ],
)
def test_what_counts_as_a_finding(run, limit, what, monkeypatch):
    for name, value in limit.items():
        monkeypatch.setattr(fuzz, name, value)
    finding = examine(Target(run, list, lambda: flipped), b"")
    assert what is None if finding is None else finding.what.startswith(what)
