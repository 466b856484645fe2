"""The measured page: pictures, distributions and ends, in small."""

import pytest
import torch

from sampling_kit.benchmarks import ends, policy, quality_page
from sampling_kit.schedulers import spacing as spacings


def test_the_rule_is_never_nearer_than_the_best_ends():
    rows = list(ends.rows(["mixture"], [4], 2))
    assert len(rows) == 5 and all(float(row[4]) >= 1 for row in rows)
    at = policy.bench("mixture", 2)
    ruled, best = ends.searched(at, spacings.Karras(), 4)
    assert best.score.rmse <= ruled.score.rmse and best.first > best.last


def test_body_and_tail_are_the_error():
    at = policy.bench("mixture", 2)
    body, tail, whole = ends.parts(at, 6, 0.3)
    assert abs(body - tail) <= whole * 1.01 and whole <= 1.01 * (body + tail)
    assert ends.parts(at, 6, 0.05)[1] < tail, "a lower last level leaves less undone"


@pytest.mark.filterwarnings("ignore")
def test_pictures_drawn_and_sampled_have_the_same_features(tmp_path):
    drawn = quality_page.drawn(quality_page.of_postcards(), 6, 1)
    assert drawn.shape == (6, 3, 32, 32) and torch.isfinite(drawn).all()
    assert quality_page.features(drawn).shape[0] == 6
    score = policy.Score("x", 1.0, 0.5, 2.0)
    rows = [
        policy.Judged(name, n, score, score, score, score)
        for n in (4, 8)
        for name in ("a", "a cfg 2")
    ]
    quality_page.curves(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    names = quality_page.contestants(quality_page.ScaledLinearVP())
    assert "auto" in names and all(len(levels(6)[1]) == 7 for levels in names.values())
