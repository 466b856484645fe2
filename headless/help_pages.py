"""The help pages ComfyUI shows for our nodes, written from the nodes themselves and locales/en/help.json.

web/docs/<NodeId>.md in English, web/docs/<NodeId>/<language>.md in the others.

python -m sampling_kit.headless.help_pages        # write them
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..nodes import NODES
from ..nodes.host.alone import io
from .words import LANGUAGES, ROOT, Words

PACK = Path(__file__).resolve().parent.parent
FOLDER = PACK / "web" / "docs"
EXAMPLES = PACK / "example_workflows" / "api"
#: Where a node that no example holds can be put, by node or category: (example, how, beside which node).
ROOM_FOR = {
    "Sampling Kit/solver": ("same-noise-four-solvers", ", in the place of", "DDIM Solver"),
    "Sampling Kit/guidance": ("guidance-scale", ", in the place of", "CFG Guidance"),
    "SamplingKitScheduleEditor": ("ddim-eta", ", in the place of", "Steps"),
    "SamplingKitSolverTable": ("tutorial-3-ddim", ", after", "DDIM Solver"),
    "SamplingKitSaveState": ("split-run", ", after", "Keep State"),
    "SamplingKitLoadState": ("split-run", ", before", "Resume State"),
    "SamplingKitFitSteps": ("fit-a-solver", ", after", "Record Trajectories"),
    "SamplingKitTrainAMED": ("fit-a-solver", ", after", "Record Trajectories"),
    "SamplingKitSaveFittedSolver": ("fit-a-solver", ", after", "Fit Solver"),
    "SamplingKitSolverReport": ("fit-a-solver", ", after", "Fit Solver"),
}


@dataclass(frozen=True)
class Help:
    """What a node's page says beside its schema: when to use it, and its formula if it has one."""

    when: str = ""
    formula: str = ""


@cache
def helps() -> dict[str, Help]:
    """By node id, from locales/en/help.json."""
    written = json.loads((ROOT / "en" / "help.json").read_text(encoding="utf-8"))
    return {node: Help(**said) for node, said in written.items()}


@cache
def examples() -> dict[str, set[str]]:
    """Node types by example, the smallest example first."""
    graphs = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in EXAMPLES.glob("*.json")}
    order = sorted(graphs, key=lambda stem: (len(graphs[stem]), stem))
    return {stem: {node["class_type"] for node in graphs[stem].values()} for stem in order}


def page(node: type[Any], words: Words | None = None) -> str:
    """The help page of one node, in Markdown."""
    words = words or Words()
    say, schema = words.text, node.define_schema()
    told = helps().get(schema.node_id, Help())
    parts = [f"# {words.name(schema.display_name)}", say(schema.description)]
    if told.when:
        parts.append(f"## {say('When to use it')}\n\n{say(told.when)}")
    if told.formula:
        parts.append(f"## {say('Formula')}\n\n{told.formula}")
    if schema.inputs:
        parts.append(
            f"## {say('Inputs')}\n\n" + "\n".join(_inputs(schema.inputs, schema.node_id, words))
        )
    if schema.outputs:
        parts.append(
            f"## {say('Outputs')}\n\n"
            + "\n".join(_output(o, schema.node_id, words) for o in schema.outputs)
        )
    if example := _example(schema, words):
        parts.append(f"## {say('Example')}\n\n{example}")
    names = [f"`{name}`" for name in dict.fromkeys(schema.search_aliases)]
    parts.append(say("Found by:") + " " + ", ".join(names))
    return "\n\n".join(parts) + "\n"


def _inputs(inputs: Sequence[Any], node: str, words: Words, depth: int = 0) -> Iterator[str]:
    """A bullet per input; the widgets a choice brings along are indented below it."""
    for item in inputs:
        notes = [words.text(item.tooltip) or item.io_type, _range(item, words)]
        optional = item.optional and "default" not in item.extra
        name = f"**{item.id}**{_own(words.name(item.id, node), item.id)}"
        name += f" ({words.text('optional')})" if optional else ""
        yield f"{'  ' * depth}- {name}: {' '.join(note for note in notes if note)}"
        for option in item.extra.get("options") or ():
            if isinstance(option, io.Option):
                yield f"{'  ' * (depth + 1)}- `{option.key}`"
                yield from _inputs(option.inputs, node, words, depth + 2)


def _own(name: str, id: str) -> str:
    return f" {name}" if name != id else ""


def _range(item: Any, words: Words) -> str:
    """Default, range or choices of a widget, in brackets."""
    extra, say = item.extra, words.text
    facts = [f"{say('default')} {extra['default']}"] if "default" in extra else []
    if extra.get("min") is not None:
        high = extra.get("max")
        facts.append(f"≥ {extra['min']}" if high is None else f"{extra['min']} {say('to')} {high}")
    choices = [str(c) for c in extra.get("options") or () if not isinstance(c, io.Option)]
    if choices and item.id != "file":  # what files there are depends on the machine
        facts.append(f"{say('one of')} " + ", ".join(choices))
    return f"[{'; '.join(facts)}]" if facts else ""


def _output(item: Any, node: str, words: Words) -> str:
    name = f"**{item.display_name}**{_own(words.name(item.display_name, node), item.display_name)}"
    return f"- {name} ({item.io_type})" + (f": {words.text(item.tooltip)}" if item.tooltip else "")


def _example(schema: Any, words: Words) -> str:
    """The smallest example that holds the node, or one that has room for it."""
    say, holding = words.text, [n for n, types in examples().items() if schema.node_id in types]
    if holding:
        return f"{say('Template')} **{holding[0]}**"
    room = ROOM_FOR.get(schema.node_id) or ROOM_FOR.get(schema.category)
    if room is None:
        return ""
    example, how, other = room
    return f"{say('Template')} **{example}**{say(how)} *{words.name(other)}*"


def pages() -> dict[Path, str]:
    """Every help page and its text."""
    made, tables = {}, {language: Words.of(language) for language in LANGUAGES}
    nodes: Sequence[type[Any]] = NODES
    for node in nodes:
        id = node.define_schema().node_id
        made[FOLDER / f"{id}.md"] = page(node)
        for language, words in tables.items():
            made[FOLDER / id / f"{language}.md"] = page(node, words)
    return made


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
