"""The settings that A1111, Forge and the sites that follow them write under a picture, as ours.

    a castle, sunset
    Negative prompt: blurry
    Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 7, Size: 512x768, Clip skip: 2

The last line is pairs ``key: value``; values with commas stand in quotes (as JSON writes them) or in brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...schedulers.solver import published as solvers
from ...schedulers.spacing import schedule_names as spacings

AUTO = "auto"
MOST_TEXT = 16384  # characters
NEGATIVE, FIRST_KEY = "Negative prompt:", re.compile(r"Steps:\s*\d+\s*(?:,|$)", re.M)
LORA = re.compile(r"<(?:lora|lyco|hypernet):([^:>]+)((?::[^>]*)?)>")
EDITING = re.compile(r"\[[^\[\]]*:[^\[\]]*\]|\bBREAK\b|\bAND\b")

#: The schedule that A1111 1.9 and later takes for a sampler where "Schedule type" is Automatic.
AUTOMATIC = {
    "DPM++ 2M": "Karras", "DPM++ SDE": "Karras", "DPM++ 2S a": "Karras", "DPM2": "Karras", "DPM2 a": "Karras",
    "Restart": "Karras", "DPM++ 2M SDE": "Exponential", "DPM++ 2M SDE Heun": "Exponential", "DPM++ 3M SDE": "Exponential",
}  # fmt: skip
#: Keys that say what made the picture, not how a run goes.
ABOUT = (
    "Model",
    "Model hash",
    "VAE",
    "VAE hash",
    "Version",
    "Hashes",
    "Lora hashes",
    "TI hashes",
    "User",
    "Module 1",
)
#: Where a setting lives that Sample has no widget for.
ELSEWHERE = {
    "Clip skip": "CLIP Set Last Layer at minus this number",
    "Variation seed": "a Noise node: second seed",
    "Variation seed strength": "a Noise node: strength of the second seed",
    "RNG": "a Noise node: Philox draws as A1111 on a GPU does, torch's CPU as it does on the CPU",
    "Distilled CFG Scale": "FluxGuidance",
    "Refiner": "Run Two Experts",
    "Eta": "the eta of a solver node",
    "Schedule rho": "rho of Steps, spacing karras",
}  # fmt: skip
HIRES = ("Hires upscale", "Hires steps", "Hires upscaler", "Hires resize")


@dataclass(frozen=True)
class Settings:
    """What Sample and the nodes before it take. ``said``: a line for each thing without a counterpart."""

    positive: str = ""
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 5.0
    solver: str = AUTO
    spacing: str = AUTO
    denoise: float = 1.0
    width: int = 512
    height: int = 512
    said: tuple[str, ...] = field(default=())


def settings_of(text: str) -> Settings:
    """The settings in ``text``. Raises ValueError where there are none, or one has no number."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"text has {len(text)} characters, at most {MOST_TEXT} are read")
    positive, negative, pairs = _parts(text)
    said: list[str] = []
    solver, spacing = _sampler(pairs, said)
    steps = _number(pairs, "Steps", int, 20, 1, 10000)
    hires = any(key in pairs for key in HIRES)
    denoise = 1.0 if hires else _number(pairs, "Denoising strength", float, 1.0, 0.0, 1.0)
    if hires:
        strength = pairs.get("Denoising strength", "?")
        said.append(f"Hires fix: a second Sample with denoise {strength} on the enlarged latent")
    elif denoise < 1:
        done = int(min(denoise, 0.999) * steps) + 1
        said.append(
            f"denoise {denoise:g}: A1111 takes {done} of {steps} steps then; steps here are those taken"
        )
        steps, denoise = done, max(denoise, 0.01)
    width, height = _size(pairs)
    said += _without(pairs)
    return Settings(
        _plain(positive, said), _plain(negative, said), _number(pairs, "Seed", int, 0, 0, 2**64 - 1), steps,
        _number(pairs, "CFG scale", float, 5.0, 0.0, 100.0), solver, spacing, denoise, width, height,
        tuple(dict.fromkeys(said)),
    )  # fmt: skip


def _parts(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt, {key: value}. Line breaks may be lost: the parts are where their first words are."""
    starts = [match.start() for match in FIRST_KEY.finditer(text)]
    of_lines = [at for at in starts if at == 0 or text[at - 1] == "\n"]
    start = of_lines[-1] if of_lines else next(iter(starts), None)
    if start is None:
        raise ValueError(
            "text: no settings are in it; copy them whole from A1111 or the picture's page, with the line "
            "“Steps: 30, Sampler: …, CFG scale: …, Seed: …”"
        )
    prompts, line = text[:start], text[start:].splitlines()[0]
    positive, _, negative = prompts.partition(NEGATIVE)
    return positive.strip(), negative.strip(), dict(_pairs(line))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    for part in _split(line):
        key, colon, value = part.partition(":")
        if colon and key.strip():
            yield key.strip(), _unquoted(value.strip())


def _split(line: str) -> Iterator[str]:
    """The parts between commas, without those in quotes and brackets."""
    part, depth, quoted, escaped = "", 0, False, False
    for letter in line:
        if quoted:
            quoted, escaped = letter != '"' or escaped, letter == "\\" and not escaped
        else:
            quoted = letter == '"'
            depth = max(0, depth + (letter in "[{(") - (letter in "]})"))
        if letter == "," and not quoted and not depth:
            yield part
            part = ""
        else:
            part += letter
    yield part


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def _sampler(pairs: Mapping[str, str], said: list[str]) -> tuple[str, str]:
    """Names of Sample's solver and spacing; "auto" where nobody here has the name."""
    sampler, schedule = pairs.get("Sampler", ""), pairs.get("Schedule type", "")
    words = sampler.split(" ")
    if (
        not schedule
        and len(words) > 1
        and words[-1] in ("Karras", "Exponential", "Polyexponential")
    ):
        sampler, schedule = " ".join(words[:-1]), words[-1]
    if schedule == "Automatic":
        schedule = AUTOMATIC.get(sampler, "Uniform")
    if not schedule:  # before 1.9 a sampler without a word behind it was uniform in time
        schedule = "Uniform"
    solver = spacing = AUTO
    if sampler:
        try:
            row, differs = solvers.by_foreign_name(sampler)
            solver = row.name
            said += [f"Sampler {sampler}: {row.name} comes next; {differs}"] if differs else []
        except ValueError:
            said.append(f"Sampler {sampler}: nobody here has it; solver and spacing stay auto")
            return AUTO, AUTO
    try:
        spacing, differs = spacings.by_foreign_name(schedule)
        said += [f"Schedule type {schedule}: {differs}"] if differs else []
    except ValueError:
        said.append(f"Schedule type {schedule}: nobody here has it; spacing stays auto")
    return solver, spacing


def _number(
    pairs: Mapping[str, str], key: str, kind: type, usual: Any, low: float, high: float
) -> Any:
    if key not in pairs:
        return usual
    try:
        value = kind(pairs[key])
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        whole = "a whole number" if kind is int else "a number"
        raise ValueError(
            f"text: {key} = {pairs[key][:40]!r} must be {whole} from {low:g} to {high:g}"
        )
    return value


def _size(pairs: Mapping[str, str]) -> tuple[int, int]:
    if "Size" not in pairs:
        return Settings.width, Settings.height
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", pairs["Size"].replace(" ", ""))
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or not all(16 <= side <= 16384 for side in sides):
        raise ValueError(
            f"text: Size = {pairs['Size'][:40]!r} must be such as 512x768, sides from 16 to 16384"
        )
    return sides[0], sides[1]


def _without(pairs: Mapping[str, str]) -> Iterator[str]:
    """A line for each key that none of Sample's widgets stands for."""
    taken = {
        "Steps",
        "Sampler",
        "Schedule type",
        "CFG scale",
        "Seed",
        "Size",
        "Denoising strength",
        *HIRES,
    }
    rest = {key: value for key, value in pairs.items() if key not in taken}
    for key in [key for key in rest if key in ELSEWHERE]:
        yield f"{key} {rest.pop(key)[:60]}: {ELSEWHERE[key]}"
    if about := [f"{key} {rest.pop(key)[:40]}" for key in ABOUT if key in rest]:
        yield f"made with {', '.join(about)}"
    if rest:
        yield f"no counterpart: {', '.join(f'{key} {value[:40]}' for key, value in rest.items())}"


def _plain(prompt: str, said: list[str]) -> str:
    """The prompt without what A1111 takes out of it."""
    for name, weight in LORA.findall(prompt):
        said.append(f"<{name}{weight}>: Load LoRA")
    if EDITING.search(prompt):
        said.append("prompt editing ([a:b:0.5], AND, BREAK): ComfyUI reads it as plain text")
    return re.sub(r"[ \t]{2,}", " ", LORA.sub("", prompt)).strip(" ,\n")
