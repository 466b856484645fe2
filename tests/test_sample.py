"""The Sample node beside the wired graph that it stands for: the same bits, and what it says of its choices."""

from __future__ import annotations

import io
import json

import pytest
import torch
from node_calls import NODES, folders, node, one, returned
from PIL import Image

from sampling_kit.headless.sweep.worker import Worker
from sampling_kit.nodes import host
from sampling_kit.nodes.fit.fitted_solver import fit_names
from sampling_kit.nodes.sample.sample import Wants
from sampling_kit.nodes.ui.foreign_names import KEY, LEVELS, SOLVER
from sampling_kit.schedulers import policy
from sampling_kit.schedulers.guidance import CFG, Guidance
from sampling_kit.schedulers.solver.published import BY_NAME, by_foreign_name, name_of

__all__ = ["folders"]  # a fixture

SMALL = {"kind": "gaussian", "size": 24, "scenes": 4, "rank": 2}
SCHEDULES = ("ve_edm", "rectified_flow", "vp_scaled_linear")


def parts(kind="ve_edm"):
    """model, positive, negative, latent of two images."""
    schedule = one("NoiseSchedule", kind={"kind": kind})
    model = one("EmbeddedDenoiser", kind=SMALL, noise_schedule=schedule)
    conds = [one("ClassCondition", name=name) for name in ("snow", "unconditional")]
    return model, *conds, one("EmptyPixelLatent", width=24, height=24, batch_size=2)


def sampled(kind="ve_edm", **inputs):
    model, positive, negative, latent = parts(kind)
    given = dict(seed=3, steps=6, cfg=2.0, negative=negative) | inputs
    latent, report = node("Sample", model=model, positive=positive, latent_image=latent, **given)
    return latent["samples"], report


def wired(solver, sigmas, kind="ve_edm", cfg=2.0, seed=3, guidance=None):
    """The same of Steps' SIGMAS, a solver, Guider, noise and SamplerCustomAdvanced."""
    model, positive, negative, latent = parts(kind)
    rules = guidance or Guidance((CFG(cfg),) if cfg != 1 else ())
    guider = one("Guider", model=model, positive=positive, negative=negative, guidance=rules)
    noise = one("PerImageNoise", seed=seed)
    out = one("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=solver, sigmas=sigmas, latent_image=latent)  # fmt: skip
    return out["samples"]


def levels(kind, spacing, steps=6, denoise=1.0):
    schedule = one("NoiseScheduleFromModel", model=parts(kind)[0])
    return one("Steps", noise_schedule=schedule, steps=steps, spacing={"spacing": spacing}, denoise=denoise)  # fmt: skip


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_named_pair_is_the_wired_graph_bit_for_bit(kind):
    solver = one("DPMSolverMultistep", eta=1.0)
    made, report = sampled(kind, solver="DPM++ 2M SDE", spacing="exponential", denoise=0.5)
    assert torch.equal(made, wired(solver, levels(kind, "exponential", denoise=0.5), kind))
    assert report.startswith("DPM++ 2M SDE, exponential, σ ") and "6 steps" in report
    assert "estimated error" not in report, "noise that is drawn is no error"
    assert "6 evaluations, 12 network calls" in report


@pytest.mark.parametrize("cfg", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_auto_is_the_policy_s_pair_and_says_so(kind, cfg):
    schedule = one("NoiseScheduleFromModel", model=parts(kind)[0])
    version = (
        None if kind == "ve_edm" else policy.LATEST
    )  # None: a prompt saved before there were versions
    choice = policy.choose(schedule, 6, guided=cfg != 1, cfg=cfg, side=24, version=version or 1)
    points = choice.points(schedule, choice.steps)
    sigmas = torch.tensor(points.sigmas(), dtype=torch.float32)
    more = {"auto_version": version} if version else {}
    made, report = sampled(kind, cfg=cfg, **more)
    assert torch.equal(made, wired(host.runs.make_sampler(choice.solver), sigmas, kind, cfg))
    assert report.startswith(f"auto {choice.version}: ") and choice.spacing.title in report
    assert f"6 evaluations, {6 if cfg == 1 else 12} network calls" in report
    assert "estimated error" in report and "would halve it" in report


def test_what_is_connected_wins_and_the_report_says_so():
    sampler, sigmas = one("HeunEDM"), levels("ve_edm", "karras", 4)
    made, report = sampled(sampler=sampler, sigmas=sigmas, solver="Euler", spacing="trailing", steps=9)  # fmt: skip
    assert torch.equal(made, wired(sampler, sigmas))
    assert report.startswith("Heun (EDM)") and "4 steps of the SIGMAS connected" in report
    chain = one("APG", scale=4.0)
    made, report = sampled(sampler=sampler, sigmas=sigmas, guidance=chain)
    assert torch.equal(made, wired(sampler, sigmas, guidance=chain))
    assert "guidance: as connected, in place of cfg" in report


def test_a_fitted_solver_brings_its_levels():
    fit, _ = node("LoadFittedSolver", file=fit_names()[0], nfe=5)
    made, report = sampled(fit=fit, steps=30, solver="Euler")
    model, positive, negative, _ = parts()
    guider = one("Guider", model=model, positive=positive, negative=negative, guidance=Guidance((CFG(2.0),)))  # fmt: skip
    sampler, sigmas, _ = node("FittedSolver", fit=fit, guider=guider)
    assert torch.equal(made, wired(sampler, sigmas))
    assert report.startswith("fitted solver, 5 evaluations") and "WARNING" in report


def test_a_negative_is_needed_only_where_cfg_asks_for_it():
    assert sampled(cfg=1.0, negative=None)[0].isfinite().all()
    with pytest.raises(ValueError, match=r"negative: the guidance .* needs it"):
        sampled(negative=None)


@pytest.mark.parametrize(("name", "word"), [("solver", "DPM\\+\\+ 2M"), ("spacing", "karras")])
def test_a_name_that_no_list_has_is_refused_with_the_list(name, word):
    with pytest.raises(ValueError, match=f"{name} = 'best': choose one of auto, .*{word}"):
        sampled(**{name: "best"})


def test_every_name_of_the_list_makes_a_picture():
    for name in BY_NAME:
        made, report = sampled(solver=name, spacing="karras", steps=3)
        assert made.isfinite().all() and report.startswith(f"{name}, Karras"), name


def test_the_report_is_shown_on_the_node():
    model, positive, _, latent = parts()
    out = returned("Sample", model=model, positive=positive, latent_image=latent, seed=0, steps=2, cfg=1.0)  # fmt: skip
    page = {"text": [out.result[1]], SOLVER: ["Gradient Estimation"]}
    (written,) = out.ui.pop(LEVELS)
    assert out.ui == page and len(written.split(", ")) == 2


def test_the_levels_of_auto_are_written_to_the_last_bit():
    """So that Take apart gives Steps the same ones, image to image too."""
    model = parts()[0]
    schedule = host.models.schedule_of(model)
    for version in policy.POLICIES:
        for denoise in (1.0, 0.6):
            run = Wants(7, denoise=denoise, version=version).on(schedule, guided=True, cfg=3.0)
            again = one("Steps", noise_schedule=schedule, steps=7, spacing={"spacing": "explicit", "values": run.levels})  # fmt: skip
            assert torch.equal(again, run.sigmas), (version, denoise)


def test_auto_knows_the_scale_of_rules_that_are_connected():
    """12 steps: CFG 2 takes another solver than CFG 5, and so does a GUIDANCE that says 5 where cfg says 2."""
    strong = sampled(cfg=2.0, guidance=Guidance((CFG(5.0),)), steps=12, auto_version=3)[1]
    lines = [sampled(cfg=cfg, steps=12, auto_version=3)[1].splitlines()[0] for cfg in (2.0, 5.0)]
    assert strong.splitlines()[0] == lines[1] != lines[0]


def test_one_of_a_thing_is_one():
    model, positive, _, latent = parts()
    report = returned("Sample", model=model, positive=positive, latent_image=latent, seed=0, steps=1, cfg=1.0).result[1]  # fmt: skip
    assert ", 1 step\n1 evaluation, 1 network call, " in report


def test_the_menu_s_table_leads_to_nodes_that_give_the_solver():
    (solver,) = (i for i in NODES["SamplingKitSample"].define_schema().inputs if i.id == "solver")
    table = solver.as_dict()[KEY]
    solvers = {name_of(s): s for s in policy.solvers()} | {n: r.solver for n, r in BY_NAME.items()}
    assert set(table["nodes"]) == set(solvers)
    for name, (id, values) in table["nodes"].items():
        assert NODES[id].solver(**values) == solvers[name]
    for theirs, (name, differs) in table["samplers"].items():
        assert by_foreign_name(theirs) == (BY_NAME[name], differs)
    assert (
        table["samplers"]["euler_ancestral"] == ["Euler a", ""]
        and table["samplers"]["dpmpp_sde"][1]
    )


@pytest.mark.parametrize("kind", SCHEDULES)
def test_apart_auto_is_steps_with_auto_and_the_latent(kind):
    """What the menu's "Take apart" makes of auto: the solver of the last run, and Steps that sees the latent."""
    made, report = sampled(kind, denoise=0.6)
    name = report.partition(": ")[2].partition(",")[0]
    schedule = one("NoiseScheduleFromModel", model=parts(kind)[0])
    sigmas = one("Steps", noise_schedule=schedule, steps=6, spacing={"spacing": "auto"}, denoise=0.6, latent=parts()[3])  # fmt: skip
    assert torch.equal(made, wired(host.runs.make_sampler(BY_NAME[name].solver), sigmas, kind))


def test_without_comfyui_its_run_is_counted_and_kept(tmp_path):
    """Sample makes its run without SamplerCustomAdvanced: its evaluations and its plan are kept all the same."""
    size = {"width": 24, "height": 24, "batch_size": 1}
    wires = dict(model=["3", 0], positive=["4", 0], negative=["4", 0], latent_image=["5", 0])
    numbers = dict(seed=0, steps=3, cfg=2.0, solver="auto", spacing="auto", denoise=1.0)
    nodes = {
        "1": ("SamplingKitNoiseSchedule", {"kind": "ve_edm", "kind.sigma_min": 0.02, "kind.sigma_max": 80.0}),
        "3": ("SamplingKitEmbeddedDenoiser", {f"kind.{k}": v for k, v in SMALL.items() if k != "kind"} | {"kind": "gaussian", "noise_schedule": ["1", 0]}),
        "4": ("SamplingKitClassCondition", {"name": "snow"}),
        "5": ("SamplingKitEmptyPixelLatent", size),
        "9": ("SamplingKitSample", wires | numbers),
        "10": ("SamplingKitLatentToImage", {"latent": ["9", 0]}),
        "11": ("SaveImage", {"images": ["10", 0], "filename_prefix": "a"}),
    }  # fmt: skip
    prompt = {k: {"class_type": c, "inputs": i} for k, (c, i) in nodes.items()}
    record, files = Worker("cpu", 1, str(tmp_path), str(tmp_path)).run("x", prompt)
    assert (record["nfe"], record["network_calls"]) == (3, 6)
    with Image.open(io.BytesIO(next(iter(files.values())))) as picture:
        assert len(json.loads(picture.info["sampling_kit"])["plans"]) == 1
