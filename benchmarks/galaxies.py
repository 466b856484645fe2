"""Score networks of galaxy pictures from the package ``galaxygrad`` 0.2.1, which nobody here trained.

MLP-Mixers (arXiv 2401.07313) as plain streams of .npy arrays, read without the package's own code. No licence is
stated, so they are never kept here: they are read from the file or folder that GALAXYGRAD names (a wheel, or an
unpacked one), from the installed package, or from what ``pip download`` fetches into a temporary folder of the user.
Only HSC 32 and ZTF 32 are opened; the package's other networks are kept for judging.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NAME, VERSION = "galaxygrad", "0.2.1"
FILES = {"hsc": "eqx_hsc_ScoreNet32.eqx", "ztf": "eqx_ZTF_ScoreNet32.eqx"}
SIDE = 32


class Missing(Exception):
    """The networks are not to be had here; the text says why."""


def content(name: str) -> bytes:
    """One network's file. Raises Missing."""
    place = os.environ.get("GALAXYGRAD")
    if place:
        return _read(Path(place), FILES[name])
    spec = importlib.util.find_spec(NAME)
    if spec and spec.submodule_search_locations:
        return _read(Path(spec.submodule_search_locations[0]), FILES[name])
    return _read(_download(), FILES[name])


def _read(place: Path, file: str) -> bytes:
    if place.is_dir():
        found = next(iter(sorted(place.rglob(file))), None)
        if found is None:
            raise Missing(f"{place} has no {file}")
        return found.read_bytes()
    if not zipfile.is_zipfile(place):
        raise Missing(f"{place} is neither a folder nor a wheel")
    with zipfile.ZipFile(place) as wheel:
        if f"{NAME}/{file}" not in wheel.namelist():
            raise Missing(f"{place} has no {file}")
        return wheel.read(f"{NAME}/{file}")


def _download() -> Path:
    """The wheel, kept in the user's temporary folder."""
    folder = Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid() if hasattr(os, 'getuid') else 0}"
    wheel = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["-q", "-d", str(folder), f"{NAME}=={VERSION}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as failure:
            raise Missing(f"{NAME} {VERSION} cannot be downloaded: {failure}") from failure
    return wheel


def arrays(data: bytes) -> list[Tensor]:
    stream = io.BytesIO(data)
    found = []
    while stream.tell() < len(data):
        found.append(torch.from_numpy(np.load(stream, allow_pickle=False)))
    return found


@lru_cache(maxsize=2)
def denoiser(name: str) -> Callable[[Tensor, float], Tensor]:
    """D(x, σ) for x [B, 1, 32, 32] = x0 + σ·ε, computed in float32. Raises Missing."""
    weights = arrays(content(name))
    longest, left = float(weights[-1]), iter(weights[:-1])
    first, last = _pair(left), _pair(left)
    blocks = [[_pair(left) for _ in range(6)] for _ in range((len(weights) - 7) // 12)]
    norm = _pair(left)

    def score(y: Tensor, t: float) -> Tensor:
        plane = torch.full_like(y, t / longest)
        h = F.conv2d(torch.cat([y, plane], 1), first[0], first[1].flatten(), stride=4)
        shape = h.shape[-2:]
        h = h.flatten(2)
        for patch1, patch2, hidden1, hidden2, norm1, norm2 in blocks:
            h = h + _mlp(_normed(h, norm1), patch1, patch2)
            g = h.transpose(1, 2)
            h = (g + _mlp(_normed(g, norm2), hidden1, hidden2)).transpose(1, 2)
        h = _normed(h, norm).unflatten(2, shape)
        kernel = last[0].flip(2, 3).transpose(0, 1)  # stored unflipped
        return F.conv_transpose2d(h, kernel, last[1].flatten(), stride=4)

    @torch.no_grad()
    def denoise(x: Tensor, sigma: float) -> Tensor:
        variance = sigma * sigma
        alpha = 1 / math.sqrt(1 + variance)
        y = (alpha * x).float()
        slope = variance * alpha * score(y, math.log1p(variance))
        return x + slope.to(x.dtype)

    return denoise


def _pair(left: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    return next(left), next(left)


def _normed(y: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    return F.layer_norm(y, weights[0].shape, *weights)


def _mlp(y: Tensor, inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor]) -> Tensor:
    return F.linear(F.relu(F.linear(y, *inner)), *outer)
