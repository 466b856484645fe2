"""Runs in parts: split anywhere, carried on wires and in files, bit-equal to the run in one go."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from sampling_kit.headless.cli import main
from sampling_kit.headless.context import Context, use
from sampling_kit.headless.registry import registry
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import ALL
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.spacing import Trailing, space
from sampling_kit.schedulers.split import Handover, Part, load

NODES = registry()
STEPS, SEED = 6, 11


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """What the runner says to the nodes that it runs."""
    (tmp_path / "output").mkdir()
    places = (tmp_path / kind for kind in ("output", "input", "temp"))
    with use(Context(*places, "cpu", None, {}, None)):
        yield tmp_path


def node(kind, /, **inputs):
    """The outputs of one node."""
    kind = kind if kind in NODES else f"SamplingKit{kind}"
    return NODES[kind].execute(**inputs).result


def one(kind, /, **inputs):
    return node(kind, **inputs)[0]


# ---------------------------------------------------------------------- graphs, as nodes make them


class Graph:
    """A model on a noise schedule, and three pictures to be."""

    def __init__(self, kind):
        schedule = one("NoiseSchedule", kind={"kind": kind})
        small = {"kind": "gaussian", "size": 24, "scenes": 6, "rank": 3}
        model = one("EmbeddedDenoiser", kind=small, noise_schedule=schedule)
        condition = one("ClassCondition", name="one of each")
        self.guider = one("Guider", model=model, positive=condition)
        self.latent = one("EmptyPixelLatent", width=24, height=24, batch_size=3)
        self.noise = one("PerImageNoise", seed=SEED)
        self.sigmas = one(
            "Steps", noise_schedule=schedule, steps=STEPS, spacing={"spacing": "trailing"}
        )

    def run(self, sampler, sigmas, latent=None, noise=None):
        return one(
            "SamplerCustomAdvanced",
            noise=noise or (self.noise if latent is None else one("DisableNoise")),
            guider=self.guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent or self.latent,
        )

    def first(self, solver, step, sigmas=None):
        """(LATENT, SAMPLER_STATE) of a run that stops at ``step``."""
        sampler, state = node("KeepState", sampler=solver, sigmas=self.sigmas)
        return self.run(sampler, split(self.sigmas, step)[0] if sigmas is None else sigmas), state

    def rest(self, solver, latent, state, sigmas, **more):
        """(LATENT, SAMPLER_STATE) of the part over ``sigmas``."""
        sampler, state = node("ResumeState", sampler=solver, state=state, **more)
        return self.run(sampler, sigmas, latent), state


def split(sigmas, step):
    return node("SplitSigmas", sigmas=sigmas, step=step)


@pytest.fixture(scope="module")
def graphs():
    return {kind: Graph(kind) for kind in ("vp_linear", "rectified_flow")}


SOLVERS = {
    "Euler": {},
    "Euler with churn": {"churn": 20.0},
    "HeunEDM": {},
    "UniPC": {},
    "DPMSolverMultistep": {"eta": 1.0},
    "SASolver": {},
}


@pytest.mark.parametrize("kind", ["vp_linear", "rectified_flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_two_samplers_draw_what_one_draws(graphs, kind, name):
    graph, solver = graphs[kind], one(name.split()[0], **SOLVERS[name])
    whole = graph.run(solver, graph.sigmas)["samples"]
    for step in range(STEPS):
        low = split(graph.sigmas, step)[1]
        out, _ = graph.rest(solver, *graph.first(solver, step), low)
        assert torch.equal(out["samples"], whole), step
    high, low = split(graph.sigmas, 3)
    bare = graph.run(solver, low, graph.run(solver, high))["samples"]  # without the state
    assert torch.allclose(bare, whole, atol=1e-5) == (name in ("Euler", "HeunEDM"))


def test_three_parts_and_a_second_run_of_the_last(graphs):
    graph, solver = graphs["rectified_flow"], one("DPMSolverMultistep", eta=1.0)
    whole = graph.run(solver, graph.sigmas)["samples"]
    middle, low = split(graph.sigmas[2:], 2)
    between = graph.rest(solver, *graph.first(solver, 2), middle)
    for _ in range(2):  # as when ComfyUI takes the first parts from its cache
        assert torch.equal(graph.rest(solver, *between, low)[0]["samples"], whole)


def test_an_inversion_can_be_split_too(graphs):
    graph, solver = graphs["vp_linear"], one("UniPC")
    picture = graph.run(solver, graph.sigmas)
    graph = Graph("vp_linear")
    graph.sigmas = one("FlipSigmas", sigmas=graph.sigmas)
    whole = graph.run(solver, graph.sigmas, picture)["samples"]
    high, low = split(graph.sigmas, 3)
    sampler, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    half = graph.run(sampler, high, picture)
    assert torch.equal(graph.rest(solver, half, state, low)[0]["samples"], whole)


def test_an_edited_latent_keeps_the_history():
    """The step after an edit is DPM-Solver++(2M)'s, from the edited x and the D of before (eq. 5.4)."""
    graph, solver, level = Graph("ve_edm"), one("DPMSolverMultistep"), 4
    latent, state = graph.first(solver, level)
    edited = {**latent, "samples": latent["samples"] * 0.9 + 0.1}
    sigmas = graph.sigmas[level : level + 2]
    denoise = graph.guider.denoiser(3)
    half = graph.run(solver, graph.sigmas[:level])["samples"]  # where the D of before was found
    x, before, here, there = edited["samples"], *map(float, graph.sigmas[level - 1 : level + 2])
    h, h_before = math.log(here / there), math.log(before / here)
    old, new = denoise(half, before), denoise(x, here)
    d = new + h / (2 * h_before) * (new - old)
    expected = there / here * x + (1 - there / here) * d
    out = graph.rest(solver, edited, state, sigmas, edited=True)[0]["samples"]
    assert torch.allclose(out, expected, atol=1e-5)
    forgetful = graph.run(solver, sigmas, edited)["samples"]
    assert (out - forgetful).abs().max() > 1e-3


# ------------------------------------------------------------------------------- the engine alone


@pytest.mark.parametrize(
    "schedule", [LinearVP(), EDM(), RectifiedFlowSchedule()], ids=["VP", "VE", "flow"]
)
def test_every_solver_splits_at_every_level_of_a_video(schedule):
    path, n = schedule.path, 5
    sigmas = torch.tensor(space(schedule, n, Trailing()).sigmas()).tolist()
    x = torch.randn(2, 3, 2, 4, 4, generator=torch.manual_seed(0)) * max(sigmas[0], 1)

    def denoise(x, sigma):
        p = path.host.on(sigma)
        return torch.tanh(x * p.alpha / (p.alpha**2 + p.sigma**2) + 0.1)

    for solver in (v for kind in ALL for v in variants(kind) if v.planned):
        whole = sample(solver, path, Run(denoise, PerImageNoise(SEED)), x, sigmas)
        for level in range(n + 1):
            first, steps = Part(solver, Handover(), tuple(sigmas)), []
            start = first.begin(path, x, sigmas[: level + 1], SEED)
            y = first.run(start, path, Run(denoise, PerImageNoise(SEED)), sigmas[: level + 1])
            last = Part(solver, Handover(), after=first.out)
            start = last.begin(path, y * (1 + 1e-7), sigmas[level:], 0)
            draw, seen = PerImageNoise(start.seed), lambda p, s=steps: s.append((p.step, p.steps))
            end = last.run(start, path, Run(denoise, draw, seen), sigmas[level:])
            assert torch.equal(end, whole), (solver, level)
            assert steps == [(i, n - level) for i in range(n - level)], (solver, level)


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def saved(graphs, folders):
    """(graph, SAMPLER, file) of a run that was saved at level 3."""
    graph, solver = graphs["rectified_flow"], one("DPMSolverMultistep", eta=1.0)
    latent, state = graph.first(solver, 3)
    latent = {**latent, "noise_mask": torch.ones(3, 1, 24, 24)}
    shown = NODES["SamplingKitSaveState"].execute(state, latent, "sub/state").ui
    (entry,) = shown["files"]
    assert entry == {"filename": "state_00001_.safetensors", "subfolder": "sub", "type": "output"}
    assert "level 3 of 6" in shown["text"][0] and "3 noise draws" in shown["text"][0]
    return graph, solver, folders / "output" / "sub" / entry["filename"]


def test_a_file_holds_the_whole_state_and_the_latent(saved):
    graph, solver, file = saved
    state, latent = node("LoadState", file="sub/state_00001_.safetensors")
    assert latent.pop("noise_mask").shape == (3, 1, 24, 24)
    out, _ = graph.rest(solver, latent, state, split(graph.sigmas, 3)[1])
    assert torch.equal(out["samples"], graph.run(solver, graph.sigmas)["samples"])
    assert not list(file.parent.glob("*.part"))


def test_two_processes_draw_what_one_draws(tmp_path):
    """The first half and the whole by the command line in this process, the second half in another."""
    schedule = {"kind": "vp_linear", "kind.beta_start": 0.0001, "kind.beta_end": 0.02}
    schedule |= {"kind.timesteps": 1000, "kind.zero_snr": False}
    small = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 6, "kind.rank": 3}

    def kit(kind, /, **inputs):
        return {"class_type": f"SamplingKit{kind}", "inputs": inputs}

    def core(kind, /, **inputs):
        return {"class_type": kind, "inputs": inputs}

    base = {
        "schedule": kit("NoiseSchedule", **schedule),
        "sigmas": kit(
            "Steps",
            noise_schedule=["schedule", 0],
            steps=6,
            spacing="trailing",
            denoise=1.0,
            final="zero",
        ),
        "model": kit("EmbeddedDenoiser", **small, noise_schedule=["schedule", 0]),
        "class": kit("ClassCondition", name="one of each"),
        "guider": kit("Guider", model=["model", 0], positive=["class", 0]),
        "solver": kit("UniPC"),
        "split": core("SplitSigmas", sigmas=["sigmas", 0], step=4),
        "empty": kit("EmptyPixelLatent", width=24, height=24, batch_size=3),
        "noise": kit("PerImageNoise", seed=5),
        "none": core("DisableNoise"),
    }

    def sampled(noise, sampler, sigmas, latent):
        wires = dict(noise=[noise, 0], guider=["guider", 0], sampler=sampler)
        return core("SamplerCustomAdvanced", **wires, sigmas=sigmas, latent_image=latent)

    def shown(latent):
        return {
            "image": kit("LatentToImage", latent=latent),
            "out": core("SaveImage", images=["image", 0], filename_prefix="out"),
        }

    first = base | {
        "keep": kit("KeepState", sampler=["solver", 0], sigmas=["sigmas", 0]),
        "half": sampled("noise", ["keep", 0], ["split", 0], ["empty", 0]),
        "save": kit("SaveState", state=["keep", 1], latent=["half", 0], filename_prefix="half"),
    }
    second = base | {
        "load": kit("LoadState", file="half_00001_.safetensors"),
        "resume": kit("ResumeState", sampler=["solver", 0], state=["load", 0]),
        "end": sampled("none", ["resume", 0], ["split", 1], ["load", 1]),
        **shown(["end", 0]),
    }
    whole = base | {
        "end": sampled("noise", ["solver", 0], ["sigmas", 0], ["empty", 0]),
        **shown(["end", 0]),
    }
    # the states themselves, to compare bits rather than pixels
    for graph, sampler in ((second, "resume"), (whole, "kept")):
        graph["save"] = kit(
            "SaveState", state=[sampler, 1], latent=["end", 0], filename_prefix="end"
        )
    whole["kept"] = kit("KeepState", sampler=["solver", 0], sigmas=["sigmas", 0])
    whole["end"]["inputs"]["sampler"] = ["kept", 0]

    for name, graph in (("first", first), ("second", second), ("whole", whole)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(graph))
        arguments = ["run", str(file), "--output", str(tmp_path / "output"), "--device", "cpu"]
        if name != "second":
            output = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
        else:
            command = [sys.executable, "-m", "sampling_kit.headless.cli", *arguments]
            threads = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=threads)
            assert done.returncode == 0, done.stderr
            output = done.stdout
        assert (name == "first") == ("half_00001_.safetensors" in output)
    ours, theirs = (load(tmp_path / "output" / f"end_0000{i}_.safetensors") for i in (1, 2))
    assert torch.equal(ours[1]["samples"], theirs[1]["samples"])
    assert torch.equal(ours[0].state.x, theirs[0].state.x)


# ----------------------------------------------------------------------------------------- errors


def rewritten(file, **changes):
    """The file with facts of its description, or tensors, replaced; None leaves one out."""
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["sampling_kit_state"])
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    for name, value in changes.items():
        target = tensors if name in tensors else facts
        target[name] = value
        if value is None:
            del target[name]
    save_file(tensors, file, {"sampling_kit_state": json.dumps(facts)})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), "damaged"),
        (lambda f: f.write_bytes(b"\0" * 5), "not a safetensors file"),
        (
            lambda f: save_file({"a": torch.zeros(1)}, f),
            "not a usable sampler state: it holds none; Save State",
        ),
        (lambda f: rewritten(f, version=99), "version 99.*update"),
        (lambda f: rewritten(f, version="x"), "not a usable sampler state"),
        (lambda f: rewritten(f, sigmas=None), "'sigmas' is missing"),
        (lambda f: rewritten(f, level=12), "level 12 of"),
        (lambda f: rewritten(f, **{"latent.samples": None}), "tensors are missing"),
        (lambda f: rewritten(f, **{"history.0": torch.zeros(2)}), "differ in shape"),
        (lambda f: rewritten(f, **{"history.0": torch.full((3, 3, 24, 24), torch.nan)}), "NaN"),
    ],
)
def test_a_damaged_file_gets_one_clear_error(saved, spoil, words):
    spoil(saved[2])
    with pytest.raises(ValueError, match=words) as error:
        node("LoadState", file="sub/state_00001_.safetensors")
    assert saved[2].name in str(error.value)


@pytest.mark.parametrize("spoil", [dict(stage=2), {"history.1": None}, dict(y=None)])
def test_a_state_that_the_solver_cannot_have_is_refused(saved, spoil):
    graph, solver, file = saved
    rewritten(file, **spoil)
    state, latent = node("LoadState", file="sub/state_00001_.safetensors")
    latent.pop("noise_mask")
    with pytest.raises(ValueError, match="another version"):
        graph.rest(solver, latent, state, split(graph.sigmas, 3)[1])


@pytest.mark.parametrize(
    "name", ["", "nothing.safetensors", "../output.txt", "/etc/passwd", "a\0b"]
)
def test_files_stay_in_their_folder(folders, name):
    (folders / "output.txt").write_text("not for you")
    answer = NODES["SamplingKitLoadState"].validate_inputs(file=name)
    assert "output folder" in answer
    with pytest.raises(ValueError, match="output folder"):
        node("LoadState", file=name)
    assert "input folder" in NODES["SamplingKitLoadState"].validate_inputs(file=name + " [input]")
    assert NODES["SamplingKitSaveState"].validate_inputs(filename_prefix="../up") is not True


def test_a_diverged_state_is_not_saved(graphs, folders):
    graph, solver = graphs["rectified_flow"], one("Euler")
    latent, state = graph.first(solver, 3)
    latent["samples"][0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"NaN or infinity.*latent"):
        node("SaveState", state=state, latent=latent)
    assert not [f for f in (folders / "output").rglob("*") if f.is_file()]


def test_what_does_not_fit_the_state_is_named(graphs):
    graph, other, solver = graphs["rectified_flow"], graphs["vp_linear"], one("UniPC")
    latent, state = graph.first(solver, 3)
    high, low = split(graph.sigmas, 3)
    with pytest.raises(ValueError, match=r"solver of the state is UniPC.*DDIM"):
        graph.rest(one("DDIM"), latent, state, low)
    with pytest.raises(ValueError, match=r"UniPC.*max_order=2.*max_order=3"):
        graph.rest(one("UniPC", max_order=3), latent, state, low)
    with pytest.raises(ValueError, match=r"noise schedule of the state is Flow.*VP"):
        other.rest(solver, latent, state, low)
    with pytest.raises(ValueError, match=r"latent of the state is \(3, 3.*\(2, 3"):
        graph.rest(solver, {**latent, "samples": latent["samples"][:2]}, state, low)
    with pytest.raises(ValueError, match=r"stopped at level 3 \(σ = 0.5\).*from σ = 0.333333"):
        graph.rest(solver, latent, state, low[1:])
    with pytest.raises(ValueError, match="low_sigmas of SplitSigmas with step = 3"):
        graph.rest(solver, latent, state, high)
    with pytest.raises(ValueError, match=r"differs from the state by up to 0\.\d+ .*edited"):
        graph.rest(solver, {**latent, "samples": latent["samples"] + 0.2}, state, low)
    with pytest.raises(ValueError, match="DisableNoise"):
        graph.run(node("ResumeState", sampler=solver, state=state)[0], low, latent, graph.noise)


def test_one_keep_state_for_two_runs_is_noticed(graphs):
    """The state is that of the sampler's last run; the first run's latent is not its own."""
    graph, solver = graphs["rectified_flow"], one("UniPC")
    sampler, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    high, low = split(graph.sigmas, 3)
    latent = graph.run(sampler, high)
    graph.run(sampler, high, noise=one("PerImageNoise", seed=SEED + 1))
    with pytest.raises(ValueError, match="its own Keep State"):
        graph.rest(solver, latent, state, low)


def test_what_cannot_be_kept_is_named(graphs):
    graph, solver = graphs["rectified_flow"], one("UniPC")
    with pytest.raises(ValueError, match=r"beginning of those at Keep State.*high_sigmas"):
        graph.first(solver, 3, graph.sigmas[1:])
    kept, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    with pytest.raises(ValueError, match="there is no state yet"):
        graph.rest(solver, graph.latent, state, graph.sigmas)
    with pytest.raises(ValueError, match="there is no state yet"):
        node("SaveState", state=state, latent=graph.latent)
    with pytest.raises(ValueError, match="not Keep State or Resume State"):
        node("KeepState", sampler=kept, sigmas=graph.sigmas)
    with pytest.raises(ValueError, match="not another sampler"):
        node("KeepState", sampler=object(), sigmas=graph.sigmas)
    with pytest.raises(ValueError, match="2 levels or more"):
        node("KeepState", sampler=solver, sigmas=graph.sigmas[:1])
    with pytest.raises(TypeError, match="SAMPLER_STATE"):
        node("ResumeState", sampler=solver, state=3)
    for name in ("Adaptive", "Langevin"):
        with pytest.raises(ValueError, match="cannot be split"):
            node("KeepState", sampler=one(name), sigmas=graph.sigmas)


def test_an_interrupted_run_leaves_no_state(graphs):
    """Nor that of the run before it, which would be taken for its own."""
    graph, solver = graphs["rectified_flow"], one("UniPC")
    sampler, state = node("KeepState", sampler=solver, sigmas=graph.sigmas)
    high = split(graph.sigmas, 3)[0]
    graph.run(sampler, high)
    assert state.stopped is not None

    def stop(step, *_):
        if step == 1:
            raise KeyboardInterrupt

    noise = graph.noise.generate_noise(graph.latent)
    with pytest.raises(KeyboardInterrupt):
        graph.guider.sample(noise, graph.latent["samples"], sampler, high, callback=stop)
    assert state.stopped is None


def test_a_kept_state_is_not_changed_by_going_on(graphs):
    graph, solver = graphs["vp_linear"], one("SASolver")
    latent, state = graph.first(solver, 3)
    kept = state.stopped.state
    copies = replace(
        kept,
        anchors=tuple(t.clone() for t in kept.anchors),
        history=tuple(t.clone() for t in kept.history),
        y=kept.y.clone(),
        arrived=kept.x.clone(),
    )
    graph.rest(solver, latent, state, split(graph.sigmas, 3)[1])
    with torch.inference_mode():
        latent["samples"].zero_()
    for name in ("anchors", "history"):
        assert all(map(torch.equal, getattr(kept, name), getattr(copies, name)))
    assert torch.equal(kept.y, copies.y) and torch.equal(kept.x, copies.x)
