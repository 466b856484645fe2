"""How long importing the pack takes in a process that already has torch and numpy.

    python -m benchmarks.import_time [--json]

Each run is a fresh Python; the bar is 0.3 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

MODULES = ("sampling_kit.nodes", "sampling_kit.headless.core")
CODE = """
import time, torch, numpy
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def seconds(module: str, runs: int = 5) -> list[float]:
    """Seconds of ``import module`` after torch, once per fresh process."""
    command = [sys.executable, "-c", CODE.format(module=module)]
    return [
        float(subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout)
        for _ in range(runs)
    ]


def main() -> None:
    rows = {}
    for module in MODULES:
        times = seconds(module)
        rows[module] = {"median": statistics.median(times), "max": max(times)}
    if "--json" in sys.argv[1:]:
        print(json.dumps(rows))
        return
    for module, row in rows.items():
        print(f"{module}: median {row['median']:.3f} s, max {row['max']:.3f} s (bar 0.300 s)")


if __name__ == "__main__":
    main()
