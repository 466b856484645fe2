"""A trace as a film strip: x0-predictions and states of one image, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..measure.trace import Trace, View
from ..path import Flow
from .contact_sheet import Row, sheet

#: Latents of one image [1, C, …] on the LATENT wire's scale → its picture or pictures [(…,) H, W, 3] in [0, 1].
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Film:
    """Frames of one image of a run: the step each is of (``len(trace)``: the end), its level as SIGMAS holds it, and
    pictures [frames, H, W, 3] in [0, 1] of the predictions x0 and of the states x. ``symbol`` is what that level is:
    κ = σ/α, or σ on flow."""

    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    x0: Tensor
    x: Tensor
    symbol: str = "κ"

    @property
    def captions(self) -> list[str]:
        return [
            "end" if i == len(self.steps) - 1 else f"step {step}, {self.symbol} {sigma:.3g}"
            for i, (step, sigma) in enumerate(zip(self.steps, self.sigmas, strict=True))
        ]


def film(trace: Trace, image: int, count: int, decode: Decode | None = None) -> Film:
    """``count`` frames, evenly among the steps that were kept, and the last the result.

    Raises ValueError for an image that the batch does not have.
    """
    if not 0 <= image < len(trace.end):
        raise ValueError(f"image = {image}: the batch has images 0 to {len(trace.end) - 1}")
    here = sorted(trace.kept)
    frames = min(count - 1, len(here))
    chosen = [here[round(i * (len(here) - 1) / max(frames - 1, 1))] for i in range(frames)]
    end = trace.end[image : image + 1]
    scale = float(end.square().mean().sqrt()) or 1.0
    look = looker(trace.view, end, decode)

    def seen(step: int) -> Tensor:
        """A state with its noise made as strong as the data, for the eye."""
        p = trace.path.on(trace.steps[step].sigma)
        x = trace.kept[step].x[image : image + 1].float()
        return x * (scale / math.hypot(p.alpha * scale, p.sigma))

    last = look(end)
    x0 = [look(trace.kept[k].d[image : image + 1].float()) for k in chosen]
    x = [look(seen(k)) for k in chosen]
    sigmas = [trace.steps[k].sigma for k in chosen]
    end_sigma = trace.sigmas[-1] if trace.sigmas else 0.0
    return Film(
        (*chosen, len(trace)), (*sigmas, end_sigma), torch.stack([*x0, last]), torch.stack([*x, last]),
        symbol="σ" if isinstance(trace.path, Flow) else "κ",
    )  # fmt: skip


def looker(view: View, end: Tensor, decode: Decode | None) -> Callable[[Tensor], Tensor]:
    """Latents [1, C, …] of the denoiser → [H, W, 3] in [0, 1]."""

    def first_part(x: Tensor) -> Tensor:
        if not view.shapes:
            return x
        shape = view.shapes[0]
        return x.reshape(len(x), -1)[:, : math.prod(shape)].reshape(len(x), *shape)

    if decode is not None:

        def decoded(x: Tensor) -> Tensor:
            pictures = decode(first_part(view.to_latent(x)))
            pictures = pictures.reshape(-1, *pictures.shape[-3:])
            return pictures[len(pictures) // 2, ..., :3].float().cpu()

        return decoded

    def plane(x: Tensor) -> Tensor:
        """[C, H, W]: the middle frame of a video; sound as channels over time."""
        x = first_part(x)
        x = x if view.reshape is None else view.reshape(x)
        x = x[0]
        if x.ndim <= 2:
            return x.reshape(1, -1, x.shape[-1])
        return x.reshape(x.shape[0], -1, *x.shape[-2:])[:, math.prod(x.shape[1:-2]) // 2]

    colours = _colours(view, plane(end))
    return lambda x: (colours(plane(x)) / 2 + 0.5).clamp(0, 1)


def _colours(view: View, end: Tensor) -> Callable[[Tensor], Tensor]:
    """[C, H, W] → [H, W, 3] about [−1, 1]: the model's own colours, pixels themselves, or else the three
    principal components of the result, which show structure but not colour."""
    channels = len(end)
    if view.rgb is not None and len(view.rgb) == channels:
        rgb, bias = view.rgb.float(), 0.0 if view.bias is None else view.bias.float()
        return lambda x: x.movedim(0, -1) @ rgb + bias
    if channels in (1, 3) and end.shape[1] > 1:
        return lambda x: x.movedim(0, -1).expand(-1, -1, 3)
    flat = end.flatten(1).double()
    mean = flat.mean(1, keepdim=True)
    axes, spread, _ = torch.linalg.svd(flat - mean, full_matrices=False)
    axes, spread = axes[:, :3], spread[:3]
    axes = axes * axes.sum(0).sign().where(axes.sum(0) != 0, torch.ones(1, dtype=axes.dtype))
    matrix = axes / (2.5 * spread / flat.shape[1] ** 0.5).clamp(min=1e-12)
    matrix, mean = F.pad(matrix, (0, 3 - matrix.shape[1])).float(), mean.flatten().float()
    return lambda x: (x.movedim(0, -1) - mean) @ matrix


def strip(film: Film, columns: int = 6) -> Tensor:
    """The film as a labelled sheet, x0 above x, in lines of ``columns`` frames."""
    rows, captions = [], film.captions
    for start in range(0, len(captions), columns):
        part = slice(start, start + columns)
        rows.append(Row(film.x0[part], "x0", captions[part]))
        rows.append(Row(film.x[part], "x"))
    return sheet(rows)
