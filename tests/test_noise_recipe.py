"""Noise recipes: generators against published numbers, Brownian paths, colours, a second seed, one NOISE for many nodes.

Sources: Random123's known answers of philox4x32-10 (kat_vectors); the numbers that A1111's rng_philox.py prints for seed 0.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from node_calls import folders, node, one

from sampling_kit.nodes import host
from sampling_kit.nodes.noise.wire import NoiseWire
from sampling_kit.schedulers.noise import (
    COLOURS,
    GENERATORS,
    PLAIN,
    BatchSeed,
    Brownian,
    Coloured,
    NoiseRecipe,
    Offset,
    PerImageNoise,
    Philox,
    Pyramid,
    SecondSeed,
    TorchCPU,
    draws_of,
    from_facts,
    to_facts,
)
from sampling_kit.schedulers.noise.philox import normals, philox
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, DPMSolverMultistep, Restart, Run
from sampling_kit.schedulers.solver.base import spans_of
from sampling_kit.schedulers.split import load, save

__all__ = ["folders"]  # a fixture

LIKE = torch.empty(3, 4, 8, 6)
SHAPES = [
    (1, 2, 7),
    (1, 2, 5, 8),
    (1, 2, 3, 4, 5),
    (1, 3, 1, 1),
]  # sound, picture, video, one place
COLOURED = [Coloured(1.0), Coloured(-2.0), Pyramid(0.8, 3), Offset(0.7)]
MIXED = SecondSeed(second_seed=50, strength=0.3)
RECIPES = [
    *(NoiseRecipe(generator=kind()) for kind in GENERATORS.values()),
    *(NoiseRecipe(colour=colour, variation=MIXED) for colour in COLOURED),
    NoiseRecipe("shared", Philox(), Coloured(2.0), SecondSeed(9, 0.5, "per_image")),
]


# ---------------------------------------------------------------------------------- generators


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_has_the_known_answers(counter, key, words):
    drawn = philox(tuple(np.array([word], dtype=np.uint64) for word in counter), key)
    assert " ".join(f"{int(word[0]):08x}" for word in drawn) == words


def test_philox_draws_what_the_web_ui_documents():
    printed = [
        "-0.92466259",
        "-0.42534415",
        "-2.6438457",
        "0.14518388",
        "-0.12086647",
        "-0.57972564",
        "-0.62285122",
        "-0.32838709",
        "-1.07454231",
        "-0.36314407",
        "-1.67105067",
        "2.26550497",
    ]
    assert [float(f"{z:.8f}") for z in normals(0, 12)] == [float(z) for z in printed]
    start = NoiseRecipe(generator=Philox()).start(0, None, [torch.empty(1, 3, 4)])[0]
    assert torch.equal(start.flatten(), torch.from_numpy(normals(0, 12)).float())
    later = NoiseRecipe(generator=Philox()).draws(0)(2, torch.empty(1, 12))
    assert torch.equal(later[0], torch.from_numpy(normals(0, 12, offset=2)).float())


def test_torchs_generator_draws_as_the_core_does():
    recipe = NoiseRecipe(generator=TorchCPU())
    core = torch.randn(LIKE.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(recipe.start(7, None, [LIKE])[0], core)
    assert torch.equal(recipe.start(7, (2, 0), [LIKE[:2]])[0], core[[2, 0]])
    shared = NoiseRecipe("shared", TorchCPU()).start(7, None, [LIKE])[0]
    assert torch.equal(shared, core[:1].expand_as(core))
    draws = recipe.draws(7, (2, 0, 1))
    assert torch.equal(draws(3, LIKE), PerImageNoise(7, (2, 0, 1))(3, LIKE))


def test_the_default_is_per_image_noise():
    assert torch.equal(PLAIN.start(5, (1, 4, 2), [LIKE])[0], PerImageNoise(5, (1, 4, 2))(0, LIKE))
    latent = {"samples": torch.zeros(2, 3, 4, 4)}
    ours, before = (one(kind, seed=5) for kind in ("Noise", "PerImageNoise"))
    assert torch.equal(ours.generate_noise(latent), before.generate_noise(latent))
    assert getattr(ours.seed, "recipe", 0) is None  # a state file without news


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_an_image_has_its_noise_in_every_batch(recipe):
    spans = [(9.0, 4.0), (4.0, 1.0), None]
    for like in (LIKE, torch.empty(3, 2, 2, 8), torch.empty(3, 2, 2, 4, 4)):
        whole, draws = recipe.start(5, None, [like])[0], recipe.draws(5, None, spans)
        for i in range(3):
            alone = recipe.start(5, (i,), [like[:1]])[0]
            assert torch.equal(alone[0], whole[i])
            for k in (1, 2, 3, 4):
                assert torch.equal(recipe.draws(5, (i,), spans)(k, like[:1])[0], draws(k, like)[i])
    if recipe.batch == "per_image":
        assert not torch.equal(whole[0], whole[1])
    with pytest.raises(ValueError, match="image indices for a batch of 3"):
        recipe.draws(0, (1,), spans)(1, LIKE)


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_a_recipe_is_json(recipe):
    assert from_facts(to_facts(recipe)) == recipe


# ------------------------------------------------------------------------------------- colours


@pytest.mark.some(6)
@pytest.mark.parametrize("colour", COLOURED, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_value_of_a_colour_has_variance_one(colour, shape):
    """Var z² = 2, so the mean square over n images has the deviation √(2/n); 5.5 of them, over 200 values."""
    n = 2000
    z = NoiseRecipe(colour=colour).start(1, None, [torch.empty(n, *shape[1:])])[0]
    off = (z.square().mean(0) - 1).abs().max()
    assert off < 5.5 * math.sqrt(2 / n)
    assert z.mean(0).abs().max() < 5.5 / math.sqrt(n)


def test_the_power_of_a_colour_falls_as_it_says():
    z = NoiseRecipe(colour=Coloured(1.5)).start(0, None, [torch.empty(64, 1, 64, 64)])[0]
    power = torch.fft.fft2(z).abs().square().mean((0, 1))
    f = torch.fft.fftfreq(64)
    f = (f[:, None] ** 2 + f[None] ** 2).sqrt()
    inside = f > 0
    slope = np.polyfit(f[inside].log().numpy(), power[inside].log().numpy(), 1)[0]
    assert slope == pytest.approx(-1.5, abs=0.02)


def test_offset_and_pyramid_move_the_mean():
    """The mean of n values has variance 1/n in white noise; with an offset (1/n + s²)/(1 + s²)."""
    like = torch.empty(2000, 1, 8, 8)
    means = NoiseRecipe(colour=Offset(0.5)).start(0, None, [like])[0].mean((2, 3)).var()
    assert float(means) == pytest.approx((1 / 64 + 0.25) / 1.25, rel=0.15)
    pyramid = NoiseRecipe(colour=Pyramid(0.5)).start(0, None, [like])[0].mean((2, 3)).var()
    assert pyramid > 3 / 64


def test_a_nested_latent_is_coloured_part_by_part():
    class Nested:
        is_nested = True

        def __init__(self, parts):
            self.parts = parts

        def unbind(self):
            return self.parts

    parts = [torch.zeros(2, 4, 3, 8, 8), torch.zeros(2, 5, 9)]
    for generator, colour in zip(GENERATORS, COLOURS, strict=True):
        made = one("Noise", seed=3, generator={"generator": generator}, colour={"colour": colour})
        noise = made.generate_noise({"samples": Nested(parts)}).parts
        assert [z.shape for z in noise] == [part.shape for part in parts]
        assert not torch.allclose(noise[0].flatten()[:9], noise[1].flatten()[:9])
        third = one("Noise", seed=1, generator={"generator": generator}, colour={"colour": colour})
        if generator != "torch_cpu":
            moved = third.generate_noise({"samples": Nested(parts), "batch_index": [2, 3]}).parts
            assert all(map(torch.equal, moved, noise))


# ------------------------------------------------------------------------------------ second seed


def test_the_second_seed_is_on_the_sphere():
    first, second = (PLAIN.start(seed, None, [LIKE])[0] for seed in (5, 90))

    def mixed(strength, seed=90):
        return NoiseRecipe(variation=SecondSeed(seed, strength)).start(5, None, [LIKE])[0]

    assert torch.equal(mixed(0.0), first) and torch.equal(mixed(1.0), second)
    c, s = math.cos(0.3 * math.pi / 2), math.sin(0.3 * math.pi / 2)
    torch.testing.assert_close(mixed(0.3), c * first + s * second)
    assert torch.equal(mixed(0.3, seed=5), first)  # one seed twice
    many = NoiseRecipe(variation=SecondSeed(10**6, 0.4)).start(0, None, [torch.empty(2, 100, 100)])
    assert float(many[0].var()) == pytest.approx(1, abs=5 * math.sqrt(2 / 20000))
    shared = NoiseRecipe("shared", variation=SecondSeed(90, 0.3)).start(5, None, [LIKE])[0]
    torch.testing.assert_close(shared, c * first[:1] + s * second)  # variations of one picture


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_strength_of_one_is_the_other_seed_on_the_way_too(generator):
    schedule = one("NoiseSchedule", kind={"kind": "vp_scaled_linear"})
    model = one("EmbeddedDenoiser", kind={"kind": "gaussian", "size": 24, "scenes": 8, "rank": 2}, noise_schedule=schedule)  # fmt: skip
    sigmas = one("Steps", noise_schedule=schedule, steps=4, spacing={"spacing": "trailing"})
    guider = one("Guider", model=model, positive=one("ClassCondition", name="snow"))
    latent = {"samples": torch.zeros(2, 3, 24, 24)}

    def run(seed, strength):
        variation = {"variation": "second_seed", "second_seed": 70, "strength": strength}
        if strength is None:
            variation = {"variation": "none"}
        noise = one("Noise", seed=seed, generator={"generator": generator}, variation=variation)
        return one(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=one("SASolver"), sigmas=sigmas,
            latent_image=latent,
        )["samples"]  # fmt: skip

    other, mine = run(70, None), run(5, None)
    assert torch.equal(run(5, 1.0), other) and torch.equal(run(5, 0.0), mine)
    assert not torch.allclose(run(5, 0.5), mine, atol=1e-3)


# --------------------------------------------------------------------------------------- Brownian


def end(solver, kappas, d, x, seed=3):
    points, path = Points(VE(), tuple(kappas)), VE()
    seed = BatchSeed(seed, None, NoiseRecipe(generator=Brownian()))
    return solver.solve(points, Run(d, draws_of(seed, spans_of(solver, path, points.sigmas()))), x)


def geometric(steps):
    return np.geomspace(40.0, 0.05, steps + 1)


def test_brownian_noise_does_not_depend_on_the_number_of_steps():
    """For constant D the reverse SDE's own solution: 1 step and 60 end alike. Independent draws do not."""
    x, mean = 40 * torch.randn(2, 3, 4, 4, generator=torch.manual_seed(0)), torch.tensor(0.3)
    x = x.double()

    def constant(y, sigma):
        return mean.expand_as(y).double()

    ends = [end(DDIM(eta=1.0), geometric(steps), constant, x) for steps in (1, 7, 60)]
    for other in ends[:2]:
        assert (other - ends[2]).abs().max() < 5e-5 * 0.05 * 50  # τ is known to 1 in 65536
    plain = DDIM(eta=1.0).solve(
        Points(VE(), tuple(geometric(7))), Run(constant, PerImageNoise(3)), x
    )
    assert (plain - ends[2]).abs().max() > 0.05


def test_runs_on_one_brownian_path_converge():
    """Strong convergence on data N(0, 1), D = x/(1 + σ²): the error of 2n steps is about half that of n."""
    x = 40 * torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0)).double()
    ends = {n: end(DDIM(eta=1.0), geometric(n), lambda y, s: y / (1 + s * s), x) for n in (8, 16, 32, 256)}  # fmt: skip
    error = [float((ends[n] - ends[256]).square().mean().sqrt()) for n in (8, 16, 32)]
    assert (
        error[0] > 1.5 * error[1] > 1.5**2 * error[2] and error[2] < 0.15
    )  # independent runs: 1.4


def test_brownian_draws_are_standard_normal_and_independent():
    recipe, like = NoiseRecipe(generator=Brownian()), torch.empty(1, 30000)
    spans = [(math.inf, 80.0), (80.0, 14.0), (14.0, 13.9), (13.9, 2.0), (2.0, 1.999), (1.999, 0.01)]
    draws = [
        recipe.draws(0, None, spans)(k, like)[0] for k in range(1, 8)
    ]  # the last is on no path
    table = torch.cov(torch.stack(draws))
    assert (table - torch.eye(7)).abs().max() < 5.5 * math.sqrt(2 / 30000)


def test_no_stretch_of_a_path_is_used_twice():
    points = Points(VE(), tuple(geometric(8)))
    for solver in (DDIM(eta=0.7), DPMSolverMultistep(eta=1.0), Restart(restarts=2, low=0.1, high=5.0)):  # fmt: skip
        plan = solver.plan(points)
        assert len(plan.spans) == sum(stage.noise != 0 for stage in plan.stages)
        on_path = [span for span in plan.spans if span]
        flat = [kappa for span in on_path for kappa in span]
        assert flat == sorted(flat, reverse=True)
    assert on_path == []  # Restart only puts noise back


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_state_file_keeps_how_noise_is_drawn(generator, tmp_path):
    schedule = one("NoiseSchedule", kind={"kind": "rectified_flow"})
    model = one("EmbeddedDenoiser", kind={"kind": "gaussian", "size": 24, "scenes": 8, "rank": 2}, noise_schedule=schedule)  # fmt: skip
    sigmas = one("Steps", noise_schedule=schedule, steps=5, spacing={"spacing": "trailing"})
    guider = one("Guider", model=model, positive=one("ClassCondition", name="snow"))
    solver, latent = one("SASolver"), {"samples": torch.zeros(2, 3, 24, 24)}
    noise = one(
        "Noise", seed=5, batch="shared", generator={"generator": generator},
        variation={"variation": "second_seed", "second_seed": 8, "strength": 0.4},
    )  # fmt: skip

    def run(sampler, levels, start, z):
        return one(
            "SamplerCustomAdvanced", noise=z, guider=guider, sampler=sampler, sigmas=levels, latent_image=start
        )  # fmt: skip

    whole = run(solver, sigmas, latent, noise)["samples"]
    keep, state = node("KeepState", sampler=solver, sigmas=sigmas)
    half = run(keep, sigmas[:3], latent, noise)
    save(state.stopped, tmp_path / "s.safetensors", {"samples": half["samples"]})
    state.stopped, _ = load(tmp_path / "s.safetensors")
    resume = one("ResumeState", sampler=solver, state=state)
    assert torch.equal(run(resume, sigmas[2:], half, one("DisableNoise"))["samples"], whole)


# ------------------------------------------------------------------------------- one NOISE, many nodes


def test_what_one_node_sets_on_a_noise_no_other_sees(monkeypatch):
    """ComfyUI keeps a NOISE in its cache and hands it to every node, in this run and the next."""
    here = ["maker"]
    monkeypatch.setattr(host.runs, "consumer", lambda: here[0])
    noise, latent = NoiseWire(1), {"samples": torch.zeros(1, 4, 4, 4)}
    first = noise.generate_noise(latent)
    for chunk in (7, 8):
        here[0] = "node 1"
        noise.seed = chunk
        assert torch.equal(noise.generate_noise(latent), NoiseWire(chunk).generate_noise(latent))
        assert noise.seed == chunk
        here[0] = "node 2"
        assert noise.seed == 1 and torch.equal(noise.generate_noise(latent), first)
        noise.generate_noise({**latent, "batch_index": [3]})
        here[0] = "node 3"
        assert getattr(noise.seed, "images", None) is None
    here[0] = "helper"  # a node that copies it and hands the copy on
    other = copy.copy(noise)
    other.seed = 9
    here[0] = "node 4"
    assert (other.seed, noise.seed) == (9, 1)
