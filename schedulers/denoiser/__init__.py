"""Denoisers: D(x, σ) → x0, the only thing a solver ever sees."""

from .analytic import Gaussian, ImageSet, LocalScore, Mixture
from .base import Denoiser
from .network import Classifier, Network

__all__ = [
    "Classifier",
    "Denoiser",
    "Gaussian",
    "ImageSet",
    "LocalScore",
    "Mixture",
    "Network",
]
