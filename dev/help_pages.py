"""The help pages ComfyUI shows for our nodes, written from the nodes themselves and locales/en/help.json.

web/docs/<NodeId>/<language>.md; English also as web/docs/<NodeId>.md, for pages in a language that has none.

Written by ``python -m sampling_kit.dev.sync``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..headless.shipped import needs_comfyui
from ..nodes import NODES
from ..nodes.host.alone import io
from .translations import LANGUAGES, ROOT, Translation

PACK = Path(__file__).resolve().parent.parent
FOLDER = PACK / "web" / "docs"
EXAMPLES = PACK / "example_workflows" / "api"
#: Where a node that no example holds can be put, by node or category: (example, how, beside which node).
ROOM_FOR = {
    "Sampling Kit/solver": ("same-noise-four-solvers", ", in the place of", "DDIM Solver"),
    "Sampling Kit/guidance": ("guidance-scale", ", in the place of", "CFG Guidance"),
    **{
        f"SamplingKit{solver}": ("compare", ", in the place of", "Heun (EDM) Solver")
        for solver in ("UniPC", "AdamsBashforth", "DEIS", "GaussianAdams", "AMED", "RungeKutta")
    },
    **{
        f"SamplingKit{solver}": ("tutorial-4-ode", ", in the place of", "Euler Solver")
        for solver in ("EulerMaruyama", "Langevin", "Restart")
    },
    "SamplingKitScheduleEditor": ("ddim-eta", ", in the place of", "Steps"),
    "SamplingKitEditLevels": ("two-experts", ", after", "Steps"),
    "SamplingKitJoinLevels": ("two-experts", ", after", "Split at Level"),
    "SamplingKitSolverTable": ("tutorial-3-ddim", ", after", "DDIM Solver"),
    "SamplingKitSaveState": ("split-run", ", after", "Keep State"),
    "SamplingKitLoadState": ("split-run", ", before", "Resume State"),
    "SamplingKitFitSteps": ("fit-a-solver", ", after", "Record Trajectories"),
    "SamplingKitTrainAMED": ("fit-a-solver", ", after", "Record Trajectories"),
    "SamplingKitSaveFittedSolver": ("fit-a-solver", ", after", "Fit Solver"),
    "SamplingKitSolverReport": ("fit-a-solver", ", after", "Fit Solver"),
}

#: How the sources of a description begin, in English and in the languages that have all texts.
SOURCES = re.compile("Elsewhere: |Reference: |在别处：|文献：")


@dataclass(frozen=True)
class Help:
    """What a node's page says beside its schema: when to use it, and its formula if it has one."""

    when: str = ""
    formula: str = ""


@cache
def help_texts() -> dict[str, Help]:
    """By node id, from locales/en/help.json."""
    written = json.loads((ROOT / "en" / "help.json").read_text(encoding="utf-8"))
    return {node: Help(**texts) for node, texts in written.items()}


@cache
def examples() -> dict[str, set[str]]:
    """Node types by example, the smallest example first and those that need a checkpoint last."""
    graphs = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in EXAMPLES.glob("*.json")}
    order = sorted(graphs, key=lambda stem: (needs_comfyui(stem), len(graphs[stem]), stem))
    return {stem: {node["class_type"] for node in graphs[stem].values()} for stem in order}


def without_sources(description: str) -> tuple[str, str]:
    """What a node does; and what it equals elsewhere with its paper, which a page says last."""
    start = SOURCES.search(description)
    return (
        (description[: start.start()].strip(), description[start.start() :])
        if start
        else (description, "")
    )


def page(node: type[Any], translation: Translation | None = None) -> str:
    """The help page of one node, in Markdown."""
    translation = translation or Translation()
    say, schema = translation.text, node.define_schema()
    help = help_texts().get(schema.node_id, Help())
    what, sources = without_sources(say(schema.description))
    parts = [f"# {translation.name(schema.display_name)}"]
    if help.when:
        parts.append(f"**{say('When to use it')}** {say(help.when)}")
    parts.append(what)
    if help.formula:
        parts.append(f"## {say('Formula')}\n\n{help.formula}")
    if schema.inputs:
        parts.append(
            f"## {say('Inputs')}\n\n"
            + "\n".join(_inputs(schema.inputs, schema.node_id, translation))
        )
    if schema.outputs:
        parts.append(
            f"## {say('Outputs')}\n\n"
            + "\n".join(_output(o, schema.node_id, translation) for o in schema.outputs)
        )
    if example := _example(schema, translation):
        parts.append(f"## {say('Example')}\n\n{example}")
    parts += [sources] if sources else []
    names = [f"`{name}`" for name in dict.fromkeys(schema.search_aliases)]
    parts.append(say("Found by:") + " " + ", ".join(names))
    return "\n\n".join(parts) + "\n"


def _inputs(
    inputs: Sequence[Any], node: str, translation: Translation, depth: int = 0
) -> Iterator[str]:
    """A bullet per input; the widgets a choice brings along are indented below it."""
    for item in inputs:
        notes = [translation.text(item.tooltip) or item.io_type, _range(item, translation)]
        optional = item.optional and "default" not in item.extra
        name = f"**{item.id}**{_also(translation.name(item.id, node), item.id)}"
        name += f" ({translation.text('optional')})" if optional else ""
        yield f"{'  ' * depth}- {name}: {' '.join(note for note in notes if note)}"
        for option in item.extra.get("options") or ():
            if isinstance(option, io.Option):
                yield f"{'  ' * (depth + 1)}- `{option.key}`"
                yield from _inputs(option.inputs, node, translation, depth + 2)


def _also(name: str, id: str) -> str:
    return f" {name}" if name != id else ""


def _range(item: Any, translation: Translation) -> str:
    """Default, range or choices of a widget, in brackets."""
    extra, say = item.extra, translation.text
    facts = [f"{say('default')} {extra['default']}"] if "default" in extra else []
    if extra.get("min") is not None:
        high = extra.get("max")
        facts.append(f"≥ {extra['min']}" if high is None else f"{extra['min']} {say('to')} {high}")
    choices = [str(c) for c in extra.get("options") or () if not isinstance(c, io.Option)]
    if choices and item.id != "file":  # what files there are depends on the machine
        facts.append(f"{say('one of')} " + ", ".join(choices))
    return f"[{'; '.join(facts)}]" if facts else ""


def _output(item: Any, node: str, translation: Translation) -> str:
    name = f"**{item.display_name}**{_also(translation.name(item.display_name, node), item.display_name)}"
    return f"- {name} ({item.io_type})" + (
        f": {translation.text(item.tooltip)}" if item.tooltip else ""
    )


def _example(schema: Any, translation: Translation) -> str:
    """The smallest example that holds the node, or one that has room for it."""
    say, holding = (
        translation.text,
        [n for n, types in examples().items() if schema.node_id in types],
    )
    if holding:
        return f"{say('Template')} **{holding[0]}**"
    room = ROOM_FOR.get(schema.node_id) or ROOM_FOR.get(schema.category)
    if room is None:
        return ""
    example, how, other = room
    return f"{say('Template')} **{example}**{say(how)} *{translation.name(other)}*"


def pages() -> dict[Path, str]:
    """Every help page and its text."""
    made, tables = {}, {language: Translation.of(language) for language in LANGUAGES}
    nodes: Sequence[type[Any]] = NODES
    for node in nodes:
        id = node.define_schema().node_id
        made[FOLDER / f"{id}.md"] = made[FOLDER / id / "en.md"] = page(node)
        for language, translation in tables.items():
            made[FOLDER / id / f"{language}.md"] = page(node, translation)
    return made
