"""GUIDERs as functions D(x, σ), and recordings, on native BaseModels. Run by ComfyUI's own Python.

Prints one JSON object of measurements; ``test_fit.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import native_models as native  # first: it says where ComfyUI is, and that it must use the CPU
from torch import Tensor, nn

import nodes

ROWS = torch.tensor([3, 0, 1, 2, 5, 0])
SHIFTS = (0.2, -0.5)  # the first guider's two conditions; the second has SHIFT
SECOND = 0.7


def guiders(model: Any, core: bool) -> list[Any]:
    """Two prompts: one of two rows, one of one."""
    rows = [[torch.tensor(SHIFTS).reshape(2, 1, 1), {}]]
    conds = [rows, native.condition(SECOND)]
    if not core:
        return [native.guide(model, positive=c) for c in conds]
    found = []
    for cond in conds:
        guider = native.comfy.samplers.CFGGuider(model)
        guider.set_conds(cond, cond)
        guider.set_cfg(2.0)
        found.append(guider)
    return found


def shift_of(row: int) -> float:
    return SECOND if row % 2 else SHIFTS[row // 2 % 2]


def exact_d(net: Any, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """(D for ROWS, dD/dx) of the Gaussian that the network is exact for."""
    level = torch.tensor(sigma)
    shifts = torch.tensor([shift_of(int(r)) for r in ROWS]).reshape(-1, *(1,) * (x.ndim - 1))
    mean, alpha = native.data_mean(x, shifts), net.alpha(level)
    slope = alpha * native.STD**2 / net.variance(level)
    return mean + slope * (x - alpha * mean), torch.as_tensor(slope)


def fields(kind: str, core: bool, host: Any) -> dict[str, float]:
    """Largest differences: D of rows in any order, its gradient, and both with a run before and after."""
    model = native.native(kind)
    both, shape = guiders(model, core), (4, 8, 8)
    x = torch.randn(len(ROWS), *shape, generator=torch.Generator().manual_seed(1))
    out: dict[str, float] = {}

    def ask(ready: Any) -> None:
        worst = slope_off = 0.0
        for sigma in (0.9, 0.3):
            truth, slope = exact_d(model.model.diffusion_model, x, sigma)
            worst = max(worst, native.distance(ready.field(x, sigma, ROWS), truth))
            with torch.inference_mode(False), torch.enable_grad():
                y = x.clone().requires_grad_()
                (grad,) = torch.autograd.grad(ready.field(y, sigma, ROWS).sum(), y)
            slope_off = max(slope_off, native.distance(grad, slope.expand_as(grad)))
        out.update(d=worst, gradient=slope_off, refused=float(bool(ready.refusal)))

    host.runs.with_field(both, shape, 4, 0, ask)
    return out


def recording(kind: str, folder: Path, fit: Any) -> dict[str, float]:
    """Starts as ComfyUI makes them, ends where the exact ODE goes, a second recording that only reads."""
    model = native.native(kind)
    image = native.latent(1, 4, 8, 8)
    calls = model.model.diffusion_model
    knobs = dict(seed=0, count=4, levels=24, substeps=6, batch=4, folder=str(folder))

    def record() -> Any:
        node = nodes.NODE_CLASS_MAPPINGS["SamplingKitRecordTrajectories"]
        return node.execute(guider=native.guide(model), latent=image, **knobs).args[0]

    found = record().trajectories
    spent = calls.rows
    record()
    four = native.latent(4, 4, 8, 8)["samples"]
    sampling = model.get_model_object("model_sampling")
    noise = native.kit("PerImageNoise", seed=0).generate_noise({"samples": four})
    level = torch.tensor(found.points.sigmas()[0])
    start = sampling.noise_scaling(level, noise, four, True)
    end = calls.transport(start, level)
    rms = float((found.end() - end).square().mean().sqrt())
    return dict(
        start=native.distance(found.start(), start) / float(start.abs().max()),
        end=rms / native.STD,
        again=float(calls.rows - spent),
    )


def fingerprints(host: Any) -> dict[str, bool]:
    """Whether the fingerprint stays and changes when it should."""
    model = native.native("EPS")
    net = model.model.diffusion_model
    net.w = nn.Parameter(torch.randn(4, 4), requires_grad=False)
    of = lambda m, c=native.POSITIVE: host.runs.facts_of_guider(native.guide(m, positive=c))  # noqa: E731
    first = of(model)
    lora = {"diffusion_model.w": ("diff", (torch.randn(4, 4),))}
    patched, weaker = model.clone(), model.clone()
    patched.add_patches(lora, 1.0)
    weaker.add_patches(lora, 0.5)
    before = of(patched)
    native.comfy.model_management.load_models_gpu([patched])
    after = of(patched)
    native.comfy.model_management.unload_all_models()
    return dict(
        same=of(model) == first and of(model.clone()) == first,
        patch=before.model != first.model and before.model != of(weaker).model,
        loaded=after == before and of(model) == first,
        condition=of(model, native.NEGATIVE).condition != first.condition,
        words=of(model).guidance == "no guidance",
    )


def main() -> None:
    torch.set_num_threads(1)
    native.comfy.utils.PROGRESS_BAR_ENABLED = False
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    module = nodes.NODE_CLASS_MAPPINGS["SamplingKitRecordTrajectories"].__module__
    host = sys.modules[module.rsplit(".", 2)[0] + ".host"]
    fit = sys.modules[module]
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        native.comfy.utils  # noqa: B018
        import folder_paths

        folder_paths.set_output_directory(str(root))
        found = {
            "fields": {f"{k} {c}": fields(k, c, host) for k in native.KINDS for c in (False, True)},
            "recordings": {k: recording(k, Path(k.replace(" ", "-")), fit) for k in native.KINDS},
            "fingerprints": fingerprints(host),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
