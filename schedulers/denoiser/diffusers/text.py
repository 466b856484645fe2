"""Prompts into conditioning, with the encoders that a diffusers folder carries.

A row of ``PROMPTS`` says for a network class which encoders to use and what the network takes from
them; encoders and tokenizers are transformers' own, read from the folder only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .folder import Config, Folder
from .limits import TOKENS, errors_named
from .loading import library
from .tokenizer import read_encoder, read_tokenizer

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "UMT5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


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


def sd(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    return dict(text=encoders[0].clip(prompts, skip=0)[0])


def sdxl(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    parts = [encoder.clip(prompts, skip=1) for encoder in encoders]
    return dict(text=torch.cat([states for states, _ in parts], -1), pooled=parts[-1][1])


def sd3(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """CLIP's states, padded to T5's width, then T5's states (zeros in a folder without T5)."""
    parts = [encoder.clip(prompts, skip=1) for encoder in encoders[:2]]
    clip = torch.cat([states for states, _ in parts], -1)
    t5 = encoders[2].t5(prompts, length, False)[0] if len(encoders) > 2 else None
    if t5 is None:
        t5 = clip.new_zeros(len(clip), length, config["joint_attention_dim"])
    wide = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
    text = torch.cat([wide, t5.to(wide)], 1)
    return dict(text=text, pooled=torch.cat([pooled for _, pooled in parts], -1))


def flux(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    return dict(
        text=encoders[1].t5(prompts, length, False)[0], pooled=encoders[0].clip(prompts, 0)[1]
    )


def t5(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    return dict(text=encoders[0].t5(prompts, length, False)[0])


def t5_masked(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    text, mask = encoders[0].t5(prompts, length, True)
    return dict(text=text, mask=mask)


def t5_unmasked(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """LTX: padding is attended to by T5, but not by the network."""
    text, mask = encoders[0].t5(prompts, length, False)
    return dict(text=text, mask=mask)


def t5_zeroed(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """Wan: states of the padding are zero."""
    text, mask = encoders[0].t5(prompts, length, True)
    return dict(text=text * mask[..., None].to(text))


@dataclass(frozen=True)
class Prompts:
    """A row: how to encode, with how many encoders (of which some may be missing), how many T5 tokens."""

    encode: Encode
    encoders: int = 1
    length: int = 0
    optional: int = 0


PROMPTS: dict[str, Prompts] = {
    "SD3Transformer2DModel": Prompts(sd3, 3, 256, optional=1),
    "FluxTransformer2DModel": Prompts(flux, 2, 512),
    "PixArtTransformer2DModel": Prompts(t5_masked, 1, 300),
    "CogVideoXTransformer3DModel": Prompts(t5, 1, 226),
    "LTXVideoTransformer3DModel": Prompts(t5_unmasked, 1, 128),
    "WanTransformer3DModel": Prompts(t5_zeroed, 1, 512),
}


def prompts_of(folder: Folder) -> Prompts:
    """The row for the folder's network. Raises ValueError if there is none."""
    kind, config = folder.network.kind, folder.network.config
    if kind == "UNet2DConditionModel":
        twice = config.get("addition_embed_type") == "text_time"
        return Prompts(sdxl, 2, optional=1) if twice else Prompts(sd)
    if kind not in PROMPTS:
        raise ValueError(
            f"{folder.path}: prompts for {kind} are not known; known: UNet2DConditionModel, {', '.join(PROMPTS)}"
        )
    row = PROMPTS[kind]
    if kind == "PixArtTransformer2DModel" and folder.pipeline == "PixArtAlphaPipeline":
        return Prompts(row.encode, 1, 120)
    if kind == "CogVideoXTransformer3DModel":
        return Prompts(row.encode, 1, int(config.get("max_text_seq_length") or row.length))
    return row


@dataclass(frozen=True)
class TextEncoder:
    """A folder's encoders: ``encode`` turns prompts into the network's conditioning, float32."""

    row: Prompts
    encoders: tuple[Encoder, ...] = field(repr=False)
    config: Config = field(repr=False)

    def encode(
        self, *prompts: str, length: int | None = None, second: str = ""
    ) -> dict[str, Tensor]:
        """Conditioning by name, a row a prompt; ``length``: T5 tokens (default: the pipeline's).

        ``second``: what the second encoder reads in place of the prompts (the pipelines' prompt_2).
        """
        encoders = list(self.encoders)
        if second:
            if len(encoders) < 2:
                raise ValueError("a second prompt needs a folder with a second text encoder")
            encoders[1] = replace(encoders[1], instead=second)
        with torch.inference_mode():
            out = self.row.encode(encoders, prompts, length or self.row.length, self.config)
        return {k: v.float() if v.is_floating_point() else v for k, v in out.items()}

    def to(self, device: str) -> TextEncoder:
        for encoder in self.encoders:
            encoder.model.to(device)
        return self


@errors_named
def load_text(folder: Folder, dtype: torch.dtype | None = None) -> TextEncoder:
    """The folder's text encoders. Default dtype: bfloat16 weights stay so, all others float32.

    SDXL's refiner has only the second encoder, and Stable Diffusion 3 may come without T5.
    """
    row = prompts_of(folder)
    suffixes = [s for s in ("", "_2", "_3")[: row.encoders] if folder.has("text_encoder" + s)]
    if len(suffixes) < row.encoders - row.optional:
        raise ValueError(
            f"{folder.path} has {len(suffixes)} of {row.encoders} text encoders: use a complete folder"
        )
    encoders = tuple(_encoder(folder, s, dtype) for s in suffixes)
    return TextEncoder(row, encoders, folder.network.config)


def _encoder(folder: Folder, suffix: str, dtype: torch.dtype | None) -> Encoder:
    part = folder.part("text_encoder" + suffix)
    if part.kind not in ENCODERS:
        raise ValueError(
            f"{part.path}/config.json: the text encoder {part.kind} is not known; known: {', '.join(ENCODERS)}"
        )
    transformers = library("transformers")
    weights = folder.weights(part, "model")
    if dtype is None:
        dtype = torch.bfloat16 if weights.dtype == torch.bfloat16 else torch.float32
    entry = folder.index.get("tokenizer" + suffix) or (None, None)
    name = entry[1] or ("CLIPTokenizer" if part.kind.startswith("CLIP") else "T5TokenizerFast")
    if name not in TOKENIZERS:
        raise ValueError(
            f"{folder.path}: the tokenizer {name} is not known; known: {', '.join(TOKENIZERS)}"
        )
    name = "T5TokenizerFast" if name.startswith("T5") else "CLIPTokenizer"
    tokenizer = read_tokenizer(transformers, name, folder.files("tokenizer" + suffix), folder.root)
    folder.files("text_encoder" + suffix)
    model, missing = read_encoder(transformers, part, weights, dtype)
    lost = sorted(missing)
    if lost:
        raise ValueError(
            f"{part.path}: config.json asks for {lost[0]!r} and {len(lost) - 1} more weights that are not there: "
            "config and weights belong to different models, or the folder is incomplete"
        )
    encoder = Encoder(tokenizer, model.eval().requires_grad_(False))
    encoder.tokens(["a"], 0 if name.startswith("CLIP") else TOKENS)
    return encoder
