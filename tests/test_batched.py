"""The branches of a level in one forward pass of each network: how many images it sees, and that the result stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers_folders import conditioning as tensors_of
from diffusers_folders import save
from test_parts import Fake

from sampling_kit.embedded import trained
from sampling_kit.nodes import host
from sampling_kit.nodes.denoiser.embedded import class_rows, scenes
from sampling_kit.nodes.host.alone import places
from sampling_kit.nodes.host.alone.fit_field import field_of
from sampling_kit.nodes.host.conditioning import class_conditioning, named_conditioning
from sampling_kit.schedulers.denoiser import Denoiser, ImageSet, LocalScore, Mixture
from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser import many as module
from sampling_kit.schedulers.denoiser.latent import InLatents, encode
from sampling_kit.schedulers.denoiser.many import groups, many
from sampling_kit.schedulers.denoiser.parts import InParts
from sampling_kit.schedulers.guidance import (
    CFG,
    COND,
    DPS,
    NEGATIVE,
    UNCOND,
    Autoguidance,
    Compose,
    Guidance,
    Inpaint,
    Interval,
    Measurement,
    PerpNeg,
)
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.prediction import Prediction
from sampling_kit.schedulers.solver import Euler

BATCH, SIGMA = 4, 2.0
CONDS = {
    COND: class_conditioning(class_rows("one of each")),
    UNCOND: class_conditioning(class_rows("unconditional")),
    NEGATIVE: class_conditioning(class_rows("dawn mountains")),
    "cond.1": [[None, {}]],
}


class Watched:
    """The batches that a module is called with."""

    def __init__(self, net):
        self.net, self.batches = net, []

    def __enter__(self):
        self.hook = self.net.register_forward_pre_hook(
            lambda net, args: self.batches.append(len(args[0]))
        )
        return self.batches

    def __exit__(self, *error):
        self.hook.remove()


@pytest.fixture(scope="module")
def model():
    return host.models.make_model(trained.network, EDM())


@pytest.fixture(scope="module")
def images():
    return scenes(6, 24)


def noise(batch=BATCH, shape=(3, 32, 32), seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed)) * SIGMA


def one_by_one(monkeypatch):
    """From now on every condition is a call of its own."""
    monkeypatch.setattr(
        module, "groups", lambda x, conditions: [[i] for i in range(len(conditions))]
    )


def guided(model, guidance, conds=CONDS, weak=None, x=None):
    guider = host.runs.make_guider(model, conds, guidance, weak=weak)
    x = noise() if x is None else x
    guider.run = guider.new_run([SIGMA, 1.0, 0.0])
    with torch.no_grad():
        return guider.denoiser(len(x))(x, SIGMA)


def close(a, b, dtype=torch.float32):
    """Equal up to the rounding of a network of some dozen layers, in units of the largest value."""
    return float((a - b).abs().max()) <= 100 * torch.finfo(dtype).eps * float(b.abs().max())


# ---------------------------------------------------------------------------------- forward passes


@pytest.mark.parametrize(
    ("rules", "batches"),
    [
        ((), [4]),
        ((CFG(2.0),), [8]),
        ((CFG(1.0),), [4]),
        ((PerpNeg(), CFG(2.0)), [12]),
        ((CFG(2.0), Compose(weights="1")), [12]),
        ((PerpNeg(), CFG(2.0), Compose(weights="1")), [16]),
    ],
    ids=["none", "cfg", "scale 1", "perp-neg", "compose", "four branches"],
)
def test_the_branches_of_a_level_are_one_forward_pass(model, rules, batches, monkeypatch):
    """With a condition of None among them, which is a row of zeros."""
    with Watched(model.inner) as seen:
        joined = guided(model, Guidance(rules))
    assert seen == batches
    one_by_one(monkeypatch)
    with Watched(model.inner) as seen:
        apart = guided(model, Guidance(rules))
    assert seen == [4] * (batches[0] // 4)
    assert close(joined, apart)


def test_a_run_counts_branches_and_an_interval_saves_them(model):
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.0])
    guidance = Guidance((CFG(2.0, Interval(sigma_low=1.5, sigma_high=5.0)),))
    guider = host.runs.make_guider(model, CONDS, guidance)
    zeros = torch.zeros(BATCH, 3, 32, 32)
    with Watched(model.inner) as seen:
        guider.sample(noise(), zeros, host.runs.make_sampler(Euler()), sigmas)
    assert seen == [4, 8, 8, 4, 4]
    report = guider.run.report()
    assert (report["network_calls"], report["saved_calls"], report["images"]) == (7, 3, 28)


def test_every_network_has_one_forward_pass(model, monkeypatch):
    weak = host.models.make_model(lambda path: trained.network(path, "network-small"), EDM())
    guidance = Guidance((CFG(2.0), Autoguidance(2.0)))
    with Watched(model.inner) as strong, Watched(weak.inner) as weaker:
        joined = guided(model, guidance, weak=weak)
    assert (strong, weaker) == ([8], [4])
    with Watched(model.inner) as seen:
        guided(model, guidance, weak=model)
    assert seen == [12], "one network, whatever its branches are called"
    one_by_one(monkeypatch)
    assert close(joined, guided(model, guidance, weak=weak))


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_a_limit_counts_the_images_of_a_call(model, limit, monkeypatch):
    whole = guided(model, Guidance((CFG(2.0),)))
    monkeypatch.setattr(places, "_at_once", limit)
    with Watched(model.inner) as seen:
        assert close(guided(model, Guidance((CFG(2.0),))), whole)
    assert max(seen) == limit and sum(seen) == 8


def test_out_of_memory_goes_on_with_fewer():
    net = Fake(size=150, known=10**6)
    x = torch.arange(4.0).reshape(4, 1)
    found = many(InParts(net), x, 1.0, [torch.full((4, 1), v) for v in (2.0, 3.0)])
    assert [d.tolist() for d in found] == [(2 * x).tolist(), (3 * x).tolist()]
    assert net.calls == [8, 4, 4]


def test_images_of_a_batch_are_what_they_are_alone(model):
    x = noise()
    conds = CONDS | {COND: class_conditioning(class_rows("dawn mountains"))}
    together = guided(model, Guidance((CFG(2.0),)), conds, x=x)
    alone = [guided(model, Guidance((CFG(2.0),)), conds, x=row[None]) for row in x]
    assert close(together, torch.cat(alone))


# ------------------------------------------------------------------------------------ denoisers


@pytest.mark.parametrize("path", [VE(), Flow()], ids=["VE", "flow"])
@pytest.mark.parametrize("kind", ["patches", "images", "mixture", "latent"])
def test_exact_denoisers_stay_exact(kind, path, images, monkeypatch):
    build = {
        "patches": lambda path: LocalScore(path, images),
        "images": lambda path: ImageSet(path, images),
        "mixture": lambda path: Mixture.fit(path, images, 4, 2),
        "latent": lambda path: InLatents(Mixture.fit(path, images, 4, 2)),
    }[kind]
    schedule = EDM() if isinstance(path, VE) else RectifiedFlowSchedule()
    model = host.models.make_model(build, schedule)
    x, sigma = noise(shape=(3, 24, 24)), 2.0 if isinstance(path, VE) else 0.6
    x = encode(x) if kind == "latent" else x
    guider = host.runs.make_guider(
        model, CONDS, Guidance((PerpNeg(), CFG(3.0), Compose(weights="1")))
    )
    with Watched(model.inner) as seen, torch.no_grad():
        joined = guider.denoiser(BATCH)(x, sigma)
    assert seen == [16]
    one_by_one(monkeypatch)
    with torch.no_grad():
        apart = guider.denoiser(BATCH)(x, sigma)
    assert torch.equal(joined, apart) if kind == "patches" else close(joined, apart)


@pytest.mark.some(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_another_dtype(model, dtype, monkeypatch):
    cast = replace(model, dtype=dtype)
    with Watched(cast.denoiser) as seen:
        joined = guided(cast, Guidance((CFG(2.0),)))
    assert seen == [8]
    one_by_one(monkeypatch)
    coarse = torch.float32 if dtype == torch.float64 else dtype
    assert close(joined, guided(cast, Guidance((CFG(2.0),))), coarse)


def test_read_as_another_prediction(model, monkeypatch):
    wrong = replace(model, claimed=Prediction("v"))
    with Watched(wrong.denoiser) as seen:
        joined = guided(wrong, Guidance((CFG(2.0),)))
    assert seen == [8]
    one_by_one(monkeypatch)
    assert close(joined, guided(wrong, Guidance((CFG(2.0),))))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    folder = save("pixart-alpha", tmp_path_factory.mktemp("pixart"))
    return host.models.make_diffusers(kit.load(kit.read_folder(folder)), "", None)


@pytest.mark.parametrize(
    ("tokens", "batches"), [((5, 5), [8]), ((5, 3), [4, 4]), ((5, 3, 5), [8, 4])]
)
def test_texts_of_other_lengths_are_other_passes(transformer, tokens, batches, monkeypatch):
    names = (COND, UNCOND, NEGATIVE)
    conds = {}
    for seed, (name, count) in enumerate(zip(names, tokens, strict=False)):
        cut = {k: v[:1, :count] for k, v in tensors_of("pixart-alpha", seed=seed).items()}
        conds[name] = named_conditioning(cut)
    guidance = Guidance((*((PerpNeg(),) if len(tokens) > 2 else ()), CFG(2.0)))
    network = transformer.inner
    x = noise(shape=(network.channels, 8, 8))
    guider = host.runs.make_guider(transformer, conds, guidance)
    sigma = 0.7
    with Watched(network) as seen, torch.no_grad():
        joined = guider.denoiser(BATCH)(x, sigma)
    assert sorted(seen) == sorted(batches)
    one_by_one(monkeypatch)
    with torch.no_grad():
        assert close(joined, guider.denoiser(BATCH)(x, sigma))


# ---------------------------------------------------------------------------------- gradients, fits


def test_rules_through_the_network_have_one_pass_too(model, monkeypatch):
    target = scenes(1, 32)[:BATCH, 0]
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    rule = DPS(measurement=Measurement(Inpaint(mask), target * mask))
    guidance = Guidance((CFG(2.0), rule))
    with Watched(model.inner) as seen:
        joined = guided(model, guidance)
    assert seen == [8] and not joined.requires_grad
    one_by_one(monkeypatch)
    apart = guided(model, guidance)
    assert close(joined, apart) and not close(joined, guided(model, Guidance((CFG(2.0),))))


def test_a_fit_s_field_takes_rows_levels_and_gradients(model, monkeypatch):
    x, rows = noise(), torch.tensor([3, 0, 12, 1])
    levels = torch.tensor([2.0, 1.0, 0.5, 4.0], dtype=torch.float64)

    def slopes():
        sigma = levels.clone().requires_grad_()
        field = field_of(host.runs.make_guider(model, CONDS, Guidance((CFG(2.0),))))
        d = field(x, sigma, rows)
        return d.detach(), *torch.autograd.grad(d.square().sum(), sigma)

    with Watched(model.inner) as seen:
        joined = slopes()
    assert seen == [8]
    one_by_one(monkeypatch)
    apart = slopes()
    assert close(joined[0], apart[0])
    torch.testing.assert_close(joined[1], apart[1], rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------- grouping


def test_what_shares_a_call(monkeypatch):
    x = torch.zeros(4, 3)
    row, many_rows, none = torch.zeros(1, 5), torch.zeros(4, 5), None
    assert groups(x, [row, many_rows, none]) == [[0, 1, 2]]
    assert groups(x, [none, none]) == [[0, 1]]
    assert groups(x, [row, torch.zeros(1, 6), row]) == [[0, 2], [1]]
    assert groups(x, [torch.zeros(3, 5), torch.zeros(3, 5)]) == [[0], [1]], (
        "the network says why not"
    )
    named = {"text": torch.zeros(1, 7, 2)}
    assert groups(x, [named, named | {"mask": torch.ones(1, 7)}, dict(named)]) == [[0, 2], [1]]
    monkeypatch.setattr(module, "MOST_VALUES", 24)
    assert groups(x, [row] * 5) == [[0, 1], [2, 3], [4]], "no more values in a call on the CPU"
    monkeypatch.setattr(module, "MOST_VALUES", 3)
    assert groups(x, [row] * 2) == [[0], [1]]


def test_a_level_of_one_number_stays_one():
    class Single(Denoiser):
        def forward(self, x, sigma, classes=None):
            return x * float(sigma)

    one = torch.ones(1, 2)
    found = many(Single(VE(), None, 2), one, torch.tensor([3.0]), [None, one])
    assert [d.tolist() for d in found] == [[[3.0, 3.0]]] * 2
