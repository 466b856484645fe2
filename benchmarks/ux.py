"""How readable the templates are: each opened in a real ComfyUI page, in both renderers.

    python -m benchmarks.ux [--url URL] [--run] [--only classic|nodes2] [template ...]
    python -m benchmarks.ux --frames [--url URL] [--only classic|nodes2] [--nodes 30]

Prints for every template the zoom at opening, pairs of links that cross, links behind a foreign node, nodes that overlap
(with ``--run``: after a run) and sheets without labels, beside their bars (tests/browser/ux.mjs). Without ``--url`` it starts
the ComfyUI that the host tests find. ``--frames``: frames a second with 30 Schedule Editors on the canvas, beside 30 of ComfyUI's
KarrasScheduler in the same page (tests/browser/frames.mjs). Needs node, playwright-core and chromium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--url")
    parser.add_argument("--frames", action="store_true")
    options, rest = parser.parse_known_args()
    script = "frames.mjs" if options.frames else "ux.mjs"
    if options.url:
        sys.exit(measure(options.url, script, rest))
    with server() as url:
        code = measure(url, script, rest)
    sys.exit(code)


if __name__ == "__main__":
    main()
