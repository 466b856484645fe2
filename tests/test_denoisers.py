"""Analytic denoisers against brute force and against Tweedie's formula."""

import itertools
import math

import pytest
import torch
from product import each

from sampling_kit.nodes.denoiser.embedded import Patches, painted
from sampling_kit.schedulers.denoiser import Gaussian, ImageSet, LocalScore, Mixture, analytic
from sampling_kit.schedulers.denoiser.latent import InLatents
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import PATHS, VE, VP, Flow
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DPMSolverMultistep
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, space

on_every_path = pytest.mark.parametrize("path", [p() for p in PATHS], ids=lambda p: p.name)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(path):
    """Three components of rank 2 in 5 dimensions, two classes."""
    basis = torch.linalg.qr(random(3, 5, 2)).Q.mT
    return Mixture(
        path, random(3, 5, seed=1), torch.tensor([0.2, 0.4, 0.3], dtype=torch.float64), basis,
        random(3, 2, seed=2).square(), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), torch.tensor([0, 0, 1]),
    )  # fmt: skip


def log_density(d, x, alpha, sigma):
    """log p(x) of the noised mixture, with dense covariances."""
    terms = []
    for k in range(len(d.means)):
        cov = d.basis[k].mT @ d.variances[k].diag() @ d.basis[k] + d.floor[k] ** 2 * torch.eye(
            5, dtype=torch.float64
        )
        cov = alpha**2 * cov + sigma**2 * torch.eye(5, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(alpha * d.means[k], cov)
        terms.append(d.weights[k].log() + normal.log_prob(x))
    return torch.logsumexp(torch.stack(terms), 0)


@each(path=[p() for p in PATHS], kappa=[0.05, 0.7, 4.0, 50.0])
def test_mixture_obeys_tweedie(path, kappa):
    """α·D = x + σ²·∇log p(x), with the density written out independently."""
    d, point = mixture(path), path.at(kappa)
    x = (point.alpha * random(4, 5, seed=3) + point.sigma * random(4, 5, seed=4)).requires_grad_()
    score = torch.autograd.grad(log_density(d, x, point.alpha, point.sigma).sum(), x)[0]
    expected = (x + point.sigma**2 * score) / point.alpha
    assert torch.allclose(d(x, point.sigma), expected, rtol=1e-6, atol=1e-6)


@on_every_path
def test_gaussian_is_its_closed_form(path):
    mean, std = random(3), random(3, seed=1).abs() + 0.1
    point = path.at(0.8)
    x = random(6, 3, seed=2)
    gain = point.alpha * std**2 / (point.alpha**2 * std**2 + point.sigma**2)
    expected = mean + gain * (x - point.alpha * mean)
    gaussian = Gaussian(path, mean, std)
    assert torch.allclose(gaussian(x, point.sigma), expected)
    assert torch.allclose(Mixture.forward(gaussian, x, point.sigma), expected)  # of one component


def test_gaussian_transport_is_the_flow_of_its_denoiser():
    g, n = Gaussian(VE(), random(3), 0.7), 20000
    x, sigmas = 3 * random(2, 3, seed=2), torch.logspace(1, -1, n + 1, dtype=torch.float64).tolist()
    y = x
    for a, b in itertools.pairwise(sigmas):
        y = y + (b - a) * (y - g(y, a)) / a
    assert torch.allclose(y, g.transport(x, (1, 10.0), (1, 0.1)), atol=1e-3)


@each(path=[p() for p in PATHS], kappa=[0.1, 1.0, 20.0])
def test_image_set_is_the_posterior_mean(path, kappa):
    images, point = random(2, 5, 3, 4, 4), path.at(kappa)
    x = point.alpha * images[0, :2] + point.sigma * random(2, 3, 4, 4, seed=1)
    flat = images.flatten(0, 1)
    distance = (x[:, None] - point.alpha * flat).square().sum((2, 3, 4))
    expected = torch.einsum(
        "bn,nchw->bchw", torch.softmax(-distance / (2 * point.sigma**2), 1), flat
    )
    assert torch.allclose(ImageSet(path, images)(x, point.sigma), expected, atol=1e-9)


def local_by_definition(images, x, kappa, locality):
    """LocalScore pixel by pixel for α = 1, from the formula in its docstring."""
    height, width = x.shape[-2:]
    data = torch.cat([images, images.flip(-1)])
    length = math.sqrt(0.36 + (3.6 * locality * kappa**0.72 * height / 32) ** 2)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            window = torch.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * length**2))
            d = ((x - data).square().sum(1) * window).sum((1, 2))
            out[:, i, j] = torch.softmax(-d / (2 * kappa**2), 0) @ data[:, :, i, j]
    return out


@pytest.mark.parametrize("kappa", [0.05, 0.5, 5.0])
def test_local_score_is_its_definition(kappa):
    images = random(1, 6, 3, 8, 10)
    x = images[0, 0] + kappa * random(3, 8, 10, seed=1)
    ours = LocalScore(VE(), images, 0.9)(x[None], kappa)[0]
    assert torch.allclose(ours, local_by_definition(images[0], x, kappa, 0.9), atol=1e-8)


def test_a_panorama_is_the_same_definition_in_strips(monkeypatch):
    monkeypatch.setattr(analytic, "STRIP", 6)
    images = random(1, 5, 3, 6, 20)
    x = images[0, 0] + 0.5 * random(3, 6, 20, seed=1)
    ours = LocalScore(VE(), images, 0.9)(x[None], 0.5)[0]
    assert torch.allclose(ours, local_by_definition(images[0], x, 0.5, 0.9), atol=1e-8)


def test_pictures_side_by_side_are_pictures_one_by_one(monkeypatch):
    """As on a GPU; every image with its own level and classes."""
    model, x = LocalScore(VP(), random(2, 4, 3, 6, 6), 1.0), random(5, 3, 6, 6, seed=1)
    sigma, classes = torch.linspace(0.1, 1, 5).double(), torch.rand(5, 2).double().round()
    alone = model(x, sigma, classes), model(x, 0.3)
    monkeypatch.setitem(analytic.TOGETHER, "cpu", 3 * 4 * 3 * 36)  # three at a time
    assert torch.allclose(model(x, sigma, classes), alone[0], atol=1e-12)
    assert torch.allclose(model(x, 0.3), alone[1], atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "taken"),
    [
        ([1.0, 0.0, 0.0], [6, 0, 0]),
        ([0.0, 0.0, 3.0], [0, 0, 6]),
        ([0.0, 0.0, 0.0], [2, 2, 2]),
        ([0.5, 0.0, 0.5], [3, 0, 3]),
        ([0.1, 0.6, 0.3], [1, 3, 2]),
        ([1.0, 1e-12, 0.0], [6, 0, 0]),
    ],
)
def test_the_images_are_shared_among_the_classes_by_weight(weights, taken):
    images, x = random(3, 6, 3, 4, 4), random(1, 3, 4, 4, seed=1)
    chosen = torch.cat([images[k, :count] for k, count in enumerate(taken)])[None]
    blend = LocalScore(VE(), images)(x, 1.0, torch.tensor([weights]))
    assert torch.allclose(blend, LocalScore(VE(), chosen)(x, 1.0), atol=1e-12)


def test_bytes_are_images():
    images, x = painted(4, 24, 24), random(2, 3, 24, 24)
    floats = images.double() / 127.5 - 1
    assert torch.allclose(LocalScore(VE(), images)(x, 1.0), LocalScore(VE(), floats)(x, 1.0))


def drawn(model, dtype, shape, count=10):
    """The finished picture of every class and one without, 20 evaluations."""
    points = space(EDM(), 20, Karras())
    noise = random(count + 1, *shape).to(dtype) * points.sigmas()[0]
    classes = torch.eye(count + 1, count, dtype=dtype)
    with torch.inference_mode():
        return sample(
            DPMSolverMultistep(),
            VE(),
            Run(lambda x, s: model(x, s, classes)),
            noise,
            points.sigmas(),
        )


def test_finished_pictures_do_not_depend_on_the_approximations(monkeypatch):
    """float64 and windows without a cut-off change no value of any picture by 2/255."""
    model = Patches(size=32, scenes=60).build(VE())
    plain = drawn(model, torch.float32, (3, 32, 32))
    monkeypatch.setattr(analytic, "NEGLIGIBLE", 0.0)
    exact = drawn(model, torch.float64, (3, 32, 32))
    assert (plain - exact).abs().max() < 2 / 127.5


def test_panoramas_and_their_limits():
    model = Patches(size=24, scenes=4, width=60).build(VE())
    x = random(1, 3, 24, 60).float()
    assert model(x, 1.0).shape == x.shape
    with pytest.raises(ValueError, match="width 60, height 24"):
        model(x[..., :24], 1.0)
    with pytest.raises(ValueError, match=r"width = 30: 0 \(square\), or from the size"):
        Patches(width=30).build(VE())
    assert Patches(size=24, scenes=4, width=24).build(VE()).shape == (3, 24, 24)


def test_infinite_locality_is_the_image_set_with_mirror_images():
    images = random(1, 6, 3, 8, 8)
    x = images[0, :2] + 0.5 * random(2, 3, 8, 8, seed=1)
    both = torch.cat([images, images.flip(-1)], 1)
    assert torch.allclose(
        LocalScore(VE(), images, 1e6)(x, 0.5), ImageSet(VE(), both)(x, 0.5), atol=1e-6
    )


MODELS = [
    ("mixture", lambda path: mixture(path), (5,)),
    ("gaussian", lambda path: Gaussian(path, random(5), 0.5), (5,)),
    ("images", lambda path: ImageSet(path, random(2, 4, 3, 6, 6)), (3, 6, 6)),
    ("local", lambda path: LocalScore(path, random(2, 4, 3, 6, 6), 1.0), (3, 6, 6)),
]
every_model = pytest.mark.parametrize(
    ("make", "shape"), [m[1:] for m in MODELS], ids=[m[0] for m in MODELS]
)


@each(model=MODELS, path=[p() for p in PATHS])
def test_a_denoiser_is_the_same_function_on_every_path(model, path):
    """D depends on x/α and κ only."""
    _, make, shape = model
    y = random(3, *shape, seed=5)
    for kappa in (0.1, 1.0, 30.0):
        p = path.at(kappa)
        assert torch.allclose(
            make(path)(p.alpha * y, p.sigma), make(VE())(y, kappa), rtol=1e-6, atol=1e-7
        )


@each(model=MODELS, path=[p() for p in PATHS])
def test_sigma_may_be_a_float_or_one_number_per_image(model, path):
    _, make, shape = model
    model, x = make(path), random(2, *shape, seed=5)
    sigmas = [path.at(0.3).sigma, path.at(2.0).sigma]
    together = model(x, torch.tensor(sigmas, dtype=torch.float64))
    for i, sigma in enumerate(sigmas):
        assert torch.allclose(together[i], model(x[i : i + 1], sigma)[0], rtol=1e-9, atol=1e-9)


@every_model
@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
def test_at_pure_noise_d_does_not_depend_on_x(make, shape, path):
    d = make(path)(random(3, *shape), 1.0)
    assert torch.isfinite(d).all()
    assert torch.allclose(d[0], d[1], atol=1e-9)


@pytest.mark.parametrize(
    "make", [m[1] for m in MODELS if m[0] != "gaussian"], ids=["mixture", "images", "local"]
)
def test_classes_choose_and_blend(make):
    model = make(VE())
    x = random(3, *model.shape, seed=8)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    d = model(3 * x, 3.0, rows)
    assert torch.allclose(d[2], model(3 * x, 3.0)[2])
    assert not torch.allclose(d[0], model(3 * x, 3.0)[0], atol=1e-4)
    alone = model(3 * x[1:2], 3.0, rows[1:2])
    assert torch.allclose(alone[0], d[1])
    tilted = model(3 * x[:1], 3.0, torch.tensor([[1.0, 1e-12]], dtype=torch.float64))
    assert torch.allclose(tilted[0], d[0], atol=1e-6)


@every_model
def test_no_number_is_read_from_the_device(make, shape):
    """Tensors without values give the shape of the answer: nothing waits for the device in a step."""
    model = make(VP()).to("meta")
    models = [model, InLatents(model)] if len(shape) == 3 else [model]
    for m in models:
        x, sigma = torch.empty(3, *m.shape, device="meta"), torch.empty(3, device="meta")
        classes = torch.empty(3, m.classes, device="meta")
        assert m(x.double(), sigma.double(), classes.double()).shape == x.shape
        assert m(x.double(), 0.5).shape == x.shape


def test_fit_recovers_mean_and_spread():
    data = random(4000, 6) * torch.tensor([3.0, 2.0, 0.1, 0.1, 0.1, 0.1]) + 1
    model = Mixture.fit(VE(), data[None], rank=2)
    assert torch.allclose(model.means[0], torch.ones(6, dtype=torch.float64), atol=0.2)
    assert (model.variances[0] + model.floor[0] ** 2).sqrt().tolist() == pytest.approx(
        [3, 2], rel=0.05
    )
    assert float(model.floor[0]) == pytest.approx(0.1, rel=0.05)
    assert len(Mixture.fit(VE(), data[None], rank=2, per_class=3).means) == 3


@every_model
def test_a_wrong_size_is_refused(make, shape):
    with pytest.raises(ValueError, match="make the empty latent that size"):
        make(VE())(torch.zeros(1, 9), 1.0)


def test_locality_must_be_positive():
    with pytest.raises(ValueError, match="locality = 0"):
        LocalScore(VE(), random(1, 2, 3, 4, 4), 0)
