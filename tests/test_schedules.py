"""Paths, noise schedules, points and spacings."""

import math

import contracts
import numpy as np
import pytest
import torch
from product import each
from scipy import special, stats

from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.path import PATHS, VE, VP, Flow, SubVP, coefficients, rescale
from sampling_kit.schedulers.points import LARGEST_KAPPA, Points
from sampling_kit.schedulers.sample import require_latent, sample, skips_one
from sampling_kit.schedulers.solver import Euler, Run
from sampling_kit.schedulers.spacing import space
from sampling_kit.schedulers.spacing.in_time import beta_quantile

KAPPAS = (0.0, 1e-6, 0.01, 0.5, 1.0, 3.0, 80.0, 4500.0)
RELATION = {
    VP: lambda a, s: a * a + s * s - 1,
    VE: lambda a, s: a - 1,
    Flow: lambda a, s: a + s - 1,
    SubVP: lambda a, s: s - (1 - a * a),
}
EVERY_SCHEDULE = [(name, kind()) for name, kind in schedules.ALL.items()]
EVERY_SCHEDULE += [("vp_linear_zero_snr", LinearVP(zero_snr=True))]
by_name = pytest.mark.parametrize(
    ("name", "schedule"), EVERY_SCHEDULE, ids=[n for n, _ in EVERY_SCHEDULE]
)


@each(kappa=KAPPAS, path=[p() for p in PATHS])
def test_a_path_meets_every_ratio_once(path, kappa):
    point = path.at(kappa)
    assert abs(RELATION[type(path)](point.alpha, point.sigma)) < 1e-12
    assert point.kappa == pytest.approx(kappa, rel=1e-12, abs=0)
    assert path.on(point.sigma).alpha == pytest.approx(point.alpha, rel=1e-7)
    assert point.lam == (math.inf if kappa == 0 else pytest.approx(-math.log(kappa), abs=1e-12))


@pytest.mark.parametrize("path", [VP(), SubVP(), Flow()], ids=lambda p: p.name)
def test_pure_noise_is_an_ordinary_point(path):
    point = path.at(math.inf)
    assert (point.alpha, point.sigma, point.kappa, point.lam) == (0, 1, math.inf, -math.inf)
    assert path.on(1.0).alpha == 0


def test_a_variance_exploding_state_cannot_hold_pure_noise():
    with pytest.raises(ValueError, match="pure noise"):
        VE().at(math.inf)


@pytest.mark.parametrize("source", [p() for p in PATHS], ids=lambda p: p.name)
@pytest.mark.parametrize("target", [p() for p in PATHS], ids=lambda p: p.name)
def test_rescaling_moves_both_coefficients_alike(source, target):
    for kappa in KAPPAS[1:]:
        point = source.at(kappa)
        other, c = rescale(point, target)
        assert (c * point.alpha, c * point.sigma) == pytest.approx(
            (other.alpha, other.sigma), rel=1e-10
        )


def test_coefficients_take_floats_and_one_sigma_per_image():
    x = torch.zeros(3, 2, 4, 4)
    assert coefficients(Flow(), 0.25, x) == (0.75, 0.25)
    alpha, sigma = coefficients(Flow(), torch.tensor([0.0, 0.5, 1.0]), x)
    assert alpha.shape == (3, 1, 1, 1)
    assert torch.equal(alpha + sigma, torch.ones(3, 1, 1, 1))


@by_name
def test_time_inverts_kappa(name, schedule):
    inner = schedule.t_max - 1e-3 * (schedule.t_max - schedule.t_min)
    times = np.linspace(schedule.t_min, inner, 301)
    kappas = schedule.kappa(times)
    assert np.all(np.diff(kappas) > 0)
    assert schedule.time(kappas) == pytest.approx(times, abs=1e-9 * schedule.t_max)
    assert float(schedule.time(schedule.kappa_max)) == pytest.approx(schedule.t_max)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schedules.LinearVP(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
        (
            schedules.ScaledLinearVP(),
            dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        ),
        (schedules.CosineVP(), dict(beta_schedule="squaredcos_cap_v2")),
        (schedules.SigmoidVP(), dict(beta_schedule="sigmoid")),
        (
            schedules.ScaledLinearVP(zero_snr=True),
            dict(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                rescale_betas_zero_snr=True,
            ),
        ),
    ],
    ids=["linear", "scaled", "cosine", "sigmoid", "zero_snr"],
)
def test_tables_equal_diffusers(ours, theirs):
    from diffusers import DDPMScheduler

    table = DDPMScheduler(**theirs).alphas_cumprod.double().numpy()
    assert ours.alpha_bar == pytest.approx(table, rel=2e-4, abs=2e-6)  # theirs is float32


def test_zero_terminal_snr_ends_at_pure_noise_and_starts_where_it_did():
    plain, rescaled = LinearVP(), LinearVP(zero_snr=True)
    assert rescaled.kappa_max == math.inf
    assert rescaled.kappa_min == pytest.approx(plain.kappa_min)
    last = rescaled.kappa(np.array([998.0, 998.5, 999.0]))
    assert last[0] < last[1] < last[2] == math.inf


def test_sub_vp_keeps_the_signal_of_vp():
    vp, sub = schedules.ContinuousVP(), schedules.ContinuousSubVP()
    for t in (0.01, 0.3, 1.0):
        a, b = vp.path.at(float(vp.kappa(t))), sub.path.at(float(sub.kappa(t)))
        log_alpha = -0.25 * t * t * (20 - 0.1) - 0.5 * t * 0.1
        assert a.alpha == pytest.approx(b.alpha, rel=1e-9)
        assert a.alpha == pytest.approx(math.exp(log_alpha), rel=1e-9)


@pytest.mark.parametrize("shift", [0.3, 3.0, 12.0])
def test_a_shift_moves_lambda_and_composes(shift):
    t = np.linspace(0.01, 0.99, 50)
    plain, shifted = RectifiedFlowSchedule(), RectifiedFlowSchedule(shift)
    sigma = [shifted.path.at(k).sigma for k in shifted.kappa(t)]
    assert sigma == pytest.approx(shift * t / (1 + (shift - 1) * t))
    assert np.log(shifted.kappa(t)) - np.log(plain.kappa(t)) == pytest.approx(math.log(shift))
    twice = spacings.FlowShift(2.0).levels(shifted, 7)
    assert twice == pytest.approx(spacings.Trailing().levels(RectifiedFlowSchedule(2 * shift), 7))


# ------------------------------------------------------------------------------------------ spacings


#: Lists that a person or a vendor wrote: the one has its own length, the other a path (tests/test_named_levels.py).
WRITTEN = ("explicit", "named")


@each(kind=[k for k in spacings.ALL if k not in WRITTEN], schedule=[s for _, s in EVERY_SCHEDULE])
def test_every_spacing_gives_exactly_n_falling_steps(schedule, kind):
    for n in (*range(1, 13), 50):
        for final in spacings.FINAL:
            points = space(schedule, n, spacings.ALL[kind](), final=final)
            assert len(points) == n + 1
            assert not points.rising
            assert (points.kappas[-1] == 0) == (final == "zero")
            assert all(math.isfinite(k) for k in points.kappas[1:])
            sigmas = torch.tensor(points.sigmas(), dtype=torch.float32)
            assert torch.isfinite(sigmas).all()
            assert (sigmas[1:] < sigmas[:-1]).all()


#: A list of levels in σ does not fit rectified flow's range; λ has no even grid from pure noise.
ONLY_VE = (*WRITTEN, "uniform_lambda")
TRUTHS = [(EDM(0.002, 80.0), kind) for kind in spacings.ALL]
TRUTHS += [(RectifiedFlowSchedule(3.0), kind) for kind in spacings.ALL if kind not in ONLY_VE]


@pytest.mark.some(30)
@pytest.mark.parametrize(
    ("schedule", "kind"), TRUTHS, ids=lambda v: v if isinstance(v, str) else v.path.name
)
@pytest.mark.parametrize("n", [2, 9])
def test_levels_follow_the_spacing_s_formula(schedule, kind, n):
    ours = spacings.ALL[kind]().levels(schedule, n)
    expected = contracts.LEVELS[kind](schedule, n)
    with np.errstate(divide="ignore"):  # 1/κ: rectified flow starts at κ = ∞
        assert 1 / ours == pytest.approx(1 / expected, rel=1e-9, abs=1e-12)


@each(n=[1, 2, 3, 7, 20, 50, 333, 1000], kind=["leading", "trailing", "linspace"])
def test_timesteps_equal_diffusers(kind, n):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing=kind)
    scheduler.set_timesteps(n)
    schedule = LinearVP()
    levels = spacings.ALL[kind]().levels(schedule, n)
    assert np.round(schedule.time(levels), 6).tolist() == scheduler.timesteps.tolist() or n == 1
    if (
        n == 1
    ):  # numpy's linspace and arange disagree on a single step; ours starts at the noisy end
        assert schedule.time(levels)[0] == (0 if kind == "leading" else 999)


def test_karras_is_equation_5():
    n, low, high, rho = 9, 0.002, 80.0, 7.0
    ours = spacings.Karras(rho).levels(EDM(low, high), n)
    ramp = np.arange(n) / (n - 1)
    assert ours == pytest.approx(
        (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    )
    assert (ours[0], ours[-1]) == (high, low)


def test_flow_steps_equal_the_reference_sigmas():
    ours = space(RectifiedFlowSchedule(3.0), 4, spacings.Trailing()).sigmas()
    t = np.array([1, 0.75, 0.5, 0.25, 0])
    assert ours == pytest.approx(3 * t / (1 + 2 * t))


@pytest.mark.parametrize(
    ("a", "b"), [(0.6, 0.6), (0.5, 2.0), (3.0, 0.7), (20.0, 5.0), (1.0, 1.0), (0.05, 50.0)]
)
def test_beta_quantiles_equal_scipy(a, b):
    p = np.linspace(0, 1, 41)
    assert beta_quantile(p, a, b) == pytest.approx(stats.beta.ppf(p, a, b), abs=1e-9)


LOW, HIGH = 0.002, 80.0


def levels_in_sigma(schedule, spacing, n=9):
    """The σ of SIGMAS, without the end at 0."""
    return space(schedule, n, spacing).sigmas()[:-1]


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0, 3.0])
def test_polyexponential_is_k_diffusion_s(rho):
    """k_diffusion.sampling.get_sigmas_polyexponential: exp(ramp·(log σ_max − log σ_min) + log σ_min)."""
    ramp = np.linspace(1, 0, 9) ** rho
    expected = np.exp(ramp * (np.log(HIGH) - np.log(LOW)) + np.log(LOW))
    ours = levels_in_sigma(EDM(LOW, HIGH), spacings.Polyexponential(rho))
    assert ours == pytest.approx(expected, rel=1e-9)


@by_name
def test_quadratic_is_even_in_the_root_of_time(name, schedule):
    """DPM-Solver's ``time_quadratic``: t = linspace(√t_T, √t_0, n)²."""
    if schedule.kappa_max == math.inf and schedule.discrete:
        pytest.skip("time says nothing at pure noise")
    times = schedule.time(spacings.Quadratic().levels(schedule, 9))
    expected = np.linspace(schedule.t_max**0.5, schedule.t_min**0.5, 9) ** 2
    assert times == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 2.0), (3.0, 0.7)])
@pytest.mark.parametrize("schedule", [LinearVP(), RectifiedFlowSchedule()], ids=["VP", "flow"])
def test_beta_starts_at_the_top_and_takes_the_quantiles_of_i_over_n(schedule, a, b):
    """Lee et al. 2024: t = T·F⁻¹(1 − i/n), i = 0 … n − 1, as ComfyUI's beta_scheduler, which rounds t."""
    n = 9
    times = schedule.time(spacings.Beta(a, b).levels(schedule, n))
    share = special.betaincinv(a, b, 1 - np.arange(n) / n)
    expected = schedule.t_min + (schedule.t_max - schedule.t_min) * share
    assert times == pytest.approx(expected, abs=1e-6 * schedule.t_max)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_ends_at_the_last_of_a_thousand_timesteps(shift):
    """SD3's table is t = 1/1000, 2/1000 … 1, shifted; so diffusers'."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = RectifiedFlowSchedule(shift)
    assert schedule.t_min == 1 / 1000
    smallest = space(schedule, 4, spacings.Karras(), final="sigma_min").sigmas()[-1]
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift).sigma_min
    assert smallest == pytest.approx(shift / 1000 / (1 + (shift - 1) / 1000), rel=1e-12)
    assert smallest == pytest.approx(theirs, rel=1e-5)  # float32


def test_denoise_keeps_the_number_of_steps_and_the_tail():
    whole = space(EDM(), 20, spacings.Karras())
    part = space(EDM(), 10, spacings.Karras(), denoise=0.5)
    assert part.kappas == whole.kappas[-11:]


def test_an_explicit_list_is_taken_as_it_is():
    spacing = spacings.Explicit("1, 0.75 0.5,0.25, 0", "sigma")
    assert space(RectifiedFlowSchedule(), 99, spacing).sigmas() == pytest.approx(
        [1, 0.75, 0.5, 0.25, 0]
    )
    by_time = spacings.Explicit("999 500 1", "timestep")
    assert space(LinearVP(), 1, by_time).kappas[:-1] == pytest.approx(
        LinearVP().kappa([999, 500, 1])
    )
    by_lambda = spacings.Explicit("-2 0 2", "lambda")
    assert space(LinearVP(), 1, by_lambda).kappas == pytest.approx((math.e**2, 1, math.e**-2, 0))


@pytest.mark.parametrize(
    "text",
    [
        "14.6; 3; 0.5",
        "[14.6, 3, 0.5, 0]",
        "tensor([14.6000,  3.0000,\n         0.5000,  0.0000], device='cuda:0', dtype=torch.float32)",
        "14.6\n3\n0.5\n",
    ],
)
def test_lists_are_taken_as_people_paste_them(text):
    assert space(EDM(), 1, spacings.Explicit(text)).kappas == (14.6, 3, 0.5, 0)


def test_timesteps_on_flow_are_the_schedule_s_or_thousandths_of_sigma():
    """ComfyUI and diffusers print 1000·σ, the shift included."""
    schedule = RectifiedFlowSchedule(shift=3.0)
    by_thousand = spacings.Explicit("1000, 750, 500, 250, 0", "timestep")
    assert space(schedule, 1, by_thousand).sigmas() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    unit = spacings.Explicit("1, 0.5", "timestep")
    assert space(schedule, 1, unit).sigmas() == pytest.approx([1, 0.75, 0])
    zero = space(LinearVP(), 1, spacings.Explicit("999, 0", "timestep"), final="sigma_min")
    assert zero.kappas[-1] == pytest.approx(LinearVP().kappa_min)  # timestep 0 is a level on VP


@pytest.mark.parametrize(("denoise", "kept"), [(1.0, 4), (0.5, 2), (0.75, 3), (0.01, 1)])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_denoise_acts_on_an_explicit_list(denoise, kept, steps):
    points = space(EDM(), steps, spacings.Explicit("8, 4, 2, 1"), denoise=denoise)
    assert points.kappas == (8, 4, 2, 1, 0)[4 - kept :]


@pytest.mark.parametrize("steps", [1, 4, 8, 20, 49, 50, 99, 100, 400])
def test_the_denoise_that_is_advised_leaves_out_the_first_level(steps):
    value = skips_one(steps)
    part = space(RectifiedFlowSchedule(), steps, spacings.Trailing(), denoise=value)
    assert len(part) == steps + 1 and part.sigmas()[0] < 1
    assert f"{value:.3g}" == str(round(value, 3)) and steps / (steps + 1) - value < 0.011


def test_a_run_that_ends_at_pure_noise_on_flow_is_refused():
    require_latent(Flow(), [1.0, 0.5])
    require_latent(VP(), [0.1, 80.0])
    with pytest.raises(ValueError, match="one level, σ = 1"):
        require_latent(Flow(), [1.0])
    with pytest.raises(ValueError, match=r"denoise = 0.8 "):
        require_latent(Flow(), [0.1, 0.3, 0.5, 0.7, 1.0])


@pytest.mark.parametrize("path", [VP(), Flow()])
@pytest.mark.parametrize("levels", [[math.nan], [0.5, math.nan]])
def test_a_level_that_is_no_number_is_refused_however_few_there_are(path, levels):
    x = torch.zeros(1, 2)

    def run(sigmas):
        require_latent(path, sigmas)
        return sample(Euler(), path, Run(lambda x, sigma: x), x, sigmas)

    with pytest.raises(ValueError, match="SIGMAS holds nan"):
        run(levels)
    assert run([0.5]) is x


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: space(EDM(), 0, spacings.Karras()), "at least 1 step"),
        (lambda: space(EDM(), 5, spacings.Karras(), denoise=0), "denoise = 0"),
        (lambda: space(EDM(), 5, spacings.Karras(), final="nowhere"), "final = 'nowhere'"),
        (lambda: space(LinearVP(), 1001, spacings.Trailing()), "1000"),
        (lambda: space(LinearVP(), 1001, spacings.Leading()), "1000 timesteps"),
        (lambda: space(EDM(), 5, spacings.Explicit("1, x, 0")), "'x'"),
        (lambda: space(EDM(), 5, spacings.Explicit("1, nan, 0")), "'nan'"),
        (lambda: space(EDM(), 5, spacings.Explicit(" ")), "empty"),
        (
            lambda: space(EDM(), 5, spacings.Explicit("3, 1, 2, 0")),
            "1 and 2 of the list are 1 and 2",
        ),
        (
            lambda: space(EDM(), 5, spacings.Explicit("3, 3, 0")),
            r"0 and 1 of the list are 3 and 3 \(sigma\)",
        ),
        (
            lambda: space(LinearVP(), 5, spacings.Explicit("500, 500", "timestep")),
            r"500 and 500 \(timestep\)",
        ),
        (lambda: space(RectifiedFlowSchedule(), 5, spacings.Explicit("0.9, 0.9")), "0.9 and 0.9"),
        (lambda: Points.from_sigmas(Flow(), [0.9, 0.9]), "σ = 0.9 and 0.9"),
        (
            lambda: space(RectifiedFlowSchedule(), 5, spacings.Explicit("1200, 3", "timestep")),
            "timestep 1200",
        ),
        (
            lambda: Points.from_sigmas(Flow(), [14.614643096923828, 1.0]),
            "holds 14.6146: .*another model",
        ),
        (lambda: spacings.Karras(rho=-1), r"Karras: rho = -1"),
        (lambda: spacings.Karras(rho=math.nan), "finite"),
        (lambda: LinearVP(timesteps=2.5), "whole number"),
        (lambda: LinearVP(zero_snr=1), "true or false"),
        (lambda: EDM(2.0, 1.0), "sigma_min"),
        (lambda: spacings.Explicit("1", "furlong"), "choose one of sigma"),
        (lambda: Points.from_sigmas(VE(), [1.0, math.nan]), "nan"),
        (lambda: Points.from_sigmas(VE(), [math.inf, 1.0]), "inf"),
        (lambda: Points.from_sigmas(VE(), [1.0, -1.0]), "-1.0"),
        (lambda: Points(VE(), (3.0, 1.0, 2.0)), "strictly"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pure_noise_in_sigmas_is_the_finite_value_comfyui_uses():
    points = space(schedules.ScaledLinearVP(zero_snr=True), 10, spacings.Trailing())
    assert points.kappas[0] == math.inf
    assert points.sigmas()[0] == pytest.approx(LARGEST_KAPPA) == pytest.approx(4518.76, abs=0.01)
