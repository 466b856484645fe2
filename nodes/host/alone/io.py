"""What `comfy_api.latest.io` offers a node, for when ComfyUI is not there.

Only what this pack's nodes use, with the same names, the same io_type strings and the same
`object_info`, so that one node class serves both worlds. Options are given by keyword; one that
ComfyUI's input does not take is refused here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

JSON_NAMES = {
    "display_mode": "display",
    "dynamic_prompts": "dynamicPrompts",
    "force_input": "forceInput",
    "raw_link": "rawLink",
}
COMMON_OPTIONS = frozenset({"lazy", "extra_dict", "raw_link", "advanced"})

FolderType = Enum("FolderType", ["input", "output", "temp"])
ControlAfterGenerate = Enum("ControlAfterGenerate", "fixed increment decrement randomize")
NumberDisplay = Enum("NumberDisplay", ["number", "slider"])


class UploadType(Enum):
    """What an upload button accepts; the name of the option in /object_info."""

    image = "image_upload"


class Hidden(str, Enum):
    """Values a node may ask the runner for, read from `cls.hidden`."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


@dataclass(frozen=True)
class HiddenHolder:
    """The hidden values a node asked for; the others are None, as ``dynprompt`` always is."""

    unique_id: str | None = None
    prompt: dict[str, Any] | None = None
    extra_pnginfo: dict[str, Any] | None = None
    dynprompt: Any = None


class Input:
    """One input of a node; `extra` holds the options given beside the four that every input has."""

    io_type = "*"
    known: frozenset[str] = COMMON_OPTIONS
    always: Mapping[str, Any] = {}

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        **extra: Any,
    ) -> None:
        """Raises TypeError for a keyword that ComfyUI's input of this type does not take."""
        if unknown := sorted(set(extra) - self.known):
            raise TypeError(f"{self.io_type} input {id!r} does not take {', '.join(unknown)}")
        self.id, self.display_name, self.optional, self.tooltip = (
            id,
            display_name,
            optional,
            tooltip,
        )
        self.extra = extra

    def as_dict(self) -> dict[str, Any]:
        """The options in their JSON names, without those that are None."""
        named = {"display_name": self.display_name, "tooltip": self.tooltip, **self.always}
        for name, value in self.extra.items():
            if name == "extra_dict":
                named.update(value or {})
            elif isinstance(value, UploadType):
                named[value.value] = True
            else:
                named[JSON_NAMES.get(name, name)] = _plain(value)
        return {name: value for name, value in named.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.as_dict() if isinstance(value, Option | TemplatePrefix) else value


@dataclass(frozen=True)
class Option:
    """One choice of a DynamicCombo and its inputs, called `combo.input` in a workflow."""

    key: str
    inputs: Sequence[Input]

    def as_dict(self) -> dict[str, Any]:
        """The option as it stands in /object_info."""
        return {"key": self.key, "inputs": describe_inputs(self.inputs)}


@dataclass(frozen=True)
class TemplatePrefix:
    """The inputs of an Autogrow: ``max`` copies of one input, called `prefix0`, `prefix1`, …"""

    input: Input
    prefix: str
    min: int = 1
    max: int = 10

    def as_dict(self) -> dict[str, Any]:
        """The template as it stands in /object_info."""
        named = dict(prefix=self.prefix, min=self.min, max=self.max)
        return {"input": describe_inputs([self.input]), **named}


class Output:
    """One output of a node; the Schema fills in a missing id as ComfyUI does."""

    io_type = "*"

    def __init__(
        self, id: str | None = None, display_name: str | None = None, tooltip: str | None = None
    ) -> None:
        self.id, self.display_name, self.tooltip = id, display_name or id, tooltip


class ComfyType:
    """A wire type: its name in links, and the Input and Output that carry it."""

    io_type = "*"
    Input: type[Any] = Input
    Output: type[Any] = Output
    Option = Option  # of a DynamicCombo
    TemplatePrefix = TemplatePrefix  # of an Autogrow


def _type(name: str, options: str = "", **always: Any) -> type[ComfyType]:
    """The wire type `name`: its input takes `options` (space separated) and states `always`."""
    known = COMMON_OPTIONS | set(options.split())
    carriers = {
        "Input": type("Input", (Input,), {"io_type": name, "known": known, "always": always}),
        "Output": type("Output", (Output,), {"io_type": name}),
    }
    return type(name, (ComfyType,), {"io_type": name, **carriers})


def Custom(io_type: str) -> type[ComfyType]:
    """A wire type of our own."""
    return _type(io_type)


class MultiType(ComfyType):
    """An input that takes any of several wire types."""

    class Input(Input):
        def __init__(self, id: str, types: Sequence[type[ComfyType]], **options: Any) -> None:
            super().__init__(id, **options)
            self.io_type = ",".join(kind.io_type for kind in types)


_WIDGET = "default socketless force_input"
Int = _type("INT", f"{_WIDGET} min max step control_after_generate display_mode")
Float = _type("FLOAT", f"{_WIDGET} min max step round display_mode gradient_stops")
Boolean = _type("BOOLEAN", f"{_WIDGET} label_on label_off")
String = _type("STRING", f"{_WIDGET} multiline placeholder dynamic_prompts", multiline=False)
Combo = _type(
    "COMBO",
    "default socketless options control_after_generate upload image_folder remote",
    multiselect=False,
)
DynamicCombo = _type("COMFY_DYNAMICCOMBO_V3", "options")
Autogrow = _type("COMFY_AUTOGROW_V3", "template")
AnyType = _type("*")
Image, Mask, Latent, Vae = (_type(name) for name in ("IMAGE", "MASK", "LATENT", "VAE"))
Model, Conditioning, Guider = (_type(name) for name in ("MODEL", "CONDITIONING", "GUIDER"))
Sigmas, Sampler, Noise = (_type(name) for name in ("SIGMAS", "SAMPLER", "NOISE"))


@dataclass(frozen=True)
class Schema:
    """What a node is. Fields are ComfyUI's, less those about lists, prices and lazy graphs.

    Raises ValueError when two inputs or two outputs share an id.
    """

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: Sequence[Input] = ()
    outputs: Sequence[Output] = ()
    hidden: Sequence[Hidden] = ()
    description: str = ""
    search_aliases: Sequence[str] = ()
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False
    essentials_category: str | None = None

    def __post_init__(self) -> None:
        for index, output in enumerate(self.outputs):
            output.id = output.id or f"_{index}_{output.io_type}_"
        for what, items in (("input", self.inputs), ("output", self.outputs)):
            ids = [item.id for item in items]
            if len(set(ids)) != len(ids):
                raise ValueError(f"{self.node_id}: {what} ids must differ, got {ids}")
        always = (Hidden.prompt, Hidden.extra_pnginfo) if self.is_output_node else ()
        object.__setattr__(self, "hidden", tuple(dict.fromkeys((*self.hidden, *always))))


class NodeOutput:
    """What execute returns: a value per output, and `ui`: {name: list} for page and history."""

    def __init__(
        self, *args: Any, ui: dict[str, Any] | None = None, expand: dict[str, Any] | None = None
    ) -> None:
        self.args, self.ui, self.expand = args, ui, expand

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The values, or None when there is none."""
        return self.args or None


class Blocked:
    """An output that keeps the nodes which get it from running; ``why``: it is an error to get it."""

    def __init__(self, why: str = "") -> None:
        self.why = why


class ComfyNode:
    """Base of every node, which may also define validate_inputs(cls, ...) -> True or a message."""

    hidden: HiddenHolder | None = None

    @classmethod
    def define_schema(cls) -> Schema:
        """What the node is."""
        raise NotImplementedError

    @classmethod
    def execute(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """What the node does; the inputs come by keyword."""
        raise NotImplementedError


def bind(node: type[Any], **available: Any) -> type[Any]:
    """A copy of the class whose `hidden` holds what its schema asks for of `available`."""
    wanted = {item.name: available.get(item.name) for item in node.define_schema().hidden}
    return type(node.__name__, (node,), {"hidden": HiddenHolder(**wanted)})


def describe_inputs(inputs: Sequence[Input]) -> dict[str, dict[str, list[Any]]]:
    """{"required": {id: [type, options]}, "optional": ...}; "optional" only when there is one."""
    groups: dict[str, dict[str, list[Any]]] = {"required": {}}
    for item in inputs:
        group = groups.setdefault("optional" if item.optional else "required", {})
        group[item.id] = [item.io_type, item.as_dict()]
    return groups


def object_info(node: type[ComfyNode]) -> dict[str, Any]:
    """The node's entry in ComfyUI's GET /object_info, ready for JSON."""
    schema = node.define_schema()
    inputs: dict[str, Any] = describe_inputs(schema.inputs)
    if schema.hidden:
        inputs["hidden"] = {item.name: [item.value] for item in schema.hidden}
    never = ("output_matchtypes", "price_badge")
    same = ("display_name", "description", "category", "essentials_category")
    flags = ("output_node", "deprecated", "experimental", "dev_only", "api_node")
    return {
        "name": schema.node_id,
        "input": inputs,
        "input_order": {group: list(items) for group, items in inputs.items()},
        "is_input_list": False,
        "has_intermediate_output": False,
        "output": [output.io_type for output in schema.outputs],
        "output_is_list": [False for _ in schema.outputs],
        "output_name": [output.display_name or output.io_type for output in schema.outputs],
        "output_tooltips": [output.tooltip or None for output in schema.outputs],
        "search_aliases": list(schema.search_aliases) or None,
        "python_module": "sampling_kit",
        **dict.fromkeys(never),
        **{name: getattr(schema, name) for name in same},
        **{flag: getattr(schema, f"is_{flag}") for flag in flags},
    }
