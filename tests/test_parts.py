"""Batches in parts: equal bits, measured sizes, and one step back when memory runs out."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_sweep import workflow

from sampling_kit.headless.cli import main
from sampling_kit.nodes.denoiser.embedded import scenes
from sampling_kit.schedulers.denoiser import LocalScore, Mixture
from sampling_kit.schedulers.denoiser.parts import InParts
from sampling_kit.schedulers.path import VE


class Fake:
    """A network of 100 bytes per call and 10 per image on a device of ``size`` bytes."""

    def __init__(self, size: int = 10**9, known: int | None = None) -> None:
        self.size, self.known, self.calls = size, known or size, []

    def __call__(self, x, sigma, given=None):
        self.calls.append(len(x))
        if 100 + 10 * len(x) > self.size:
            raise torch.OutOfMemoryError("made up")
        return x * 2 if given is None else x * given

    def free(self):
        return self.known

    def peak(self, call):
        call()
        return 100 + 10 * self.calls[-1]


X = torch.arange(10.0).reshape(10, 1)


def test_without_a_limit_it_is_one_call():
    net = Fake()
    assert torch.equal(InParts(net)(X, 1.0), 2 * X) and net.calls == [10]


def test_parts_carry_their_rows_of_everything():
    net = Fake()
    given = {"own": X + 1, "shared": torch.ones(1), "none": None}
    seen = []

    def network(x, sigma, given):
        seen.append((len(x), sigma.flatten().tolist()))
        assert given["shared"] is not None and given["none"] is None
        return x * given["own"] * sigma

    levels = torch.arange(10.0).reshape(10, 1)
    found = InParts(network, limit=4)(X, levels, given)
    assert torch.equal(found, X * (X + 1) * levels)
    assert [n for n, _ in seen] == [4, 4, 2] and seen[1][1] == [4.0, 5.0, 6.0, 7.0]
    assert net.calls == []


def test_how_many_fit_is_measured():
    net = Fake(size=10**9, known=200)
    parts = InParts(net, memory=net)
    assert torch.equal(parts(X, 1.0), 2 * X)
    assert net.calls == [1, 2, 6, 1], "0.8·200 = 100 + 6·10, and no image twice"
    parts(X, 1.0)
    assert net.calls[4:] == [6, 4], "measured once"


def test_no_room_for_two_is_found_while_measuring(caplog):
    net = Fake(size=115, known=10**6)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(InParts(net, memory=net)(X, 1.0), 2 * X)
    assert net.calls == [1, 2] + [1] * 9 and len(caplog.records) == 1


def test_out_of_memory_halves_and_says_so(caplog):
    net = Fake(size=130, known=10**6)
    parts = InParts(net, memory=net)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(parts(X, 1.0), 2 * X)
    assert [r.getMessage().split(":")[1].strip() for r in caplog.records] == [
        "out of memory with 7 images at a time",
        "out of memory with 4 images at a time",
    ]
    assert net.calls == [1, 2, 7, 4, 2, 2, 2, 1], "what was evaluated is kept"
    caplog.clear()
    assert torch.equal(parts(X, 1.0), 2 * X) and not caplog.records


def test_one_image_too_many_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        InParts(Fake(size=105), limit=2)(X, 1.0)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_parts_of_a_batch_give_its_images(size):
    """Equal bits where each image is worked out by itself; matrix products over the batch may round
    in another order."""
    images = scenes(6, 24)
    x = torch.randn(7, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 3
    classes = torch.eye(10)[torch.arange(7)]
    patches, mixture = LocalScore(VE(), images), Mixture.fit(VE(), images, 4, 2)
    found = InParts(patches, limit=size)(x, 2.0, classes)
    assert torch.equal(found, patches(x, 2.0, classes))
    found = InParts(mixture, limit=size)(x, 2.0, classes)
    torch.testing.assert_close(found, mixture(x, 2.0, classes), rtol=0, atol=1e-5)


def test_a_run_in_parts_draws_the_same_pictures(tmp_path):
    prompt = workflow().prompt
    prompt["3"]["inputs"] = {
        "kind": "patches", "kind.size": 24, "kind.scenes": 4, "kind.locality": 1.0, "kind.width": 0,
        "noise_schedule": ["1", 0],
    }  # fmt: skip
    prompt["5"]["inputs"]["batch_size"] = 5
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    pictures = []
    for options in ([], ["--at-once", "2"]):
        folder = tmp_path / f"out{len(options)}"
        command = ["run", str(tmp_path / "w.json"), "--output", str(folder), *options]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        files = sorted((folder / "sweep").glob("*.png"))
        assert len(files) == 5
        pictures.append([np.asarray(Image.open(file)) for file in files])
    assert all(map(np.array_equal, *pictures))
