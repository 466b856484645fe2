"""Fit nodes and `sampling-kit fit`: from a GUIDER to a SAMPLER that ends where the fit said it would."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sampling_kit.headless.cli import main
from sampling_kit.headless.context import Context, use
from sampling_kit.headless.registry import registry
from sampling_kit.nodes import host
from sampling_kit.nodes.fit import fit_solver
from sampling_kit.nodes.fit import fitted_solver as fitted
from sampling_kit.nodes.fit.fit_solver import fitted as fitted_for
from sampling_kit.schedulers.fit import compare, fit_files, grid
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, DPMSolverMultistep
from sampling_kit.schedulers.solver.fitted import FittedSolver

NODES = registry()
SMALL = {"kind": "gaussian", "size": 24, "scenes": 6, "rank": 3}
QUICK = {"method": "forward", "numbers": 2, "bands": 1, "images": 6, "budget": 100_000}
COUNT, HELD = 12, 4


def few(monkeypatch):
    """Few training-free pairs, for speed."""
    spacings = {name: grid.FIXED[name] for name in ("trailing", "uniform λ", "karras 7")}
    monkeypatch.setattr(grid, "FIXED", spacings)
    monkeypatch.setattr(compare, "STARTS", (DDIM(), DPMSolverMultistep()))
    monkeypatch.setattr(compare, "USUAL", (DDIM(), DPMSolverMultistep(), AdamsBashforth(2)))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """What the runner says to the nodes that it runs, and its inference mode."""
    few(monkeypatch)
    (tmp_path / "output").mkdir()
    places = (tmp_path / kind for kind in ("output", "input", "temp"))
    here = Context(*places, "cpu", None, {}, None, models=tmp_path / "models")
    with use(here), torch.inference_mode():
        yield tmp_path


def node(kind, /, **inputs):
    kind = kind if kind in NODES else f"SamplingKit{kind}"
    return NODES[kind].execute(**inputs).result


def one(kind, /, **inputs):
    return node(kind, **inputs)[0]


def guider_of(schedule="ve_edm", name="one of each", cfg=2.0, **settings):
    model = one(
        "EmbeddedDenoiser",
        kind={**SMALL, **settings},
        noise_schedule=one("NoiseSchedule", kind={"kind": schedule}),
    )
    conds = [one("ClassCondition", name=n) for n in (name, "unconditional")]
    return one("CFGGuider", model=model, positive=conds[0], negative=conds[1], cfg=cfg)


def empty(batch=1):
    return one("EmptyPixelLatent", width=24, height=24, batch_size=batch)


def recording_of(guider, **changes):
    knobs = dict(seed=7, count=COUNT, levels=14, substeps=3, batch=5, folder="fits") | changes
    return one("RecordTrajectories", guider=guider, latent=knobs.pop("latent", empty()), **knobs)


def calls(guider):
    """A list that grows with every network call of the guider."""
    found, inner = [], guider.model.inner
    inner.register_forward_hook(lambda *args: found.append(1))
    return found


def sampled(guider, sampler, sigmas, batch=COUNT):
    noise, latent = one("PerImageNoise", seed=7), empty(batch)
    wires = dict(noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)
    return one("SamplerCustomAdvanced", **wires)["samples"]


# --------------------------------------------------------------------------- the whole of it, once


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


# ------------------------------------------------------------------------------------- interruption


def test_an_interrupted_fit_goes_on_and_a_done_one_is_read():
    guider = guider_of()
    recording = recording_of(guider)
    settings = Forward(numbers=3, bands=0, images=6)
    told = []

    def stop(step, text):
        told.append(text)
        if len(told) == 3:  # the start, and one move
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted_for(recording, settings, 4, HELD, tell=stop)
    assert "held-out error" in told[0]
    found = calls(guider)
    rest = fitted_for(recording, settings, 4, HELD)
    spent = len(found)
    elsewhere = recording_of(guider, folder="other")
    found.clear()
    whole = fitted_for(elsewhere, settings, 4, HELD)
    assert len(found) > 1.3 * spent
    assert rest.table == whole.table
    found.clear()
    again = fitted_for(recording, settings, 4, HELD)
    assert (
        not found and again.table == rest.table and dict(again.card)["after"] == rest.card["after"]
    )
    left = [f.name for f in recording.trajectories.folder.glob("fit-*")]
    assert len(left) == 1 and "done" in left[0]


def test_a_fit_killed_between_its_starts_makes_them_again(monkeypatch):
    """One of three starts is written: the fit that goes on from it would be another, and worse."""
    settings, real = Forward(numbers=1, bands=0, images=6), fit_files.save

    def killed(file, fits):
        if "start-01" in file.name:
            raise KeyboardInterrupt
        real(file, fits)

    recording = recording_of(guider_of())
    with monkeypatch.context() as patch:
        patch.setattr(fit_files, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted_for(recording, settings, 4, HELD, starts=3)
    assert len(list(recording.trajectories.folder.glob("fit-*-start-*"))) == 1
    tried = []
    real_fit = fit_solver.run_fit

    def counted(problem, table, *rest, **more):
        tried.append(table)
        return real_fit(problem, table, *rest, **more)

    monkeypatch.setattr(fit_solver, "run_fit", counted)
    fitted_for(recording, settings, 4, HELD, starts=3)
    assert len(tried) == 3
    left = [f.name for f in recording.trajectories.folder.glob("fit-*")]
    assert len(left) == 1 and "done" in left[0]


# -------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """Fits for 4 and 5 evaluations."""
    base = tmp_path_factory.mktemp("fits")
    here = Context(base, base, base, "cpu", None, {}, None, models=base)
    with use(here), torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        few(patch)
        recording = recording_of(guider_of())
        settings = Forward(numbers=1, bands=0, images=4)
        return [fitted_for(recording, settings, n, HELD) for n in (4, 5)]


def test_one_file_holds_a_family(fits, folders):
    for fit in fits:
        name = one("SaveFittedSolver", fit=fit, name="mine/a")
    assert (
        name == "mine/a.safetensors" and (folders / "models/solvers/mine/a.safetensors").is_file()
    )
    assert "mine/a.safetensors" in fitted.fit_names()
    for fit in fits:
        loaded, about = node("LoadFittedSolver", file=name, nfe=fit.table.nfe)
        assert loaded.table == fit.table and "CFG 2" in about
    with pytest.raises(ValueError, match=r"nfe = 9: there is no fit for 9 evaluations.*holds 4, 5"):
        node("LoadFittedSolver", file=name, nfe=9)
    foreign = FittedSolver(fits[0].table, {**fits[0].card, "model": "0123"})
    with pytest.raises(
        ValueError, match=r"a\.safetensors holds fits of something else.*another name"
    ):
        node("SaveFittedSolver", fit=foreign, name="mine/a")


@pytest.mark.parametrize("name", ["../a", "/etc/a", "", "a/.."])
def test_files_stay_in_their_folder(fits, name):
    assert "name" in NODES["SamplingKitSaveFittedSolver"].validate_inputs(name=name)
    with pytest.raises(ValueError, match="inside of"):
        node("SaveFittedSolver", fit=fits[0], name=name)
    assert NODES["SamplingKitLoadFittedSolver"].validate_inputs(file=name) is not True


def test_what_is_no_fit_is_said_to_be_none(folders):
    solvers = folders / "models" / "solvers"
    solvers.mkdir(parents=True)
    (solvers / "x.safetensors").write_text("nonsense")
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        node("LoadFittedSolver", file="x.safetensors", nfe=4)
    with pytest.raises(ValueError, match=r"there is no such file in .*solvers"):
        node("LoadFittedSolver", file="y.safetensors", nfe=4)
    with pytest.raises(TypeError, match="expected a SOLVER_FIT, got int"):
        node("FittedSolver", fit=3, guider=guider_of())


def test_another_model_warns_and_another_path_converts(fits, caplog):
    fit = fits[0]
    with caplog.at_level(logging.WARNING):
        text = node("FittedSolver", fit=fit, guider=guider_of(rank=2))[2]
    assert "made for model" in text and "made for model" in caplog.text
    assert (
        "made for guidance CFG 2, but this run has guidance no guidance"
        in node("FittedSolver", fit=fit, guider=guider_of(cfg=1.0))[2]
    )
    sampler, sigmas, text = node("FittedSolver", fit=fit, guider=guider_of("rectified_flow"))
    kappas = torch.tensor(fit.table.points(VE()).kappas)
    assert torch.allclose(sigmas, kappas / (1 + kappas), rtol=1e-5)
    assert "starts at" in text  # κ = 80 where the flow model has pure noise
    assert sampled(guider_of("rectified_flow"), sampler, sigmas, 2).isfinite().all()


def test_only_its_own_levels(fits):
    guider = guider_of()
    sampler, sigmas, _ = node("FittedSolver", fit=fits[0], guider=guider)
    with pytest.raises(ValueError, match=r"runs only those.*SIGMAS that come with it"):
        sampled(guider, sampler, sigmas * 1.1, 1)


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


# ------------------------------------------------------------------------------------- command line

ARGUMENTS = [
    "--nfe", "4,5", "--seeds", "0-9", "--held-out", "4", "--levels", "12", "--set", "numbers=1", "--set", "bands=0",
    "--set", "images=4", "--device", "cpu",
]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(main, ["fit", *map(str, arguments)])


def test_the_command_does_the_whole_of_it(tmp_path):
    file = tmp_path / "out" / "gaussian"
    result = invoke("--embedded", "gaussian", "--cfg", 2, "--output", file, *ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert "NFE 4: held-out RMSE" in result.output and "training-free pair" in result.output
    family = fit_files.load(file.with_suffix(".safetensors"))
    assert family.nfes == (4, 5)
    assert Image.open(file.with_suffix(".png")).size == (960, 540)
    again = invoke("--embedded", "gaussian", "--cfg", 2, "--output", file, "--json", *ARGUMENTS)
    facts = json.loads(again.stdout)
    assert set(facts["ratio"]) == {"4", "5"} and all(
        math.isfinite(v) for v in facts["ratio"].values()
    )


def test_the_command_takes_the_guider_of_a_workflow(tmp_path):
    def step(kind, /, **inputs):
        return {"class_type": kind if kind in NODES else f"SamplingKit{kind}", "inputs": inputs}

    graph = {
        "m": step("EmbeddedDenoiser", **{f"kind.{k}" if k != "kind" else k: v for k, v in SMALL.items()}),
        "p": step("ClassCondition", name="desert"),
        "n": step("ClassCondition", name="unconditional"),
        "l": step("EmptyPixelLatent", width=24, height=24, batch_size=2),
        "g": step("CFGGuider", model=["m", 0], positive=["p", 0], negative=["n", 0], cfg=1.5),
        "z": step("RandomNoise", noise_seed=1),
        "s": step("NoiseSchedule", kind="ve_edm"),
        "t": step("Steps", noise_schedule=["s", 0], steps=4, spacing="karras"),
        "k": step("DDIM"),
        "r": step("SamplerCustomAdvanced", noise=["z", 0], guider=["g", 0], sampler=["k", 0], sigmas=["t", 0], latent_image=["l", 0]),
    }  # fmt: skip
    file = tmp_path / "w.json"
    file.write_text(json.dumps(graph))
    result = invoke(file, "--output", tmp_path / "fit", *ARGUMENTS[2:], "--nfe", 4)
    assert result.exit_code == 0, result.output
    assert fit_files.load(tmp_path / "fit.safetensors").at(4).card["guidance"] == "CFG 1.5"
    del graph["r"]
    file.write_text(json.dumps(graph))
    result = invoke(file, "--output", tmp_path / "fit", *ARGUMENTS)
    assert result.exit_code == 2 and "one node that samples is needed, found none" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "x"], "either a WORKFLOW or --embedded"),
        (["--output", "x", "--embedded", "moon"], "--embedded moon: choose one of patches"),
        (["--output", "x", "--embedded", "gaussian", "--nfe", "1-3"], "numbers from 2 on"),
        (["--output", "x", "--embedded", "gaussian", "--method", "m"], "--method m: choose one of forward"),
        (["--output", "x", "--embedded", "gaussian", "--set", "size=3"], "--set size=3: give NAME=VALUE with one of numbers"),
        (["--output", "x", "--embedded", "gaussian", "--set", "numbers=x"], "--set: "),
        (["--embedded", "gaussian"], "Missing option '--output'"),
    ],
)  # fmt: skip
def test_wrong_arguments_say_what_is_right(arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2 and words in " ".join(result.output.split())
