"""Native models, conditions and runs for ``guidance_runs.py``, inside ComfyUI."""

from __future__ import annotations

import sys
from typing import Any

import guidance_cases as cases
import native_models as n
import perturbations
import torch
from comfy import controlnet, model_base, model_patcher, samplers
from comfy_extras import nodes_custom_sampler as core
from torch import Tensor, nn

EULER = samplers.sampler_object("euler")
BATCH = 3
KINDS = ("EPS", "FLOW")


def engine() -> Any:
    """The pack's guidance package, under the name ComfyUI loaded it by."""
    (found,) = (m for key, m in sys.modules.items() if key.endswith(".schedulers.guidance"))
    return found


def bent(x: Tensor, shift: Any) -> Tensor:
    """The mean of the data: as in ``native_models``, and not linear in the condition, so that the
    differences between three conditions are not parallel."""
    across, down = (torch.linspace(0, 1, size) for size in (x.shape[-1], x.shape[-2]))
    return 0.3 + shift * across + 2 * shift**2 * down[:, None]


n.data_mean = bent


class Noted(n.Exact):
    """Exact, writing down every forward pass; a ControlNet's ``shift`` is added to the condition."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.forwards: list[int] = []
        self.fail_at: int | None = None
        self.look: Any = None

    def forward(self, x: Tensor, t: Tensor, context: Tensor, control: Any = None, transformer_options: Any = None) -> Tensor:  # fmt: skip
        self.forwards.append(len(x))
        if self.look is not None:
            self.look()
        if len(self.forwards) == self.fail_at:
            raise InterruptedError("stopped here")
        if control is not None:
            context = context + control["shift"]
        return super().forward(x, t, context, control, transformer_options)


def noted(kind: str) -> Any:
    model = n.native(kind)
    network = Noted(n.KINDS[kind][0], model.model.model_sampling)
    model.model.diffusion_model = network
    return model


class Weaker(nn.Module):
    """A worse network of the same kind, which counts its images."""

    dtype = torch.float32

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.rows += len(args[0])
        return 0.8 * self.inner(*args, **kwargs) + 0.05


def weaker(kind: str) -> Any:
    model = noted(kind)
    model.model.diffusion_model = Weaker(model.model.diffusion_model)
    return model


class Shift(controlnet.ControlBase):
    """A ControlNet that says one number."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def get_control(self, x_noisy: Tensor, *args: Any) -> dict[str, Any]:
        return {"shift": self.shift}

    def copy(self) -> Shift:
        return Shift(self.shift)


def controlled(conditioning: Any, shift: float) -> Any:
    return [[t, {**more, "control": Shift(shift)}] for t, more in conditioning]


def world(kind: str) -> cases.World:
    g = engine()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    measurement = g.Measurement(g.Inpaint(mask), torch.full((1, 4, 8, 8), 0.2))
    return cases.World(
        n.kit, noted(kind), n.POSITIVE, n.NEGATIVE, n.condition(0.5), weaker(kind), logits, measurement
    )  # fmt: skip


def logits(x: Tensor, sigma: float) -> Tensor:
    """Of two classes, dark and bright."""
    centres = torch.tensor([-0.5, 0.9])
    return -(x.flatten(1).mean(1)[:, None] - centres).square() / (0.1 + sigma**2)


def unet_world(kind: str) -> cases.World:
    """A tiny UNet of ComfyUI with attention, as native MODEL."""
    net = perturbations.Rig("UNet").net
    config = n.Config({"disable_unet_model_creation": True})
    config.sampling_settings = n.KINDS[kind][1]
    base = model_base.BaseModel(config, model_type=n.KINDS[kind][0], device=n.CPU)
    base.diffusion_model = net
    model = model_patcher.CoreModelPatcher(base, load_device=n.CPU, offload_device=n.CPU)
    conds = ([[torch.randn(1, 5, 16), {}]] for _ in range(3))
    return cases.World(n.kit, model, *conds)


class Noise:
    """NOISE: the rows of a given tensor."""

    seed = 0

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def generate_noise(self, latent: Any) -> Tensor:
        return self.rows.clone()


ROWS = torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(0))
ORDER = [2, 0, 1]


def run(guider: Any, sigmas: Tensor, rows: Tensor = ROWS, sampler: Any = EULER) -> Tensor:
    image = {"samples": torch.zeros_like(rows)}
    out = core.SamplerCustomAdvanced.execute(Noise(rows), guider, sampler, sigmas, image)
    return out.args[0]["samples"]
