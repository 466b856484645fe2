"""Options that several subcommands share, and what their values mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

LARGEST_SEED = 2**64 - 1


def parse_seeds(_: click.Context, __: click.Parameter, text: str | None) -> range | None:
    """A-B, both of them included."""
    if text is None:
        return None
    ends = re.fullmatch(r"(\d+)-(\d+)", text)
    if not ends or not int(ends[1]) <= int(ends[2]) <= LARGEST_SEED:
        raise click.BadParameter(f"{text[:80]!r} is not a range such as 0-7, below 2 to the 64")
    return range(int(ends[1]), int(ends[2]) + 1)


def _folder(flag: str, name: str, help: str) -> Any:
    """An option for a folder, by default the one called as the flag."""
    return click.option(
        flag,
        name,
        type=click.Path(file_okay=False, path_type=Path),
        default=flag.removeprefix("--"),
        show_default=True,
        help=help,
    )


workflow_argument = click.argument("workflow", type=click.Path(path_type=Path))
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of text."
)
input_option = _folder("--input", "input_dir", "Folder that LoadImage reads from.")
output_option = _folder("--output", "output_dir", "Folder for the images.")
models_option = _folder(
    "--models", "models_dir", "Folder of models; diffusers folders lie in its diffusers/."
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
)
settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NODE.INPUT=VALUE",
    help="Set an input of a node, named by its id or title; may be repeated.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, LARGEST_SEED), help="Set every seed of the workflow."
)
seeds_option = click.option(
    "--seeds", callback=parse_seeds, metavar="A-B", help="Run once per seed."
)


def seeds_to_run(seed: int | None, seeds: range | None) -> Sequence[int | None]:
    """The seeds of --seed or --seeds; [None] keeps those of the workflow. UsageError for both."""
    if seed is not None and seeds is not None:
        raise click.UsageError("use --seed or --seeds, not both")
    return seeds if seeds is not None else [seed]


def set_device(name: str) -> str:
    """Choose where models run; returns the device's name. UsageError if it is not there."""
    from ...nodes import host

    try:
        return str(host.places.set_device(name))
    except ValueError as error:
        raise click.UsageError(f"--device {name}: {error}") from None
