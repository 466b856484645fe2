"""What a long fit says while it runs: a word at once, then what it does, how fast, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

PARTS = 1000  # of a progress bar
EVERY = 1.0  # seconds between two texts at least


@dataclass
class Talk:
    """``show(per mille, text)`` is where it is said; ``evaluations()`` counts what was spent."""

    show: Callable[[int, str], None]
    clock: Callable[[], float] = time.monotonic
    what: str = ""
    share: float = 0.0
    evaluations: Callable[[], int] = lambda: 0
    _begun: tuple[float, int, float] = (0.0, 0, 0.0)  # of this stage: time, evaluations, share
    _last: float = field(default=float("-inf"))

    def stage(self, what: str) -> None:
        """From here on it does this; said at once."""
        self.what = what
        self._begun = self.clock(), self.evaluations(), self.share
        self._say(what)

    def now(self, what: str, share: float) -> None:
        """The same stage, further on: ``share`` of the whole is done, 0 to 1."""
        self.what, self.share = what, share
        self.pulse()

    def pulse(self) -> None:
        """Called often, before every evaluation: says something once in ``EVERY`` seconds."""
        if self.clock() - self._last >= EVERY:
            self._say(", ".join(filter(None, (self.what, self._speed(), self._left()))))

    def end(self, text: str) -> None:
        self.share = 1.0
        self._say(text)

    def _say(self, text: str) -> None:
        self._last = self.clock()
        self.show(int(PARTS * self.share), text)

    def _speed(self) -> str:
        begun, before, _ = self._begun
        passed, made = self.clock() - begun, self.evaluations() - before
        return f"{made / passed:.3g} evaluations a second" if passed > 0 and made > 0 else ""

    def _left(self) -> str:
        begun, _, before = self._begun
        done = self.share - before
        if done <= 0 or self.share >= 1:
            return ""
        return f"{duration((self.clock() - begun) * (1 - self.share) / done)} left"


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
