"""Our nodes on native BaseModels, inside ComfyUI's own Python: what ``native_models.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.path import Path as NoisePath
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import ALL, Solver
from sampling_kit.schedulers.solver.run import Run

pytestmark = pytest.mark.host

STD, PIXELS = 0.5, 8 * 4 * 32 * 32  # as in native_models.py
PATHS = {
    "EPS": VP(),
    "V": VP(),
    "V zero SNR": VP(),
    "EDM": VE(),
    "FLOW": Flow(),
    "FLOW louder": Flow(),
    "FLUX": Flow(),
}
NOISE_SCALES = {"FLOW louder": 4.0}
SOLVERS = {solver.__name__: solver for solver in ALL}
PATCHES = ("none", "post_cfg", "pre_cfg", "RescaleCFG", "CFGOverride")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("native_models.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


def solver_of(row: Row) -> Solver:
    return SOLVERS[row["solver"]](**row["knobs"])


def moments(
    solver: Solver, path: NoisePath, sigmas: list[float], size: float
) -> tuple[float, float]:
    """(bias of the mean, std) of the result for data N(0.4, STD²) and noise of the given size.

    Without ComfyUI and without sampling: every move is linear in the start, in the noise draws and
    in 1, so the solver runs on these coefficients.
    """
    host, centre = path.host, 0.4

    def unit(position: int, like: Any = None) -> torch.Tensor:
        return torch.eye(2 * len(sigmas) + 2, dtype=torch.float64)[None, position + 1]

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        alpha = host.on(sigma).alpha
        gain = alpha * STD**2 / (alpha**2 * STD**2 + (size * sigma) ** 2)
        return gain * x + centre * (1 - alpha * gain) * unit(-1)

    mean, start, *draws = sample(solver, path, Run(denoise, unit), unit(0), sigmas)[0].tolist()
    start *= 1 if host == Flow() else (1 + sigmas[0] ** 2) ** 0.5
    return mean - centre, size * (start**2 + sum(w**2 for w in draws)) ** 0.5


@pytest.mark.parametrize("kind", PATHS)
def test_solvers_do_on_native_models_what_their_plans_say(measured, kind):
    """Moments over many pixels, to 4 standard errors; every solver the pack has."""
    rows = [row for row in measured["accuracy"] if row["kind"] == kind]
    assert {row["solver"] for row in rows} == set(SOLVERS)
    for row in rows:
        if not solver_of(row).planned:  # its moves depend on the data: no moments without sampling
            continue
        mean, std = moments(solver_of(row), PATHS[kind], row["sigmas"], NOISE_SCALES.get(kind, 1.0))
        about = {**row, "sigmas": ...}, mean, std
        assert row["std"] * STD == pytest.approx(std, rel=4 / (2 * PIXELS) ** 0.5), about
        assert row["mean"] == pytest.approx(mean, abs=4 * STD / PIXELS**0.5), about


@pytest.mark.parametrize("kind", PATHS)
def test_solvers_reach_the_exact_transport_map_on_native_models(measured, kind):
    """60 steps: within 10 % of a standard deviation at order 1 and 4 % at order 2; noise keeps the moments.

    Not for EDM with steps even in time, where the last step goes from σ = 1.3 to 0 at once.
    """
    for row in measured["accuracy"]:
        if row["kind"] != kind or (kind, row["spacing"]) == ("EDM", "trailing"):
            continue
        solver = solver_of(row)
        if solver.order == 0:  # LCM: not made to converge
            continue
        accurate = solver.planned and solver.order > 1  # else its tolerance decides
        limit, about = 0.04 if accurate else 0.1, {**row, "sigmas": ...}
        if solver.stochastic:
            assert abs(row["mean"]) < 0.01 and abs(row["std"] - 1) < 2 * limit, about
        else:
            assert row["error"] < limit, about


@pytest.mark.parametrize("patch", PATCHES)
def test_our_guider_is_the_core_s_under_every_hook(measured, patch):
    """The same numbers and the same network rows as CFGGuider, under core samplers, CFG++ too."""
    rows = [row for row in measured["guidance"] if row["patch"] == patch]
    assert {row["kind"] for row in rows} == set(PATHS)
    for row in rows:
        ours, theirs = row["rows"]
        assert row["distance"] < 1e-5, row
        assert ours == theirs, row
        assert patch == "none" or row["scale"] == 1 or row["effect"] > 1e-2, row


def test_cfg_at_scale_one_costs_half(measured):
    plain = [r for r in measured["guidance"] if r["patch"] == "none" and r["sampler"] == "euler"]
    cost = {(row["kind"], row["scale"]): row["rows"][0] for row in plain}
    assert all(2 * cost[kind, 1.0] == cost[kind, 3.0] for kind in PATHS)


def test_a_noise_mask_keeps_what_it_covers(measured):
    assert len(measured["masked"]) > len(PATHS) * len(SOLVERS)
    for name, (kept, drawn) in measured["masked"].items():
        assert kept < 1e-6 and drawn > 0.1, name


def test_videos_and_nested_latents(measured):
    """Any shape runs and keeps it, and image 1 of a batch is the single image of the next seed."""
    expected = {"video": [[2, 4, 3, 8, 8]], "nested": [[2, 4, 3, 8, 8], [2, 8, 5]]}
    for name, found in measured["shapes"].items():
        assert found["shapes"] == expected[name.split()[-1]], name
        assert found["alone"] == 0, name
        if not name.startswith(
            ("LCM", "EulerMaruyama")
        ):  # spread small by design; large in few steps
            assert abs(found["mean"] - 0.4) < 0.05 and abs(found["std"] - STD) < 0.12, (name, found)


def test_runs_repeat_batches_match_and_wires_stay_untouched(measured):
    assert len(measured["repeats"]) > 4 * len(SOLVERS)
    assert not {
        name: found for name, found in measured["repeats"].items() if not all(found.values())
    }


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("text", "connect a Class Condition node, not a text encoder"),
    ],
)
def test_what_does_not_fit_is_named(measured, case, words):
    assert words in measured["refusals"][case]
