"""Brings everything that is generated up to date: one command after every addition.

python -m sampling_kit.dev.sync                     # write
python -m sampling_kit.dev.sync --check             # write nothing, say what is stale; exit code 1 if anything is
python -m sampling_kit.dev.sync --check --release   # and what is not translated or not written yet

Translations, help pages and their skeleton, the tables of docs/nodes.md and docs/templates.md, the snapshots of the nodes'
interface and of the public names, docs/families.md, the additions in CHANGELOG.md, and the rows that docs/solvers.md lacks (rows it has are not measured again:
``python -m benchmarks.solver_table --write`` measures all).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from ..benchmarks import solver_table
from ..nodes import NODES
from . import family_table, help_pages, interface, locales, page_tables, public_names
from .translations import LANGUAGES, ROOT

HELP = ROOT / "en" / "help.json"
CHANGELOG = interface.ROOT / "CHANGELOG.md"


def help_skeleton(text: str) -> str:
    """help.json with an empty entry for every node that has none, and without those of nodes that are gone."""
    texts = json.loads(text)
    entries = {id: texts.get(id, {"when": ""}) for id in _ids()}
    if entries.keys() == texts.keys():
        return text
    ordered = {id: texts[id] for id in texts if id in entries} | entries
    return json.dumps(ordered, ensure_ascii=False, indent=1) + "\n"


def _ids() -> list[str]:
    return [node.define_schema().node_id for node in NODES]


def generated() -> dict[Path, str]:
    """Every generated file and its text, but for docs/solvers.md, whose numbers take time."""
    return {
        HELP: help_skeleton(HELP.read_text(encoding="utf-8")),
        **page_tables.pages(),
        **interface_files(),
        public_names.FILE: public_names.text(public_names.names()),
        family_table.PAGE: family_table.page(),
        **locales.files(),
        **help_pages.pages(),
    }


def interface_files() -> dict[Path, str]:
    """The snapshot, and CHANGELOG.md with what came since the last frozen version."""
    now, version = interface.interface(), interface.versions()[-1]
    since = interface.changes(interface.frozen(version), now)
    changelog = CHANGELOG.read_text(encoding="utf-8")
    return {
        interface.CURRENT: interface.text(now),
        CHANGELOG: interface.with_additions(changelog, since, version),
    }


def leftovers(texts: Mapping[Path, str]) -> list[Path]:
    """Help pages that are not among the generated files: their nodes are gone."""
    return sorted(set(help_pages.FOLDER.rglob("*.md")) - texts.keys())


def stale() -> list[str]:
    """A line per file that is not what would be written."""
    texts = generated()
    lines = [_name(path) for path, text in texts.items() if _read(path) != text]
    lines += [f"{_name(path)}: no node has this page" for path in leftovers(texts)]
    page = _read(solver_table.PAGE)
    measured = solver_table.read(page)
    if rows := solver_table.missing(measured):
        return [*lines, *(f"{_name(solver_table.PAGE)}: no row for {solver!r}" for solver in rows)]
    return [*lines, *([_name(solver_table.PAGE)] if solver_table.page(measured) != page else [])]


def unfinished() -> list[str]:
    """What a release needs and work in between does not: every text translated, every node's help written."""
    texts = help_pages.help_texts()
    unsaid = [id for id in _ids() if id not in texts or not texts[id].when]
    lines = [f'{_name(HELP)}: {id}: say in "when" when to use the node' for id in unsaid]
    return lines + [line for language in LANGUAGES for line in locales.problems(language)]


def write() -> list[str]:
    """Writes what is stale, and returns the names of the files it changed."""
    texts = generated()
    page = _read(solver_table.PAGE)
    texts[solver_table.PAGE] = solver_table.updated(page)
    changed = [path for path, text in texts.items() if _read(path) != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path], encoding="utf-8")
    gone = leftovers(texts)
    for path in gone:
        path.unlink()
    return [_name(path) for path in (*changed, *gone)]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _name(path: Path) -> str:
    return path.relative_to(help_pages.PACK).as_posix()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sampling_kit.dev.sync", description="Write what is generated."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    parser.add_argument(
        "--release", action="store_true", help="say what is not translated yet, too"
    )
    options = parser.parse_args()
    if options.check:
        lines = [f"stale: {line}" for line in stale()]
    else:
        sys.stdout.writelines(f"written: {name}\n" for name in write())
        lines = []
    if options.release:
        lines += [f"unfinished: {line}" for line in unfinished()]
    sys.stdout.writelines(f"{line}\n" for line in lines or ["everything is in step"])
    if any(line.startswith("stale") for line in lines):
        sys.stdout.write("run: python -m sampling_kit.dev.sync\n")
    raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
