"""Drivers: the one loop, its asynchronous twin, and the one that answers several programs by one call."""

import asyncio
import math
import weakref

import pytest
import torch

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    DDPM,
    Adaptive,
    DPMSolverMultistep,
    Euler,
    HeunEDM,
    Idempotent,
    Langevin,
    Restart,
    State,
    UniPC,
)
from sampling_kit.schedulers.solver.run import (
    Ask,
    Read,
    Run,
    drive,
    drive_async,
    drive_together,
)

SOLVERS = [DDPM(), HeunEDM(), UniPC(3), Restart(), Adaptive(), Langevin(), Idempotent(3, 1e-6)]
solvers = pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
POINTS = Points(VE(), (20.0, 8.0, 3.0, 1.0, 0.3, 0.0))


def start(images=2, points=POINTS):
    noise = torch.randn(images, 3, generator=torch.manual_seed(0)).double()
    return points[0].sigma * noise


def model():
    """A curved field, bounded."""
    linear = Gaussian(VE(), torch.tensor([1.0, 0.5, -1.0]).double(), torch.ones(3).double())
    return lambda y, sigma: torch.tanh(linear(y, sigma))


@solvers
def test_an_awaited_denoiser_gives_the_same_bits(solver):
    denoise, x, seen, awaited = model(), start(), [], []

    async def later(y, sigma):
        await asyncio.sleep(0)
        awaited.append(sigma)
        return denoise(y, sigma)

    def run(steps):
        noise = PerImageNoise(3)
        return Run(denoise, noise, lambda p: steps.append((p.step, p.x.clone(), p.denoised)))

    plain = solver.solve(POINTS, run(seen), x)
    steps = []
    program = solver.steps(POINTS, State((x,)), PerImageNoise(3))
    end = asyncio.run(drive_async(program, run(steps), later)).x
    assert awaited and torch.equal(end, plain) and len(steps) == len(seen)
    for (i, x, d), (j, y, e) in zip(seen, steps, strict=True):
        assert i == j and torch.equal(x, y) and torch.equal(d, e)


def test_two_runs_await_in_turn():
    """Two programs of one event loop, each answered while the other waits."""
    order = []

    async def both():
        def asked(name):
            async def denoise(y, sigma):
                order.append(name)
                await asyncio.sleep(0)
                return 0.5 * y

            program = DDIM().steps(POINTS, State((start(),)))
            return drive_async(program, Run(lambda y, s: y), denoise)

        return await asyncio.gather(asked("a"), asked("b"))

    one, other = asyncio.run(both())
    assert torch.equal(one.x, other.x) and order == ["a", "b"] * 5


@solvers
def test_several_programs_are_answered_by_one_call(solver):
    """The states of single runs within rounding; as few calls as the longest program needs."""
    denoise, calls, alone = model(), [], []
    starts = [start(), -start(), start()[:1]]
    for x in starts:
        alone.append(solver.solve(POINTS, Run(denoise, PerImageNoise(3)), x))

    def counted(y, sigma):
        calls.append(len(y))
        return denoise(y, sigma)

    programs = [solver.steps(POINTS, State((x,)), PerImageNoise(3)) for x in starts]
    ends = drive_together(programs, Run(counted))
    for end, expected in zip(ends, alone, strict=True):
        assert torch.allclose(end.x, expected, rtol=0, atol=1e-12)
    if solver.planned:
        assert calls == [5] * solver.plan(POINTS).nfe


def test_programs_meet_where_their_levels_do():
    """One starts later and one passes another level: the batch is formed by the levels alone."""
    calls = []

    def denoise(y, sigma):
        calls.append((sigma, y[:, 0].tolist()))
        return 0 * y

    def program(mark, levels, first=0):
        for step, sigma in enumerate(levels, first):
            yield torch.full((1, 1), mark), Ask(sigma, step, 3)
        return mark

    programs = [
        program(1.0, (9.0, 4.0, 1.0)),
        program(2.0, (4.0, 1.0), 1),
        program(3.0, (9.0, 5.0, 1.0)),
    ]
    assert drive_together(programs, Run(denoise)) == [1.0, 2.0, 3.0]
    assert calls == [
        (9.0, [1.0, 3.0]),
        (4.0, [1.0, 2.0]),
        (5.0, [3.0]),
        (1.0, [1.0, 2.0, 3.0]),
    ]


def test_states_of_another_shape_or_type_are_not_joined():
    states = [torch.zeros(1, 3), torch.zeros(1, 4), torch.zeros(2, 3), torch.zeros(1, 3).double()]
    calls = []

    def program(y):
        d = yield y, Ask(1.0)
        return d

    def denoise(y, sigma):
        calls.append((tuple(y.shape), y.dtype))
        return y + 1

    ends = drive_together([program(y) for y in states], Run(denoise))
    assert [(e.shape, e.dtype) for e in ends] == [(y.shape, y.dtype) for y in states]
    assert calls == [((3, 3), torch.float32), ((1, 4), torch.float32), ((1, 3), torch.float64)]


def test_a_batch_of_another_shape_is_refused():
    programs = [DDIM().steps(POINTS, State((start(),))) for _ in range(2)]
    with pytest.raises(ValueError, match=r"returned shape \(4, 2\) for x of shape \(4, 3\)"):
        drive_together(programs, Run(lambda y, sigma: y[:, :2]))


def test_no_program_no_call():
    assert drive_together([], Run(lambda y, sigma: 1 / 0)) == []


# -------------------------------------------------------------------------------- what a driver does


def test_numbers_are_read_with_what_was_looked_at():
    read = []

    def program(bad):
        for i in range(6):
            yield torch.ones(1, 2), Ask(2.0, i, 6, look=True)
        read.append((yield Read((torch.tensor(3.0), torch.tensor(4.0)))))
        read.append((yield Read()))

    drive(program(None), Run(lambda y, sigma: y))
    assert read == [[3.0, 4.0], []]
    calls = iter(range(6))
    with pytest.raises(FloatingPointError, match="step 4 of 6, evaluation 5 "):
        drive(program(4), Run(lambda y, sigma: y / (0 if next(calls) == 4 else 1)))


def test_a_run_may_go_on_with_what_is_not_finite():
    x = start()
    end = Euler().solve(POINTS, Run(lambda y, sigma: y * math.nan, finite=False), x)
    assert end.isnan().all()


def test_only_the_images_asked_for_are_looked_at():
    def program():
        d = yield torch.ones(3, 2), Ask(1.0, images=slice(1, 2), begins=False)
        return d

    answer = torch.tensor([[math.nan] * 2, [5.0, 6.0], [math.inf] * 2])
    assert drive(program(), Run(lambda y, sigma: answer)).tolist() == [[5.0, 6.0]]


def test_a_stop_of_the_denoiser_is_not_the_end_of_the_program():
    """StopIteration out of an exhausted iterator is an error of the denoiser."""
    answers = iter([torch.zeros(2, 3).double()])
    with pytest.raises(StopIteration):
        DDIM().solve(POINTS, Run(lambda y, sigma: next(answers)), start())


def test_gradients_pass_through_a_run():
    """D is differentiated through every step: the slope of the end by a number of the denoiser."""

    def end(scale):
        run = Run(lambda y, sigma: scale * torch.tanh(y))
        return DPMSolverMultistep(2).solve(POINTS, run, start()).sum()

    scale = torch.tensor(0.7).double().requires_grad_()
    (slope,) = torch.autograd.grad(end(scale), scale)
    with torch.no_grad():
        difference = (end(scale + 1e-5) - end(scale - 1e-5)) / 2e-5
    assert slope.item() == pytest.approx(difference.item(), rel=1e-6)


def test_a_state_that_is_done_with_is_let_go():
    """While D is found, no more states are held than the plan keeps: the newest, and its successor."""
    alive, most = weakref.WeakSet(), []

    class Watched(torch.Tensor):
        pass

    def denoise(y, sigma):
        alive.add(y)
        most.append(len(alive))
        return y.as_subclass(torch.Tensor) * 0.5

    plan = Euler().plan(Points(VE(), tuple(float(s) for s in range(20, 0, -1))))
    plan.solve(Run(denoise), start().as_subclass(Watched))
    assert max(most[2:]) <= 2
