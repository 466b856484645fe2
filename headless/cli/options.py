"""Options that several subcommands share, and what their values mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..shipped import example, names
from .report import json_option as json_option

LARGEST_SEED = 2**64 - 1
MOST_SEEDS = 1_000_000  # of one command


def parse_seeds(
    _: click.Context, __: click.Parameter, text: str | None
) -> range | tuple[int, ...] | None:
    """N, A-B (both of them included) and lists of these: 1,2,7-9. A range where they follow one another.

    A seed that is named twice counts once. Raises BadParameter, also for more than MOST_SEEDS.
    """
    if text is None:
        return None
    ranges = [_seed_range(part.strip(), text) for part in text.split(",")]
    if sum(part.stop - part.start for part in ranges) > MOST_SEEDS:
        raise click.BadParameter(f"{text[:80]!r} has more than {MOST_SEEDS} seeds")
    if len(ranges) == 1:
        return ranges[0]
    seeds = tuple(dict.fromkeys(seed for part in ranges for seed in part))
    whole = range(seeds[0], seeds[0] + len(seeds))
    return whole if seeds == tuple(whole) else seeds


def _seed_range(part: str, text: str) -> range:
    """The range of N or A-B, a part of ``text``."""
    ends = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", part)
    if not ends or not int(ends[1]) <= int(ends[2] or ends[1]) <= LARGEST_SEED:
        raise click.BadParameter(
            f"{text[:80]!r} is not a range or list such as 5, 0-7 or 1,2,7-9, below 2 to the 64"
        )
    return range(int(ends[1]), int(ends[2] or ends[1]) + 1)


def parse_row(context: click.Context, parameter: click.Parameter, text: str | None) -> range | None:
    """Seeds that follow one another, at least one."""
    seeds = parse_seeds(context, parameter, text)
    if isinstance(seeds, tuple):
        raise click.BadParameter(f"{text!r} leaves seeds out: give a range such as 1000-1063")
    return seeds


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


class WorkflowPath(click.Path):
    """A file, or the name of an example where there is no such file. The shell completes both."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        path = super().convert(value, param, ctx)
        shipped = None if Path(str(value)).exists() else example(str(value))
        return shipped or path

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        files = super().shell_complete(ctx, param, incomplete)
        return [CompletionItem(name) for name in names() if name.startswith(incomplete)] + files


workflow_argument = click.argument("workflow", type=WorkflowPath())
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
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
    "--seeds",
    callback=parse_seeds,
    metavar="N|A-B|N,A-B",
    help="Run once per seed: 5, 0-7 or 1,2,7-9.",
)


only_option = click.option(
    "--only",
    multiple=True,
    metavar="NODE",
    help="Run up to this output alone, named by its id or title; may be repeated.",
)
choices_option = click.option(
    "--choices/--no-choices",
    default=True,
    help="Take one of {a|b} in prompts, by the job's seed (default), or leave such texts alone.",
)
server_header_option = click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Send this with every request; may be repeated. SAMPLING_KIT_BEARER_TOKEN in the environment "
    "is a bearer token that no list of processes shows.",
)
proxies_option = click.option(
    "--environment-proxies",
    is_flag=True,
    help="Use the proxies of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.",
)


def set_device(name: str) -> str:
    """Choose where models run; the device's name."""
    from ..calls.preparation import set_device

    return set_device(name)


against_option = click.option(
    "--against",
    type=click.Choice(["usual", "all"]),
    default="usual",
    show_default=True,
    help="Training-free solvers to compare with.",
)
trajectories_option = click.option(
    "--trajectories",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of recordings. Default: beside FILE.",
)
