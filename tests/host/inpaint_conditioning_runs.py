"""Our nodes behind the core's InpaintModelConditioning, on a network of SD 1.5 for inpainting (9 channels in) with random
weights, read from a file by ComfyUI's own detection. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/inpaint_conditioning_runs.py PACK FOLDER

Prints one JSON object of measurements; ``test_inpaint_conditioning.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import native_models as native  # first: it says where ComfyUI is, and that it must use the CPU  # isort: skip

import comfy.sd
import random_checkpoints as random
from comfy_extras import nodes_custom_sampler as core
from safetensors.torch import save_file
from torch import Tensor

import nodes

STEPS, MOVES, SEED, CFG = 3, 2, 5, 3.0
#: Two levels of one block each: detection asks for neither number.
NETWORK = {
    **random.sd15_unet([1, 1]),
    "in_channels": 9, "num_res_blocks": [1, 1], "transformer_depth": [1, 1], "transformer_depth_output": [1] * 4,
}  # fmt: skip


class Rig:
    """The MODEL, the node's outputs with and without a noise mask, and what the network is shown beside x."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        file = folder / "sd-v1-5-inpainting.safetensors"
        save_file(random.unet(NETWORK, ""), file)
        self.model = comfy.sd.load_diffusion_model(str(file))
        network = self.model.model.diffusion_model
        network.register_forward_pre_hook(lambda net, args: self.seen.append(args[0][:, 4:]))
        self.vae = comfy.sd.VAE(sd=random.image_vae(4))
        self.seen: list[Tensor] = []
        self.mask = torch.zeros(1, 32, 32)
        self.mask[..., 16:] = 1
        self.picture = torch.rand(1, 32, 32, 3)
        self.texts = [[[torch.randn(1, 77, 768), {}]] for _ in range(2)]

    def conditioned(self, noise_mask: bool) -> tuple[Any, Any, dict[str, Any]]:
        made = nodes.InpaintModelConditioning().encode(
            *self.texts, self.picture, self.vae, self.mask, noise_mask
        )
        return made

    def told(self) -> tuple[int, Tensor]:
        """How many rows the network was asked for, and the channels beside x of all of them, which must be one and the same."""
        rows = torch.cat(self.seen)
        self.seen.clear()
        assert bool((rows == rows[:1]).all())
        return len(rows), rows[0]


def gap(a: Tensor, b: Tensor) -> float:
    """RMS distance in units of b's deviation."""
    return float((a - b).square().mean().sqrt() / b.std())


def measured(rig: Rig, noise_mask: bool) -> dict[str, Any]:
    positive, negative, latent = rig.conditioned(noise_mask)
    sigmas = core.BasicScheduler.execute(rig.model, "normal", STEPS, 1.0).args[0]
    theirs = nodes.KSampler().sample(
        rig.model, SEED, STEPS, CFG, "euler", "normal", positive, negative, latent
    )[0]["samples"]
    rows, beside = rig.told()

    def ours(sampler: Any, **inputs: Any) -> Tensor:
        known: dict[str, Any] = dict(model=rig.model, positive=positive, negative=negative)
        made = native.kit(
            "Sample",
            **known,
            latent_image=latent,
            seed=SEED,
            steps=STEPS,
            cfg=CFG,
            sampler=sampler,
            sigmas=sigmas,
            **inputs,
        )
        return made["samples"]

    found: dict[str, Any] = {"finite": bool(theirs.isfinite().all()), "rows": [rows]}
    found["channels"] = [rig.model.model.diffusion_model.in_channels, len(beside)]
    found["mask beside"] = [float(beside[0, :, :2].abs().max()), float(beside[0, :, 2:].min())]
    cases = {
        "core's euler": core.KSamplerSelect.execute("euler").args[0],
        "Euler": native.kit("Euler"),
    }
    found["gaps"], found["beside"] = {}, {}
    langevin = {
        moves: native.kit("LangevinInpainting", sampler=native.kit("DDIM"), moves=moves)
        for moves in (0, MOVES)
    }
    if noise_mask:
        cases["no moves"] = langevin[0]
    for case, sampler in cases.items():
        found["gaps"][case] = gap(ours(sampler), theirs)
        count, told = rig.told()
        found["rows"].append(count)
        found["beside"][case] = float((told - beside).abs().max())
    if not noise_mask:
        return found | {"refused": message(lambda: ours(langevin[MOVES]))}
    made = ours(langevin[MOVES])
    count, told = rig.told()
    found["beside"]["moves"] = float((told - beside).abs().max())
    found["moves"] = {
        "rows": count,
        "kept": float((made - latent["samples"])[..., :2].abs().max()),
        "new": bool((made != latent["samples"])[..., 2:].all()),
        "finite": bool(made.isfinite().all()),
    }
    return found


def message(run: Any) -> str:
    try:
        run()
    except ValueError as error:
        return str(error)
    return ""


def main() -> None:
    torch.set_num_threads(1)
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    with torch.inference_mode():
        rig = Rig(Path(sys.argv[2]))
        print(json.dumps({str(on): measured(rig, on) for on in (True, False)}))


if __name__ == "__main__":
    main()
