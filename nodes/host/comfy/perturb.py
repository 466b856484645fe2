"""Perturbed branches inside ComfyUI: attention and blocks replaced for one call of the network.

A branch's Perturbation becomes an APPLY_MODEL wrapper in a copy of ``model_options``. For each call the
wrapper puts the host's own replacement patches (``transformer_options["patches_replace"]``) into a copy
of the call's options: nothing is installed in the model, and ControlNets do not see them. Families whose blocks take no
replacement (``Family.picture``) are changed in ``schedulers/guidance/changed_blocks.py`` for the length of the call.

==========  ==========================================  =============================================
kind        UNets                                       transformers
==========  ==========================================  =============================================
identity    ``attn1`` replaced by V                     block run with an attention whose output for
                                                        the picture's tokens is their V
blur        ``attn1`` with queries blurred over space   the same with the picture's queries blurred
skip        the block's transformer left out            the block left out: what goes in comes out
==========  ==========================================  =============================================

In joint attention (text and picture in one sequence) the text's tokens attend as ever. Rotary positions
are in the queries before they are blurred: what is blurred are the attention's logits over the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ....schedulers.guidance import Perturbation
from ....schedulers.guidance.changed_blocks import (
    Change,
    Picture,
    changed_blocks,
    override,
    picture_of,
    replaced,
)

TITLES = {"identity": "PAG", "blur": "SEG", "skip": "Skip-Layer"}
Options = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Family:
    """A transformer that takes block replacements. ``blocks``: kind as the host calls it → attribute.

    skip: the blocks that are usually left out. attention: kinds of block whose attention can be reached
    and whose picture tokens are known. joint: text and picture share one attention, the text first.
    picture: for blocks that take no replacement, where the picture's tokens are in one.
    """

    blocks: dict[str, str]
    skip: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    joint: bool = True
    picture: Picture | None = None


_DOUBLE, _SINGLE = "double_block", "single_block"
_FLUX = {_DOUBLE: "double_blocks", _SINGLE: "single_blocks"}
_SLG = ("double.7", "double.8", "double.9")
UNET = "modules.diffusionmodules.openaimodel.UNetModel"

#: Module and class below comfy.ldm (subclasses count) → what it takes. Skip: SD3.5 as Stability AI;
#: Flux and its kin as the host's own node; Wan and LTX as users of them do; others their middle.
FAMILIES: dict[str, Family] = {
    "modules.diffusionmodules.mmdit.MMDiT": Family({_DOUBLE: "joint_blocks"}, _SLG, (_DOUBLE,)),
    "flux.model.Flux": Family(
        _FLUX, (*_SLG, "single.7", "single.8", "single.9"), (_DOUBLE, _SINGLE)
    ),
    "chroma.model.Chroma": Family(
        _FLUX, (*_SLG, "single.7", "single.8", "single.9"), (_DOUBLE, _SINGLE)
    ),
    "hunyuan_video.model.HunyuanVideo": Family(_FLUX, (), (_DOUBLE,)),
    "aura.mmdit.MMDiT": Family(
        {_DOUBLE: "double_layers", _SINGLE: "single_layers"}, (), (_DOUBLE,)
    ),
    "qwen_image.model.QwenImageTransformer2DModel": Family(
        {_DOUBLE: "transformer_blocks"}, (), (_DOUBLE,)
    ),
    "wan.model.WanModel": Family({_DOUBLE: "blocks"}, ("double.9",), (_DOUBLE,), joint=False),
    "lightricks.av_model.LTXAVModel": Family({_DOUBLE: "transformer_blocks"}, ("double.14",)),
    "lightricks.model.LTXVModel": Family(
        {_DOUBLE: "transformer_blocks"}, ("double.14",), (_DOUBLE,), joint=False
    ),
    "genmo.joint_model.asymm_models_joint.AsymmDiTJoint": Family({_DOUBLE: "blocks"}),
    "hydit.models.HunYuanDiT": Family({_DOUBLE: "blocks"}),
    "kandinsky5.model.Kandinsky5": Family({_DOUBLE: "visual_transformer_blocks"}),
    "lumina.model.NextDiT": Family(
        {_DOUBLE: "layers"}, (), (_DOUBLE,), picture=picture_of["lumina"]
    ),
    "cosmos.predict2.MiniTrainDIT": Family(
        {_DOUBLE: "blocks"}, (), (_DOUBLE,), picture=picture_of["cosmos"]
    ),
    "hidream.model.HiDreamImageTransformer2DModel": Family(
        {_DOUBLE: "double_stream_blocks", _SINGLE: "single_stream_blocks"},
        (),
        (_DOUBLE, _SINGLE),
        picture=picture_of["hidream"],
    ),
    "krea2.model.SingleStreamDiT": Family(
        {_SINGLE: "blocks"}, (), (_SINGLE,), picture=picture_of["krea2"]
    ),
}


def perturbed(model_options: Options, perturbation: Perturbation) -> Options:
    """A copy of ``model_options`` with which every call of the network is perturbed.

    Raises ValueError, at the call, for a MODEL or a layer that this is not possible for.
    """

    def call(
        executor: Any, x: Tensor, t: Tensor, concat: Any, context: Any, control: Any,
        options: Options, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        used: set[Key] = set()
        network = executor.class_obj.diffusion_model
        keys = layers(network, perturbation)
        shape, row = tuple(x.shape), family(network)
        with ExitStack() as stack:
            if row is not None and row.picture is not None:
                change = None if perturbation.kind == "skip" else _change(perturbation, shape)
                blocks = {key: getattr(network, row.blocks[key[0]])[key[1]] for key in keys}
                here = partial(row.picture, network, shape)
                stack.enter_context(changed_blocks(blocks, change, here, used))
            else:
                options = patched(options, network, perturbation, keys, shape, used)
            out: Tensor = executor(x, t, concat, context, control, options, **kwargs)
        if unused := [_name(k) for k in keys if not any(u[: len(k)] == k for u in used)]:
            raise ValueError(
                f"{TITLES[perturbation.kind]}: this MODEL ({type(network).__name__}) did not pass through "
                f"the layers {', '.join(unused)} where they can be replaced"
            )
        return out

    kind, key = comfy.patcher_extension.WrappersMP.APPLY_MODEL, "sampling_kit"
    options = comfy.patcher_extension.copy_nested_dicts(model_options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers.setdefault(kind, {}).setdefault(key, []).append(call)
    return options


# ----------------------------------------------------------------------------------- which layers


def layers(network: nn.Module, perturbation: Perturbation) -> list[Key]:
    """The layers a perturbation means, as the host's keys: ("middle", 0), ("double_block", 7) …

    Names: ``middle``, ``input.4``, ``output.3`` of UNets (for attention also ``input.4.0``, one of
    several in a block); ``7``, ``double.7``, ``single.7`` of transformers. Raises ValueError for a
    network that is not known or has no such layer.
    """
    title, known = TITLES[perturbation.kind], _known(network, perturbation)
    if not known:
        raise ValueError(
            f"{title}: not possible with this MODEL ({type(network).__name__}); it is with "
            f"{', '.join(dict.fromkeys(n.rsplit('.', 1)[1] for n in (UNET, *FAMILIES)))}"
        )
    if not perturbation.layers:
        return _usual(network, perturbation, known)
    found = []
    for name in perturbation.layers:
        if name not in known:
            names = dict.fromkeys(_name(key) for key in known.values())
            raise ValueError(
                f"{title}: layers: this MODEL ({type(network).__name__}) has no layer {name!r}; it has "
                f"{', '.join(names)}"
            )
        found.append(known[name])
    return list(dict.fromkeys(found))


def family(network: nn.Module) -> Family | None:
    """The entry of ``FAMILIES`` for the network's class or the nearest base class."""
    return next((FAMILIES[n] for n in _classes(network) if n in FAMILIES), None)


def _classes(network: nn.Module) -> list[str]:
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(network).__mro__)
    return [name.removeprefix("comfy.ldm.") for name in names]


def _known(network: nn.Module, perturbation: Perturbation) -> dict[str, Key]:
    """Every name of every layer the perturbation is possible for → its key."""
    if UNET in _classes(network):
        return _unet_layers(network, perturbation.kind != "skip")
    row = family(network)
    if row is None:
        return {}
    allowed = row.blocks if perturbation.kind == "skip" else row.attention
    known: dict[str, Key] = {}
    for block in allowed:
        for i in range(len(getattr(network, row.blocks[block], ()))):
            known[_name((block, i))] = known[f"{block}.{i}"] = (block, i)
            known.setdefault(str(i), (block, i))
    return known


def _unet_transformer() -> Any:
    """ComfyUI's transformer in a UNet. Imported where one is changed: a name that ComfyUI moves then costs this, not
    every node of the pack."""
    from comfy.ldm.modules.attention import SpatialTransformer

    return SpatialTransformer


def _unet_layers(network: Any, inside: bool) -> dict[str, Key]:
    """Blocks that hold a transformer; ``inside``: each of its transformer blocks as well."""
    known: dict[str, Key] = {}
    middle = [] if network.middle_block is None else [network.middle_block]
    parts = {"input": network.input_blocks, "middle": middle, "output": network.output_blocks}
    for part, blocks in parts.items():
        for i, block in enumerate(blocks):
            for layer in (m for m in block if isinstance(m, _unet_transformer())):
                known[_name((part, i))] = known[f"{part}.{i}"] = (part, i)
                for depth in range(len(layer.transformer_blocks) if inside else 0):
                    known[f"{part}.{i}.{depth}"] = (part, i, depth)
    return known


def _usual(network: nn.Module, perturbation: Perturbation, known: dict[str, Key]) -> list[Key]:
    """The default: what is usual for the class, else the middle."""
    row = family(network)
    usual = row.skip if row and perturbation.kind == "skip" else ("middle",)
    if all(name in known for name in usual) and usual:
        return [known[name] for name in usual]
    keys = [key for key in dict.fromkeys(known.values()) if key[0] == next(iter(known.values()))[0]]
    return [keys[len(keys) // 2]]


def _name(key: Key) -> str:
    """The short name of a key."""
    if key == ("middle", 0):
        return "middle"
    return ".".join((str(key[0]).removesuffix("_block"), *map(str, key[1:])))


# -------------------------------------------------------------------------------- what is put there


def patched(
    options: Options, network: nn.Module, perturbation: Perturbation, keys: Sequence[Key],
    shape: tuple[int, ...], used: set[Key],
) -> Options:  # fmt: skip
    """A copy of one call's options with the replacements; they note their places in ``used``.

    shape: of the latents, for the places of the tokens.
    """
    if UNET in _classes(network):
        if perturbation.kind == "skip":
            return _without_transformers(options, keys, used)
        places = list(dict.fromkeys(place for key in keys for place in _places(network, key)))
        change = _change(perturbation, shape)
        return replaced(options, "attn1", places, lambda old: _attn1(change, old), used)
    if perturbation.kind == "skip":
        return replaced(options, "dit", keys, lambda old: lambda args, extra: args, used)
    row, change = family(network), _change(perturbation, shape)
    joint = row is not None and row.joint
    return replaced(options, "dit", keys, lambda old: _block(change, joint, old), used)


def _places(network: Any, key: Key) -> Iterator[Key]:
    """(block, number, depth) of every attention a UNet's key means: those win over (block, number)."""
    if len(key) == 3:
        yield key
        return
    part, number = key
    block = network.middle_block if part == "middle" else getattr(network, f"{part}_blocks")[number]
    for layer in (m for m in block if isinstance(m, _unet_transformer())):
        for depth in range(len(layer.transformer_blocks)):
            yield part, number, depth


def _without_transformers(options: Options, keys: Sequence[Key], used: set[Key]) -> Options:
    """Options with which a UNet leaves out the transformers of some blocks."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed

    patches = dict(options.get("patches", {}))
    others = patches.pop("forward_timestep_embed_patch", [])

    def handler(
        layer: nn.Module, x: Tensor, emb: Tensor, context: Any, options: Options,
        shape: Any = None, time_context: Any = None, frames: Any = None, image_only: Any = None,
    ) -> Tensor:  # fmt: skip
        here = options.get("block")
        if here is not None and here in keys:
            used.add(tuple(here))
            options["transformer_index"] = options.get("transformer_index", 0) + 1
            return x
        usual = {**options, "patches": {**patches, "forward_timestep_embed_patch": others}}
        more = (shape, time_context, frames, image_only)
        y: Tensor = forward_timestep_embed([layer], x, emb, context, usual, *more)
        options.update({k: v for k, v in usual.items() if k != "patches"})
        return y

    first = [(_unet_transformer(), handler)]
    return {**options, "patches": {**patches, "forward_timestep_embed_patch": first + others}}


def _attn1(change: Change, old: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """Replacement of a UNet's self-attention; its tokens are the picture's."""
    from comfy.ldm.modules.attention import optimized_attention

    def attn1(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        def run(q: Tensor) -> Tensor:
            if old is not None:
                return old(q, k, v, options)
            heads, precision = options["n_heads"], options["attn_precision"]
            out: Tensor = optimized_attention(
                q, k, v, heads, attn_precision=precision, transformer_options=options
            )
            return out

        return change(q, v, slice(0, q.shape[-2]), run)

    return attn1


def _block(change: Change, joint: bool, old: Callable[..., Any] | None) -> Callable[..., Any]:
    """A transformer's block, run with an attention that changes the picture's tokens."""

    def block(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        options = args["transformer_options"]
        picture, text = args["img"].shape[1], 0
        if joint:
            inside = "txt" not in args  # a single-stream block: the text comes first in the picture
            text = options["img_slice"][0] if inside else args["txt"].shape[1]
            picture -= text if inside else 0

        def where(count: int) -> slice | None:
            return slice(count - picture, count) if count in (picture, text + picture) else None

        ours = override(change, where, text == 0, options)
        given = {**args, "transformer_options": ours}
        return extra["original_block"](given) if old is None else old(given, extra)

    return block


def _change(perturbation: Perturbation, shape: tuple[int, ...]) -> Change:
    """What ``identity`` and ``blur`` make of attention in latents of ``shape``."""
    std = perturbation.blur

    def identity(q: Tensor, v: Tensor, here: slice, run: Callable[[Tensor], Tensor]) -> Tensor:
        return v if _all(here, q) else _put(run(q), here, v[..., here, :])

    def blur(q: Tensor, v: Tensor, here: slice, run: Callable[[Tensor], Tensor]) -> Tensor:
        picture = blurred(q[..., here, :], shape, std)
        return run(picture if _all(here, q) else _put(q, here, picture))

    return {"identity": identity, "blur": blur}[perturbation.kind]


def _all(here: slice, q: Tensor) -> bool:
    return (here.start, here.stop) == (0, q.shape[-2])


def _put(tokens: Tensor, here: slice, picture: Tensor) -> Tensor:
    """``tokens`` [..., N, d] with others at ``here``."""
    return torch.cat([tokens[..., : here.start, :], picture, tokens[..., here.stop :, :]], -2)


def blurred(q: Tensor, shape: tuple[int, ...], std: float) -> Tensor:
    """Queries [..., N, d] blurred over the height and width of latents of ``shape``, frame by frame.

    The kernel is a Gaussian of ``std`` tokens that is renormalised at the borders: 0 is no blur,
    infinity the mean. Raises ValueError where N tokens are not the picture's grid.
    """
    if std == 0:
        return q
    frames, height, width = grid(shape, q.shape[-2])
    x = q.reshape(*q.shape[:-2], frames, height, width, q.shape[-1])
    across, down = (gaussian(n, std, q.dtype, q.device) for n in (width, height))
    return (down @ (across @ x).flatten(-2)).reshape(q.shape)


def grid(shape: tuple[int, ...], tokens: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of the tokens of latents [B, C, (T,) H, W] at any whole downscaling."""
    if len(shape) in (4, 5):
        frames = shape[2] if len(shape) == 5 else 1
        for factor in range(1, max(shape[-2:]) + 1):
            height, width = (-(-n // factor) for n in shape[-2:])
            if frames * height * width == tokens:
                return frames, height, width
    raise ValueError(
        f"SEG: {tokens} tokens of latents of shape {shape} do not form a picture to blur (reference "
        "pictures, merged tokens and sound have other ones)"
    )


@lru_cache(maxsize=32)
def gaussian(n: int, std: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n, n], rows sum to 1, made in float64 on the CPU."""
    at = torch.arange(n, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / std) ** 2)
    return (weights / weights.sum(1, keepdim=True)).to(dtype).to(device)
