"""What ComfyUI's page shows of our nodes in each language, written from the nodes and one table per language.

Written by ``python -m sampling_kit.dev.sync``.

English comes from the nodes. Another language has locales/<language>/strings.json: English → its wording, see
``translation``; main.json, which holds the menu's folders, is written by hand. Some languages have names and descriptions only:
their strings.json goes by the nodes' English names, see ``partly``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..nodes import NODES
from ..nodes.host.alone import io
from .help_pages import page
from .translations import LANGUAGES, PARTLY, ROOT, Translation

SYNTAX = re.compile(r"[{}@|$]")  # of vue-i18n's messages


def node_defs(translation: Translation) -> dict[str, Any]:
    """nodeDefs.json: titles, descriptions, inputs and outputs of every node. Tooltips are shown as they are."""
    made = {}
    nodes: Sequence[type[Any]] = NODES
    for schema in (node.define_schema() for node in nodes):
        made[schema.node_id] = {
            "display_name": message(translation.name(schema.display_name)),
            "description": message(translation.text(schema.description)),
            "inputs": {
                name.replace(".", "_"): _input(schema.node_id, name, tooltips, translation)
                for name, tooltips in _inputs(schema.inputs).items()
            },
            "outputs": {
                str(i): _output(schema.node_id, item, translation)
                for i, item in enumerate(schema.outputs)
            },
        }
    return made


def _output(node: str, item: Any, translation: Translation) -> dict[str, str]:
    tooltip = {"tooltip": translation.text(item.tooltip)} if item.tooltip else {}
    return {"name": message(translation.name(item.display_name, node)), **tooltip}


def _input(
    node: str, name: str, tooltips: Mapping[str, str], translation: Translation
) -> dict[str, str]:
    """``tooltips``: tooltip by option. Options may share an id, which has one entry on the page: it tells all."""
    distinct = list(dict.fromkeys(tooltips.values()))
    tooltip_text = translation.text(distinct[0])
    if len(distinct) > 1:
        tooltip_text = "\n".join(
            f"{option}: {translation.text(tooltip)}" for option, tooltip in tooltips.items()
        )
    translated = translation.name(name.rpartition(".")[2], node)
    return {"name": message(translated), **({"tooltip": tooltip_text} if tooltip_text else {})}


def _inputs(items: Sequence[Any]) -> dict[str, dict[str, str]]:
    """Tooltips of every input by its dotted id, and by the option of a choice that brings it along."""
    entries: dict[str, dict[str, str]] = {}
    for item in items:
        entries[item.id] = {"": item.tooltip or ""}
        for option in item.extra.get("options") or ():
            if isinstance(option, io.Option):
                for name, tooltips in _inputs(option.inputs).items():
                    inner = entries.setdefault(f"{item.id}.{name}", {})
                    inner |= {f"{option.key} {key}".strip(): tip for key, tip in tooltips.items()}
    return entries


def partly(language: str) -> dict[str, Any]:
    """nodeDefs.json of a language that has names of nodes and some descriptions; what is not there the page shows in
    English. Raises ValueError for a name that no node has."""
    told = json.loads((ROOT / language / "strings.json").read_text(encoding="utf-8"))
    nodes: Sequence[type[Any]] = NODES
    ids = {schema.display_name: schema.node_id for schema in (n.define_schema() for n in nodes)}
    if gone := sorted({*told["names"], *told["descriptions"]} - ids.keys()):
        raise ValueError(f"locales/{language}/strings.json: no node is called {', '.join(gone)}")
    made: dict[str, dict[str, str]] = {}
    for part, field in (("names", "display_name"), ("descriptions", "description")):
        for name, text in told[part].items():
            made.setdefault(ids[name], {})[field] = message(text)
    return made


def message(text: str) -> str:
    """``text`` as a vue-i18n message that shows just it."""
    return SYNTAX.sub(lambda match: "{'" + match.group() + "'}", text)


def everything(translation: Translation) -> Translation:
    """``translation`` after every text was looked up, so that ``missing`` is complete."""
    nodes: Sequence[type[Any]] = NODES
    node_defs(translation)
    for node in nodes:
        page(node, translation)
    return translation


def problems(language: str) -> list[str]:
    """A line per string that a language lacks, and per string that nothing uses any more."""
    translation = everything(Translation.of(language))
    held = [(kind, text) for kind in ("names", "texts") for text in getattr(translation, kind)]
    stale = [entry for entry in held if entry not in translation.asked]
    return [
        f"locales/{language}/strings.json, {kind}: {what}: {json.dumps(text, ensure_ascii=False)}"
        for what, entries in (("missing", translation.missing), ("stale", stale))
        for kind, text in entries
    ]


def files() -> dict[Path, str]:
    """Every generated file and its text."""
    tables = {"en": Translation()} | {language: Translation.of(language) for language in LANGUAGES}
    made = {language: node_defs(translation) for language, translation in tables.items()}
    made |= {language: partly(language) for language in PARTLY}
    return {
        ROOT / language / "nodeDefs.json": json.dumps(defs, ensure_ascii=False, indent=1) + "\n"
        for language, defs in made.items()
    }
