"""A folder that looks like a ComfyUI: its main.py serves tests/fake_comfy.py, or does what else a test wants."""

from __future__ import annotations

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SERVES = """
import asyncio, json, os, runpy, subprocess, sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from aiohttp import web
from fake_comfy import Fake

options = dict(a[2:].split("=", 1) if "=" in a else (a[2:], "") for a in sys.argv[1:])
here = Path(__file__).parent
extra = json.loads(Path(options["extra-model-paths-config"]).read_text())
nodes = Path(extra["sampling_kit"]["custom_nodes"])
runpy.run_path(str(nodes / "stop_with_parent.py"))
facts = dict(pid=os.getpid(), options=options, extra=extra, nodes=sorted(os.listdir(nodes)), cwd=os.getcwd())
(here / "seen.json").write_text(json.dumps(facts))
{more}
async def serve():
    fake = Fake(pace={pace})
    fake.nodes = json.loads((here / "object_info.json").read_text())
    fake.argv = sys.argv
    await fake.start(int(options["port"]))
    await asyncio.sleep(600)

asyncio.run(serve())
"""


def installation(folder: Path, nodes: object, more: str = "", pace: float = 0.01) -> Path:
    """Write it. ``nodes``: its /object_info; ``more``: Python that runs before it serves."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / "main.py").write_text(SERVES.format(tests=str(TESTS), more=more, pace=pace))
    (folder / "nodes.py").write_text("")
    (folder / "object_info.json").write_text(json.dumps(nodes))
    return folder


def seen(folder: Path) -> dict:
    """What its main.py was started with."""
    return json.loads((folder / "seen.json").read_text())
