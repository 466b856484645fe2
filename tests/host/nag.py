"""Two prompts in one call of ComfyUI's tiny networks with random weights. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/nag.py PACK

Prints one JSON object of measurements; ``test_nag_host.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

import perturbations as p  # before ComfyUI's modules: it puts them first
import torch
from comfy import conds
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from torch import Tensor, nn

import nodes

n = p.n


def qwen() -> nn.Module:
    return QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6), **p.common,
    )  # fmt: skip


def chroma() -> nn.Module:
    return Chroma(
        in_channels=16, out_channels=4, context_in_dim=16, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=1,
        depth_single_blocks=2, axes_dim=[4, 6, 6], theta=100, patch_size=2, qkv_bias=True, in_dim=64,
        out_dim=32, hidden_dim=32, n_layers=1, txt_ids_dims=[], vec_in_dim=None, **p.common,
    )  # fmt: skip


def flux2() -> nn.Module:
    """Flux with positions of the text, as Flux 2."""
    net = p.flux()
    net.params.txt_ids_dims = [2]
    return net


GUIDANCE = {"guidance": torch.full((2,), 3.5)}
p.NETWORKS |= {
    "Flux 2": (flux2, *p.NETWORKS["Flux"][1:]),
    "Qwen": (qwen, (2, 4, 1, 8, 12), {}, (None, ""), (), 24),
    "Chroma": (chroma, p.PICTURE, GUIDANCE, (None, ""), (), 24),
}
#: Number of tokens of the negative prompt. Z-Image's picture stands behind the positive's, padded to 7.
LENGTHS = {"Z-Image": 6, "Wan": 67}  # 5 + 67 are as many as Wan's picture has
NETWORKS = ("UNet", "SD3", "Flux", "Flux 2", "Chroma", "Qwen", "Wan", "Z-Image")


def prepared(tokens: Tensor, **more: Any) -> list[dict[str, Any]]:
    return [{"model_conds": {"c_crossattn": conds.CONDRegular(tokens)}, "uuid": 0, **more}]


def beside(rig: p.Rig, guide: Any, minus: Tensor, **options: Any) -> Tensor:
    given = {"transformer_options": options}
    return rig(nag.with_negative(given, prepared(minus), guide))


def measure(name: str) -> dict[str, Any]:
    rig = p.Rig(name)
    before = rig()
    minus = torch.randn(1, LENGTHS.get(name, 8), 16)
    plus, rig.context = rig.context, minus.expand(2, -1, -1)
    alone = rig()  # the picture of the negative prompt
    rig.context = plus
    rule = Nag(scale=5.0).in_attention(level)
    strong = beside(rig, rule, minus)
    both = beside(rig, rule, minus, cond_or_uncond=[1, 0])
    return {
        "size": float(before.std()),
        "plus": n.distance(beside(rig, lambda z, other: z, minus), before),
        "minus": n.distance(beside(rig, lambda z, other: other, minus), alone),
        "apart": n.distance(alone, before),
        "effect": n.distance(strong, before),
        "first row": n.distance(both[:1], before[:1]),
        "second row": n.distance(both[1:], strong[1:]),
        "uncond": torch.equal(beside(rig, rule, minus, cond_or_uncond=[1]), before),
        "afterwards": torch.equal(rig(), before),
    }


def refusals() -> dict[str, str]:
    rig, tokens = p.Rig("UNet"), torch.randn(1, 3, 16)
    longcat, masked = p.Rig("Flux"), p.Rig("Flux")
    longcat.base.__class__ = n.comfy.model_base.LongCatImage
    masked.extra = {**masked.extra, "attention_mask": torch.ones(2, 1, 1, 29)}

    def plus(z: Tensor, other: Tensor) -> Tensor:
        return z

    return {
        **{name: n.message(lambda name=name: beside(p.Rig(name), plus, tokens)) for name in ("Krea 2", "LTX", "HiDream", "Cosmos")},
        "LongCat": n.message(lambda: beside(longcat, plus, tokens)),
        "mask": n.message(lambda: beside(masked, plus, tokens)),
        "width": n.message(lambda: beside(rig, plus, torch.randn(1, 3, 12))),
        "two": n.message(lambda: nag.with_negative({}, prepared(tokens) * 2, plus)),
        "area": n.message(lambda: nag.with_negative({}, prepared(tokens, area=(1, 1, 0, 0)), plus)),
    }  # fmt: skip


def guided(name: str) -> dict[str, Any]:
    """Chains by our nodes in a run, batch 2, two steps."""
    rig = p.Rig(name)
    model, rows = rig.base.current_patcher, []
    rig.net.register_forward_pre_hook(lambda net, args: rows.append(len(args[0])))
    texts = [
        [[torch.randn(1, count, 16), {"pooled_output": torch.zeros(1, 16)}]] for count in (5, 5, 9)
    ]
    positive, negative, other = texts
    latent = {"samples": torch.zeros(2, *rig.shape[1:])}
    solver, steps = n.kit("Euler"), torch.tensor([0.9, 0.5, 0.0])

    def run(chain: Any, **inputs: Any) -> tuple[Tensor, dict[str, Any]]:
        guider = n.kit("Guider", model=model, positive=positive, guidance=chain, **inputs)
        noise = n.kit("PerImageNoise", seed=3)
        out = n.core.SamplerCustomAdvanced.execute(noise, guider, solver, steps, latent).args[0]
        return out["samples"], guider.run.report()

    def chain(scale: float, prompt: Any = other, before: Any = None) -> Any:
        return n.kit("NAG", negative_prompt=prompt, scale=scale, guidance=before)

    plain, _ = run(None)
    off, _ = run(chain(1.0))
    rows.clear()
    on, report = run(chain(5.0))
    seen = list(rows)
    elsewhere, _ = run(chain(5.0, negative))
    cfg = n.kit("CFG", scale=2.0)
    both, _ = run(chain(5.0, before=cfg), negative=negative)
    only_cfg, _ = run(cfg, negative=negative)
    return {
        "off": torch.equal(off, plain),
        "again": torch.equal(run(None)[0], plain),
        "calls": report["network_calls"],
        "rows": seen,
        "effect": n.distance(on, plain) / float(plain.std()),
        "other prompt": n.distance(elsewhere, on) / float(plain.std()),
        "with CFG": n.distance(both, only_cfg) / float(plain.std()),
        "left": sorted(model.model_options["transformer_options"]),
    }


def main() -> None:
    global nag, Nag, level
    torch.set_num_threads(1)
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    pack = next(key for key in sys.modules if key.endswith(".nodes.guidance.rules"))
    root = pack.removesuffix(".nodes.guidance.rules")
    nag = importlib.import_module(f"{root}.nodes.host.comfy.nag")
    guidance = importlib.import_module(f"{root}.schedulers.guidance")
    path = importlib.import_module(f"{root}.schedulers.path")
    Nag = guidance.NAG

    level = guidance.Guidance((Nag(),)).begin(path.Flow(), [0.9, 0.6, 0.0]).ladder.at(0.6)
    with torch.inference_mode():
        networks = {name: measure(name) for name in NETWORKS}
        more = {"refusals": refusals(), "runs": {name: guided(name) for name in ("UNet", "Flux")}}
        print(json.dumps({"networks": networks, **more}))


if __name__ == "__main__":
    main()
