"""The VAE of a diffusers folder on ComfyUI's VAE wire, for its VAE Decode and Encode nodes."""

from __future__ import annotations

from typing import Any

from ...schedulers.denoiser.diffusers import load_vae, read_latents
from ...schedulers.denoiser.diffusers.vae import require_known
from ...schedulers.measure import DTYPES
from ..host import io
from ..ui.file_names import refusal
from .folders import folder_input, open_folder, stamp
from .vae import FolderVae

CATEGORY = "Sampling Kit/denoiser"


def look_into_vae(name: str) -> None:
    """Raises ValueError where loading would for what vae/config.json says."""
    found = open_folder(name)
    try:
        require_known(found.part("vae"))
        read_latents(found.part("vae"))
    except ValueError as error:
        raise ValueError(f"folder = {name!r}: {error}") from None


class DiffusersVAE(io.ComfyNode):
    LIBRARIES = ("diffusers",)  # that it needs to run

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitDiffusersVAE",
            display_name="Diffusers VAE",
            category=CATEGORY,
            description="The VAE of a diffusers folder for VAE Decode, VAE Encode and their tiled forms: AutoencoderKL, "
            "AutoencoderDC, and the video VAEs of CogVideoX, Wan and LTX, whose frames come out as an IMAGE batch. Latents are "
            "the VAE's own, without the folder's scaling factor, which the MODEL of the folder applies. Overflow is an error, "
            "not a black picture.",
            search_aliases=["VAELoader", "Load VAE", "AutoencoderKL", "CogVideoX", "video", "decode"],
            inputs=[
                folder_input(),
                io.Combo.Input(
                    "dtype", options=["auto", *DTYPES], default="auto", optional=True,
                    tooltip="auto: bf16 where the weights are stored so, else fp32. Many VAEs overflow in fp16.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For VAE Decode and VAE Encode.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, folder: str = "") -> bool | str:
        return True if folder is None else refusal(lambda: look_into_vae(folder))

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **kwargs: Any) -> Any:
        return stamp(folder)

    @classmethod
    def execute(cls, folder: str, dtype: str = "auto") -> Any:
        found = open_folder(folder)
        try:
            vae = load_vae(found, DTYPES.get(dtype))
        except ValueError as error:
            raise ValueError(f"folder = {folder!r}: {error}") from error
        return io.NodeOutput(FolderVae(vae))


NODES = (DiffusersVAE,)
