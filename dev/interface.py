"""What saved workflows rely on: every node's inputs in order, their types, defaults, ranges and values, and its outputs.

    python -m sampling_kit.dev.interface                  say how the nodes differ from the last frozen version
    python -m sampling_kit.dev.interface --write          write tests/interface/current.json
    python -m sampling_kit.dev.interface --freeze 0.2.0   at a release: freeze nodes and example workflows

An input is a line ``path: [type, facts]``. In a path, ``spacing[karras].rho`` is an input of the choice "karras"
of a DynamicCombo, and ``sigmas.*`` one of the inputs of an Autogrow. Words (labels, tooltips) are no part of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nodes import NODES
from ..nodes.host.alone import io

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "interface"
CURRENT = FOLDER / "current.json"

Input = list[Any]  # [type, {fact: value}]
Interface = dict[str, dict[str, Any]]  # node id → {"inputs": {path: Input}, "outputs": [type], …}

WORDS = {"tooltip", "display_name", "placeholder", "label_on", "label_off", "sampling_kit"}
#: Values that are what lies in a folder, so they differ from machine to machine: "node.input".
FROM_FOLDERS = {
    "SamplingKitLoadDiffusersDenoiser.folder",
    "SamplingKitLoadDiffusersDenoiser.weights",
    "SamplingKitDiffusersTextEncode.folder",
    "SamplingKitDiffusersVAE.folder",
    "SamplingKitLoadFittedSolver.file",
}
#: "node.input" that breaks workflows of an older version → the test which shows that they still open, as "file::name".
MIGRATED: dict[str, str] = {}


@dataclass(frozen=True)
class Change:
    """One difference: the node, the path of its input ("" for the node itself, "outputs" for these), and what it is.

    ``breaks``: a workflow that was saved before may not open, or not as it was.
    """

    node: str
    input: str
    text: str
    breaks: bool

    @property
    def name(self) -> str:
        """``node.input``."""
        return f"{self.node}.{self.input}" if self.input else self.node

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


# ------------------------------------------------------------------------------------- as it is


def interface(nodes: tuple[type[Any], ...] = NODES) -> Interface:
    """The interface of all nodes, sorted by id: which file holds a node is no part of it."""
    described = sorted(map(io.object_info, nodes), key=lambda info: info["name"])
    return {info["name"]: _node(info) for info in described}


def _node(info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = dict(_inputs(info["input"], "", info["name"]))
    flags = {"output_node": True} if info["output_node"] else {}
    return {"inputs": inputs, "outputs": info["output"], **flags}


def _inputs(groups: Mapping[str, Any], prefix: str, node: str) -> Iterator[tuple[str, Input]]:
    """(path, [type, facts]) in the order of the page: the required ones come first."""
    for group in ("required", "optional"):
        for name, (kind, options) in groups.get(group, {}).items():
            path = prefix + name
            facts = {k: v for k, v in options.items() if k not in {*WORDS, "options", "template"}}
            if group == "optional":
                facts = {"optional": True, **facts}
            choices, template = options.get("options"), options.get("template", {})
            if choices is not None and f"{node}.{path}" not in FROM_FOLDERS:
                facts["options"] = [c["key"] if isinstance(c, dict) else c for c in choices]
            facts |= {k: v for k, v in template.items() if k != "input"}
            yield path, [kind, facts]
            for choice in choices or ():
                if isinstance(choice, dict):
                    yield from _inputs(choice["inputs"], f"{path}[{choice['key']}].", node)
            if template:
                (item,) = (entry for g in template["input"].values() for entry in g.values())
                yield from _inputs({"required": {"*": item}}, f"{path}.", node)


def text(nodes: Interface) -> str:
    """As JSON, a line per input, so that a diff shows which."""
    line = lambda value: json.dumps(value, ensure_ascii=False)  # noqa: E731
    blocks = []
    for node, held in nodes.items():
        rows = [f"   {line(path)}: {line(spec)}" for path, spec in held["inputs"].items()]
        inputs = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
        rest = {key: value for key, value in held.items() if key != "inputs"}
        parts = [f'  "inputs": {inputs}', *(f"  {line(k)}: {line(v)}" for k, v in rest.items())]
        blocks.append(f" {line(node)}: {{\n" + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


# ---------------------------------------------------------------------------------- differences


def changes(old: Interface, new: Interface) -> list[Change]:
    """All differences of ``new`` from ``old``."""
    gone = [Change(node, "", "the node is gone", True) for node in old if node not in new]
    added = [Change(node, "", "a new node", False) for node in new if node not in old]
    both = (
        change for node in old if node in new for change in _changed(node, old[node], new[node])
    )
    return [*gone, *both, *added]


def _changed(node: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = old["inputs"], new["inputs"]
    for path in before:
        if path not in after:
            yield Change(node, path, "the input is gone", True)
        elif before[path] != after[path]:
            reason = _refused(before[path], after[path])
            what = reason or _difference(before[path], after[path])
            yield Change(node, path, what, bool(reason))
    for path, (_, facts) in after.items():
        if path not in before:
            needed = not facts.get("optional") and _was_there(_level(path), before)
            more = " that old workflows do not have and that is not optional" if needed else ""
            yield Change(node, path, f"a new input{more}", needed)
    yield from _moved(node, list(before), list(after))
    if old["outputs"] != new["outputs"]:
        kept = new["outputs"][: len(old["outputs"])] == old["outputs"]
        yield Change(node, "outputs", f"{old['outputs']} → {new['outputs']}", not kept)
    flags = [bool(held.get("output_node")) for held in (old, new)]
    if flags[0] != flags[1]:
        yield Change(node, "", f"output_node {flags[0]} → {flags[1]}", flags[0])


def _was_there(level: str, before: Mapping[str, Input]) -> bool:
    """Whether an old workflow can be at that level: the top, a choice that there was, an Autogrow."""
    choice = re.fullmatch(r"(.*)\[([^\]]*)\]\.", level)
    if choice is None:
        return not level or level[:-1] in before
    return choice[1] in before and choice[2] in before[choice[1]][1].get("options", ())


def _moved(node: str, before: list[str], after: list[str]) -> Iterator[Change]:
    """Saved widgets are a list, so what was there keeps its place: new inputs stand behind all of their level."""
    for level in dict.fromkeys(map(_level, after)):
        old, new = ([p for p in paths if _level(p) == level] for paths in (before, after))
        kept = [p for p in old if p in new]
        for path, at in zip(kept, new, strict=False):
            if path != at:
                yield Change(node, path, f"it was before {at}; new inputs go to the end", True)
                break
    for path in (path for path in after if path not in before):
        choice = re.fullmatch(r"(.*)\[[^\]]*\]\.", _level(path))
        if choice is None or choice[1] not in before or _level(path) not in map(_level, before):
            continue
        behind = [
            p for p in after[after.index(path) :] if p in before and _level(p) == _level(choice[1])
        ]
        if behind:
            yield Change(
                node,
                path,
                f"a new widget before {behind[0]}, whose saved value it would take",
                True,
            )


def _level(path: str) -> str:
    """What stands before the input's own name: "", ``combo[choice].`` or ``autogrow.``."""
    return path[: len(path) - len(re.split(r"\.(?![^\[]*\])", path)[-1])]


def _difference(old: Input, new: Input) -> str:
    """The new values of a combo, or where the widget is shown, if that is all that differs; else both in full."""
    (kind, was), (now, facts) = old, new
    added = [value for value in facts.get("options", ()) if value not in was.get("options", ())]
    if added and (kind, {**was, "options": 0}) == (now, {**facts, "options": 0}):
        return f"new values: {', '.join(map(str, added))}"
    if (kind, {**was, "advanced": 0}) == (now, {**facts, "advanced": 0}):
        return "now among the advanced" if facts.get("advanced") else "no longer among the advanced"
    return " → ".join(json.dumps(spec, ensure_ascii=False) for spec in (old, new))


def _refused(old: Input, new: Input) -> str:
    """Why a value or a link that was fine in ``old`` may be refused or mean something else in ``new``; or ""."""
    (kind, was), (now, facts) = old, new
    if not set(kind.split(",")) <= set(now.split(",")) and now != "*":
        return f"type {kind} → {now}"
    lost = [value for value in was.get("options", ()) if value not in facts.get("options", ())]
    if lost and "options" in facts:
        return f"values are gone: {', '.join(map(str, lost))}"
    for end, sign in (("min", 1), ("max", -1)):
        limit = facts.get(end)
        if limit is not None and (end not in was or sign * limit > sign * was[end]):
            return f"{end} {was.get(end)} → {limit}"
    if was.get("optional") and not facts.get("optional"):
        return "no longer optional"
    if was.get("optional") and was.get("default") != facts.get("default"):
        return f"default {was.get('default')} → {facts.get('default')}, also where a prompt leaves it out"
    for fact in ("control_after_generate", "forceInput", "prefix"):  # these change what is saved
        if was.get(fact) != facts.get(fact):
            return f"{fact} {was.get(fact)} → {facts.get(fact)}"
    return ""


# ------------------------------------------------------------------------------- frozen versions


def versions() -> list[str]:
    """The frozen versions, oldest first."""
    names = [
        m[1] for path in FOLDER.glob("*.json") if (m := re.fullmatch(r"(\d[\d.]*)", path.stem))
    ]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def frozen(version: str) -> Interface:
    """The interface of a frozen version."""
    found: Interface = json.loads((FOLDER / f"{version}.json").read_text(encoding="utf-8"))
    return found


def workflows(version: str) -> dict[str, dict[str, Any]]:
    """{name: API-format prompt} of the example workflows that a frozen version shipped."""
    file = FOLDER / f"workflows-{version}.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def unnamed(since: list[Change], changelog: str, version: str) -> list[Change]:
    """Changes that no entry of CHANGELOG.md above the heading of ``version`` names, by node and input."""
    above = re.split(rf"^## {re.escape(version)}\b", changelog, maxsplit=1, flags=re.MULTILINE)[0]
    entries = [set(re.findall(r"\w+", entry)) for entry in re.split(r"^- ", above, flags=re.M)]
    return [
        change
        for change in since
        if not any({change.node, *_words(change.input)} <= entry for entry in entries)
    ]


def _words(path: str) -> list[str]:
    """The last name of a path: what a reader would call the input."""
    return re.findall(r"\w+", path)[-1:]


def with_additions(changelog: str, since: list[Change], version: str) -> str:
    """CHANGELOG.md with a line for every change that it does not name and that breaks nothing, at the end of what stands
    above the heading of ``version``. What breaks old workflows is named by hand, with how they are migrated."""
    rows = [
        f"- Interface: `{change.name}`: {change.text}.\n"
        for change in unnamed(since, changelog, version)
        if not change.breaks
    ]
    heading = re.search(rf"^## {re.escape(version)}\b", changelog, flags=re.MULTILINE)
    end = heading.start() if heading else len(changelog)
    return "".join((changelog[:end].rstrip("\n"), "\n", *rows, "\n", changelog[end:]))


def freeze(version: str) -> None:
    """Write the nodes and the example workflows as they are under ``version``."""
    examples = sorted((ROOT / "example_workflows" / "api").glob("*.json"))
    rows = [f"{json.dumps(f.stem)}: {_line(f)}" for f in examples]
    (FOLDER / f"{version}.json").write_text(text(interface()), encoding="utf-8")
    kept = FOLDER / f"workflows-{version}.json"
    kept.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def _line(file: Path) -> str:
    return json.dumps(json.loads(file.read_text(encoding="utf-8")), ensure_ascii=False)


def main() -> None:
    """Write, freeze, or print the changes since the last frozen version."""
    parser = argparse.ArgumentParser(description="What saved workflows rely on.")
    parser.add_argument("--write", action="store_true", help="write tests/interface/current.json")
    parser.add_argument("--freeze", metavar="VERSION", help="at a release: keep it all as VERSION")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.write or options.freeze:
        CURRENT.write_text(text(interface()), encoding="utf-8")
    if options.freeze:
        freeze(options.freeze)
    for version in versions()[-1:]:
        found = changes(frozen(version), interface())
        marked = [f"{'breaks ' if change.breaks else ''}{change}" for change in found]
        sys.stdout.write("\n".join(marked or [f"as in {version}"]) + "\n")


if __name__ == "__main__":
    main()
