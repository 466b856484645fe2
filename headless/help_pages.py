"""The help pages ComfyUI shows for our nodes, web/docs/<NodeId>.md, written from the nodes themselves.

python -m sampling_kit.headless.help_pages        # write them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..nodes import NODES
from ..nodes import io_standalone as io

FOLDER = Path(__file__).resolve().parent.parent / "web" / "docs"


def page(node: type[Any]) -> str:
    """The help page of one node, in Markdown."""
    schema = node.define_schema()
    names = [f"`{name}`" for name in dict.fromkeys(schema.search_aliases)]
    parts = [f"# {schema.display_name}", schema.description]
    if schema.inputs:
        parts.append("## Inputs\n\n" + "\n".join(_inputs(schema.inputs)))
    if schema.outputs:
        parts.append("## Outputs\n\n" + "\n".join(_output(o) for o in schema.outputs))
    parts.append("Found by: " + ", ".join(names))
    return "\n\n".join(parts) + "\n"


def _inputs(inputs: Sequence[Any], depth: int = 0) -> Iterator[str]:
    """A bullet per input; the widgets a choice brings along are indented below it."""
    for item in inputs:
        notes = [item.tooltip or item.io_type, _range(item)]
        optional = " (optional)" if item.optional and "default" not in item.extra else ""
        text = " ".join(note for note in notes if note)
        yield f"{'  ' * depth}- **{item.id}**{optional}: {text}"
        for option in item.extra.get("options") or ():
            if isinstance(option, io.Option):
                yield f"{'  ' * (depth + 1)}- `{option.key}`"
                yield from _inputs(option.inputs, depth + 2)


def _range(item: Any) -> str:
    """Default, range or choices of a widget, in brackets."""
    extra = item.extra
    facts = [f"default {extra['default']}"] if "default" in extra else []
    if extra.get("min") is not None:
        facts.append(f"{extra['min']} to {extra['max']}")
    choices = [str(c) for c in extra.get("options") or () if not isinstance(c, io.Option)]
    if choices:
        facts.append("one of " + ", ".join(choices))
    return f"[{'; '.join(facts)}]" if facts else ""


def _output(item: Any) -> str:
    return f"- **{item.display_name}** ({item.io_type})" + (
        f": {item.tooltip}" if item.tooltip else ""
    )


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    nodes: Sequence[type[Any]] = NODES
    for node in nodes:
        path = FOLDER / f"{node.define_schema().node_id}.md"
        path.write_text(page(node), encoding="utf-8")


if __name__ == "__main__":
    main()
