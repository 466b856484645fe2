"""What docs/quality.md and docs/inpainting.md say in words is what their tables hold; a row of the latter is measured anew."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from sampling_kit.benchmarks import inpainting
from sampling_kit.schedulers.path import VE

DOCS = Path(__file__).resolve().parent.parent / "docs"


@cache
def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def said(name: str) -> str:
    """The page on one line."""
    return " ".join(page(name).split())


def cells(text: str) -> list[list[str]]:
    """Rows of the first table of a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:]]


def table(name: str) -> list[list[str]]:
    return cells(page("quality").split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0])


def short(value: str | float) -> str:
    return f"{float(value):.2f}".lstrip("0")


def test_what_is_said_of_the_ends_by_rule():
    rows = [r for r in table("ends") if r[2] == "noise share"]
    losses = sorted(float(r[4]) for r in rows)
    assert f"within {losses[-2]:.2f} times the best tried in eight of nine rows, {losses[-1]:.2f} in the other" in said("quality")  # fmt: skip
    worst = max(float(r[4]) for r in table("ends") if r[2] == "Karras")
    assert f"up to {worst:.0f} times" in said("quality")
    bands = {name: [r for r in rows if r[0] == name] for name in ("hsc", "postcards")}
    highs = {name: [short(r[7].split("/")[-1]) for r in some] for name, some in bands.items()}
    assert f"({highs['hsc'][0]}, {highs['hsc'][1]}, {highs['hsc'][2]} with 4, 6, 8 evaluations)" in said("quality")  # fmt: skip
    best = [short(r[8]) for r in bands["postcards"]]
    assert f"postcards: {', '.join(highs['postcards'])}, and {', '.join(best)} with the best ends" in said("quality")  # fmt: skip
    lasts = [sorted({float(r[5]) for r in table("ends") if r[1] == n}) for n in ("4", "6", "8")]
    ranges = ", ".join(f"{short(x[0])} to {short(x[-1])}" for x in lasts)
    assert f"it lies at {ranges} s with 4, 6, 8 evaluations" in said("quality")


def test_what_is_said_of_body_and_tail():
    rows = {(r[0], r[1], r[2].split(" (")[0]): r for r in table("tail")}
    low, high = rows["hsc", "4", "0.0905"], rows["hsc", "4", "0.362"]
    body = [f"{float(r[3]):.3f}".lstrip("0") for r in (low, high)]
    tail = [f"{float(r[4]):.3f}".lstrip("0") for r in (low, high)]
    assert f"takes the body from {body[0]} to {body[1]} and the tail from {tail[0]} to only {tail[1]}" in said("quality")  # fmt: skip


def test_what_is_said_of_noise_and_of_a_run_s_own_error():
    floor, *solvers = table("stochastic")
    exact = float(table("deterministic")[0][5])
    seeds = next(r for r in solvers if r[0] == "`DPMSolver(eta=1.0)`")
    below = [sum(float(r[k]) < exact for r in solvers) for k in (2, 3)]
    words = ("none", "one", "two", "three", "four", "five", "six")
    assert f"with 20 {words[below[0]]} of six are below the exact ends (SEEDS, {seeds[0]}, {float(seeds[2]):.1f}), with 50 all" in said("quality")  # fmt: skip
    assert below[1] == len(solvers)
    assert f"the exact ends themselves have {exact:.1f}" in said("quality")
    assert f"A second set of true pictures has {float(floor[1]):.1f}" in said("quality")
    late = [float(r[5]) for r in table("deterministic")[1:] if int(r[1]) >= 15]
    assert f"Fréchet {min(late):.1f} to {max(late):.1f}" in said("quality")
    ranks = [float(r[2]) for r in table("estimate")[:-1]]
    assert f"rank correlation with the true errors {short(min(ranks))} to {short(max(ranks))} on four problems" in said("quality")  # fmt: skip


def test_what_is_said_of_inpainting():
    rows = {(r[0], r[1]): r for r in cells(page("inpainting"))}
    alike = {key: float(r[4]) > 0.05 for key, r in rows.items()}
    one, several, soft = (
        [m for m in (1, 3, 5, 10) if alike[name, f"Langevin, {m} move{'s' * (m > 1)}"]]
        for name in ("one component", "several components", "soft mask")
    )
    assert min(one) == 5 and "5 moves cannot be told from exact draws" in said("inpainting")
    assert several == [10] and "of one covariance: 10 moves cannot" in said("inpainting")
    assert min(soft) <= 3 and "from 3 moves on" in said("inpainting")
    assert not any(good for (name, how), good in alike.items() if name == "unlike components" and how != "exact draws")  # fmt: skip
    for (_, how), row in rows.items():
        moves = re.search(r"(\d+) moves?", how)
        if moves:
            assert int(row[2]) == 20 + int(moves[1]) * 19


def test_a_row_of_inpainting_measured_anew():
    method, problem, path = "plain masking", inpainting.world("one component"), VE()
    made = inpainting.sampled(problem, method, path, 400)
    found = inpainting.row("", method, problem, problem.exact(400, seed=1), problem.new(made.x), made.evaluations)  # fmt: skip
    row = next(r for r in cells(page("inpainting")) if r[:2] == ["one component", method])
    assert made.evaluations == int(row[2]) and found["distance"] == pytest.approx(float(row[3]), abs=0.002)  # fmt: skip
    assert f"{found['seam']:+.0%}" == row[5]
