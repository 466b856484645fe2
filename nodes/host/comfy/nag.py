"""Two prompts in one call of a network of ComfyUI, for NAG.

The negative prompt's tokens go along in an APPLY_MODEL wrapper in a copy of ``model_options``: nothing is installed in the
MODEL, and ControlNets do not see them. Where they go, by the host's public hooks:

==========  =====================================================================================================
UNets       ``attn2_patch`` puts them behind the positive's, ``patches_replace["attn2"]`` attends to each alone
joint       behind the positive's in the context; ``patches_replace["dit"]`` runs each block with an attention in
            which each prompt sees itself and the picture, and gives them the positions they would have alone
crossed     the same, with a picture that attends to each
Lumina      takes no replacement, and its picture's positions count the text: its blocks run otherwise for one
            call (``changed_blocks.py``), with the negative prompt embedded beside
==========  =====================================================================================================

Cost: the tokens of the negative prompt in every layer, and attention once more. What else a condition carries (pooled text,
guidance, reference pictures) is the positive's for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_base
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from ....schedulers.guidance.base import InAttention
from ....schedulers.guidance.changed_blocks import Key, Options, instead, picture_of, replaced
from ....schedulers.guidance.two_prompts import crossed, joint

Split = Callable[[Callable[..., Tensor], Tensor, Tensor, Tensor], "Tensor | None"]

#: Classes below comfy.ldm, exactly (a subclass may have blocks of its own), by how prompts go into them; of transformers the
#: lists of blocks that take replacements, by what the host calls them.
UNET, LUMINA = "modules.diffusionmodules.openaimodel.UNetModel", "lumina.model.NextDiT"
_FLUX = {"double_block": "double_blocks", "single_block": "single_blocks"}
JOINT = {
    "modules.diffusionmodules.mmdit.MMDiT": {"double_block": "joint_blocks"},
    "flux.model.Flux": _FLUX,
    "chroma.model.Chroma": _FLUX,
    "qwen_image.model.QwenImageTransformer2DModel": {"double_block": "transformer_blocks"},
}
CROSSED = {"wan.model.WanModel": {"double_block": "blocks"}}
POSSIBLE = (UNET, *JOINT, *CROSSED, LUMINA)
#: What restricts a condition to a part of the picture or of the run.
PARTS = ("area", "mask", "timestep_start", "timestep_end")


@dataclass
class Pair:
    """The negative prompt beside the positive one, in one call of a network."""

    network: Any
    minus: Tensor  # [B, N⁻, C]
    guide: InAttention
    rows: Tensor | None  # [B], True where an image is guided
    used: bool = False


def with_negative(
    options: Options, negative: Sequence[dict[str, Any]], guide: InAttention
) -> Options:
    """A copy of ``model_options`` in which calls for the first of their conditions are guided in attention.

    negative: the host's prepared conditions. Raises ValueError where they are not one prompt for the whole picture, and at
    the call for a MODEL that this is not possible for.
    """
    tokens = _tokens(negative)

    def call(
        executor: Any, x: Tensor, t: Tensor, concat: Any, context: Any, control: Any, options: Options, **kwargs: Any
    ) -> Tensor:  # fmt: skip
        base = executor.class_obj
        name = _possible(base)
        if context is None or context.shape[-1] != tokens.shape[-1]:
            raise ValueError(
                f"NAG: negative_prompt has tokens of {tokens.shape[-1]} numbers, and the positive condition "
                f"{'none' if context is None else context.shape[-1]}: encode both with the MODEL's text encoder"
            )
        shown = options.get("cond_or_uncond") or [0]
        if 0 not in shown:
            return executor(x, t, concat, context, control, options, **kwargs)
        each = len(context) // len(shown)
        minus = comfy.utils.repeat_to_batch_size(tokens.to(context), each).repeat(len(shown), 1, 1)
        rows = torch.tensor([n == 0 for n in shown], device=x.device).repeat_interleave(each)
        pair = Pair(base.diffusion_model, minus, guide, None if set(shown) == {0} else rows)
        length = context.shape[1]
        if name == UNET:
            options = _in_unet(options, pair)
        elif name != LUMINA:
            _refuse_mask(kwargs.get("attention_mask"))
            context = torch.cat([context, minus], 1)
            options = _in_blocks(options, pair, length, name)
        with _in_lumina(pair, tuple(x.shape), name == LUMINA):
            out: Tensor = executor(x, t, concat, context, control, options, **kwargs)
        if not pair.used:
            raise ValueError(
                f"NAG: this MODEL ({type(pair.network).__name__}) did not pass through the attention to the text where it can be "
                "replaced; take out patches that cache or replace its blocks"
            )
        return out

    kind, key = comfy.patcher_extension.WrappersMP.APPLY_MODEL, "sampling_kit"
    copied = comfy.patcher_extension.copy_nested_dicts(options)
    wrappers = copied.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers.setdefault(kind, {}).setdefault(key, []).append(call)
    return copied


def _tokens(negative: Sequence[dict[str, Any]]) -> Tensor:
    """The tokens [B, N, C] of a negative prompt."""
    if len(negative) != 1:
        raise ValueError(
            f"NAG: negative_prompt holds {len(negative)} conditions: combined ones cannot stand beside the positive prompt; "
            "connect one prompt"
        )
    parts = [name for name in PARTS if negative[0].get(name) is not None]
    held = negative[0]["model_conds"].get("c_crossattn")
    if parts or held is None:
        why = f"is restricted ({', '.join(parts)})" if parts else "holds no text"
        raise ValueError(
            f"NAG: negative_prompt {why}; connect one prompt for the whole picture and the whole run, and NAG's curve for a part of it"
        )
    tokens: Tensor = held.cond
    return tokens


def _possible(base: Any) -> str:
    """The class of a MODEL's network. Raises ValueError where NAG is not possible."""
    kind = type(base.diffusion_model)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("comfy.ldm.")
    prepares = type(base)._apply_model is not comfy.model_base.BaseModel._apply_model
    if name not in POSSIBLE or prepares:
        what = (
            f"{type(base).__name__}, whose positions count the text" if prepares else kind.__name__
        )
        raise ValueError(
            f"NAG: not possible with this MODEL ({what}); it is with "
            f"{', '.join(n.rsplit('.', 1)[1] for n in POSSIBLE)}. With others use CFG, or a model that was not distilled"
        )
    return name


def _refuse_mask(mask: Any) -> None:
    if mask is not None:
        raise ValueError(
            "NAG: something masks this MODEL's attention (attention_mask, regional prompts): two prompts side by side need it "
            "unmasked; take out that patch or condition"
        )


# -------------------------------------------------------------------------------------------- UNets


def _in_unet(options: Options, pair: Pair) -> Options:
    """Options with which every attention of a UNet to the text is guided."""

    def append(
        n: Tensor, context: Tensor, value: Tensor, extra: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        extra["sampling_kit_tokens"] = context.shape[1]
        more = pair.minus.to(context)
        return n, torch.cat([context, more], 1), torch.cat([value, more.to(value)], 1)

    def make(old: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def attn2(q: Tensor, k: Tensor, v: Tensor, extra: Options) -> Tensor:
            pair.used = True
            patch = old or _usual

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return patch(q, k, v, extra)

            return crossed(attend, q, k, v, extra["sampling_kit_tokens"], pair.guide, pair.rows)

        return attn2

    patches = dict(options.get("patches", {}))
    patches["attn2_patch"] = [*patches.get("attn2_patch", []), append]
    return replaced({**options, "patches": patches}, "attn2", list(_places(pair.network)), make)


def _places(network: Any) -> Iterator[Key]:
    """(part, number, depth) of every transformer block of a UNet: such a place wins over (part, number)."""
    middle = [] if network.middle_block is None else [network.middle_block]
    parts = {"input": network.input_blocks, "middle": middle, "output": network.output_blocks}
    for part, blocks in parts.items():
        for i, block in enumerate(blocks):
            for layer in block:
                for depth in range(len(getattr(layer, "transformer_blocks", ()))):
                    yield part, i, depth


def _usual(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    """The attention that a UNet's block runs where nothing replaces it."""
    from comfy.ldm.modules.attention import optimized_attention

    heads, precision = options["n_heads"], options["attn_precision"]
    out: Tensor = optimized_attention(
        q, k, v, heads, attn_precision=precision, transformer_options=options
    )
    return out


# ----------------------------------------------------------------------------------- transformers


def _in_blocks(options: Options, pair: Pair, length: int, name: str) -> Options:
    """Options with which the blocks of a transformer know ``length`` tokens of the positive prompt, the rest being the negative's."""
    lists = (JOINT | CROSSED)[name]
    keys = [
        (kind, i) for kind, list_ in lists.items() for i in range(len(getattr(pair.network, list_)))
    ]
    make = partial(_crossed_block if name in CROSSED else _joint_block, pair, length)
    return replaced(options, "dit", keys, make)


def _joint_block(pair: Pair, length: int, old: Callable[..., Any] | None) -> Callable[..., Any]:
    """A block with text and picture in one attention: the positive prompt, the negative, the picture."""
    total = length + pair.minus.shape[1]

    def block(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        inside = "txt" not in args  # a single-stream block
        text = args["transformer_options"]["img_slice"][0] if inside else args["txt"].shape[1]
        if text != total:
            raise ValueError(
                f"NAG: a patch of this MODEL changed the number of text tokens from {total} to {text}; take it out"
            )
        every = args["img"].shape[1] + (0 if inside else text)
        parts = {
            "plus": slice(0, length),
            "minus": slice(length, total),
            "picture": slice(total, every),
        }

        def split(attend: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
            if q.shape[-2] != every:
                return None
            return joint(attend, q, k, v, parts, pair.guide, pair.rows)

        given = {**args, "transformer_options": attending(args["transformer_options"], split, pair)}
        if (
            pe := args.get("pe")
        ) is not None:  # positions [B, 1, N, …], those of the negative as if alone
            given["pe"] = torch.cat(
                [pe[:, :, :length], pe[:, :, : total - length], pe[:, :, total:]], 2
            )
        return extra["original_block"](given) if old is None else old(given, extra)

    return block


def _crossed_block(pair: Pair, length: int, old: Callable[..., Any] | None) -> Callable[..., Any]:
    """A block whose picture attends to itself, then to the text."""
    total = length + pair.minus.shape[1]

    def block(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        calls = 0

        def split(attend: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            if (
                calls == 1 or k.shape[-2] != total
            ):  # the picture itself, or tokens of a reference picture
                return None
            return crossed(attend, q, k, v, length, pair.guide, pair.rows)

        given = {**args, "transformer_options": attending(args["transformer_options"], split, pair)}
        return extra["original_block"](given) if old is None else old(given, extra)

    return block


def attending(options: Options, split: Split, pair: Pair) -> Options:
    """``options`` with an attention that is what ``split`` gives, the usual where that is None."""
    old = options.get("optimized_attention_override")

    def attention(
        usual: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        # q, k, v are [B, N, heads·d] or [B, N, heads, d], or with skip_reshape [B, heads, N, d]; the
        # result is [B, N, heads·d], or with skip_output_reshape [B, heads, N, d]
        apart, asked = (bool(kwargs.get(n)) for n in ("skip_reshape", "skip_output_reshape"))
        if not apart:
            q, k, v = (t.flatten(2) for t in (q, k, v))

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            more = (q, k, v, heads, *args)
            out: Tensor = usual(*more, **kwargs) if old is None else old(usual, *more, **kwargs)
            return out

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = run(q, k, v)
            return out.transpose(1, 2).flatten(2) if asked else out

        z = split(attend, q, k, v)
        if z is None:
            return run(q, k, v)
        _refuse_mask(args[0] if args else kwargs.get("mask"))
        pair.used = True
        return z.unflatten(-1, (heads, -1)).transpose(1, 2) if asked else z

    return {**options, "optimized_attention_override": attention}


# ------------------------------------------------------------------------------------------- Lumina


@contextmanager
def _in_lumina(pair: Pair, shape: tuple[int, ...], here: bool) -> Iterator[None]:
    """NextDiT's blocks with the negative prompt's tokens behind the picture's, which leave with each block."""
    if not here:
        yield
        return
    network = pair.network
    beside: list[Tensor] = []

    def forward(key: Key, usual: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Tensor, mask: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("timestep_zero_index") is not None:
                raise ValueError(
                    "NAG: not possible with reference pictures in this MODEL (NextDiT); leave them out"
                )
            options, count = kwargs["transformer_options"], x.shape[1]
            if not beside:
                beside.extend(_embedded(network, pair.minus.to(x), options))
            minus, places = beside
            start = picture_of["lumina"](network, shape, x, count, options).start
            every = count + minus.shape[1]
            parts = {
                "plus": slice(0, start),
                "picture": slice(start, count),
                "minus": slice(count, every),
            }

            def split(attend: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return joint(attend, q, k, v, parts, pair.guide, pair.rows)

            kwargs = {**kwargs, "transformer_options": attending(options, split, pair)}
            places = torch.cat([positions, places.expand(len(positions), *places.shape[1:])], 1)
            out = usual(torch.cat([x, minus], 1), mask, places, *args, **kwargs)
            beside[0] = out[:, count:]
            return out[:, :count]

        return run

    with instead({("double_block", i): block for i, block in enumerate(network.layers)}, forward):
        yield


def _embedded(network: Any, tokens: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """A prompt's tokens as NextDiT's blocks see them when it stands alone, and their positions."""
    embedded, positions, _ = network.embed_cap(
        tokens, bsz=1, device=tokens.device, dtype=tokens.dtype
    )
    state, places = embedded[0], positions[0]
    for layer in network.context_refiner:
        state = layer(state, None, places, transformer_options=options)
    return state, places.to(state.device)
