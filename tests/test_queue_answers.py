"""Any JSON and any bytes from a server: a checked value, or one of the two errors that say what is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampling_kit.headless.queue import answers
from sampling_kit.headless.queue.content import BEGINNINGS, mismatch
from sampling_kit.headless.queue.faults import GraphRefused, JobFails, Strange
from sampling_kit.headless.queue.names import file_names

KEYS = [
    "status", "status_str", "messages", "outputs", "prompt", "images", "text", "filename", "subfolder", "type", "node_errors",
    "errors", "error", "message", "details", "class_type", "prompt_id", "queue_running", "queue_pending", "1", "data", "node",
    "value", "max", "nodes",
]  # fmt: skip
WORDS = [
    "success",
    "error",
    "execution_error",
    "execution_cached",
    "executing",
    "progress",
    "output",
    "../x",
    "a.png",
    "1",
    "",
]
#: A busy machine makes examples slowly.
CALM = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
anything = st.recursive(
    leaf,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=25,
)


@CALM
@given(
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=8),
    st.sampled_from(sorted(answers.OWED)),
)
def test_any_answer_of_a_route(answer: dict[str, Any], route: str):
    with suppress(Strange, GraphRefused):
        checked = answers.parsed(route, json.dumps(answer).encode())
        if route == "/queue":
            assert all(isinstance(id, str) for id in answers.queued(checked).running)
        if route == "/prompt":
            answers.accept(checked, "1", {"1": {"class_type": "x", "inputs": {}}})
    assert isinstance(answers.refused(answer, {"1": {"_meta": 7}}), str)


@CALM
@given(anything)
def test_any_entry_of_the_history(entry: Any):
    with suppress(Strange, JobFails):
        checked = answers.entry({"x": entry}, "x")
        assert checked is not None and all(isinstance(text, str) for text in checked.texts)
        file_names(checked.files, "label", "0" * 36)


@CALM
@given(st.dictionaries(st.sampled_from(KEYS), anything, max_size=6) | anything)
def test_any_text_of_the_websocket(message: Any):
    said = answers.event(json.dumps(message))
    assert said is None or (said.step >= 0 and said.total >= 0 and isinstance(said.id, str))


@CALM
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: b"\0\0\0\4\0\0\0\x0c" + b))
def test_any_bytes_of_the_websocket(message: bytes):
    shown = answers.picture(message)
    assert shown is None or len(shown.data) < len(message)


@CALM
@given(st.binary(max_size=300), st.sampled_from(sorted(BEGINNINGS)))
def test_any_bytes_of_a_body(data: bytes, kind: str):
    for route in answers.OWED:
        with suppress(Strange):
            answers.parsed(route, data)
    assert isinstance(answers.first_line(data), str) and answers.first_line(data).isprintable()
    mismatch(f"a.{kind}", data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<html><title>502 Bad Gateway</title>", "502 Bad Gateway"), (b"\n\n  one\ntwo", "one"), (b"\x1b]0;title\x07x", "]0;titlex"),
        (b"", ""), (b"x" * 1000, "x" * 297 + "..."), (b"<p>a &amp; b</p>", "a & b"), (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)  # fmt: skip
def test_the_first_line_is_short_and_printable(text, words):
    assert answers.first_line(text) == words
