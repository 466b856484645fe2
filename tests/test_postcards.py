"""Tests of the procedural postcards: determinism, shapes, resolutions, variety, errors."""

from __future__ import annotations

import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from product import each

from sampling_kit.embedded import postcards

BATCH_SHA256 = "82587b34b7d9b03f77d29107af71d4bb5c40fe9fae638e7f322359403bbf14ba"


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference in grey levels, 0..255."""
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


def test_constants() -> None:
    assert len(postcards.CLASSES) == len(set(postcards.CLASSES)) == 10
    assert tuple(postcards.PAINTERS) == postcards.CLASSES
    assert postcards.VERSION == 1
    assert postcards.HELD_OUT == 2**31


def test_batch_is_pinned() -> None:
    """A change of pixels must come with a new VERSION and a new hash here."""
    digest = hashlib.sha256()
    for label in postcards.CLASSES:
        digest.update(postcards.scenes(label, range(8), 32).tobytes())
        digest.update(postcards.scene(label, postcards.HELD_OUT, 64).tobytes())
    assert digest.hexdigest() == BATCH_SHA256


def test_scene_does_not_depend_on_what_was_painted_before() -> None:
    keys = [(label, seed, size) for label in range(10) for seed in (0, 7) for size in (32, 50)]
    forward = [postcards.scene(*key) for key in keys]
    backward = [postcards.scene(*key) for key in reversed(keys)]
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(a, b)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    np.random.seed(1)
    a = postcards.scene("snow", 3, 32)
    state = np.random.get_state()[1].copy()
    b = postcards.scene("snow", 3, 32)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_scenes_stack_single_scenes() -> None:
    batch = postcards.scenes("planet", iter([5, 2**40, 5]), 24)
    assert batch.shape == (3, 24, 24, 3) and batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[0], batch[2])
    np.testing.assert_array_equal(batch[1], postcards.scene("planet", 2**40, 24))
    assert postcards.scenes(0, [], 24).shape == (0, 24, 24, 3)


def test_name_and_index_are_the_same_class() -> None:
    for index, name in enumerate(postcards.CLASSES):
        a = postcards.scene(np.int64(index), np.int64(1), 24)
        np.testing.assert_array_equal(a, postcards.scene(name, 1, 24))


@each(
    label=postcards.CLASSES,
    shape=[(24, None), (33, None), (50, 51), (128, None), (64, 100), (32, 480)],
)
def test_shapes(label: str, shape: tuple[int, int | None]) -> None:
    size, width = shape
    picture = postcards.scene(label, 4, size, width)
    assert picture.shape == (size, width or size, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous and picture.flags.writeable


@pytest.mark.parametrize("label", postcards.CLASSES)
def test_widest_panorama_has_no_empty_or_repeated_stretch(label: str) -> None:
    picture = postcards.scene(label, 1, 64, postcards.MAX_WIDTH)
    assert picture.shape == (64, 2048, 3)
    parts = picture.reshape(64, 8, 256, 3).transpose(1, 0, 2, 3)
    assert min(rms(a, b) for a, b in combinations(parts, 2)) > 4
    assert min(float(part[32:].std(axis=1).mean()) for part in parts) > 1


@pytest.mark.parametrize("label", postcards.CLASSES)
def test_same_scene_at_every_resolution(label: str) -> None:
    own, other = [], []
    for seed in range(6):
        small = postcards.scene(label, seed, 32)
        large = postcards.scene(label, seed, 64).reshape(32, 2, 32, 2, 3).mean((1, 3))
        next_large = postcards.scene(label, seed + 1, 64).reshape(32, 2, 32, 2, 3).mean((1, 3))
        own.append(rms(small, large))
        other.append(rms(small, next_large))
    assert max(own) < 6
    assert np.mean(own) < 0.25 * np.mean(other)


def test_classes_differ_and_vary_within() -> None:
    batches = [postcards.scenes(label, range(12), 32) for label in postcards.CLASSES]
    for a, b in combinations(batches, 2):
        assert rms(a.mean(0), b.mean(0)) > 12
    for batch in batches:
        assert min(rms(a, b) for a, b in combinations(batch, 2)) > 3
        assert float(batch.std(axis=0).mean()) > 5


@pytest.mark.parametrize("label", postcards.CLASSES)
def test_classes_have_a_compact_palette(label: str) -> None:
    """Row by row the mean colour hardly moves between scenes, so that patches can be exchanged."""
    rows = postcards.scenes(label, range(24), 32).mean(axis=2)
    assert float(rows.std(axis=0).mean()) < 20


@pytest.mark.parametrize("label", ["", "Forest", "beach", 10, -1])
def test_unknown_class(label: int | str) -> None:
    with pytest.raises(ValueError, match=r"unknown postcard class .*dawn mountains.*meadow"):
        postcards.scene(label, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"size": 23}, "size"),
        ({"size": 129}, "size"),
        ({"size": 64, "width": 63}, "width"),
        ({"size": 64, "width": 2049}, "width"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        postcards.scene(**{"label": 0, "seed": 0, **arguments})


def test_contact_sheet_and_command_line(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "sheet.png"
    postcards.main(["--sheet", str(path), "--per-class", "2", "--size", "24"])
    with image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (10 * 28 + 4, 2 * 28 + 4, 3)
    np.testing.assert_array_equal(pixels[4:28, 32:56], postcards.scene(0, 1, 24))
    with pytest.raises(ValueError, match="per_class"):
        postcards.contact_sheet(0)
