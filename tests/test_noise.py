"""Per-image noise: a pure function of seed, image and position."""

import pytest
import torch

from sampling_kit.nodes.noise.wire import NoiseWire
from sampling_kit.schedulers.noise import PIECE, PerImageNoise, mix

LIKE = torch.empty(3, 4, 5, 6)


def test_image_i_has_seed_plus_i():
    batch = PerImageNoise(100)(2, LIKE)
    for i in range(3):
        assert torch.equal(batch[i : i + 1], PerImageNoise(100 + i)(2, LIKE[:1]))
    assert torch.equal(PerImageNoise(100, (2, 0, 7))(2, LIKE)[1], batch[0])


def test_the_first_draw_of_a_single_image_is_the_hosts():
    expected = torch.randn(1, 4, 5, 6, generator=torch.manual_seed(123))
    assert torch.equal(PerImageNoise(123)(0, LIKE[:1]), expected)


def test_draws_are_standard_normal_and_unrelated():
    like = torch.empty(1, 20000)
    draws = [PerImageNoise(seed)(position, like)[0] for seed in (1, 2) for position in range(3)]
    table = torch.corrcoef(torch.stack(draws))
    assert (table - torch.eye(6)).abs().max() < 0.03
    for draw in draws:
        assert draw.mean().abs() < 0.03
        assert draw.std() == pytest.approx(1, abs=0.03)


def test_keys_do_not_collide():
    keys = {mix(seed, position) for seed in range(300) for position in range(300)}
    assert len(keys) == 300 * 300 - 0
    assert mix(-1, 0) == 2**64 - 1


def test_global_randomness_is_not_consumed_by_draws():
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    PerImageNoise(9)(1, LIKE)
    assert torch.equal(torch.rand(1), first)


def test_the_noise_wire_honours_batch_index():
    latent = {"samples": torch.zeros(3, 4, 5, 6)}
    whole = NoiseWire(7).generate_noise(latent)
    third = NoiseWire(7).generate_noise({"samples": torch.zeros(1, 4, 5, 6), "batch_index": [2]})
    assert torch.equal(third[0], whole[2])


def test_a_wrong_number_of_indices_is_refused():
    with pytest.raises(ValueError, match="2 image indices for a batch of 3"):
        PerImageNoise(0, (1, 2))(0, LIKE)


def test_a_large_image_is_drawn_in_pieces_that_are_as_good_as_one():
    """The first piece is a small image's draw; nothing depends on the batch or on the threads."""
    like = torch.empty(2, 3, 256, 256)
    batch = PerImageNoise(4)(1, like)
    assert torch.equal(batch[1:], PerImageNoise(5)(1, like[:1]))
    assert torch.equal(batch[0].flatten()[:PIECE], PerImageNoise(4)(1, torch.empty(1, PIECE))[0])
    first, second = batch[0].flatten().split(PIECE)  # value by value, not out of step
    together = torch.stack([first[: len(second)], second])
    assert torch.corrcoef(together)[0, 1].abs() < 5 / len(second) ** 0.5  # five deviations
    assert second.std() == pytest.approx(1, abs=0.02)
    whole = torch.randn(3, 256, 256, generator=torch.manual_seed(4))
    assert torch.equal(PerImageNoise(4)(0, like)[0], whole)


def test_no_two_pieces_of_a_batch_are_alike():
    """Independent draws of n values have a correlation of deviation 1/√n, over images, pieces and positions."""
    like = torch.empty(2, 1, 4 * PIECE)
    pieces = torch.cat([PerImageNoise(4)(k, like).reshape(-1, PIECE) for k in (1, 2)])
    table = torch.corrcoef(pieces)
    assert (table - torch.eye(16)).abs().max() < 5 / PIECE**0.5


def test_a_large_image_is_drawn_in_inference_mode_too():
    like = torch.empty(1, 3 * PIECE)
    with torch.inference_mode():
        inside = PerImageNoise(4)(1, like)
    assert torch.equal(inside, PerImageNoise(4)(1, like))
