"""Attention and blocks changed where a network takes no replacement: its blocks run otherwise for one call.

NextDiT, MiniTrainDIT, HiDream and Krea 2 look for no ``patches_replace``. For the length of one call of the network
``forward`` of some of its blocks is another function, which either gives back what came in or hands the usual block an
attention of its own (``optimized_attention_override`` in the call's options). Afterwards the blocks are as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Options = dict[str, Any]
Key = tuple[Any, ...]
#: change(q, v, picture, run) → what attention gives instead: q [..., N, d], v laid out as the result, ``picture``
#: the places of its tokens in N; ``run(q)`` is the usual attention with these queries.
Change = Callable[[Tensor, Tensor, slice, Callable[[Tensor], Tensor]], Tensor]
#: (network, latents' shape, a block's state [B, N, …], N of its attention, its options) → the picture's places in N
Picture = Callable[[Any, tuple[int, ...], Tensor, int, Options], slice]


def _tokens(network: Any, shape: tuple[int, ...]) -> int:
    """Tokens of the picture, one for a square of ``patch`` by ``patch``."""
    patch = getattr(network, "patch_size", None) or network.patch
    frames = shape[2] if len(shape) == 5 else 1
    return frames * -(-shape[-2] // patch) * -(-shape[-1] // patch)


def _lumina(
    network: Any, shape: tuple[int, ...], state: Tensor, count: int, options: Options
) -> slice:
    """Text, reference pictures, the picture, padding up to a multiple."""
    tokens = _tokens(network, shape)
    start = count - tokens - -tokens % (network.pad_tokens_multiple or 1)
    return slice(start, start + tokens)


def _first(
    network: Any, shape: tuple[int, ...], state: Tensor, count: int, options: Options
) -> slice:
    """The picture, then text."""
    return slice(0, _tokens(network, shape))


def _every(
    network: Any, shape: tuple[int, ...], state: Tensor, count: int, options: Options
) -> slice:
    """The picture alone."""
    return slice(0, count)


def _krea2(
    network: Any, shape: tuple[int, ...], state: Tensor, count: int, options: Options
) -> slice:
    """Text, the picture, reference pictures. Frames are images of the batch."""
    start = options["img_slice"][0]
    return slice(start, start + _tokens(network, shape[:2] + shape[-2:]))


picture_of: dict[str, Picture] = {
    "lumina": _lumina, "cosmos": _every, "hidream": _first, "krea2": _krea2,
}  # fmt: skip


@contextmanager
def changed_blocks(
    blocks: Mapping[Key, nn.Module],
    change: Change | None,
    picture: Callable[[Tensor, int, Options], slice],
    used: set[Key],
) -> Iterator[None]:
    """Blocks whose first attention is changed, or, without ``change``, that give back what comes in.

    They note their keys in ``used`` when they run.
    """

    def forward(key: Key, usual: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            used.add(key)
            state = args[0] if args else kwargs["image_tokens"]
            if change is None:
                text = kwargs.get("text_tokens")
                return state if text is None else (state, text)
            options = kwargs["transformer_options"]

            def where(count: int) -> slice:
                return picture(state, count, options)

            ours = override(change, where, True, options)
            return usual(*args, **{**kwargs, "transformer_options": ours})

        return run

    with instead(blocks, forward):
        yield


@contextmanager
def instead(
    blocks: Mapping[Key, nn.Module], make: Callable[[Key, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Blocks whose ``forward`` is ``make(key, forward)``; afterwards they are as they were."""
    before = {key: block.__dict__.get("forward") for key, block in blocks.items()}
    try:
        for key, block in blocks.items():
            block.__dict__["forward"] = make(key, block.forward)
        yield
    finally:
        for key, block in blocks.items():
            block.__dict__.pop("forward", None)
            if before[key] is not None:
                block.__dict__["forward"] = before[key]


def override(
    change: Change, where: Callable[[int], slice | None], once: bool, options: Options
) -> Options:
    """``options`` with an attention that changes self-attention; ``where(N)``: its picture's places, None to leave it.

    once: only the first such call; that after it reads the text, which may have as many tokens.
    """
    old, done = options.get("optimized_attention_override"), False

    def attention(
        usual: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        nonlocal done
        # q, k, v are [B, N, heads·d] or [B, N, heads, d], or with skip_reshape [B, heads, N, d]; the
        # result is [B, N, heads·d], or with skip_output_reshape [B, heads, N, d]
        apart, asked = (bool(kwargs.get(n)) for n in ("skip_reshape", "skip_output_reshape"))
        if not apart:
            q, k, v = (t.flatten(2) for t in (q, k, v))

        def run(q: Tensor) -> Tensor:
            more = (q, k, v, heads, *args)
            out: Tensor = usual(*more, **kwargs) if old is None else old(usual, *more, **kwargs)
            return out

        count = q.shape[-2]
        here = None if done or k.shape[-2] != count else where(count)
        if here is None:
            return run(q)
        done = once
        if apart and not asked:
            v_out = v.transpose(1, 2).flatten(2)
        else:
            v_out = v if apart == asked else v.unflatten(-1, (heads, -1)).transpose(1, 2)
        return change(q, v_out, here, run)

    return {**options, "optimized_attention_override": attention}


def replaced(
    options: Options, where: str, places: Sequence[Key],
    make: Callable[[Any], Callable[..., Any]], used: set[Key] | None = None,
) -> Options:  # fmt: skip
    """``make(patch that was there)`` at places of one ``patches_replace`` table; places are noted in ``used`` when called."""
    replace = dict(options.get("patches_replace", {}))
    table = replace[where] = dict(replace.get(where, {}))
    for place in places:
        patch = make(table.get(place, table.get(place[:2])))

        def noted(*args: Any, patch: Callable[..., Any] = patch, place: Key = place) -> Any:
            if used is not None:
                used.add(place)
            return patch(*args)

        table[place] = noted
    return {**options, "patches_replace": replace}
