"""What a test needs and not every machine has: without it the test is skipped, or fails where that is asked for.

SAMPLING_KIT_REQUIRE=host,browser,eslint names what must be there: a ComfyUI, a browser with what drives it, a
linter of JavaScript. ``.ci/run`` and releases set it, so that no such test goes missing in silence.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

KINDS = ("host", "browser", "eslint")
VARIABLE = "SAMPLING_KIT_REQUIRE"


def required() -> set[str]:
    """The kinds that SAMPLING_KIT_REQUIRE names. Raises pytest.UsageError for a name that is none."""
    names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    if unknown := sorted(names - set(KINDS)):
        raise pytest.UsageError(f"{VARIABLE}: no kind {unknown[0]!r}; kinds are {', '.join(KINDS)}")
    return names


def missing(kind: str, reason: str) -> NoReturn:
    """Skip the test: something of ``kind`` is not here, and how to have it. An error where it is required."""
    assert kind in KINDS
    if kind in required():
        pytest.fail(f"{VARIABLE} asks for {kind}: {reason}", pytrace=False)
    pytest.skip(reason)
