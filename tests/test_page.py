"""The page's JavaScript: its unit tests and its linter, where Node.js and eslint are installed."""

import re
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


def test_texts_reach_the_page_as_texts() -> None:
    """No way of making elements from text: a title or a name in a workflow stays a text."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc|\beval\(|new Function|javascript:|setHTML"
    for file in sorted((ROOT / "web" / "js").glob("*.js")):
        found = re.search(ways, file.read_text(encoding="utf-8"))
        assert found is None, f"{file.name}: {found and found[0]}"
