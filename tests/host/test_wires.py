"""Our wires beside other packs and in newer hosts, inside ComfyUI's own Python: what ``wires.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("wires.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


def test_rules_remember_and_count_over_the_parts_of_a_run(measured: dict[str, Any]) -> None:
    rows = measured["memory"]
    assert len(rows) == 48
    assert {case: gaps for case, gaps in rows.items() if any(gaps)} == {}


def test_patches_and_masks_see_the_whole_run_s_levels(measured: dict[str, Any]) -> None:
    assert measured["levels"] == {"patch": [7], "mask": [7]}


def test_an_image_of_a_batch_is_the_same_alone(measured: dict[str, Any]) -> None:
    rows = measured["one_of_a_batch"]
    assert len(rows) == 6
    assert {case: gaps for case, gaps in rows.items() if any(gaps)} == {}


def test_picked_drafts_end_as_their_full_runs(measured: dict[str, Any]) -> None:
    assert measured["picked_drafts"] == [0.0, 0.0]


def test_other_packs_samplers_nest_in_either_order(measured: dict[str, Any]) -> None:
    found = measured["nesting"]
    assert found["distances"] == dict.fromkeys(found["distances"], 0.0)
    assert found["steps"] == 6 and all(found["parts"].values())
    assert "around the sampler that comes out" in found["order"]


def test_rules_do_not_follow_a_level_that_a_wrapper_reports(measured: dict[str, Any]) -> None:
    rows = measured["reported_levels"]
    assert len(rows) == 42
    # CFG-Zero* moves by 1 + (w − 1)(1 − s) where CFG moves by 1, whatever s is taken from: test_guidance_rules.py
    most = lambda case: 1.75 if case.startswith("CFGZeroStar") else 1.2  # noqa: E731
    assert {case: share for case, share in rows.items() if share > most(case)} == {}


def test_a_reported_level_is_right_with_every_rule_and_in_parts(measured: dict[str, Any]) -> None:
    rows = dict(measured["reporting"])
    assert len(rows) == 28
    assert rows.pop("core's Euler, our rule") < 1e-5
    rounds = lambda case: 1e-6 if case.endswith("as a pack's") else 0.0  # noqa: E731  σ·0.8 in float32
    assert {case: gap for case, gap in rows.items() if gap > rounds(case)} == {}


def test_the_host_s_cfg_acts_on_every_scale(measured: dict[str, Any]) -> None:
    rows = dict(measured["scales"])
    assert rows.pop("refused") == [1.0]
    for rule, (off, stronger, by_hand) in rows.items():
        assert stronger > 1e-3 and by_hand == 0, rule
        assert off < 1e-5 or rule == "CFGPlusPlus", (
            rule
        )  # whose λ = 1 is not off, as in the host's cfg_pp samplers


def test_a_noise_sampler_is_used_or_refused(measured: dict[str, Any]) -> None:
    found = measured["noise_samplers"]
    assert found["acts"] > 0.01 and found["asked"] == [True] * 3
    assert "draws twice" in found["twice"]


def test_what_is_not_known_is_refused_by_name(measured: dict[str, Any]) -> None:
    found = measured["classes"]
    assert "Velocity" in found["velocity on flow"] and "Private" in found["private"]
    nothing = "nothing was raised"
    assert (found["velocity on a table"], found["flow"]) == (nothing, nothing)
    assert "clock" in found["clock"] and "1000 times too small" in found["clock"]
    assert "no misfit found" in found["same clock"]


def test_packs_may_set_the_seed_of_our_noise(measured: dict[str, Any]) -> None:
    assert measured["assignable"] == [5, 1]
    assert measured["cached_noise"] == [5, 1]


def test_torchs_generator_is_the_cores_noise(measured: dict[str, Any]) -> None:
    rows = measured["core_noise"]
    assert len(rows) == 5 and not any(rows.values()), rows


def test_caches_skip_for_ours_as_for_core_s_and_are_warned_of_by_name(
    measured: dict[str, Any],
) -> None:
    found = measured["caches"]
    assert found["acts"] > 1e-3 and found["afterwards"] == 0
    assert max(found["as core"], found["core's guider"]) < 1e-5
    for name, title in (("lazy", "LazyCache"), ("easy", "EasyCache")):
        assert found[f"{name} UniPC"] == []
        for solver in ("HeunEDM", "Adaptive"):
            (line,) = found[f"{name} {solver}"]
            assert title in line and "more than once a step" in line
    silent = [v for k, v in found.items() if k.startswith(("none ", "compile "))]
    assert len(silent) == 6 and not any(silent)
    (line,) = found["kept"]
    assert "UniPC: keeps 1 states and 4 predictions of 0.000977 MiB on cpu" in line


def test_a_model_with_a_sampler_of_its_own_gets_a_sentence(measured: dict[str, Any]) -> None:
    found = measured["own_samplers"]
    assert "Frames" in found["frames"] and "block by block" in found["frames"]
    assert "Policy" in found["actions"] and "select_action" in found["actions"]


def test_a_patch_s_cfg_function_that_does_nothing_is_named(measured: dict[str, Any]) -> None:
    found = measured["cfg_functions"]
    assert found["CFG"] == []
    (line,) = found["APG"]
    assert "Dynamic Thresholding" in line and "does nothing" in line


def test_the_menu_takes_a_spacing_for_a_scheduler_only_where_its_levels_are_the_same(
    measured: dict[str, Any],
) -> None:
    rows = measured["schedulers"]
    assert len(rows) == 4 and {case: gap for case, gap in rows.items() if gap > 1e-5} == {}


def test_solvers_in_ksampler_s_lists_are_added_and_run_as_their_nodes(
    measured: dict[str, Any],
) -> None:
    rows = measured["offered"]
    assert rows["kept"] == rows["added"] == [True, True]
    assert len(rows["gaps"]) == 3 and not any(rows["gaps"].values())


def test_a_noise_mask_is_inpainted_by_langevin_moves(measured: dict[str, Any]) -> None:
    rows = measured["inpainting"]
    gaps = dict(rows["gaps"])
    assert gaps.pop("differential") < 2e-3  # its mask is free at the last level
    assert {case: gap for case, gap in gaps.items() if gap > 1e-5} == {}
    assert set(rows["calls"].values()) == {6 + 5 * 2}  # steps, and moves at every level between
    assert 0.01 < rows["soft"] < 1
    assert "needs a noise mask" in rows["refused"]
