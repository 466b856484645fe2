"""What a config may ask for, checked against the weights beside it before anything is built from it.

A config is a page of text that can ask for any number of layers and tables. A real one asks for nothing that its
weights do not have: a layer has weights of its own, a width is an axis of some tensor, and the tables that classes
compute for themselves (positions) are small beside the weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from .folder import Component, Config, Weights, last_read

P = ParamSpec("P")
R = TypeVar("R")

PLAIN = 1 << 16  # numbers up to here need no axis of a tensor that is as long
LONGEST = 1024  # entries of a list
TIMESTEPS = 100_000  # of a noise schedule
TOKENS = 4096  # of a prompt
TABLE = 1 << 26  # bytes that tables of positions may have beside small weights

#: Fields that count layers, and those that count layers of every block.
LAYERS = ("num_layers", "num_single_layers", "num_hidden_layers", "num_refiner_layers", "num_decoder_layers")  # fmt: skip
PER_BLOCK = (
    "layers_per_block", "encoder_layers_per_block", "decoder_layers_per_block", "num_res_blocks",
    "transformer_layers_per_block", "reverse_transformer_layers_per_block",
)  # fmt: skip
#: Fields that set how many positions a table has, an axis each.
POSITIONS = ("sample_size", "sample_width", "sample_height", "sample_frames", "pos_embed_max_size", "rope_max_seq_len")  # fmt: skip


def check_limits(part: Component, weights: Weights, file: str = "config.json") -> None:
    """Raises ValueError naming file and field where a number of ``part.config`` is beyond what the weights have."""
    where, count = f"{part.path}/{file}", len(weights.tensors)
    axis = max((n for t in weights.tensors.values() for n in t.shape), default=0)
    for name, value in part.config.items():
        for number in numbers(value, where, name):
            if abs(number) > max(PLAIN, axis):
                raise _beyond(where, name, number, f"the longest axis of the weights has {axis}")
    for name in LAYERS:
        if largest(part.config, name) > count:
            raise _beyond(where, name, largest(part.config, name), f"there are {count} weights")
    blocks = max((len(v) for v in part.config.values() if isinstance(v, list | tuple)), default=1)
    layers = {name: max(1, largest(part.config, name)) for name in PER_BLOCK}
    if max(layers.values()) > count or max(layers.values()) * blocks > 16 * count:
        name = max(layers, key=lambda n: layers[n])
        raise _beyond(where, name, layers[name], f"there are {count} weights for {blocks} blocks")
    _check_tables(part, weights, where)


def check_axes(part: Component, weights: Weights, names: Iterable[str]) -> None:
    """Raises ValueError where a field of ``names`` is longer than every axis of the weights."""
    axis = max((n for t in weights.tensors.values() for n in t.shape), default=0)
    for name in names:
        if (size := largest(part.config, name)) > axis:
            raise _beyond(
                f"{part.path}/config.json",
                name,
                size,
                f"the longest axis of the weights has {axis}",
            )


def _check_tables(part: Component, weights: Weights, where: str) -> None:
    """The tables of positions that a class computes: as wide as its layers, a row for every position."""
    c = part.config
    sizes = {name: largest(c, name) for name in POSITIONS}
    patch = max(1, largest(c, "patch_size"))
    square = max(sizes["sample_size"], sizes["pos_embed_max_size"] * patch) ** 2
    video = max(1, sizes["sample_width"] * sizes["sample_height"]) * max(1, sizes["sample_frames"])
    rows = max(square, video) // patch**2 + sizes["rope_max_seq_len"]
    width = max(1, largest(c, "num_attention_heads")) * max(1, largest(c, "attention_head_dim"))
    if "Transformer" in part.kind:
        room = max(TABLE, 2 * weights.bytes)
        if 8 * rows * width > room:
            name = max(sizes, key=lambda n: sizes[n])
            raise _beyond(where, name, sizes[name], f"its table would have {8 * rows * width >> 20} MB, more than the weights")  # fmt: skip


def check_scheduler(part: Component) -> None:
    """Raises ValueError where a noise schedule has more timesteps than any."""
    where = f"{part.path}/scheduler_config.json"
    for name, value in part.config.items():
        most = TIMESTEPS if isinstance(value, list) or "timesteps" in name else 1 << 31
        for number in numbers(value, where, name, TIMESTEPS):
            if abs(number) > most:
                raise _beyond(where, name, number, f"at most {most} are read")


def numbers(value: Any, where: str, name: str, longest: int = LONGEST) -> Iterator[int]:
    """The whole numbers in a field; ValueError for lists that are too long or too deep."""
    if isinstance(value, list | tuple):
        if len(value) > longest:
            raise _beyond(where, name, f"a list of {len(value)}", f"at most {longest} are read")
        for entry in value:
            yield from numbers(entry, where, name, longest)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def largest(config: Config, name: str) -> int:
    """The largest whole number in a field, 0 without one."""
    return max((abs(n) for n in numbers(config.get(name), "", name)), default=0)


def fields_for(kind: Any, config: Config, names: frozenset[str] | None = None) -> dict[str, Any]:
    """The fields of a config that the class ``kind`` declares, or of these ``names``.

    What else a config says never reaches a library: it may name code to run (auto_map) or a hub to load from.
    """
    declared = frozenset(inspect.signature(kind.__init__).parameters) - {"self", "kwargs", "args"}
    return {name: config[name] for name in config if name in (names or declared) and name[0] != "_"}


def _beyond(where: str, name: str, value: Any, why: str) -> ValueError:
    return ValueError(f"{where}: {name} = {str(value)[:40]} is too large: {why}")


#: What a wrong type or number in a config ends as, somewhere in a library or in a table of ours.
WRONG = (
    TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RuntimeError, AssertionError, OSError, EOFError,
    MemoryError, ValueError,
)  # fmt: skip


def errors_named(read: Callable[P, R]) -> Callable[P, R]:
    """``read``, whose first argument is a Folder, with every error a ValueError that names a file and its field."""

    @wraps(read)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        folder: Any = args[0]
        last_read.clear()
        try:
            return read(*args, **kwargs)
        except ImportError:
            raise
        except WRONG as error:
            if isinstance(error, ValueError) and str(folder.path) in str(error):
                raise
            detail = str(error).strip().partition("\n")[0][:300] or type(error).__name__
            at = last_read.get("at")
            place = f"{at[0]}: {at[1]} = {at[2]!r:.60}" if at else str(folder.path)
            raise ValueError(f"{place}: {type(error).__name__}: {detail}") from error

    return named
