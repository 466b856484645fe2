"""Fit nodes: from a GUIDER to a SAMPLER that ends where the fit said it would."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from fit_cases import COUNT, HELD, calls, folders, guider_of, recording_of, sampled
from node_calls import node, one

from sampling_kit.nodes import host

__all__ = ["folders"]  # a fixture

QUICK = {"method": "forward", "numbers": 2, "bands": 1, "images": 6, "budget": 100_000}


# --------------------------------------------------------------------------- the whole of it, once


@pytest.mark.some(1)
@pytest.mark.parametrize("schedule", ["ve_edm", "rectified_flow", "vp_scaled_linear"])
def test_what_is_fitted_is_what_runs(schedule):
    """Recorded rows are the sampler's images; the fitted SAMPLER ends where the fit ended, on every path."""
    guider = guider_of(schedule)
    recording = recording_of(guider)
    fit = one("FitSolver", trajectories=recording, nfe=4, held_out=HELD, method=QUICK)
    assert fit.card["after"]["rmse"] <= fit.card["before"]["rmse"]
    assert fit.card["guidance"] == "CFG 2"
    assert fit.card["seeds"] == [[7, 14], [15, 18]]
    sampler, sigmas, text = node("FittedSolver", fit=fit, guider=guider)
    assert text == "fits this model and guidance"
    off = sampled(guider, sampler, sigmas) - recording.trajectories.end()
    rms = off[-HELD:].square().flatten(1).mean(1).sqrt()
    assert float(rms.square().mean().sqrt()) == pytest.approx(fit.card["after"]["rmse"], rel=1e-3)


def test_a_recording_is_read_and_goes_on():
    guider = guider_of()
    found = calls(guider)
    first = recording_of(guider)
    assert found
    found.clear()
    again = recording_of(guider)
    assert not found and again.trajectories == first.trajectories
    recording_of(guider, count=COUNT + 3)
    assert found
    other = recording_of(guider_of(name="desert"))  # another prompt, another folder
    assert other.trajectories.folder != first.trajectories.folder
    assert other.trajectories.folder.parent == first.trajectories.folder.parent


def test_prompts_take_turns():
    night, snow = guider_of(name="desert"), guider_of(name="snow")
    both = recording_of(night, more={"guider0": snow}, count=4)
    alone = [recording_of(g, count=4) for g in (night, snow)]
    for row in range(4):
        end = alone[row % 2].trajectories.end()[row]
        assert torch.allclose(both.trajectories.end()[row], end, atol=1e-5)


def test_fit_steps_gives_sigmas_that_are_better_or_fixed():
    recording = recording_of(guider_of())
    sigmas, text, facts = node(
        "FitSteps",
        trajectories=recording,
        sampler=one("DPMSolverMultistep"),
        nfe=5,
        held_out=HELD,
        budget=300,
    )
    assert len(sigmas) == 6 and sigmas[-1] == 0 and (sigmas[:-1] > sigmas[1:]).all()
    found = json.loads(facts)["candidates"]
    assert found[0]["rmse"] == min(c["rmse"] for c in found) and "held-out" in text
    fixed = min(c["rmse"] for c in found if not c["fitted"])
    assert found[0]["rmse"] <= fixed
    fit = one(
        "FitSolver", trajectories=recording, nfe=5, held_out=HELD, method=QUICK,
        sampler=one("DPMSolverMultistep"), sigmas=sigmas,
    )  # fmt: skip
    assert fit.card["before"]["rmse"] == pytest.approx(found[0]["rmse"], rel=1e-3)


@pytest.mark.some(1)
@pytest.mark.parametrize("method", ["gradient", "amed"])
def test_gradients_go_through_the_model_under_inference_mode(method):
    recording = recording_of(guider_of())
    knobs = {"method": method, "iterations": 20, "batch": 4, "every": 10, "bands": False}
    fit = one("FitSolver", trajectories=recording, nfe=4, held_out=HELD, method=knobs)
    gained = fit.card["after"]["rmse"] < fit.card["before"]["rmse"]
    assert gained if method == "gradient" else fit.table.nfe <= 4


def test_report_compares_with_every_pair():
    recording = recording_of(guider_of())
    fit = one("FitSolver", trajectories=recording, nfe=4, held_out=HELD, method=QUICK)
    plot, text, facts = node(
        "SolverReport", trajectories=recording, fits={"fit0": fit}, held_out=HELD
    )
    assert plot.shape == (1, 540, 960, 3) and 0 <= plot.min() < plot.max() <= 1
    (row,) = json.loads(facts)["rows"]
    assert row["fitted"] == pytest.approx(fit.card["after"]["rmse"], rel=1e-4)
    assert row["pair"] in text
    # between ends of its own a training-free solver is better than on any fixed spacing
    assert "σ/α" in fit.card["start"] and fit.card["before"]["rmse"] < row["training_free"]
    with pytest.raises(ValueError, match=r"was made with seeds up to 14.*choose fewer"):
        node("SolverReport", trajectories=recording, fits={"fit0": fit}, held_out=HELD + 1)
    shipped = replace(
        fit, card={**fit.card, "seeds": [[10**6, 10**6 + 9], [10**6 + 10, 10**6 + 12]]}
    )
    far = node("SolverReport", trajectories=recording, fits={"fit0": shipped}, held_out=HELD + 1)
    assert json.loads(far[2])["rows"][0]["nfe"] == 4


# ------------------------------------------------------------------------------------------- errors


def test_errors_name_the_input_and_the_way_out():
    guider = guider_of()
    with pytest.raises(ValueError, match=r"latent: it holds a picture.*empty latent"):
        recording_of(guider, latent={"samples": torch.ones(1, 3, 24, 24)})
    with pytest.raises(ValueError, match="teacher: DDPM draws noise"):
        recording_of(guider, teacher=one("DDPM"))
    with pytest.raises(ValueError, match=r"folder = '../up': give a name inside"):
        recording_of(guider, folder="../up")
    with pytest.raises(ValueError, match=r"more.guider0: another MODEL or guidance"):
        recording_of(guider, more={"guider0": guider_of(cfg=3.0)})
    with pytest.raises(ValueError, match=r"sigmas: 2 levels.*the largest first"):
        recording_of(guider, sigmas=torch.tensor([0.0, 1.0]))
    recording = recording_of(guider, count=3)
    with pytest.raises(ValueError, match=r"held_out = 3: of 3 recorded.*between 1 and 2"):
        node("FitSolver", trajectories=recording, nfe=4, held_out=3, method=QUICK)
    with pytest.raises(ValueError, match="sampler and sigmas: connect both"):
        node(
            "FitSolver",
            trajectories=recording,
            nfe=4,
            held_out=1,
            method=QUICK,
            sampler=one("DDIM"),
        )
    sigmas = torch.tensor([80.0, 5.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="needs 3 evaluations on these steps, nfe is 4"):
        node("FitSolver", trajectories=recording, nfe=4, held_out=1, method=QUICK, sampler=one("DDIM"), sigmas=sigmas)  # fmt: skip
    with pytest.raises(ValueError, match="sigmas: they start at 40"):
        node("FitSolver", trajectories=recording, nfe=3, held_out=1, method=QUICK, sampler=one("DDIM"), sigmas=sigmas / 2)  # fmt: skip
    for few in (sigmas[:0], sigmas[:1]):
        with pytest.raises(ValueError, match=f"sigmas: a run has 2 levels or more, got {len(few)}"):
            node("FitSolver", trajectories=recording, nfe=3, held_out=1, method=QUICK, sampler=one("DDIM"), sigmas=few)  # fmt: skip
    with pytest.raises(ValueError, match="method = 'magic': choose one of forward"):
        node("FitSolver", trajectories=recording, nfe=4, held_out=1, method={"method": "magic"})
    with pytest.raises(TypeError, match="expected TRAJECTORIES, got str"):
        node("FitSteps", trajectories="x", sampler=one("DDIM"), nfe=4, held_out=1)


def test_guidance_that_remembers_is_refused():
    model = guider_of().model
    conds = [one("ClassCondition", name=n) for n in ("desert", "unconditional")]
    chain = one("APG", momentum=-0.5)
    guider = one("Guider", model=model, positive=conds[0], negative=conds[1], guidance=chain)
    with pytest.raises(ValueError, match="remembers from step to step"):
        recording_of(guider)


def test_gradients_refused_where_the_model_has_none(monkeypatch):
    recording = recording_of(guider_of())
    real = host.runs.with_field

    def quantised(*args):
        *most, then = args
        return real(*most, lambda ready: then(replace(ready, refusal="its weights are quantised")))

    monkeypatch.setattr(host.runs, "with_field", quantised)
    with pytest.raises(
        ValueError,
        match="Gradient needs gradients through the MODEL, but its weights are quantised; use forward",
    ):
        node(
            "FitSolver", trajectories=recording, nfe=4, held_out=HELD, method={"method": "gradient"}
        )


def test_fields_of_mixed_rows():
    guiders = [guider_of(name="one of each"), guider_of(name="snow")]
    x = torch.randn(5, 3, 24, 24)
    rows = torch.tensor([8, 3, 0, 5, 21])
    d = host.runs.with_field(guiders, (3, 24, 24), 4, 0, lambda ready: ready.field(x, 2.0, rows))
    for i, row in enumerate(rows.tolist()):
        inner = guiders[row % 2].model.inner
        c = torch.zeros(1, 10)
        classes = sorted(range(10))
        if row % 2:
            c = torch.as_tensor(guiders[1].conds["cond"][0][0][:1, 0])
        else:
            c[0, classes[row // 2 % 10]] = 1
        u = inner(x[i : i + 1], 2.0, torch.zeros(1, 10))
        truth = u + 2 * (inner(x[i : i + 1], 2.0, c) - u)
        assert torch.allclose(d[i : i + 1], truth, atol=1e-5)
