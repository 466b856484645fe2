"""Denoisers: D(x, σ) → x0, the only thing a solver ever sees."""

from .analytic import Denoiser, Gaussian, ImageSet, LocalScore, Mixture

__all__ = ["Denoiser", "Gaussian", "ImageSet", "LocalScore", "Mixture"]
