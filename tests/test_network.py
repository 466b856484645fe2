"""The trained networks: mathematics, files, training. What the shipped weights draw: test_weights.py."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sampling_kit.embedded import train as training
from sampling_kit.schedulers.denoiser import network as module
from sampling_kit.schedulers.denoiser.network import Classifier, Config, Network, load, save
from sampling_kit.schedulers.denoiser.wrap import call_in
from sampling_kit.schedulers.path import PATHS, VE, VP, Flow

CONFIG = Config(channels=16, multiples=(1, 2), attention=(1,), size=24, sigma_data=0.56)
JUDGE = dataclasses.replace(CONFIG, kind="classifier")
RECIPE = training.Recipe(CONFIG, batch=4, warm_up=2)


def filled(kind, config, path=None, seed=0):
    """A network whose every weight does something, float64."""
    torch.manual_seed(seed)
    net = kind(path or VE(), config).double().eval().requires_grad_(False)
    for name, weight in net.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5)
        elif not name.endswith("weight"):
            weight.normal_(0, 0.1)
    return net


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROWS = torch.eye(10, dtype=torch.float64)


# ------------------------------------------------------------------------------------ mathematics


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
def test_d_is_the_same_on_every_path(path):
    x, ve, other = noise(3, 3, 24, 24), filled(Network, CONFIG), filled(Network, CONFIG, path())
    for kappa in (0.01, 0.7, 30.0):
        at = path().at(kappa)
        a = ve(x, kappa, ROWS[:3])
        assert torch.allclose(other(x * at.alpha, at.sigma, ROWS[:3]), a, atol=1e-6)
        sigmas = torch.full((3,), at.sigma, dtype=torch.float64)
        assert torch.allclose(other(x * at.alpha, sigmas, ROWS[:3]), a, atol=1e-6)


@pytest.mark.parametrize("path", [VP(), Flow()], ids=["VP", "flow"])
def test_pure_noise_and_no_noise_are_finite(path):
    net, x = filled(Network, CONFIG, path), noise(1, 3, 24, 24)
    assert net(x, 1.0).isfinite().all()  # α = 0
    assert torch.equal(net(x, 0.0), x)
    assert filled(Classifier, JUDGE, path)(x, 1.0).isfinite().all()


def test_each_image_has_its_own_noise_level_and_class():
    net, x = filled(Network, CONFIG), noise(3, 3, 24, 24)
    sigmas = torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    together = net(x, sigmas, ROWS[:3])
    for i in range(3):
        alone = net(x[i : i + 1], float(sigmas[i]), ROWS[i : i + 1])
        assert torch.allclose(together[i], alone[0], atol=1e-10)


def test_conditions_are_relative_weights_and_zeros_mean_none():
    net, x = filled(Network, CONFIG), noise(1, 3, 24, 24)
    one, two, none = (net(x, 2.0, rows) for rows in (ROWS[:1], ROWS[1:2], None))
    assert torch.equal(none, net(x, 2.0, 0 * ROWS[:1]))
    assert torch.allclose(one, net(x, 2.0, 3 * ROWS[:1]), atol=1e-12)
    half = net(x, 2.0, (ROWS[:1] + ROWS[1:2]) / 2)
    pairs = [(one, two), (one, none), (half, one), (half, two), (half, none)]
    assert min((a - b).abs().max() for a, b in pairs) > 1e-3


def roughness(net, sigma):
    """RMS of what a cubic in σ leaves of D over 20 % of σ, over the RMS of its change."""
    x = noise(1, 3, 24, 24) * sigma
    at = np.linspace(0.9, 1.1, 41)
    d = torch.stack([net(x, sigma * t, ROWS[:1]).flatten() for t in at]).numpy()
    left = (
        d
        - np.polynomial.polynomial.polyval(at - 1, np.polynomial.polynomial.polyfit(at - 1, d, 3)).T
    )
    return np.sqrt((left**2).mean() / ((d - d.mean(0)) ** 2).mean())


def test_d_is_smooth_in_sigma(monkeypatch):
    net = filled(Network, CONFIG)
    smooth = [roughness(net, s) for s in (0.1, 1.0, 5.0)]
    assert max(smooth) < 1e-3
    monkeypatch.setattr(module, "CYCLES", (0.25, 250.0))
    assert roughness(net, 1.0) > 100 * max(smooth)


def test_preconditioning_starts_at_the_best_linear_guess():
    net, x = Network(VE(), CONFIG).double(), noise(2, 3, 24, 24)
    gain = 0.56**2 / (0.56**2 + 0.3**2)
    assert torch.allclose(net(x, 0.3), gain * x, atol=1e-12)


def test_low_precision_changes_the_network_only_a_little():
    net, x = filled(Network, CONFIG).float(), noise(2, 3, 24, 24).float()
    low = call_in(torch.bfloat16, net, x, 1.0, ROWS[:2].float())
    assert low.dtype == x.dtype
    assert (low - net(x, 1.0, ROWS[:2].float())).square().mean().sqrt() < 0.05


def test_the_classifier_is_differentiable_on_every_path():
    ve = filled(Classifier, JUDGE)
    x = noise(2, 3, 24, 24).requires_grad_()
    logits = ve(x, 2.0)
    (slope,) = torch.autograd.grad(logits.log_softmax(1)[:, 3].sum(), x)
    assert logits.shape == (2, 10)
    assert slope.abs().sum() > 0
    at = Flow().at(2.0)
    assert torch.allclose(filled(Classifier, JUDGE, Flow())(x * at.alpha, at.sigma), logits)


def test_a_wrong_shape_is_refused():
    for net in (filled(Network, CONFIG), filled(Classifier, JUDGE)):
        with pytest.raises(ValueError, match=r"\(3, 24, 24\)"):
            net(noise(1, 3, 32, 32), 1.0)


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def stored(tmp_path):
    net = filled(Network, CONFIG)
    save(net, tmp_path / "net.safetensors", {"steps": 7})
    return net, tmp_path / "net.safetensors"


def test_weights_come_back_as_their_fp16_rounding(stored):
    net, file = stored
    again = load(file, Flow(), Network)
    assert module.card(file) == {"steps": 7}
    assert again.config == CONFIG and again.path == Flow() and not again.training
    for name, weight in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.half().float())


def test_loading_draws_no_random_number(stored):
    before = torch.random.get_rng_state()
    load(stored[1], VE(), Network)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_float64_is_float64_throughout():
    """Second differences of D along a line, at a step where float32 anywhere would show."""
    net, x = filled(Network, CONFIG), noise(1, 3, 24, 24)
    at = torch.stack([net(x * (1 + i * 1e-6), 1.0, ROWS[:1]) for i in range(3)])
    assert (at[0] - 2 * at[1] + at[2]).abs().max() < 1e-10


def broken(name, tensors, facts):
    if name == "missing":
        del tensors["net.leave.bias"]
    elif name == "foreign":
        tensors["more"] = torch.zeros(1)
    elif name == "shape":
        tensors["net.leave.bias"] = torch.zeros(3)
    elif name == "nan":
        tensors["net.leave.bias"][0] = math.nan
    elif name == "newer":
        facts["version"] = 99
    elif name == "field":
        facts["config"]["colour"] = 1
    elif name == "channels":
        facts["config"]["channels"] = 17
    elif name == "huge":
        facts["config"]["channels"] = 2**40
    elif name == "kind":
        facts["config"]["kind"] = "classifier"
    elif name == "no config":
        del facts["config"]


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "foreign",
        "shape",
        "nan",
        "newer",
        "field",
        "channels",
        "huge",
        "kind",
        "no config",
    ],
)
def test_a_file_that_does_not_fit_is_refused(stored, name):
    _, file = stored
    with module.FORMAT.opened(file) as stored_file:
        facts, tensors = stored_file.facts, stored_file.tensors()
    broken(name, tensors, facts)
    save_file(tensors, file, {module.FORMAT.header: json.dumps(facts)})
    with pytest.raises(ValueError, match=r"net\.safetensors.*sampling_kit\.embedded\.train"):
        load(file, VE(), Network)


def test_what_is_no_network_file_is_refused(stored, tmp_path):
    _, file = stored
    content = file.read_bytes()
    for bad in (content[: len(content) // 2], b"", b"PK\x03\x04" * 9):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match="missing, cut short or damaged"):
            load(file, VE(), Network)
    with pytest.raises(ValueError, match="missing"):
        load(tmp_path / "none.safetensors", VE(), Network)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="not a usable network of the Sampling Kit: it holds none"):
        load(file, VE(), Network)


def test_weights_that_fp16_cannot_hold_are_not_written(tmp_path):
    net = filled(Network, CONFIG)
    net.net.leave.bias[0] = 1e6
    with pytest.raises(ValueError, match="fp16"):
        save(net, tmp_path / "net.safetensors", {})
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------- training


def test_batches_are_fresh_balanced_and_reproducible():
    data = training.Batches(dataclasses.replace(RECIPE, batch=20), 3)
    first, again, second = data[0], data[0], data[1]
    assert torch.equal(first.x, again.x) and torch.equal(first.noise, again.noise)
    assert not (first.x[:, None] == second.x[None]).flatten(2).all(2).any()
    assert first.labels.tolist() == 2 * list(range(10))
    assert first.x.shape == (20, 3, 24, 24) and first.x.abs().max() <= 1
    rows = torch.cat([data[i].classes for i in range(40)])
    assert 0.08 < (rows.sum(1) == 0).float().mean() < 0.17
    assert training.Batches(RECIPE, 4)[0].x.ne(first.x[:4]).any()


def weights(folder, name="network"):
    return load_file(folder / f"{name}.safetensors")


def test_a_run_killed_and_resumed_is_the_run(tmp_path, monkeypatch):
    common = dict(recipe=RECIPE, steps=6, every=2, save_minutes=0.0)
    whole = training.train("network", tmp_path / "a", **common)
    assert whole.step == 6

    advance = training.Run.advance

    def killed(self, *inputs):
        if self.step == 5:
            raise KeyboardInterrupt
        advance(self, *inputs)

    monkeypatch.setattr(training.Run, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train("network", tmp_path / "b", **common)
    log = tmp_path / "b" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "images"')  # a line cut short
    monkeypatch.setattr(training.Run, "advance", advance)
    training.train("network", tmp_path / "b", **common)
    (tmp_path / "b" / "network.safetensors").unlink()
    training.train("network", tmp_path / "b", **common)  # a run that is done writes them again

    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[n], b[n]) for n in a)
    logs = [
        [json.loads(line) for line in (tmp_path / f / "log.jsonl").read_text().splitlines()]
        for f in "ab"
    ]
    assert [line["step"] for line in logs[1]] == [2, 4, 6]
    assert [line["loss_per_sigma"] for line in logs[0]] == [
        line["loss_per_sigma"] for line in logs[1]
    ]
    assert {f.name for f in (tmp_path / "b").glob("guide-*")} == {
        f"guide-{p}.safetensors" for p in training.GUIDES
    }
    assert not list(tmp_path.rglob("*.part"))
    load(tmp_path / "b" / "guide-30.safetensors", VE(), Network)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    training.train("network", tmp_path, recipe=RECIPE, steps=1)
    with pytest.raises(ValueError, match="another seed"):
        training.train("network", tmp_path, recipe=RECIPE, steps=2, seed=1)
    with pytest.raises(ValueError, match="another recipe"):
        training.train("network", tmp_path, recipe=dataclasses.replace(RECIPE, batch=5), steps=2)
    for wrong in ({}, dict(steps=0), dict(minutes=0.0)):
        with pytest.raises(ValueError, match="--minutes or --steps"):
            training.train("network", tmp_path, recipe=RECIPE, **wrong)


def test_training_learns(tmp_path):
    recipe = dataclasses.replace(RECIPE, rate=5e-3)
    training.train("network", tmp_path, recipe=recipe, steps=50, every=10)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", training.RECIPES)
def test_the_command_trains_what_ships(name, tmp_path, capsys):
    which = {"network": "", "network-small": "--small", "classifier": "--classifier"}[name]
    command = f"{which} --steps 3 --batch 2 --workers 0 --precision fp32 --folder {tmp_path}"
    training.main(command.split())
    assert "3 steps" in capsys.readouterr().out
    card = module.card(tmp_path / f"{name}.safetensors")
    facts = {k: card[k] for k in ("name", "steps", "images", "precision", "seed", "licence")}
    assert facts == dict(
        name=name, steps=3, images=6, precision="fp32", seed=0, licence="Apache-2.0"
    )
    log = json.loads((tmp_path / "log.jsonl").read_text())
    assert len(log["loss_per_sigma"]) == len(training.BINS) + 1 and log["step"] == 3


def test_bf16_trains_too(tmp_path):
    run = training.train("network", tmp_path, recipe=RECIPE, steps=2, bf16=True)
    assert math.isfinite(run.loss)
    assert all(w.dtype == torch.float32 for w in run.weights.values())


def test_the_average_looks_back_over_a_share_of_the_run():
    """Weights of a power function: the mean step is (γ + 1)/(γ + 2) of the way."""
    mean = 0.0
    for step in range(1, 2001):
        share = training.blend(step, 16.97)
        mean = share * mean + (1 - share) * step
    assert mean / 2000 == pytest.approx(17.97 / 18.97, rel=2e-3)
