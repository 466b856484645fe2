"""Guidance by measurements and classifiers, on data whose posteriors are known."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from product import each

from sampling_kit.nodes import host
from sampling_kit.schedulers.denoiser import Gaussian, ImageSet, Mixture
from sampling_kit.schedulers.guidance import (
    CFG,
    COND,
    DDNM,
    DPS,
    OPERATORS,
    UNCOND,
    Blur,
    ClassifierGuidance,
    Downsample,
    Gray,
    Guidance,
    Inpaint,
    Measurement,
    PiGDM,
)
from sampling_kit.schedulers.guidance.base import Call
from sampling_kit.schedulers.guidance.level import Level
from sampling_kit.schedulers.noise_schedule import RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, VP, Flow, SubVP
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM, Euler, HeunEDM
from sampling_kit.schedulers.solver.run import Run

SHAPE = (3, 8, 12)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = (normal(1, 1, 8, 12, seed=8) > 0).double()
CASES = [Inpaint(MASK), Downsample(2), Downsample(4), Gray(), Blur(1.0), Blur(3.0)]
operators = pytest.mark.parametrize("a", CASES, ids=lambda a: a.title)
paths = pytest.mark.parametrize("path", [VE(), Flow()], ids=lambda p: p.name)


# ----------------------------------------------------------------------------------------- operators


def test_every_operator_is_covered():
    assert {type(a) for a in CASES} == set(OPERATORS.values())


def dense(a):
    """A as a matrix [outputs, inputs]."""
    basis = torch.eye(8 * 12 * 3, dtype=torch.float64).reshape(-1, *SHAPE)
    return a.forward(basis).flatten(1).T


@operators
def test_adjoint_and_pseudo_inverse_are_those_of_the_matrix(a):
    matrix, x = dense(a), normal(2, *SHAPE)
    y = a.forward(x)
    assert torch.allclose(y.flatten(1), x.flatten(1) @ matrix.T)
    r = normal(*y.shape, seed=2)
    assert torch.allclose((a.forward(x) * r).sum(), (x * a.adjoint(r)).sum())
    back = a.adjoint(a.solve(y, 1.0, 0.0))
    expected = y.flatten(1) @ torch.linalg.pinv(matrix, rtol=1e-6).T
    assert torch.allclose(back.flatten(1), expected, atol=1e-8)
    assert torch.allclose(a.forward(back), y, atol=1e-9)  # A·A⁺·y = y for y in A's range


@operators
def test_the_gram_matrix_is_inverted(a):
    matrix = dense(a)
    y = a.forward(normal(2, *SHAPE))
    gram = 0.3 * matrix @ matrix.T + 0.2 * torch.eye(len(matrix), dtype=torch.float64)
    expected = y.flatten(1) @ torch.linalg.inv(gram)
    assert torch.allclose(a.solve(y, 0.3, 0.2).flatten(1), expected, atol=1e-9)


@operators
def test_operators_take_video(a):
    x = normal(2, 3, 5, 8, 12)
    one = a.forward(x[:, :, 2])
    mask = isinstance(a, Inpaint)
    video = (Inpaint(MASK[:, :, None]) if mask else a).forward(x)
    assert torch.allclose(video[:, :, 2], one)


def test_what_cannot_be_measured_is_refused():
    packed, picture = normal(2, 1, 96), normal(2, *SHAPE)
    for a in (Downsample(2), Gray(), Blur()):
        with pytest.raises(ValueError, match=r"works over height and width.*packed"):
            Measurement(a, packed).residual(packed)
    for a, y, text in (
        (Downsample(5), picture, "multiples of 5"),
        (Gray(), picture[:, :1], "3 colour channels"),
        (Inpaint(MASK[..., :5]), picture, "does not fit"),
    ):
        with pytest.raises(ValueError, match=text):
            Measurement(a, y).residual(picture[:, :1] if text.startswith("3") else picture)
    with pytest.raises(ValueError, match=r"gives \(2, 3, 4, 6\), but y has shape"):
        Measurement(Downsample(2), picture).residual(picture)
    assert Measurement(Inpaint(torch.ones(1, 1, 96)), packed).residual(packed).abs().max() == 0


# ------------------------------------------------------------------------------------ Gaussian truth


def known(a, path, kappa, std, sigma_y, seed=3):
    """(x, D, the exact E[x0 | x, y], the measurement) for data N(m, std²)."""
    mean = normal(*SHAPE, seed=seed)
    truth = mean + std * normal(1, *SHAPE, seed=4)
    y = a.forward(truth)
    y = y + sigma_y * a.forward(normal(1, *SHAPE, seed=5))
    denoiser = Gaussian(path, mean, std)
    p = path.at(kappa)
    x = p.alpha * truth + p.sigma * normal(2, *SHAPE, seed=6)
    d = denoiser(x, p.sigma)
    variance = std**2 * kappa**2 / (std**2 + kappa**2)  # Var[x0 | x]
    matrix = dense(a)
    s = variance * matrix @ matrix.T + sigma_y**2 * torch.eye(len(matrix), dtype=torch.float64)
    gain = variance * matrix.T @ torch.linalg.pinv(s, rtol=1e-9, hermitian=True)
    residual = y.flatten(1) - d.flatten(1) @ matrix.T
    posterior = (d.flatten(1) + residual @ gain.T).reshape(x.shape)
    return x, denoiser, posterior, Measurement(a, y, sigma_y)


def run_at(rule, denoiser, x, path, kappa):
    sigma = path.at(kappa).sigma
    run = Guidance((rule,)).begin(path, (sigma, 0.0))
    return run(x, sigma, lambda y, s, names: {n: denoiser(y, s) for n in names})


@each(case=itertools.product(CASES, [VE(), Flow()]), kappa=[0.05, 1.0, 20.0], sigma_y=[0.0, 0.3])
def test_pigdm_is_exact_for_gaussian_data(case, kappa, sigma_y):
    a, path = case
    x, denoiser, posterior, measured = known(a, path, kappa, 0.6, sigma_y)
    ours = run_at(PiGDM(1.0, measured, 0.6), denoiser, x, path, kappa)
    assert torch.allclose(ours, posterior, atol=1e-7)


@operators
@paths
def test_dps_is_the_covariance_times_the_residual(a, path):
    """−ζ·(σ²/α)·∇‖y − A·D‖² = 2ζ·Var[x0 | x]·Aᵀ(y − A·D) for N(m, s²)."""
    kappa, std, zeta = 0.8, 0.6, 0.7
    x, denoiser, _, measured = known(a, path, kappa, std, 0.0)
    d = denoiser(x, path.at(kappa).sigma)
    variance = std**2 * kappa**2 / (std**2 + kappa**2)
    expected = d + 2 * zeta * variance * a.adjoint(measured.y - a.forward(d))
    ours = run_at(DPS(zeta, "drift", measured), denoiser, x, path, kappa)
    assert torch.allclose(ours, expected)


@pytest.mark.parametrize("path", [VE(), VP(), Flow()], ids=lambda p: p.name)
def test_dps_is_the_paper_s_step_on_ddim(path):
    """x' = DDIM(x, D) − ζ·∇_x‖y − A·D(x)‖ on VP, whichever coordinates a run is in."""
    a, zeta, kappas = Downsample(2), 0.8, (3.0, 1.4, 0.6, 0.2, 0.0)
    mean = normal(*SHAPE, seed=3)
    measured, exact = (
        Measurement(a, a.forward(normal(1, *SHAPE, seed=4))),
        Gaussian(VP(), mean, 0.5),
    )
    start = normal(2, *SHAPE, seed=6)
    x = start / math.hypot(1, kappas[0])
    for kappa, after in itertools.pairwise(kappas):
        p, q = VP().at(kappa), VP().at(after)
        y = x.clone().requires_grad_()
        d = exact(y, p.sigma)
        length = measured.residual(d).square().sum((1, 2, 3)).sqrt()
        (g,) = torch.autograd.grad(length.sum(), y)
        d = d.detach()
        x = q.alpha * d + q.sigma * (x - p.alpha * d) / p.sigma - zeta * g
    host_path = path.host
    denoiser, sigmas = Gaussian(host_path, mean, 0.5), [host_path.at(k).sigma for k in kappas]
    run = Guidance((DPS(zeta, measurement=measured),)).begin(path, sigmas)
    evaluate = lambda y, s, names: {n: denoiser(y, s) for n in names}  # noqa: E731
    ours = sample(
        DDIM(),
        path,
        Run(lambda y, s: run(y, s, evaluate)),
        start * host_path.at(kappas[0]).alpha,
        sigmas,
    )
    assert torch.allclose(ours, x, atol=1e-7)


@operators
@paths
def test_ddnm_agrees_with_the_measurement_and_keeps_the_rest(a, path):
    x, denoiser, _, measured = known(a, path, 0.8, 0.6, 0.0)
    d = denoiser(x, path.at(0.8).sigma)
    ours = run_at(DDNM(1.0, measured), denoiser, x, path, 0.8)
    assert torch.allclose(a.forward(ours), measured.y.expand_as(a.forward(ours)), atol=1e-9)
    changed = ours - d
    assert torch.allclose(a.adjoint(a.solve(a.forward(changed), 1.0, 0.0)), changed, atol=1e-9)
    half = run_at(DDNM(0.5, measured), denoiser, x, path, 0.8)
    assert torch.allclose(half, d + changed / 2)


def test_ddnm_with_noise_is_the_posterior_of_unit_gaussian_data():
    a = Downsample(2)
    x, denoiser, posterior, measured = known(a, VE(), 0.8, 1.0, 0.3)
    assert torch.allclose(run_at(DDNM(1.0, measured), denoiser, x, VE(), 0.8), posterior)


# ------------------------------------------------------------------------------------------ whole runs


@paths
@pytest.mark.parametrize("rule", [DDNM(), DPS(0.5, "drift"), PiGDM()], ids=lambda r: r.title)
def test_inpainting_an_image_of_which_half_is_known(path, rule):
    """The exact denoiser of ten images: the known half says which one it is."""
    images = normal(1, 10, *SHAPE, seed=1).float()
    mask = torch.ones(1, 1, 8, 12)
    mask[..., 6:] = 0
    measured = Measurement(Inpaint(mask), images[:, 3])
    denoiser = ImageSet(path.host, images)
    sigmas = [path.at(k).sigma for k in (20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1)] + [0.0]
    run = Guidance((replace(rule, measurement=measured),)).begin(path, sigmas)
    x = normal(4, *SHAPE, seed=2).float() * sigmas[0]
    with torch.no_grad():
        out = sample(HeunEDM() if isinstance(rule, DDNM) else Euler(), path, Run(lambda x, s: run(x, s, lambda y, t, names: {n: denoiser(y, t) for n in names})), x, sigmas)  # fmt: skip
    assert torch.allclose(out[..., :6], images[:, 3, ..., :6].expand(4, -1, -1, -1), atol=0.05)
    if isinstance(
        rule, DDNM
    ):  # replaces the known half and does not look at it: the other half may not fit
        assert torch.allclose(out[..., :6], images[:, 3, ..., :6].expand(4, -1, -1, -1), atol=1e-6)
    else:
        assert torch.allclose(out, images[:, 3].expand(4, -1, -1, -1), atol=0.05)


@pytest.mark.parametrize("rule", [DDNM(), DPS(3.0), PiGDM()], ids=lambda r: r.title)
def test_without_comfyui_the_guider_runs_it(rule):
    """Gradients included, though a host runs without them."""
    mean = normal(*SHAPE, seed=1).float()
    model = host.models.make_model(lambda path: Gaussian(path, mean, 0.5), RectifiedFlowSchedule())
    measured = Measurement(Inpaint(MASK.float()), torch.zeros(1, *SHAPE))
    chain = Guidance((replace(rule, measurement=measured),))
    guider = host.runs.make_guider(model, {COND: [[None, {}]]}, chain)
    start = normal(2, *SHAPE, seed=2).float()
    sigmas = torch.linspace(1, 0, 9)
    out = guider.sample(start, torch.zeros_like(start), host.runs.make_sampler(Euler()), sigmas)
    plain = host.runs.make_guider(model, {COND: [[None, {}]]}, Guidance())
    free = plain.sample(start, torch.zeros_like(start), host.runs.make_sampler(Euler()), sigmas)
    known = MASK.float().expand_as(out) > 0
    assert out[known].abs().mean() < free[known].abs().mean() / 2
    assert not out.requires_grad


def test_gradients_pass_through_the_rules_before():
    """CFG then ΠGDM: the gradient is of the guided D."""
    x, denoiser, _, measured = known(Downsample(2), VE(), 0.8, 0.6, 0.1)
    other = Gaussian(VE(), normal(*SHAPE, seed=9), 0.4)
    fields = {COND: denoiser, UNCOND: other}
    run = Guidance((CFG(2.0), PiGDM(1.0, measured))).begin(VE(), (0.8, 0.0))
    ours = run(x, 0.8, lambda y, s, names: {n: fields[n](y, s) for n in names})

    def guided(y):
        return 2 * denoiser(y, 0.8) - other(y, 0.8)

    r2 = 0.64 / 1.64
    pull = measured.pull(measured.residual(guided(x)), r2)
    (_, g) = torch.autograd.functional.vjp(guided, x, pull)
    assert torch.allclose(ours, guided(x) + 0.64 * g)
    assert run.report()["calls"] == {COND: 1, UNCOND: 1}  # nothing is evaluated twice


# ----------------------------------------------------------------------------------------- classifiers


def mixture(path):
    means, floor = normal(6, 3, 2, 2, seed=1), torch.linspace(0.3, 0.8, 6, dtype=torch.float64)
    basis = torch.linalg.qr(normal(6, 12, 2, seed=5)).Q.mT
    weights = torch.tensor([1.0, 2, 1, 3, 1, 1], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    return Mixture(path, means, floor, basis, normal(6, 2, seed=6).square(), weights, labels)


@pytest.mark.parametrize("path", [VE(), VP(), SubVP(), Flow()], ids=lambda p: p.name)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 0.95])
def test_the_exact_posterior_turns_unconditional_into_conditional(path, sigma):
    m, x = mixture(path), normal(4, 3, 2, 2, seed=2)
    level = Level(sigma, path.on(sigma))
    call = Call(x, level, path, {}, {})
    ours = ClassifierGuidance(1.0, 1, classifier=m.class_logits).apply(m(x, sigma), call)
    assert torch.allclose(ours, m(x, sigma, torch.eye(3)[[1] * 4]), atol=1e-9)
    each = ClassifierGuidance(1.0, -1, classifier=m.class_logits).apply(m(x, sigma), call)
    assert torch.allclose(each, m(x, sigma, torch.eye(3)[[0, 1, 2, 0]]), atol=1e-9)


def test_the_classifier_is_a_posterior():
    m, x = mixture(VE()), normal(4, 3, 2, 2, seed=2)
    far = m.class_logits(100 * x, 1e4).softmax(1)
    assert torch.allclose(far, torch.tensor([[3.0, 4, 2]], dtype=torch.float64) / 9, atol=1e-2)
    near = m.class_logits(m.means.reshape(-1, 3, 2, 2), 0.01).softmax(1)
    assert (near.argmax(1) == m.labels).all()


def test_temperature_divides_the_logits_and_scale_the_gradient():
    m, x, sigma = mixture(VE()), normal(4, 3, 2, 2, seed=2), 0.7
    run = lambda rule: Guidance((rule,)).combine(x, sigma, {COND: m(x, sigma)})  # noqa: E731
    y = x.clone().requires_grad_()
    logits = m.class_logits(y, sigma) / 2.5
    (g,) = torch.autograd.grad(torch.log_softmax(logits, 1)[:, 2].sum(), y)
    ours = run(ClassifierGuidance(3.0, 2, 2.5, m.class_logits))
    assert torch.allclose(ours, m(x, sigma) + 3 * sigma**2 * g)


def test_classifier_guidance_calls_the_network_no_more_often_and_needs_its_wire():
    m, x = mixture(Flow()), normal(4, 3, 2, 2, seed=2)
    guidance = Guidance((ClassifierGuidance(1.0, 1, classifier=m.class_logits),))
    run = guidance.begin(Flow(), (1.0, 0.5, 0.0))
    sample(
        DDIM(),
        Flow(),
        Run(lambda x, s: run(x, s, lambda y, t, n: {COND: m(y, t)})),
        x,
        (1.0, 0.5, 0.0),
    )
    assert run.report()["calls"] == {COND: 2}
    with pytest.raises(ValueError, match="connect a CLASSIFIER"):
        Guidance((ClassifierGuidance(),)).combine(x, 0.5, {COND: x})
    with pytest.raises(ValueError, match=r"label = 3.*3 classes"):
        Guidance((ClassifierGuidance(label=3, classifier=m.class_logits),)).combine(
            x, 0.5, {COND: x}
        )
