"""The nodes of a server as classes with schemas, made from its /object_info. They are checked against and never run.

Light to import: neither torch nor this package's nodes are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .json_values import mapping, sequence
from .prompt import GROUP, Registry

#: Options of a combo whose list does not say all that the server takes.
OPEN_LISTS = "image_upload", "video_upload", "audio_upload", "file_upload", "remote", "multiselect"
SELF_CHECKED = {("CustomCombo", "choice")}  # the page fills in the list
MATCHING = {"COMFY_MATCHTYPE_V3"}
MOST_GROWN = 1000  # inputs of an Autogrow


@dataclass  # not frozen: an Autogrow copies its input and sets `optional`, as for our own
class ListedInput:
    """An input as a server lists it; the same questions as to an Input of our own nodes."""

    id: str
    io_type: str
    options: Mapping[str, Any]
    optional: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The options by their JSON names."""
        return dict(self.options)

    @property
    def extra(self) -> dict[str, Any]:
        """What the nested kinds of inputs are made of."""
        if self.io_type == "COMFY_DYNAMICCOMBO_V3":
            options = [mapping(option) for option in sequence(self.options.get("options"))]
            return {
                "options": [ListedOption(o.get("key"), tuple(inputs_of(o))) for o in options],
            }
        if self.io_type == GROUP:
            return {"fields": tuple(inputs_of({"input": self.options.get("template")}))}
        return {"template": _template(mapping(self.options.get("template")))}


@dataclass(frozen=True)
class ListedOption:
    """A choice of a dynamic combo and the inputs that it brings."""

    key: Any
    inputs: tuple[ListedInput, ...]


@dataclass(frozen=True)
class ListedTemplate:
    """The inputs of an Autogrow."""

    input: ListedInput
    names: tuple[str, ...]
    min: int


@dataclass(frozen=True)
class ListedOutput:
    io_type: str


@dataclass(frozen=True)
class ListedSchema:
    """What /object_info says of a class."""

    display_name: str
    inputs: tuple[ListedInput, ...]
    outputs: tuple[ListedOutput, ...]
    is_output_node: bool


def registry_of(object_info: Mapping[str, Any]) -> Registry:
    """{class: something with define_schema}. What is not as ComfyUI writes it is left out."""
    return {
        name: _class(name, info) for name, info in object_info.items() if isinstance(info, dict)
    }


def _class(name: str, info: Mapping[str, Any]) -> type[Any]:
    listed = tuple(inputs_of(info))
    schema = ListedSchema(
        display_name=str(info.get("display_name") or name),
        inputs=listed,
        outputs=tuple(ListedOutput(_kind(o)) for o in sequence(info.get("output"))),
        is_output_node=info.get("output_node") is True,
    )
    own = {
        "define_schema": classmethod(lambda cls: schema),
        "OPEN_INPUTS": frozenset(
            one.id for one in listed if _is_open(one) or (name, one.id) in SELF_CHECKED
        ),
        "LISTED": True,
    }
    return type(name, (), own)


def inputs_of(info: Mapping[str, Any]) -> Iterator[ListedInput]:
    """The required and optional inputs of an entry."""
    groups = mapping(info.get("input", info.get("inputs")))
    for group in ("required", "optional"):
        for name, spec in mapping(groups.get(group)).items():
            pair = [*sequence(spec), None, None]
            options = dict(mapping(pair[1]))
            if isinstance(pair[0], list):  # a combo as ComfyUI writes those of its older nodes
                options = {"options": pair[0], **options}
            yield ListedInput(name, _kind(pair[0]), options, group == "optional")


def _template(raw: Mapping[str, Any]) -> ListedTemplate:
    first = next(inputs_of(raw), ListedInput("", "*", {}))
    names = [str(name) for name in sequence(raw.get("names"))]
    if not names:
        most = min(_count(raw.get("max"), 10), MOST_GROWN)
        names = [f"{raw.get('prefix', '')}{i}" for i in range(most)]
    return ListedTemplate(first, tuple(names), _count(raw.get("min"), 0))


def _is_open(one: ListedInput) -> bool:
    choices = one.options.get("options")
    return one.io_type == "COMBO" and (
        not isinstance(choices, list) or any(one.options.get(name) for name in OPEN_LISTS)
    )


def _kind(raw: Any) -> str:
    """A wire type; the lists of older nodes are combos, and what must only match another input may be anything."""
    if isinstance(raw, list):
        return "COMBO"
    return raw if isinstance(raw, str) and raw not in MATCHING else "*"


def _count(raw: Any, otherwise: int) -> int:
    return raw if isinstance(raw, int) and raw >= 0 else otherwise
