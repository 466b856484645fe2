"""The weightless latent space in ComfyUI's own Python, under its core nodes.

    cd ComfyUI && .venv/bin/python …/latent_space.py PACK

Prints one JSON object of measurements; ``test_latent_space.py`` says which of them are right.
"""

# ruff: noqa: I001  (native_models comes first: it says where ComfyUI is)

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import native_models  # noqa: F401
import latent_preview
import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

import nodes

core = nodes.NODE_CLASS_MAPPINGS
SIZE = 32


def kit(name: str, /, **inputs: Any) -> Any:
    return core[f"SamplingKit{name}"].execute(**inputs).args[0]


def run(name: str, /, **inputs: Any) -> Any:
    """The first output of a core node."""
    kind = core[name]
    if hasattr(kind, "execute"):
        return kind.execute(**inputs).args[0]
    return getattr(kind(), kind.FUNCTION)(**inputs)[0]


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max()) if a.shape == b.shape else float("inf")


class Fixed:
    """NOISE that is given."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise, self.seed = noise, 0

    def generate_noise(self, latent: Any) -> torch.Tensor:
        return self.noise


def model(space: str, schedule: Any) -> Any:
    kind = {"kind": "patches", "size": SIZE, "scenes": 6}
    return kit("EmbeddedDenoiser", kind=kind, noise_schedule=schedule, space=space)


def runs(kind: dict[str, Any]) -> dict[str, Any]:
    """The same noise in pixels and in latents, by our solver; both decoded by the core."""
    schedule = kit("NoiseSchedule", kind=kind)
    steps = kit("Steps", noise_schedule=schedule, steps=6, spacing={"spacing": "trailing"})
    vae, solver = kit("EmbeddedVAE"), kit("DDIM", eta=0.0)
    classes = kit("ClassCondition", name="one of each")
    noise = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    empty = {
        "pixels": kit("EmptyPixelLatent", width=SIZE, height=SIZE, batch_size=2),
        "latent": run(
            "EmptyLatentImage", width=SIZE, height=SIZE, batch_size=2
        ),  # the core's: fitted
    }
    carried = vae.encode((noise.movedim(1, -1) + 1) / 2)  # linear, so noise goes through it
    made, pictures = {"pixels": noise, "latent": carried}, {}
    for space, draw in made.items():
        guider = kit("Guider", model=model(space, schedule), positive=classes)
        inputs = dict(noise=Fixed(draw), guider=guider, sampler=solver, sigmas=steps)
        out = SamplerCustomAdvanced.execute(latent_image=empty[space], **inputs).args[0]
        latent = space == "latent"
        pictures[space] = (
            run("VAEDecode", samples=out, vae=vae) if latent else kit("LatentToImage", latent=out)
        )
    return {"gap": gap(*pictures.values()), "spread": float(pictures["latent"].std())}


def main() -> None:
    asyncio.run(nodes.load_custom_node(sys.argv[1]))
    out: dict[str, Any] = {}
    vae, cards = (
        kit("EmbeddedVAE"),
        kit("Postcards", name="one of each", seed=0, size=SIZE, batch_size=3),
    )
    tiled = dict(tile_size=64, overlap=0, temporal_size=64, temporal_overlap=8)
    z = run("VAEEncode", pixels=cards, vae=vae)
    out["latent shape"] = list(z["samples"].shape)
    out["round trip"] = gap(run("VAEDecode", samples=z, vae=vae), cards)
    out["tiled"] = [
        gap(run("VAEEncodeTiled", pixels=cards, vae=vae, **tiled)["samples"], z["samples"]),
        gap(run("VAEDecodeTiled", samples=z, vae=vae, **tiled), cards),
    ]
    out["runs"] = {kind: runs({"kind": kind}) for kind in ("ve_edm", "vp_linear", "rectified_flow")}

    schedule = kit("NoiseSchedule", kind={"kind": "ve_edm"})
    made = model("latent", schedule)
    format = made.get_model_object("latent_format")
    latent_preview.args.preview_method = LatentPreviewMethod.Latent2RGB
    latent_preview.default_preview_method = LatentPreviewMethod.Latent2RGB
    previewer = latent_preview.get_previewer(torch.device("cpu"), format)
    shown = np.asarray(previewer.decode_latent_to_preview(z["samples"])).astype(float)
    blocks = cards[0].reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean((1, 3)).numpy() * 255
    out["preview"] = float(np.abs(shown - blocks).max())

    empty = kit("EmptyDiffusersLatent", model=made, width=SIZE, height=SIZE)
    out["empty"] = [list(empty["samples"].shape), empty["downscale_ratio_spacial"]]
    condition = kit("ClassCondition", name="planet")
    none = kit("ClassCondition", name="unconditional")
    drawn = run(
        "KSampler", model=made, seed=1, steps=4, cfg=1.5, sampler_name="euler", scheduler="karras",
        positive=condition, negative=none, latent_image=z, denoise=0.7,
    )  # fmt: skip
    picture = run("VAEDecode", samples=drawn, vae=vae)
    out["KSampler"] = [list(picture.shape), float(picture.std()), bool(picture.isfinite().all())]
    print(json.dumps(out))


main()
