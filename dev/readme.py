"""README's tables of nodes, solvers and spacings: the rows between ``<!-- sync: … -->`` and ``<!-- /sync -->``.

The rows and their order come from the nodes and the spacings. What a row of a node says in its other cells may
be written by hand: it is kept, and only a node without a row gets one from its schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..nodes import NODES
from ..schedulers import spacing

README = Path(__file__).resolve().parent.parent / "README.md"
SOLVERS = "Sampling Kit/solver"


def readme(text: str) -> str:
    """``text`` with its three tables brought up to date. Raises ValueError if a table's markers are missing."""
    schemas = [node.define_schema() for node in NODES]
    solvers = [schema for schema in schemas if schema.category == SOLVERS]
    others = [schema for schema in schemas if schema.category != SOLVERS]
    spacings = [_spacing_row(kind) for kind in spacing.ALL.values()]
    written = _written(text)
    text = _between(text, "nodes", [_node_row(schema, written) for schema in others])
    text = _between(text, "solvers", [_node_row(schema, written) for schema in solvers])
    return _between(text, "spacings", spacings)


def _written(text: str) -> dict[str, str]:
    """The rows there are, by their first cell."""
    return {row.split(" | ")[0][2:]: row for row in text.splitlines() if row.startswith("| ")}


def _node_row(schema: Any, written: dict[str, str]) -> str:
    if schema.display_name in written:
        return written[schema.display_name]
    inputs = ", ".join(item.id for item in schema.inputs)
    outputs = ", ".join(item.io_type for item in schema.outputs)
    return f"| {schema.display_name} | {inputs} | {outputs} |"


def _spacing_row(kind: type[spacing.Spacing]) -> str:
    sentence = re.split(r"(?<=\.)(?<!al\.)\s", kind.describe(), maxsplit=1)[0]
    return f"| {kind.title} | {sentence.replace('|', chr(92) + '|')} | {', '.join(kind.aliases)} |"


def _between(text: str, name: str, rows: Sequence[str]) -> str:
    """The rows after the two heading lines of a table are replaced."""
    pattern = re.compile(
        rf"(<!-- sync: {name} -->\n\|[^\n]*\n\|[^\n]*\n).*?(<!-- /sync -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise ValueError(
            f"{README.name}: the table {name} needs the lines <!-- sync: {name} --> and <!-- /sync --> around it"
        )
    return pattern.sub(
        lambda match: match[1] + "".join(f"{row}\n" for row in rows) + match[2], text
    )
