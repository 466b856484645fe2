"""Prompts into conditioning, with the encoders that a diffusers folder carries.

A network's family says which encoders to use and what the network takes from them
(``families/``, ``prompts.py``); encoders and tokenizers are transformers' own, read from the folder only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .families import FAMILIES
from .folder import Config, Folder
from .limits import TOKENS, errors_named
from .loading import library
from .prompts import Encoder, Prompts
from .tokenizer import read_encoder, read_tokenizer

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "UMT5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


def prompts_of(folder: Folder) -> Prompts:
    """How the folder's prompts are encoded. Raises ValueError if that is not known."""
    kind = folder.network.kind
    family = FAMILIES.get(kind)
    if family is None or family.prompts is None:
        readable = ", ".join(name for name, row in FAMILIES.items() if row.prompts)
        raise ValueError(f"{folder.path}: prompts for {kind} are not known; known: {readable}")
    return family.prompts(folder.network.config, folder.pipeline)


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
        encoders, clean = list(self.encoders), self.row.clean
        prompts = tuple(clean(prompt) for prompt in prompts)
        if second:
            if len(encoders) < 2:
                raise ValueError("a second prompt needs a folder with a second text encoder")
            encoders[1] = replace(encoders[1], instead=clean(second))
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
