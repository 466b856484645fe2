"""log p along the probability-flow ODE, against Gaussians and mixtures whose density is known."""

import json
import math

import pytest
import torch
from product import each

from sampling_kit.embedded.postcards import CLASSES
from sampling_kit.nodes import NODES
from sampling_kit.nodes.denoiser.embedded import scenes
from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.measure.likelihood import LogLikelihood, rising, thinned
from sampling_kit.schedulers.path import VE, VP, Flow

D = 12
PATHS = {"VP": VP(), "VE": VE(), "flow": Flow()}


def levels(path, count=40, low=0.002, high=160.0):
    """SIGMAS, largest first, down to 0; flow starts at exactly 1."""
    top = 1.0 if isinstance(path, Flow) else high
    return [top * (low / top) ** (i / (count - 1)) for i in range(count)] + [0.0]


def gaussian(path):
    """A Gaussian whose coordinates depend on one another, and 16 of its samples."""
    g = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(D, D, generator=g)).Q[:4].reshape(1, 4, 3, 2, 2)
    mean = 0.3 * torch.randn(1, 3, 2, 2, generator=g)
    spread = torch.tensor([[1.0, 0.6, 0.3, 0.1]])
    made = Mixture(path.host, mean, torch.tensor([0.2]), basis, spread)
    z, w = torch.randn(16, 4, generator=g), torch.randn(16, 3, 2, 2, generator=g)
    data = mean + 0.2 * w + torch.einsum("br,rchw->bchw", z * spread.sqrt(), basis[0])
    return made, data


def density(mixture, data, blur=0.002):
    """log p [B] of the mixture blurred with ``blur``, from its covariance matrices."""
    rows = []
    for k, mean in enumerate(mixture.means.double()):
        u, v = mixture.basis[k].double(), mixture.variances[k].double()
        c2 = mixture.floor[k].double() ** 2 + blur**2
        covariance = u.T @ torch.diag(v) @ u + c2 * torch.eye(len(mean)).double()
        rows.append(
            torch.distributions.MultivariateNormal(mean, covariance).log_prob(
                data.flatten(1).double()
            )
        )
    weights = (mixture.weights / mixture.weights.sum()).double().log()
    return torch.logsumexp(torch.stack(rows, 1) + weights, 1)


@pytest.mark.some(1)
@each(derivative=["gradient", "differences"], path=PATHS.values())
def test_exact_on_gaussians(path, derivative):
    model, data = gaussian(path)
    settings = LogLikelihood("exact", derivative=derivative, step_error=False)
    found = settings.measure(model, data[:4], path, levels(path, 30))
    truth = density(model, data[:4])
    assert found.log_likelihood == pytest.approx(truth.tolist(), rel=0.005, abs=0.02)
    assert found.bits == pytest.approx((-truth / (D * math.log(2))).tolist(), rel=0.01, abs=0.003)
    assert found.error is None


@pytest.mark.some(1)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_exact_on_a_mixture(path):
    means = torch.tensor([[0.8, -0.5], [-0.6, 0.4], [0.0, 0.9]])
    weights = torch.tensor([0.5, 0.3, 0.2])
    model = Mixture(path.host, means, torch.tensor([0.2, 0.3, 0.1]), weights=weights)
    data = torch.tensor([[0.8, -0.5], [0.0, 0.0], [-0.5, 0.5], [0.2, 1.0]])
    found = LogLikelihood().measure(model, data, path, levels(path, 120))
    assert found.log_likelihood == pytest.approx(density(model, data).tolist(), abs=0.02)


def test_the_density_integrates_to_one():
    """On a line: ∫ p dx = 1, whatever the closed form of p is."""
    model = Mixture(VE(), torch.tensor([[0.7], [-0.4]]), torch.tensor([0.2, 0.3]))
    grid = torch.linspace(-3, 3, 301)[:, None]
    found = LogLikelihood(step_error=False).measure(model, grid, VE(), levels(VE(), 80))
    total = torch.tensor(found.log_likelihood).exp().sum().item() * 0.02
    assert total == pytest.approx(1, abs=5e-3)


def test_hutchinsons_error_bar_covers_the_truth():
    """±2 standard errors hold the truth in about 19 of 20 cases, with gradients and with differences."""
    model, data = gaussian(VE())
    data = data.repeat(4, 1, 1, 1)
    truth = density(model, data) / (-D * math.log(2))
    for derivative in ("gradient", "differences"):
        settings = LogLikelihood("hutchinson", 24, derivative, step_error=False, seed=5)
        found = settings.measure(model, data, VE(), levels(VE(), 20))
        off = (torch.tensor(found.bits) - truth).abs() / torch.tensor(found.error)
        assert (off < 2).double().mean() > 0.9
        assert (off < 5).all()


def test_more_probes_make_a_smaller_error_bar():
    model, data = gaussian(VE())

    def error(probes):
        settings = LogLikelihood("hutchinson", probes, step_error=False)
        return sum(settings.measure(model, data, VE(), levels(VE(), 12)).error)

    assert error(64) == pytest.approx(error(16) / 2, rel=0.35)


def test_hutchinson_is_exact_where_coordinates_are_independent():
    """vᵀJv = tr J for signs v and a diagonal J: no spread."""
    model = Gaussian(Flow(), torch.zeros(1, 4, 4), 0.5)
    found = LogLikelihood("hutchinson", 3).measure(
        model, torch.zeros(2, 1, 4, 4), Flow(), levels(Flow())
    )
    assert found.error == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize(("method", "order", "count"), [("heun", 2, 33), ("rk4", 4, 17)])
def test_the_order_of_the_method(method, order, count):
    model = Gaussian(VE(), torch.tensor([0.3, -0.2]), torch.tensor([0.2, 0.7]))
    data = torch.tensor([[0.5, 0.4], [0.1, -0.9]])

    def nats(method, count):
        settings = LogLikelihood(method=method, step_error=False)
        return settings.measure(model, data, VE(), levels(VE(), count, low=0.05, high=40)).nats

    best = nats("dormand_prince", 60)
    off = [(nats(method, n) - best).abs().max().item() for n in (count, 2 * count - 1)]
    assert math.log2(off[0] / off[1]) == pytest.approx(order, abs=0.4)


def test_the_step_error_is_the_size_of_the_error():
    model, data = gaussian(VE())
    found = LogLikelihood("exact", method="heun").measure(
        model, data, VE(), levels(VE(), 33, high=160)
    )
    truth = density(model, data) / (-D * math.log(2))
    off = (torch.tensor(found.bits) - truth).abs().mean().item()
    told = sum(found.step_error) / len(found.step_error)
    assert off / 4 < told < off * 4


def test_auto_chooses_by_size():
    assert LogLikelihood().exact(256)
    assert not LogLikelihood().exact(257)
    assert not LogLikelihood("hutchinson").exact(2)


def test_eight_bit_counts_the_bits_of_a_pixel():
    """Uniform pixel values have 8 bits; a Gaussian much wider than a level has its entropy in levels."""
    std = 0.3
    model = Gaussian(VE(), torch.zeros(1, 4, 4), std)
    g = torch.Generator().manual_seed(0)
    data = (torch.randn(64, 1, 4, 4, generator=g) * std * 127.5).round() / 127.5
    found = LogLikelihood("hutchinson", 2, step_error=False, eight_bit=True).measure(
        model, data, VE(), levels(VE(), 30)
    )
    entropy = 0.5 * math.log2(2 * math.pi * math.e * (std * 127.5) ** 2)
    assert sum(found.bits) / 64 == pytest.approx(entropy, abs=0.05)


def test_an_image_does_not_depend_on_its_batch():
    model, data = gaussian(VE())
    settings = LogLikelihood("hutchinson", 3, step_error=False)
    both = settings.measure(model, data[:2], VE(), levels(VE(), 8))
    one = settings.measure(model, data[:1], VE(), levels(VE(), 8))
    assert both.bits[0] == pytest.approx(one.bits[0], rel=1e-5)


def test_works_in_inference_mode_on_five_axes():
    model = Gaussian(Flow(), torch.zeros(2, 3, 4, 4), 0.5)
    with torch.inference_mode():
        data = torch.zeros(2, 2, 3, 4, 4)
        settings = LogLikelihood("hutchinson", 2, step_error=False)
        found = settings.measure(model, data, Flow(), levels(Flow(), 20))
    assert found.log_likelihood == pytest.approx(
        [-0.5 * 96 * math.log(2 * math.pi * 0.25)] * 2, rel=0.01
    )


def test_levels():
    assert rising(VE(), [3.0, 2.0, 1.0, 0.0]) == [1, 2, 3]
    assert thinned([1, 2, 3, 4]) == [1, 3, 4]
    assert thinned([1, 2, 3]) == [1, 3]


@pytest.mark.parametrize(
    ("sigmas", "data", "words"),
    [
        ([1.0, 0.0], 0.0, "3 different noise levels"),
        ([2.0, 1.0, 1.0, 0.5], 0.0, "repeats"),
        ([float("nan"), 2.0, 1.0, 0.5], 0.0, "levels must be"),
        (levels(VE()), float("nan"), "NaN"),
    ],
)
def test_bad_input(sigmas, data, words):
    model = Gaussian(VE(), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match=words):
        LogLikelihood().measure(model, torch.full((1, 2), data), VE(), sigmas)


def test_a_model_without_gradient_is_refused_with_the_way_out():
    model = Gaussian(VE(), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="choose differences"):
        LogLikelihood().measure(
            lambda x, s: model(x, s).detach(), torch.zeros(1, 2), VE(), levels(VE())
        )


def test_numbers_that_overflow_are_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        LogLikelihood(derivative="differences").measure(
            lambda x, s: x * float("inf"), torch.ones(1, 2), VE(), levels(VE())
        )


def test_text_and_payload():
    model, data = gaussian(VE())
    found = LogLikelihood("hutchinson", 4).measure(model, data[:2], VE(), levels(VE(), 10))
    text, payload = found.text(), found.payload()
    assert "image 1" in text and "± trace" in text and "Hutchinson, 4 probes" in text
    assert payload["bits_per_dim"] == found.bits and payload["probes"] == 4
    assert payload["evaluations"] == (9 + 5) * 4


# ------------------------------------------------------------------------------------- the node

BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}


def kit(name, /, **inputs):
    return BY_ID[name].execute(**inputs).args


@pytest.fixture
def postcards():
    """A MODEL of 8-component Gaussians, its class condition, and a latent of two of its samples."""
    schedule = kit("NoiseSchedule", kind={"kind": "rectified_flow"})[0]
    gaussian = {"kind": "gaussian", "size": 24, "scenes": 30, "rank": 6}
    model = kit("EmbeddedDenoiser", noise_schedule=schedule, kind=gaussian)[0]
    positive = kit("ClassCondition", name=CLASSES[0])[0]
    sigmas = torch.tensor(levels(Flow(), 12))
    return model, positive, {"samples": scenes(30, 24)[0, :2]}, sigmas


def test_the_node_is_the_engine(postcards):
    model, positive, latent, sigmas = postcards
    with torch.inference_mode():
        bits, text, told = kit(
            "LogLikelihood", model=model, latent=latent, sigmas=sigmas, positive=positive, probes=2
        )
    weights = torch.zeros(2, model.inner.classes)
    weights[:, 0] = 1
    direct = LogLikelihood(probes=2).measure(
        lambda x, s: model.denoiser(x, s, weights), latent["samples"], Flow(), sigmas.tolist()
    )
    assert json.loads(told)["bits_per_dim"] == pytest.approx(direct.bits, rel=1e-5)
    assert bits == pytest.approx(sum(direct.bits) / 2, rel=1e-5) and "bits/dim" in text


def test_a_guider_is_measured_by_its_own_d(postcards):
    model, positive, latent, sigmas = postcards
    guider = kit("Guider", model=model, positive=positive)[0]
    guider.run = object()  # of an earlier run; not looked at and not changed
    given = dict(latent=latent, sigmas=sigmas, probes=2, step_error=False)
    kept = guider.run
    by_guider = kit("LogLikelihood", model=guider, **given)[0]
    assert by_guider == pytest.approx(
        kit("LogLikelihood", model=model, positive=positive, **given)[0], rel=1e-6
    )
    assert guider.run is kept
    with pytest.raises(ValueError, match="positive: a GUIDER has its own"):
        kit("LogLikelihood", model=guider, positive=positive, **given)


def test_a_guided_d_is_differentiated_through_the_chain(postcards):
    model, positive, latent, sigmas = postcards
    unconditional = kit("ClassCondition", name="unconditional")[0]
    chain = kit("CFG", scale=2.0)[0]
    given = dict(latent=latent, sigmas=sigmas[:4], probes=2, step_error=False)
    guider = kit("Guider", model=model, positive=positive, negative=unconditional, guidance=chain)
    found = [
        kit("LogLikelihood", model=guider[0], derivative=d, **given)[0]
        for d in ("gradient", "differences")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
