"""The weights that ship, end to end: what they draw is judged by statistics, not by pixels."""

import time

import pytest
import torch

from sampling_kit.benchmarks import embedded as bench
from sampling_kit.benchmarks import reference
from sampling_kit.embedded import postcards, trained
from sampling_kit.embedded import train as training
from sampling_kit.nodes import NODES
from sampling_kit.schedulers.denoiser import network as module
from sampling_kit.schedulers.denoiser.network import Classifier, Network, load
from sampling_kit.schedulers.measure.metrics import frechet, random_features
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import DPMSolverMultistep
from sampling_kit.schedulers.solver.run import Run

BY_ID = {node.define_schema().node_id: node for node in NODES}
MEGABYTE = 2**20


def kit(kind, /, **inputs):
    """The first output of one of our nodes."""
    return BY_ID[f"SamplingKit{kind}"].execute(**inputs).args[0]


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", training.RECIPES)
def test_what_ships_is_what_the_recipe_makes(name):
    kind = Classifier if name == "classifier" else Network
    net, card = load(trained.file(name), VE(), kind), module.card(trained.file(name))
    assert net.config == training.RECIPES[name].config
    assert card["classes"] == list(postcards.CLASSES)
    assert card["data"] == f"postcards {postcards.VERSION}"
    assert card["licence"] == "Apache-2.0"


def test_the_weights_are_small():
    sizes = {f.name: f.stat().st_size for f in trained.FOLDER.glob("*.safetensors")}
    assert set(sizes) == {f"{n}.safetensors" for n in (*training.RECIPES, "reference")}
    assert sum(sizes.values()) <= 12 * MEGABYTE


# --------------------------------------------------------------------------------------- pictures

# fmt: off
#: Mean red, green, blue of 1000 true postcards of each class, in [0, 1].
COLOURS = torch.tensor([
    [0.508, 0.381, 0.548],
    [0.551, 0.783, 0.658],
    [0.674, 0.372, 0.425],
    [0.203, 0.229, 0.356],
    [0.771, 0.735, 0.614],
    [0.591, 0.67, 0.783],
    [0.47, 0.658, 0.547],
    [0.267, 0.211, 0.307],
    [0.244, 0.163, 0.264],
    [0.616, 0.786, 0.669],
])
# fmt: on


def draw(kind, positive, path="ve_edm", guidance=None, count=20, seed=1, steps=20):
    """``count`` pictures [B, 3, 32, 32] in [0, 1], image i of class i mod 10, through the nodes."""
    schedule = kit("NoiseSchedule", kind={"kind": path})
    model = kit("EmbeddedDenoiser", kind={"kind": kind}, noise_schedule=schedule)
    spacing = {"spacing": "karras" if path == "ve_edm" else "trailing"}
    sigmas = kit("Steps", noise_schedule=schedule, steps=steps, spacing=spacing, denoise=1.0)
    if guidance:
        guidance = guidance(model)
    condition = kit("ClassCondition", name=positive)
    guider = kit("Guider", model=model, positive=condition, guidance=guidance)
    latent = torch.zeros(count, 3, 32, 32)
    noise = kit("PerImageNoise", seed=seed).generate_noise({"samples": latent})
    made = guider.sample(noise, latent, kit("DPMSolverMultistep"), sigmas, seed=seed)
    return (made.clamp(-1, 1) + 1) / 2


@pytest.fixture(scope="module")
def judge():
    """Features → scores of the classes, from true postcards."""
    return bench.judge(random_features(bench.true_postcards(1000, postcards.HELD_OUT)))


def accuracy(judge, images):
    right = judge(random_features(2 * images - 1)).argmax(1) == torch.arange(len(images)) % 10
    return right.float().mean()


@pytest.mark.some(1)
@pytest.mark.parametrize("path", ["ve_edm", "rectified_flow"])
def test_the_network_draws_postcards(path, judge):
    images = draw("network", "one of each", path, steps=10)
    means = images.unflatten(0, (2, 10)).mean((0, 3, 4))
    assert (means - COLOURS).abs().max() < 0.08
    assert (means - COLOURS).abs().mean() < 0.025
    assert accuracy(judge, images) >= 0.95
    assert torch.isfinite(images).all()
    classified = trained.classifier(VE())(2 * images - 1, 0.05).argmax(1)
    assert (classified == torch.arange(20) % 10).float().mean() >= 0.95


def test_the_twin_is_weaker(judge):
    """It draws the classes, and removes noise from held-out postcards worse than the network."""
    x0 = bench.true_postcards(40, postcards.HELD_OUT)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    classes = torch.eye(10)[torch.arange(40) % 10]
    nets = [trained.network(VE(), n) for n in ("network", "network-small")]
    for sigma in (0.1, 0.5, 2.0):
        strong, weak = (
            (net(x0 + sigma * noise, sigma, classes) - x0).square().mean() for net in nets
        )
        assert weak > 1.2 * strong, sigma
    weak = bench.model("network-small").draw(20, 1, steps=10)
    assert accuracy(judge, (weak + 1) / 2) > 0.8


def test_classifier_guidance_makes_classes_without_a_condition(judge):
    def guidance(model):
        classifier = kit("EmbeddedClassifier", model=model, kind={"kind": "network"})
        return kit("ClassifierGuidance", scale=2.0, label=-1, classifier=classifier)

    free = draw("network", "unconditional", steps=12)
    assert accuracy(judge, free) < 0.5
    assert accuracy(judge, draw("network", "unconditional", guidance=guidance, steps=8)) > 0.75


def test_the_classifier_tells_classes_apart():
    true = bench.true_postcards(200, postcards.HELD_OUT)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    for sigma, least in ((0.1, 0.98), (1.0, 0.98), (5.0, 0.75), (80.0, 0.05)):
        right = trained.classifier(VE())(true + sigma * noise, sigma).argmax(1)
        assert (right == torch.arange(200) % 10).float().mean() >= least


def test_pictures_come_quickly():
    """Processor time on one thread, several times what it takes on a quiet machine."""
    for count, bound in ((1, 2), (16, 12)):
        start = time.process_time()
        bench.model("network").draw(count, 0)
        assert time.process_time() - start < bound


# -------------------------------------------------------------------------------------- benchmark


@pytest.mark.full
def test_the_benchmark_measures_and_remembers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "KNOWN", 10)
    file = tmp_path / "rows.json"
    command = f"--count 20 --record {file} --models".split()
    bench.main([*command, "network-small"])
    bench.main([*command, "CFG 2"])
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| true postcards", "| network-small", "| CFG 2"
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        bench.main(["--models", "CFG"])
    assert "weight" in capsys.readouterr().err


def test_features_see_a_change_of_distribution():
    true, other = (bench.true_postcards(600, f) for f in (0, 1000))
    floor = frechet(random_features(true), random_features(other))
    blurred = torch.nn.functional.avg_pool2d(other, 3, 1, 1)
    speckled = other + 0.05 * torch.randn(other.shape, generator=torch.Generator().manual_seed(1))
    for changed in (blurred, speckled, 0.9 * other):
        assert frechet(random_features(true), random_features(changed)) > 1.5 * floor


def test_the_sheet_is_written(tmp_path):
    from PIL import Image

    bench.write_sheet(tmp_path / "sheet.png", "network-small", per_class=1, scale=1)
    assert Image.open(tmp_path / "sheet.png").size == (36, 342)


# ------------------------------------------------------------------------------------- references


@pytest.mark.full
def test_reference_end_points_are_where_our_solvers_end():
    facts, ends = reference.read()
    assert facts["seeds"] == [0, 256]
    assert facts["rounding"] < 2e-5
    assert max(facts["error"].values()) < 1e-4
    for name, scale in reference.SCALES.items():
        assert ends[name].shape == (256, 3, 32, 32)
        task = reference.problem(range(6, 8), scale)
        points = task.points("karras 7", 40)
        with torch.no_grad():
            end = DPMSolverMultistep(2).solve(points, Run(task.denoise), task.start)
        error = (end - ends[name][6:8]).square().mean().sqrt()
        assert 1e-6 < error < 0.02


@pytest.mark.full
def test_reference_end_points_are_tied_to_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CHECKED", 1)
    monkeypatch.setattr(reference, "CHECK_STEPS", 6)
    file = tmp_path / "reference.safetensors"
    facts = reference.make(file, count=2, steps=6)
    again, ends = reference.read(file)
    assert {name: fact for name, fact in again.items() if name != "version"} == facts
    assert set(ends) == set(reference.SCALES) == set(facts["error"])
    assert (ends["cond"] - ends["cfg2"]).abs().max() > 1e-2
    monkeypatch.setattr(trained, "file", lambda name: file)
    with pytest.raises(ValueError, match="other weights"):
        reference.read(file)
