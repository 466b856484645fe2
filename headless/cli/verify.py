"""sampling-kit verify"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..terminal_text import say, say_error
from ..workflow import NodeFailure, Workflow, WorkflowError, load, reason_of, stdin_to_file
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report

if TYPE_CHECKING:
    from ..reproduce import Verdict

KINDS = ".png", ".webp"
#: How a picture ends, and the exit code of the command for it.
EXACT, NEAR, DIFFERS, FAILED = "bit for bit", "within 2/255", "not reproduced", "could not be run"
INVALID = "not a picture that can be verified"
CODES = {EXACT: 0, NEAR: 0, DIFFERS: 1, FAILED: 1, INVALID: 2}


@click.command("verify", cls=JsonCommand)
@click.argument("pictures", type=click.Path(path_type=Path), nargs=-1, required=True)
@options.settings_option
@options.input_option
@options.models_option
@options.device_option
@options.json_option
@options.debug_option
def verify_picture(
    pictures: Sequence[Path], settings: Sequence[str], input_dir: Path, models_dir: Path, device: str,
    style: str | None, debug: bool,
) -> None:  # fmt: skip
    """Run the workflows that PICTURES (PNG, WebP, or folders of them; - is stdin) carry again: do they give the same pixels?

    Ends with 0 if all do: bit for bit, or within 2/255 where a picture is from another host. Ends with 1 if one does
    not, naming what is not as it was, and with 2 if one is none that can be verified; the others are looked at all the
    same. A run writes to a folder of its own. Pictures in folders that carry no workflow are passed over. Paths of models
    outside of --models are taken only where --set repeats them.
    """
    report = Report(style)
    with errors_reported(debug, report), _stdin_as_file(pictures) as places:
        files = list(_files(places))
        if not files:
            raise WorkflowError(f"{pictures[0]}: no PNG or WebP with a workflow lies there")
        look = _looker(settings, input_dir, models_dir, options.set_device(device))
        ends: Counter[str] = Counter()
        for file in files:
            try:
                verdict = look(file)
            except (WorkflowError, NodeFailure) as error:
                if files == list(places):
                    raise
                say_error(reason_of(error))
                end = INVALID if isinstance(error, WorkflowError) else FAILED
                facts = dict(file=str(file), result=end, error=reason_of(error))
            else:
                end = EXACT if verdict.same else NEAR if verdict.reproduces else DIFFERS
                facts = dict(file=str(file), result=end) | _told(verdict)
                if not report:
                    say(f"{file}: {verdict}")
            ends[end] += 1
            report.add("pictures", "picture", facts)
        if len(files) > 1 and not report:
            counts = ", ".join(f"{ends[end]} {end}" for end in CODES if ends[end])
            say(f"{len(files)} pictures: {counts}")
    code = max(CODES[end] for end in ends)
    if code:
        raise SystemExit(code)


def _looker(
    settings: Sequence[str], input_dir: Path, models_dir: Path, device: str
) -> Callable[[Path], Verdict]:
    """What verifies one picture."""
    from ..editor_graph import converter
    from ..registry import registry
    from ..reproduce import verify
    from ..settings_flags import with_settings
    from .prepare import context_of, refuse_mistakes

    nodes = registry()

    def look(file: Path) -> Verdict:
        saved = load(file, converter(nodes))
        loaded = with_settings(saved, nodes, settings)
        if loaded.prompt != saved.prompt:
            raise WorkflowError(
                "--set: verify runs the values of the picture; --set may only repeat them"
            )
        context = context_of(loaded, Path("output"), input_dir, models_dir, device)

        def check(read: Workflow) -> None:
            refuse_mistakes(read, nodes, context)

        return verify(file, nodes, context, check)

    return look


@contextmanager
def _stdin_as_file(pictures: Sequence[Path]) -> Iterator[list[Path]]:
    """The places; for "-" a file that goes in the end."""
    with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch:
        stdin = stdin_to_file(Path(scratch)) if Path("-") in pictures else None
        yield [stdin if stdin and place == Path("-") else place for place in pictures]


def _files(places: Sequence[Path]) -> Iterator[Path]:
    """The files, and those in folders that carry an API graph, each once."""
    seen: set[Path] = set()
    for place in places:
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in inside:
            if place.is_dir() and not (file.suffix.lower() in KINDS and _carries(file)):
                continue
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _carries(file: Path) -> bool:
    """Whether a picture in a folder is to be verified: damaged ones are, so that they are named."""
    from ..picture_text import DAMAGED, picture_texts

    try:
        texts = picture_texts(file) if file.is_file() else None
    except (OSError, *DAMAGED):
        return True
    return texts is not None and not texts.keys().isdisjoint(("prompt", "workflow"))


def _told(verdict: Verdict) -> dict[str, Any]:
    from ...schedulers.measure import plain

    then_and_now = {
        name: [str(then), str(now)] for name, (then, now) in verdict.differences.items()
    }
    return dict(
        bit_for_bit=verdict.same,
        reproduces=verdict.reproduces,
        farthest=plain(verdict.farthest),
        differences=then_and_now,
    )
