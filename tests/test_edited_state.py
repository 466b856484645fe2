"""A run that is stopped under churn, edited and continued, against a run that begins with the edited state."""

from dataclasses import replace

import pytest
import torch

from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import Euler, HeunEDM
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Trailing, space
from sampling_kit.schedulers.split import Handover, Part, load, save

SEED = 11


@pytest.mark.parametrize(
    "schedule", [LinearVP(), EDM(), RectifiedFlowSchedule()], ids=["VP", "VE", "flow"]
)
@pytest.mark.parametrize("solver", [Euler(churn=100.0), HeunEDM(churn=100.0)], ids=["1", "2"])
def test_an_edit_under_churn_is_a_fresh_run_from_the_edit(schedule, solver, tmp_path):
    """Both solvers have no history and γ = √2 − 1 in both runs: what was drawn before does not count. On
    flow and VP churn also scales the state, by α at the raised level over α at the level."""
    path, n, level = schedule.path, 6, 3
    sigmas = torch.tensor(space(schedule, n, Trailing()).sigmas()).tolist()
    x = torch.randn(2, 3, 4, 4, generator=torch.manual_seed(0)).double() * max(sigmas[0], 1)
    noise = PerImageNoise(SEED)

    def denoise(x, sigma):
        p = path.host.on(sigma)
        return torch.tanh(x * p.alpha / (p.alpha**2 + p.sigma**2) + 0.1)

    first = Part(solver, Handover(), tuple(sigmas))
    run = Run(denoise, noise)
    start = first.begin(path, x, sigmas[: level + 1], SEED)
    y = first.run(start, path, run, sigmas[: level + 1])
    kept = tmp_path / "state.safetensors"  # what a file holds goes on as what was in memory
    save(replace(first.out.stopped, extra={"picture": y + 1}), kept, {"samples": y})
    stopped, _ = load(kept)
    assert torch.equal(stopped.extra["picture"], y + 1)
    assert stopped.seed == SEED and stopped.state.draws == first.out.stopped.state.draws
    last = Part(solver, Handover(), after=Handover(stopped), edited=True)
    edited = y * 0.8 + 0.1
    start = last.begin(path, edited, sigmas[level:], 0)
    end = last.run(start, path, run, sigmas[level:])
    drawn = stopped.state.draws - 1  # one of them for the step after the stop
    later = lambda position, like: noise(position + drawn, like)  # noqa: E731
    fresh = sample(solver, path, Run(denoise, later), edited, sigmas[level:])
    assert torch.allclose(end, fresh, rtol=0, atol=1e-6)
