"""The page's JavaScript: its unit tests and its linter, where Node.js and eslint are installed."""

import shutil
import subprocess
from pathlib import Path

from needs import missing

ROOT = Path(__file__).resolve().parent.parent


def ran(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def node() -> str:
    if (path := shutil.which("node")) is None:
        missing("eslint", "no node: install Node.js 20 or later")
    return path


def test_the_unit_tests_pass() -> None:
    ran(node(), "--test", *map(str, sorted((ROOT / "tests" / "js").glob("*.test.mjs"))))


def test_eslint_finds_nothing() -> None:
    if not (eslint := ROOT / "node_modules" / "eslint" / "bin" / "eslint.js").exists():
        missing("eslint", "no eslint: npm install")
    ran(node(), str(eslint), ".")
