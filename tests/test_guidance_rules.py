"""Each guidance rule against its paper's formula, a closed form, or an implementation that is right."""

import math

import pytest
import torch
import torch.nn.functional as F

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.guidance import (
    APG,
    CFG,
    COND,
    MAMBOG,
    NEGATIVE,
    PAG,
    TCFG,
    UNCOND,
    WEAK,
    Autoguidance,
    CFGZeroStar,
    Compose,
    DynamicThresholding,
    FrequencyDecoupled,
    Guidance,
    PerpNeg,
    RectifiedCFGPlusPlus,
    Rescale,
)
from sampling_kit.schedulers.guidance.frequency import low_band, low_pass
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.per_image import quantile

SHAPE = (3, 4, 6, 8)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, C, U, N = (normal(*SHAPE, seed=i) for i in range(4))
PREDS = {COND: C, UNCOND: U, NEGATIVE: N, WEAK: N, "cond.1": N, "cond.2": X.flip(0)}


def guided(*rules, sigma=0.7, path=None, x=X, **preds):
    return Guidance(rules).combine(x, sigma, PREDS | preds, path)


def inner(a, b):
    return (a * b).sum((1, 2, 3), keepdim=True)


def length(a):
    return inner(a, a).sqrt()


# --------------------------------------------------------------------------------- CFG and relatives


def test_a_negative_prompt_stands_in_the_place_of_the_unconditional_one():
    assert torch.allclose(guided(CFG(3.0), uncond=N), N + 3 * (C - N))


def test_autoguidance_and_perturbed_attention():
    assert torch.allclose(guided(Autoguidance(2.5)), N + 2.5 * (C - N))
    ours = guided(CFG(3.0), PAG(2.0), **{"perturbed.identity": N})
    assert torch.allclose(ours, U + 3 * (C - U) + 2 * (C - N))


def test_perpendicular_negative_with_cfg_is_the_paper_s_sum():
    w, w_n, pos, neg = 3.0, 1.5, C - U, N - U
    across = neg - inner(neg, pos) / inner(pos, pos) * pos
    assert torch.allclose(inner(across, pos), torch.zeros(1, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(guided(PerpNeg(w_n), CFG(w)), U + w * (pos - w_n * across))
    parallel = guided(PerpNeg(w_n), CFG(w), negative=U + 0.4 * pos)
    assert torch.allclose(parallel, guided(CFG(w)))  # a negative along the positive does nothing


def test_composition_is_the_weighted_sum_with_masks():
    mask = (normal(1, 1, 6, 8, seed=9) > 0).double()
    ours = guided(CFG(3.0), Compose("2, 0, -1.5", 0.5, (mask,)), **{"cond.3": X})
    assert torch.allclose(ours, U + 3 * (C - U) + 0.5 * (2 * mask * (N - U) - 1.5 * (X - U)))
    assert Compose("2, 0, -1").reads == {"cond.1", "cond.3", UNCOND}


@pytest.mark.parametrize("path", [VE(), Flow()], ids=lambda p: p.name)
def test_composition_of_gaussians_is_their_product(path):
    """Scores add: Σ_i (s_i − s_u) + s_u is the score of Π p_i/p_u^(n−1), of noised Gaussians a Gaussian."""
    sigma = 0.4
    alpha = path.on(sigma).alpha
    means, stds = (1.0, -0.3, 0.2, 0.5), (0.5, 0.7, 0.6, 2.0)  # three conditions, the unconditional
    x = normal(5, 3)
    names = (COND, "cond.1", "cond.2", UNCOND)
    preds = {
        n: Gaussian(path, torch.full((3,), m, dtype=torch.float64), s)(x, sigma)
        for n, m, s in zip(names, means, stds, strict=True)
    }
    weights = (1, 1, -0.5, 1 - 1 - 1 + 0.5)
    variance = [alpha**2 * s**2 + sigma**2 for s in stds]
    precision = sum(w / v for w, v in zip(weights, variance, strict=True))
    centre = sum(w * alpha * m / v for w, m, v in zip(weights, means, variance, strict=True))
    expected = (x - sigma**2 * precision * (x - centre / precision)) / alpha
    ours = Guidance((Compose("1, -0.5"),)).combine(x, sigma, preds, path)
    assert torch.allclose(ours, expected)


# ----------------------------------------------------------------------------------------------- APG


@pytest.mark.parametrize("r", [9.0, 1000.0], ids=["shortened", "short enough"])
def test_apg_is_the_paper_s_algorithm_over_a_run(r):
    w, eta, beta = 6.0, 0.3, -0.5
    run = Guidance((APG(w, eta, r, beta),)).begin()
    average = 0.0
    for i in range(3):
        c, u = normal(*SHAPE, seed=10 + i), normal(*SHAPE, seed=20 + i)
        average = c - u + beta * average
        delta = average * (r / length(average)).clamp(max=1)
        unit = c / length(c)
        along = inner(delta, unit) * unit
        expected = c + (w - 1) * (delta - along + eta * along)
        assert torch.allclose(run.combine(X, 1.0, {COND: c, UNCOND: u}), expected)


def test_apg_with_everything_off_is_cfg():
    """ComfyUI's APG at eta = 1 without norm and momentum is CFG(scale + 1)."""
    assert torch.allclose(guided(APG(4.0, 1.0, 0.0, 0.0)), guided(CFG(4.0)))


def test_apg_adds_nothing_along_the_condition():
    assert torch.allclose(
        inner(guided(APG(5.0, 0.0, 0.0, 0.0)) - C, C),
        torch.zeros(1, dtype=torch.float64),
        atol=1e-9,
    )


# ------------------------------------------------------------------------------ CFG-Zero*, TCFG, FDG


@pytest.mark.parametrize("path", [Flow(), VE()], ids=lambda p: p.name)
def test_cfg_zero_star_is_the_paper_s_velocity(path):
    t, w = 0.6, 3.5
    x = X if path == Flow() else X / (1 - t)  # the same state in VE coordinates
    v_c, v_u = (X - C) / t, (X - U) / t
    s = inner(v_c, v_u) / inner(v_u, v_u)
    expected = X - t * ((1 - w) * s * v_u + w * v_c)
    sigma = t if path == Flow() else t / (1 - t)
    assert torch.allclose(guided(CFGZeroStar(w, 0), sigma=sigma, path=path, x=x), expected)


def test_cfg_zero_star_scales_on_the_velocity_not_on_d():
    """ComfyUI fits s on v and applies it to D; the two differ by (1 − w)(1 − s)·x."""
    t, w = 0.6, 3.5
    v_c, v_u = X - C, X - U
    s = inner(v_c, v_u) / inner(v_u, v_u)
    theirs = (1 - w) * s * U + w * C
    ours = guided(CFGZeroStar(w, 0), sigma=t, path=Flow())
    assert torch.allclose(ours - theirs, (1 - w) * (1 - s) * X)


def test_cfg_zero_star_moves_more_than_cfg_with_what_the_network_answers():
    """Both answers moved alike by δ (as by another reported level): CFG moves by δ; with s held fast, which only a second
    call of the network could do, CFG-Zero* moves by (1 + (w − 1)(1 − s))·δ, more than 1.2 once s < 1 − 0.2/(w − 1)."""
    w = 4.0
    v_c, v_u = X - C, X - U
    s = inner(v_c, v_u) / inner(v_u, v_u)
    assert float(s.min()) < 1 - 0.2 / (w - 1)
    small = 1e-6 * perpendicular(v_u, v_c)
    moved = guided(CFGZeroStar(w, 0), cond=C + small, uncond=U + small, sigma=0.5, path=Flow())
    still = guided(CFGZeroStar(w, 0), sigma=0.5, path=Flow())
    assert torch.allclose(moved - still, (1 + (w - 1) * (1 - s)) * small, atol=1e-11)
    assert torch.allclose(
        guided(CFG(w), cond=C + small, uncond=U + small) - guided(CFG(w)), small, atol=1e-11
    )


def perpendicular(*others):
    """A unit direction at right angles to each, for which s stays as it is to first order."""
    x = torch.randn(X.shape, generator=torch.Generator().manual_seed(5), dtype=X.dtype)
    first, second = others
    second = second - first * inner(second, first) / inner(first, first)
    for o in (first, second):
        x = x - o * inner(x, o) / inner(o, o)
    return x / length(x)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 0.999, 1.0])
def test_tcfg_is_the_singular_value_decomposition(sigma):
    """On ε, as the paper; at t = 1 (ε the same for both) our form has the limit that SVD loses."""
    near = min(sigma, 1 - 1e-6)
    alpha = 1 - near
    eps = torch.stack([(X - alpha * d) / near for d in (U, C)], 1).flatten(2)
    v = torch.linalg.svd(eps, full_matrices=False).Vh[:, :1]
    eps_u = ((eps[:, :1] * v).sum(2, keepdim=True) * v).reshape(SHAPE)
    damped = (X - near * eps_u) / alpha
    ours = guided(TCFG(3.0), sigma=sigma, path=Flow())
    assert torch.allclose(ours, damped + 3 * (C - damped), atol=1e-4 if sigma > 0.99 else 1e-9)


def test_frequency_decoupled_is_cfg_band_by_band():
    delta = C - U
    low = low_band(delta, 1)
    expected = U + 8 * (delta - low) + 3 * low
    assert torch.allclose(guided(FrequencyDecoupled(8.0, 3.0)), expected)
    assert torch.equal(guided(FrequencyDecoupled(3.0, 3.0)), guided(CFG(3.0)))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_low_band_is_a_pyramid_s(levels):
    kernel = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 16
    blur = (kernel[:, None] * kernel).expand(4, 1, 5, 5)

    def smooth(a):
        return F.conv2d(F.pad(a, (2, 2, 2, 2), mode="replicate"), blur, groups=4)

    def sized(a, size):
        return F.interpolate(a, size=size, mode="bilinear", align_corners=False)

    sizes, low = [SHAPE[2:]], X
    for _ in range(levels):
        low = sized(smooth(low), [max(n // 2, 1) for n in sizes[-1]])
        sizes.append(low.shape[2:])
    for size in reversed(sizes[:-1]):
        low = smooth(sized(low, size))
    assert torch.allclose(low_band(X, levels), low)
    assert torch.allclose(low_pass(6, levels).sum(1), torch.ones(6, dtype=torch.float64))


# ------------------------------------------------------------------------------------ magnitude rules


def outputs(space, d, sigma):
    """What a VE state's network would say: written out per space."""
    n = math.hypot(1, sigma)
    eps = (X - d) / sigma
    return {"x0": d, "eps": eps, "flow": eps - d, "v": eps / n - sigma / n * d}[space]


@pytest.mark.parametrize("space", ["x0", "eps", "flow", "v"])
def test_rescale_gives_the_output_the_condition_s_deviation(space):
    sigma, phi = 0.7, 0.6
    cfg, ours = guided(CFG(7.0)), guided(CFG(7.0), Rescale(phi, space))
    out, out_c = outputs(space, cfg, sigma), outputs(space, C, sigma)
    std = [o.std((1, 2, 3), keepdim=True) for o in (out, out_c)]
    expected = phi * out * std[1] / std[0] + (1 - phi) * out
    assert torch.allclose(outputs(space, ours, sigma), expected)


def test_eps_says_nothing_at_pure_noise_so_rules_on_it_are_off():
    for rule in (Rescale(0.7, "eps"), MAMBOG(3.0, space="eps")):
        assert guided(rule, sigma=1.0, path=Flow()) is C
    for space in ("v", "flow", "x0"):
        assert torch.isfinite(guided(CFG(7.0), Rescale(0.7, space), sigma=1.0, path=Flow())).all()


@pytest.mark.parametrize("space", ["x0", "eps", "flow", "v"])
def test_mambo_g_weighs_by_the_size_of_the_guidance(space):
    c, u = (outputs(space, d, 0.7) for d in (C, U))
    w = 1 + 5 * torch.exp(-0.5 * length(c - u) / length(u))
    assert torch.allclose(guided(MAMBOG(6.0, 0.5, space)), U + w * (C - U))
    assert torch.allclose(guided(MAMBOG(6.0, 0.0, space)), guided(CFG(6.0)))


def test_dynamic_thresholding_in_pixels_is_imagen_s():
    d, p = 3 * C, 0.9
    s = torch.quantile(d.flatten(1).abs(), p, dim=1).clamp(min=1)[:, None, None, None]
    ours = guided(DynamicThresholding(1.0, p, "pixel"), cond=d)
    assert torch.allclose(ours, d.clamp(-s, s) / s)
    assert ours.abs().max() <= 1
    assert torch.equal(guided(DynamicThresholding(1.0, 1.0, "pixel"), cond=C / 10), C / 10)


def test_dynamic_thresholding_in_latents_keeps_mean_and_the_condition_s_range():
    ours = guided(CFG(9.0), DynamicThresholding(1.0, 1.0))
    cfg = guided(CFG(9.0))
    centre = [a.mean((2, 3), keepdim=True) for a in (cfg, C)]
    assert torch.allclose((ours - centre[0]).abs().amax((2, 3)), (C - centre[1]).abs().amax((2, 3)))
    assert torch.allclose(guided(DynamicThresholding()), C.clamp(C.min(), C.max()), atol=1.0)
    assert torch.allclose(guided(DynamicThresholding(1.0, 1.0)), C)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.995, 1.0])
def test_the_quantile_is_torch_s(q):
    assert torch.allclose(
        quantile(X.flatten(1), q), torch.quantile(X.flatten(1), q, dim=1, keepdim=True)
    )


# ------------------------------------------------------------------------------------ Rectified-CFG++


def test_rectified_cfg_plus_plus_is_the_predictor_and_the_corrector():
    """v̂ = v_c(x, t) + λ(1 − t)^γ·[v_c − v_u](x_m, t_m), x_m on the conditional line from x."""
    lam, gamma, reach, t, end = 3.0, 0.5, 0.5, 0.8, 0.6
    fields = {
        n: Gaussian(Flow(), torch.full(SHAPE[1:], m, dtype=torch.float64), s)
        for n, m, s in ((COND, 1.0, 0.3), (UNCOND, -0.5, 1.0))
    }
    seen = []

    def evaluate(x, sigma, names):
        seen.append((sigma, sorted(names)))
        return {n: fields[n](x, sigma) for n in names}

    def velocity(name, x, t):
        return (x - fields[name](x, t)) / t

    run = Guidance((RectifiedCFGPlusPlus(lam, gamma, reach),)).begin(Flow(), (1.0, t, end, 0.0))
    d = run(X, t, evaluate)
    v_c, t_m = velocity(COND, X, t), t + reach * (end - t)
    x_m = X + (t_m - t) * v_c
    gap = velocity(COND, x_m, t_m) - velocity(UNCOND, x_m, t_m)
    assert torch.allclose((X - d) / t, v_c + lam * (1 - t) ** gamma * gap)
    assert seen == [(t, [COND]), (pytest.approx(t_m), [COND, UNCOND])]
    assert run.report()["network_calls"] == 3


def test_rectified_cfg_plus_plus_starts_at_pure_noise_and_ends_at_the_data():
    run = Guidance((RectifiedCFGPlusPlus(),)).begin(Flow(), (1.0, 0.5, 0.0))
    for sigma in (1.0, 0.5):
        d = run(X, sigma, lambda x, s, names: dict.fromkeys(names, 0.3 * x))
        assert torch.allclose(d, 0.3 * X)


# ----------------------------------------------------------------------------- others that are right


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("diffusers")
    import importlib

    names = ("adaptive_projected", "tangential_classifier_free", "magnitude_aware")
    return [importlib.import_module(f"diffusers.guiders.{n}_guidance") for n in names]


def test_diffusers_agrees_where_it_is_right(peers):
    """Their formula of APG takes w − 1; TCFG works on ε, in float32; MAMBO-G on the velocity."""
    apg, tcfg, mambo = peers
    theirs = apg.normalized_guidance(C, U, 5.0, None, 0.2, 9.0, use_original_formulation=True)
    assert torch.allclose(guided(APG(6.0, 0.2, 9.0, 0.0)), theirs)
    sigma = 0.7
    eps = tcfg.normalized_guidance((X - C) / sigma, (X - U) / sigma, 3.0)
    assert torch.allclose(guided(TCFG(3.0), sigma=sigma), X - sigma * eps, atol=1e-5)
    x, c, u = (a.flatten(2) for a in (X, C, U))  # theirs takes no more than three axes
    v = mambo.mambo_guidance((x - c) / sigma, (x - u) / sigma, 6.0, 0.5)
    ours = guided(MAMBOG(6.0, 0.5), sigma=sigma, path=Flow())
    assert torch.allclose(ours.flatten(2), x - sigma * v)
