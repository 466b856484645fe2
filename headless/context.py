"""What a run knows about its surroundings, for the stand-ins of ComfyUI's core nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Context:
    """One run: its folders, device and graph. `node` is the id of the node that is executing, `tally`
    counts "evaluations" of denoisers and "network_calls", `plans` says what each sampling run did. `typed` are the
    texts of --set: absolute paths are taken from them alone. `errors`: what sampling runs estimate of theirs. `new_models`: where models are written, in place of
    `models`."""

    output: Path
    input: Path
    temp: Path
    device: str
    progress: Progress | None
    prompt: dict[str, Any]
    workflow: dict[str, Any] | None
    node: str | None = None
    models: Path = Path("models")
    tally: Counter[str] = field(default_factory=Counter)
    plans: list[dict[str, Any]] = field(default_factory=list)
    typed: frozenset[str] = frozenset()
    new_models: Path | None = None
    errors: list[Any] = field(default_factory=list)

    @property
    def models_to_write(self) -> Path:
        """The folder that new models go to."""
        return self.new_models or self.models

    def report(self, step: int, total: int) -> None:
        """Tell whoever watches that the executing node has done `step` of `total` steps."""
        if self.progress is not None and self.node is not None:
            self.progress(self.node, step, total)


_current: ContextVar[Context] = ContextVar("sampling_kit_run")


def current() -> Context:
    """The run that is going on; raises LookupError outside of one."""
    return _current.get()


@contextmanager
def use(context: Context) -> Iterator[Context]:
    """Make `context` the current one inside the with block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
