"""Stand-ins for the few core nodes a sampling graph needs: ComfyUI's ids, inputs and meaning.

They exist only without ComfyUI, where the host is ``nodes/host/alone/``; inside ComfyUI its own
nodes run.
"""

from __future__ import annotations

from typing import Any

from ...nodes.host.alone.places import set_folders, set_progress, set_ran, set_typed
from ..context import current
from .conditioning import (
    ConditioningZeroOut,
    InpaintModelConditioning,
    InstructPixToPixConditioning,
    WanImageToVideo,
)
from .latent_space import VAEDecode, VAEDecodeTiled, VAEEncode, VAEEncodeTiled
from .pictures import LoadImage, PreviewAny, PreviewImage, SaveAnimatedWEBP, SaveImage
from .sampling import (
    AddNoise,
    BasicGuider,
    CFGGuider,
    DisableNoise,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
    keep,
)
from .tensors import (
    FlipSigmas,
    LatentMultiply,
    MaskComposite,
    SetLatentNoiseMask,
    SolidMask,
    SplitSigmas,
)

set_folders(lambda kind: getattr(current(), kind))


def tell(step: int, total: int) -> None:
    """The run that is going on, if one is: a VAE or a fit may be used outside of one."""
    try:
        report = current().report
    except LookupError:
        return
    report(step, total)


def count(guider: Any, sampler: Any, sigmas: list[float]) -> None:
    """A run that a node made itself, with the graph that is going on, if one is."""
    try:
        current()
    except LookupError:
        return
    keep(guider, sampler, sigmas)


set_progress(tell)
set_ran(count)
set_typed(lambda name: name in current().typed)

CORE_NODES = (
    RandomNoise, DisableNoise, AddNoise, BasicGuider, CFGGuider, SamplerCustomAdvanced, SamplerCustom,
    SplitSigmas, FlipSigmas, LatentMultiply, SolidMask, MaskComposite, SetLatentNoiseMask, SaveImage, PreviewImage, PreviewAny, LoadImage,
    VAEDecode, VAEDecodeTiled, VAEEncode, VAEEncodeTiled, SaveAnimatedWEBP,
    ConditioningZeroOut, InpaintModelConditioning, InstructPixToPixConditioning, WanImageToVideo,
)  # fmt: skip
