"""Solvers from text: read, proved, measured, refused with the entry at fault, and written again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from node_calls import folders, node, returned
from product import each

from sampling_kit.headless.cli import main
from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.fit import fit_files
from sampling_kit.schedulers.measure.solver_proof import kept, report, slopes
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, DDPM, Adaptive, HeunEDM, Run, RungeKutta, UniPC
from sampling_kit.schedulers.solver import solver_text as texts
from sampling_kit.schedulers.solver.fitted import FittedSolver
from sampling_kit.schedulers.solver.order_conditions import order_of, stable_to, trees
from sampling_kit.schedulers.solver.runge_kutta import TABLEAUX
from sampling_kit.schedulers.solver.tableau_solver import VARIABLES, TableauSolver
from sampling_kit.schedulers.spacing import Karras, Trailing, space

__all__ = ["folders"]  # a fixture
SHIPPED = Path(__file__).resolve().parent.parent / "embedded" / "solvers"
PATHS = (VP(), VE(), Flow())
SCHEDULES = {"VP": LinearVP(), "VE": EDM(), "flow": RectifiedFlowSchedule()}

#: As textbooks write them: (what, order, largest x of the stable [-x, 0], our name or None).
CLASSICAL = {
    "Heun": ({"c": [0, 1], "a": [[], [1]], "b": ["1/2", "1/2"]}, 2, 2.0, "heun"),
    "Kutta 3": (
        {"c": [0, "1/2", 1], "a": [[], ["1/2"], [-1, 2]], "b": ["1/6", "2/3", "1/6"]}, 3, 2.5127, None,
    ),
    "Bogacki-Shampine": (
        {"c": [0, "1/2", "3/4", 1], "a": [[], ["1/2"], [0, "3/4"], ["2/9", "1/3", "4/9"]],
         "b": ["2/9", "1/3", "4/9", 0], "b2": ["7/24", "1/4", "1/3", "1/8"]}, 3, 2.5127, "bogacki_shampine",
    ),
    "RK4": (
        {"c": [0, 0.5, 0.5, 1], "a": [[], [0.5], [0, 0.5], [0, 0, 1]], "b": ["1/6", "1/3", "1/3", "1/6"]}, 4, 2.7853, "rk4",
    ),
    "Kutta-Nystroem 5": (
        {"c": [0, "1/3", "2/5", 1, "2/3", "4/5"],
         "a": [[], ["1/3"], ["4/25", "6/25"], ["1/4", -3, "15/4"], ["2/27", "10/9", "-50/81", "8/81"],
               ["2/25", "12/25", "2/15", "8/75", 0]],
         "b": ["23/192", 0, "125/192", 0, "-27/64", "125/192"]}, 5, 3.2170, None,
    ),
    "Dormand-Prince": (
        {"c": list(TABLEAUX["dormand_prince"].c), "a": [list(r) for r in TABLEAUX["dormand_prince"].a],
         "b": list(TABLEAUX["dormand_prince"].b)}, 5, 3.3066, "dormand_prince",
    ),
}  # fmt: skip


def tableau(name="Kutta 3", **more):
    return json.dumps({"tableau": CLASSICAL[name][0] | more})


def fits():
    files = sorted(SHIPPED.glob("*.safetensors"))
    return [fit for file in files for fit in fit_files.load(file).fits]


def test_rooted_trees_are_counted_as_by_cayley():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", CLASSICAL)
def test_the_textbooks_order_and_stability_are_proved(name):
    _, order, stable, _ = CLASSICAL[name]
    solver = texts.read(tableau(name, order=order))
    assert solver.order == texts.read(tableau(name)).order == order
    assert stable_to(solver.tableau.a, solver.tableau.b) == pytest.approx(stable, abs=1e-3)
    with pytest.raises(ValueError, match=rf"tableau.order = {order + 1}, but Σ b·.* must be 1/"):
        texts.read(tableau(name, order=order + 1))


@each(name=[n for n, row in CLASSICAL.items() if row[3]], variable=VARIABLES[:2], path=PATHS)
def test_a_tableau_that_the_kit_has_gives_its_plan(name, variable, path):
    """Of Bogacki–Shampine's four stages the last has no weight: the same states, one evaluation more."""
    ours = RungeKutta(CLASSICAL[name][3], variable)
    points = Points(path, (5.0, 1.3, 0.4, 0.1))
    solver = texts.read(tableau(name, variable=variable))
    if name != "Bogacki-Shampine":
        assert solver.plan(points).stages == ours.plan(points).stages
    d = Gaussian(path.host, torch.tensor([0.3]).double(), torch.tensor([0.8]).double())
    x = torch.full((2, 1), 1.5).double()
    ends = [s.solve(points, Run(d), x) for s in (solver, ours)]
    assert torch.allclose(*ends, rtol=1e-13, atol=0)


@each(by=lambda name: name, name=list(CLASSICAL), variable=VARIABLES)
def test_the_order_is_measured_on_vp_ve_and_flow(name, variable):
    """On these linear data a method may do better than its order, never worse."""
    order = CLASSICAL[name][1]
    for slope in slopes(texts.read(tableau(name, variable=variable))):
        assert order - 0.35 < slope.order < order + 1.8, slope
        if name in ("Heun", "Kutta 3"):
            assert slope.order == pytest.approx(order, abs=0.3), slope


def test_the_exponential_form_is_ddim_for_euler_and_exact_for_constant_d():
    euler = texts.read('{"tableau": {"c": [0], "a": [[]], "b": [1], "variable": "exponential"}}')
    for schedule in SCHEDULES.values():
        points = space(schedule, 4, Trailing())
        for mine, theirs in zip(euler.plan(points).stages, DDIM().plan(points).stages, strict=True):
            assert (*mine.x, *mine.d) == pytest.approx((*theirs.x, *theirs.d), abs=1e-12)
    points = Points(Flow(), (math.inf, 1.0, 0.2))  # from pure noise
    rk4 = texts.read(tableau("RK4", variable="exponential"))
    x0, eps = torch.tensor([[0.7]]).double(), torch.tensor([[-1.2]]).double()
    end = rk4.solve(points, Run(lambda x, s: x0.expand_as(x)), eps)
    q = points[2]
    assert torch.allclose(end, q.alpha * x0 + q.sigma * eps, rtol=1e-12)


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_embedded_pair_steps_by_its_tolerance(variable):
    """As the kit's own pair on σ; all reach the Gaussian's end within the tolerance."""
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    solver = texts.read(tableau("Bogacki-Shampine", variable=variable, adaptive=tolerance))
    d = Gaussian(VE(), torch.tensor([0.3]).double(), torch.tensor([0.8]).double())
    points, x = Points(VE(), (20.0, 0.05)), torch.full((1, 1), 15.0).double()
    found = solver.integrate(points, Run(d), x)
    exact = 0.3 + (x - 0.3) * math.hypot(0.8, 0.05) / math.hypot(0.8, 20.0)
    assert abs(float(found.x - exact)) < 2e-4
    if variable == "sigma":
        own = Adaptive("bosh3", **tolerance).integrate(points, Run(d), x)
        assert own.nfe == found.nfe and torch.allclose(own.x, found.x, rtol=1e-12)
    assert "steps: by the pair, rtol 1e-05" in report(solver)


WRONG = {
    "empty": ("", "the text is empty"),
    "no JSON": ('{"tableau": {"c": [0,]}}', "no JSON at line 1, column"),
    "another kind": ('{"table": {}}', "the text holds 'table': write one of tableau, plan, fit"),
    "too long": (" " * 2**20 + "{}", "characters; at most 1048576"),
    "NaN": ('{"tableau": {"c": [0], "a": [[]], "b": [NaN]}}', "NaN is not a JSON number"),
    "a key": (tableau(d=[1]), "tableau: 'd' is no key"),
    "no b": ('{"tableau": {"c": [0], "a": [[]]}}', "'b' is missing"),
    "a row": (tableau(a=[[], ["1/2"], [-1, 1.9]]), r"tableau.a\[2\] sums to 0.9 and c\[2\] is 1"),
    "implicit": (tableau(a=[[], [0.25, 0.25], [-1, 2]]), r"tableau.a\[1\]\[1\] = 0.25 lies on or above the diagonal"),
    "b": (tableau(b=["1/6", "2/3", "1/5"]), "tableau.b sums to 1.0333"),
    "b's length": (tableau(b=[1]), "tableau.b has 1 entries for 3 stages"),
    "b2": (tableau(b2=[1, 1, 0]), "tableau.b2 sums to 2"),
    "b2 is b": (tableau(b2=["1/6", "2/3", "1/6"]), "tableau.b2 is b itself"),
    "no b2": (tableau(adaptive={}), "tableau.adaptive needs b2"),
    "tolerance": (tableau(b2=[1, 0, 0], adaptive={"rtol": 7}), "rtol = 7.0: must lie between"),
    "a number": (tableau(b=["1/6", "2/3", "1/0"]), r"tableau.b\[2\] = '1/0': write a finite number"),
    "code": (tableau(b=["__import__('os')", 0, 1]), r"tableau.b\[0\] = .*write a finite number"),
    "outside": (tableau(c=[0, 1.5, 1]), r"tableau.c\[1\] = 1.5: stages lie within the step"),
    "many stages": (tableau(c=[0] * 33), "tableau.c has 33 entries; write 1 to 32"),
    "variable": (tableau(variable="t"), "tableau.variable = 't': choose one of sigma, lambda, exponential"),
    "fit's rows": ('{"fit": {"start": 80, "levels": [1, 0.1], "x": [1, 1, 1], "d": [[1], [1, 0, 1]]}}', r"fit.d\[1\] has 3 entries"),
    "fit's levels": ('{"fit": {"start": 1, "levels": [2, 3], "x": [1, 1, 1], "d": [[1], [1]]}}', "fit: noise levels"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_text_is_refused_with_the_entry_at_fault(case):
    text, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        texts.read(text)
    said = registry_answer(text)
    assert isinstance(said, str) and said.startswith("text: ")


def registry_answer(text):
    from node_calls import NODES

    return NODES["SamplingKitSolverFromText"].validate_inputs(text=text)


HEUN_ROWS = [
    {"sigma": 80}, {"sigma": 5, "x": [0.0625], "d": [0.9375], "commit": False},
    {"sigma": 5, "x": [0.0625], "d": [7.5, -6.5625]}, {"sigma": 0, "x": [0], "d": [1]},
]  # fmt: skip


def plan(row=0, **more):
    rows = [r | (more if i == row else {}) for i, r in enumerate(HEUN_ROWS)]
    return json.dumps({"plan": {"name": "Heun", "path": "VE", "rows": rows}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (plan(2, d=[7.6, -6.5625]), r"plan.rows\[2\] carries 1.1 of the data and must carry α = 1"),
        (plan(1, d=[0.5, 0.4375]), r"plan.rows\[1\].d has 2 weights, but 1 predictions are there"),
        (plan(2, sigma=90, d=[0.9375, 0]), "noise levels"),
        (plan(3, evaluate=True), r"plan.rows\[3\].evaluate = true at level 0"),
        (plan(3, sigma=1), r"plan.rows\[3\] is the result, so D is not asked there"),
        (plan(1, step=2), r"plan.rows\[1\].step = 2"),
        (plan(0, sigma="inf"), r"plan.rows\[0\].sigma = 'inf': levels on VE"),
        ('{"plan": {"rows": [{"sigma": 1}]}}', "plan.rows has 1 entries"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_refused_with_its_row(text, words):
    with pytest.raises(ValueError, match=words):
        texts.read(text)


def test_a_plan_typed_by_hand_is_heun():
    solver = texts.read(plan())
    points = solver.points(VE())
    assert points.kappas == (80, 5, 0) and solver.nfe(2) == 3
    d = Gaussian(VE(), torch.zeros(2).double(), torch.full((2,), 0.8).double())
    x = torch.full((3, 2), 60.0).double()
    ends = [s.solve(points, Run(d), x) for s in (solver, HeunEDM())]
    assert torch.allclose(*ends, rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"own noise levels .* connect the SIGMAS that come with it"
    ):
        solver.plan(Points(VE(), (80, 4, 0)))


@each(solver=[HeunEDM(), UniPC(3), DDPM(), HeunEDM(20.0)], schedule=list(SCHEDULES.values()))
def test_every_plan_comes_back_from_its_text(solver, schedule):
    points = space(schedule, 5, Trailing())
    if isinstance(solver, HeunEDM) and math.isinf(points.kappas[0]) and schedule.path != Flow():
        points = space(schedule, 5, Karras())
    there = solver.plan(points)
    again = texts.read(texts.plan_text(there, points, "x")).written()
    assert (again.path, again.nfe, len(again.stages)) == (there.path, there.nfe, len(there.stages))
    for a, b in zip(again.stages, there.stages, strict=True):
        assert (*a.x, *a.d, a.noise, a.commit, a.evaluate, a.step) == (
            *b.x,
            *b.d,
            b.noise,
            b.commit,
            b.evaluate,
            b.step,
        )
        assert (a.at.alpha, a.at.sigma) == pytest.approx((b.at.alpha, b.at.sigma), rel=1e-12)


def test_a_fit_comes_back_from_its_text_bit_for_bit():
    """Those that ship: with and without bands, and one from pure noise."""
    shipped = fits()
    noisy = replace(
        shipped[0].table, start=math.inf, levels=(math.inf, *shipped[0].table.levels[1:])
    )
    assert any(any(fit.table.mix) for fit in shipped)
    for fit in (*shipped, FittedSolver(noisy)):
        again = texts.read(texts.fit_text(fit))
        assert again.table.digest == fit.table.digest
        assert again.card == {k: v for k, v in fit.card.items() if k != "family"}


def test_what_a_table_of_fixed_levels_keeps_is_measured():
    """DDPM with the small variance keeps a point mass; a fit errs less than DDIM at its levels."""
    points = space(EDM(), 8, Karras())
    solver = texts.read(texts.plan_text(DDPM().plan(points), points))
    exact = kept(DDPM(), points)
    assert kept(solver, points).shares == pytest.approx(exact.shares, abs=1e-9)
    assert "every row has its σ" in report(solver)
    fit = max((f for f in fits() if not any(f.table.mix)), key=lambda f: f.table.nfe)
    here = kept(fit, fit.points(VE()))
    assert here.unit < kept(DDIM(), fit.points(VE())).unit / 3
    assert "order: none: its levels are fixed" in report(fit)


def test_the_node_gives_sampler_report_and_what_the_text_has():
    _, sigmas, said, fit = node("SolverFromText", text=tableau())
    assert (
        type(sigmas).__name__ == type(fit).__name__ == "Blocked" and "SIGMAS of Steps" in sigmas.why
    )
    assert "order: 3 proved" in said and "stable on: [-2.513, 0]" in said and "slope" in said
    one = fits()[0]
    text = node("SolverToText", fit=one)[0]
    _, sigmas, said, fit = node("SolverFromText", text=text)
    assert fit == one and sigmas.tolist() == pytest.approx(one.points(VE()).sigmas())
    schedule = EDM()
    levels = torch.tensor(space(schedule, 4, Karras()).sigmas())
    text = node("SolverToText", sampler=node("UniPC")[0], sigmas=levels, noise_schedule=schedule)[0]
    shown = returned("SolverFromText", text=text)
    assert torch.equal(shown.result[1], levels) and shown.ui["text"] == [shown.result[2]]
    with pytest.raises(ValueError, match="sigmas: UniPC is written as the plan of a run"):
        node("SolverToText", sampler=node("UniPC")[0])


def tiny(sigmas):
    """A run of a small Gaussian in 3 steps, whose SIGMAS come from that output."""
    nodes = {
        "schedule": ("SamplingKitNoiseSchedule", {"kind": "rectified_flow"}),
        "levels": ("SamplingKitSteps", {"noise_schedule": ["schedule", 0], "steps": 3, "spacing": "trailing", "denoise": 1.0, "final": "zero"}),
        "model": ("SamplingKitEmbeddedDenoiser", {"kind": "gaussian", "kind.scenes": 8, "kind.rank": 2, "noise_schedule": ["schedule", 0]}),
        "class": ("SamplingKitClassCondition", {"name": "unconditional"}),
        "guider": ("SamplingKitGuider", {"model": ["model", 0], "positive": ["class", 0]}),
        "solver": ("SamplingKitSolverFromText", {"text": tableau()}),
        "noise": ("SamplingKitPerImageNoise", {"seed": 1}),
        "latent": ("SamplingKitEmptyPixelLatent", {"width": 32, "height": 32, "batch_size": 1}),
        "run": ("SamplerCustomAdvanced", {
            "noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["solver", 0], "sigmas": sigmas,
            "latent_image": ["latent", 0],
        }),
        "image": ("SamplingKitLatentToImage", {"latent": ["run", 0]}),
        "save": ("SaveImage", {"images": ["image", 0], "filename_prefix": "x"}),
    }  # fmt: skip
    return json.dumps(
        {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    )


def test_the_runner_takes_a_text_and_names_what_a_tableau_lacks(tmp_path):
    """--set hands a JSON object to a text as it was typed."""
    file = tmp_path / "w.json"
    for sigmas, text, words in (
        (["levels", 0], tableau("RK4", variable="exponential"), "4 proved"),
        (["solver", 1], tableau("RK4"), "connect the SIGMAS of Steps instead"),
        (["levels", 0], tableau(b=[1, 1, 1]), "text: tableau.b sums to 3"),
    ):
        file.write_text(tiny(sigmas))
        command = ["run", str(file), "--output", str(tmp_path), "--set", f"solver.text={text}"]
        result = CliRunner().invoke(main, command)
        assert words in result.output, result.output
        assert (result.exit_code == 0) == ("proved" in words)


def test_the_command_writes_a_fit_and_proves_a_text(tmp_path):
    file, text = SHIPPED / "network-cond.safetensors", tmp_path / "fit.json"
    call = lambda *words: CliRunner().invoke(main, ["solver-text", *map(str, words)])  # noqa: E731
    text.write_text(call(file, "--nfe", 5).output)
    assert texts.read(text.read_text()).table == fit_files.load(file).at(5).table
    assert "5 evaluations" in call(text).output
    assert "choose with --nfe" in call(file).output
    text.write_text(tableau(b=[1, 1, 1]))
    result = call(text)
    assert result.exit_code == 2 and "tableau.b sums to 3" in result.output


def test_solver_repr_tells_two_texts_apart():
    """States of runs in parts go by it."""
    a, b = (texts.read(tableau(variable=v)) for v in VARIABLES[:2])
    assert repr(a) != repr(b)
    assert isinstance(a, TableauSolver) and order_of(a.tableau.a, a.tableau.b) == 3
    assert repr(texts.read(plan())) != repr(texts.read(plan(2, d=[7.4999, -6.5624])))
