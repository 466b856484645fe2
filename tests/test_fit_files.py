"""Interrupted fits go on, and files of fits: where they lie, what they hold, whom they fit."""

from __future__ import annotations

import logging

import pytest
import torch
from fit_cases import HELD, calls, few, folders, guider_of, recording_of, sampled
from node_calls import NODES, node, one

from sampling_kit.headless.context import Context, use
from sampling_kit.nodes.fit import fit_solver, talk
from sampling_kit.nodes.fit import fitted_solver as fitted
from sampling_kit.nodes.fit.fit_solver import fitted as fitted_for
from sampling_kit.schedulers.fit import fit_files
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver.fitted import FittedSolver

__all__ = ["folders"]  # a fixture


# ------------------------------------------------------------------------------------- interruption


def test_an_interrupted_fit_goes_on_and_a_done_one_is_read(monkeypatch):
    monkeypatch.setattr(talk, "EVERY", 0.0)
    guider = guider_of()
    recording = recording_of(guider)
    settings = Forward(numbers=3, bands=0, images=6)
    told = []

    def stop(step, text):
        if "held-out error" in text:
            told.append(text.split(", before")[0])
        if len(set(told)) == 2:  # the start, and one move
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted_for(recording, settings, 4, HELD, tell=stop)
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
