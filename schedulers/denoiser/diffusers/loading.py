"""A module of a library from a checked component: weights on their way once, in the right dtype.

The class is built without initialising its weights and filled from safetensors, so nothing but the
library's own constructor runs. Names of the weights must fit exactly; shapes too.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .folder import Component, Weights
from .limits import check_limits, fields_for

#: Attention weights of folders written before diffusers 0.15 → their present names.
RENAMED = (
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out.0."),
)


def library(name: str) -> Any:
    """The module ``name``, or one ImportError that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"diffusers folders need diffusers and transformers ({name}: {error}): "
            "pip install 'diffusers>=0.35' 'transformers>=4.49' safetensors"
        ) from error


class Uninitialised(TorchFunctionMode):
    """Weights (``torch.empty``) get no memory; buffers are computed as usual."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(part: Component, weights: Weights, dtype: torch.dtype) -> nn.Module:
    """The network or VAE of ``part`` with its weights in ``dtype``, in eval mode without gradients.

    Modules that their class marks to stay in float32 do. ValueError if config and weights do not fit.
    """
    kind = getattr(library("diffusers"), part.kind, None)
    if kind is None:
        version = library("diffusers").__version__
        raise ValueError(f"{part.path}: diffusers {version} has no {part.kind}: update diffusers")
    check_limits(part, weights)
    fields = fields_for(kind, part.config)
    try:
        with Uninitialised():
            module: nn.Module = kind.from_config(fields)
    except Exception as error:
        raise ValueError(
            f"{part.path}/config.json: {part.kind} refuses it ({error}): correct the config"
        ) from error
    expected = module.state_dict()
    names = {key: _present_name(key, expected) for key in weights.tensors}
    shapes = {names[key]: stored.shape for key, stored in weights.tensors.items()}
    tensors = ((names[key], value) for key, value in _read(weights))
    if weights.single and not expected.keys() <= shapes.keys():
        converted = _convert(part, weights)
        shapes = {name: tuple(value.shape) for name, value in converted.items()}
        tensors = ((name, converted[name]) for name in converted)
    _check(part, shapes, expected, weights)
    keep = frozenset(getattr(module, "_keep_in_fp32_modules", None) or ())
    state = {name: _cast(name, value, dtype, keep) for name, value in tensors if name in expected}
    module.load_state_dict(state, strict=False, assign=True)
    rest = [n for n, t in (*module.named_parameters(), *module.named_buffers()) if t.is_meta]
    if rest:
        raise ValueError(f"{part.path}: the weights lack {rest[0]!r}: the folder is incomplete")
    return _uniform(module, dtype, keep).eval().requires_grad_(False)


def _present_name(key: str, expected: dict[str, Tensor]) -> str:
    if key in expected:
        return key
    for old, new in RENAMED:
        key = re.sub(old, new, key)
    return key


def _convert(part: Component, weights: Weights) -> dict[str, Tensor]:
    """A single file's weights under diffusers' names, by diffusers' own table of such files."""
    rows = library("diffusers.loaders.single_file_model").SINGLE_FILE_LOADABLE_CLASSES
    file = weights.files[0]
    if part.kind not in rows:
        raise ValueError(f"{file}: diffusers reads no single files of {part.kind}: use its folder")
    try:
        convert = rows[part.kind]["checkpoint_mapping_fn"]
        return convert(config=dict(part.config), checkpoint=dict(_read(weights)))
    except Exception as error:
        raise ValueError(
            f"{file} is no {part.kind} of the config in {part.path} ({type(error).__name__}: {error})"
        ) from error


def _check(
    part: Component,
    shapes: dict[str, tuple[int, ...]],
    expected: dict[str, Tensor],
    weights: Weights,
) -> None:
    where = weights.files[0] if weights.single else part.path
    for name, shape in shapes.items():
        if name in expected and tuple(expected[name].shape) != shape:
            raise ValueError(
                f"{where}: config.json asks for {name} of shape {tuple(expected[name].shape)}, the weights hold "
                f"{shape}: config and weights belong to different models"
            )
    lost = sorted(expected.keys() - shapes.keys())
    if lost:
        raise ValueError(
            f"{where}: config.json asks for {lost[0]!r} and {len(lost) - 1} more weights that are not there: "
            "config and weights belong to different models, or the folder is incomplete"
        )
    unused = sorted(shapes.keys() - expected.keys())
    if unused and not weights.single:  # a single file may hold the VAE and more
        warnings.warn(
            f"{where}: {len(unused)} weights are not used by {part.kind}, such as {unused[0]!r}: is it the right "
            "config?",
            stacklevel=4,
        )


def _read(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    opened, failure = library("safetensors").safe_open, library("safetensors").SafetensorError
    for file in weights.files:
        try:
            with opened(str(file), framework="pt", device="cpu") as stored:
                for key in stored.keys():  # noqa: SIM118
                    yield key, stored.get_tensor(key)
        except failure as error:
            raise ValueError(f"{file} is damaged ({error}): copy it again") from error


def _cast(name: str, value: Tensor, dtype: torch.dtype, keep: frozenset[str]) -> Tensor:
    if not value.is_floating_point():
        return value
    return value.to(torch.float32 if keep.intersection(name.split(".")) else dtype)


def _uniform(module: nn.Module, dtype: torch.dtype, keep: frozenset[str]) -> nn.Module:
    """Parameters and saved buffers in ``dtype``; tables a class computes for itself stay as they are."""
    saved = module.state_dict(keep_vars=True)
    for name, value in saved.items():
        value.data = _cast(name, value.data, dtype, keep)
    return module


def set_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a module that :func:`build` made, in place."""
    keep = frozenset(getattr(module, "_keep_in_fp32_modules", None) or ())
    return _uniform(module, dtype, keep)
