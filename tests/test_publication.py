"""What a stranger meets before the pack runs: icon, forms, workflows, citation; and other systems, as far as they can be acted."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sampling_kit.dev import publication
from sampling_kit.nodes.ui.live_route import ROUTE
from sampling_kit.schedulers import whole_file

ROOT = Path(publication.__file__).resolve().parents[1]
PACKAGES = ("schedulers", "nodes", "headless", "doors", "v2", "embedded", "dev")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ----------------------------------------------------------------------------- the registry's page


def test_icon_and_banner_are_those_that_the_command_draws(tmp_path: Path):
    publication.main(["--folder", str(tmp_path)])
    for name, size in {"icon.png": (400, 400), "banner.png": (1260, 540)}.items():
        drawn, kept = (Image.open(folder / name) for folder in (tmp_path, ROOT / "docs"))
        assert drawn.size == kept.size == size
        gap = np.abs(np.asarray(drawn, dtype=int) - np.asarray(kept, dtype=int))
        assert gap.max() <= 2, "python -m sampling_kit.dev.publication"
        assert np.asarray(kept).std() > 30
        assert f"/docs/{name}" in text("pyproject.toml")


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_workflows_and_forms_can_be_read(path: Path):
    yaml = pytest.importorskip("yaml")
    facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        assert facts["permissions"] == {"contents": "read"}
        steps = [step for job in facts["jobs"].values() for step in job["steps"]]
        for command in re.findall(r"\.ci/\w+", str([step.get("run") for step in steps])):
            assert os.access(ROOT / command, os.X_OK), command
        for job in facts["jobs"].values():
            scripts = re.findall(r"\.ci/\w+", str([step.get("run") for step in job["steps"]]))
            if any("git rev-list" in text(script) for script in scripts):
                depth = [
                    s.get("with", {}).get("fetch-depth")
                    for s in job["steps"]
                    if "checkout" in s.get("uses", "")
                ]
                assert depth == [0], (
                    "a shallow checkout has one commit: every run would be one variant"
                )
    elif path.name != "config.yml":
        asked = [field for field in facts["body"] if field["type"] != "markdown"]
        assert {"name", "description"} <= facts.keys() and asked
        assert len({field["id"] for field in asked}) == len(asked)
        assert all(field["attributes"]["label"] for field in asked)


def test_the_citation_has_the_version_and_the_licence():
    yaml = pytest.importorskip("yaml")
    facts = yaml.safe_load(text("CITATION.cff"))
    for key in ("version", "license"):
        assert f'{key} = "{facts[key]}"' in text("pyproject.toml")
    assert facts["repository-code"] in text("pyproject.toml")


def test_the_readme_names_the_one_route():
    """A page of the host is reached by what nodes/host/comfy/route.py is told, and nothing else registers."""
    registering = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"routes\.(get|post|put|delete|static)\(|add_routes|router\.add_", path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert registering == [str(Path("nodes", "host", "comfy", "route.py"))]
    assert f"`POST {ROUTE}`" in text("README.md")


# ---------------------------------------------------------------------------------- other systems


def unnamed_encodings(path: Path) -> Iterator[str]:
    """Text that is read or written in the encoding of the system, which on Windows is not UTF-8."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")  # fmt: skip
        said = {keyword.arg for keyword in node.keywords}
        owner = getattr(getattr(node.func, "value", None), "id", "")
        modes = [ast.unparse(a) for a in node.args if isinstance(a, ast.Constant)]
        textual = name in ("read_text", "write_text") or (
            name == "open" and owner not in ("os", "Image") and not any("b" in mode for mode in modes)
        )  # fmt: skip
        if textual and "encoding" not in said and not (name == "read_text" and node.args):
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_text_is_utf8_on_every_system():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 300
    assert [line for path in files for line in unnamed_encodings(path)] == []


def test_names_of_files_are_names_on_every_system():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "-z"], text=True)
    paths = [path for path in listing.split("\0") if path]
    twice = [path for path, n in Counter(path.casefold() for path in paths).items() if n > 1]
    assert twice == [], "one file on Windows and macOS"
    for path in paths:
        assert re.fullmatch(r"[\w./+() -]+", path) and len(path) < 150, path
        for part in path.split("/"):
            reserved = PureWindowsPath(part).is_reserved() if hasattr(PureWindowsPath, "is_reserved") else False  # fmt: skip
            assert part[-1] not in ". " and not reserved, path


class Windows:
    """``os`` as Windows has it, where files are moved: no hard links, a rename never replaces, a folder is no file."""

    name = "nt"

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def rename(self, old: Path, new: Path) -> None:
        if os.path.lexists(new):
            raise FileExistsError(183, "Cannot create a file when that file already exists", str(new))  # fmt: skip
        os.rename(old, new)

    def link(self, *_: Any) -> None:
        raise AssertionError("hard links are not asked of Windows")

    def open(self, path: Path, *flags: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, *flags)


def test_files_are_written_whole_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whole_file, "os", Windows())
    file = tmp_path / "bücher.json"
    for content in ("α", "β"):  # the second replaces
        whole_file.write_whole(file, content)
        assert file.read_bytes() == content.encode()
    name = lambda n: f"picture_{n}.png"  # noqa: E731
    write = lambda part: part.write_bytes(b"x")  # noqa: E731
    assert [whole_file.write_new(tmp_path, name, 1, write) for _ in range(3)] == [1, 2, 3]
    with whole_file.whole_folder(tmp_path / "fit") as part:
        (part / "a.txt").write_bytes(b"a")
    moved = whole_file.put_aside(tmp_path / "fit", tmp_path / "aside")
    assert (moved / "a.txt").read_bytes() == b"a"
    for line in ("one", "zwölf"):
        whole_file.append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_bytes() == "one\nzwölf\n".encode()
    assert not list(tmp_path.glob(".*.part"))
