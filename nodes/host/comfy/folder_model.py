"""A diffusers network as a native MODEL of ComfyUI.

The network's own modules are the MODEL's, under diffusers' names ("diffusion_model.<key>"), so weight
patches, LoRA files with those names and memory management work as on ComfyUI's own networks. The
engine's ``DiffusersDenoiser.raw`` makes the call; ComfyUI scales x and reads the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ....schedulers.denoiser.diffusers import DiffusersDenoiser, Latents, lead
from ....schedulers.denoiser.diffusers.denoiser import filled
from ....schedulers.size_shift import SizedFlow
from ..diffusers_conditioning import from_conditioning
from ..latent_layout import LatentLayout, dtypes_of, layout_of, sized_flow_of
from .model import sampling_for
from .native_model import FractionalTable, PixelSpace, model_type, ms

formats, manual_cast = comfy.latent_formats, comfy.ops.manual_cast
Load = Callable[[], tuple[DiffusersDenoiser, str]]

#: Layers that ComfyUI can keep off the device and move for each call, by the plain ones they replace.
LAYERS: dict[type, type] = {
    nn.Linear: manual_cast.Linear,
    nn.Conv1d: manual_cast.Conv1d,
    nn.Conv2d: manual_cast.Conv2d,
    nn.Conv3d: manual_cast.Conv3d,
    nn.GroupNorm: manual_cast.GroupNorm,
    nn.LayerNorm: manual_cast.LayerNorm,
}


# ------------------------------------------------------------------------------------ latents


class FolderLatents(comfy.latent_formats.LatentFormat):
    """The folder's latents: raw VAE latents on the LATENT wire, scaled and shifted for the network."""

    def __init__(self, network: DiffusersDenoiser, vae: str) -> None:
        layout = layout_of(network)
        self.latents = network.latents or Latents()
        self.scale_factor = self.latents.scale
        self.latent_channels, self.latent_dimensions = layout.channels, layout.dims
        self.spacial_downscale_ratio = layout.spatial
        self.temporal_downscale_ratio = layout.temporal
        like = _preview(network, vae, layout, self.latents.scale)
        for name in ("latent_rgb_factors", "latent_rgb_factors_bias", "latent_rgb_factors_reshape", "taesd_decoder_name"):  # fmt: skip
            setattr(self, name, getattr(like, name))

    def process_in(self, latent: Tensor) -> Tensor:
        return self.latents.from_vae(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return self.latents.to_vae(latent)


def _preview(network: DiffusersDenoiser, vae: str, layout: LatentLayout, scale: float) -> Any:
    """A ComfyUI format that previews such latents; the base class, which has no previews, if none does."""
    if not vae and (layout.channels, layout.spatial) == (3, 1):
        return PixelSpace()
    for channels, size, name in network.family.previews if vae else ():
        close = size is None or abs(scale / size - 1) < 1e-2
        if channels == layout.channels and close and hasattr(formats, name):
            return getattr(formats, name)()
    return formats.LatentFormat()


# ------------------------------------------------------------------------------------ the network


class Native(nn.Module):
    """A diffusers network in the clothes of ComfyUI's: takes its input and time, returns the prediction.

    Its parts are the network's own, under the same names. It computes in the dtype of its input.
    """

    sampling_kit_casts = True
    denoiser: DiffusersDenoiser

    def __init__(self, denoiser: DiffusersDenoiser) -> None:
        super().__init__()
        network = vars(denoiser.network)
        for name in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[name] = network[name]
        self.__dict__["denoiser"] = denoiser  # not a part: the parts would be there twice

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, control: Any = None,
        transformer_options: Any = None, kit_sigma: Any = None, **given: Any,
    ) -> Tensor:  # fmt: skip
        network = self.denoiser
        if x.dtype != network.dtype and (tensors := self._cast(x.dtype)):
            options = dict(transformer_options=transformer_options, kit_sigma=kit_sigma, **given)
            return functional_call(self, tensors, (x, timesteps, context, control), options)
        if control is not None:
            raise ValueError(
                f"{network.kind}: ControlNets do not work with a diffusers folder; remove it"
            )
        self._settle(x.device)
        (sigma,) = kit_sigma
        cond = {name: value[0] for name, value in given.items() if isinstance(value, Exactly)}
        if context is not None:
            cond["text"] = context
        x, more = x[:, : network.channels], x[:, network.channels :]
        if more.shape[1]:
            cond["concat"] = more
        network.check(x)
        if network.trained.clock == "sigma":  # a score network's input is not scaled
            x = x * (sigma * sigma + 1).sqrt().reshape(-1, *(1,) * (x.ndim - 1))
        out = network.raw(x, self._time(timesteps, sigma), cond)
        if out.device.type == "cpu" or network.dtype == torch.float16:
            network.require_finite(out, sigma.tolist())
        return out

    def _time(self, timesteps: Tensor, sigma: Tensor) -> Tensor:
        """diffusers' timestep, on the device. ComfyUI's table gives the index; its other classes name time
        differently, so there it is made from σ."""
        clock = self.denoiser.trained.clock
        if clock == "flow":
            return sigma * self.denoiser.trained.timesteps
        if clock == "sigma":
            return sigma
        return timesteps

    def _cast(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Its saved tensors in ``dtype``, but for those that the class keeps in float32."""
        keep = frozenset(getattr(self.denoiser.network, "_keep_in_fp32_modules", None) or ())
        return {
            key: value.to(dtype)
            for key, value in self.state_dict().items()
            if value.is_floating_point() and not keep.intersection(key.split("."))
        }

    def _settle(self, device: torch.device) -> None:
        """Move what ComfyUI leaves behind when it loads a MODEL in part: tensors of modules that are
        not its layers."""
        for module in self.modules():
            if not hasattr(module, "comfy_cast_weights"):
                for value in _own(module):
                    if value.device != device:
                        value.data = value.data.to(device)


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from (p for p in module._parameters.values() if p is not None)
    yield from (b for b in module._buffers.values() if b is not None)


# -------------------------------------------------------------------------------------- the MODEL


class Exactly(tuple[Tensor]):
    """A tensor that the host does not cast to the network's dtype."""


class Exact(comfy.conds.CONDRegular):
    """Conditioning that keeps its dtype: a number such as a picture size is not one of bfloat16's."""

    def concat(self, others: Any) -> Exactly:
        return Exactly((super().concat(others),))


class FolderConfig(comfy.supported_models_base.BASE):
    """ComfyUI's configuration object for a network from a folder."""


class FolderModel(comfy.model_base.BaseModel):
    """BaseModel whose conditioning is read by the engine's names, and whose network also learns σ."""

    def _apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # in a tuple, which the host hands on as it is: t [B] is σ here, not yet made a timestep
        return super()._apply_model(x, t, *args, kit_sigma=(t.float(),), **kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        network: DiffusersDenoiser = self.diffusion_model.denoiser
        where = str(kwargs.get("prompt_type") or "conditioning")
        out = {}
        picture = kwargs.get("concat_latent_image")
        if picture is not None:
            kwargs |= _sized_as(
                kwargs["noise"], picture, kwargs.get("concat_mask", kwargs.get("denoise_mask"))
            )
        named = from_conditioning(network, kwargs.get("cross_attn"), kwargs, where)
        for name, value in named.items():
            if name == "text":
                out["c_crossattn"] = comfy.conds.CONDRegular(value)
            elif name == "concat":
                frames = kwargs["noise"].shape[2] if network.dims == 3 else 0
                value = comfy.utils.resize_to_batch_size(
                    filled(value, frames), len(kwargs["noise"])
                )
                out["c_concat"] = comfy.conds.CONDNoiseShape(value.to(kwargs["device"]))
            else:
                out[name] = Exact(value.to(kwargs["device"]))
        return out


def make_diffusers(network: DiffusersDenoiser, vae: str, again: Load) -> Any:
    """Native MODEL of a denoiser and the class of its folder's VAE ("": none). ``again()`` loads both
    once more: ComfyUI asks for that where it wants a second copy of the weights."""
    made = _patcher(network, vae, comfy.model_patcher.CoreModelPatcher)
    made.cached_patcher_init = (_afresh, (again,))
    return made


def _afresh(again: Load, disable_dynamic: bool = False) -> Any:
    patcher = comfy.model_patcher
    kind = patcher.ModelPatcher if disable_dynamic else patcher.CoreModelPatcher
    made = _patcher(*again(), kind)
    made.cached_patcher_init = (_afresh, (again,))
    return made


def _patcher(network: DiffusersDenoiser, vae: str, kind: Any) -> Any:
    trained = network.trained
    schedule = trained.noise_schedule
    config = FolderConfig({"disable_unet_model_creation": True})
    config.latent_format = FolderLatents(network, vae)
    config.supported_inference_dtypes = dtypes_of(network)
    offload = comfy.model_management.unet_offload_device()
    base = FolderModel(config, model_type=model_type(schedule), device=offload)
    base.model_sampling = sampling_for(schedule, trained.prediction, _blank(trained.clock))
    for module in network.network.modules():
        module.__class__ = LAYERS.get(type(module), type(module))
    base.diffusion_model = Native(network).eval().requires_grad_(False)
    comfy.model_management.archive_model_dtypes(base.diffusion_model)
    device = comfy.model_management.get_torch_device()
    made = kind(base, load_device=device, offload_device=offload)
    made.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, _patch_the_rest)
    if network.family.leads:
        kinds = comfy.patcher_extension.WrappersMP
        made.add_wrapper_with_key(kinds.OUTER_SAMPLE, "sampling_kit_lead", _with_lead)
    return made


def _with_lead(
    run: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, denoise_mask: Tensor | None = None,
    callback: Any = None, disable_pbar: bool = False, seed: int | None = None, **more: Any,
) -> Tensor:  # fmt: skip
    """A run of a MODEL that needs frames in front of the video (``lead.py``)."""
    model = run.class_obj.model_patcher.model
    first = lead.lead_of(model.diffusion_model.denoiser, latent)
    if not first:
        return run(
            noise, latent, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **more
        )

    def shown(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        if callback is not None:
            callback(step, lead.without(x0, first), lead.without(x, first), total)

    noise, latent = lead.start(noise, latent, first, seed or 0)
    if denoise_mask is not None:
        denoise_mask = lead.repeated(denoise_mask, first)
    more["latent_shapes"] = [latent.shape]
    out = run(noise, latent, sampler, sigmas, denoise_mask, shown, disable_pbar, seed, **more)
    return lead.without(out, first)


def _patch_the_rest(patcher: Any, device: torch.device, *_: Any) -> None:
    """Apply weight patches where ComfyUI forgets to: to tensors of modules that have parts as well, such
    as a block's scale_shift_table, and, with dynamic loading, of all modules that are not its layers.

    What is in ``backup`` is patched already, or, with dynamic loading, the plain weight.
    """
    for place, module in patcher.model.named_modules():
        if hasattr(module, "comfy_cast_weights"):
            continue
        for name in module._parameters:
            key = f"{place}.{name}"
            saved = patcher.backup.get(key)
            if key not in patcher.patches or (saved is not None and not patcher.is_dynamic()):
                continue
            if saved is not None:
                comfy.utils.set_attr_param(patcher.model, key, saved.weight)
            patcher.patch_weight_to_device(key, device_to=device)


def _blank(clock: str) -> Any:
    """A ``model_sampling`` whose schedule class calls time what the network does; None: the usual one."""
    bases: dict[str, tuple[type, ...]] = {
        "index": (FractionalTable, ms.EPS),
        "atan": (ms.ModelSamplingContinuousV, ms.EPS),
    }
    return type("Blank", bases[clock], {})() if clock in bases else None


def _sized_as(noise: Tensor, picture: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """A picture's latents and its mask in the rows and columns of ``noise``, as the core's concat_cond."""

    def fitted(x: Tensor) -> Tensor:
        rows, columns = noise.shape[-2:]
        same = x.shape[-2:] == noise.shape[-2:]
        return x if same else comfy.utils.common_upscale(x, columns, rows, "bilinear", "center")

    if mask is not None:
        mask = mask[:, :1] if mask.ndim == noise.ndim else mask
        mask = mask.reshape(
            -1, 1, *mask.shape[-(noise.ndim - 2 if mask.ndim == noise.ndim else 2) :]
        )
        mask = fitted(mask)
    return dict(concat_latent_image=fitted(picture), concat_mask=mask)


def latent_layout(model: Any) -> LatentLayout:
    """Of any native MODEL."""
    format = model.get_model_object("latent_format")
    network = getattr(model.model.diffusion_model, "denoiser", None)
    if isinstance(network, DiffusersDenoiser):
        return layout_of(network)
    return LatentLayout(
        format.latent_channels, format.latent_dimensions, format.spacial_downscale_ratio,
        format.temporal_downscale_ratio, (1,) * format.latent_dimensions, format.temporal_downscale_ratio,
    )  # fmt: skip


def sized_flow(model: Any) -> SizedFlow | None:
    """The MODEL's schedule where its shift depends on the size."""
    network = getattr(model.model.diffusion_model, "denoiser", None)
    return sized_flow_of(network, [kind.__name__ for kind in type(model.model).__mro__])
