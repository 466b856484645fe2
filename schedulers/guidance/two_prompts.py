"""Attention of two prompts that go through a network side by side, and see the picture but not one another.

``guide(z⁺, z⁻)`` makes of the two answers at the picture's tokens the one that the network goes on with; ``rows`` [B]
says which images of the batch are guided, the others keep z⁺ (None: all). The prompts' tokens keep what each got for itself.
q, k and v are [..., N, d], answers [B, N, heads·d].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .base import InAttention

#: attend(q, k, v) → [B, N, heads·d], the usual attention.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
#: The parts of a sequence in their order: the prompts "plus" and "minus", and the "picture".
Parts = Mapping[str, slice]


def guided(plus: Tensor, minus: Tensor, guide: InAttention, rows: Tensor | None) -> Tensor:
    """``guide`` of both [B, N, d] where ``rows`` [B] says so, ``plus`` elsewhere."""
    z = guide(plus, minus)
    return z if rows is None else torch.where(rows[:, None, None], z, plus)


def joint(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, parts: Parts, guide: InAttention, rows: Tensor | None
) -> Tensor:  # fmt: skip
    """Attention in a sequence of prompts and picture: one over plus and picture, one over minus and picture."""
    answers: dict[str, Tensor] = {}
    pictures = []
    for prompt in ("plus", "minus"):
        here = (parts[prompt], parts["picture"])
        z = attend(*(torch.cat([t[..., part, :] for part in here], -2) for t in (q, k, v)))
        length = parts[prompt].stop - parts[prompt].start
        answers[prompt] = z[:, :length]
        pictures.append(z[:, length:])
    answers["picture"] = guided(pictures[0], pictures[1], guide, rows)
    return torch.cat([answers[name] for name in parts], 1)


def crossed(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, length: int, guide: InAttention, rows: Tensor | None
) -> Tensor:  # fmt: skip
    """Attention of a picture to the tokens of the prompts: ``length`` of plus, then those of minus."""
    plus, minus = (
        attend(q, k[..., part, :], v[..., part, :]) for part in (slice(length), slice(length, None))
    )
    return guided(plus, minus, guide, rows)
