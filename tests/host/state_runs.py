"""Split and unsplit runs on native BaseModels. Run by ComfyUI's own Python, as ``native_models.py`` is.

Prints one JSON object of measurements; ``test_state.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import native_models as native  # first: it says where ComfyUI is, and that it must use the CPU
from comfy_extras import nodes_custom_sampler as core

import nodes

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("Euler", {}),
    "churn": ("Euler", {"churn": 20.0}),
    "heun": ("HeunEDM", {}),
    "unipc": ("UniPC", {}),
    "sde": ("DPMSolverMultistep", {"eta": 1.0}),
    "sa": ("SASolver", {}),
}
STEPS = 6


class Scaled(native.comfy.latent_formats.LatentFormat):
    """A latent format that rounds on the way in and out."""

    scale_factor = 0.3611

    def process_in(self, latent: Any) -> Any:
        return (latent - 0.1159) * self.scale_factor

    def process_out(self, latent: Any) -> Any:
        return latent / self.scale_factor + 0.1159


def both(name: str, **inputs: Any) -> tuple[Any, ...]:
    return nodes.NODE_CLASS_MAPPINGS[f"SamplingKit{name}"].execute(**inputs).args


def sampled(model: Any, sampler: Any, sigmas: Any, latent: Any, noise: Any) -> Any:
    guider = native.guide(model)
    return core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]


def found(kind: str, image: Any, levels: tuple[int, ...]) -> dict[str, list[float]]:
    """{solver: largest distance of whole and split, per level, and of whole and
    the last split without a state}."""
    model = native.native(kind)
    model.model.latent_format = Scaled()
    sigmas = native.steps(model, STEPS)
    noise = native.kit("PerImageNoise", seed=7)
    none = core.DisableNoise.execute().args[0]
    rows = {}
    for name, (solver, knobs) in SOLVERS.items():
        sampler = native.kit(solver, **knobs)
        whole = sampled(model, sampler, sigmas, image, noise)
        rows[name] = []
        for level in levels:
            high, low = core.SplitSigmas.execute(sigmas, level).args
            keep, state = both("KeepState", sampler=sampler, sigmas=sigmas)
            half = sampled(model, keep, high, image, noise)
            resume = both("ResumeState", sampler=sampler, state=state)[0]
            end = sampled(model, resume, low, half, none)
            rows[name].append(gap(end, whole))
        rows[name].append(gap(sampled(model, sampler, low, half, none), whole))
    return rows


def there_and_back(kind: str, image: Any) -> float:
    """How far a run up and, by Turn Back, down again ends from the picture, in its largest value."""
    model = native.native(kind)
    model.model.latent_format = Scaled()
    rising = torch.flip(native.steps(model, STEPS)[1:-1], (0,))
    none, solver = core.DisableNoise.execute().args[0], both("Invertible")[0]
    keep, state = both("KeepState", sampler=solver, sigmas=rising)
    top = sampled(model, keep, rising, image, none)
    back, falling, _ = both("TurnBack", sampler=solver, state=state, sigmas=rising)
    end = sampled(model, back, falling, top, none)
    return gap(end, image) / max(float(t.abs().max()) for t in native.parts(image["samples"]))


def gap(a: Any, b: Any) -> float:
    a, b = (torch.cat([t.flatten() for t in native.parts(x["samples"])]) for x in (a, b))
    return float((a - b).abs().max())


def main() -> None:
    torch.set_num_threads(1)
    native.comfy.utils.PROGRESS_BAR_ENABLED = False
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    images = {
        "empty": native.latent(3, 4, 8, 8),
        "picture": native.latent(3, 4, 8, 8, fill=0.4),
        "masked": native.latent(3, 4, 8, 8, fill=0.4) | {"noise_mask": mask},
        "video": native.latent(2, 4, 3, 8, 8),
        "nested": native.nested(),
    }
    with torch.inference_mode():
        rows = {
            f"{kind} {name}": found(kind, image, (0, 1, 2, 3, 5, 4) if name == "empty" else (2, 4))
            for kind in ("EPS", "V zero SNR", "FLOW", "FLOW louder")
            for name, image in images.items()
        }
        pictures = {
            "picture": images["picture"],
            "video": native.latent(2, 4, 3, 8, 8, fill=0.4),
        }
        ways = {
            f"{kind} {name}": there_and_back(kind, image)
            for kind in ("EPS", "FLOW")
            for name, image in pictures.items()
        }
    print(json.dumps({"parts": rows, "ways": ways}))


if __name__ == "__main__":
    main()
