"""Run the workflows of saved pictures again: do they give the same pixels?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings_flags import with_settings
from ..workflow import NodeFailure, Workflow, WorkflowError, load, stdin_to_file
from .preparation import Settings, context_of, refuse_mistakes, set_device, setting_texts
from .results import VerifyResult

if TYPE_CHECKING:
    from ..reproduce import Verdict

KINDS = ".png", ".webp"


def verify(
    pictures: Path | str | Sequence[Path | str],
    *,
    settings: Settings = (),
    input: Path | str = "input",
    models: Path | str = "models",
    device: str = "auto",
    done: Callable[[VerifyResult], None] | None = None,
) -> tuple[VerifyResult, ...]:
    """Run the workflows that ``pictures`` (PNG, WebP, or folders of them; "-" is stdin) carry again; a result each.

    A run writes to a folder of its own. Pictures in folders that carry no workflow are passed over. ``settings`` may
    only repeat what a picture says: absolute paths of models are taken from there alone. ``done`` is told every result
    as soon as it is there. Raises WorkflowError where no picture lies.
    """
    places = [pictures] if isinstance(pictures, Path | str) else list(pictures)
    with _stdin_as_file([Path(place) for place in places]) as paths:
        look = _looker(setting_texts(settings), Path(input), Path(models), set_device(device))
        return _verified(paths, look, done)


def _verified(
    places: Sequence[Path],
    look: Callable[[Path], Verdict],
    done: Callable[[VerifyResult], None] | None,
) -> tuple[VerifyResult, ...]:
    """A result for each picture. Raises WorkflowError where there is none."""
    files = list(_files(places))
    if not files:
        raise WorkflowError(
            f"{places[0] if places else 'pictures'}: no PNG or WebP with a workflow lies there"
        )
    results = []
    for file in files:
        try:
            result = VerifyResult(file, look(file))
        except (WorkflowError, NodeFailure) as error:
            result = VerifyResult(file, None, error)
        results.append(result)
        if done is not None:
            done(result)
    return tuple(results)


def _looker(
    settings: Sequence[str], input_dir: Path, models_dir: Path, device: str
) -> Callable[[Path], Verdict]:
    """What verifies one picture."""
    from ..editor_graph import converter
    from ..registry import registry
    from ..reproduce import verify as reproduced

    nodes = registry()

    def look(file: Path) -> Verdict:
        saved = load(file, converter(nodes))
        chosen = with_settings(saved, nodes, settings)
        if chosen.prompt != saved.prompt:
            raise WorkflowError(
                "--set: verify runs the values of the picture; --set may only repeat them"
            )
        context = context_of(chosen, Path("output"), input_dir, models_dir, device)

        def check(read: Workflow) -> None:
            refuse_mistakes(read, nodes, context)

        return reproduced(file, nodes, context, check)

    return look


@contextmanager
def _stdin_as_file(places: Sequence[Path]) -> Iterator[list[Path]]:
    """The places; for "-" a file that goes in the end."""
    with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch:
        stdin = stdin_to_file(Path(scratch)) if Path("-") in places else None
        yield [stdin if stdin and place == Path("-") else place for place in places]


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
