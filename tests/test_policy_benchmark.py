"""benchmarks.policy says what it promises, and the galaxy networks are read right."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from sampling_kit.benchmarks import drawn, galaxies, policy, problems
from sampling_kit.schedulers import policy as policies


def test_auto_is_judged_against_pairs_and_defaults():
    at = policy.bench("postcards", 2, skip=1)
    row = policy.judge(at, 5)
    assert row.to_best >= 1 and row.to_default == row.auto.rmse / row.default.rmse
    assert row.auto.name.startswith("auto: ") and len(row.auto.bands) == 3
    text = policy.text_of([row])
    assert f"| {row.to_best:.2f} ({row.to_best:.2f}) |" in text and "| postcards | 1 |" in text
    assert all(r.solver.call in text for r in policies.POLICIES[policies.LATEST].other.plain)


def test_a_network_is_had_with_any_cfg(monkeypatch):
    """Its end is a run of many steps where none is stored; runs on the same levels share calls, seed by seed."""
    monkeypatch.setattr(policy, "NETWORK_STEPS", 6)
    at = policy.bench("network-cfg3", 2, skip=1)
    assert at.guided and policy.cfg_of(at.task.name) == 3
    same = at.task.start[1:].clone()
    points = problems.spacings.space(at.task.schedule, 6, problems.spacings.Karras())
    few = {"a": problems.GaussianAdams(), "b": problems.GaussianAdams(predictor=1, corrector=0)}
    a, b = at.play_all(few, points)
    assert a.rmse < 1e-4 < b.rmse and torch.equal(at.task.start[1:], same)


def test_a_drawn_problem_is_its_number_alone():
    one, again, other = (drawn.problem(f"drawn-{n}", 2) for n in (1000, 1000, 1001))
    assert torch.equal(one.start, again.start) and one.name == again.name == "drawn-1000 cfg 5"
    assert torch.equal(one.denoise(one.start, 1.0), again.denoise(again.start, 1.0))
    assert other.start.shape != one.start.shape or not torch.equal(one.start, other.start)
    kinds = {type(drawn.problem(f"drawn-{n}", 1).schedule) for n in range(3)}
    assert len(kinds) == 3 and not set(drawn.CHOSEN) & set(drawn.JUDGED)


def test_rows_are_measured_in_parts(tmp_path):
    score = policy.Score("x", 1.0, 0.5, 2.0, (1.0, 1.0, 1.0))
    rows = [policy.Judged("ztf", nfe, score, score, score, score) for nfe in (5, 4)]
    file = tmp_path / "rows.json"
    policy.merged(file, rows[:1])
    again = replace(rows[0], auto=replace(score, rmse=3.0))
    assert [(r.nfe, r.to_best) for r in policy.merged(file, [rows[1], again])] == [(4, 1), (5, 3)]


def test_bands_are_shares_of_the_exact_energy():
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert policy.bands(noise, noise) == pytest.approx((1, 1, 1))
    assert policy.bands(2 * noise + 3, noise) == pytest.approx((4, 4, 4))
    assert policy.bands(noise[0, 0], noise[0, 0]) == ()


def stream(side=8, hidden=4):
    """A network of the package's format, with one block and random weights."""
    draw = np.random.default_rng(0).normal
    patches = side * side // 16
    shapes = [(hidden, 2, 4, 4), (hidden, 1, 1), (1, hidden, 4, 4), (1, 1, 1)]
    shapes += [(3, patches), (3,), (patches, 3), (patches,)]
    shapes += [(5, hidden), (5,), (hidden, 5), (hidden,)]
    shapes += [(hidden, patches)] * 2 + [(patches, hidden)] * 2 + [(hidden, patches)] * 2
    data = io.BytesIO()
    for shape in shapes:
        np.save(data, 0.3 * draw(size=shape).astype(np.float32))
    np.save(data, np.float32(10.0))
    return data.getvalue()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"galaxygrad/{galaxies.FILES['hsc']}", stream())
    monkeypatch.setenv("GALAXYGRAD", str(path))
    galaxies.denoiser.cache_clear()
    yield path
    galaxies.denoiser.cache_clear()


def test_a_galaxy_network_is_a_score_on_vp(wheel):
    denoise = galaxies.denoiser("hsc")
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    near, far = denoise(x, 1e-3), denoise(x, 3.0)
    assert near.shape == x.shape and near.dtype == torch.float64
    assert torch.allclose(near, x, atol=1e-4), "D → x as σ → 0"
    assert not torch.allclose(far, x, atol=0.1)


def test_what_is_missing_is_said(wheel, monkeypatch):
    with pytest.raises(galaxies.Missing, match="ZTF"):
        galaxies.content("ztf")
    monkeypatch.setenv("GALAXYGRAD", str(wheel.parent / "nothing"))
    with pytest.raises(galaxies.Missing, match="neither a folder nor a wheel"):
        problems.problem("hsc", 1)
