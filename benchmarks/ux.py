"""How readable the templates are: each opened in a real ComfyUI page, in both renderers.

    python -m benchmarks.ux [--url URL] [--run [--steps N]] [--only classic|nodes2] [template ...]
    python -m benchmarks.ux --page FILE        # writes docs/readable.md from what --json FILE has kept
    python -m benchmarks.ux --frames [--url URL] [--only classic|nodes2] [--nodes 30]

Prints for every template the zoom at opening, pairs of links that cross, links behind a foreign node, nodes that overlap
(with ``--run``: also after a run) and sheets without labels, beside their bars (tests/browser/ux.mjs). Without ``--url`` it starts
the ComfyUI that the host tests find. ``--json FILE`` keeps the numbers. ``--frames``: frames a second with 30 Schedule Editors on the canvas, beside 30 of ComfyUI's
KarrasScheduler in the same page (tests/browser/frames.mjs). Needs node, playwright-core and chromium.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]
TESTS = PACK / "tests"
PAGE = PACK / "docs" / "readable.md"
COLUMNS = ("crossings", "behind", "overlaps", "unlabelled", "after")
HEAD = """# How readable the templates are

Written by `python -m benchmarks.ux --page`. Every template was opened in ComfyUI's page at 1920 × 1080, in both renderers.
Zoom: at opening, which each template says itself; below {zoom:.2f} the classic canvas draws no text. Crossings: pairs of links of different outputs. Behind: links
behind a node that is not theirs. Overlaps: pairs of nodes. Unlabelled: sheets of several batches without labels. After: pairs of nodes
that overlap after a run, where one was made. Two numbers: classic canvas, Nodes 2.0. Bars: {bars}. What is over its bar is **bold**.

| template | zoom | crossings | behind | overlaps | unlabelled | after |
|---|---|---|---|---|---|---|
"""


@contextmanager
def server() -> Iterator[str]:
    """The address of a ComfyUI of its own. Raises RuntimeError where there is none to start."""
    sys.path.insert(0, str(TESTS))
    host_server = import_module("host_server")
    root = host_server.find_root()
    python = root and host_server.find_python(root)
    if root is None or python is None:
        raise RuntimeError("no ComfyUI: set COMFYUI_PATH to its folder, or give --url")
    with tempfile.TemporaryDirectory() as folder:
        base, port = host_server.linked(Path(folder)), host_server.free_port()
        running = host_server.start(host_server.Comfy(root, python), base, port)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            running.stop()


def measure(url: str, script: str, arguments: list[str]) -> int:
    """The exit code of the script that measures, which prints its table."""
    return subprocess.call(["node", str(TESTS / "browser" / script), "--url", url, *arguments])


def cell(name: str, values: list[float], bars: dict[str, float]) -> str:
    """One number where the renderers agree, else one of each, a dash where there is none; bold over the bar."""
    if not values:
        return "–"
    shown = list(dict.fromkeys(f"{v:.2f}" if name == "zoom" else str(v) for v in values))
    over = any(v < bars[name] if name == "zoom" else v > bars[name] for v in values)
    return f"**{', '.join(shown)}**" if over else ", ".join(shown)


def page(facts: dict[str, Any]) -> str:
    """docs/readable.md from the numbers that ux.mjs kept."""
    bars, renderers = facts["bars"], list(facts["renderers"].values())
    said = ", ".join(f"{name} {bars[name]}" for name in COLUMNS)
    lines, met = [], 0
    for stem in renderers[0]:
        seen = [renderer[stem] for renderer in renderers if stem in renderer]
        numbers = {name: [one[name] for one in seen if one[name] is not None] for name in bars}
        cells = [cell(name, numbers[name], bars) for name in ("zoom", *COLUMNS)]
        met += not any("**" in text for text in cells)
        where = "" if len(seen) == len(renderers) else " (classic canvas only)"
        lines.append(f"| `{stem}`{where} | {' | '.join(cells)} |")
    head = HEAD.format(zoom=bars["zoom"], bars=said)
    return f"{head}{chr(10).join(lines)}\n\n{met} of {len(lines)} templates are within every bar.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--url")
    parser.add_argument("--frames", action="store_true")
    parser.add_argument("--page", type=Path)
    options, rest = parser.parse_known_args()
    if options.page:
        PAGE.write_text(page(json.loads(options.page.read_text())), encoding="utf-8")
        return
    script = "frames.mjs" if options.frames else "ux.mjs"
    if options.url:
        sys.exit(measure(options.url, script, rest))
    with server() as url:
        code = measure(url, script, rest)
    sys.exit(code)


if __name__ == "__main__":
    main()
