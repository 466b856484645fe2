"""Diffusers Text Encode and Diffusers VAE in ComfyUI's own Python, under its core nodes.

    cd ComfyUI && .venv/bin/python …/diffusers_text_vae.py PACK FOLDER

Writes folders below FOLDER and prints one JSON object of measurements; ``test_diffusers_text_vae.py``
says which of them are right.
"""

# ruff: noqa: E402, I001  (native_models comes first: it says where ComfyUI is)

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import native_models  # noqa: F401
import folder_paths
import torch
from comfy import model_management as mm
from comfy_extras.nodes_multigpu import SelectVAEDeviceNode

import nodes

PACK, ROOT = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.append(str(Path(__file__).resolve().parent.parent))
import diffusers
import diffusers_folders as tiny

core = nodes.NODE_CLASS_MAPPINGS
TINY, BF16 = "tiny-cogvideox", torch.bfloat16


def module(name: str) -> Any:
    """One of the pack's modules, under the name ComfyUI loaded it by."""
    (found,) = (m for key, m in sys.modules.items() if key.endswith(f".{name}"))
    return found


def kit(name: str, **inputs: Any) -> Any:
    return core[f"SamplingKit{name}"].execute(**inputs).args[0]


def run(name: str, **inputs: Any) -> Any:
    """The first output of a core node."""
    kind = core[name]
    if hasattr(kind, "execute"):
        return kind.execute(**inputs).args[0]
    return getattr(kind(), kind.FUNCTION)(**inputs)[0]


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max()) if a.shape == b.shape else float("inf")


def loaded_models() -> list[Any]:
    return [entry.real_model() for entry in mm.current_loaded_models]


def text() -> dict[str, Any]:
    """Against the pipeline; loaded once; dropped by /free."""
    found: dict[str, Any] = {}
    pipe = diffusers.CogVideoXPipeline.from_pretrained(
        PACK / "embedded/diffusers" / TINY, torch_dtype=BF16
    )
    theirs, _ = pipe.encode_prompt("a cat", do_classifier_free_guidance=False, max_sequence_length=16)  # fmt: skip
    [[mine, extra]] = kit("DiffusersTextEncode", folder=TINY, prompt="a cat")
    found["gap"], found["extra"] = gap(mine, theirs), sorted(extra)
    path = tiny.save("sdxl", ROOT / "sdxl")
    tiny.clip(path)
    tiny.clip(path, "_2", projection=True)
    [[mine, extra]] = kit("DiffusersTextEncode", folder="sdxl", prompt="a cat")
    found["sdxl"] = [list(mine.shape), {key: list(value.shape) for key, value in extra.items()}]
    last = module("diffusers_text")._last
    kept = next(iter(last.values()))
    found["kept"] = [len(last), any(m is kept.patcher.model for m in loaded_models())]
    run("VAEDecode", vae=kit("DiffusersVAE", folder=TINY), samples={"samples": torch.zeros(1, 4, 1, 8, 8)})  # fmt: skip
    mm.unload_all_models()
    found["after free"] = [kept.gone, len(loaded_models())]
    found["again"] = gap(kit("DiffusersTextEncode", folder="sdxl", prompt="a cat")[0][0], mine)
    zeroed = run("ConditioningZeroOut", conditioning=[[mine, extra]])[0]
    found["zeroed"] = [float(zeroed[0].abs().max()), float(zeroed[1]["pooled_output"].abs().max())]
    return found


def vae() -> dict[str, Any]:
    """Under VAE Decode, VAE Encode and their tiled forms."""
    found: dict[str, Any] = {}
    for kind, name in (("AutoencoderKL", "sd"), ("AutoencoderKLCogVideoX", "cogvideox-5b")):
        path = tiny.save(name, ROOT / name)
        own = getattr(diffusers, kind).from_pretrained(path / "vae")
        wire = kit("DiffusersVAE", folder=name)
        generator = torch.Generator().manual_seed(1)
        z = torch.randn((1, 4, *([3] * (kind != "AutoencoderKL")), 16, 24), generator=generator)
        latent = {"samples": z}
        images = run("VAEDecode", vae=wire, samples=latent)
        expected = (own.decode(z).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1).flatten(0, -4)
        if expected.ndim == 3:
            expected = expected[None]
        tiles = dict(tile_size=512, overlap=64, temporal_size=64, temporal_overlap=8)
        small = dict(tiles, tile_size=16, overlap=4)  # the node's widget starts at 64
        pixels = (images * 2 - 1).movedim(-1, 1)
        pixels = pixels if kind == "AutoencoderKL" else pixels.movedim(0, 1)[None]
        coded = own.encode(pixels).latent_dist.mode()
        tiled = run("VAEDecodeTiled", vae=wire, samples=latent, **small)
        found[kind] = dict(
            shape=list(images.shape), decode=gap(images, expected),
            tiled=gap(run("VAEDecodeTiled", vae=wire, samples=latent, **tiles), expected),
            small=[list(tiled.shape), gap(tiled, images)],
            encode=gap(run("VAEEncode", vae=wire, pixels=images)["samples"], coded),
            encode_tiled=gap(run("VAEEncodeTiled", vae=wire, pixels=images, **tiles)["samples"], coded),
            loaded=any(m is wire.patcher.model for m in loaded_models()),
        )  # fmt: skip
        mm.unload_all_models()
        found[kind]["after free"] = gap(run("VAEDecode", vae=wire, samples=latent), images)
        moved = SelectVAEDeviceNode.execute(vae=wire, device="default").args[0]
        found[kind]["selected"] = gap(run("VAEDecode", vae=moved, samples=latent), images)
        mask = torch.zeros(1, *images.shape[1:3])
        if kind == "AutoencoderKL":
            inpaint = run("VAEEncodeForInpaint", vae=wire, pixels=images, mask=mask, grow_mask_by=0)
            found[kind]["inpaint"] = gap(inpaint["samples"], coded)
    return found


def errors() -> dict[str, str]:
    """What nodes say about incomplete folders and overflow."""
    said = {}
    shipped = PACK / "embedded/diffusers" / TINY
    for part, node in (("vae", "DiffusersVAE"), ("text_encoder", "DiffusersTextEncode"), ("tokenizer", "DiffusersTextEncode")):  # fmt: skip
        shutil.copytree(shipped, ROOT / f"no-{part}")
        shutil.rmtree(ROOT / f"no-{part}" / part)
        more = {"prompt": "a"} if node == "DiffusersTextEncode" else {}
        said[part] = refused(lambda n=node, p=part, m=more: kit(n, folder=f"no-{p}", **m))
    wire = kit("DiffusersVAE", folder=TINY, dtype="fp16")
    wire.first_stage_model.module.decoder.conv_out.conv.weight.data *= 3e4
    z = {"samples": torch.randn(1, 4, 3, 12, 16)}
    said["overflow"] = refused(lambda: run("VAEDecode", vae=wire, samples=z))
    said["outside"] = core["SamplingKitDiffusersVAE"].validate_inputs(folder=str(PACK))
    return said


def refused(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main() -> None:
    torch.set_num_threads(1)
    ROOT.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("diffusers", str(ROOT), is_default=True)
    assert asyncio.run(nodes.load_custom_node(str(PACK))), "the pack did not load"
    with torch.inference_mode():
        print(json.dumps({"text": text(), "vae": vae(), "errors": errors()}))


if __name__ == "__main__":
    main()
