"""Two batches as samples of distributions: the permutation test, and the Distances node."""

import json

import pytest
import torch

from sampling_kit.nodes.inspect.distances import Distances
from sampling_kit.schedulers.measure.two_samples import chance, compare


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def node(**inputs):
    energy, text, told = Distances.execute(**inputs).args
    return energy, text, json.loads(told)


def test_chance_keeps_its_promise():
    """Of equal distributions, p is below 0.25 in a quarter of the cases; a shift is never chance."""
    p = [chance(normal(i, 12, 3), normal(1000 + i, 16, 3), 99) for i in range(60)]
    assert 0.08 < sum(v < 0.25 for v in p) / len(p) < 0.45
    assert chance(normal(0, 20, 3), normal(1, 20, 3) + 2, 99) == 0.01
    assert chance(normal(0, 4, 3), normal(1, 4, 3), 0) is None


def test_a_small_case_by_hand():
    """The shuffles are enumerated."""
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [6.0]])
    # of the 6 ways to split 4 points in pairs, the 2 of {0,1}|{5,6} are the farthest apart
    assert chance(a, b, 5000) == pytest.approx(1 / 3, abs=0.03)


def test_the_same_distribution_is_near_and_another_far():
    near = compare(normal(0, 200, 3, 8, 8), normal(1, 200, 3, 8, 8), shuffles=99)
    far = compare(normal(0, 200, 3, 8, 8), 1.5 * normal(1, 200, 3, 8, 8), shuffles=99)
    assert near.p > 0.05 and far.p == 0.01
    for name in ("sliced_wasserstein", "energy", "mmd", "frechet"):
        assert getattr(far, name) > 2 * getattr(near, name), name
    assert near.features == "random features"


def test_what_cannot_be_measured_is_null_and_says_why():
    found = compare(normal(0, 4, 2), normal(1, 6, 2))
    assert found.sliced_wasserstein is None and "as many images" in found.notes[0]
    assert found.features == "values" and found.frechet >= 0
    alike = compare(torch.ones(3, 2), torch.ones(3, 2))
    assert alike.mmd is None and alike.energy == 0 and alike.p == 1
    big = compare(torch.zeros(2, 5000), normal(0, 2, 5000))
    assert big.frechet is None


def test_supplied_features():
    a, b = normal(0, 20, 3, 8, 8), normal(1, 20, 3, 8, 8)
    found = compare(a, b, (normal(2, 20, 4), normal(2, 20, 4)))
    assert found.frechet == pytest.approx(0, abs=1e-6) and found.features == "supplied features"


def test_the_node_takes_images_and_latents():
    pictures = torch.rand(6, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    latent = {"samples": pictures.movedim(-1, 1) * 2 - 1}
    first, text, told = node(a=pictures, b=pictures.flip(1))
    second, _, _ = node(a=latent, b={"samples": latent["samples"].flip(2)})
    assert first == pytest.approx(second, rel=1e-5)
    assert "p of energy" in text and told["count"] == [6, 6] and told["energy"] == first


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"b": {"samples": torch.zeros(4, 3, 8, 8)}}, "not one of each"),
        ({"b": torch.zeros(4, 9, 8, 3)}, "differ in shape"),
        ({"b": torch.zeros(1, 8, 8, 3)}, "at least 2"),
        ({"b": torch.full((4, 8, 8, 3), float("nan"))}, "NaN"),
        ({"b": torch.zeros(4, 8, 8, 3), "features_a": {"samples": torch.zeros(4, 2)}}, "both or"),
    ],
)
def test_bad_input(given, words):
    with pytest.raises(ValueError, match=words):
        node(a=torch.zeros(4, 8, 8, 3), **given)


def test_features_need_a_row_per_picture():
    four, three = ({"samples": torch.zeros(n, 2)} for n in (4, 3))
    pictures = torch.zeros(4, 8, 8, 3)
    with pytest.raises(ValueError, match="features_b: 3 rows for 4"):
        node(a=pictures, b=pictures, features_a=four, features_b=three)
