"""Who may import whom, and what the pack must not do (DESIGN §4)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import trees

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    p
    for d in ("schedulers", "doors", "v2", "nodes", "headless", "embedded", "benchmarks", "dev")
    for p in sorted((ROOT / d).rglob("*.py"))
]
CODE += [ROOT / "__init__.py", ROOT / "api.py"]


def imports(path, top_level=False):
    """(module or relative target, level) of every import statement."""
    for node in trees.tree(path).body if top_level else trees.nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def inside(*parts):
    """The files under a folder of the repository."""
    return [p for p in CODE if p.is_relative_to(ROOT.joinpath(*parts))]


def importing(paths, wrong, **how):
    """What ``wrong(module, level)`` says no to, as "file: module"."""
    return [
        f"{p.relative_to(ROOT)}: {'.' * level}{module}"
        for p in paths
        for module, level in imports(p, **how)
        if wrong(module, level)
    ]


def root_of(module):
    return module.split(".")[0]


def test_the_engine_imports_torch_and_numpy_only():
    engine = inside("schedulers")
    known = {*sys.stdlib_module_names, "torch", "numpy"}
    assert len(engine) > 50
    assert not importing(engine, lambda m, level: not level and root_of(m) not in known, top_level=True)  # fmt: skip
    assert not importing(engine, lambda m, level: m.startswith("comfy"))
    for path in engine:
        depth = len(path.relative_to(ROOT / "schedulers").parts)
        assert not importing([path], lambda m, level, depth=depth: level > depth), "imports upward"


def test_only_the_comfy_files_import_the_host():
    comfy = inside("nodes", "host", "comfy")

    def host(module, level):
        return not level and root_of(module).startswith(("comfy", "folder_paths"))

    assert importing(comfy, host)
    assert not importing([p for p in CODE if p not in comfy], host)


def test_nodes_do_not_import_the_runner():
    assert not importing(inside("nodes"), lambda m, level: level and m.startswith("headless"))


def test_only_show_imports_matplotlib():
    show = inside("schedulers", "show")
    others = [p for p in CODE if p not in show]
    assert importing(show, lambda m, level: root_of(m) == "matplotlib")
    assert not importing(others, lambda m, level: root_of(m) == "matplotlib")


def test_what_measures_does_not_draw():
    measure = inside("schedulers", "measure")
    assert measure and not importing(measure, lambda m, level: level and root_of(m) == "show")


#: File names that a tree still holds twice.
TWINS = {
    "schedulers": {"base.py"},
    "nodes": {
        "fit_field.py",
        "guider.py",
        "models.py",
        "places.py",
        "runs.py",
        "sampler.py",
        "traced.py",
    },
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


# ------------------------------------------------------------------------------- import chains

NODES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in CODE
    if p.is_relative_to(ROOT / "nodes")
}


def at_run_time(node):
    """Everything below an AST node but what stands in ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            children = child.orelse
        else:
            children = [child]
        for kept in children:
            yield kept
            yield from at_run_time(kept)


def imported(name, path):
    """The modules of nodes/ that one imports, inside functions too."""
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in at_run_time(trees.tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = ".".join(here[: len(here) - node.level + 1] + (node.module or "").split("."))
            target = target.rstrip(".")
            for alias in node.names:
                found = f"{target}.{alias.name}"
                yield found if found in NODES else target


def longest_chain(graph):
    """The most modules that import one another in a row."""
    known = {}

    def chain(name):
        if name not in known:
            known[name] = (name, *max(map(chain, graph[name]), key=len, default=()))
        return known[name]

    return max(map(chain, graph), key=len)


def test_the_longest_import_chain_inside_nodes_is_five():
    graph = {n: {m for m in imported(n, p) if m in NODES and m != n} for n, p in NODES.items()}
    assert graph["nodes.ui.inputs"] == {"nodes.host"}
    assert "nodes.host.comfy.perturb" in graph["nodes.host.comfy.guider"]  # inside a function
    assert "nodes.host.protocol" not in graph["nodes.host"]  # for the type checker only
    assert len(longest_chain(graph)) <= 5, longest_chain(graph)


def test_no_import_inside_nodes_hides_behind_a_string():
    """But for the rooms, which ``nodes/__init__.py`` goes through."""
    texts = {p: p.read_text(encoding="utf-8") for p in NODES.values()}
    hiding = [p for p, text in texts.items() if "import_module" in text or "__import__" in text]
    assert hiding == [ROOT / "nodes" / "__init__.py"]


# ------------------------------------------------------------------------------- sizes

LINES = 450  # of a file at most
BODY = 60  # of a function at most, its decorators aside
#: Folders of what others, or ``dev.sync``, write.
NOT_OURS = {"node_modules", "locales", "docs"}
#: Longer functions, with their lines. No file of the pack itself has one; these may shrink, and then leave.
LONG = {
    "tests/test_properties.py::graphs": 67,
    "tests/test_state_files.py::test_two_processes_draw_what_one_draws": 81,
}


def scripts(folder):
    """Every file of Python and JavaScript below a folder, but hidden and generated ones."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in NOT_OURS or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from scripts(path)
        elif path.suffix in {".py", ".js", ".mjs"}:
            yield path


def too_long(folder, most=LINES):
    """Its files of more lines than ``most``, as "file: lines"."""
    counts = {p: len(p.read_bytes().splitlines()) for p in scripts(folder)}
    return [f"{p.relative_to(folder)}: {n}" for p, n in counts.items() if n > most]


def holds_functions(node):
    return isinstance(node, ast.stmt | ast.excepthandler | ast.match_case)


def long_functions(module, most=BODY):
    """name → lines, of the functions that are longer; a method under its class's name."""

    def walk(node, prefix):
        for child in filter(holds_functions, ast.iter_child_nodes(node)):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                lines = child.end_lineno - child.lineno + 1
                if not isinstance(child, ast.ClassDef) and lines > most:
                    yield name, lines
                name += "."
            yield from walk(child, name)

    return dict(walk(module, ""))


def test_no_file_is_longer_than_450_lines():
    assert len(list(scripts(ROOT))) > 300
    assert {p.suffix for p in scripts(ROOT)} == {".py", ".js", ".mjs"}
    assert not too_long(ROOT)


def test_no_function_is_longer_than_60_lines():
    long = {
        f"{p.relative_to(ROOT).as_posix()}::{name}": lines
        for p in scripts(ROOT)
        if p.suffix == ".py"
        for name, lines in long_functions(trees.tree(p)).items()
    }
    assert long == LONG


def test_long_files_and_functions_are_seen(tmp_path):
    for name, lines in {"a/b.mjs": 451, "a/c.py": 450, "locales/d.js": 451, ".e/f.py": 451}.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("x\n" * lines)
    assert too_long(tmp_path) == ["a/b.mjs: 451"]
    body = ["        x = 1\n"] * 60
    text = "".join(["class A:\n    def b(self):\n", *body, "    async def c(self):\n", *body[1:]])
    assert long_functions(ast.parse(text)) == {"A.b": 61}
