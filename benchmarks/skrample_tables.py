"""skrample's runs as tables of numbers, printed as JSON by a Python that has skrample (3.12 and newer; it needs no torch).

    python benchmarks/skrample_tables.py TASK.json

TASK is {"kind": "sd" | "edm" | "flow", "ends": [σ_max, σ_min], "shift": s, "nfe": [n, …]}. Every state of its samplers is linear in the
noise at the start and the predictions so far, so a sampler that is run on unit vectors tells its weights. A row has the sampler, the levels'
name, the number of evaluations, and for each state [σ, α, weight of the start, weights of the predictions, oldest first]; the last is the end.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Table = dict[str, Any]


def module(name: str) -> Any:
    return importlib.import_module(f"skrample.{name}")


def schedules(kind: str, ends: list[float], shift: float) -> dict[str, Any]:
    """skrample's own: what replaces levels, and what moves them."""
    s = module("scheduling")
    if kind == "sd":
        base = s.Scaled()
    elif kind == "edm":
        base = s.Linear(sigma_start=ends[0], custom_space=s.VariancePreserving())
    else:
        base = s.Linear()
    far = dict(steps=ends[0] / ends[1]) if kind == "edm" else {}  # where their least level is taken
    levels = {"own": base, "Karras": s.Karras(base, **far), "Exponential": s.Exponential(base, **far)}  # fmt: skip
    levels |= {"Beta": s.Beta(base), "Probit": s.Probit(base)}
    levels |= {"Hyper": s.Hyper(base), "Hyper sinh": s.Hyper(base, scale=-2.0), "Sinner": s.Sinner(base)}  # fmt: skip
    if kind == "flow":
        return {name: s.FlowShift(schedule, shift=shift) for name, schedule in levels.items()}
    return levels | {"FlowShift 3": s.FlowShift(base)}


def samplers() -> dict[str, Any]:
    m, of, run = module("sampling.models"), module("sampling.structured"), module("sampling.functional")  # fmt: skip
    spaces = dict(data=m.DataModel(), noise=m.NoiseModel(), flow=m.FlowModel(), velocity=m.VelocityModel())  # fmt: skip
    structured: dict[str, Any] = {"Euler": of.Euler(), "SPC": of.SPC()}
    for name, space in spaces.items():
        for kind, orders in ((of.DPM, (2, 3)), (of.Adams, (2, 3, 4)), (of.UniP, (3,)), (of.UniPC, (2, 3))):  # fmt: skip
            for order in orders:
                structured[f"{kind.__name__} {order} {name}"] = kind(order=order, derivative_transform=space)  # fmt: skip
    adapter = module("sampling.interface").StructuredFunctionalAdapter
    found = {name: adapter(sampler) for name, sampler in structured.items()}
    for name, space in spaces.items():
        found |= {f"RKUltra {n} {name}": run.RKUltra(order=n, derivative_transform=space) for n in (2, 3, 4)}  # fmt: skip
        found |= {f"DynasauRK {n} {name}": run.DynasauRK(order=n, derivative_transform=space) for n in (2, 3)}  # fmt: skip
    return found


def states(sampler: Any, schedule: Any, nfe: int, data: Any) -> list[list[Any]]:
    """Of the most steps that ``nfe`` pays for; [] if none."""
    for steps in range(nfe, 0, -1):
        units, rows = np.eye(nfe + 2), list[list[Any]]()

        def model(x: Any, t: float, sigma: float, alpha: float, rows: Any = rows, units: Any = units) -> Any:  # fmt: skip
            if len(rows) >= nfe:
                raise OverflowError
            rows.append([sigma, alpha, float(x[0]), x[1 : len(rows) + 1].tolist()])
            return units[len(rows)]

        try:
            end = sampler.sample_model(units[0], model, data, schedule, steps)
        except OverflowError:
            continue
        return [*rows, [0.0, 1.0, float(end[0]), end[1 : len(rows) + 1].tolist()]]
    return []


def tables(task: Table) -> Iterator[Table]:
    data = module("sampling.models").DataModel()
    levels = schedules(task["kind"], task["ends"], task["shift"])
    for nfe in task["nfe"]:
        for name, sampler in samplers().items():
            for of, schedule in levels.items():
                try:
                    found = states(sampler, schedule, nfe, data)
                except (ArithmeticError, ValueError):  # e.g. noise prediction from pure noise
                    continue
                if found and np.isfinite(np.concatenate([np.hstack(row) for row in found])).all():
                    yield dict(sampler=name, levels=of, nfe=nfe, states=found)


if __name__ == "__main__":
    print(json.dumps(list(tables(json.loads(Path(sys.argv[1]).read_text())))))
