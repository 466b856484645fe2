"""Denoisers: D(x, σ) → x0, the only thing a solver ever sees."""

from .analytic import Denoiser, Gaussian, ImageSet, LocalScore, Mixture
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
