"""Tables of docs/nodes.md and docs/templates.md: the rows between ``<!-- sync: … -->`` and ``<!-- /sync -->``.

The rows come from the nodes, the spacings and the templates. What a row says in its other cells may be written by
hand: it is kept, and only a node or template without a row gets one, from its schema or the title of its note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..nodes import NODES
from ..schedulers import spacing

PACK = Path(__file__).resolve().parent.parent
NODES_PAGE = PACK / "docs" / "nodes.md"
TEMPLATES_PAGES = tuple(PACK / "docs" / f"{name}.md" for name in ("templates", "templates-zh"))
TEMPLATES = PACK / "example_workflows"
SOLVERS = "Sampling Kit/solver"


def pages() -> dict[Path, str]:
    """The pages with their tables brought up to date. Raises ValueError if a table's markers are missing."""
    return {
        NODES_PAGE: nodes_page(NODES_PAGE.read_text(encoding="utf-8")),
        **{page: templates_page(page.read_text(encoding="utf-8")) for page in TEMPLATES_PAGES},
    }


def nodes_page(text: str) -> str:
    """``text`` with its three tables in step with the nodes and spacings."""
    schemas = [node.define_schema() for node in NODES]
    solvers = [schema for schema in schemas if schema.category == SOLVERS]
    others = [schema for schema in schemas if schema.category != SOLVERS]
    spacings = [_spacing_row(kind) for kind in spacing.ALL.values()]
    written = _written(text)
    text = _between(text, "nodes", [_node_row(schema, written) for schema in others])
    text = _between(text, "solvers", [_node_row(schema, written) for schema in solvers])
    return _between(text, "spacings", spacings)


def templates_page(text: str) -> str:
    """``text`` with a row for every template: the rows there are in their order, then those that lack."""
    written = _written(text)
    stems = sorted(path.stem for path in (TEMPLATES / "api").glob("*.json"))
    rows = [row for cell, row in written.items() if cell.strip("`") in stems]
    rows += [_template_row(stem) for stem in stems if f"`{stem}`" not in written]
    return _between(text, "templates", rows)


def _written(text: str) -> dict[str, str]:
    """The rows there are, by their first cell."""
    return {row.split(" | ")[0][2:]: row for row in text.splitlines() if row.startswith("| ")}


def _node_row(schema: Any, written: Mapping[str, str]) -> str:
    if schema.display_name in written:
        return written[schema.display_name]
    inputs = ", ".join(item.id for item in schema.inputs)
    outputs = ", ".join(item.io_type for item in schema.outputs)
    return f"| {schema.display_name} | {inputs} | {outputs} |"


def _template_row(stem: str) -> str:
    file, notes = TEMPLATES / f"{stem}.json", []
    if file.exists():
        nodes = json.loads(file.read_text(encoding="utf-8"))["nodes"]
        notes = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    title = notes[0].splitlines()[0].lstrip("# ") if notes else stem
    return f"| `{stem}` | {title} |"


def _spacing_row(kind: type[spacing.Spacing]) -> str:
    sentence = re.split(r"(?<=\.)(?<!al\.)(?<!eq\.)\s", kind.describe(), maxsplit=1)[0]
    return f"| {kind.title} | {sentence.replace('|', chr(92) + '|')} | {', '.join(kind.aliases)} |"


def _between(text: str, name: str, rows: Sequence[str]) -> str:
    """The rows after the two heading lines of a table are replaced."""
    pattern = re.compile(
        rf"(<!-- sync: {name} -->\n\|[^\n]*\n\|[^\n]*\n).*?(<!-- /sync -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise ValueError(
            f"the table {name} needs the lines <!-- sync: {name} --> and <!-- /sync --> around it"
        )
    return pattern.sub(
        lambda match: match[1] + "".join(f"{row}\n" for row in rows) + match[2], text
    )
