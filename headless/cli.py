"""The `sampling-kit` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .context import Context, Progress, use
from .workflow import NodeFailure, Workflow, WorkflowError, load

if TYPE_CHECKING:
    from .graph import Kept, Registry

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
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
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


def set_images_at_once(count: int | None) -> None:
    from ..nodes.host.alone import guider

    guider.set_images_at_once(count)


def _parse_seeds(_: click.Context, __: click.Parameter, text: str | None) -> range | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not found or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{text!r} is not a range such as 0-7")
    return range(int(found[1]), int(found[2]) + 1)


settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NODE.INPUT=VALUE",
    help="Set an input of a node, named by its id or title; may be repeated.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Set every seed of the workflow."
)
seeds_option = click.option(
    "--seeds", callback=_parse_seeds, metavar="A-B", help="Run once per seed."
)
output_option = click.option(
    "--output",
    "output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="output",
    show_default=True,
    help="Folder for the images.",
)


@click.group()
def main() -> None:
    """Run ComfyUI workflows of diffusion samplers without ComfyUI."""


@main.command()
@workflow_argument
@settings_option
@seed_option
@seeds_option
@output_option
@input_option
@models_option
@device_option
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most images in one call of the network; default: what fits into a GPU's memory. The images stay the same.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Refuse operations that may differ from run to run; fixes the threads at 1.",
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
    at_once: int | None,
    deterministic: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Run WORKFLOW: API-format JSON, or a PNG that ComfyUI or this tool saved."""
    if seed is not None and seeds is not None:
        raise click.UsageError("use --seed or --seeds, not both")
    plan: Sequence[int | None] = seeds if seeds is not None else [seed]
    with _errors_reported(debug):
        from .overrides import with_seed, with_settings

        if deterministic:
            from .provenance import be_deterministic

            be_deterministic(threads=1)
        nodes = registry()
        set_images_at_once(at_once)
        loaded = with_settings(load(workflow), nodes, settings)
        context = _context(loaded, output_dir, input_dir, models_dir, set_device(device))
        for end in (plan[0], plan[-1]):  # what fits both ends fits all seeds
            _check(with_seed(loaded, nodes, end), nodes, context)
        runs: list[dict[str, Any]] = []
        kept: Kept | None = {} if len(plan) > 1 else None
        for one in plan:
            runs.append(_run_once(with_seed(loaded, nodes, one), nodes, context, as_json, kept))
            runs[-1]["seed"] = one
            if not as_json:
                for heading, text in _texts(runs[-1]["outputs"], loaded, nodes):
                    click.echo(f"{heading}:\n{text}", err=True)
                click.echo("\n".join(runs[-1]["files"]))
        if as_json:
            click.echo(json.dumps({"workflow": str(workflow), "runs": runs}, allow_nan=False))


@main.command()
@workflow_argument
@click.option("--server", default="http://127.0.0.1:8188", show_default=True, metavar="URL")
@settings_option
@seed_option
@seeds_option
@output_option
@click.option(
    "--watch/--no-watch", default=True, help="Wait for the results (default), or only submit."
)
@click.option(
    "--previews", is_flag=True, help="Keep the newest preview as preview.jpg in --output."
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server that does not answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@debug_option
def queue(
    workflow: Path,
    server: str,
    settings: Sequence[str],
    seed: int | None,
    seeds: range | None,
    output_dir: Path,
    watch: bool,
    previews: bool,
    patience: float,
    as_json: bool,
    debug: bool,
) -> None:
    """Run WORKFLOW on a ComfyUI server, once per seed, and fetch the results.

    The same command again goes on where it was stopped: what the output folder holds is not run twice.
    Ctrl-C takes its own prompts off the server. WORKFLOW may be in the editor's format where comfy-cli
    is installed.
    """
    if seed is not None and seeds is not None:
        raise click.UsageError("use --seed or --seeds, not both")
    with _errors_reported(debug):
        from .bars import Bars
        from .client import Job, Queue, to_api
        from .overrides import with_seed, with_settings

        plan: Sequence[int | None] = seeds if seeds is not None else [seed]
        nodes = registry()
        loaded = with_settings(load(workflow, lambda ui: to_api(ui, server)), nodes, settings)
        variants = [(one, with_seed(loaded, nodes, one)) for one in plan]
        jobs = [Job("" if one is None else f"seed{one}", w.prompt, w.ui) for one, w in variants]
        with Bars(output_dir, len(jobs), previews, quiet=as_json) as bars:
            queue = Queue(server, output_dir, bars, patience, watch, previews=previews)
            done = asyncio.run(queue.run(jobs))
        if as_json:
            click.echo(json.dumps({"workflow": str(workflow), "jobs": [asdict(d) for d in done]}))
        failed = [d for d in done if d.error]
        if failed:
            raise NodeFailure("\n       ".join(f"{d.label}: {d.error}" for d in failed))


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


@main.command()
@workflow_argument
@click.option(
    "--grid",
    multiple=True,
    metavar="NODE.INPUT=A,B,C",
    help="Values of an input, named as in --set; repeated: every combination.",
)
@settings_option
@seeds_option
@output_option
@input_option
@models_option
@device_option
@click.option(
    "--workers",
    type=click.IntRange(1, 4096),
    help="Processes; default: one per GPU, else one per core.",
)
@click.option(
    "--ray", "address", metavar="ADDRESS", help="A running Ray cluster, such as auto or HOST:6379."
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Per worker."
)
@debug_option
def sweep(
    workflow: Path,
    grid: Sequence[str],
    settings: Sequence[str],
    seeds: range | None,
    output_dir: Path,
    input_dir: Path,
    models_dir: Path,
    device: str,
    workers: int | None,
    address: str | None,
    threads: int,
    debug: bool,
) -> None:
    """Run WORKFLOW for every combination of --grid and --seeds, on all GPUs, cores or a Ray cluster.

    The same command again does what is missing: an item is done once, whatever is killed. The output
    folder gets items/, manifest.jsonl, table.md and sheet.png.
    """
    with _errors_reported(debug):
        from tqdm import tqdm

        from .overrides import with_settings
        from .sweep import Crew, sweep, work_list

        nodes = registry()
        loaded = with_settings(load(workflow), nodes, settings)
        context = _context(loaded, output_dir, input_dir, models_dir, "cpu")
        items = work_list(loaded, nodes, grid, seeds)
        for item in (items[0], items[-1]):
            _check(replace(loaded, prompt=item.prompt), nodes, context)
        crew = Crew(workers, address, device, threads, input_dir, models_dir)
        with tqdm(total=len(items), unit="item", disable=not sys.stderr.isatty()) as bar:

            def show(done: int, total: int) -> None:
                bar.update(done - bar.n)

            there, done = sweep(loaded, items, grid, seeds, output_dir, crew, show)
        click.echo(f"{output_dir}: {there + done} items, {there} of them were there")


@main.command()
@click.argument("png", type=click.Path(path_type=Path))
@input_option
@models_option
@device_option
@debug_option
def verify(png: Path, input_dir: Path, models_dir: Path, device: str, debug: bool) -> None:
    """Run the workflow that PNG carries again and say whether it gives the same pixels.

    Ends with 0 if it does and 1 if not, naming what is not as it was.
    """
    with _errors_reported(debug):
        from .provenance import verify

        nodes = registry()
        loaded = load(png)
        context = _context(loaded, Path("output"), input_dir, models_dir, set_device(device))
        verdict = verify(png, nodes, context, lambda found: _check(found, nodes, context))
        click.echo(f"{png}: {verdict}")
        if not verdict.same:
            raise SystemExit(1)


@main.command("nodes")
@click.option("--json", "as_json", is_flag=True, help="Print what ComfyUI's /object_info would.")
@debug_option
def list_nodes(as_json: bool, debug: bool) -> None:
    """List the nodes that run here."""
    with _errors_reported(debug):
        from ..nodes.host.alone.io import object_info

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


def _parse_numbers(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    """4-10 or 4,5,6,8,10."""
    try:
        parts = [[int(n) for n in part.split("-")] for part in text.split(",")]
        found = sorted({n for part in parts for n in range(part[0], part[-1] + 1)})
    except ValueError:
        found = []
    if not found or found[0] < 2:
        raise click.BadParameter(f"{text!r} is not numbers from 2 on, such as 4-10 or 4,6,8")
    return found


@main.command()
@click.argument("workflow", type=click.Path(path_type=Path), required=False)
@click.option(
    "--embedded",
    metavar="KIND",
    help="Fit an embedded model (network, mixture, …) instead of a workflow's.",
)
@click.option(
    "--cfg", type=float, default=1.0, show_default=True, help="CFG scale, with --embedded."
)
@click.option("--node", help="Id of the sampling node, if the workflow has several.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The fits: FILE.safetensors; the plot goes beside it as .png.",
)
@click.option(
    "--nfe",
    "nfes",
    callback=_parse_numbers,
    default="4-10",
    show_default=True,
    help="Evaluations per run to fit for.",
)
@click.option(
    "--seeds",
    callback=_parse_seeds,
    default="1000-1063",
    show_default=True,
    metavar="A-B",
    help="Of the trajectories.",
)
@click.option(
    "--held-out",
    "held",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="The last so many judge and are not fitted.",
)
@click.option(
    "--method", default="forward", show_default=True, help="Way to fit; a wrong one lists them."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the method; may be repeated.",
)
@click.option(
    "--starts",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Training-free pairs to fit from.",
)
@click.option(
    "--levels",
    type=click.IntRange(2),
    default=24,
    show_default=True,
    help="Noise levels to record.",
)
@click.option(
    "--substeps",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Teacher steps between levels.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Images per evaluation."
)
@click.option(
    "--against",
    type=click.Choice(["usual", "all"]),
    default="usual",
    show_default=True,
    help="Training-free solvers to compare with.",
)
@click.option(
    "--trajectories",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of recordings. Default: beside FILE.",
)
@input_option
@models_option
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@debug_option
def fit(
    workflow: Path | None, embedded: str | None, cfg: float, node: str | None, output: Path, nfes: list[int],
    seeds: range, held: int, method: str, settings: Sequence[str], starts: int, levels: int, substeps: int,
    batch: int, against: str, trajectories: Path | None, input_dir: Path, models_dir: Path, device: str,
    as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Fit a solver to the model, guidance and size of WORKFLOW, or to an embedded model.

    Records trajectories, fits one solver per number of evaluations, compares them with every training-free
    pair of solver and spacing, and writes the fits, the table and a plot. Interrupted, it goes on where it
    stopped when it is started again.
    """
    if (workflow is None) == (embedded is None):
        raise click.UsageError("give either a WORKFLOW or --embedded KIND")
    with _errors_reported(debug):
        import torch

        from ..nodes.denoiser.embedded import KINDS
        from ..nodes.fit.fit_solver import METHODS
        from . import fit as fitting

        chosen = _settings_of(METHODS, method, settings)
        if embedded is not None and embedded not in KINDS:
            raise click.UsageError(f"--embedded {embedded}: choose one of {', '.join(KINDS)}")
        nodes, here = registry(), set_device(device)
        loaded = load(workflow) if workflow else Workflow(Path(f"--embedded {embedded}"), {})
        context = _context(loaded, output.parent, input_dir, models_dir, here)
        folder = trajectories or output.parent / "trajectories"
        with ExitStack() as stack:
            stack.enter_context(use(context))
            stack.enter_context(torch.inference_mode())
            tell: Any = lambda what: lambda step, text="": None  # noqa: E731
            if not as_json and sys.stderr.isatty():
                tell = stack.enter_context(_fit_bars())
            if embedded is None:
                source = fitting.from_workflow(loaded, nodes, context, node)
            else:
                size = getattr(KINDS[embedded](), "size", 32)
                source = fitting.from_embedded(embedded, cfg, size, nodes)
            started = time.perf_counter()
            fits, found = fitting.whole(
                source, folder, nfes, chosen, seeds=seeds, held=held, levels=levels, substeps=substeps, batch=batch,
                starts=starts, against=against, say=(lambda text: None) if as_json else click.echo, tell=tell,
            )  # fmt: skip
        files = _write_fit(output, fits, found)
        if as_json:
            facts = found.payload() | {
                "files": files,
                "seconds": round(time.perf_counter() - started, 1),
            }
            click.echo(json.dumps(_plain(facts), allow_nan=False))
        else:
            click.echo("\n".join(["", found.text(), "", *files]))


def _settings_of(methods: Mapping[str, Any], name: str, given: Sequence[str]) -> Any:
    """The method's settings with NAME=VALUE applied; UsageError naming what is wrong."""
    if name not in methods:
        raise click.UsageError(f"--method {name}: choose one of {', '.join(methods)}")
    kind, values = methods[name], {}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or key not in fields:
            raise click.UsageError(f"--set {text}: give NAME=VALUE with one of {', '.join(fields)}")
        values[key] = value
    try:
        typed = {k: _typed(v, fields[k].default) for k, v in values.items()}
        return kind(**typed)
    except ValueError as error:
        raise click.UsageError(f"--set: {error}") from None


def _typed(text: str, like: Any) -> Any:
    """The text as a value of the kind of ``like``."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    return type(like)(text) if isinstance(like, int | float) else text


def _write_fit(output: Path, fits: Sequence[Any], found: Any) -> list[str]:
    """The fits, and the plot; the files' paths."""
    from ..nodes.fit.fitted_solver import SUFFIX, saved

    file = output if output.suffix == SUFFIX else output.with_name(output.name + SUFFIX)
    for fit in fits:
        saved(fit, file)
    files = [str(file.resolve())]
    from PIL import Image

    picture, plot = found.plot(), file.with_suffix(".png")
    Image.fromarray((picture[0] * 255).round().byte().cpu().numpy()).save(plot)
    return [*files, str(plot.resolve())]


@contextmanager
def _fit_bars() -> Iterator[Callable[[str], Callable[[int, str], None]]]:
    """what → report(step, text), one bar on stderr at a time."""
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def begin(what: str) -> Callable[[int, str], None]:
        while bars:
            bars.pop().close()
        bars.append(tqdm(total=None, desc=what, leave=False))

        def report(step: int, text: str = "") -> None:
            bars[-1].update(max(step - bars[-1].n, 0))
            if text:
                bars[-1].set_postfix_str(text)

        return report

    try:
        yield begin
    finally:
        for bar in bars:
            bar.close()


class Terminated(BaseException):
    """SIGTERM, which so unwinds as Ctrl-C does: nothing half-written stays."""


@contextmanager
def _termination_raised() -> Iterator[None]:
    def terminate(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _errors_reported(debug: bool) -> Iterator[None]:
    """Turn an exception into one message on stderr and an exit code: 2 invalid, 1 failed, 130, 143."""
    try:
        with _termination_raised():
            yield
    except (click.exceptions.Exit, BrokenPipeError):  # click ends quietly when nobody reads
        raise
    except KeyboardInterrupt:
        click.echo("Interrupted", err=True)
        raise SystemExit(130) from None
    except Terminated:
        click.echo("Terminated", err=True)
        raise SystemExit(143) from None
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


def _run_once(
    workflow: Workflow, nodes: Registry, context: Context, quiet: bool, kept: Kept | None = None
) -> dict[str, Any]:
    """{"outputs", "files", "seconds"} of one run."""
    from .graph import execute, title

    started = time.perf_counter()
    with ExitStack() as stack:
        progress = None
        if not quiet and sys.stderr.isatty():
            progress = stack.enter_context(_bars(lambda node: title(workflow.prompt, node, nodes)))
        here = replace(
            context,
            prompt=workflow.prompt,
            workflow=workflow.ui,
            progress=progress,
            tally=Counter(),
            plans=[],
        )
        outputs = execute(workflow, nodes, here, kept)
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
