"""Every file of the pack comes through the one writer, whole_file: no other place opens one to write."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import trees

PACK = Path(__file__).resolve().parents[1]
FREE = {"part", "scratch"}  # names of what may be written to
ROOMS = "schedulers", "nodes", "headless", "embedded"
WRITER = "schedulers/whole_file.py"
#: Calls that write to the path they are called on, or are given first.
ON_PATH = {"write_text", "write_bytes", "touch", "rename", "hardlink_to", "symlink_to"}
TO_PATH = {"save", "savefig", "imsave", "save_file", "savetxt", "savez", "tofile"}
OS = {"rename", "replace", "renames", "link", "truncate", "open", "fdopen", "mkfifo"}
SHUTIL = {"copy", "copy2", "copyfile", "copytree", "move"}
MODES = set("wax+")


def name_of(node: ast.expr) -> str:
    """The name an expression starts with: part for ``part / "a"`` and ``(part / name).parent``."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Path", "File") and node.args:
            node = node.args[0]
            continue
        inner = next(
            (getattr(node, at) for at in ("value", "left", "func") if hasattr(node, at)), None
        )
        if not isinstance(inner, ast.expr):
            return ""
        node = inner
    return node.id


def mode_of(call: ast.Call, place: int) -> str:
    """The mode of an open call; "w" if it is not a plain text."""
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else "w"


def writes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, call) of everything that writes a file itself; what goes to a ``part`` is the writer's, and a ``scratch`` folder
    is a temporary one that goes after use."""
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        shown = ast.unparse(call)[:80]
        if isinstance(call.func, ast.Name):
            if (call.func.id == "open" and MODES & set(mode_of(call, 1))) or (
                call.func.id == "save_file" and "part" not in map(name_of, call.args)
            ):
                yield call.lineno, shown
            continue
        if not isinstance(call.func, ast.Attribute):
            continue
        owner, verb = name_of(call.func.value), call.func.attr
        if owner in FREE:
            continue
        if owner == "os":
            if verb in OS:
                yield call.lineno, shown
        elif owner == "shutil":
            if verb in SHUTIL and name_of(call.args[1]) not in FREE:
                yield call.lineno, shown
        elif verb == "open" and owner not in ("Image", "io"):
            if MODES & set(mode_of(call, 0)):
                yield call.lineno, shown
        elif verb in ON_PATH or (verb in TO_PATH and to_a_file(call)):
            yield call.lineno, shown


def to_a_file(call: ast.Call) -> bool:
    """Whether a save call gets a path that is not the writer's: not ``part``, no buffer, not the fits' own writer."""
    assert isinstance(call.func, ast.Attribute)
    owner = name_of(call.func.value)
    targets = {name_of(argument) for argument in call.args}
    return owner not in MODULES and not targets & {"part", "data", "out", "buffer"}


#: Modules of the pack whose ``save`` goes through the writer.
MODULES = {"store", "gradient", "predictor", "fit_files", "way"}

FILES = [
    file.relative_to(PACK).as_posix()
    for room in ROOMS
    for file in sorted((PACK / room).rglob("*.py"))
    if file.relative_to(PACK).as_posix() != WRITER
]


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_writes_but_the_writer(room):
    bad = [
        f"{file}:{line}: {shown}"
        for file in FILES
        if file.startswith(room + "/")
        for line, shown in writes(trees.tree(PACK / file))
    ]
    assert not bad, "use schedulers.whole_file:\n" + "\n".join(bad)


def test_a_scratch_folder_is_a_temporary_one():
    for file in FILES:
        text = (PACK / file).read_text(encoding="utf-8")
        for line in (line.strip() for line in text.splitlines() if "scratch" in line):
            if line.startswith("with ") and "as scratch" in line:
                assert "TemporaryDirectory(" in line, f"{file}: {line}"
            assert not line.startswith("scratch ="), f"{file}: {line}"


@pytest.mark.parametrize(
    "text",
    [
        "open(f, 'w')", "open(f, mode='ab')", "open(f, how)", "f.open('xb')", "f.write_text('')", "f.write_bytes(b'')",
        "(f / 'a').write_bytes(b'')", "picture.save(f)", "Image.fromarray(x).save(f)", "plt.savefig(f)",
        "figure.savefig('a.png')", "save_file(t, f)", "os.rename(a, b)", "os.replace(a, b)", "os.open(a, 1)",
        "shutil.move(a, b)", "shutil.copy(scratch, b)", "f.rename(g)", "f.touch()", "f.open('r+b')",
    ],
)  # fmt: skip
def test_what_writes_is_seen(text):
    assert list(writes(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "(Path(scratch) / name).write_text('')", "shutil.copyfile(a, Path(scratch) / name)", "open(f)", "f.open('rb')", "part.write_bytes(b'')", "(part / name).write_bytes(b'')", "picture.save(part, 'PNG')",
        "picture.save(out, 'PNG')", "store.save(f, fits)", "Image.open(f)", "save_file(t, part)", "name.replace('a', 'b')",
        "replace(context, a=1)", "part.open('xb')",
    ],
)  # fmt: skip
def test_what_does_not_write_is_not(text):
    assert not list(writes(ast.parse(text)))
