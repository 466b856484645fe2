"""The trained networks that ship, by name; each file's header says how it was made."""

from __future__ import annotations

from pathlib import Path as File

from ..schedulers.denoiser.network import Classifier, Network, load
from ..schedulers.path import Path

FOLDER = File(__file__).parent / "weights"


def file(name: str) -> File:
    """Where the weights called network, network-small or classifier lie."""
    return FOLDER / f"{name}.safetensors"


def network(path: Path, name: str = "network") -> Network:
    """A shipped denoiser in the coordinates of ``path``; errors as in :func:`schedulers.denoiser.network.load`."""
    return load(file(name), path, Network)


def classifier(path: Path) -> Classifier:
    """The shipped noise-conditional classifier, f(x, σ) → logits, in the coordinates of ``path``."""
    return load(file("classifier"), path, Classifier)
