"""A trace for the page: curves, and two small film strips."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..measure import plain
from ..measure.trace import MEASURES, Trace
from .contact_sheet import fitted
from .film import Film

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

    page: dict[str, Any] = plain(
        dict(
            version=VERSION, summary=trace.summary(), solver=trace.solver, path=trace.path.name, images=len(trace.end),
            image=image, steps=count, nfe=trace.nfe, seconds=trace.seconds, kept_every=trace.every, index=index,
            curves={key: thin(key) for key in keys},
            labels={k: dict(name=m.name, unit=m.unit, help=m.help, log=m.log) for k, m in MEASURES.items() if k in keys},
            frames=list(film.steps), sigmas=list(film.sigmas), strips={},
        )
    )  # fmt: skip
    room = (LIMIT - len(json.dumps(page)) - 1024) // 2
    for height, quality in ((96, 85), (96, 70), (64, 70), (48, 60), (32, 50)):
        strips = {name: sprite(getattr(film, name), height, quality) for name in ("x0", "x")}
        if all(len(s["src"]) <= room for s in strips.values()):
            page["strips"] = strips
            break
    return page


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
