"""The setting that puts our solvers into KSampler's lists is off unless the user's own file says true."""

from __future__ import annotations

import json

import pytest

from sampling_kit.nodes.host.comfy.offered import MOST_BYTES, PREFIX, SETTING, names, wished
from sampling_kit.schedulers.solver.published import ROWS


def test_names_are_prefixed_plain_and_each_once():
    assert len(names()) == len(ROWS) and all(name.startswith(PREFIX) for name in names())
    assert names()["sampling_kit_dpmpp_2m_sde"] == "DPM++ 2M SDE"
    assert all(name.replace("_", "").isalnum() and name.isascii() for name in names())


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "{}", json.dumps({SETTING: False}), json.dumps({SETTING: "true"}), json.dumps({SETTING: 1}), "[" * 100_000, " " * (MOST_BYTES + 1)],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_it_is_off(tmp_path, text):
    if text is not None:
        (tmp_path / "comfy.settings.json").write_text(text)
    assert not wished(tmp_path)


def test_it_is_on_where_the_user_says_so(tmp_path):
    (tmp_path / "comfy.settings.json").write_text(json.dumps({SETTING: True, "Comfy.Locale": "en"}))
    assert wished(tmp_path)
