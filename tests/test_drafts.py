"""Draft, pick, finish: the drafts whose numbers are picked end as their full runs, and nothing runs before they are picked."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from node_calls import folders, node, one
from PIL import Image
from product import each
from solver_cases import PLANNED

from sampling_kit.headless.cli import main
from sampling_kit.nodes.solver.drafts import rows_of_latent
from sampling_kit.schedulers.draft_numbers import picked
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.show.contact_sheet import numbered
from sampling_kit.schedulers.solver import Run
from sampling_kit.schedulers.spacing import Trailing, space
from sampling_kit.schedulers.split import Handover, Part, taken

__all__ = ["folders"]  # a fixture

EXAMPLE = "draft-pick-finish"
QUICK = ["--set", "Empty Pixel Latent.batch_size=4", "--set", "Steps.steps=2"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [("3, 7", [2, 6]), ("7 3", [6, 2]), ("1, 4 - 6;8", [0, 3, 4, 5, 7]), ("", []), (" ", [])],
)
def test_drafts_are_numbered_from_one(text, rows):
    assert picked(text, 8) == rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("9", "'9' is no draft; the drafts are 1 to 8"),
        ("0", "'0' is no draft"),
        ("6-4", "'6-4' is no draft"),
        ("1.5", "such as 3, 7 or 1, 4-6"),
        ("2, 1-3", "write each draft once"),
    ],
)
def test_what_is_no_draft_is_named(text, says):
    with pytest.raises(ValueError, match="numbers = ") as error:
        picked(text, 8)
    assert says in str(error.value)


@pytest.mark.some(10)
@each(type, solver=PLANNED, schedule=[ScaledLinearVP(), EDM(), RectifiedFlowSchedule()])
def test_picked_drafts_are_their_full_runs_bit_for_bit(solver, schedule):
    path, seed, rows = schedule.path, 4, [2, 0]
    sigmas = torch.tensor(space(schedule, 5, Trailing()).sigmas()).tolist()
    x = torch.randn(3, 2, 4, 4, generator=torch.manual_seed(0)) * max(sigmas[0], 1)

    def denoise(x, sigma):
        p = path.host.on(sigma)
        return x * (p.alpha / (p.alpha**2 + p.sigma**2)) + 0.1

    whole = sample(solver, path, Run(denoise, PerImageNoise(seed)), x, sigmas)
    first = Part(solver, Handover(), tuple(sigmas))
    start = first.begin(path, x, sigmas[:3], seed)
    y = first.run(start, path, Run(denoise, start.draws(solver, path)), sigmas[:3])
    last = Part(solver, Handover(), after=Handover(taken(first.out.get("a test"), rows)))
    start = last.begin(path, y[rows], sigmas[2:], 0)
    end = last.run(start, path, Run(denoise, start.draws(solver, path)), sigmas[2:])
    assert torch.equal(end, whole[rows]), solver


def test_a_latent_of_some_drafts_says_which_they_are():
    class Nested:
        is_nested = True

        def __init__(self, parts):
            self.parts = parts

        def unbind(self):
            return self.parts

    x, mask = torch.arange(4.0).reshape(4, 1, 1, 1), torch.arange(2.0).reshape(2, 1, 1)
    some = rows_of_latent({"samples": x, "noise_mask": mask}, [3, 0])
    assert some["batch_index"] == [3, 0] and some["samples"].flatten().tolist() == [3, 0]
    assert some["noise_mask"].flatten().tolist() == [1, 0]
    assert rows_of_latent({"samples": x, "batch_index": [5, 6, 7, 8]}, [1])["batch_index"] == [6]
    parts = rows_of_latent({"samples": Nested([x, x + 1])}, [2])["samples"].unbind()
    assert [part.flatten().tolist() for part in parts] == [[2], [3]]


def test_a_sheet_has_a_number_above_each_draft():
    images = torch.full((5, 8, 8, 3), 0.5)
    drawn = numbered(images, columns=3, height=64)
    assert drawn.shape[2] == 8 + 3 * (64 + 8)
    top = drawn[0, :20].mean(-1)
    for k in range(3):  # ink over each column
        assert (top[:, 8 + 72 * k : 72 * (k + 1)] < 0.5).any()
    with pytest.raises(ValueError, match="height = 2000"):
        numbered(images.expand(5, 8, 8, 3).repeat(50, 1, 1, 1), 100, 2000)


def run(tmp_path, *arguments):
    command = ["run", EXAMPLE, *QUICK, *arguments, "--output", str(tmp_path), "--json"]
    return CliRunner().invoke(main, command)


def test_without_numbers_a_run_stops_after_the_drafts(tmp_path):
    files = {}
    for numbers in ("", "2-4"):
        result = run(tmp_path, "--pick", numbers)
        assert result.exit_code == 0, result.output
        files[numbers] = json.loads(result.stdout)["runs"][0]["files"]
    assert ["drafts" in name for name in files[""]] == [True]
    assert sorted("finished" in name for name in files["2-4"]) == [False, True]
    finished = next(name for name in files["2-4"] if "finished" in name)
    assert Image.open(finished).width == 3 * (4 * 32 + 8) + 8


def test_picks_that_are_none_are_refused(tmp_path):
    result = run(tmp_path, "--pick", "5")
    assert result.exit_code != 0 and "the drafts are 1 to 4" in result.output
    result = run(tmp_path, "--pick", "x")
    assert result.exit_code != 0 and "'x' is no draft" in result.output
    other = CliRunner().invoke(main, ["run", "rectified-flow", "--pick", "1"])
    assert other.exit_code != 0 and "one node of the workflow must be a Pick Drafts" in other.output


def test_a_node_that_waits_for_numbers_blocks_what_follows():
    state, latent = node("PickDrafts", state=finished(), latent={"samples": torch.zeros(2, 1)})
    assert type(state).__name__ == type(latent).__name__ == "Blocked"


def finished():
    """The state of a run of two images."""
    schedule = one("NoiseSchedule", kind={"kind": "rectified_flow"})
    small = {"kind": "gaussian", "size": 24, "scenes": 8, "rank": 2}
    model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
    sigmas = one("Steps", noise_schedule=schedule, steps=4, spacing={"spacing": "trailing"})
    keep, state = node("KeepState", sampler=one("SASolver"), sigmas=sigmas)
    one(
        "SamplerCustomAdvanced", noise=one("PerImageNoise", seed=1), sampler=keep, sigmas=sigmas[:3],
        guider=one("Guider", model=model, positive=one("ClassCondition", name="snow")),
        latent_image={"samples": torch.zeros(2, 3, 24, 24)},
    )  # fmt: skip
    return state
