"""Numbers and claims that pages state in words, computed anew."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from sampling_kit.embedded import postcards
from sampling_kit.schedulers.denoiser import ImageSet, LocalScore
from sampling_kit.schedulers.path import VE

ROOT = Path(__file__).resolve().parent.parent


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def asymmetry(kind: type, sigma: float) -> float:
    """rms |uᵀJv − vᵀJu| / rms |uᵀJv| over random directions: 0 for the Jacobian of a posterior mean."""
    images = torch.stack([torch.stack([scene(k, i) for i in range(8)]) for k in range(2)])
    model = kind(VE(), images.double())
    noise = torch.randn(1, 3, 24, 24, generator=torch.manual_seed(0), dtype=torch.float64)
    x, pairs = images[0, :1].double() + sigma * noise, []
    for seed in range(12):
        u, v = torch.randn(2, *x.shape, generator=torch.manual_seed(seed), dtype=torch.float64)
        jv, ju = (torch.func.jvp(lambda x: model(x, sigma), (x,), (w,))[1] for w in (v, u))
        pairs.append([float((u * jv).sum()), float((v * ju).sum())])
    a, b = torch.tensor(pairs).unbind(1)
    return float((a - b).square().mean().sqrt() / a.square().mean().sqrt())


def scene(k: int, seed: int) -> torch.Tensor:
    return torch.as_tensor(postcards.scene(k, seed, 24)).movedim(-1, 0).float() / 127.5 - 1


def test_patches_are_no_posterior_mean_and_images_are():
    """The Jacobian of a posterior mean is Cov·α/σ², which is symmetric."""
    assert asymmetry(ImageSet, 1.0) < 1e-10
    assert asymmetry(LocalScore, 1.0) > 0.05


def test_swapped_arguments_of_get_velocity_err_as_the_page_says():
    x0, eps = torch.randn(2, 200_000, generator=torch.manual_seed(0), dtype=torch.float64)
    errors = []
    for angle in (0.0, math.pi / 8, math.pi / 4, math.pi / 2):
        a, s = math.cos(angle), math.sin(angle)
        x, v = a * x0 + s * eps, a * eps - s * x0
        errors.append(float((a * v - s * x - x0).square().mean().sqrt()))
        assert errors[-1] == pytest.approx(math.sqrt(2 + 4 * a * s), abs=0.01)
    stated = re.search(
        r"RMS of √\(2 \+ 4ασ\), ([\d.]+) at either end and ([\d.]+)", page("v-prediction")
    )
    assert [float(x) for x in stated.groups()] == pytest.approx(
        [min(errors), max(errors)], abs=0.01
    )


def test_the_expression_on_flow_with_the_networks_own_v():
    x0, eps = torch.randn(2, 9, generator=torch.manual_seed(0), dtype=torch.float64)
    for t in (0.2, 0.5, 0.9):
        x, v = (1 - t) * x0 + t * eps, eps - x0
        assert torch.allclose((1 - t) * x - t * v, ((1 - t) ** 2 + t) * x0 - t * t * eps)
    assert "((1−t)² + t)·x0 − t²·ε" in page("v-prediction")


def ratios(solver: str) -> dict[str, float]:
    """By column of choosing.md's first table, the error of ``solver`` over the best of that table."""
    table = page("choosing").split("| solver | VE 5 |")[1].split("\n\n")[0].splitlines()
    columns = ["VE 5", *(c.strip() for c in table[0].strip(" |").split("|"))]
    rows = [line.strip("|").split("|") for line in table[2:]]
    errors = {r[0].strip().strip("`"): [float(c) for c in r[1:]] for r in rows}
    best = [min(column) for column in zip(*errors.values(), strict=True)]
    return {c: e / b for c, e, b in zip(columns, errors[solver], best, strict=True)}


def test_what_is_said_of_unipc_is_its_row():
    unipc, adams = ratios("UniPC()"), ratios("GaussianAdams()")
    few = [unipc[c] for c in ("VE 5", "VE 8", "VE 10", "flow λ 10", "guided 10")]
    said = f"errs at most {max(few):.1f} times as much"
    assert said in " ".join(page("choosing").split())
    twenty = [unipc[c] for c in ("VE 20", "guided 20", "return 20")]
    assert "({:.1f} times on VE, {:.1f} guided, {:.1f} on the way back)".format(
        *twenty
    ) in " ".join(page("choosing").split())
    assert all(adams[c] < unipc[c] for c in ("VE 8", "VE 10", "VE 20", "guided 20"))
    assert all(adams[c] > unipc[c] for c in ("VE 5", "flow λ 10", "guided 10"))


def test_who_is_first_with_8_and_10_evaluations():
    ours = (
        "GaussianAdams()",
        "AdamsBashforth()",
        "DEIS()",
        "GaussianAdams(prior=2.0, corrector=0, coordinate='index')",
    )
    adams, bashforth, deis, wide = (ratios(name) for name in ours)
    assert adams["VE 8"] < bashforth["VE 8"] and adams["VE 8"] == 1
    assert bashforth["VE 10"] == 1 and wide["VE 10"] < adams["VE 10"] < deis["VE 10"]


def test_no_direction_of_a_helix_takes_a_whole_turn():
    """Why AMED needs trajectories near a plane: the chord of one turn is parallel to no tangent, however scaled."""
    s = torch.linspace(0, 1, 1001, dtype=torch.float64)
    tangents = torch.stack(
        [
            torch.ones_like(s),
            2 * math.pi * (2 * math.pi * s).cos(),
            -2 * math.pi * (2 * math.pi * s).sin(),
        ]
    )
    cosines = tangents[0] / tangents.norm(dim=0)  # with the chord (1, 0, 0)
    assert float(cosines.max()) < 0.2
    for text in (page("solvers"), (ROOT / "locales/zh/strings.json").read_text(encoding="utf-8")):
        assert "mean value theorem says" not in text
