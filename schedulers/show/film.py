"""A trace as pictures: film strips of x0-predictions and states, a labelled sheet, curves, and a payload for the page."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..measure import plain
from ..measure.trace import MEASURES, Trace, View
from .style import new_figure, pixels

#: Latents of one image [1, C, …] on the LATENT wire's scale → its picture or pictures [(…,) H, W, 3] in [0, 1].
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Film:
    """Frames of one image of a run: the step each is of (``len(trace)``: the end), σ there, and pictures
    [frames, H, W, 3] in [0, 1] of the predictions x0 and of the states x."""

    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    x0: Tensor
    x: Tensor

    @property
    def captions(self) -> list[str]:
        return [
            "end" if i == len(self.steps) - 1 else f"step {step}, σ {sigma:.3g}"
            for i, (step, sigma) in enumerate(zip(self.steps, self.sigmas, strict=True))
        ]


def film(trace: Trace, image: int, count: int, decode: Decode | None = None) -> Film:
    """``count`` frames, evenly among the steps that were kept, and the last the result.

    Raises ValueError for an image that the batch does not have.
    """
    if not 0 <= image < len(trace.end):
        raise ValueError(f"image = {image}: the batch has images 0 to {len(trace.end) - 1}")
    here = sorted(trace.kept)
    wanted = min(count - 1, len(here))
    chosen = [here[round(i * (len(here) - 1) / max(wanted - 1, 1))] for i in range(wanted)]
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
        (*chosen, len(trace)), (*sigmas, end_sigma), torch.stack([*x0, last]), torch.stack([*x, last])
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
            found = decode(first_part(view.to_latent(x)))
            found = found.reshape(-1, *found.shape[-3:])
            return found[len(found) // 2, ..., :3].float().cpu()

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


# ------------------------------------------------------------------------------------------ sheets


@dataclass(frozen=True)
class Row:
    """Pictures [n, H, W, 3] side by side; ``label`` stands left of them, ``captions`` above, one each."""

    pictures: Tensor
    label: str = ""
    captions: Sequence[str] = ()
    colour: str = "black"


def sheet(rows: Sequence[Row], cell: int = 160, size: int = 17, gap: int = 8) -> Tensor:
    """IMAGE [1, H, W, 3]: pictures ``cell`` pixels high and as wide as they are, with their labels in letters of
    ``size`` pixels. Raises ImportError without matplotlib."""
    pictures = [[fitted(p, cell) for p in row.pictures] for row in rows]
    left = max((_wide(line, size) for row in rows for line in row.label.split("\n")), default=0)
    left += 2 * gap if left else gap
    tops, top = [], gap
    for row in rows:
        top += (size + 6) if row.captions else 0
        tops.append(top)
        top += cell + gap
    width = left + max(sum(p.shape[1] + gap for p in line) for line in pictures)
    figure = new_figure(width, top)
    figure.set_layout_engine("none")
    points = size * 0.72

    def put(x: float, y: float, text: str, **more: Any) -> None:
        figure.text(x / width, 1 - y / top, text, fontsize=points, **more)

    for row, line, y in zip(rows, pictures, tops, strict=True):
        put(gap, y + cell / 2, row.label, va="center", color=row.colour, linespacing=1.35)
        x = left
        for caption, picture in zip(row.captions, line, strict=False):
            put(x + picture.shape[1] / 2, y - 4, caption, ha="center", va="bottom")
            x += picture.shape[1] + gap
    canvas = pixels(figure)
    for line, y in zip(pictures, tops, strict=True):
        x = left
        for picture in line:
            height, wide = picture.shape[:2]
            canvas[0, y : y + height, x : x + wide] = picture
            x += wide + gap
    return canvas


def _wide(text: str, size: int) -> int:
    """Pixels that a line of text takes at most, about."""
    return math.ceil(len(text) * size * 0.6)


def fitted(picture: Tensor, height: int) -> Tensor:
    """[H, W, 3] at that height: whole pixels enlarged as squares, larger pictures averaged."""
    own = picture.shape[0]
    x = picture.movedim(-1, 0)[None]
    wide = max(1, round(picture.shape[1] * height / own))
    if own * 2 <= height:
        times = math.ceil(height / own)
        x = F.interpolate(x, scale_factor=times, mode="nearest")
    x = F.interpolate(x, (height, wide), mode="bilinear", antialias=True)
    return x[0].movedim(0, -1).clamp(0, 1)


def strip(film: Film, columns: int = 6) -> Tensor:
    """The film as a labelled sheet, x0 above x, in lines of ``columns`` frames."""
    rows, captions = [], film.captions
    for start in range(0, len(captions), columns):
        part = slice(start, start + columns)
        rows.append(Row(film.x0[part], "x0", captions[part]))
        rows.append(Row(film.x[part], "x"))
    return sheet(rows)


# ------------------------------------------------------------------------------------------ curves

# Okabe & Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"

STYLES = ((BLUE, "-", "o"), (ORANGE, "--", "s"))
#: Panels of the curves: title → measures and what their lines are called. The first with a number is drawn.
PANELS: tuple[dict[str, dict[str, str]], ...] = (
    {"noise level": {"sigma": "σ"}},
    {"distance of x0 to the end": {"to_end": ""}},
    {"curvature, ° per step": {"turn": ""}},
    {"local error": {"error": "embedded", "doubling": "step doubling"}},
    {"guidance ‖Δ‖": {"delta": ""}, "root mean square": {"x": "x", "x0": "D"}},
    {"time per step, ms": {"seconds": ""}},
)


def curves(trace: Trace, width: int = 1080, height: int = 720) -> Tensor:
    """IMAGE [1, height, width, 3] in [0, 1]: six panels over the steps. Raises ImportError without matplotlib."""
    figure, there = new_figure(width, height), set(trace.measured)
    axes = figure.subplots(2, 3, sharex=True)
    for ax, panel in zip(axes.flat, PANELS, strict=True):
        title, lines = next(
            ((t, k) for t, k in panel.items() if there & set(k)), (next(iter(panel)), {})
        )
        ax.set_title(title, fontsize=16)
        ax.tick_params(labelsize=14)
        ax.grid(alpha=0.3)
        if title == "time per step, ms":
            ax.bar(range(len(trace)), [1000 * step.seconds for step in trace.steps], color=BLUE)
        else:
            _lines(ax, trace, {k: name for k, name in lines.items() if k in there})
    _snr(axes[0, 0], trace)
    for ax in axes[1]:
        ax.set_xlabel("step", fontsize=15)
    figure.suptitle(
        f"{trace.solver}: {len(trace)} steps, {trace.nfe} evaluations, {trace.seconds:.3g} s", fontsize=16
    )  # fmt: skip
    return pixels(figure)


def _lines(ax: Any, trace: Trace, lines: Mapping[str, str]) -> None:
    """One line per measure, means over the images; the single images in grey behind the first."""
    if not lines:
        ax.text(
            0.5, 0.5, "not measured", ha="center", va="center", fontsize=14, color=GREY, transform=ax.transAxes
        )  # fmt: skip
        return
    first, steps = next(iter(lines)), range(len(trace))
    single = [trace.per_image(first, i) for i in steps]
    images = max(map(len, single))
    for j in range(images if 1 < images <= 16 else 0):
        ax.plot([_number(v[j] if j < len(v) else None) for v in single], color=GREY, lw=0.8)
    tall: list[float] = []
    for (key, name), (colour, dash, marker) in zip(lines.items(), STYLES, strict=False):
        values, mark = [_number(v) for v in trace.curve(key)], marker if len(trace) <= 40 else None
        ax.plot(values, color=colour, ls=dash, marker=mark, ms=5, lw=2.4, label=name)
        tall += [v for v in values if v > 0]
    if len(lines) > 1:
        ax.legend(fontsize=13, framealpha=0.6)
    if not tall:
        return
    if MEASURES[first].log and max(tall) > 30 * min(tall):
        ax.set_yscale("log", nonpositive="mask")
    elif min(tall) > 0 and max(tall) < 1.2 * min(tall):  # what is constant shall look so
        ax.set_ylim(0, 1.6 * max(tall))


def _snr(ax: Any, trace: Trace) -> None:
    """The signal-to-noise ratio on an axis of its own beside σ."""
    other = ax.twinx()
    values = [_number(v) for v in trace.curve("snr")]
    (line,) = other.plot(values, color=ORANGE, ls="--", lw=2.4, label="log₁₀ SNR")
    other.tick_params(labelsize=14, colors=ORANGE)
    ax.legend(handles=[*ax.get_lines()[:1], line], fontsize=13, framealpha=0.6)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# ----------------------------------------------------------------------------------------- payload

VERSION = 1
LIMIT = 256 * 1024  # bytes of JSON
POINTS = 400


def payload(trace: Trace, film: Film, image: int) -> dict[str, Any]:
    """What the page draws: curves and two small film strips; finite numbers or None, at most ``LIMIT`` bytes as JSON."""
    count = len(trace)
    index = sorted({round(i * (count - 1) / (POINTS - 1)) for i in range(POINTS)}) if count > POINTS else list(range(count))  # fmt: skip
    keys = trace.measured

    def thin(key: str) -> list[float | None]:
        values = trace.curve(key)
        return [None if values[i] is None else float(f"{values[i]:.5g}") for i in index]

    told: dict[str, Any] = plain(
        dict(
            version=VERSION, summary=trace.summary(), solver=trace.solver, path=trace.path.name, images=len(trace.end),
            image=image, steps=count, nfe=trace.nfe, seconds=trace.seconds, kept_every=trace.every, index=index,
            curves={key: thin(key) for key in keys},
            labels={k: dict(name=m.name, unit=m.unit, help=m.help, log=m.log) for k, m in MEASURES.items() if k in keys},
            frames=list(film.steps), sigmas=list(film.sigmas), strips={},
        )
    )  # fmt: skip
    room = (LIMIT - len(json.dumps(told)) - 1024) // 2
    for height, quality in ((96, 85), (96, 70), (64, 70), (48, 60), (32, 50)):
        strips = {name: sprite(getattr(film, name), height, quality) for name in ("x0", "x")}
        if all(len(s["src"]) <= room for s in strips.values()):
            told["strips"] = strips
            break
    return told


def sprite(frames: Tensor, height: int, quality: int) -> dict[str, Any]:
    """Frames [n, H, W, 3] side by side as one JPEG in a data URI."""
    from PIL import Image

    small = torch.cat([fitted(frame, height) for frame in frames], 1)
    picture = Image.fromarray((small.numpy() * 255).round().astype(np.uint8))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    text = base64.b64encode(data.getvalue()).decode()
    size = dict(count=len(frames), width=picture.width // len(frames), height=height)
    return {"src": f"data:image/jpeg;base64,{text}", **size}
