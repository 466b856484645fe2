"""What guidance did during a run, from ``GuidanceRun.report()``: totals and a table over the evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..counts import counted
from ..text_table import text_table

Report = Mapping[str, Any]
Row = Mapping[str, Any]

#: Key of a report's row → title of its plot.
MEASURES = {
    "delta": "‖Δ‖ = ‖D_c − D_u‖",
    "cosine": "cos(D_c, D_u)",
    "effective_weight": "effective weight ⟨D − D_u, Δ⟩/‖Δ‖²",
}


def text(report: Report) -> str:
    """The totals in a sentence, and a row per evaluation; values are means over the images."""
    header = ("evaluation", "step", "σ", "calls", "skipped", "‖Δ‖", "cos", "weight")
    rows = [
        (
            str(i), row["step"], row["sigma"], _names(row["calls"]), ", ".join(row["skipped"]) or None,
            *(mean(row[key]) for key in MEASURES),
        )
        for i, row in enumerate(report["steps"])
    ]  # fmt: skip
    return "\n".join((summary(report), "", text_table(header, rows)))


def summary(report: Report) -> str:
    """Network calls made and saved."""
    calls = _names(report["calls"], always=True)
    more = f"; {counted(n, 'image')} shared" if (n := report["shared_images"]) else ""
    return (
        f"{counted(report['network_calls'], 'network call')} in {counted(report['evaluations'], 'evaluation')} ({calls}), "
        f"{report['saved_calls']} saved{more}"
    )


def _names(calls: Mapping[str, int], always: bool = False) -> str:
    return ", ".join(f"{n} {k}" if k > 1 or always else n for n, k in calls.items()) or "none"


def mean(values: Sequence[float | None] | None) -> float | None:
    """The mean of what is there."""
    there = [v for v in values or () if v is not None]
    return sum(there) / len(there) if there else None
