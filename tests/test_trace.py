"""Traces: what they measure against exact values, what they keep, that they change nothing, and their pictures."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
import torch
from node_calls import folders
from trace_cases import CASES, Gaussian, recorded

from sampling_kit.schedulers.measure.error import doubled, embedded, rms
from sampling_kit.schedulers.measure.recorder import angle
from sampling_kit.schedulers.measure.trace import MEASURES, Trace, View
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.show import film, trace_curves, trace_page
from sampling_kit.schedulers.solver import DDIM, Euler, HeunEDM, Restart, UniPC
from sampling_kit.schedulers.spacing import Karras, Trailing, space

__all__ = ["folders"]  # a fixture


FINE = {"ve": space(EDM(), 40, Karras()), "flow": space(RectifiedFlowSchedule(), 40, Trailing())}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("solver", [DDIM(), HeunEDM(), UniPC()], ids=lambda s: type(s).__name__)
def test_the_local_errors_are_those_of_the_exact_flow(kind, solver):
    """By both estimates; the last step, to 0, is measured by doubling only."""
    points = FINE[kind]
    trace, out, _ = recorded(solver, points, doubling=True)
    exact, path = Gaussian(points.path.host), points.path.host
    sigmas, last = (*trace.sigmas[:-1], 0.0), len(trace) - 1
    states = [*(trace.kept[i].x for i in range(len(trace))), out]
    for i in range(len(trace)):
        p = path.on(sigmas[i + 1])
        true = rms(states[i + 1] - exact.flow(states[i], sigmas[i], sigmas[i + 1])) / math.hypot(
            p.alpha, p.sigma
        )
        found = {
            k: torch.tensor(trace.per_image(k, i)) for k in ("error", "doubling", "uncertainty")
        }
        assert ((found["doubling"] - true).abs() <= 0.7 * found["uncertainty"] + 1e-6).all(), i
        if i < last:
            assert ((found["error"] - true).abs() <= 0.3 * true + 1e-4).all(), i
    assert trace.per_image("error", last) == ()


def test_the_embedded_estimate_gains_orders_with_finer_steps():
    """For one step of DDIM between exact states; its error falls as h², the estimate's own as h⁴ or so."""
    path, exact = VE(), Gaussian(VE())
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    off, size = [], []
    for ratio in (0.7, 0.7**0.5):
        sigmas = [ratio**-1, 1.0, ratio, ratio**2]
        states = [exact.flow(x, 1.0, s) for s in sigmas]
        ds = {i: exact(y, s) for i, (y, s) in enumerate(zip(states, sigmas, strict=True))}
        step = states[1] * ratio + ds[1] * (1 - ratio)
        found = embedded(path, sigmas, 1, states[1], step, ds)
        true = rms(step - states[2]) / math.hypot(1, ratio)
        off.append(abs(float(found - true)))
        size.append(float(true))
    assert math.log2(size[0] / size[1]) == pytest.approx(2, abs=0.3)
    assert math.log2(off[0] / off[1]) > 3.5 and off[1] < 0.01 * size[1]


def test_step_doubling_s_uncertainty_covers_it():
    path, exact = Flow(), Gaussian(Flow())
    x = torch.randn(3, 2, 4, 4)
    end = exact.flow(x, 0.8, 0.5)
    error, uncertainty = doubled(path, exact, x, 0.8, 0.5, end)
    assert (error <= uncertainty).all() and (uncertainty < 0.01).all()


@pytest.mark.parametrize("kind", CASES)
def test_what_a_trace_measures(kind):
    points = CASES[kind]
    trace, out, _ = recorded(HeunEDM(), points)
    path, sigmas, exact = points.path.host, points.sigmas(), Gaussian(points.path.host)
    assert trace.curve("sigma") == pytest.approx(sigmas[:-1])
    assert len(trace) == 12 and trace.nfe == HeunEDM().nfe(12) == 23
    assert trace.curve("nfe") == [2] * 11 + [1]
    assert trace.curve("to_end")[-1] == 0 and torch.equal(trace.end, out)
    before = None
    for i, sigma in enumerate(sigmas[:-1]):
        p, kept = path.on(sigma), trace.kept[i]
        assert torch.equal(kept.d, exact(kept.x, sigma))
        size = math.hypot(p.alpha, p.sigma)
        assert trace.per_image("x", i) == pytest.approx((rms(kept.x) / size).tolist())
        assert trace.per_image("x0", i) == pytest.approx(rms(kept.d).tolist())
        assert trace.per_image("to_end", i) == pytest.approx(rms(kept.d - out).tolist())
        snr = trace.curve("snr")[i]
        assert (
            snr is None
            if p.alpha == 0
            else snr == pytest.approx(math.log10((p.alpha / p.sigma) ** 2))
        )
        towards = (kept.x - kept.d).flatten(1).double()
        if before is not None:
            cosine = torch.cosine_similarity(before, towards).clamp(-1, 1)
            turned = cosine.acos().rad2deg().tolist()
            assert trace.per_image("turn", i) == pytest.approx(turned, abs=1e-2)
        before = towards
    assert trace.per_image("turn", 0) == ()


def test_angles_are_right_where_their_cosine_is_one():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.nn.functional.normalize(torch.tensor([[1.0, 1e-5], [0.0, -1.0]]))
    assert angle(a, b).tolist() == pytest.approx([math.degrees(1e-5), 180.0])


@pytest.mark.parametrize("solver", [Euler(churn=20.0), Restart(), UniPC()], ids=lambda s: s.title)
def test_a_trace_changes_nothing(solver):
    trace, out, plain = recorded(solver, CASES["ve"])
    assert torch.equal(out, plain)
    assert all(v is None or math.isfinite(v) for k in MEASURES for v in trace.curve(k))


@pytest.mark.parametrize("states", [0, 1, 7, 1000])
def test_the_memory_is_kept_to(states):
    """UniPC's states share tensors with their neighbours: two tensors a step while all are kept."""
    one_state = 2 * 2 * 3 * 4 * 4 * 4  # bytes of x and D
    trace, *_ = recorded(UniPC(), CASES["ve"], budget=states * one_state)
    held = {id(t): t.nbytes for s in trace.kept.values() for t in s.tensors()}
    assert sum(held.values()) <= states * one_state
    assert len(trace.kept) == {0: 0, 1: 1, 7: 3, 1000: 12}[states] or states == 1
    assert all(i % trace.every == 0 for i in trace.kept)
    assert len(trace.curve("error")) == len(trace) == 12 and None not in trace.curve("x")
    words = {0: "no state kept", 1000: "every state kept"}
    assert words.get(states, "state") in trace.summary()
    assert ("th state kept" in trace.summary()) == (trace.every > 1)


def test_neighbouring_states_share_their_copies():
    trace, *_ = recorded(UniPC(max_order=3), CASES["ve"])
    tensors = {id(t) for s in trace.kept.values() for t in s.tensors()}
    assert len(tensors) <= 2 * len(trace) + 2


def test_numbers_as_csv_and_json():
    trace, *_ = recorded(DDIM(), CASES["flow"])
    rows = list(csv.DictReader(io.StringIO(trace.csv())))
    assert [int(row["step"]) for row in rows] == list(range(12))
    assert rows[0]["snr"] == "" and float(rows[3]["sigma"]) == trace.steps[3].sigma
    facts = json.loads(json.dumps(trace.facts(), allow_nan=False))
    assert facts["evaluations"] == 12 and len(facts["steps"][2]["x0"]) == 2


# -------------------------------------------------------------------------------------- pictures


def made(d, shapes=(), count=3, **view):
    """A trace of ``count`` steps that kept D = d and ended there."""
    trace, *_ = recorded(DDIM(), CASES["ve"], batch=len(d))
    snapshots = {i: type(trace.kept[0])(d * (i + 1), d) for i in range(count)}
    return Trace(
        "s", VE(), trace.sigmas, 0, trace.steps[:count], d, snapshots, 1, view=View(shapes=shapes, **view)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "shapes", "size"),
    [
        ((2, 3, 6, 8), (), (6, 8)),
        ((2, 1, 6, 8), (), (6, 8)),
        ((2, 16, 6, 8), (), (6, 8)),
        ((2, 4, 5, 6, 8), (), (6, 8)),
        ((2, 4, 32), (), (4, 32)),
        ((2, 1, 4 * 5 * 6 * 8 + 7), ((4, 5, 6, 8), (7,)), (6, 8)),
    ],
    ids=["pixels", "grey", "latent", "video", "sound", "packed"],
)
def test_every_kind_of_latent_becomes_pictures(shape, shapes, size):
    d = torch.randn(shape, generator=torch.manual_seed(0)) * 0.5
    shot = film.film(made(d, shapes), 1, 3)
    assert shot.x0.shape == shot.x.shape == (3, *size, 3)
    assert shot.steps == (0, 2, 3) and shot.captions[-1] == "end"
    assert shot.captions[0].startswith("step 0, κ ")  # σ/α: what SIGMAS holds off flow
    assert shot.x0.min() >= 0 and shot.x0.max() <= 1 and shot.x0.std() > 0.05
    if shape == (2, 3, 6, 8):
        assert torch.allclose(shot.x0[0], (d[1].movedim(0, -1) / 2 + 0.5).clamp(0, 1))


def test_colours_of_the_model_and_a_vae():
    d = torch.rand(1, 4, 2, 2)
    rgb = torch.rand(4, 3) / 4
    shot = film.film(made(d, rgb=rgb, bias=torch.full((3,), -0.2)), 0, 2)
    want = (torch.einsum("chw,cr->hwr", d[0], rgb) - 0.2) / 2 + 0.5
    assert torch.allclose(shot.x0[-1], want)
    seen = []

    def decode(z):
        seen.append(z)
        return torch.full((1, 3, 16, 16, 3), float(z.mean()))

    shot = film.film(made(d, to_latent=lambda x: 3 * x), 0, 2, decode)
    assert shot.x0.shape == (2, 16, 16, 3)
    assert torch.allclose(shot.x0[-1].mean(), 3 * d.mean())


@pytest.mark.parametrize("steps", [0, 1, 3, 5000])
def test_the_payload_is_small_and_finite(steps):
    """Noise, which JPEG cannot make small, and as many steps as there may be."""
    d = torch.randn(1, 3, 200, 300)
    trace = made(d, count=min(steps, 12))
    if steps > 12:
        trace = Trace("s", VE(), trace.sigmas, 0, trace.steps * 500, d, trace.kept, 1)
    told = trace_page.payload(trace, film.film(trace, 0, 64), 0)
    text = json.dumps(told, allow_nan=False)
    assert len(text) <= trace_page.LIMIT
    assert set(told["strips"]) == {"x0", "x"} and told["strips"]["x"]["src"].startswith(
        "data:image/jpeg;base64,"
    )
    assert len(told["frames"]) == len(told["sigmas"]) == told["strips"]["x"]["count"]
    assert all(len(curve) == len(told["index"]) <= 400 for curve in told["curves"].values())
    assert set(told["labels"]) == set(told["curves"])


def test_the_strip_and_the_curves_are_drawn():
    trace = made(torch.rand(2, 3, 8, 8))
    strip, curves = film.strip(film.film(trace, 0, 4)), trace_curves.curves(trace)
    assert (
        strip.ndim == curves.ndim == 4
        and strip.shape[-1] == 3
        and curves.shape == (1, 720, 1080, 3)
    )
    dark = (curves[0].mean(-1) < 0.5).float().mean()
    assert 0.01 < dark < 0.5


def test_no_plot_without_a_step():
    trace = made(torch.rand(1, 3, 8, 8), count=0)
    assert trace_curves.curves(trace).shape == (1, 720, 1080, 3)
    assert film.film(trace, 0, 5).steps == (0,)
