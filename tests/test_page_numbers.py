"""Numbers and claims that pages state in words, computed anew."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sampling_kit.benchmarks import embedded
from sampling_kit.embedded import postcards, trained
from sampling_kit.headless.shipped import needs_comfyui
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


# ------------------------------------------------------------------- measurements that are stored


def stored() -> dict:
    return json.loads((ROOT / "embedded/solvers/comparison.json").read_text(encoding="utf-8"))


def rows_of(name: str, heading: str) -> list[list[str]]:
    """The cells of the table of a page that begins with ``heading``."""
    table = page(name).split(heading)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table[2:]]


def pair(errors: dict) -> str:
    return f"{errors['rmse']:.4f} ({errors['median']:.4f})".replace("0.", ".")


def test_the_fits_rivals_and_ratios_are_those_that_were_measured():
    """docs/fit.md: the best training-free pair, and the ratio of each fit to it."""
    names = {"none": "cond", "CFG 2": "cfg2"}
    rows = rows_of("fit", "| guidance | NFE | best training-free | fitted | ratio |")
    assert len(rows) == 10
    for guidance, nfe, best, *fits in rows:
        first = stored()["pairs"][names[guidance]][nfe][0]
        assert pair(first) == best, (guidance, nfe)
        for cell, ratio in (fits[0:2], fits[2:4]):
            values, shares = (
                [float(x) for x in re.findall(r"[\d.]+", text)] for text in (cell, ratio)
            )
            free = [
                first["rmse"],
                min(p["median"] for p in stored()["pairs"][names[guidance]][nfe]),
            ]
            assert shares == pytest.approx(
                [v / f for v, f in zip(values, free, strict=True)], abs=0.006
            )


def test_the_fits_elsewhere_are_those_that_were_measured():
    facts = stored()["generalisation"]
    rows = rows_of("fit", "| where | fit | fit to all classes | best training-free |")
    measured = [[row["fit"], row["training_free"]] for row in facts["guidance"]]
    measured += [[c["fit"], c["fit_to_all"], c["training_free"]] for c in facts["classes"].values()]
    assert [[cell for cell in row[1:] if cell] for row in rows] == [
        [*map(pair, m)] for m in measured
    ]


def test_the_frechet_distances_are_those_that_were_measured():
    names = {"none": "cond", "CFG 2": "cfg2"}
    facts = {(f["guidance"], str(f["nfe"])): f for f in stored()["frechet"]}
    for guidance, nfe, *cells in rows_of("fit", "| guidance | NFE | fitted | within its budget |"):
        fact = facts[names[guidance], nfe]
        assert cells == [
            f"{fact[k]:.3f}".replace("0.", ".") if fact[k] < 1 else f"{fact[k]:.3f}"
            for k in ("best", "forward", "training_free")
        ]
    exact = [f"{facts[g, 'exact']['frechet']:.3f}".lstrip("0") for g in ("cond", "cfg2")]
    assert f"(the exact end points: {exact[0]}, with CFG 2 {exact[1]})" in page("fit")


def test_the_model_card_is_what_the_weights_say():
    """docs/embedded.md against the headers of the files; sizes are the files'."""
    names = ("network", "network-small", "classifier")
    rows = {
        row[0]: row[1:] for row in rows_of("embedded", "| | network | network-small | classifier |")
    }
    for k, name in enumerate(names):
        file = trained.file(name)
        with safe_open(file, "pt") as opened:
            card = json.loads(opened.metadata()["sampling_kit_network"])["card"]
            count = sum(opened.get_tensor(key).numel() for key in opened.keys())  # noqa: SIM118
        assert int(rows["parameters"][k].replace(",", "")) == count
        assert rows["file"][k] == f"{file.stat().st_size / 1e6:.2f} MB"
        assert int(rows["steps"][k]) == card["steps"] and int(rows["images"][k]) == card["images"]
        assert float(rows["minutes"][k]) == pytest.approx(card["minutes"], abs=0.05)


def test_what_the_readme_measures_stands_in_the_page_it_names():
    """Each number of the table "What you get" is in the page that its row leads to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("| what you get | measured | where |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 6
    for line in table:
        _, measured, where = (cell.strip() for cell in line.strip("| ").split(" | "))
        target = re.search(r"\]\(([^)#]+)", where)
        assert target, line
        text = (ROOT / target[1]).read_text(encoding="utf-8")
        numbers = re.findall(r"(?<![\w.])\.?\d[\d.]*(?<!\.)", measured)
        assert numbers, line
        for number in numbers:
            assert re.search(
                rf"(?<![\d.]){re.escape(number.lstrip('0') or '0')}(?!\d)|(?<![\d.]){re.escape(number)}(?!\d)",
                text,
            ), (number, target[1])


def test_as_many_templates_need_a_checkpoint_as_are_said():
    words = {12: "twelve", 13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen"}
    stems = [path.stem for path in (ROOT / "example_workflows").glob("*.json")]
    count = sum(needs_comfyui(stem) for stem in stems)
    assert f"{words.get(count, count)} templates for checkpoints" in page("promises")


@pytest.mark.parametrize(
    ("row", "sigma"), [("network-small, loss", 1.0), ("classifier, accuracy", 5.0)]
)
def test_a_sample_of_what_the_networks_reach(row: str, sigma: float):
    """docs/embedded.md's table by noise level."""
    levels = next(line for line in page("embedded").splitlines() if line.startswith("| σ | 0.05"))
    column = [cell.strip() for cell in levels.strip("| ").split("|")].index(f"{sigma:g}")
    cells = next(line for line in page("embedded").splitlines() if line.startswith(f"| {row} "))
    value = float(cells.strip("| ").split("|")[column])
    assert embedded.held_out(row.split(",")[0])[1](sigma) == pytest.approx(value, abs=0.006)


def test_the_best_pairs_on_the_network_are_those_that_were_measured():
    """docs/choosing.md: RMSE of the best pair without guidance and with CFG 2."""
    rows = rows_of("choosing", "| evaluations | without guidance | | CFG 2 | |")
    assert len(rows) == 5
    for nfe, _, plain, _, guided in rows:
        best = [stored()["pairs"][g][nfe][0]["rmse"] for g in ("cond", "cfg2")]
        assert [plain, guided] == [f"{b:.3f}".lstrip("0") for b in best], nfe


def kept() -> list[list[str]]:
    table = page("promises").split("| page | generated by | tests |")[1].strip().splitlines()[1:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]


def test_every_page_with_numbers_says_what_holds_them():
    rows = kept()
    named = {name for row in rows for name in re.findall(r"[\w-]+\.md", row[0])}
    for path in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        if path.stem != "promises" and re.search(r"(?<![\w.\-/])\d*\.\d+(?!\w)", text):
            assert path.name in named, path.name


def test_what_holds_the_numbers_exists():
    for row in kept():
        for module in re.findall(r"`sampling_kit\.([\w.]+)`", " ".join(row)):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
        for test in re.findall(r"[\w/]+\.py", row[-1]):
            assert (ROOT / "tests" / test).is_file(), test
        assert any(re.search(r"\w", cell) for cell in row[1:]), row
