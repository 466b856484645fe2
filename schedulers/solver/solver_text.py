r"""Solvers as text: JSON that a person, a paper or a fit writes, read into a solver, and written from one.

One object with one key, which says what it is:

    {"tableau": {"c": [0, "1/2", 1], "a": [[], ["1/2"], [-1, 2]], "b": ["1/6", "2/3", "1/6"]}}

        A Runge–Kutta method (``tableau_solver.py``). ``a`` has a row per stage, of what lies below the diagonal (zeros after
        it may stand). More keys: ``name``; ``order`` that is claimed; ``variable`` sigma, lambda or exponential; ``b2``, the
        weights of an embedded pair; ``adaptive`` {"rtol", "atol"}: steps by that pair's tolerance.

    {"plan": {"path": "VE", "rows": [{"sigma": 80}, {"sigma": 5, "x": [0.0625], "d": [0.9375]}, …, {"sigma": 0, "x": [0], "d": [1]}]}}

        The rows of a plan (``plan.py``): each state is Σ x·(anchors) + Σ d·(D's) + noise·z, newest first, in the coordinates of
        ``path``; ``sigma`` is its level as SIGMAS carries it, "inf" for pure noise. A row is kept and D is asked there, unless
        ``commit`` or ``evaluate`` is false; the last row is the result. More keys: ``name``; ``levels`` of
        the run, where they are not those of the rows that begin a step; of a row ``noise``, ``step``, and
        ``reported``, the σ that the network is told.

    {"fit": {"start": "inf", "levels": […], "x": […], "d": [[…], …]}}

        A fitted table (``fitted.py``; levels are κ = σ/α), as its file holds it: ``end``, ``steps``, ``mix``, ``card`` too.

Numbers are finite; a fraction may stand as a text. Nothing in a text is run. :func:`read` proves what can be proved of it
and raises ValueError with the entry at fault, its value and the way out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..path import PATHS, Path, Point
from ..points import Points
from ..strict_json import parse_json
from .band_mix import Mix
from .fitted import FittedSolver, Table, same_level
from .order_conditions import HIGHEST, ROUNDING, broken_condition, order_of
from .plan import Plan, Stage
from .plan_solver import PlanSolver, levels_of_rows, shares
from .runge_kutta import Tableau
from .tableau_solver import VARIABLES, AdaptiveTableau, TableauSolver
from .text_values import (
    as_choice,
    as_count,
    as_flag,
    as_list,
    as_name,
    as_number,
    as_numbers,
    as_object,
    quoted,
)  # fmt: skip

MOST_CHARACTERS, MOST_STAGES, MOST_ROWS = 2**20, 32, 1000
PATH_NAMES = {kind.name: kind for kind in PATHS}
#: How far a row's weights may miss, in the sizes of its terms: numbers are often written with six digits.
SIX_DIGITS = 2e-6
Given = Mapping[str, Any]
Written = TableauSolver | AdaptiveTableau | PlanSolver | FittedSolver


def read(text: str) -> Written:
    """The solver of a text. Raises ValueError."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text is empty: write one of {', '.join(KINDS)}, such as {EXAMPLE}")
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"the text has {len(text)} characters; at most {MOST_CHARACTERS} are read")
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"the text is no JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in KINDS:
        got = ", ".join(map(quoted, value)) if isinstance(value, dict) else quoted(value)
        raise ValueError(
            f"the text holds {got or 'nothing'}: write one of {', '.join(KINDS)}, such as {EXAMPLE}"
        )
    ((kind, entry),) = value.items()
    return KINDS[kind](entry)


# ------------------------------------------------------------------------------------------ tableau


def read_tableau(value: Any) -> TableauSolver | AdaptiveTableau:
    entry = as_object(
        "tableau", value, ("c", "a", "b"), ("name", "order", "variable", "b2", "adaptive")
    )
    c = as_numbers("tableau.c", entry["c"], MOST_STAGES, 1)
    a, b = rows_of_a(entry["a"], c), of_stages("tableau.b", entry["b"], c)
    low = of_stages("tableau.b2", entry["b2"], c) if "b2" in entry else ()
    order = order_claimed(entry, a, b)
    shared: dict[str, Any] = dict(
        tableau=Tableau(order, c, a, b),
        variable=as_choice("tableau.variable", entry.get("variable", "sigma"), VARIABLES),
        name=as_name("tableau.name", entry.get("name", "")),
        low=low,
    )
    if low:
        require_consistent("b2", a, low)
        if low == b:
            raise ValueError("tableau.b2 is b itself: the pair would see no error; leave b2 out")
    if "adaptive" not in entry:
        return TableauSolver(**shared)
    if not low:
        raise ValueError("tableau.adaptive needs b2, the weights of an embedded pair")
    limits = as_object("tableau.adaptive", entry["adaptive"], (), ("rtol", "atol"))
    tolerance: Any = {name: as_number(f"tableau.adaptive.{name}", v) for name, v in limits.items()}
    return AdaptiveTableau(**shared, **tolerance, error_order=1 + min(order, order_of(a, low)))


def rows_of_a(value: Any, c: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """What lies below the diagonal, row by row; each row's sum is its c."""
    if c[0] != 0:
        raise ValueError(f"tableau.c[0] = {c[0]:g}: the first stage is the state itself, at 0")
    for i, position in enumerate(c):
        if not 0 <= position <= 1:
            raise ValueError(
                f"tableau.c[{i}] = {position:g}: stages lie within the step, from 0 to 1"
            )
    rows = []
    for i, row in enumerate(as_list("tableau.a", value, len(c), len(c))):
        where = f"tableau.a[{i}]"
        numbers = as_numbers(where, row, len(c))
        ahead = next((j for j in range(i, len(numbers)) if numbers[j]), None)
        if ahead is not None:
            raise ValueError(
                f"{where}[{ahead}] = {numbers[ahead]:g} lies on or above the diagonal: stage {i} knows the stages before it "
                "only, and implicit methods are no plans; write 0"
            )
        numbers = (*numbers[:i], *[0.0] * (i - len(numbers)))
        got = math.fsum(numbers)
        if abs(got - c[i]) > ROUNDING * max(1.0, math.fsum(map(abs, numbers))):
            raise ValueError(
                f"{where} sums to {got:.10g} and c[{i}] is {c[i]:.10g}: the row must reach its position; write all digits, or "
                "fractions"
            )
        rows.append(numbers)
    return tuple(rows)


def of_stages(where: str, value: Any, c: tuple[float, ...]) -> tuple[float, ...]:
    numbers = as_numbers(where, value, MOST_STAGES)
    if len(numbers) != len(c):
        raise ValueError(f"{where} has {len(numbers)} entries for {len(c)} stages: one for each")
    return numbers


def require_consistent(key: str, a: tuple[tuple[float, ...], ...], b: tuple[float, ...]) -> None:
    if broken_condition(a, b, 1):
        raise ValueError(
            f"tableau.{key} sums to {math.fsum(b):.10g} and must sum to 1, or a run ends elsewhere however small its steps are; "
            "write all digits, or fractions"
        )


def order_claimed(entry: Given, a: tuple[tuple[float, ...], ...], b: tuple[float, ...]) -> int:
    """The order that the text claims, proved; without a claim the order it has."""
    require_consistent("b", a, b)
    if "order" not in entry:
        return order_of(a, b)
    order = as_count("tableau.order", entry["order"], 1, HIGHEST)
    if wrong := broken_condition(a, b, order):
        raise ValueError(
            f"tableau.order = {order}, but {wrong}; the numbers have order {order_of(a, b)}: mend them, or claim that"
        )
    return order


# --------------------------------------------------------------------------------------------- plan


def read_plan(value: Any) -> PlanSolver:
    entry = as_object("plan", value, ("rows",), ("name", "path", "levels"))
    path = PATH_NAMES[as_choice("plan.path", entry.get("path", "VE"), PATH_NAMES)]()
    stages: list[Stage] = []
    for i, row in enumerate(as_list("plan.rows", entry["rows"], MOST_ROWS, 2)):
        stages.append(read_row(f"plan.rows[{i}]", row, path, stages))
    end = len(stages) - 1
    if not stages[0].evaluate:
        raise ValueError("plan.rows[0].evaluate = false: a run begins with a question for D")
    if stages[end].evaluate or not stages[end].commit:
        raise ValueError(
            f"plan.rows[{end}] is the result, so D is not asked there: write evaluate = false, commit = true, or leave both out"
        )
    levels = levels_of_rows(tuple(stages))
    if "levels" in entry:
        typed = as_list("plan.levels", entry["levels"], MOST_ROWS, 2)
        levels = tuple(level(f"plan.levels[{i}]", v, path).kappa for i, v in enumerate(typed))
    solver = PlanSolver(path, levels, tuple(stages), as_name("plan.name", entry.get("name", "")))
    require_levels(solver)
    require_data(solver)
    return solver


ROW = ("x", "d", "noise", "commit", "evaluate", "step", "reported")


def read_row(where: str, value: Any, path: Path, before: list[Stage]) -> Stage:
    """One row after the rows ``before``. D is not asked at level 0."""
    row = as_object(where, value, ("sigma",), ROW)
    at = level(f"{where}.sigma", row["sigma"], path)
    anchors = 1 + sum(stage.commit for stage in before)
    asked = sum(stage.evaluate for stage in before)
    x = as_numbers(f"{where}.x", row.get("x", [] if before else [1.0]), MOST_ROWS)
    d = as_numbers(f"{where}.d", row.get("d", []), MOST_ROWS)
    for key, weights, there, what in (("x", x, anchors, "states"), ("d", d, asked, "predictions")):
        if len(weights) > there:
            raise ValueError(
                f"{where}.{key} has {len(weights)} weights, but {there} {what} are there by then: newest first, one for each"
            )
    flags: Any = {key: as_flag(f"{where}.{key}", row.get(key, default)) for key, default in
             (("commit", True), ("evaluate", at.sigma > 0))}  # fmt: skip
    if flags["evaluate"] and at.sigma == 0:
        raise ValueError(f"{where}.evaluate = true at level 0, where there is no noise to remove")
    if not (x or d or "noise" in row):
        raise ValueError(f"{where} has no weights: write x, d or both")
    steps = before[-1].step if before else 0
    usual = steps + 1 if before and flags["commit"] and flags["evaluate"] else steps
    step = as_count(f"{where}.step", row.get("step", usual), 0, MOST_ROWS)
    if step not in (steps, steps + 1) or (not before and step):
        raise ValueError(
            f"{where}.step = {step}: steps count up from 0, here {steps} or {steps + 1}"
        )
    reported = level(f"{where}.reported", row["reported"], path) if "reported" in row else None
    noise = as_number(f"{where}.noise", row.get("noise", 0.0))
    return Stage(step, at, x, d, noise, **flags, noise_label=reported)


def level(where: str, value: Any, path: Path) -> Point:
    """The point of a level as SIGMAS carries it."""
    sigma, host = as_number(where, value, infinite=True), path.host
    highest = math.inf if host != path or path.name == "VE" else 1.0
    if not 0 <= sigma <= highest or (math.isinf(sigma) and path.name == "VE"):
        limit = "1" if highest == 1 else "any"
        raise ValueError(f"{where} = {quoted(value)}: levels on {path.name} go from 0 to {limit}")
    return path.at(sigma if math.isinf(sigma) else host.on(sigma).kappa)


def require_levels(solver: PlanSolver) -> None:
    """Raises ValueError for levels that turn, or are not those that the rows come to."""
    try:
        solver.points(solver.path)
    except ValueError as error:
        raise ValueError(f"plan.levels (of the rows that begin steps): {error}") from None
    steps, last = solver.stages[-1].step + 1, len(solver.stages) - 1
    if len(solver.levels) != steps + 1:
        raise ValueError(
            f"plan.levels has {len(solver.levels)} levels for {steps} steps: one more than steps"
        )
    if not same_level(solver.levels[-1], solver.stages[-1].at.kappa):
        raise ValueError(
            f"plan.rows[{last}].sigma is not the last of plan.levels, where the run ends"
        )


def require_data(solver: PlanSolver) -> None:
    """Raises ValueError for a row that does not carry data through (see ``plan_solver.py``)."""
    for i, row in enumerate(shares(solver.written())):
        if abs(row.data - row.alpha) > SIX_DIGITS * (1 + row.terms):
            raise ValueError(
                f"plan.rows[{i}] carries {row.data:.7g} of the data and must carry α = {row.alpha:.7g}: Σ x·α + Σ d is off by "
                f"{row.data - row.alpha:.3g}; mend its weights (six digits are enough)"
            )


# ---------------------------------------------------------------------------------------------- fit


def read_fit(value: Any) -> FittedSolver:
    entry = as_object("fit", value, ("start", "levels", "x", "d"), ("end", "steps", "mix", "card"))
    levels = as_numbers("fit.levels", entry["levels"], MOST_ROWS, 1, infinite=True)
    n = len(levels)
    rows = [
        as_numbers(f"fit.d[{i}]", row, i + 1)
        for i, row in enumerate(as_list("fit.d", entry["d"], n, n))
    ]
    steps = as_list("fit.steps", entry.get("steps", list(range(n))), n, n)
    mixes = as_list("fit.mix", entry.get("mix", [None] * n), n, n)
    card = entry.get("card", {})
    if not isinstance(card, dict):
        raise ValueError(f"fit.card = {quoted(card)}: write an object")
    try:
        table = Table(
            start=as_number("fit.start", entry["start"], infinite=True),
            levels=levels,
            x=as_numbers("fit.x", entry["x"], n + 1, n + 1),
            d=tuple(rows),
            steps=tuple(as_count(f"fit.steps[{i}]", s, 0, MOST_ROWS) for i, s in enumerate(steps)),
            mix=tuple(read_mix(f"fit.mix[{i}]", mix) for i, mix in enumerate(mixes)),
            end=as_number("fit.end", entry.get("end", 0.0)),
        )
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("fit.") else f"fit: {error}") from None
    return FittedSolver(table, card)


def read_mix(where: str, value: Any) -> Mix | None:
    if value is None:
        return None
    entry = as_object(where, value, ("knots", "x", "d"))
    x, d = (nested(f"{where}.{key}", entry[key], 4) for key in ("x", "d"))
    try:
        arrays = [np.array(v, float) for v in (x, d)]
        x, d = (v if len(v) else np.zeros((0, *max(a.shape for a in arrays)[1:])) for v in arrays)
        return Mix(as_numbers(f"{where}.knots", entry["knots"], 64, 1), x, d)
    except ValueError as error:
        raise ValueError(
            str(error) if str(error).startswith("fit.") else f"{where}: {error}"
        ) from None


def nested(where: str, value: Any, depth: int) -> Any:
    """Lists in lists of numbers."""
    if depth == 1:
        return as_numbers(where, value, MOST_ROWS)
    entries = as_list(where, value, MOST_ROWS)
    return [nested(f"{where}[{i}]", v, depth - 1) for i, v in enumerate(entries)]


KINDS: dict[str, Callable[[Any], Written]] = {
    "tableau": read_tableau,
    "plan": read_plan,
    "fit": read_fit,
}
EXAMPLE = '{"tableau": {"c": [0, "1/2"], "a": [[], ["1/2"]], "b": [0, 1]}}'


# -------------------------------------------------------------------------------------------- write


def tableau_text(solver: TableauSolver | AdaptiveTableau) -> str:
    """The text of a tableau."""
    table = solver.tableau
    more: dict[str, Any] = {"b2": solver.low} if solver.low else {}
    if isinstance(solver, AdaptiveTableau):
        more["adaptive"] = {"rtol": solver.rtol, "atol": solver.atol}
    entry = dict(
        name=solver.name,
        order=table.order,
        variable=solver.variable,
        c=table.c,
        a=table.a,
        b=table.b,
    )
    return lines({"tableau": entry | more})


def plan_text(plan: Plan, points: Points, name: str = "") -> str:
    """The text of the plan of a run over ``points``. Raises ValueError for bands and for a limit on D."""
    if plan.clip_x0 or any(stage.mix for stage in plan.stages):
        raise ValueError(f"{plan.solver}: limits on D and frequency bands are no weights of a row")
    rows: list[dict[str, Any]] = []
    for stage in plan.stages:
        row: dict[str, Any] = dict(sigma=sigma_of(stage.at, plan.path), x=stage.x, d=stage.d)
        row |= {"noise": stage.noise} if stage.noise else {}
        row |= dict(step=stage.step, commit=stage.commit, evaluate=stage.evaluate)
        if stage.noise_label is not None:
            row["reported"] = sigma_of(stage.noise_label, plan.path)
        rows.append(row)
    levels = [sigma_of(p, plan.path) for p, _ in points.steps] + [rows[-1]["sigma"]]
    return lines({"plan": dict(name=name, path=plan.path.name, levels=levels, rows=rows)})


def fit_text(fit: FittedSolver) -> str:
    """The text of a fit; :func:`read` gives the same numbers, bit for bit. Raises ValueError for one that is too long."""
    table = fit.table
    entry: dict[str, Any] = dict(
        start=number(table.start), end=number(table.end), levels=list(map(number, table.levels)),
        x=table.x, d=table.d, steps=table.steps,
    )  # fmt: skip
    if any(table.mix):
        entry["mix"] = [
            mix and {"knots": mix.knots, "x": mix.x.tolist(), "d": mix.d.tolist()}
            for mix in table.mix
        ]
    entry["card"] = {key: value for key, value in fit.card.items() if key != "family"}
    text = lines({"fit": entry})
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"this fit has {len(text)} characters as text and at most {MOST_CHARACTERS} are read: give it to others as a file"
        )
    return text


def number(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


def sigma_of(point: Point, path: Path) -> float | str:
    """The level as SIGMAS carries it."""
    if math.isinf(point.kappa) and path.host != path:
        return "inf"
    return path.host.at(point.kappa).sigma


def lines(value: Mapping[str, Any]) -> str:
    """JSON with a line for every key, and for every row of what has rows."""
    ((kind, entry),) = value.items()
    parts = []
    for key, held in entry.items():
        tall = isinstance(held, list | tuple) and held and isinstance(held[0], dict | list | tuple)
        inner = ",\n   ".join(map(compact, held)) if tall else ""
        parts.append(f"  {compact(key)}: " + (f"[\n   {inner}]" if tall else compact(held)))
    return f"{{{compact(kind)}: {{\n" + ",\n".join(parts) + "\n}}\n"


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
