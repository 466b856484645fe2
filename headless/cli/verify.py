"""sampling-kit verify"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..calls.results import VerifyResult
from ..calls.verify_pictures import verify
from ..terminal_text import say, say_error
from ..workflow import WorkflowError, reason_of
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report

if TYPE_CHECKING:
    from ..reproduce import Verdict

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
    ends: Counter[str] = Counter()

    def done(result: VerifyResult) -> None:
        error, verdict = result.error, result.verdict
        if error is not None:
            if not any(place.is_dir() for place in pictures):
                raise error
            say_error(reason_of(error))
            end = INVALID if isinstance(error, WorkflowError) else FAILED
            facts: dict[str, Any] = dict(error=reason_of(error))
        else:
            assert verdict is not None
            end = EXACT if verdict.same else NEAR if verdict.reproduces else DIFFERS
            facts = _told(verdict)
            if not report:
                say(f"{result.file}: {verdict}")
        ends[end] += 1
        report.add("pictures", "picture", dict(file=str(result.file), result=end) | facts)

    with errors_reported(debug, report):
        device = options.set_device(device)
        where: dict[str, Any] = dict(input=input_dir, models=models_dir, device=device)
        verify(pictures, settings=settings, **where, done=done)
        if ends.total() > 1 and not report:
            counts = ", ".join(f"{ends[end]} {end}" for end in CODES if ends[end])
            say(f"{ends.total()} pictures: {counts}")
    code = max(CODES[end] for end in ends)
    if code:
        raise SystemExit(code)


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
