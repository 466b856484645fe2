"""Tables, frequency bands, fitted solvers and their files: exact cases and refusals."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from product import each
from safetensors import safe_open
from safetensors.torch import save_file

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit import fit_files
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.measure.run_levels import plan_record
from sampling_kit.schedulers.path import VE, VP, Flow, rescale
from sampling_kit.schedulers.points import LARGEST_KAPPA, Points
from sampling_kit.schedulers.solver import (
    ALL,
    AMED,
    DDIM,
    DDPM,
    DPMSolverMultistep,
    HeunEDM,
    State,
    UniPC,
)
from sampling_kit.schedulers.solver.band_mix import Mix, Spectra, band_weights
from sampling_kit.schedulers.solver.base import host_plan
from sampling_kit.schedulers.solver.fitted import FittedSolver, Table, ddim, table_of
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants

STILL = [s for cls in ALL if cls.planned for s in variants(cls) if not s.stochastic]
PATHS = pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.name)
KNOTS = (0.0, 0.2, 0.5, 1.0)
MEAN = torch.tensor([0.5, -1.0, 2.0]).double()[:, None, None]
STD = torch.tensor([0.6, 0.8, 0.7]).double()[:, None, None]


def levels(path, n=5, top=20.0, bottom=0.05):
    return Points(path, (*np.geomspace(top, bottom, n), 0.0))


def oracle(path, shape=(3, 8, 8)):
    """The exact denoiser of independent pixels, with a mean and a deviation per channel."""
    wide = [v.reshape(3, *[1] * (len(shape) - 1)).expand(shape).clone() for v in (MEAN, STD)]
    return Gaussian(path, *wide)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bands(table, scale=1.0):
    """The same table with every weight of a D as bands of identity matrices."""
    eye = np.eye(3)
    mix = [
        Mix(KNOTS, np.zeros((0, 4, 3, 3)), scale * np.array([[w * eye] * 4 for w in row]))
        for row in table.d
    ]
    return dataclasses.replace(table, d=((),) * table.nfe, mix=tuple(mix))


def channels_mixed(table, seed=0):
    """The table with small random matrices added in every row."""
    rng = np.random.default_rng(seed)
    mix = [
        Mix(KNOTS, rng.normal(0, 0.05, (1, 4, 3, 3)), rng.normal(0, 0.05, (min(i + 1, 3), 4, 3, 3)))
        for i in range(table.nfe)
    ]
    return dataclasses.replace(table, mix=tuple(mix))


def two_m(n=5):
    return table_of(DPMSolverMultistep().plan(levels(VE(), n)))


# ---- tables


@pytest.mark.some(10)
@each(by=type, solver=STILL, path=[VP(), VE(), Flow()])
def test_every_deterministic_plan_is_a_table(solver, path):
    points, x = levels(path), normal(2, 3, 2, 2) * path.at(20.0).sigma
    plan, d = solver.plan(points), oracle(path, (3, 2, 2))
    table = table_of(plan)
    fitted = FittedSolver(table)
    assert table.nfe == plan.nfe == fitted.nfe(1)
    assert fitted.points(path).kappas == pytest.approx(points.kappas, rel=1e-12)
    assert torch.allclose(
        fitted.plan(points).solve(Run(d), x), plan.solve(Run(d), x), rtol=0, atol=1e-10
    )


def test_a_plan_that_has_the_form_already_keeps_its_numbers():
    plan = DPMSolverMultistep().plan(levels(VP()))
    for stage, own in zip(table_of(plan).stages(), plan.stages, strict=True):
        assert stage.x == own.x
        assert stage.d == own.d or not any(own.d)
        assert stage.at.sigma == pytest.approx(own.at.sigma, rel=1e-15)


def test_from_pure_noise():
    points = Points(Flow(), (math.inf, 4.0, 1.0, 0.0))
    x, d = normal(2, 3, 8, 8), oracle(Flow())
    for solver in (DPMSolverMultistep(), UniPC(), DDIM()):
        plan = solver.plan(points)
        fitted = FittedSolver(table_of(plan))
        assert torch.allclose(
            fitted.plan(points).solve(Run(d), x), plan.solve(Run(d), x), rtol=0, atol=1e-12
        )


def test_pure_noise_as_the_host_writes_it():
    """Zero terminal SNR: SIGMAS starts at a large finite number, and so does the run."""
    fitted = FittedSolver(table_of(DDIM().plan(Points(VP(), (math.inf, 4.0, 1.0, 0.0)))))
    sigmas = torch.tensor(fitted.points(VP()).sigmas(), dtype=torch.float32)
    assert float(sigmas[0]) == pytest.approx(LARGEST_KAPPA)
    plan = host_plan(fitted, Points.from_sigmas(VP(), sigmas.tolist()))
    x = normal(2, 3, 8, 8) * LARGEST_KAPPA
    direct = host_plan(DDIM(), Points(VE(), (LARGEST_KAPPA, 4.0, 1.0, 0.0)))
    d = oracle(VE())
    assert torch.allclose(plan.solve(Run(d), x), direct.solve(Run(d), x), rtol=0, atol=1e-3)


def test_a_told_level_is_part_of_the_state():
    """AMED tells the network another level than the state's, in VE's way; the table runs the same anywhere."""
    points = levels(VE(), 4)
    plan = AMED("0.4 0.6", "1.1 0.9", "0.8 1.2").plan(points)
    fitted = FittedSolver(table_of(plan))
    x = normal(2, 3, 8, 8) * 20
    end = plan.solve(Run(oracle(VE())), x)
    for path in (VE(), VP(), Flow()):
        c = rescale(VE().at(20.0), path)[1]
        own = fitted.plan(points.on(path)).solve(Run(oracle(path)), c * x)
        assert torch.allclose(own, end, rtol=0, atol=1e-10)


def test_ddims_row():
    table = table_of(DDIM().plan(levels(Flow())))
    for p, q, x, row in zip(
        table.levels, (*table.levels[1:], 0.0), table.x[1:], table.d, strict=True
    ):
        assert (x, row[0]) == pytest.approx(ddim(p, q), abs=1e-12)


def test_what_cannot_be_a_table():
    with pytest.raises(ValueError, match="noise"):
        table_of(DDPM().plan(levels(VE())))
    with pytest.raises(ValueError, match="limits D"):
        table_of(dataclasses.replace(DDIM().plan(levels(VE())), clip_x0=1.0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(x=(1.0, 1.0)), "x: 1 rows for 3"),
        (dict(x=(1.0, math.nan, 1.0, 0.0)), "NaN"),
        (dict(d=((1.0, 1.0), (1.0,), (1.0,))), "more than the 1 predictions"),
        (dict(levels=(20.0, 1.0, 5.0)), "strictly down"),
        (dict(levels=(5.0, 0.0, 1.0)), "above 0"),
        (dict(steps=(0, 2, 3)), "count up"),
    ],
)
def test_tables_refuse(change, reason):
    good = dict(start=20.0, levels=(20.0, 5.0, 1.0), x=(1, 0.5, 0.5, 0), d=((1,), (1,), (1,)))
    Table(**good)
    with pytest.raises(ValueError, match=reason):
        Table(**good | change)


def test_tables_are_equal_by_their_numbers():
    a, b = two_m(), two_m()
    assert a == b and hash(a) == hash(b) and a != two_m(6)
    assert FittedSolver(a) == FittedSolver(b, {"guidance": "CFG 2"})
    assert dataclasses.replace(a, d=tuple((*row, 0.0) for row in a.d[:0]) + a.d) == a
    assert channels_mixed(a) == channels_mixed(b) != channels_mixed(a, seed=1)
    assert (a.nfe, a.window) == (5, 2)


def test_other_levels_are_refused():
    fitted = FittedSolver(two_m(), {"family": [4, 5, 8]})
    with pytest.raises(ValueError, match=r"5 evaluations.*another number of evaluations \(4, 8\)"):
        fitted.plan(levels(VE(), 6))
    with pytest.raises(ValueError, match="connect the SIGMAS"):
        fitted.plan(Points(VE(), (20.0, 5.0, 1.0, 0.3, 0.05, 0.0)))


@PATHS
def test_levels_as_float32_sigmas_are_its_own(path):
    fitted = FittedSolver(table_of(DPMSolverMultistep().plan(levels(path, 8, 500.0, 0.002))))
    sigmas = torch.tensor(fitted.points(path).sigmas(), dtype=torch.float32).tolist()
    assert host_plan(fitted, Points.from_sigmas(path, sigmas)).nfe == 8


# ---- bands


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (1, 5), (64, 3)])
def test_bands_add_up_to_one(size):
    weights = band_weights(KNOTS, *size)
    assert weights.shape == (4, size[0], size[1] // 2 + 1)
    assert torch.allclose(weights.sum(0), torch.ones(weights.shape[1:]).double(), atol=1e-15)
    assert weights[0, 0, 0] == 1


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 7, 10), (2, 3, 4, 6, 8)])
def test_identity_matrices_are_scalar_weights(shape):
    table, x, d = two_m(), normal(*shape) * 20, oracle(VE(), shape[1:])
    plain, mixed = (FittedSolver(t).plan(levels(VE())) for t in (table, bands(table)))
    assert torch.allclose(mixed.solve(Run(d), x), plain.solve(Run(d), x), rtol=0, atol=1e-10)


def test_a_page_gets_bands_in_words():
    shown = plan_record(FittedSolver(bands(two_m())).plan(levels(VE())))
    at = shown["columns"].index("mix")
    assert [row[at] for row in shown["rows"]][:2] == [None, "1 terms in 4 bands"]
    assert json.dumps(shown, allow_nan=False)


def test_one_band_mixes_channels_per_pixel():
    m, x = normal(3, 3).numpy(), normal(2, 3, 6, 6)
    mix = Mix((0.0,), m[None, None], np.zeros((0, 1, 3, 3)))
    expected = torch.einsum("ij,bjhw->bihw", torch.from_numpy(m), x)
    assert torch.allclose(mix.apply([x], [], Spectra()), expected, rtol=0, atol=1e-13)


def test_a_band_takes_its_frequencies():
    """cos(2π·3y/16) has radial frequency 3/8 of Nyquist: between the knots 0.2 and 0.5."""
    y = torch.arange(16).double()
    x = torch.cos(2 * math.pi * 3 * y / 16)[None, None, :, None].expand(1, 1, 16, 16).contiguous()
    d = np.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    mix = Mix(KNOTS, np.zeros((0, 4, 1, 1)), d)
    gain = np.interp(3 / 8, KNOTS, d.ravel())
    assert torch.allclose(mix.apply([], [x], Spectra()), gain * x, rtol=0, atol=1e-13)


@PATHS
def test_bands_mean_the_same_on_every_path(path):
    fitted = FittedSolver(channels_mixed(two_m()))
    x = normal(2, 3, 8, 8) * 20
    end = fitted.plan(fitted.points(VE())).solve(Run(oracle(VE())), x)
    c = rescale(VE().at(20.0), path)[1]
    own = fitted.plan(fitted.points(path)).solve(Run(oracle(path)), c * x)
    assert torch.allclose(own, end, rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [1, 2, 4])
def test_a_split_run_with_bands_is_the_run(level):
    fitted = FittedSolver(channels_mixed(two_m()))
    points, d, x = fitted.points(VE()), oracle(VE()), normal(2, 3, 8, 8) * 20
    whole = fitted.advance(points, Run(d), State((x,)))
    part = fitted.advance(points, Run(d), State((x,)), level=level)
    part = State(**{f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
    assert torch.equal(fitted.advance(points, Run(d), part).x, whole.x)


@PATHS
def test_a_split_run_hands_out_the_state_at_its_level(path):
    solver, points = HeunEDM(), levels(path)
    fitted = FittedSolver(table_of(solver.plan(points)))
    d, x = oracle(path.host), normal(2, 3, 8, 8) * path.host.at(20.0).sigma
    own, base = (s.advance(points, Run(d), State((x,)), level=2) for s in (fitted, solver))
    assert torch.allclose(own.x, base.x, rtol=0, atol=1e-10)


def test_spectra_are_made_once_and_let_go():
    spectra, x = Spectra(), normal(1, 3, 4, 4)
    assert spectra.of(x) is spectra.of(x)
    spectra.forget([])
    assert not spectra.kept


def test_the_printed_table_has_a_column_for_bands():
    plan = FittedSolver(channels_mixed(two_m())).plan(levels(VE()))
    assert "| mix |" in plan.table() and "2 terms in 4 bands" in plan.table()
    assert "mix" not in FittedSolver(two_m()).plan(levels(VE())).table()


def test_a_plan_without_bands_runs_the_same_moves():
    points = levels(VE())
    for solver in (DPMSolverMultistep(), HeunEDM()):
        assert all(move.mix is None for move in host_plan(solver, points).moves)


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (dict(knots=(0.1, 0.5)), "rise from 0"),
        (dict(knots=(0.0, 0.5, 0.5)), "rise from 0"),
        (dict(d=np.zeros((1, 3, 3, 3))), "expected"),
        (dict(x=np.zeros((1, 2, 3, 4)), d=np.zeros((1, 2, 3, 4))), "expected"),
        (dict(d=np.full((1, 2, 3, 3), np.nan)), "NaN"),
    ],
)
def test_bands_refuse(mix, reason):
    good = dict(knots=(0.0, 0.5), x=np.zeros((0, 2, 3, 3)), d=np.zeros((1, 2, 3, 3)))
    Mix(**good)
    with pytest.raises(ValueError, match=reason):
        Mix(**good | mix)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 16)])
def test_a_latent_of_another_kind_is_refused(shape):
    plan = FittedSolver(channels_mixed(two_m())).plan(levels(VE()))
    with pytest.raises(ValueError, match="mixes 3 channels"):
        plan.solve(Run(lambda x, s: x), normal(*shape))


# ---- problems


def problem(path, **more):
    x = normal(6, 3, 8, 8) * path.at(20.0).sigma
    d = oracle(path)
    more = dict(train=torch.arange(4), held=torch.arange(4, 6), batch=3) | more
    return Problem(path, lambda x, s, rows: d(x, s), 20.0, x, torch.zeros_like(x), **more)


@PATHS
def test_a_problem_counts_and_agrees_with_the_run(path):
    task, table = problem(path), two_m()
    ends = task.run(table, task.held)
    assert task.evaluations == 2 * 5
    plan = FittedSolver(table).plan(levels(path))
    assert torch.equal(ends, plan.solve(Run(oracle(path)), task.start[task.held]))
    rms = ends.flatten(1).square().mean(1).sqrt()
    assert torch.allclose(task.errors(table, task.held), rms)


@PATHS
def test_a_problem_on_vp(path):
    task, rows = problem(path), torch.arange(5)
    x = task.begin(rows)
    c = rescale(path.at(20.0), VP())[1]
    assert torch.allclose(x, task.start[:5] * c)
    found = task.denoise(x, 20.0, rows)
    assert torch.allclose(found, oracle(path)(task.start[:5], path.at(20.0).sigma), atol=1e-12)


def test_a_problem_stops_when_asked():
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        problem(VE(), check=stop).run(two_m(), torch.arange(2))


def test_a_problem_refuses():
    with pytest.raises(ValueError, match="held: rows"):
        problem(VE(), held=torch.tensor([6]))
    with pytest.raises(ValueError, match="end holds NaN"):
        Problem(
            VE(),
            None,
            20.0,
            torch.ones(1, 2),
            torch.full((1, 2), math.nan),
            *[torch.zeros(1).long()] * 2,
        )


# ---- files


@pytest.fixture
def file(tmp_path):
    fits = [
        FittedSolver(channels_mixed(two_m(5)), {"guidance": "CFG 2", "model": "abc"}),
        FittedSolver(table_of(HeunEDM().plan(levels(VE(), 4))), {"guidance": "none"}),
    ]
    fit_files.save(tmp_path / "fit.safetensors", fits)
    return tmp_path / "fit.safetensors", fits


def changed(file, tensors=None, facts=None):
    with safe_open(file, "pt") as opened:
        kept = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = json.loads(opened.metadata()[fit_files.FORMAT.header])
    for name, change in (tensors or {}).items():
        kept[name] = change(kept[name])
    save_file(kept, file, {fit_files.FORMAT.header: json.dumps(header | (facts or {}))})


def test_a_family_comes_back_as_it_was(file):
    path, fits = file
    family = fit_files.load(path)
    assert family.nfes == (5, 7)
    for fit in fits:
        found = family.at(fit.table.nfe)
        assert found == fit and found.card["guidance"] == fit.card["guidance"]
        assert found.card["family"] == [5, 7]
    with pytest.raises(ValueError, match="the file holds 5, 7"):
        family.at(6)
    with pytest.raises(ValueError, match="one fit per number"):
        fit_files.save(path, [fits[0], fits[0]])


def nan(t):
    t.view(-1)[-1] = math.nan
    return t


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(tensors={"5.x": nan}), "5.x holds NaN"),
        (dict(tensors={"5.mix.2.d": nan}), "5.mix.2.d holds NaN"),
        (dict(tensors={"5.d": lambda t: t[:4].contiguous()}), r"5.d has shape \(4, 5\)"),
        (dict(tensors={"5.d": lambda t: t + 1}), "not there yet"),
        (dict(tensors={"5.mix.2.d": lambda t: t[:, :2].contiguous()}), "expected"),
        (dict(tensors={"5.levels": lambda t: t.flip(0)}), "strictly down"),
        (dict(facts={"version": 2}), "newer|update it"),
        (dict(facts={"fits": {"9": {}}}), "9.levels.* is missing"),
        (dict(facts={"fits": {}}), "one fit per number"),
    ],
)
def test_a_damaged_file_is_refused(file, change, reason):
    changed(file[0], **change)
    with pytest.raises(ValueError, match=reason) as caught:
        fit_files.load(file[0])
    assert "fit.safetensors" in str(caught.value)


def test_what_is_no_fit_is_refused(tmp_path):
    for name, content in (("cut", b"\x10\0\0"), ("text", b"{" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            fit_files.load(tmp_path / name)
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(
        ValueError, match="not a usable fitted solver: it holds none; Save Fitted Solver"
    ):
        fit_files.load(tmp_path / "other")


def test_another_model_is_noticed(file):
    card = fit_files.load(file[0]).at(5).card
    assert fit_files.differences(card, model="abc", guidance="CFG 2", path=None) == []
    found = fit_files.differences(card, model="def", guidance="CFG 3")
    assert [("abc" in s, "def" in s) for s in found] == [(True, True), (False, False)]
