"""Fitting by autograd, on analytic denoisers and a tiny random network."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from sampling_kit.schedulers.denoiser.network import Config, Network
from sampling_kit.schedulers.fit import gradient
from sampling_kit.schedulers.fit.corrections import Corrections, table_from
from sampling_kit.schedulers.fit.problem import Problem, summary
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.fit.run_through import run_through
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, Flow, rescale
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, DPMSolver
from sampling_kit.schedulers.solver.fitted import table_of
from sampling_kit.schedulers.solver.run import Run

KAPPAS = (20.0, 5.0, 1.5, 0.4, 0.0)
#: Deviations of the data of the toy field: many along the first rows, few along the last.
DEVIATIONS = torch.linspace(0.1, 1.5, 8).double()


def toy(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
    """Posterior mean on VE of 3-channel 8×8 data: Gaussian along each row, then bent, so that no plan is exact."""
    s = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)  # not by way of float32
    v = (DEVIATIONS.to(x) ** 2)[:, None]
    d = x * v / (v + s * s)
    return torch.tanh(d) + 0.2 * d.flip(1)


def teacher(x: Tensor, steps: int = 200) -> Tensor:
    kappas = (*torch.logspace(torch.tensor(20.0).log10(), -2.5, steps).double().tolist(), 0.0)
    plan = DPMSolver(2).plan(Points(VE(), (20.0, *kappas[1:])))
    return plan.solve(Run(lambda y, s: toy(y, s, torch.zeros(0))), x)


@pytest.fixture(scope="module")
def problem() -> Problem:
    x = PerImageNoise(5)(0, torch.empty(24, 3, 8, 8)).double() * 20
    return Problem(VE(), toy, 20.0, x, teacher(x), torch.arange(16), torch.arange(16, 24), batch=8)


@pytest.fixture(scope="module")
def start():
    return table_of(AdamsBashforth(2).plan(Points(VE(), KAPPAS)))


def settings(**changes: object) -> gradient.Gradient:
    given = dict(iterations=30, batch=8, every=5, level_rate=0.2, weight_rate=0.03, band_rate=0.1)
    return gradient.Gradient(**(given | changes))


@pytest.fixture(scope="module")
def state(problem, start):
    return run_fit(problem, start, settings())


def test_iteration_0_is_the_start(problem, start):
    state = settings().begin(problem, start)
    assert table_from(state.corrections) is start
    numbers = Corrections(start, state.numbers, state.factors)
    torch.testing.assert_close(
        run_through(problem, numbers, problem.held), problem.run(start, problem.held)
    )


def test_a_fit_is_better_and_is_what_its_table_does(problem, start, state):
    assert state.after["rmse"] < 0.5 * state.before["rmse"]
    assert state.after["median"] < 0.5 * state.before["median"]
    errors = problem.errors(state.table, problem.held)
    assert summary(errors)["rmse"] == pytest.approx(state.after["rmse"], rel=1e-9)
    numbers = Corrections(start, state.numbers, state.factors)
    made = table_from(state.corrections)
    torch.testing.assert_close(
        run_through(problem, numbers, problem.held), problem.run(made, problem.held)
    )
    assert made.levels != start.levels and any(mix for mix in made.mix)


def test_gradients_are_those_of_differences(problem, start):
    state = settings().begin(problem, start)
    generator = torch.Generator().manual_seed(1)
    state = replace(
        state,
        numbers={
            n: 0.02 * torch.randn(t.shape, generator=generator).double()
            for n, t in state.numbers.items()
        },
    )
    rows = problem.train[:4]
    delta = settings().huber * state.before["median"]

    def loss(name: str, index: tuple[int, ...], by: float) -> float:
        values = {n: t.clone() for n, t in state.numbers.items()}
        values[name][index] += by
        ends = run_through(problem, Corrections(start, values, state.factors), rows)
        q = (ends - problem.target(rows)).flatten(1).square().mean(1)
        return float((2 * delta * ((q + delta**2).sqrt() - delta)).mean())

    found = gradient.gradient(problem, state, rows, settings())
    for name, index in (
        ("levels", (0,)), ("levels", (2,)), ("x", (0,)), ("weights.0", (1,)), ("weights.3", (0,)),
        ("bands.1", (0, 1, 2)), ("bands.3", (3, 0, 7)),
    ):  # fmt: skip
        slope = (loss(name, index, 1e-5) - loss(name, index, -1e-5)) / 2e-5
        assert float(found[name][index]) == pytest.approx(slope, rel=1e-3, abs=1e-9), name


def test_a_look_that_failed_is_kept_and_read(start, state, tmp_path):
    """Its error is infinite, which JSON has no number for."""
    file = tmp_path / "state.safetensors"
    failed = gradient.LookRecord("gradient", 10, 100, float("inf"), float("inf"), False)
    gradient.save(file, replace(state, records=(*state.records, failed)), settings())
    assert gradient.load(file, start, settings()).records == (*state.records, failed)


def test_an_interrupted_fit_goes_on_bit_for_bit(problem, start, state, tmp_path):
    file = tmp_path / "state.safetensors"

    def stop(at: gradient.GradientState) -> None:
        gradient.save(file, at, settings())
        if at.iteration == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fit(problem, start, settings(), stop)
    begun = gradient.load(file, start, settings())
    assert begun.iteration == 15
    went_on = run_fit(problem, start, settings(), state=begun)
    assert went_on.table == state.table
    with pytest.raises(ValueError, match="other settings"):
        gradient.load(file, start, settings(batch=4))
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"delete .*state\.safetensors to fit from the start"):
        gradient.load(file, start, settings())


def test_it_is_never_worse_than_the_start(problem, start):
    """A rate that ruins everything returns the start itself, and stops early."""
    wild = settings(level_rate=1.0, weight_rate=10.0, band_rate=10.0, patience=2, iterations=100)
    state = run_fit(problem, start, wild)
    assert state.table is start and state.after == state.before
    assert state.iteration == 10


def test_a_model_without_gradients_is_refused(problem, start):
    blind = replace(problem, field=lambda x, s, rows: toy(x, s, rows).detach())
    with pytest.raises(ValueError, match=r"cannot be differentiated .* forward only"):
        run_fit(blind, start, settings())
    with torch.inference_mode():
        weight = torch.ones(1).double()
    quantised = replace(problem, field=lambda x, s, rows: toy(x, s, rows) * weight)
    with pytest.raises(ValueError, match="cannot be differentiated"), torch.inference_mode():
        run_fit(quantised, start, settings())


def test_it_runs_inside_inference_mode(problem, start):
    with torch.inference_mode():
        inside = replace(problem, start=problem.start.clone(), end=problem.end.clone())
        state = run_fit(inside, start, settings(iterations=5))
    assert state.after["rmse"] < state.before["rmse"]


def test_levels_stay_where_the_field_has_no_slope_in_them(problem, start):
    by_table = replace(
        problem, field=lambda x, s, rows: toy(x, s.item() if isinstance(s, Tensor) else s, rows)
    )
    state = run_fit(by_table, start, settings(iterations=5))
    assert state.table.levels == start.levels and state.after["rmse"] < state.before["rmse"]


def test_features_count(problem, start):
    seen: list[int] = []

    def features(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.mean((2, 3))

    state = run_fit(replace(problem, features=features), start, settings(iterations=5))
    assert seen and state.after["rmse"] < state.before["rmse"]


@pytest.mark.parametrize("path", [VP(), Flow()])
def test_one_fit_on_every_path(problem, start, path):
    """The same field on another path gives the same gradient."""

    def field(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        s = torch.as_tensor(sigma, dtype=torch.float64).reshape(())
        alpha = path.alpha(s)
        return toy(x / alpha, s / alpha, rows)

    c = rescale(VE().at(20.0), path)[1]
    other = replace(problem, path=path, field=field, start=problem.start * c)
    states = [settings().begin(p, start) for p in (problem, other)]
    a, b = (
        gradient.gradient(p, s, p.train[:4], settings())
        for p, s in zip((problem, other), states, strict=True)
    )
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-9)


def test_three_dimensions_have_no_bands_and_five_have(problem, start):
    flat = replace(
        problem,
        field=lambda x, s, rows: toy(x.reshape(-1, 3, 8, 8), s, rows).reshape(x.shape),
        start=problem.start.flatten(2),
        end=problem.end.flatten(2),
    )
    assert not any(run_fit(flat, start, settings(iterations=5)).table.mix)
    video = replace(
        problem,
        field=lambda x, s, rows: toy(x[:, :, 0], s, rows)[:, :, None],
        start=problem.start[:, :, None],
        end=problem.end[:, :, None],
    )
    found = run_fit(video, start, settings(iterations=5))
    assert all(found.table.mix)
    assert found.after["rmse"] == pytest.approx(
        run_fit(problem, start, settings(iterations=5)).after["rmse"], rel=1e-6
    )


# ---- memory


class Peak(TorchDispatchMode):
    """Bytes of storages that live, made while it is on: every operator's results are seen, and a storage
    counts until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tree_map(self.see, found)
        return found

    def see(self, t: object) -> None:
        if not isinstance(t, Tensor):
            return
        storage = t.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or not size:
            return
        self.known[key] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.free, key)

    def free(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


def test_the_peak_is_that_of_one_evaluation():
    """At most 1.3 times one evaluation with gradients, whatever the number of evaluations."""
    torch.manual_seed(0)
    net = Network(VE(), Config(channels=48, multiples=(1, 2), attention=(1,), size=16)).eval()
    net.requires_grad_(False)
    classes = torch.eye(10)
    x = torch.randn(8, 3, 16, 16) * 20

    def field(y: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        return net(y, sigma, classes[rows])

    y, level = (x / 4).requires_grad_(), torch.tensor([5.0], requires_grad=True)
    with Peak() as one:
        d = field(y, level, torch.arange(8))
        torch.autograd.grad(d.square().sum(), [y, level])
        del d
    problem = Problem(VE(), field, 20.0, x, x / 20, torch.arange(8), torch.arange(8))
    for kappas in (KAPPAS, (20.0, 12.0, 8.0, 5.0, 3.0, 1.5, 0.8, 0.4, 0.1, 0.0)):
        table = table_of(DDIM().plan(Points(VE(), kappas)))
        state = settings().begin(problem, table)
        with Peak() as whole:
            gradient.gradient(problem, state, torch.arange(8), settings())
        assert whole.most <= 1.3 * one.most, (table.nfe, whole.most / one.most)
