"""What an installation gets: the registry's archive, and the packages that it needs."""

import io
import re
import subprocess
import zipfile
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from sampling_kit.headless import __file__ as anywhere

ROOT = Path(anywhere).resolve().parents[1]
LARGEST = 15 * 2**20  # bytes of the archive

#: In the archive: what runs, what the page shows, and what its reader is promised.
IN = (
    "__init__.py", "api.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md",
    "nodes", "schedulers", "doors", "v2", "headless", "web", "locales", "embedded", "example_workflows", "subgraphs", "docs",
)  # fmt: skip
#: Never in it. A room for developers that is new or renamed is found by the comparison below.
OUT = ("tests", "benchmarks", "dev", ".ci", ".github", ".gitattributes", ".gitignore", ".pre-commit-config.yaml", "CITATION.cff", "CONTRIBUTING.md", "eslint.config.js", "package.json", "constraints.txt", ".comfyignore")  # fmt: skip


@cache
def tracked() -> tuple[str, ...]:
    """What git knows, as comfy-cli asks it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: comfy-cli packs what git tracks")
    listing = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "-z"], text=True)
    return tuple(path for path in listing.split("\0") if path and (ROOT / path).is_file())


def patterns() -> list[str]:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def ignored(path: str) -> bool:
    """gitignore's rule for the two forms the file uses: /folder/, and /name with * inside one folder."""
    for pattern in patterns():
        name = pattern[1:]
        if name.endswith("/"):
            if path.startswith(name):
                return True
        elif path.count("/") == name.count("/") and fnmatchcase(path, name):
            return True
    return False


@cache
def archive() -> tuple[str, ...]:
    """The files that `comfy node pack` would put in."""
    return tuple(path for path in tracked() if not ignored(path))


def top(paths: tuple[str, ...]) -> set[str]:
    return {path.split("/")[0] for path in paths}


def test_the_patterns_keep_to_two_forms_and_each_leaves_something_out():
    """Anything else (negation, **, unanchored names) would need gitignore's whole rule here."""
    for pattern in patterns():
        assert re.fullmatch(r"/[\w.-]+/?|/[\w.-]+/[\w.*-]+", pattern), pattern
        name = pattern[1:]
        hit = [p for p in tracked() if p.startswith(name) or fnmatchcase(p, name)]
        assert hit, f"{pattern} leaves nothing out"


def test_git_reads_the_patterns_alike(tmp_path):
    """git's own gitignore, on the same names."""
    subprocess.check_call(["git", "init", "-q", str(tmp_path)])
    (tmp_path / ".git" / "info" / "exclude").write_text("\n".join(patterns()), encoding="utf-8")
    names = "\0".join(tracked())
    command = ["git", "-C", str(tmp_path), "check-ignore", "-z", "--stdin", "--no-index"]
    done = subprocess.run(command, input=names, capture_output=True, text=True)
    left_out = {path for path in done.stdout.split("\0") if path}
    assert left_out == set(tracked()) - set(archive())


def test_the_archive_holds_what_runs_and_nothing_of_the_workshop():
    assert top(archive()) == set(IN), "name a new folder in .comfyignore, or in IN here"
    assert not top(archive()) & set(OUT)
    assert [path for path in archive() if path.startswith("docs/") and path.endswith(".png")] == []
    assert not [path for path in archive() if Path(path).name.startswith("test_")]
    for path in (
        "embedded/weights/network.safetensors",
        "web/js/sampling_kit.js",
        "docs/solvers.md",
    ):
        assert path in archive()


def test_the_archive_is_small():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in archive():
            file.write(ROOT / path, path)
    assert packed.tell() <= LARGEST, f"{packed.tell() / 2**20:.1f} MiB"


def table(name: str) -> str:
    """The text of a list in pyproject.toml (3.10 has no tomllib)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_every_package_of_the_wheel_is_in_the_archive():
    """Else `pip install` of an archive fails: package directory does not exist."""
    for package in re.findall(r'"([\w.]+)"', table("packages")):
        folder = "/".join(package.split(".")[1:])
        assert f"{folder}/__init__.py".lstrip("/") in archive(), package


def test_every_package_of_the_archive_is_in_the_wheel():
    """Else `pip install` gives a package that cannot be imported."""
    rooms = {path.rpartition("/")[0] for path in archive() if path.endswith("/__init__.py")}
    named = {
        p.partition(".")[2].replace(".", "/") for p in re.findall(r'"([\w.]+)"', table("packages"))
    }
    assert rooms - named == set()


def test_requirements_are_those_of_pyproject():
    """A clone and the Manager read requirements.txt, pip and the registry pyproject.toml: one installation."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert required == re.findall(r'"([^"]+)"', table("dependencies")) == ["matplotlib>=3.8"]
