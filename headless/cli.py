"""The `sampling-kit` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .context import Context, Progress, use
from .workflow import NodeFailure, Workflow, WorkflowError, load

if TYPE_CHECKING:
    from .graph import Registry

NAMES = {"COMFY_DYNAMICCOMBO_V3": "COMBO"}  # in the list for people

debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
input_option = click.option(
    "--input",
    "input_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="input",
    show_default=True,
    help="Folder that LoadImage reads from.",
)
models_option = click.option(
    "--models",
    "models_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="models",
    show_default=True,
    help="Folder of models; diffusers folders lie in its diffusers/.",
)
workflow_argument = click.argument("workflow", type=click.Path(path_type=Path))


def registry() -> Registry:
    """{node id: class} of this pack's nodes and of the stand-ins for ComfyUI's core nodes."""
    from ..nodes import NODES
    from .core_nodes import CORE_NODES

    nodes: tuple[type[Any], ...] = (*CORE_NODES, *NODES)
    return {node.define_schema().node_id: node for node in nodes}


def set_device(name: str) -> str:
    """Choose where models run; returns the device's name. UsageError if it is not there."""
    from ..nodes import host

    try:
        return str(host.set_device(name))
    except ValueError as error:
        raise click.UsageError(f"--device {name}: {error}") from None


def _parse_seeds(_: click.Context, __: click.Parameter, text: str | None) -> range | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not found or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{text!r} is not a range such as 0-7")
    return range(int(found[1]), int(found[2]) + 1)


@click.group()
def main() -> None:
    """Run ComfyUI workflows of diffusion samplers without ComfyUI."""


@main.command()
@workflow_argument
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NODE.INPUT=VALUE",
    help="Set an input of a node, named by its id or title; may be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Set every seed of the workflow.")
@click.option("--seeds", callback=_parse_seeds, metavar="A-B", help="Run once per seed.")
@click.option(
    "--output",
    "output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="output",
    show_default=True,
    help="Folder for the images.",
)
@input_option
@models_option
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@debug_option
def run(
    workflow: Path,
    settings: Sequence[str],
    seed: int | None,
    seeds: range | None,
    output_dir: Path,
    input_dir: Path,
    models_dir: Path,
    device: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Run WORKFLOW: API-format JSON, or a PNG that ComfyUI or this tool saved."""
    if seed is not None and seeds is not None:
        raise click.UsageError("use --seed or --seeds, not both")
    plan: Sequence[int | None] = seeds if seeds is not None else [seed]
    with _errors_reported(debug):
        from .overrides import with_seed, with_settings

        nodes = registry()
        loaded = with_settings(load(workflow), nodes, settings)
        context = _context(loaded, output_dir, input_dir, models_dir, set_device(device))
        for end in (plan[0], plan[-1]):  # what fits both ends fits all seeds
            _check(with_seed(loaded, nodes, end), nodes, context)
        runs = []
        for one in plan:
            runs.append(_run_once(with_seed(loaded, nodes, one), nodes, context, as_json))
            runs[-1]["seed"] = one
            if not as_json:
                for heading, text in _texts(runs[-1]["outputs"], loaded, nodes):
                    click.echo(f"{heading}:\n{text}", err=True)
                click.echo("\n".join(runs[-1]["files"]))
        if as_json:
            click.echo(json.dumps({"workflow": str(workflow), "runs": runs}, allow_nan=False))


@main.command()
@workflow_argument
@input_option
@models_option
@debug_option
def check(workflow: Path, input_dir: Path, models_dir: Path, debug: bool) -> None:
    """Say what is wrong with WORKFLOW, without running it."""
    with _errors_reported(debug):
        loaded = load(workflow)
        context = _context(loaded, Path("output"), input_dir, models_dir, "cpu")
        _check(loaded, registry(), context)
        click.echo(f"{workflow}: fine, {len(loaded.prompt)} nodes")


@main.command("nodes")
@click.option("--json", "as_json", is_flag=True, help="Print what ComfyUI's /object_info would.")
@debug_option
def list_nodes(as_json: bool, debug: bool) -> None:
    """List the nodes that run here."""
    with _errors_reported(debug):
        from ..nodes.io_standalone import object_info

        infos = {name: object_info(node) for name, node in registry().items()}
        if as_json:
            click.echo(json.dumps(infos))
            return
        for name, info in infos.items():
            groups = (info["input"].get(group, {}) for group in ("required", "optional"))
            inputs = ", ".join(
                f"{key} {NAMES.get(kind, kind)}"
                for group in groups
                for key, (kind, _) in group.items()
            )
            outputs = ", ".join(info["output"]) or "nothing"
            click.echo(f"{name} ({info['display_name']}): {inputs or 'nothing'} -> {outputs}")


@contextmanager
def _errors_reported(debug: bool) -> Iterator[None]:
    """Turn an exception into one message on stderr and an exit code: 2 invalid, 1 failed, 130."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except KeyboardInterrupt:
        click.echo("Interrupted", err=True)
        raise SystemExit(130) from None
    except Exception as error:
        if debug or isinstance(error, click.ClickException):
            raise
        expected = isinstance(error, WorkflowError | NodeFailure)
        text = str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)"
        click.echo(f"Error: {text}", err=True)
        raise SystemExit(2 if isinstance(error, WorkflowError) else 1) from None


def _context(workflow: Workflow, output: Path, input: Path, models: Path, device: str) -> Context:
    """A run without progress; previews go to output/temp."""
    temp = output / "temp"
    return Context(output, input, temp, device, None, workflow.prompt, workflow.ui, models=models)


def _check(workflow: Workflow, nodes: Registry, context: Context) -> None:
    """Raise WorkflowError with one line per mistake."""
    from .graph import check as find_errors

    with use(context):
        errors = find_errors(workflow, nodes)
    if errors:
        raise WorkflowError("\n       ".join(str(error) for error in errors))


def _run_once(workflow: Workflow, nodes: Registry, context: Context, quiet: bool) -> dict[str, Any]:
    """{"outputs", "files", "seconds"} of one run."""
    from .graph import execute, title

    started = time.perf_counter()
    with ExitStack() as stack:
        progress = None
        if not quiet and sys.stderr.isatty():
            progress = stack.enter_context(_bars(lambda node: title(workflow.prompt, node, nodes)))
        here = replace(context, prompt=workflow.prompt, workflow=workflow.ui, progress=progress)
        outputs = execute(workflow, nodes, here)
    return {
        "outputs": _plain(outputs),
        "files": _files(outputs, {"output": context.output, "temp": context.temp}),
        "seconds": round(time.perf_counter() - started, 3),
    }


@contextmanager
def _bars(name: Callable[[str], str]) -> Iterator[Progress]:
    """A progress callback that draws one bar per node on stderr."""
    from tqdm import tqdm

    bars: dict[str, tqdm[Any]] = {}
    columns, lines = shutil.get_terminal_size()  # never 0, as some pseudo-terminals say

    def report(node: str, step: int, total: int) -> None:
        if node not in bars:
            bars[node] = tqdm(total=total, desc=name(node), ncols=columns, nrows=lines)
        bars[node].update(step - bars[node].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


def _texts(
    outputs: Mapping[str, Mapping[str, Any]], workflow: Workflow, nodes: Registry
) -> Iterator[tuple[str, str]]:
    """(title of a node, text that it shows), each text once."""
    from .graph import title

    shown = {text: node for node, ui in outputs.items() for text in ui.get("text", ())}
    yield from ((title(workflow.prompt, node, nodes), text) for text, node in shown.items())


def _files(outputs: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]) -> list[str]:
    """Absolute paths of the images and other files that nodes say they wrote."""
    shown = (entries for ui in outputs.values() for entries in (ui.get("images"), ui.get("files")))
    entries = (entry for some in shown for entry in some or ())
    paths = (folders[entry["type"]] / entry["subfolder"] / entry["filename"] for entry in entries)
    return [str(path.resolve()) for path in paths]


def _plain(value: Any) -> Any:
    """`value` as strict JSON: no NaN or infinity (None), anything unknown as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


if __name__ == "__main__":
    main()
