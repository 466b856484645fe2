"""How prompts become conditioning: encoders, and the ways in which families use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .folder import Config
from .limits import TOKENS


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and its encoder; ``instead``: a prompt that it reads in place of all others."""

    tokenizer: Any
    model: nn.Module
    instead: str = ""

    def tokens(self, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        """input_ids and attention_mask [B, L], padded and cut to ``length``, or the tokenizer's own."""
        most = getattr(self.model.config, "max_position_embeddings", None) or TOKENS
        length = length or self.tokenizer.model_max_length
        if not 1 <= length <= most:
            raise ValueError(
                f"a prompt of {length} tokens (model_max_length or max_text_seq_length): this encoder takes 1 to {most}"
            )
        batch = self.tokenizer(
            [self.instead or prompt for prompt in prompts], padding="max_length", truncation=True, return_tensors="pt",
            max_length=length,
        )  # fmt: skip
        rows = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if batch["input_ids"].max() >= rows:
            raise ValueError(
                f"a token has number {int(batch['input_ids'].max())}, this encoder knows {rows}: they belong to different models"
            )
        device = next(self.model.parameters()).device
        return {k: batch[k].to(device) for k in ("input_ids", "attention_mask")}

    def clip(self, prompts: Sequence[str], skip: int) -> tuple[Tensor, Tensor]:
        """(states [B, L, D], pooled [B, P]): the last layer after its norm, or ``skip`` layers before it."""
        ids = self.tokens(prompts, 0)["input_ids"]
        out = self.model(ids, output_hidden_states=True)
        states = out.hidden_states[-1 - skip] if skip else out.last_hidden_state
        return states, out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output

    def t5(self, prompts: Sequence[str], length: int, masked: bool) -> tuple[Tensor, Tensor]:
        """(states [B, L, D], mask [B, L]); ``masked``: padding is not attended to."""
        batch = self.tokens(prompts, length)
        mask = batch["attention_mask"]
        states = self.model(batch["input_ids"], attention_mask=mask if masked else None)[0]
        return states, mask


Encode = Callable[[Sequence[Encoder], Sequence[str], int, Config], dict[str, Tensor]]


@dataclass(frozen=True)
class Prompts:
    """How to encode, with how many encoders (of which some may be missing), how many T5 tokens.

    ``clean``: what the pipeline does to a prompt before it is read.
    """

    encode: Encode
    encoders: int = 1
    length: int = 0
    optional: int = 0
    clean: Callable[[str], str] = str


def t5_alone(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """T5's states, padding among them."""
    return dict(text=encoders[0].t5(prompts, length, False)[0])


def t5_with_mask(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """T5 does not attend to padding, and the network gets the mask as well."""
    text, mask = encoders[0].t5(prompts, length, True)
    return dict(text=text, mask=mask)


def clips(encoders: Sequence[Encoder], prompts: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """(states of all encoders side by side, one layer before the last; the pooled ones)."""
    parts = [encoder.clip(prompts, skip=1) for encoder in encoders]
    return torch.cat([states for states, _ in parts], -1), [pooled for _, pooled in parts]
