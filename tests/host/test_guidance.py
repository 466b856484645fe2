"""The Guider in a real ComfyUI: what ``guidance_runs.py`` measured, and the same pictures without ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from product import each
from tolerance import rounding

from sampling_kit.nodes import NODES
from sampling_kit.schedulers.guidance import ALL

sys.path.append(str(Path(__file__).parent))
import guidance_cases as cases

pytestmark = pytest.mark.host

RULES = [rule.__name__ for rule in ALL]
KINDS = ("EPS", "FLOW")


@pytest.fixture(scope="module")
def ended(comfy: Any, base: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(measurements, pictures)."""
    script, pictures = Path(__file__).with_name("guidance_runs.py"), base / "pictures.pt"
    pack = base / "custom_nodes" / "comfyui-sampling-kit"
    command = [comfy.python, str(script), str(pack), str(pictures)]
    done = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return json.loads(done.stdout), torch.load(pictures)


@pytest.fixture(scope="module")
def measured(ended: Any) -> dict[str, Any]:
    return ended[0]


# ------------------------------------------------------------------------------------ every rule


@each(rule=RULES, kind=KINDS)
def test_every_rule_on_native_models(measured, kind, rule):
    """Batch 3, after CFG: it acts, images do not see one another, and what other nodes patch counts.

    A ControlNet that shifts the condition equals that condition, in every branch that has it.
    """
    (row,) = (r for r in measured["every_rule"] if (r["kind"], r["rule"]) == (kind, rule))
    assert row["finite"]
    assert row["effect"] > 1e-4, row
    assert row["permuted"] == row["rescaled permuted"] == 0, row
    assert row["alone"] < 1e-5 * max(1, row["size"]), (
        row
    )  # its batch is another one for the network
    assert row["rescaled"] > 1e-3, row  # core's RescaleCFG in the place of CFG
    assert row["cfg 1"] == 0, row
    if rule not in cases.PERTURBED:
        # the shift is added in another order; six steps of at most 256 operations carry its rounding
        assert row["control"] < rounding(6 * 256, max(1, row["size"])), row
        assert row["control effect"] > 0.1, row


def test_ours_are_the_core_s_guiders(measured):
    """CFGGuider under every hook and with a ControlNet; DualCFG and PerpNeg (batch 1) as chains; and a
    patch of the batch call does not see the conditions beyond its two."""
    found = measured["core_guiders"]
    assert len(found) == 2 * (5 * 2 + 4)
    assert all(distance < 1e-5 for distance in found.values()), found


# ----------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize(
    ("chain", "branches", "saved"),
    [("cfg", 40, 0), ("interval", 28, 12), ("one", 20, 0), ("none", 20, 0), ("compose", 120, 0), ("perp", 60, 0)],
)  # fmt: skip
def test_network_calls_are_counted_at_the_network(measured, chain, branches, saved):
    """20 steps and 3 images: one forward pass a step, with all branches of the step in it."""
    found = measured["calls"][chain]
    assert (found["forwards"], found["images"]) == (20, 3 * branches)
    assert found["report"]["network_calls"] == branches
    assert found["report"]["saved_calls"] == saved
    assert len(found["report"]["steps"]) == 20
    assert f"20 evaluations, {branches} network calls, {saved} saved" in found["line"]


def test_the_weak_model_is_called_once_a_step(measured):
    found = measured["calls"]["weak"]
    assert (found["forwards"], found["images"], found["weak"]) == (20, 60, 60)
    assert found["report"]["calls"] == {"cond": 20, "weak": 20}


def test_sharing_at_pure_noise(measured):
    """On flow the first step evaluates 1 of 3 images in 2 branches; an exact model gives the same."""
    found = measured["sharing"]
    assert found["EPS True"] == found["EPS False"] == found["FLOW False"] == [36, 0]
    assert found["FLOW True"] == [32, 4]
    assert max(found["EPS distance"], found["FLOW distance"]) < 1e-5
    assert (
        "share_pure_noise: the images of this batch have different conditions" in found["FLOW many"]
    )
    assert found["FLOW same"] == found["EPS many"] == "nothing was raised"


# ---------------------------------------------------------------------------------- weak, gradients


@pytest.mark.parametrize("kind", KINDS)
def test_the_weak_model_runs_beside_the_model_and_leaves_nothing(measured, kind):
    found = measured["weak_model"]
    assert found[f"{kind} distance"] < 1e-5 and found[f"{kind} masked"] < 1e-5
    assert all(
        found[f"{kind} {what}"] for what in ("together", "again", "stopped", "clean", "after")
    )


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("clone", "weak_model: it is the MODEL's own network"),
        ("other noise", "weak_model: its noise levels"),
        ("two", "two nodes of the chain bring a different weak_model"),
    ],
)
def test_a_weak_model_that_does_not_fit_is_refused(measured, case, words):
    assert words in measured["weak_model"][case]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["DPS", "PiGDM"])
def test_gradients_through_weights_made_in_inference_mode(measured, kind, rule):
    """The same numbers as with ordinary weights, and the MODEL keeps its own tensors."""
    found = measured["gradients"]
    name = f"{rule} {kind}"
    assert found[f"{name} distance"] == 0 and found[f"{name} effect"] > 1e-3, found
    assert found[f"{name} True kept"] and found[f"{name} False kept"]


def test_composition_with_masks(measured):
    """Each condition counts where its mask is, and a chain of Compositions is one."""
    assert len(measured["masks"]) == 6
    assert all(distance < 1e-5 for distance in measured["masks"].values()), measured["masks"]


# ------------------------------------------------------------------------------------ standalone


def kit(name: str, /, **inputs: Any) -> Any:
    nodes = {node.define_schema().node_id: node for node in NODES}
    return nodes[f"SamplingKit{name}"].execute(**inputs).args[0]


def draw(noise: Any, guider: Any, sampler: Any, sigmas: Any, latent: Any) -> torch.Tensor:
    start = noise.generate_noise(latent)
    return guider.sample(start, latent["samples"], sampler, sigmas, seed=noise.seed)


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    """The pictures without ComfyUI, drawn in inference mode as the runner does."""
    with torch.inference_mode():
        return cases.pictures(kit, draw, RULES)


@each(rule=[rule for rule in RULES if rule not in cases.PERTURBED], schedule=cases.SCHEDULES)
def test_without_comfyui_every_rule_gives_the_same(ended, alone, schedule, rule):
    name = f"{rule} on {schedule}"
    theirs, ours = ended[1][name], alone[name]
    assert torch.isfinite(ours).all() and ours.std() > 0.05
    assert (theirs - ours).abs().max() < 1e-5 * max(1, ours.abs().max())


@pytest.mark.parametrize("rule", cases.PERTURBED)
def test_without_comfyui_perturbed_attention_is_refused(rule):
    world = cases.embedded(kit, "VP")
    guider = world.guider(world.chain(rule))
    with pytest.raises(ValueError, match=r"not possible with this MODEL"):
        guider.denoiser(1)


def test_a_step_waits_for_no_number_from_the_device(measured):
    """But for the look for NaN at every eighth evaluation, which a GPU puts off to the end."""
    assert all(count < 0.5 for count in measured["reads"].values()), measured["reads"]
