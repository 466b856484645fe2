"""How readable the templates are: each opened in a real ComfyUI page, in both renderers.

    python -m benchmarks.ux [--url URL] [--run] [--only classic|nodes2] [template ...]

Prints for every template the zoom at opening, pairs of links that cross, links behind a foreign node, nodes that overlap
(with ``--run``: after a run) and sheets without labels, beside their bars (tests/browser/ux.mjs). Without ``--url`` it starts
the ComfyUI that the host tests find. Needs node, playwright-core and chromium.
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


def measure(url: str, arguments: list[str]) -> int:
    """The exit code of the script that measures, which prints its table."""
    return subprocess.call(["node", str(TESTS / "browser" / "ux.mjs"), "--url", url, *arguments])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--url")
    options, rest = parser.parse_known_args()
    if options.url:
        sys.exit(measure(options.url, rest))
    with server() as url:
        code = measure(url, rest)
    sys.exit(code)


if __name__ == "__main__":
    main()
