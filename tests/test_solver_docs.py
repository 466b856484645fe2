"""The pages about solvers say what the code does: texts exactly, measured numbers by samples."""

import random
import re
from pathlib import Path

import pytest
import torch

from sampling_kit.benchmarks import solver_table as made
from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.solver import ALL

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "solvers.md").read_text(encoding="utf-8")
CHOOSING = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
ELSEWHERE = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
WORDS = ("yes", "no", "exact", made.NONE)
AGAIN = "run: python -m benchmarks.solver_table --write"
SOLVERS = {v.call: v for family in ALL for v in made.variants(family)}
NOISY = [name for name, v in SOLVERS.items() if v.stochastic]
STILL = [name for name, v in SOLVERS.items() if not v.stochastic and v.nfe(2) == 2]
SAMPLE = random.Random(3).sample(STILL, 3) + random.Random(3).sample(NOISY, 2)


def test_the_page_has_a_row_for_every_variant():
    assert list(made.read(PAGE)) == list(in_order()), AGAIN


def in_order():
    for family in ALL:
        yield from sorted((v.call for v in made.variants(family)), key=lambda n: n in NOISY)


def test_the_page_is_what_the_generator_writes_around_these_measurements():
    assert made.page(made.read(PAGE)) == PAGE, AGAIN


@pytest.mark.some(1)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_measured_numbers(name):
    written, orders = made.read(PAGE)[name], len(made.PATHS)
    for k, (cell, now) in enumerate(zip(written, made.measure(SOLVERS[name]), strict=True)):
        if cell in WORDS:
            assert now == cell
        elif k < orders:
            assert float(now) == pytest.approx(float(cell), abs=0.11)
        else:  # two digits
            assert float(now) == pytest.approx(float(cell), rel=0.1)


def test_what_was_measured_bears_out_the_claims():
    """Deterministic solvers: within 0.25, as in test_solvers (and half a unit of rounding)."""
    measured = made.read(PAGE)
    for name in set(measured) - set(NOISY):
        orders = [float(c) for c in measured[name][: len(made.PATHS)] if c != made.NONE]
        claim = [SOLVERS[name].order] * len(orders)
        assert orders == pytest.approx(claim, abs=0.3), name


@pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.name)
def test_the_curved_field_is_the_mixture(path):
    slow = Mixture(path, torch.tensor(made.MEANS), torch.tensor(made.DEVIATIONS))
    for sigma in (0.7, 0.1):
        fast = made.curved(made.FROM.numpy(), sigma, path.on(sigma).alpha)
        assert torch.allclose(torch.tensor(fast), slow(made.FROM, sigma), rtol=0, atol=1e-12)


def test_every_row_quoted_is_a_row_of_the_table():
    """A row of choosing.md names a variant, and after it cells of columns of solvers.md."""
    measured, heading, quoted = made.read(PAGE), [], 0
    for line in CHOOSING.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not re.match(r"\| `\w+\(", line):
            heading = cells if "---" not in line else heading
        elif line.startswith("|"):
            name = cells[0].strip("`")
            assert name in SOLVERS, name
            columns = ["", "NFE", *("" for _ in made.PATHS), *made.ERRORS]
            values = ["", made.nfe(SOLVERS[name]), *measured[name]]
            for column, cell in zip(heading, cells, strict=True):
                if column in columns and column:
                    assert cell == values[columns.index(column)], f"{name}, {column}"
                    quoted += 1
    assert quoted > 20


def test_every_solver_that_is_recommended_exists():
    named = re.findall(r"`(\w+)\(([^`]*)\)`", CHOOSING)
    assert named
    for name, settings in named:
        known = {family.__name__: family.__dataclass_fields__ for family in ALL}
        assert set(re.findall(r"(\w+)=", settings)) <= set(known[name]), (name, settings)


def test_every_test_that_elsewhere_names_exists():
    named = re.findall(r"tested here: `([\w/]+\.py)::(\w+)`", ELSEWHERE)
    assert len(named) >= 5
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text("utf-8"), re.M), test


def test_links_lead_to_files():
    for text in (PAGE, CHOOSING, ELSEWHERE):
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (ROOT / "docs" / target).exists(), target


def test_only_missing_rows_are_measured(monkeypatch):
    """A page that lacks one row gets it back, and no other variant is run."""
    name = SAMPLE[0]
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    measured, asked = made.read(PAGE), []

    def measure_all(solvers):
        asked.extend(v.call for v in solvers)
        return {solver.call: measured[solver.call] for solver in solvers}

    monkeypatch.setattr(made, "measure_all", measure_all)
    assert made.updated(PAGE.replace(row + "\n", "")) == PAGE
    assert asked == [name]
