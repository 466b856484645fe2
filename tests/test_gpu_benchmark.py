"""benchmarks.gpu runs through on a CPU, small: what it would say on a GPU is seen there."""

import json

import pytest

from sampling_kit.benchmarks import gpu

pytest.importorskip("diffusers")


def test_every_part_runs(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "comfy_root", lambda: None)
    gpu.main(["--device", "cpu", "--tiny", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(gpu.PARTS) < set(found) and found["device"] == "CPU"
    assert not any("failed" in found[part] for part in gpu.PARTS), found
    times = found["µs a step outside the network: queued, finished"]["picture"]
    assert all(0 < queued <= done for queued, done in times.values())
    assert found["kernels a step"]["Euler"] > 0
    speeds = found["steps a second of a UNet of SD 1.5's size"]
    assert speeds["the network alone"] > 0 and speeds["Euler"] > 0
    assert 0 < found["drift of bf16 and fp16"]["bf16"] < 1


def test_a_part_that_fails_is_said_and_the_rest_goes_on(monkeypatch):
    def broken(place):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "PARTS", {"a": broken, "b": gpu.waits})
    found = gpu.measure(gpu.Place(gpu.torch.device("cpu"), tiny=True), 1)
    assert found["a"] == {"failed": "RuntimeError: no such kernel"} and "left out" in found["b"]
    assert gpu.measure(gpu.Place(gpu.torch.device("cpu"), tiny=True), -1)["a"] == {
        "left out": "no time left"
    }
