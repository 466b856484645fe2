"""The study: it goes on where it stopped, its data is what its page says, and its sums find what was put in."""

from __future__ import annotations

import json
from itertools import product

import pytest

from sampling_kit.benchmarks import study, study_data, study_effects, study_figures, study_page
from sampling_kit.benchmarks.study_data import Row

SIZE = study.SIZES["tiny"]


@pytest.fixture
def few(monkeypatch):
    """Three solvers on three spacings."""
    monkeypatch.setattr(study, "ALL", study.ALL[1:4])
    monkeypatch.setattr(study.spacings, "ALL", dict(list(study.spacings.ALL.items())[3:6]))
    study.solvers.cache_clear()
    yield
    study.solvers.cache_clear()


def test_a_study_goes_on_where_it_was_stopped(tmp_path, few):
    worlds = [("mixture", "none"), ("mixture-flow", "CFG 2")]
    first = study.study(tmp_path, "tiny", worlds, study.Part.parse("1/2"))
    (file,) = tmp_path.glob("rows*.jsonl")
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")  # cut short
    again = study.study(tmp_path, "tiny", worlds, study.Part.parse("1/2"))
    rest = study.study(tmp_path, "tiny", worlds, study.Part.parse("2/2"))
    assert (again, study.study(tmp_path, "tiny", worlds)) == (1, 0)
    rows = list(study.rows_in(tmp_path))
    assert len(rows) == first + rest == len({study.case_of(r) for r in rows})
    for row in rows:
        solver = study.solvers(False).get(row["solver"])
        if "failure" in row:
            continue
        assert row["calls"] <= row["nfe"]
        assert ("rmse" in row) == (solver is None or not solver.stochastic)
    auto = [r for r in rows if r["solver"] == study.AUTO]
    assert len(auto) == 2 and all(r["rmse"] < 0.3 for r in auto)


def test_two_names_for_one_plan_are_one_run(few):
    at = study.world("mixture", "none", 2)
    seen: dict = {}
    cases = [
        study.Case("mixture", "none", solver, spacing, "schedule", 4)
        for solver, spacing in product(("DDIM()", "Euler()"), ("exponential", "uniform_lambda"))
    ]
    rows = [study.measured(at, case, SIZE, seen) for case in cases]
    assert len(seen) == 1 and [r.get("shared", False) for r in rows] == [False, True, True, True]


def test_every_solver_and_spacing_is_in_it():
    cases = study.cases(SIZE, "mixture", "none", 4)
    kinds = {type(s) for s in study.solvers(False).values()}
    assert kinds == set(study.ALL) - {study.Adaptive}
    assert {c.spacing for c in cases} - {study.AUTO} == set(study.spacings.ALL) - set(study.WRITTEN)
    assert len(set(cases)) == len(cases) and cases[0].solver == study.AUTO


def made(count: int = 8) -> list[Row]:
    """Errors that are a product of a solver's and a place's factor, with one cell missing."""
    cells = product(range(count), range(3), ("schedule", "rule"), range(2))
    return [
        Row(f"w{w}", "none", f"s{i}", f"p{j}", e, 10, rmse=1e-3 * (w + 1) * 1.5**i * (2 if e == "rule" else 1))
        for i, j, e, w in cells
        if (i, j, w) != (0, 0, 0)
    ]  # fmt: skip


def test_the_sums_find_the_factors_that_were_put_in():
    rows = made()
    shares = study_effects.shares(rows)
    assert shares["solver + spacing with ends"] == pytest.approx(1)
    assert shares["spacing"] < 0.05 < shares["ends"] < shares["solver"] < 1
    solver, place = study_effects.fit(
        rows, study_effects.MODELS["solver + spacing with ends"]
    ).effects
    assert 10 ** (solver["s3"] - solver["s2"]) == pytest.approx(1.5)
    assert 10 ** (place["p1", "rule"] - place["p1", "schedule"]) == pytest.approx(2)
    assert study_effects.best_of(rows)["s1"] == pytest.approx(1.5)


def test_the_data_are_read_as_they_were_written(tmp_path):
    rows = [
        {"network": "m", "guidance": "none", "solver": "DDIM()", "spacing": "karras", "ends": "rule", "nfe": 10, "rmse": 0.012345},
        {"network": "m", "guidance": "none", "solver": "A", "spacing": "beta", "ends": "skip", "nfe": 6, "failure": "ValueError: no, never"},
    ]  # fmt: skip
    digest = study_data.write({"size": "tiny"}, rows, tmp_path / "x.xz")
    read = study_data.read.__wrapped__(tmp_path / "x.xz")
    assert read.digest == digest and read.facts == {"size": "tiny"}
    first, second = read.rows
    assert (first.failure, first.rmse, second.rmse, second.calls) == (
        "ValueError: no, never",
        None,
        0.0123,
        None,
    )
    json.dumps(read.facts)


def test_the_page_says_what_the_data_say():
    page = study_page.PAGE.read_text(encoding="utf-8")
    study_data.read.cache_clear()
    found = study_data.read()
    assert found.digest in page and len(found.rows) > 3000
    assert study_page.page_of(found, page) == page, "python -m benchmarks.study_page --write"
    assert study_data.DATA.stat().st_size < 300_000
    for name in FIGURES:
        assert getattr(study_figures, name).name in page


FIGURES = ("FACTORS", "MAP", "DISTANCES")


@pytest.mark.full
def test_its_figures_are_drawn(tmp_path, monkeypatch):
    for name in FIGURES:
        monkeypatch.setattr(study_figures, name, tmp_path / f"{name}.png")
    at = study_page.Findings(study_data.read())
    study_figures.draw(at.runs, at.solvers, at.places, at.distances, at.stochastic)
    assert all((tmp_path / f"{n}.png").stat().st_size > 9000 for n in FIGURES)
