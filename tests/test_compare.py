"""Compare Solvers: pairs, errors against exact values, the reference's levels, and what is drawn."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from node_calls import folders, one
from node_calls import returned as node

from sampling_kit.nodes.inspect.compare_solvers import combined, named
from sampling_kit.nodes.ui.payload import PICTURE
from sampling_kit.schedulers.measure.compare_solvers import Entry, refined
from sampling_kit.schedulers.measure.trace import Step, Trace
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.show import contact_sheet, convergence_plot
from sampling_kit.schedulers.show.style import new_figure

__all__ = ["folders"]  # a fixture


@pytest.fixture(scope="module")
def parts():
    """What all runs share, and SIGMAS of 4 and 8 steps."""
    schedule = one("NoiseSchedule", kind={"kind": "ve_edm"})
    small = {"kind": "gaussian", "size": 24, "scenes": 6, "rank": 3}
    model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
    guider = one("Guider", model=model, positive=one("ClassCondition", name="one of each"))
    karras = {"spacing": "karras"}
    sigmas = [one("Steps", noise_schedule=schedule, steps=n, spacing=karras) for n in (4, 8)]
    latent = one("EmptyPixelLatent", width=24, height=24, batch_size=3)
    return dict(guider=guider, noise=one("PerImageNoise", seed=5), latent_image=latent), sigmas


@pytest.fixture(scope="module")
def compared(parts):
    shared, (few, more) = parts
    euler, heun, noisy = one("Euler"), one("HeunEDM"), one("EulerAncestral")
    samplers = dict(sampler0=euler, sampler1=euler, sampler2=heun, sampler3=heun, sampler4=noisy)
    sigmas = dict(sigmas0=few, sigmas1=more, sigmas2=few, sigmas3=more)
    given = dict(samplers=samplers, sigmas=sigmas, runs="pairs", names="\n\n\nmine")
    return node("CompareSolvers", **given, **shared)


def test_the_runs_are_those_of_a_sampler_node(parts, compared):
    """Same noise, same result: the errors are distances of the LATENTs."""
    shared, sigmas = parts
    told = json.loads(compared.result[3])
    levels = torch.tensor(told["reference"]["sigmas"])
    reference = one(
        "SamplerCustomAdvanced", sampler=one("UniPC", max_order=3), sigmas=levels, **shared
    )
    for row, (solver, s) in zip(
        told["runs"], (("Euler", 0), ("Euler", 1), ("HeunEDM", 0)), strict=False
    ):
        out = one("SamplerCustomAdvanced", sampler=one(solver), sigmas=sigmas[s], **shared)
        gap = (out["samples"] - reference["samples"]).flatten(1).square().mean(1).sqrt()
        assert row["errors"] == pytest.approx(gap.tolist(), rel=1e-4)
        assert row["error"] == pytest.approx(float(gap.mean()), rel=1e-4)


def test_the_table(compared):
    told = json.loads(compared.result[3])
    assert [(r["name"], r["steps"], r["nfe"], r["stochastic"]) for r in told["runs"]] == [
        ("Euler", 4, 4, False), ("Euler", 8, 8, False), ("Heun (EDM)", 4, 7, False),
        ("mine", 8, 15, False), ("Euler Ancestral", 8, 8, True),
    ]  # fmt: skip
    errors = [r["error"] for r in told["runs"]]
    assert errors[1] < errors[0] and errors[3] < errors[2] and errors[4] > errors[1]
    assert all(r["seconds_per_image"] == pytest.approx(r["seconds"] / 3) for r in told["runs"])
    text = compared.result[2]
    assert compared.ui["text"] == [text] and len(text.splitlines()) == 8
    assert all(picture.startswith("data:image/") for picture in compared.ui[PICTURE])
    assert "UniPC (max_order 3) with" in text and "Euler Ancestral *" in text


def test_the_sheet_and_the_plot(compared):
    sheet, plot = compared.result[:2]
    assert sheet.shape[1] == 8 + 6 * 152 and plot.shape == (1, 540, 1080, 3)
    coloured = (plot[0].amax(-1) - plot[0].amin(-1) > 0.3).float().mean()
    assert coloured > 0.003
    row = sheet[0, 8 : 8 + 144, -(3 * 152) : -8]  # three pictures of the first run
    assert row.std() > 0.05


def test_without_a_reference_there_is_no_error(parts):
    shared, (few, _) = parts
    once = dict(samplers={"sampler0": one("Euler")}, sigmas={"sigmas0": few})
    found = node("CompareSolvers", reference_steps=0, images=1, **once, **shared)
    told = json.loads(found.result[3])
    assert told["reference"] is None and told["runs"][0]["error"] is None
    assert found.result[0].shape[1] == 8 + 152
    table = found.result[1][0]  # in the plot's place, black on white and not cut off
    assert table.min() < 0.2 and table.std() > 0.05
    assert all(bool((edge == 1).all()) for edge in (table[0], table[-1], table[:, 0], table[:, -1]))


def test_a_reference_of_one_s_own(parts):
    shared, (few, more) = parts
    once = dict(samplers={"sampler0": one("Euler")}, sigmas={"sigmas0": few})
    own = dict(reference_sampler=one("Euler"), reference_sigmas=few)
    told = json.loads(node("CompareSolvers", **own, **once, **shared).result[3])
    assert told["runs"][0]["errors"] == [0.0] * 3 and told["reference"]["nfe"] == 4
    cut = dict(reference_sigmas=more[:-1])
    with pytest.raises(ValueError, match="Euler: its SIGMAS end at 0, those of the reference at"):
        node("CompareSolvers", **cut, **once, **shared)


@pytest.mark.parametrize("levels", [[], [0.0]])
def test_a_reference_needs_a_step(parts, levels):
    shared, (few, _) = parts
    once = dict(samplers={"sampler0": one("Euler")}, sigmas={"sigmas0": few})
    with pytest.raises(ValueError, match=f"reference_sigmas: .* got {len(levels)}; connect"):
        node("CompareSolvers", reference_sigmas=torch.tensor(levels), **once, **shared)


def test_all_and_pairs():
    a, b, s, t = "a", "b", torch.ones(3), torch.zeros(4)
    assert combined([a, b], [s, t], "all") == [(a, s), (a, t), (b, s), (b, t)]
    assert combined([a, b], [s], "pairs") == combined([a, b], [s], "all") == [(a, s), (b, s)]
    assert combined([a], [s, t], "pairs") == [(a, s), (a, t)]
    assert combined([a, b], [s, t], "pairs") == [(a, s), (b, t)]
    for samplers, sigmas, message in (
        ([], [s], "at least one of each"),
        ([a], [s, s[:1]], "sigmas1: a run has 2 levels or more, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            combined(samplers, sigmas, "all")


def test_names():
    solver = one("DDIM", eta=0.5)
    assert named(" one \n", [solver, solver]) == ["one", "DDIM (eta 0.5)"]
    assert named("", [object()]) == ["object"]
    with pytest.raises(ValueError, match="names: 2 lines for 1 runs"):
        named("a\nb", [solver])


def test_a_refined_schedule_keeps_its_levels():
    levels = refined(VE(), [80.0, 2.0, 0.5, 0.0], 12)
    assert [levels[0], levels[4], levels[8], levels[9]] == [80.0, 2.0, 0.5, 0.0] and len(
        levels
    ) == 10
    ratios = [a / b for a, b in pairwise(levels[:5])]
    assert ratios == pytest.approx([40**0.25] * 4)
    flow = refined(Flow(), [1.0, 0.5, 0.0], 4)
    assert flow == pytest.approx([1.0, 0.75, 0.5, 0.0])
    assert refined(VE(), [3.0, 1.0], 0) == [3.0, 1.0]


def made(name, nfe, error, seconds=1.0, stochastic=False):
    step = Step(1.0, seconds, nfe, {})
    trace = Trace(name, VE(), (1.0, 0.0), 0, (step,), torch.rand(2, 3, 8, 8), {}, 0, stochastic)
    return Entry(name, trace, (error,) * 2)


@pytest.mark.parametrize("count", [1, 9])
def test_many_and_odd_runs_are_drawn(count):
    """More solvers than colours, an error of 0, long names, times from nothing to hours."""
    entries = [
        made(
            f"a solver with a rather long name, number {i}",
            3 * i + 1,
            10.0**-i,
            10.0 ** (i - 4),
            i == 2,
        )
        for i in range(count)
    ]
    entries.append(made("exact", 5, 0.0))
    assert convergence_plot.plot(entries).shape == (1, 540, 1080, 3)
    sheet = convergence_plot.contact(entries, None, 2)
    assert sheet.shape[1] == 8 + 152 * len(entries)
    assert math.isclose(entries[0].per_image, entries[0].trace.seconds / 2)
    assert len(set(convergence_plot.families(entries).values())) == count + 1


def test_pictures_are_enlarged_in_squares_and_averaged_when_made_small():
    picture = torch.rand(8, 4, 3)
    big = contact_sheet.fitted(picture, 32)
    assert big.shape == (32, 16, 3) and torch.equal(big[1::4, 1::4], picture)
    small = contact_sheet.fitted(torch.cat([torch.zeros(64, 64, 3), torch.ones(64, 64, 3)]), 32)
    assert small.shape == (32, 16, 3) and small[:12].max() < 0.05 and small[-12:].min() > 0.95


EXAMPLES = Path(__file__).resolve().parent.parent / "example_workflows" / "api"


@pytest.mark.parametrize("name", ["trace", "compare"])
def test_the_examples_are_there(name):
    graph = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    assert any(n["class_type"].startswith("SamplingKit") for n in graph.values())


def test_figures_have_the_pixels_asked_for():
    """matplotlib before 3.11 made 919 of 920."""
    for height in range(200, 1200, 40):
        assert tuple(new_figure(960, height).canvas.get_width_height()) == (960, height)
