"""Perturbed branches on tiny networks of ComfyUI with random weights. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/perturbations.py PACK

Prints one JSON object of measurements; ``test_perturbations.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import native_models as n
import torch
from comfy import model_base, model_patcher, ops, samplers
from comfy.ldm.anima.model import Anima
from comfy.ldm.cosmos import predict2
from comfy.ldm.flux import math as flux_math
from comfy.ldm.flux.model import Flux
from comfy.ldm.hidream import model as hidream
from comfy.ldm.krea2 import model as krea2
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.lumina import model as lumina
from comfy.ldm.modules import attention
from comfy.ldm.modules.diffusionmodules import mmdit
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.wan import model as wan
from comfy.model_base import ModelType
from torch import Tensor, nn

import nodes

common = dict(dtype=torch.float32, device="cpu", operations=ops.disable_weight_init)
TEXT = 5  # tokens


def unet() -> nn.Module:
    return UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=1,
        transformer_depth=[0, 2], transformer_depth_middle=2, transformer_depth_output=[0, 0, 2, 2],
        channel_mult=[1, 2], num_heads=2, use_spatial_transformer=True, context_dim=16,
        use_linear_in_transformer=True, **common,
    )  # fmt: skip


def sd3(depth: int = 4) -> nn.Module:
    return mmdit.MMDiT(
        input_size=None, patch_size=2, in_channels=4, depth=depth, adm_in_channels=16,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 256}},
        pos_embed_max_size=16, num_patches=256, qk_norm="rms", x_block_self_attn_layers=[1], **common,
    )  # fmt: skip


def flux() -> nn.Module:
    return Flux(
        in_channels=4, out_channels=4, vec_in_dim=16, context_in_dim=16, hidden_size=32, mlp_ratio=2.0,
        num_heads=2, depth=2, depth_single_blocks=3, axes_dim=[4, 6, 6], theta=100, patch_size=2,
        qkv_bias=True, guidance_embed=False, txt_ids_dims=[], **common,
    )  # fmt: skip


def wan_model(depth: int = 3) -> nn.Module:
    return wan.WanModel(
        model_type="t2v", patch_size=(1, 2, 2), text_len=TEXT, in_dim=4, dim=24, ffn_dim=48, freq_dim=16,
        text_dim=16, out_dim=4, num_heads=2, num_layers=depth, **common,
    )  # fmt: skip


def ltx() -> nn.Module:
    return LTXVModel(
        in_channels=4, cross_attention_dim=32, attention_head_dim=16, num_attention_heads=2,
        caption_channels=16, num_layers=3, **common,
    )  # fmt: skip


def z_image() -> nn.Module:
    """24 tokens of the picture in 28, text in 28: both are padded to a multiple of 7."""
    return lumina.NextDiT(
        in_channels=4, dim=32, n_layers=3, n_refiner_layers=1, n_heads=2, multiple_of=8, qk_norm=True,
        cap_feat_dim=16, axes_dims=(4, 6, 6), axes_lens=(64, 64, 64),
        pad_tokens_multiple=7, **common,
    )  # fmt: skip


def mini_train(kind: type[nn.Module] = predict2.MiniTrainDIT) -> nn.Module:
    return kind(
        max_img_h=32, max_img_w=32, max_frames=8, in_channels=4, out_channels=4, patch_spatial=2,
        patch_temporal=1, model_channels=32, num_blocks=3, num_heads=2, crossattn_emb_channels=16,
        pos_emb_cls="rope3d", concat_padding_mask=False, **common,
    )  # fmt: skip


def hidream_model() -> nn.Module:
    return hidream.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[16, 16], text_emb_dim=16, num_routed_experts=0,
        axes_dims_rope=(4, 6, 6), llama_layers=[0, 1, 1, 0], max_resolution=(32, 32), **common,
    )  # fmt: skip


def krea2_model() -> nn.Module:
    return krea2.SingleStreamDiT(
        features=32, tdim=16, txtdim=8, heads=2, kvheads=1, multiplier=1, layers=3, channels=4, txtlayers=2,
        txtheads=2, txtkvheads=2, **common,
    )  # fmt: skip


PICTURE, VIDEO = (2, 4, 8, 12), (2, 4, 3, 8, 12)
POOLED = torch.linspace(-1, 1, 32).reshape(2, 16)
#: name → builder, latent shape, other inputs, where its attention function is, blocks' lists, picture tokens
NETWORKS: dict[str, Any] = {
    "UNet": (unet, PICTURE, {}, (attention, "optimized_attention"), (), None),
    "SD3": (sd3, PICTURE, {"y": POOLED}, (mmdit, "optimized_attention"), ("joint_blocks",), 24),
    "Flux": (
        flux, PICTURE, {"y": POOLED, "guidance": None}, (flux_math, "optimized_attention"),
        ("double_blocks", "single_blocks"), 24,
    ),
    "Wan": (wan_model, VIDEO, {}, (wan, "optimized_attention"), ("blocks",), 72),
    "LTX": (
        ltx, VIDEO, {"attention_mask": None, "frame_rate": 25}, (attention, "optimized_attention"),
        ("transformer_blocks",), 288,
    ),
    "Z-Image": (
        z_image, PICTURE, {"num_tokens": TEXT}, (lumina, "optimized_attention_masked"), ("layers",),
        (7, 24, 35),
    ),
    "Cosmos": (mini_train, VIDEO, {}, (predict2, "optimized_attention"), ("blocks",), 72),
    "Anima": (
        lambda: mini_train(Anima), (2, 4, 1, 8, 12), {}, (predict2, "optimized_attention"), ("blocks",), 24,
    ),
    "HiDream": (
        hidream_model, PICTURE,
        {"y": POOLED, "encoder_hidden_states_llama3": torch.linspace(-1, 1, 320).reshape(2, 2, TEXT, 16)},
        (hidream, "optimized_attention"), ("double_stream_blocks", "single_stream_blocks"), (0, 24, 39),
    ),
    "Krea 2": (krea2_model, PICTURE, {}, (krea2, "optimized_attention_masked"), ("blocks",), 24),
}  # fmt: skip


class Rig:
    """A tiny network as a native MODEL, and one input."""

    def __init__(self, name: str) -> None:
        build, self.shape, self.extra, self.where, self.lists, self.tokens = NETWORKS[name]
        torch.manual_seed(0)
        net = build()
        for p in net.parameters():
            if p.ndim < 2:
                nn.init.normal_(p, 0.5, 0.3)
            else:
                nn.init.normal_(p, std=1.5 / p[0].numel() ** 0.5)
        if name == "SD3":  # which loads its places' embedding
            for b in net.buffers():
                b.normal_()
        self.base = model_base.BaseModel(
            n.Config({"disable_unet_model_creation": True}), ModelType.FLOW, device=n.CPU
        )
        self.base.diffusion_model = net.eval().requires_grad_(False)
        self.base.current_patcher = model_patcher.ModelPatcher(self.base, n.CPU, n.CPU)
        self.x, self.context = torch.randn(self.shape), torch.randn(2, TEXT, 16)

    def __call__(self, options: dict[str, Any] | None = None) -> Tensor:
        given = (options or {}).get("transformer_options", {})
        t = torch.full((2,), 0.6)
        return self.base.apply_model(
            self.x, t, c_crossattn=self.context, transformer_options=dict(given), **self.extra
        )

    @property
    def net(self) -> Any:
        return self.base.diffusion_model

    def picture(self, count: int) -> slice | None:
        """The picture's places in an attention over ``count`` tokens, if it is over the picture."""
        if isinstance(self.tokens, tuple):
            start, tokens, total = self.tokens
            return slice(start, start + tokens) if count == total else None
        tokens = self.tokens or count
        return slice(count - tokens, count) if count in (tokens, tokens + TEXT) else None

    def everything(self, kind: str) -> tuple[str, ...]:
        """The names of all layers that a kind of perturbation knows."""
        known = perturb._known(self.net, Perturbation(kind))
        return tuple(dict.fromkeys(perturb._name(key) for key in known.values()))

    def perturbed(self, kind: str, *layers: str, blur: float = 0.0) -> Tensor:
        return self(perturb.perturbed({}, Perturbation(kind, layers, blur)))


@contextmanager
def by_hand(rig: Rig, change: Callable[..., Any] | None) -> Iterator[None]:
    """Attention by softmax, and self-attention over the picture's tokens as ``change(q, v)`` says.

    change → (queries or None, output or None), of the picture's tokens [B, heads, N, d].
    """
    module, name = rig.where
    usual = getattr(module, name)

    def heads_of(t: Tensor, heads: int, apart: bool) -> Tensor:
        return t if apart else t.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *_: Any, **kw: Any) -> Tensor:
        q, k, v = (heads_of(t, heads, kw.get("skip_reshape", False)) for t in (q, k, v))
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        here, out = rig.picture(q.shape[-2]), None
        if change and here is not None and q.shape[-2] == k.shape[-2]:
            queries, out = change(q[:, :, here], v[:, :, here])
            if queries is not None:
                q = q.clone()
                q[:, :, here] = queries
        got = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v
        if out is not None:
            got[:, :, here] = out
        return got.transpose(1, 2).flatten(2)

    setattr(module, name, attend)
    try:
        yield
    finally:
        setattr(module, name, usual)


def truth(rig: Rig, change: Callable[..., Any] | None) -> Tensor:
    with by_hand(rig, change):
        return rig()


def mean_query(q: Tensor, v: Tensor) -> Any:
    """The limit of an infinite blur: each frame's mean, over the picture, for every one of its queries."""
    frames = 3 if q.shape[-2] in (72, 288) else 1
    x = q.unflatten(-2, (frames, -1))
    return x.mean(-2, keepdim=True).expand_as(x).flatten(-3, -2), None


class Through(nn.Module):
    """A block of HiDream that does nothing."""

    def forward(self, image_tokens: Tensor, text_tokens: Tensor | None, **_: Any) -> Any:
        return image_tokens if text_tokens is None else (image_tokens, text_tokens)


def without(rig: Rig, name: str) -> Tensor:
    """The network's output without one block, which is really taken out of a copy."""
    other = copy.copy(rig)
    other.base = copy.copy(rig.base)
    other.base._modules = dict(rig.base._modules)
    net = other.base.diffusion_model = copy.deepcopy(rig.net)
    kind, *number = name.split(".")
    if not rig.lists:
        block = (
            net.middle_block if name == "middle" else getattr(net, f"{kind}_blocks")[int(number[0])]
        )
        for i, layer in enumerate(block):
            if isinstance(layer, attention.SpatialTransformer):
                block[i] = nn.Identity()
    else:
        blocks = getattr(net, rig.lists[len(rig.lists) > 1 and kind == "single"])
        if isinstance(net, hidream.HiDreamImageTransformer2DModel):  # each block has its own text
            blocks[int(number[0])] = Through()
        else:
            del blocks[int(number[0])]
    return other()


def measure(name: str) -> dict[str, Any]:
    """Distances to what they should be, relative to the size of the perturbation where that is wanted."""
    rig = Rig(name)
    before = rig()
    found: dict[str, Any] = {"size": float(before.std())}
    found["hand"] = n.distance(truth(rig, None), before)  # the checker itself
    layers = rig.everything("identity")
    identity = rig.perturbed("identity", *layers)
    found["identity"] = n.distance(identity, truth(rig, lambda q, v: (None, v)))
    found["identity effect"] = n.distance(identity, before)
    found["blur 0"] = torch.equal(rig.perturbed("blur", *layers, blur=0.0), before)
    found["blur small"] = n.distance(rig.perturbed("blur", *layers, blur=0.05), before)
    wide = rig.perturbed("blur", *layers, blur=1e8)
    found["blur wide"] = n.distance(wide, truth(rig, mean_query))
    found["blur effect"] = n.distance(wide, before)
    skipped = {layer: rig.perturbed("skip", layer) for layer in rig.everything("skip")}
    found["skip"] = {k: n.distance(v, without(rig, k)) for k, v in skipped.items()}
    found["skip effect"] = {k: n.distance(v, before) for k, v in skipped.items()}
    found["default"] = {
        kind: [perturb._name(key) for key in perturb.layers(rig.net, Perturbation(kind))]
        for kind in ("identity", "blur", "skip")
    }
    for kind in ("identity", "blur", "skip"):
        rig.perturbed(kind, blur=1.0)
    found["afterwards"] = torch.equal(rig(), before)
    return found


def other_patches() -> dict[str, bool]:
    """Patches of other nodes stay, ours adds to a copy, and the host's batching takes it."""
    rig = Rig("UNet")
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Tensor]:
        def patch(q: Tensor, k: Tensor, v: Tensor, options: Any) -> Tensor:
            calls.append(name)
            return attention.optimized_attention(q, k, v, options["n_heads"])

        return patch

    theirs = {"transformer_options": {"patches_replace": {
        "attn1": {("middle", 0, 0): noted("attn1")}, "attn2": {("middle", 0): noted("attn2")},
    }}}  # fmt: skip
    keys = {k: set(v) for k, v in theirs["transformer_options"]["patches_replace"].items()}
    skipped = perturb.perturbed(theirs, Perturbation("skip", ("input.3",)))
    rig(skipped)
    found = {"kept": calls == ["attn1", "attn2", "attn2"]}
    calls.clear()
    rig(perturb.perturbed(theirs, Perturbation("identity")))
    found["attention is ours"] = calls == ["attn2", "attn2"]
    now = theirs["transformer_options"]
    found["not touched"] = list(now) == ["patches_replace"] and keys == {
        k: set(v) for k, v in now["patches_replace"].items()
    }
    cond = [{"model_conds": {"c_crossattn": n.comfy.conds.CONDRegular(rig.context)}, "uuid": 0}]
    options = perturb.perturbed({"transformer_options": {}}, Perturbation("identity"))
    t = torch.full((2,), 0.6)
    (out,) = samplers.calc_cond_batch(rig.base, [cond], rig.x, t, options)
    found["calc_cond_batch"] = n.distance(out, rig.perturbed("identity")) < 1e-5
    return found


def full_size() -> dict[str, list[str]]:
    """The default blocks of skip in networks as deep as the real ones."""
    skip = Perturbation("skip")
    with torch.device("meta"):
        deep = {"SD3": sd3(12), "Wan": wan_model(30)}
    return {k: [perturb._name(key) for key in perturb.layers(v, skip)] for k, v in deep.items()}


class Deaf(UNetModel):
    """A network that does not look at its options."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


def refusals() -> dict[str, str]:
    rig, other, deaf = Rig("UNet"), Rig("SD3"), Rig("UNet")
    deaf.net.__class__ = Deaf
    unknown = Rig("UNet")
    unknown.base.diffusion_model = nn.Identity()
    tokens = Rig("Flux")
    return {
        "class": n.message(lambda: unknown.perturbed("identity")),
        "layer": n.message(lambda: rig.perturbed("identity", "7")),
        "block": n.message(lambda: other.perturbed("skip", "9")),
        "deaf": n.message(lambda: deaf.perturbed("skip")),
        "grid": n.message(lambda: perturb.grid(tuple(tokens.x.shape), 25)),
    }


def main() -> None:
    global perturb, Perturbation
    torch.set_num_threads(1)
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    pack = next(key for key in sys.modules if key.endswith(".nodes.guidance.rules"))
    perturb = importlib.import_module(
        pack.replace(".nodes.guidance.rules", ".nodes.host.comfy.perturb")
    )
    Perturbation = perturb.Perturbation
    with torch.inference_mode():
        networks = {name: measure(name) for name in NETWORKS}
        families = {
            n: ["-".join(row.attention), "-".join(row.blocks)]
            for n, row in perturb.FAMILIES.items()
        }
        more = {"families": families}
        more |= {"full size": full_size(), "others": other_patches(), "refusals": refusals()}
        print(json.dumps({"networks": networks, **more}))


if __name__ == "__main__":
    main()
