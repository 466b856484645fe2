"""Tokenizers and encoders of transformers, from files of strangers: only plain fields and plain files reach them.

A tokenizer is read from a copy of its folder that holds its vocabulary and the fields listed here. A vocabulary that is
not there leaves transformers an empty one, by which every prompt is the same; so what was read is tried.
"""

from __future__ import annotations

import json
import shutil
import string
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .folder import Component, Weights, inside, read_json
from .limits import TOKENS, check_axes, check_limits, fields_for

#: Files of a vocabulary, and the bytes that they may have.
FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")
LARGEST = 64 << 20
#: Fields of tokenizer_config.json and special_tokens_map.json that mean something for CLIP and T5.
FIELDS = frozenset({
    "bos_token", "eos_token", "unk_token", "pad_token", "model_max_length", "add_prefix_space", "extra_ids", "errors",
    "do_lower_case", "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "legacy",
    "clean_up_tokenization_spaces", "padding_side", "truncation_side", "backend",
})  # fmt: skip
#: Fields of an encoder's config.json: its sizes and how it computes.
ENCODER_FIELDS = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range",
    "initializer_factor", "pad_token_id", "bos_token_id", "eos_token_id", "d_model", "d_kv", "d_ff", "num_layers",
    "num_decoder_layers", "num_heads", "relative_attention_num_buckets", "relative_attention_max_distance",
    "dropout_rate", "layer_norm_epsilon", "feed_forward_proj", "use_cache", "is_encoder_decoder",
})  # fmt: skip
#: Those that are the length of an axis of a weight.
WIDTHS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "d_model",
    "d_ff",
)
#: Extra tokens that a T5 may have.
MOST_EXTRA = 1000


def read_tokenizer(transformers: Any, kind: str, place: Path, root: Path) -> Any:
    """The tokenizer of class ``kind`` in ``place``. ValueError naming the file if it cannot be, or has no words."""
    with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch:
        copied = [name for name in FILES if (place / name).is_file()]
        for name in copied:
            if inside(root, place / name).stat().st_size > LARGEST:
                raise ValueError(
                    f"{place / name} has more than {LARGEST >> 20} MB: it is no vocabulary"
                )
            shutil.copyfile(place / name, Path(scratch) / name)
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (place / name).is_file():
                fields = json.dumps(_fields(root, place / name))
                (Path(scratch) / name).write_text(fields, encoding="utf-8")
        try:
            tokenizer = getattr(transformers, kind).from_pretrained(
                scratch, local_files_only=True, trust_remote_code=False
            )
        except BaseException as error:  # the tokenizers library ends in its own kind of panic
            if not isinstance(error, Exception) and "Panic" not in type(error).__name__:
                raise
            first = str(error).strip().partition("\n")[0][:300]
            raise ValueError(
                f"{place}: transformers cannot read this tokenizer ({first}); if it has only a spiece.model: pip "
                "install sentencepiece protobuf"
            ) from error
    _try(tokenizer, place, copied)
    return tokenizer


def _fields(root: Path, file: Path) -> dict[str, Any]:
    config = read_json(root, file)
    length = config.get("model_max_length", TOKENS)
    if not isinstance(length, int | float) or length < 1:
        raise ValueError(
            f"{file}: model_max_length = {length!r:.60}: it must be a number from 1 on"
        )
    if (extra := config.get("extra_ids", 0)) not in range(MOST_EXTRA + 1):
        raise ValueError(f"{file}: extra_ids = {extra!r:.60}: it must be from 0 to {MOST_EXTRA}")
    return {name: config[name] for name in config if name in FIELDS}


def _try(tokenizer: Any, place: Path, files: list[str]) -> None:
    """Letters must not all be the same to a tokenizer."""
    try:
        ids = {tuple(tokenizer(letter)["input_ids"]) for letter in string.ascii_letters}
    except Exception as error:
        raise ValueError(f"{place}: this tokenizer cannot read a letter ({error})") from error
    if len(ids) < 2:
        there = ", ".join(files) or "none of its files"
        raise ValueError(
            f"{place}: the vocabulary is empty, all letters are the same token; it has {there}: copy tokenizer.json, or "
            "vocab.json and merges.txt, there"
        )


def read_encoder(
    transformers: Any, part: Component, weights: Weights, dtype: torch.dtype
) -> tuple[nn.Module, set[str]]:
    """(the encoder in ``dtype``, names of weights that it lacks). ValueError where config and weights do not fit."""
    kind, where = getattr(transformers, part.kind), f"{part.path}/config.json"
    check_limits(part, weights)
    check_axes(part, weights, WIDTHS)
    fields = fields_for(kind.config_class, part.config, ENCODER_FIELDS)
    try:
        config = kind.config_class(**fields)
        with torch.device("meta"):
            size = sum(t.numel() for t in kind(config).state_dict().values())
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise ValueError(
            f"{where}: {part.kind} refuses it ({first}): correct the config"
        ) from error
    if size > 2 * weights.parameters + 2**16:  # embeddings that share their weights are stored once
        raise ValueError(
            f"{where} asks for {size} numbers, the weights hold {weights.parameters}: config and weights belong to "
            "different models"
        )
    model, info = kind.from_pretrained(
        str(part.path), config=config, use_safetensors=True, variant=weights.variant, torch_dtype=dtype,
        output_loading_info=True, local_files_only=True, trust_remote_code=False,
    )  # fmt: skip
    return model, set(info["missing_keys"])
