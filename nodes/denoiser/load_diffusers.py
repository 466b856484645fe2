"""Nodes for networks from diffusers folders: the MODEL, its empty latents, its classes."""

from __future__ import annotations

import re
from typing import Any

import torch

from ...schedulers.denoiser.diffusers import DiffusersDenoiser, choose_dtype, load
from ...schedulers.denoiser.diffusers.denoiser import DTYPES, NAMES
from ...schedulers.denoiser.diffusers.folder import NETWORKS, Folder
from ...schedulers.denoiser.diffusers.training import unread
from ...schedulers.size_shift import SizedFlow
from .. import host
from ..host import io
from ..host.conditioning import Conditioning
from ..host.diffusers_conditioning import SOURCES
from ..host.latent_layout import layout_of
from ..ui.file_names import refusal
from ..ui.inputs import listed
from ..ui.payload import report_on_page
from ..ui.remembered import schedule_on_page
from ..ui.wire_types import NoiseScheduleType
from .folders import OWN, file_names, folder_input, look_into, open_file, open_folder, stamp

CATEGORY = "Sampling Kit/denoiser"
AUTO = "auto"


class LoadDiffusersDenoiser(io.ComfyNode):
    LIBRARIES = ("diffusers",)  # that it needs to run

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitLoadDiffusersDenoiser",
            display_name="Load Diffusers Denoiser",
            category=CATEGORY,
            description="The network of a diffusers folder as MODEL: UNet2D, Stable Diffusion 1, 2 and XL, SD3, Flux, DiT, "
            "PixArt, Sana, Wan, LTX, CogVideoX. Prediction and noise schedule come from its configs. The MODEL works with "
            "KSampler and all other samplers, previews and masks, and LoRA files that call weights as diffusers does, "
            "after diffusion_model. or lora_unet_. Needs the Python packages diffusers and transformers.",
            search_aliases=[
                "DiffusersLoader", "checkpoint loader", "UNETLoader", "CogVideoX", "CogVideo", "loader", "from_pretrained", "DiT",
                "PixArt", "huggingface",
            ],
            inputs=[
                folder_input(),
                io.Combo.Input(
                    "dtype", options=[AUTO, *DTYPES], default=AUTO, optional=True,
                    tooltip="What the network computes in. auto: as its weights are stored; fp16 files of networks trained in bf16 "
                    "(CogVideoX 5B, Flux, Wan, LTX, Sana) run in bf16, since fp16 overflows. State and time stay fp32.",
                ),
                io.Combo.Input(
                    "network", options=[AUTO, *NETWORKS], default=AUTO, optional=True,
                    tooltip="The sub-folder, where there are two networks: Wan 2.2 has transformer for high noise, "
                    "transformer_2 for low.",
                ),
                io.String.Input(
                    "variant", default="", optional=True, advanced=True,
                    tooltip="Which weights, if the folder holds several: fp16 for ….fp16.safetensors. Empty: those without a "
                    "variant.",
                ),
                io.Combo.Input(
                    "weights", options=[OWN, *listed(file_names)], default=OWN, optional=True, advanced=True,
                    tooltip="A single safetensors file below models/diffusion_models, to go with the folder's configs.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For the Guider, KSampler or any other node that takes a MODEL."),
                NoiseScheduleType.Output(display_name="noise_schedule", tooltip="What it was trained with; for Steps."),
                io.String.Output(display_name="about", tooltip="Class, prediction, schedule, dtype and why, what it is conditioned on."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, folder: str | None = "", weights: str | None = OWN, network: str | None = AUTO, variant: str | None = ""
    ) -> bool | str:  # fmt: skip
        """ComfyUI then leaves the combos to us: a folder that is gone is named as such. Reads the configs."""

        def look() -> None:
            if weights is not None:
                open_file(weights)
            part = None if network is None else sub_folder(network)
            if folder is not None and network is not None:
                look_into(folder, variant or "", part)

        return refusal(look)

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", weights: str = OWN, **kwargs: Any) -> Any:
        file = open_file(weights)
        times = [(str(f), f.stat().st_mtime_ns) for f in (file.files if file else ())]
        return [*stamp(folder), *times]

    @classmethod
    def execute(
        cls, folder: str, dtype: str = AUTO, network: str = AUTO, variant: str = "", weights: str = OWN
    ) -> Any:  # fmt: skip
        part = sub_folder(network)

        def opened() -> Folder:
            return open_folder(folder, variant, part)

        def loaded(found: Folder) -> tuple[DiffusersDenoiser, str]:
            return _load(found, dtype, f"folder = {folder!r}", weights), _vae(found)

        first = opened()
        denoiser, vae = loaded(first)
        model = host.models.make_diffusers(denoiser, vae, lambda: loaded(opened()))
        text = about(denoiser, first)
        return io.NodeOutput(
            model,
            denoiser.noise_schedule,
            text,
            ui=report_on_page(text) | schedule_on_page(denoiser.noise_schedule),
        )


def sub_folder(network: str) -> str | None:
    """The sub-folder of a choice; None: the only one there is."""
    if network not in (AUTO, *NETWORKS):
        raise ValueError(f"network = {network!r}: choose one of {', '.join((AUTO, *NETWORKS))}")
    return None if network == AUTO else network


def _load(folder: Folder, asked: str, where: str, file: str = OWN) -> DiffusersDenoiser:
    """The denoiser on the CPU, in the dtype that suits the device it will run on."""
    part, weights = folder.network, open_file(file)
    try:
        stored = (weights or folder.network_weights).dtype
        dtype, why = choose_dtype(
            asked, stored, part.kind, part.config, host.places.compute_device()
        )
        denoiser = load(folder, dtype, weights=weights)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    denoiser.dtype_reason = why
    return denoiser


def _vae(folder: Folder) -> str:
    """The class of the folder's VAE, for previews; "" if there is none."""
    return folder.part("vae").kind if folder.has("vae") else ""


def about(network: DiffusersDenoiser, folder: Folder) -> str:
    """What was loaded, for people."""
    schedule, ignored = (
        network.noise_schedule,
        unread(folder.scheduler.kind, folder.scheduler.config),
    )
    parameters = sum(p.numel() for p in network.network.parameters())
    sized = ""
    if isinstance(schedule, SizedFlow):
        rule = schedule.rule
        sized = f"; the shift depends on the size, this is that of {rule.n1} tokens: connect the latent to Steps"
    latents = _latents(network)
    conditions = [f"{SOURCES[n].what}" for n in network.needs]
    optional = [f"{SOURCES[n].what}" for n in network.may]
    lines = [
        f"network: {network.kind} ({parameters / 1e6:.4g} M parameters), {folder.network.path}",
        f"prediction: {network.prediction}",
        f"noise schedule: {schedule} on {schedule.path.name}, from {folder.scheduler.kind}{sized}",
        f"dtype: {NAMES.get(network.dtype, network.dtype)}: {network.dtype_reason}; solver state and time: fp32",
        f"latents: {latents}",
        f"conditioning: {', '.join(conditions) or 'none'}" + (f"; optional: {', '.join(optional)}" if optional else ""),
    ]  # fmt: skip
    if ignored:
        lines.append(f"not applied from {folder.scheduler.kind}: {'; '.join(ignored)}")
    return "\n".join(lines)


def _latents(network: DiffusersDenoiser) -> str:
    layout = layout_of(network)
    frames = f", {layout.temporal} frames each" if layout.dims == 3 else ""
    return f"{layout.channels} channels, {layout.spatial} × {layout.spatial} pixels each{frames}"


class DiffusersClass(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitDiffusersClass",
            display_name="Diffusers Class",
            category=CATEGORY,
            description="The class that a class-conditional network from a diffusers folder draws (DiT, UNet2D), by its number. "
            "With several numbers picture i of a batch gets class i.",
            search_aliases=["class label", "ImageNet", "DiT", "prompt", "conditioning"],
            inputs=[
                io.String.Input(
                    "classes", default="0",
                    tooltip="One number or several, such as 207, 360. 'none' is no class: the negative of CFG, for networks "
                    "trained with it (DiT).",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For the Guider.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, classes: str = "0") -> Any:
        return io.NodeOutput(number_conditioning(classes))


def number_conditioning(classes: str) -> Conditioning:
    """CONDITIONING with a row [number + 1] a class, 0 for 'none'; see ``diffusers_conditioning``."""
    words = re.findall(r"[^\s,;]+", classes)
    if not words or not all(re.fullmatch(r"\d{1,6}|none", word) for word in words):
        raise ValueError(f"classes = {classes!r}: write numbers such as 207, 360, or none")
    rows = [[0.0 if word == "none" else int(word) + 1.0] for word in words]
    return [[torch.tensor(rows)[:, None], {}]]


NODES = (LoadDiffusersDenoiser, DiffusersClass)
