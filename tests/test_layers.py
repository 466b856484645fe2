"""Who may import whom, and what the pack must not do (DESIGN §4)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    p
    for d in ("schedulers", "nodes", "headless", "embedded", "benchmarks", "dev")
    for p in sorted((ROOT / d).rglob("*.py"))
]
CODE += [ROOT / "__init__.py"]
named = dict(ids=lambda p: str(p.relative_to(ROOT)))


def imports(path, top_level=False):
    """(module or relative target, level) of every import statement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


@pytest.mark.parametrize(
    "path", [p for p in CODE if p.is_relative_to(ROOT / "schedulers")], **named
)
def test_the_engine_imports_torch_and_numpy_only(path):
    depth = len(path.relative_to(ROOT / "schedulers").parts)
    for module, level in imports(path, top_level=True):
        if level == 0:
            assert module.split(".")[0] in {*sys.stdlib_module_names, "torch", "numpy"}
    for module, level in imports(path):
        assert level <= depth, f"{path} imports upward: {'.' * level}{module}"
        assert not module.startswith("comfy")


@pytest.mark.parametrize("path", CODE, **named)
def test_only_the_comfy_files_import_the_host(path):
    if path.parent != ROOT / "nodes" / "host" / "comfy":
        assert not [
            m
            for m, level in imports(path)
            if level == 0
            and m.split(".")[0].startswith(("comfy", "folder_paths"))
            and m.split(".")[0] != "comfy_cli"  # a tool of its own, which converts workflows
        ]


@pytest.mark.parametrize("path", [p for p in CODE if p.is_relative_to(ROOT / "nodes")], **named)
def test_nodes_do_not_import_the_runner(path):
    assert not [m for m, level in imports(path) if level and m.startswith("headless")]


@pytest.mark.parametrize("path", CODE, **named)
def test_only_show_imports_matplotlib(path):
    if not path.is_relative_to(ROOT / "schedulers" / "show"):
        assert not [m for m, _ in imports(path) if m.split(".")[0] == "matplotlib"]


@pytest.mark.parametrize(
    "path", [p for p in CODE if p.is_relative_to(ROOT / "schedulers" / "measure")], **named
)
def test_what_measures_does_not_draw(path):
    assert not [m for m, level in imports(path) if level and m.split(".")[0] == "show"]


#: File names that a tree still holds twice.
TWINS = {
    "schedulers": {"amed.py", "base.py"},
    "nodes": {"fit_field.py", "guider.py", "model.py", "places.py", "sampler.py", "traced.py"},
    "headless": {"run.py"},
}


@pytest.mark.parametrize("tree", sorted(TWINS))
def test_a_file_name_says_which_file(tree):
    names = [p.name for p in CODE if p.is_relative_to(ROOT / tree) and p.name != "__init__.py"]
    assert {name for name in names if names.count(name) > 1} == TWINS[tree]


def test_importing_the_pack_loads_neither_diffusers_nor_plots():
    code = "import sys, sampling_kit.nodes, sampling_kit.headless.core as c; print(sorted({'diffusers','matplotlib','scipy','comfy'} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert out.stdout.strip() == "[]"
