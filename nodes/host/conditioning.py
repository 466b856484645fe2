"""Class conditions as CONDITIONING: a tensor [B, 1, K] of class weights where text models have tokens.

ComfyUI's own nodes then work on it: averaging two conditionings blends two classes, zeroing one out
makes it unconditional, and a batch of B rows gives every image its own class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Conditioning = list[Any]

#: What a diffusers network takes beside the text (``family.py``) → ComfyUI's name for it in CONDITIONING.
KEYS = {"pooled": "pooled_output", "mask": "attention_mask"}


def named_conditioning(named: Mapping[str, Tensor]) -> Conditioning:
    """CONDITIONING from tensors by name: "text" [B, L, D] and those of ``KEYS``."""
    return [[named["text"], {KEYS[key]: value for key, value in named.items() if key != "text"}]]


def class_conditioning(rows: list[list[float]]) -> Conditioning:
    """CONDITIONING with one row of class weights per image."""
    return [[torch.tensor(rows, dtype=torch.float32)[:, None], {}]]


def class_weights(context: Tensor | None, classes: int) -> Tensor | None:
    """[B, K] class weights from a conditioning tensor [B, T, K]; None means no condition.

    Raises ValueError for a conditioning made for another kind of model.
    """
    if context is None:
        return None
    if context.ndim != 3 or context.shape[-1] != classes:
        raise ValueError(
            f"this MODEL is conditioned on {classes} classes, but the conditioning has shape "
            f"{tuple(context.shape)}: connect a Class Condition node, not a text encoder"
        )
    return context.mean(1)
