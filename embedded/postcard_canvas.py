"""What postcards are painted with: random parameters, colours, and a canvas that gives the same bytes everywhere."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

SUPERSAMPLING = 2

T = TypeVar("T")


# ---- chance


class Dice:
    """The random parameters of one scene, all made from the generator's stable ``random()``."""

    def __init__(self, *key: int) -> None:
        self._random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).random

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random()

    def count(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int((high - low + 1) * self._random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(len(options) * self._random())]

    def many(self, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """n numbers in [low, high), float64 [n]."""
        return low + (high - low) * self._random(n)

    def spread(self, n: int, low: float, high: float) -> list[float]:
        """n increasing positions: one in the middle 60 % of each of n cells of [low, high)."""
        step = (high - low) / max(n, 1)
        places: list[float] = (low + step * (np.arange(n) + self.many(n, 0.2, 0.8))).tolist()
        return places


# ---- colour


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour, float32 [3, 1, 1]; hue wraps at 1, saturation and value are clipped to [0, 1]."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(rgb, np.float32).reshape(3, 1, 1)


def mix(a: np.ndarray, b: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """The colour a at t = 0, b at t = 1; the shapes broadcast."""
    blended: np.ndarray = a + (b - a) * t
    return blended


WHITE = hsv(0.0, 0.0, 1.0)
CREAM = hsv(0.12, 0.16, 1.0)
YELLOW = hsv(0.13, 0.75, 1.0)


# ---- canvas


@lru_cache(maxsize=64)
def _axis(count: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in units, read-only [count]: float64 (for curves), float32 (for rasters)."""
    centres = (np.arange(count) + 0.5) / scale
    single = centres.astype(np.float32)
    centres.flags.writeable = single.flags.writeable = False
    return centres, single


@lru_cache(maxsize=64)
def _lattice(count: int, scale: int, pitch: float, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Cell of each pixel of an axis, and its coverage by the first `part` of that cell, [count]."""
    at = _axis(count, scale)[0] / pitch
    cell = at.astype(np.intp)
    inside = (0.5 * part - np.abs(at - cell - 0.5 * part)) * pitch * scale + 0.5
    line = np.clip(inside, 0.0, 1.0).astype(np.float32)
    cell.flags.writeable = line.flags.writeable = False
    return cell, line


class Canvas:
    """A picture in the making: planar float32 [3, rows, columns] in [0, 1], supersampled.

    All primitives take unit coordinates, soften their edges over one canvas pixel and touch only
    the rows and columns they need.  Colours are float32 arrays that broadcast to
    [3, rows, columns], mostly [3, 1, 1].
    """

    def __init__(self, size: int, width: int) -> None:
        self.scale = SUPERSAMPLING * size
        self.aspect = width / size
        self.x, self._x = _axis(SUPERSAMPLING * width, self.scale)
        self.y, self._y = _axis(self.scale, self.scale)
        self.pixels = np.empty((3, self.scale, SUPERSAMPLING * width), np.float32)

    def per_unit(self, n: float) -> int:
        """How many things there are when a square scene has about n of them."""
        return int(n * self.aspect + 0.5)

    # -- rasters

    def window(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        """Rows and columns that a shape with these bounds can touch."""

        def span(low: float, high: float, count: int) -> slice:
            start = min(max(int(low * self.scale) - 1, 0), count)
            return slice(start, min(max(int(high * self.scale) + 2, start), count))

        return span(top, bottom, self._y.size), span(left, right, self._x.size)

    def grid(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres of a window, float32: x [1, columns] and y [rows, 1]."""
        return self._x[None, columns], self._y[rows, None]

    def cover(self, inside: np.ndarray) -> np.ndarray:
        """Coverage in [0, 1] from the signed distance to the edge (in units, positive inside)."""
        alpha: np.ndarray = inside * self.scale
        alpha += 0.5
        np.maximum(alpha, 0.0, out=alpha)
        np.minimum(alpha, 1.0, out=alpha)
        return alpha

    def blend(self, rows: slice, columns: slice, colour: np.ndarray, alpha: np.ndarray) -> None:
        """Lays the colour over a window with opacity alpha, which broadcasts to [rows, columns]."""
        region = self.pixels[:, rows, columns]
        change = colour - region
        change *= alpha
        region += change

    # -- primitives

    def sky(self, top: np.ndarray, bottom: np.ndarray, horizon: float = 0.75) -> None:
        """Fills the canvas with a vertical gradient that ends at the horizon."""
        self.pixels[:] = mix(top, bottom, np.minimum(self._y / np.float32(horizon), 1.0)[:, None])

    def below(
        self,
        curve: np.ndarray,
        colour: np.ndarray,
        deep: np.ndarray | None = None,
        fade: float = 0.45,
    ) -> None:
        """Fills what is under y = curve(x) [columns]; `deep` is the colour `fade` units down."""
        edge = curve.astype(np.float32)
        first = min(max(int(edge.min() * self.scale) - 1, 0), self.scale)
        last = min(max(int(edge.max() * self.scale) + 2, first), self.scale)
        depth = self._y[first:, None] - edge
        if deep is not None:
            ramp = np.maximum(depth / np.float32(fade), 0.0)
            colour = mix(colour, deep, np.minimum(ramp, 1.0, out=ramp))
        colour = np.broadcast_to(colour, (3, *depth.shape))
        split = last - first
        self.blend(slice(first, last), slice(None), colour[:, :split], self.cover(depth[:split]))
        self.pixels[:, last:] = colour[:, split:]

    def pill(
        self,
        left: float,
        right: float,
        top: float,
        bottom: float,
        radius: float,
        colour: np.ndarray,
    ) -> None:
        """A rectangle grown by `radius` on every side, corners rounded."""
        rows, columns = self.window(left - radius, right + radius, top - radius, bottom + radius)
        x, y = self.grid(rows, columns)
        dx = np.maximum(np.maximum(left - x, x - right), 0.0)
        dy = np.maximum(np.maximum(top - y, y - bottom), 0.0)
        self.blend(rows, columns, colour, self.cover(radius - np.sqrt(dx * dx + dy * dy)))

    def disc(
        self, x: float, y: float, radius: float, colour: np.ndarray, bite: float = 0.0
    ) -> None:
        """A disc; a bite > 0 takes away another one, that many radii to the right (a crescent)."""
        rows, columns = self.window(x - radius, x + radius, y - radius, y + radius)
        dx, dy = self.grid(rows, columns)
        dx, dy = dx - x, dy - y
        alpha = self.cover(radius - np.sqrt(dx * dx + dy * dy))
        if bite:
            dx, dy = dx - bite * radius, dy + 0.4 * bite * radius
            alpha *= 1.0 - self.cover(0.95 * radius - np.sqrt(dx * dx + dy * dy))
        self.blend(rows, columns, colour, alpha)

    def glow(self, x: float, y: float, reach: float, colour: np.ndarray, strength: float) -> None:
        """Gaussian light around a point; `reach` is where it has fallen to 1/e."""
        far = 2.5 * reach
        rows, columns = self.window(x - far, x + far, y - far, y + far)
        across, down = (
            np.exp(-(((axis - centre) / reach) ** 2)).astype(np.float32)
            for axis, centre in ((self.x[columns], x), (self.y[rows], y))
        )
        self.blend(rows, columns, colour, down[:, None] * (across * np.float32(strength)))

    def puffs(
        self,
        x: np.ndarray,
        y: np.ndarray,
        radius: np.ndarray,
        colour: np.ndarray,
        floor: float = 2.0,
    ) -> None:
        """The union of discs (each array [n]), cut off flat under y = floor."""
        x, y, radius = (np.asarray(v, np.float32)[:, None, None] for v in (x, y, radius))
        rows, columns = self.window(
            float((x - radius).min()),
            float((x + radius).max()),
            float((y - radius).min()),
            min(float((y + radius).max()), floor),
        )
        gx, gy = self.grid(rows, columns)
        dx, dy = gx - x, gy - y
        inside = (radius - np.sqrt(dx * dx + dy * dy)).max(axis=0)
        self.blend(rows, columns, colour, self.cover(np.minimum(inside, np.float32(floor) - gy)))

    def spindle(
        self,
        y: Sequence[float],
        middle: float | Sequence[float],
        half: Sequence[float],
        colour: np.ndarray,
        left_colour: np.ndarray | None = None,
    ) -> None:
        """A shape given by its middle and half width at increasing heights y.

        The part left of the middle takes left_colour if there is one.
        """
        centres = (middle,) if isinstance(middle, float) else middle
        reach = max(half)
        rows, columns = self.window(min(centres) - reach, max(centres) + reach, y[0], y[-1])
        dx, gy = self.grid(rows, columns)
        at = self.y[rows]
        if isinstance(middle, float):
            dx = dx - middle
        else:
            dx = dx - np.interp(at, y, middle).astype(np.float32)[:, None]
        ends = np.minimum(gy - y[0], y[-1] - gy)
        alpha = self.cover(np.interp(at, y, half).astype(np.float32)[:, None] - np.abs(dx))
        alpha *= self.cover(ends)
        if left_colour is not None:
            colour = np.where(dx < 0.0, left_colour, colour)
        self.blend(rows, columns, colour, alpha)

    def cells(self, alpha: np.ndarray, pitch: float, colour: np.ndarray, part: float) -> None:
        """One small square in the upper left corner of each square cell of a lattice.

        alpha [lattice rows, lattice columns] is each cell's opacity, pitch its side in units, and
        the squares have the side `part` * pitch.  The lattice must cover the canvas's width.
        """
        rows = slice(0, min(int(alpha.shape[0] * pitch * self.scale), self._y.size))
        down, down_line = _lattice(self._y.size, self.scale, pitch, part)
        across, across_line = _lattice(self._x.size, self.scale, pitch, part)
        opacity = alpha.astype(np.float32).take(down[rows], axis=0) * down_line[rows, None]
        self.blend(rows, slice(None), colour, opacity.take(across, axis=1) * across_line)

    def dashes(
        self, top: float, pitch: float, middle: np.ndarray, half: np.ndarray, colour: np.ndarray
    ) -> None:
        """n horizontal dashes (middle, half width: [n]), one every `pitch` units under `top`."""
        at = (self.y - top) / pitch
        index = np.minimum(np.maximum(at, 0.0).astype(np.intp), half.size - 1)
        reach = float(half.max())
        rows, columns = self.window(
            float(middle.min()) - reach, float(middle.max()) + reach, top, top + pitch * half.size
        )
        line = self.cover(((0.25 - np.abs(at - index - 0.5)) * pitch)[rows, None])
        dx = self._x[None, columns] - middle[index[rows], None]
        alpha = self.cover(half[index[rows], None] - np.abs(dx)) * line
        self.blend(rows, columns, colour, alpha.astype(np.float32))

    def picture(self) -> np.ndarray:
        """The finished picture, uint8 [size, width, 3]: box average of the supersampled canvas."""
        rows = self.pixels[:, 0::2] + self.pixels[:, 1::2]
        total = rows[..., 0::2] + rows[..., 1::2]
        total *= 255.0 / SUPERSAMPLING**2
        total += 0.5
        np.minimum(total, 255.0, out=total)
        return np.ascontiguousarray(total.astype(np.uint8).transpose(1, 2, 0))
