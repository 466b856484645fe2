"""Inputs for ``benchmarks.fuzz`` made from good ones: JSON values, PNG chunks and tensors are changed, not only bytes.

Every function takes bytes and a ``random.Random`` and gives bytes; a file that it cannot take apart is changed
byte by byte.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

Change = Callable[[bytes, Random], bytes]

NUMBERS = (
    0, 1, -1, 2, 3, 7, 63, 64, 255, 256, 1000, 10**4, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63, 2**64, 10**30, 10**400,
    0.0, -0.0, 0.5, 1.0, 1e-9, 5e-324, 1e-300, 1e16, 1e300, 1.7976931348623157e308,
)  # fmt: skip
TEXTS = (
    "", " ", "0", "nan", "inf", "-1", "1e999", "true", "\0", "\ud800", "\u202e", "\n", "../x", "/etc/passwd", "C:\\x",
    "\\\\host\\x", "NUL", "a.", "．．/x", "%batch_num%", "{0}", "%s", "1, 2, 3", "0:1, 1:0", "9" * 300, "x" * 5000,
)  # fmt: skip
#: JSON that Python's parser takes in and JSON does not have, or that overflows.
RAW = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000, b"[" * 500 + b"]" * 500)


def odd(chance: Random) -> Any:
    """A value that is unusual where it stands."""
    kind = chance.randrange(8)
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 5:
        return chance.choice(TEXTS)
    if kind == 5:
        return chance.choice((None, True, False, [], {}, [[]], {"": {}}))
    if kind == 6:
        return [str(chance.randrange(12)), chance.choice((0, 1, -1, 10**9, True, "0", 0.5))]
    return {"__value__": odd(chance)}


# ------------------------------------------------------------------------------------------- bytes


def flipped(data: bytes, chance: Random) -> bytes:
    """Some bytes changed, a piece cut out, doubled or cut off."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        kind, at = chance.randrange(6), chance.randrange(len(out) + 1)
        size = chance.choice((1, 2, 4, 8, 64, 512))
        if kind < 3 and out:
            out[at % len(out)] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind == 3:
            del out[at : at + size]
        elif kind == 4:
            out[at:at] = out[at : at + size]
        else:
            del out[at:]
    return bytes(out)


# -------------------------------------------------------------------------------------------- JSON


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    left = [value]
    while left:
        owner = left.pop()
        keys = owner if isinstance(owner, dict) else range(len(owner))
        for key in keys:
            yield owner, key
            if isinstance(owner[key], dict | list):
                left.append(owner[key])


def varied(value: Any, chance: Random, words: Sequence[str]) -> Any:
    """A JSON value, changed in some places; the old one is used up."""
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        found = list(places(value)) if isinstance(value, dict | list) else []
        if not found:
            return odd(chance)
        owner, key = chance.choice(found)
        kind = chance.randrange(9)
        if kind < 3:
            owner[key] = odd(chance)
        elif kind == 3 and words:
            owner[key] = chance.choice(words)
        elif kind == 4:
            other, place = chance.choice(found)
            owner[key] = json.loads(json.dumps(other[place])) if place in keys(other) else None
        elif kind == 5 and isinstance(owner, dict):
            name = chance.choice(words) if words and chance.random() < 0.7 else chance.choice(TEXTS)
            owner[name] = owner.pop(key) if chance.random() < 0.5 else odd(chance)
        elif kind == 6:
            del owner[key]
        elif kind == 7:
            for _ in range(chance.choice((1, 2, 50, 400))):
                owner[key] = [owner[key]] if chance.random() < 0.5 else {"a": owner[key]}
        elif isinstance(owner, list):
            owner += owner[: chance.choice((1, 10, 1000))]
    return value


def keys(owner: Any) -> Any:
    return owner if isinstance(owner, dict) else range(len(owner))


def written(value: Any, chance: Random) -> bytes:
    """JSON text, at times with what JSON does not have."""
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        spots = [i for i, byte in enumerate(text) if byte in b":,"]
        if spots:
            at = chance.choice(spots) + 1
            end = next((i for i in range(at, len(text)) if text[i] in b",}]"), len(text))
            text = text[:at] + chance.choice(RAW) + text[end:]
    return text


def json_change(words: Sequence[str], graph: Callable[[Any, Random], Any] | None = None) -> Change:
    """Changes JSON; ``graph`` knows better what to do with a graph of nodes."""

    def change(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.1:
            return flipped(data, chance)
        try:
            value = json.loads(data)
            if graph is not None and chance.random() < 0.6:
                value = graph(value, chance)
            if graph is None or chance.random() < 0.6:
                value = varied(value, chance, words)
            return written(value, chance)
        except (ValueError, RecursionError):
            return flipped(data, chance)

    return change


def graph_change(nodes: Mapping[str, Any]) -> Callable[[Any, Random], Any]:
    """Sets inputs of a graph of these nodes {id: class} to the ends of what they declare, and just beyond."""
    from sampling_kit.headless.prompt import slots

    def change(value: Any, chance: Random) -> Any:
        prompt = value.get("graph", value) if isinstance(value, dict) else {}
        known = [
            node
            for node in (prompt.values() if isinstance(prompt, dict) else ())
            if isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and node["class_type"] in nodes
            and isinstance(node.get("inputs"), dict)
        ]
        for node in chance.choices(known, k=chance.choice((1, 2, 4))) if known else ():
            if chance.random() < 0.15:
                node["class_type"] = chance.choice(sorted(nodes))
            schema = nodes[node["class_type"]].define_schema()
            there = list(slots(schema.inputs, node["inputs"]))
            if there:
                slot = chance.choice(there)
                facts = slot.options
                ends = [facts[k] for k in ("min", "max", "default") if facts.get(k) is not None]
                near = [e + s for e in ends if isinstance(e, int | float) for s in (-1, 1, 1e-9)]
                choices = [*ends, *near, *slot.choices, odd(chance)]
                node["inputs"][slot.id] = chance.choice(choices)
        return value

    return change


# --------------------------------------------------------------------------------------------- PNG

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """[(kind, body)] of a PNG, as far as it goes."""
    found, at = [], len(SIGNATURE)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(parts: Sequence[tuple[bytes, bytes]], length: Callable[[int], int] = int) -> bytes:
    """The PNG of chunks with right checksums; ``length`` may lie."""
    out = SIGNATURE
    for kind, body in parts:
        out += struct.pack(">I", length(len(body)) & 0xFFFFFFFF) + kind + body
        out += struct.pack(">I", zlib.crc32(kind + body))
    return out


def text_chunk(kind: bytes, keyword: bytes, text: bytes) -> tuple[bytes, bytes]:
    packed = {
        b"tEXt": text,
        b"zTXt": b"\0" + zlib.compress(text),
        b"iTXt": b"\1\0\0\0" + zlib.compress(text),
    }
    return kind, keyword + b"\0" + packed[kind]


def png_change(inner: Change) -> Change:
    """Changes chunks of a PNG; ``inner`` changes the JSON in its texts."""

    def change(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.1 or not data.startswith(SIGNATURE):
            return flipped(data, chance)
        parts = chunks(data)
        lie: Callable[[int], int] = int
        for _ in range(chance.choice((1, 1, 2, 3))):
            if not parts:
                break
            at = chance.randrange(len(parts))
            kind, body = parts[at]
            keyword, _, text = body.partition(b"\0")
            act = chance.randrange(8)
            if act == 0:
                parts[at] = kind, flipped(body, chance)
            elif act == 1:
                parts[at] = (
                    chance.choice((*TEXT_KINDS, b"IDAT", b"fdAT", b"acTL", b"\0\0\0\0")),
                    body,
                )
            elif act == 2:
                parts.insert(chance.randrange(len(parts) + 1), parts[at])
            elif act == 3:
                del parts[at]
            elif act == 4 and kind == b"IHDR" and len(body) >= 13:
                sizes = struct.pack(">2I", *chance.choices((0, 1, 2, 8, 9000, 2**15, 2**31), k=2))
                parts[at] = (
                    kind,
                    chance.choice((sizes + body[8:], body[:8] + flipped(body[8:], chance))),
                )
            elif act == 5:
                size = chance.choice(
                    (10**4, 10**6, 40 * 2**20 if chance.random() < 0.05 else 10**5)
                )
                parts[at] = text_chunk(chance.choice(TEXT_KINDS), b"prompt", b"0" * size)
            elif act == 6:
                lie = chance.choice(
                    (lambda n: n + 1, lambda n: n - 1, lambda n: 2**31, lambda n: 2**32 - 1)
                )
            elif kind == b"tEXt":
                parts[at] = text_chunk(chance.choice(TEXT_KINDS), keyword, inner(text, chance))
        return png(parts, lie)

    return change


# ------------------------------------------------------------------------------------- safetensors

WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "U8": 1, "I8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
DOUBLES = tuple(
    struct.pack("<d", v)
    for v in (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e16, 1e300, 1.7e308, float("inf"), float("-inf"), float("nan"))
)  # fmt: skip

Tensors = dict[str, tuple[str, list[int], bytes]]


def taken_apart(data: bytes) -> tuple[dict[str, str], Tensors]:
    """(metadata, {name: (dtype, shape, bytes)}); ValueError or the like for what is none."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body, told = data[8 + size :], header.pop("__metadata__", {})
    return dict(told), {
        name: (t["dtype"], list(t["shape"]), body[slice(*t["data_offsets"])])
        for name, t in header.items()
    }


def put_together(told: Mapping[str, Any], tensors: Tensors) -> bytes:
    header: dict[str, Any] = {"__metadata__": told}
    body = b""
    for name, (dtype, shape, content) in tensors.items():
        ends = [len(body), len(body) + len(content)]
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=ends)
        body += content
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def tensors_change(inner: Change) -> Change:
    """Changes numbers, shapes, types and names in a safetensors file; ``inner`` the JSON in its header."""

    def change(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.1:
            return flipped(data, chance)
        try:
            told, tensors = taken_apart(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return flipped(data, chance)
        for _ in range(chance.choice((1, 1, 2, 3))):
            act = chance.randrange(8)
            if act < 2 and told:
                key = chance.choice(sorted(told))
                told[key] = inner(str(told[key]).encode(), chance).decode("utf-8", "replace")
            elif tensors:
                name = chance.choice(sorted(tensors))
                dtype, shape, body = tensors[name]
                if act < 5:
                    spot = 8 * chance.randrange(len(body) // 8 or 1)
                    body = body[:spot] + chance.choice(DOUBLES) + body[spot + 8 :]
                    tensors[name] = dtype, shape, body[: len(tensors[name][2])]
                elif act == 5:
                    new = chance.choice(sorted(WIDTHS))
                    wider = WIDTHS.get(dtype, 8) // WIDTHS[new]
                    tensors[name] = new, [*shape, wider] if wider > 1 else shape, body
                elif act == 6:
                    shapes = [
                        shape[::-1],
                        [*shape, 1],
                        shape[1:],
                        [0, *shape, 10**9],
                        [len(body) // 8],
                    ]
                    tensors[name] = dtype, chance.choice(shapes), chance.choice((body, b""))
                elif chance.random() < 0.5:
                    del tensors[name]
                else:
                    tensors[chance.choice((*sorted(tensors), *TEXTS))] = tensors.pop(name)
        return put_together(told, tensors)

    return change
