"""diffusers folders as denoisers: ``folder``, ``training``, ``families``, ``denoiser``, ``vae``, ``text``."""

from .denoiser import DiffusersDenoiser, choose_dtype, load
from .families import check, read_folder
from .folder import Folder, Weights, read_file
from .text import TextEncoder, load_text
from .training import Training, read_training
from .vae import Latents, Vae, latents_of, load_vae, read_latents

__all__ = [
    "DiffusersDenoiser",
    "Folder",
    "Latents",
    "TextEncoder",
    "Training",
    "Vae",
    "Weights",
    "check",
    "choose_dtype",
    "latents_of",
    "load",
    "load_text",
    "load_vae",
    "read_file",
    "read_folder",
    "read_latents",
    "read_training",
]
