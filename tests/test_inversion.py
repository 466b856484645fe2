"""From pictures to noise and back, through the nodes, and the nodes that make and compare pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from node_calls import NODES, folders, node, one

from sampling_kit.embedded import postcards
from sampling_kit.headless.cli import main
from sampling_kit.nodes.ui.payload import PICTURE
from sampling_kit.schedulers.measure.metrics import distances
from sampling_kit.schedulers.solver import ALL
from sampling_kit.schedulers.solver.run import Run

__all__ = ["folders"]  # a fixture

EXAMPLES = Path(__file__).resolve().parent.parent / "example_workflows" / "api"


# --------------------------------------------------------------------------------------- inversion


def there_and_back(schedule, solver, steps, **options):
    """(IMAGE, IMAGE after a round trip, LATENT of the noise, σ there); new pictures, class by class."""
    images, classes = node("Postcards", name="one of each", seed=2**31, size=24, batch_size=3)
    small = {"kind": "gaussian", "size": 24, "scenes": 60, "rank": 6}
    model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
    guider = one("Guider", model=model, positive=classes)
    down = one("Steps", noise_schedule=schedule, steps=steps, **options)

    def run(sigmas, latent):
        wires = dict(noise=one("DisableNoise"), guider=guider, sampler=solver, sigmas=sigmas)
        return one("SamplerCustomAdvanced", **wires, latent_image=latent)

    noise = run(one("FlipSigmas", sigmas=down), one("ImageToLatent", image=images))
    return images, one("LatentToImage", latent=run(down, noise)), noise["samples"], float(down[0])


@pytest.mark.some(6)
@pytest.mark.parametrize(
    "solver",
    [kind() for kind in ALL if kind.planned and not kind().stochastic],
    ids=lambda s: type(s).__name__,
)
def test_every_deterministic_solver_returns_to_the_picture(solver):
    """To a 50th of the range in 40 steps, and order 2 to a 250th."""
    schedule = one("NoiseSchedule", kind={"kind": "ve_edm"})
    sampler = one(type(solver).__name__)
    a, b, noise, sigma = there_and_back(schedule, sampler, 40, spacing={"spacing": "karras"})
    rmse = (a - b).square().mean().sqrt()
    assert rmse < (0.02 if solver.order < 2 else 0.004)
    assert 0.3 < (noise / sigma).std() < 3


def test_the_noise_is_that_of_the_closed_form():
    """For a Gaussian, the noise of x is σ·(x − μ)/std in each principal direction: here all of them."""
    from sampling_kit.schedulers.noise_schedule import EDM
    from sampling_kit.schedulers.sample import sample
    from sampling_kit.schedulers.solver import UniPC
    from sampling_kit.schedulers.spacing import Karras, space

    sigmas = one("FlipSigmas", sigmas=torch.tensor(space(EDM(), 60, Karras()).sigmas())).tolist()
    assert sigmas[0] == pytest.approx(1e-4)  # not 0, where x says nothing about the noise
    std = torch.tensor([0.2, 0.5, 1.0])

    def denoise(x, sigma):
        return 0.3 + std**2 / (std**2 + sigma**2) * (x - 0.3)

    x = torch.randn(4, 3, generator=torch.manual_seed(0))
    noise = sample(UniPC(max_order=3), EDM().path, Run(denoise), x, sigmas)
    exact = 0.3 + (x - 0.3) * (std**2 + sigmas[-1] ** 2).sqrt() / (std**2 + sigmas[0] ** 2).sqrt()
    assert torch.allclose(noise, exact, rtol=5e-3)


def test_flow_inverts_below_its_end_and_says_so_at_it():
    schedule = one("NoiseSchedule", kind={"kind": "rectified_flow"})
    heun = one("HeunEDM")
    options = dict(spacing={"spacing": "trailing"})
    a, b, noise, sigma = there_and_back(schedule, heun, 40, denoise=0.97, **options)
    assert 0.9 < sigma < 1 and (a - b).abs().max() < 0.05
    assert 0.3 < (noise * (1 - sigma) / sigma).std() < 3  # the LATENT is x/(1 − σ)
    with pytest.raises(ValueError, match=r"cannot end at σ = 1.*denoise"):
        there_and_back(schedule, heun, 4, **options)


def round_trips(folder, *settings):
    """The errors that the example states, a picture each."""
    arguments = ["run", str(EXAMPLES / "invert.json"), "--output", str(folder), "--json"]
    result = CliRunner().invoke(main, [*arguments, *settings], catch_exceptions=False)
    outputs = json.loads(result.stdout)["runs"][0]["outputs"]
    (text,), (same,) = (outputs[key]["text"] for key in ("15", "16"))
    assert text == same
    return [float(line.split()[2]) for line in text.splitlines()[1:]]


@pytest.mark.full
def test_the_example_s_errors_are_those_that_its_note_states(tmp_path):
    twenty = round_trips(tmp_path)
    assert len(twenty) == 5
    assert min(twenty) > 0.0004 and max(twenty) < 0.0012
    forty = ("--set", "Steps.steps=40", "--set", "Postcards.batch_size=2")
    assert max(round_trips(tmp_path, *forty)) < 0.0002


def test_the_runner_prints_what_nodes_say(tmp_path):
    arguments = ["run", str(EXAMPLES / "invert.json"), "--output", str(tmp_path)]
    small = ["--set", "Steps.steps=3", "--set", "Embedded Denoiser.kind.scenes=8"]
    result = CliRunner().invoke(main, [*arguments, *small], catch_exceptions=False)
    assert result.stderr.count("RMSE  largest") == 1, "shown by two nodes, printed once"
    assert [line.split("_")[-1] for line in result.stdout.splitlines()] == [".png"]


# --------------------------------------------------------------------------------------- Postcards


def test_postcards_are_the_scenes_and_bring_their_classes():
    images, classes = node("Postcards", name="one of each", seed=7, size=24, batch_size=12)
    for i in (0, 3, 11):
        scene = postcards.scene(i % 10, 7 + i, 24)
        assert np.array_equal((images[i] * 255).round().byte().numpy(), scene)
    rows = classes[0][0][:, 0]
    assert rows.shape == (12, 10) and rows.argmax(1).tolist() == [*range(10), 0, 1]
    images, classes = node("Postcards", name="snow", seed=7, size=32, batch_size=2)
    assert images.shape == (2, 32, 32, 3) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(classes[0][0], one("ClassCondition", name="snow")[0][0])


@pytest.mark.parametrize("name", ["unconditional", "volcano"])
def test_postcards_have_a_class(name):
    with pytest.raises(ValueError, match=name):
        node("Postcards", name=name, seed=0, size=24, batch_size=1)


# -------------------------------------------------------------------------------------- Difference


def difference(a, b, **options):
    return NODES["SamplingKitDifference"].execute(a, b, **options)


def test_differences_are_measured_per_image():
    a = torch.zeros(3, 2, 2, 3)
    b = a.clone()
    b[1] += 0.1
    b[2, 0, 0, 0] = 0.5
    shown = difference(a, b, gain=4.0)
    picture, text, facts = shown.result
    found = json.loads(facts)
    assert found[0] == {"rmse": 0.0, "largest": 0.0, "psnr": None}
    assert found[1]["rmse"] == pytest.approx(0.1)
    assert found[1]["psnr"] == pytest.approx(20)
    assert found[2]["rmse"] == pytest.approx(0.5 / math.sqrt(12))
    assert found[2]["largest"] == 0.5
    assert text.splitlines() == [
        "           RMSE  largest  PSNR in dB",
        "image 0       0        0       equal",
        "image 1     0.1      0.1          20",
        "image 2  0.1443      0.5       16.81",
    ]
    assert shown.ui["text"] == [text]
    assert shown.ui[PICTURE][0].startswith("data:image/png;base64,")
    assert picture[0].max() == 0 and torch.allclose(picture[1], torch.tensor(0.4))
    assert picture[2, 0, 0].tolist() == [1, 0, 0]


def test_differences_of_latents():
    """The peak is the range of a; 4 channels are shown grey, frames of a video one by one."""
    a = torch.zeros(2, 4, 3, 8, 8)
    a[:, 0] = 10
    b = a + 1
    picture, _, facts = difference({"samples": a}, {"samples": b}, gain=0.5).result
    assert [row["psnr"] for row in json.loads(facts)] == pytest.approx([20, 20])
    assert picture.shape == (6, 8, 8, 3) and torch.all(picture == 0.5)
    colour = difference({"samples": a[:, :3, 0]}, {"samples": b[:, :3, 0]}).result[0]
    assert colour.shape == (2, 8, 8, 3)


def test_what_cannot_be_compared_is_named():
    image, latent = torch.zeros(1, 8, 8, 3), {"samples": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(ValueError, match="not one of each"):
        difference(image, latent)
    with pytest.raises(ValueError, match=r"shapes differ: \(1, 8, 8, 3\) and \(1, 4, 8, 3\)"):
        difference(image, image[:, :4])
    with pytest.raises(ValueError, match="NaN or infinite"):
        difference(image, image + torch.nan)


def test_a_constant_reference_has_no_peak():
    (found,) = distances(torch.ones(1, 4), torch.zeros(1, 4))
    assert (found.rmse, found.largest, found.psnr) == (1, 1, None)


def test_multiply_latent():
    latent = one("LatentMultiply", samples={"samples": torch.ones(2), "more": 1}, multiplier=0.5)
    assert latent["samples"].tolist() == [0.5, 0.5] and latent["more"] == 1
