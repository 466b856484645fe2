"""Recorded trajectories: exact against a known solution, resumable bit for bit, never more in memory than asked for."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.fit.fingerprint import fingerprint
from sampling_kit.schedulers.fit.trajectories import (
    Origin,
    Trajectories,
    record,
    run_teacher,
    teacher_points,
)
from sampling_kit.schedulers.path import VE, VP, Flow, rescale
from sampling_kit.schedulers.solver import DDIM, DDPM, Adaptive, DPMSolverMultistep, HeunEDM, UniPC

SHAPE = (1, 2, 3)
MEAN, DEVIATION = 0.4, 0.7


def gaussian(path):
    return Mixture(path, torch.full((1, *SHAPE), MEAN).double(), torch.tensor([DEVIATION]).double())


def exact(path, x, a, b):
    """x of a Gaussian's ODE carried from κ = a to b: (y − μ)/√(s² + κ²) is constant in y = x/α."""
    p, q = path.at(a), path.at(b)
    spread = lambda r: math.hypot(r.alpha * DEVIATION, r.sigma)  # noqa: E731
    return q.alpha * MEAN + (x - p.alpha * MEAN) * spread(q) / spread(p)


def setup(path=None, teacher=None, levels=None, **more):
    path, teacher = path or VE(), teacher or HeunEDM()
    top = math.inf if isinstance(path, Flow) else 20.0
    levels = levels or (top, 8.0, 3.0, 1.0, 0.3, 0.1, 0.02, 0.0)
    scale = path.at(top).sigma if top == math.inf else math.hypot(1, top)
    facts = dict(substeps=8, floor=0.002, dtype="float64") | more
    origin = Origin(path.name, levels, SHAPE, 5, scale, repr(teacher), **facts)
    model = gaussian(path)
    calls = []

    def field(x, sigma, rows):
        calls.append(rows.tolist())
        return model(x, sigma)

    return origin, teacher, field, calls


@pytest.mark.parametrize("path", [VE(), Flow()])
def test_states_are_those_of_the_ode_and_d_belongs_to_them(path, tmp_path):
    origin, teacher, field, _ = setup(
        path, UniPC() if path == Flow() else DPMSolverMultistep(3), substeps=30
    )
    found = record(tmp_path, origin, teacher, field, 3)
    start, model = found.start(), gaussian(path)
    for level, kappa in enumerate(origin.kappas[:-1]):
        x = found.x(level)
        assert (x - exact(path, start, origin.kappas[0], kappa)).abs().max() < 3e-3
        assert torch.equal(found.d(level), model(x, path.at(kappa).sigma))
    assert torch.equal(found.d(-1), found.end())
    assert (found.end() - exact(path, start, origin.kappas[0], 0.0)).abs().max() < 5e-3


@pytest.mark.parametrize("path", [VE(), Flow()])
def test_between_levels_cubic(path, tmp_path):
    """Halving the distance of the levels divides the error of x by 16 and that of D by 8."""
    model, errors = gaussian(path), []
    for n in (12, 24):
        kappas = torch.logspace(1, -2, n).tolist()
        top = (math.inf, *kappas) if path == Flow() else kappas
        origin = setup(path, levels=(*top, 0.0))[0]
        start, worst = origin.start(torch.arange(2)), [0.0, 0.0]
        states = [exact(path, start, origin.kappas[0], k) for k in origin.kappas]

        class Exact(Trajectories):
            """Nodes from the formula: what is left is the interpolation's error."""

            def x(self, level, rows=None, states=states):
                return states[level]

            def d(self, level, rows=None, states=states, origin=origin):
                return model(states[level], path.at(origin.kappas[level]).sigma)

        view = Exact(tmp_path, origin, 2, 2)
        for kappa in torch.logspace(0.9, -1.9, 50).tolist():
            x, d = view.at(kappa)
            truth = exact(path, start, origin.kappas[0], kappa)
            worst[0] = max(worst[0], float((x - truth).abs().max()))
            worst[1] = max(worst[1], float((d - model(truth, path.at(kappa).sigma)).abs().max()))
        errors.append(worst)
    assert errors[0][0] / errors[1][0] > 10
    assert errors[0][1] / errors[1][1] > 5
    assert errors[1][0] < 1e-3


def test_at_recorded_levels_what_was_recorded_and_beyond_them_an_error(tmp_path):
    found = record(tmp_path, *setup()[:3], 2)
    x, d = found.at(3.0)
    assert torch.equal(x, found.x(2)) and torch.equal(d, found.d(2))
    with pytest.raises(ValueError, match="recorded are 20 to 0"):
        found.at(21.0)


def test_a_finer_teacher_costs_what_it_says():
    origin, teacher, field, calls = setup(teacher=DDIM(), substeps=4)
    points, kept = teacher_points(origin)
    run_teacher(origin, teacher, field, torch.arange(2))
    assert len(calls) == len(points) - 1  # DDIM: one evaluation a step, none twice
    assert [points.kappas[i] for i in kept] == list(origin.kappas)


def test_adaptive_teacher_lands_on_the_levels(tmp_path):
    origin, teacher, field, _ = setup(
        teacher=Adaptive("dopri5_lambda", rtol=1e-6, atol=1e-7), substeps=1
    )
    found = record(tmp_path, origin, teacher, field, 2)
    for level, kappa in enumerate(origin.kappas[:-1]):
        assert (found.x(level) - exact(VE(), found.start(), 20.0, kappa)).abs().max() < 1e-4


def test_interrupted_recording_goes_on_bit_for_bit(tmp_path):
    origin, teacher, field, calls = setup()
    whole = record(tmp_path / "a", origin, teacher, field, 7, batch=2)
    each = len(calls) // 4
    calls.clear()

    class Stop(Exception):
        pass

    def check():
        if len(calls) == each + each // 2:
            raise Stop

    with pytest.raises(Stop):
        record(tmp_path / "b", origin, teacher, field, 7, batch=2, check=check)
    assert [f.name for f in (tmp_path / "b").iterdir() if "part" in f.name] == []
    calls.clear()
    again = record(
        tmp_path / "b", origin, teacher, field, 7, batch=5
    )  # the batch is the recording's
    assert len(calls) == 3 * each
    assert all(torch.equal(again.x(i), whole.x(i)) for i in range(len(origin.kappas)))
    calls.clear()
    assert record(tmp_path / "b", origin, teacher, field, 7).batch == 2
    assert calls == []


def test_longer_and_shorter_recordings_share_files(tmp_path):
    origin, teacher, field, calls = setup()
    record(tmp_path, origin, teacher, field, 3, batch=2)
    calls.clear()
    longer = record(tmp_path, origin, teacher, field, 6, batch=2)
    assert {row for rows in calls for row in rows} == {2, 3, 4, 5}
    calls.clear()
    shorter = record(tmp_path, origin, teacher, field, 5, batch=2)
    assert not calls and shorter.count == 5
    assert torch.equal(shorter.end(), longer.end()[:5])
    assert Trajectories.open(tmp_path).count == 6
    assert Trajectories.open(tmp_path, 4).count == 4
    with pytest.raises(ValueError, match="holds 6 rows of 9"):
        Trajectories.open(tmp_path, 9)


def test_damaged_file_is_made_again(tmp_path):
    origin, teacher, field, calls = setup()
    end = record(tmp_path, origin, teacher, field, 4, batch=2).end()
    file = tmp_path / "rows-000002.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    calls.clear()
    assert torch.equal(record(tmp_path, origin, teacher, field, 4, batch=2).end(), end)
    assert {row for rows in calls for row in rows} == {2, 3}


def test_rows_in_any_order_and_a_row_is_its_seed(tmp_path):
    origin, teacher, field, _ = setup()
    found = record(tmp_path / "a", origin, teacher, field, 5, batch=2)
    rows = torch.tensor([4, 0, 3, 0])
    assert torch.equal(found.x(3, rows), found.x(3)[rows])
    other = replace(origin, seed=origin.seed + 2)
    moved = record(tmp_path / "b", other, teacher, field, 3, batch=2)
    assert torch.allclose(moved.end(), found.end()[2:], atol=1e-12)
    with pytest.raises(IndexError, match="recorded are 0 to 4"):
        found.x(0, torch.tensor([5]))


def test_another_origin_is_refused_by_name(tmp_path):
    origin, teacher, field, _ = setup(model="abc")
    record(tmp_path, origin, teacher, field, 1)
    with pytest.raises(ValueError, match=r"model: 'abc', not 'abd'.*another folder"):
        record(tmp_path, replace(origin, model="abd"), teacher, field, 1)


def test_errors_say_what_to_do(tmp_path):
    origin, teacher, field, _ = setup()
    with pytest.raises(ValueError, match="DDPM draws noise"):
        record(tmp_path, replace(origin, teacher=repr(DDPM())), DDPM(), field, 1)
    with pytest.raises(ValueError, match="not a description of recorded trajectories"):
        Trajectories.open(tmp_path / "none")
    with pytest.raises(FloatingPointError, match="NaN or infinity at step 0"):
        record(tmp_path, origin, teacher, lambda x, s, r: x * math.inf, 1)
    with pytest.raises(ValueError, match="dtype = 'int8'"):
        replace(origin, dtype="int8")
    record(tmp_path, origin, teacher, field, 1)
    facts = json.loads((tmp_path / "recording.json").read_text()) | {"version": 99}
    (tmp_path / "recording.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="format version 99"):
        Trajectories.open(tmp_path)


def test_files_are_small_and_say_what_they_are(tmp_path):
    origin, teacher, field, _ = setup(dtype="float32")
    record(tmp_path, origin, teacher, field, 4, batch=2)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 2
    with safe_open(files[0], "pt") as opened:
        (facts,) = map(json.loads, opened.metadata().values())
        assert facts == {"version": 1, "origin": origin.digest(), "rows": 2}
        assert opened.get_tensor("x").shape == (8, 2, *SHAPE)
        assert opened.get_tensor("d").shape == (7, 2, *SHAPE)
    assert Trajectories.open(tmp_path).origin == origin


def test_fingerprint_tells_weights_patches_and_names_apart():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    first = fingerprint(net.state_dict().items())
    assert first == fingerprint(reversed(list(net.state_dict().items())))
    assert first != fingerprint(net.state_dict().items(), ["a patch"])
    assert first != fingerprint([(f"x.{n}", t) for n, t in net.state_dict().items()])
    with torch.no_grad():
        net[1].bias += 1e-3
    assert first != fingerprint(net.state_dict().items())
    fingerprint([("meta", torch.empty(3, device="meta"))])


def test_problem_splits_rows_and_gives_states_on_vp(tmp_path):
    origin, teacher, field, _ = setup(Flow(), UniPC())
    found = record(tmp_path, origin, teacher, field, 5)
    task = found.problem(field, 3, 2, batch=2)
    assert task.train.tolist() == [0, 1, 2] and task.held.tolist() == [3, 4]
    rows = torch.tensor([4, 1])
    scale = rescale(Flow().at(1.0), VP())[1]
    assert torch.equal(task.states(1.0, rows), found.at(1.0, rows)[0] * scale)
    assert torch.equal(task.target(rows), found.end(rows))
    with pytest.raises(ValueError, match="more than the 5 recorded"):
        found.problem(field, 4, 2, batch=2)
