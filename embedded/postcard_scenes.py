"""The things in a postcard and one painter per class; see ``postcards.py``."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .postcard_canvas import CREAM, WHITE, YELLOW, Canvas, Dice, hsv, mix

# ---- things in a scene


def ridge(c: Canvas, d: Dice, base: float, height: float, roughness: float) -> np.ndarray:
    """A rolling skyline y(x) [columns] around `base`: eight sines, weaker the shorter they are."""
    k = np.arange(1, 9)
    frequency = np.pi * k * d.many(8, 0.85, 1.15)
    amplitude = height * d.many(8, -1.0, 1.0) / k**roughness
    waves = np.sin(frequency[:, None] * c.x + d.many(8, 0.0, 6.28)[:, None])
    skyline: np.ndarray = base + (amplitude[:, None] * waves).sum(axis=0)
    return skyline


def peaks(
    c: Canvas, d: Dice, base: float, height: float, per_unit: float, steep: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mountains: skyline y(x) [columns], and the flank seen (-1 left, +1 right) [columns]."""
    n = c.per_unit(per_unit) + 2
    centre = np.array(d.spread(n, -0.15, c.aspect + 0.15))[:, None]
    top, slope = d.many(n, 0.6, 1.0)[:, None], d.many(n, 0.8, 1.2)[:, None] * steep
    mountains = top - np.abs(c.x - centre) * slope
    highest = mountains.argmax(axis=0)
    return base - height * np.maximum(mountains.max(axis=0), 0.0), np.sign(c.x - centre[highest, 0])


def flanks(light: np.ndarray, dark: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Colours [3, 1, columns]: `light` where side is negative, `dark` where it is positive."""
    return np.where(side < 0.0, light, dark)


def sky_x(c: Canvas, d: Dice) -> float:
    """Where the sun or the moon stands: one of few columns, symmetric about the middle."""
    columns = c.per_unit(5)
    return c.aspect * (0.5 + 0.62 * (d.count(0, columns - 1) / (columns - 1) - 0.5))


def scatter(c: Canvas, d: Dice, sites: int, keep: float, margin: float = 0.05) -> list[float]:
    """Places x, `margin` from the sides: `sites` per unit, each with probability `keep`."""
    places = d.spread(c.per_unit(sites), margin, c.aspect - margin)
    return [x for x in places if d.chance(keep)]


def stars(c: Canvas, d: Dice, n: int, lowest: float = 0.6, pitch: float = 1 / 32) -> None:
    """About n faint and bright dots per unit of width, on a lattice, above y = lowest."""
    shape = (int(lowest / pitch), max(int(c.aspect / pitch + 0.999), 1))
    alpha = np.zeros(shape)
    n = c.per_unit(n)
    alpha.flat[(d.many(n) * alpha.size).astype(np.intp)] = d.many(n, 0.35, 1.0)
    c.cells(alpha, pitch, WHITE, 0.9)


def sparkle(c: Canvas, x: float, y: float) -> None:
    """A bright star with four rays."""
    c.pill(x - 0.035, x + 0.035, y, y, 0.006, WHITE)
    c.pill(x, x, y - 0.035, y + 0.035, 0.006, WHITE)
    c.disc(x, y, 0.016, WHITE)


def cloud(c: Canvas, d: Dice, x: float, y: float, s: float) -> None:
    """A cumulus of half-width about 1.6 s with a flat base at y + s / 3."""
    xs = x + s * (np.array([-1.15, -0.6, 0.05, 0.7, 1.2]) + d.many(5, -0.12, 0.12))
    radius = s * np.array([0.38, 0.58, 0.78, 0.55, 0.36]) * d.many(5, 0.85, 1.15)
    base = y + s / 3
    c.puffs(xs, np.minimum(y + 0 * xs, base - 0.25 * radius), radius, hsv(0.58, 0.03, 1.0), base)


def tree(c: Canvas, x: float, foot: float, h: float, leaf: np.ndarray, trunk: np.ndarray) -> None:
    """A round tree of height h."""
    c.pill(x, x, foot - 0.5 * h, foot - 0.06 * h, 0.06 * h, trunk)
    at = np.array([[-0.2, 0.46, 0.22], [0.2, 0.46, 0.22], [0.0, 0.66, 0.3]]) * h
    c.puffs(x + at[:, 0], foot - at[:, 1], at[:, 2], leaf * np.float32(0.85))
    c.disc(x - 0.07 * h, foot - 0.68 * h, 0.2 * h, leaf)


PINE_HEIGHTS = np.array([0.0, 0.36, 0.37, 0.62, 0.63, 0.9])
PINE_WIDTHS = np.array([0.0, 0.17, 0.09, 0.24, 0.14, 0.30])


def pine(c: Canvas, x: float, foot: float, h: float, colour: np.ndarray) -> None:
    """A fir of height h in three tiers, its left half a little lighter; no trunk."""
    y, half = (foot - h + PINE_HEIGHTS * h).tolist(), (PINE_WIDTHS * h).tolist()
    c.spindle(y, x, half, colour, mix(colour, WHITE, 0.09))


def cabin(c: Canvas, x: float, foot: float) -> None:
    """A small house with a lit window."""
    c.spindle((foot - 0.11, foot), x, (0.08, 0.08), hsv(0.05, 0.45, 0.3))
    c.spindle((foot - 0.2, foot - 0.1), x, (0.0, 0.115), hsv(0.02, 0.5, 0.42))
    c.glow(x, foot - 0.05, 0.06, hsv(0.11, 0.6, 1.0), 0.3)
    c.spindle((foot - 0.08, foot - 0.025), x, (0.027, 0.027), hsv(0.13, 0.55, 1.0))


def sailboat(c: Canvas, x: float, y: float) -> None:
    """A boat with two sails; y is its waterline."""
    c.spindle((y - 0.035, y + 0.012), x, (0.1, 0.065), hsv(0.03, 0.5, 0.22))
    c.spindle((y - 0.22, y - 0.045), (x, x + 0.048), (0.0, 0.048), hsv(0.1, 0.08, 1.0))
    c.spindle((y - 0.17, y - 0.045), (x - 0.015, x - 0.045), (0.0, 0.03), hsv(0.06, 0.22, 0.95))


def cactus(c: Canvas, d: Dice, x: float, foot: float, h: float) -> None:
    """A saguaro with two arms."""
    green = hsv(0.37, 0.58, 0.46)
    c.pill(x, x, foot - h, foot, 0.024, green)
    for side in (-1.0, 1.0):
        elbow, arm = foot - h * d.between(0.3, 0.55), x + side * 0.07
        c.pill(min(x, arm), max(x, arm), elbow, elbow, 0.017, green)
        c.pill(arm, arm, elbow - 0.35 * h, elbow, 0.017, green)


PETALS = np.array([[0.0, 0.951, 0.588, -0.588, -0.951], [-1.0, -0.309, 0.809, 0.809, -0.309]])
PETALS = PETALS.astype(np.float32)[:, :, None, None] * np.float32(0.58)


def flower(c: Canvas, x: float, y: float, s: float, petal: np.ndarray, stem: np.ndarray) -> None:
    """Five petals around a yellow heart; s is the flower's radius, the stem is 2.4 s long."""
    c.pill(x, x, y, y + 2.4 * s, 0.011, stem)
    rows, columns = c.window(x - s, x + s, y - s, y + s)
    dx, dy = c.grid(rows, columns)
    dx, dy = dx - x, dy - y
    px, py = dx - s * PETALS[0], dy - s * PETALS[1]
    petals = c.cover(0.43 * s - np.sqrt((px * px + py * py).min(axis=0)))
    heart = c.cover(0.3 * s - np.sqrt(dx * dx + dy * dy))
    c.blend(rows, columns, mix(petal, YELLOW, heart), np.maximum(petals, heart))


def ball(c: Canvas, d: Dice, x: float, y: float, radius: float, hue: float) -> None:
    """A planet with bent cloud bands, lit from the upper left, more often than not with a ring."""
    tilt, bands, phase = d.pick((-0.3, 0.3)), d.pick((1.3, 1.9)), d.count(0, 3) / 4
    ringed = d.chance(0.65)
    cos, sin, far = math.cos(tilt), math.sin(tilt), radius * (2.1 if ringed else 1.0)
    rows, columns = c.window(x - far, x + far, y - far, y + far)
    gx, gy = c.grid(rows, columns)
    dx, dy = (gx - x) / np.float32(radius), (gy - y) / np.float32(radius)
    along, up = dx * cos - dy * sin, dx * sin + dy * cos
    distance = np.sqrt(dx * dx + dy * dy)
    wave = (up - 0.22 * along * along) * bands + phase
    wave = np.abs(wave - np.floor(wave) - 0.5) * 2.0
    body = mix(hsv(hue, 0.48, 1.0), hsv(hue + 0.04, 0.62, 0.78), wave * wave * (3.0 - 2.0 * wave))
    shade = 1.16 - 0.64 * np.sqrt((dx + 0.42) ** 2 + (dy + 0.42) ** 2)
    body *= np.minimum(np.maximum(shade, 0.12), 1.0)
    disc = c.cover((1.0 - distance) * np.float32(radius))
    if ringed:
        reach = np.sqrt((along / 1.75) ** 2 + (up / 0.45) ** 2)
        ring = 0.9 * c.cover((0.13 - np.abs(reach - 1.0)) * np.float32(0.6 * radius))
        c.blend(rows, columns, hsv(0.1, 0.25, 0.95), ring)
        c.blend(rows, columns, body, disc)
        c.blend(rows, columns, hsv(0.1, 0.25, 0.95), ring * (up > 0.0))
    else:
        c.blend(rows, columns, body, disc)


# ---- one painter per class


def dawn_mountains(c: Canvas, d: Dice) -> None:
    """Violet ranges under a pink sky with a low sun."""
    hue = d.between(0.96, 1.03)
    c.sky(hsv(hue - 0.25, 0.5, 0.66), hsv(hue + 0.03, 0.42, 1.0))
    x, y = sky_x(c, d), 0.3
    c.glow(x, y, 0.2, hsv(0.08, 0.4, 1.0), 0.6)
    c.disc(x, y, 0.105, hsv(0.14, 0.26, 1.0))
    for k, (base, height) in enumerate(((0.72, 0.34), (0.83, 0.25))):
        skyline, side = peaks(c, d, base, height, 2.6, 2.5)
        tone = mix(hsv(hue - 0.3, 0.42, 0.66), hsv(hue - 0.32, 0.55, 0.40), float(k))
        lit, mist = mix(tone, hsv(hue, 0.4, 1.0), 0.16), mix(tone, hsv(hue, 0.4, 1.0), 0.1)
        c.below(skyline, flanks(lit, tone, side), mist, 0.2)
    c.below(ridge(c, d, 0.88, 0.025, 1.2), hsv(hue - 0.33, 0.6, 0.24))


def green_hills(c: Canvas, d: Dice) -> None:
    """Rolling meadows, round trees, white clouds."""
    c.sky(hsv(0.57, 0.52, 0.96), hsv(0.53, 0.18, 1.0), 0.65)
    x, y = sky_x(c, d), 0.15
    c.glow(x, y, 0.18, hsv(0.14, 0.5, 1.0), 0.6)
    c.disc(x, y, 0.085, hsv(0.14, 0.5, 1.0))
    for at in scatter(c, d, 2, 0.75):
        cloud(c, d, at, d.pick((0.28, 0.38)), d.between(0.09, 0.13))
    hue = d.between(0.27, 0.32)
    for k in range(3):
        near = 0.1 * k
        top = hsv(hue, 0.52 + 0.6 * near, 0.86 - 1.1 * near)
        c.below(ridge(c, d, 0.58 + 0.14 * k, 0.055, 1.7), top, hsv(hue + 0.02, 0.62, 0.62 - near))
    for at in scatter(c, d, 4, 0.6):
        foot = d.between(0.76, 0.94)
        tree(c, at, foot, 0.3 * foot - 0.02, hsv(hue + 0.05, 0.62, 0.5), hsv(0.08, 0.5, 0.36))


def sunset_sea(c: Canvas, d: Dice) -> None:
    """The sun on the horizon, its track on the water, sometimes a sailing boat."""
    hue, horizon = d.between(0.985, 1.04), 0.58
    top, bottom, light = hsv(hue - 0.2, 0.5, 0.55), hsv(hue, 0.6, 1.0), hsv(hue + 0.11, 0.42, 1.0)
    c.sky(top, bottom, 0.65)
    x, radius = sky_x(c, d), 0.13
    y = horizon - radius * d.pick((0.1, 0.6))
    c.glow(x, y, 2.4 * radius, hsv(hue + 0.06, 0.52, 1.0), 0.65)
    c.disc(x, y, radius, light)
    c.below(np.full_like(c.x, horizon), bottom * np.float32(0.74), top * np.float32(0.55), 0.42)
    half = radius * np.linspace(0.95, 0.4, 9) * d.many(9, 0.65, 1.1)
    c.dashes(horizon + 0.012, 0.046, x + d.many(9, -0.02, 0.02), half, mix(light, bottom, 0.15))
    for at in scatter(c, d, 1, 0.55, 0.0):
        sailboat(c, at, d.pick((0.66, 0.74)))


def moonlit_night(c: Canvas, d: Dice) -> None:
    """A full or crescent moon over dark hills, sometimes a cabin."""
    hue = d.between(0.62, 0.69)
    c.sky(hsv(hue, 0.72, 0.2), hsv(hue - 0.03, 0.58, 0.52))
    stars(c, d, d.count(12, 22))
    x, y, radius = sky_x(c, d), d.pick((0.2, 0.32)), 0.115
    c.glow(x, y, 2.3 * radius, CREAM, 0.34)
    c.disc(x, y, radius, CREAM, d.pick((0.0, 0.55)))
    for k in range(3):
        c.below(ridge(c, d, 0.67 + 0.12 * k, 0.045, 1.4), hsv(hue - 0.02, 0.6, 0.33 - 0.1 * k))
    for at in scatter(c, d, 1, 0.55, 0.0):
        cabin(c, at, 0.86)


def desert(c: Canvas, d: Dice) -> None:
    """Dunes with a lit and a shaded side, and saguaros."""
    c.sky(hsv(0.55, 0.48, 0.92), hsv(0.11, 0.24, 1.0), 0.6)
    x, y = sky_x(c, d), d.pick((0.16, 0.28))
    c.glow(x, y, 0.21, hsv(0.12, 0.3, 1.0), 0.5)
    c.disc(x, y, 0.095, hsv(0.14, 0.36, 1.0))
    hue = d.between(0.075, 0.09)
    for k in range(3):
        skyline = ridge(c, d, 0.58 + 0.15 * k, 0.08, 2.6)
        sand = hsv(hue, 0.52 + 0.07 * k, 0.97 - 0.09 * k)
        slope = np.clip(np.gradient(skyline) * c.scale * 3.0 + 0.25, 0.0, 1.0).astype(np.float32)
        c.below(skyline, mix(sand, sand * np.float32(0.74), slope), sand * np.float32(0.86), 0.3)
    for at in scatter(c, d, 2, 0.55, 0.08):
        cactus(c, d, at, d.pick((0.82, 0.9)), d.between(0.17, 0.23))


def snow(c: Canvas, d: Dice) -> None:
    """White-capped mountains, firs, often snowfall."""
    hue = d.between(0.58, 0.63)
    c.sky(hsv(hue, 0.45, 0.74), hsv(hue, 0.14, 0.97))
    skyline, side = peaks(c, d, 0.82, 0.56, 1.4, 1.8)
    c.below(skyline, flanks(WHITE, hsv(hue, 0.1, 0.9), side))
    teeth = np.abs((c.x * 9.0 + d.between(0.0, 1.0)) % 1.0 - 0.5) * 0.12
    snowline = np.maximum(skyline, d.between(0.42, 0.46) + teeth)
    rock = flanks(hsv(hue, 0.26, 0.64), hsv(hue, 0.32, 0.52), side)
    c.below(snowline, rock, hsv(hue, 0.24, 0.72), 0.3)
    c.below(ridge(c, d, 0.74, 0.025, 1.8), hsv(hue, 0.04, 1.0), hsv(hue, 0.2, 0.93), 0.3)
    for at in scatter(c, d, 5, 0.7, 0.03):
        foot = d.between(0.8, 0.96)
        c.pill(at, at, foot - 0.04, foot - 0.01, 0.01, hsv(0.06, 0.45, 0.3))
        pine(c, at, foot, 0.5 * foot - 0.18 + d.between(-0.03, 0.03), hsv(0.42, 0.5, 0.36))
    if d.chance(0.6):
        stars(c, d, d.count(14, 26), 1.0)


def forest(c: Canvas, d: Dice) -> None:
    """Three rows of firs, paler the farther, in morning mist."""
    hue = d.between(0.41, 0.435)
    c.sky(hsv(hue + 0.02, 0.34, 0.82), hsv(hue - 0.02, 0.12, 1.0))
    x, y = sky_x(c, d), 0.19
    c.glow(x, y, 0.2, CREAM, 0.45)
    c.disc(x, y, 0.105, hsv(0.12, 0.26, 1.0))
    for k in range(3):
        base, tone = 0.68 + 0.13 * k, hsv(hue - 0.03, 0.32 + 0.15 * k, 0.66 - 0.18 * k)
        c.below(ridge(c, d, base, 0.02, 1.8), tone)
        for at in d.spread(c.per_unit(6 - k), -0.05, c.aspect + 0.05):
            h = d.between(0.3, 0.42) + 0.05 * k
            pine(c, at, base + 0.06, h, tone * np.float32(d.between(0.9, 1.06)))


def city_night(c: Canvas, d: Dice) -> None:
    """Two rows of towers with lit windows on a lattice of 1/16."""
    hue = d.between(0.68, 0.75)
    c.sky(hsv(hue, 0.68, 0.18), hsv(hue + 0.1, 0.52, 0.58))
    stars(c, d, d.count(6, 12), 0.4)
    x, y = sky_x(c, d), d.pick((0.13, 0.21))
    c.glow(x, y, 0.2, CREAM, 0.3)
    c.disc(x, y, 0.088, CREAM)
    for k, (high, low) in enumerate(((0.32, 0.6), (0.5, 0.78))):
        tops, tints = towers(c, d, high, low)
        cell = ((c.x + 1 / 64) * 16.0).astype(np.intp)
        wall = hsv(hue - 0.03, 0.45, 0.34 - 0.16 * k)
        c.below(tops[cell], wall * tints[cell].astype(np.float32))
        lit = d.many(16 * tops.size).reshape(16, -1) < 0.45
        lit &= np.arange(16)[:, None] / 16 > tops
        c.cells(lit * (0.75 + 0.25 * k), 1 / 16, hsv(d.between(0.11, 0.14), 0.5, 1.0), 0.5)


def towers(c: Canvas, d: Dice, high: float, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Roof heights in [high, low] and brightness factors, both [columns of 1/16 unit]."""
    columns = int(c.aspect * 16) + 2
    widths = np.array([2, 3, 3])[(d.many(columns) * 3).astype(np.intp)]
    tower = np.repeat(np.arange(columns), widths)[d.count(0, 1) :][:columns]
    tops = np.round(d.many(columns, high, low) * 32) / 32 - 1 / 64
    return tops[tower], d.many(columns, 0.85, 1.15)[tower]


def planet(c: Canvas, d: Dice) -> None:
    """A banded world in rose to gold, often ringed, before indigo space."""
    hue = d.between(0.68, 0.73)
    c.pixels[:] = hsv(hue, 0.62, 0.15)
    everywhere = slice(None)
    gx, gy = c.grid(everywhere, everywhere)
    for at in d.spread(c.per_unit(1), 0.0, c.aspect):
        q = (gy - (gx - at) * d.between(-0.8, 0.8) - d.between(0.35, 0.65)) * 4.0
        far = np.maximum(np.abs(gx - at) - 0.4, 0.0) * 4.0
        q = 1.0 + q * q + far * far
        c.blend(everywhere, everywhere, hsv(hue + d.between(0.0, 0.08), 0.6, 0.55), 0.75 / (q * q))
    stars(c, d, d.count(18, 30), 1.0)
    for at in scatter(c, d, 1, 0.9, 0.0):
        sparkle(c, at, d.pick((0.1, 0.9)))
    worlds = max(c.per_unit(0.6), 1)
    for k in range(worlds):
        middle = c.aspect * (k + 0.5) / worlds
        ball(c, d, middle, 0.5, 0.225, d.between(0.97, 1.04))
        if d.chance(0.5):
            moon_x = middle + d.pick((-0.38, 0.38))
            c.disc(moon_x, d.pick((0.14, 0.86)), d.between(0.04, 0.055), hsv(hue - 0.08, 0.18, 0.9))


def meadow(c: Canvas, d: Dice) -> None:
    """Large flowers in the grass, the nearer the larger."""
    c.sky(hsv(0.56, 0.36, 1.0), hsv(0.54, 0.1, 1.0), 0.5)
    for at in scatter(c, d, 2, 0.6):
        cloud(c, d, at, d.pick((0.14, 0.24)), d.between(0.09, 0.13))
    hue = d.between(0.27, 0.32)
    c.below(ridge(c, d, 0.45, 0.03, 1.8), hsv(hue + 0.05, 0.4, 0.75))
    c.below(ridge(c, d, 0.52, 0.025, 2.0), hsv(hue, 0.48, 0.86), hsv(hue + 0.03, 0.65, 0.52), 0.5)
    petals = [d.pick(PETAL_COLOURS) for _ in range(2)]
    stem = hsv(hue + 0.04, 0.7, 0.42)
    for y, s, sites in ((0.55, 0.06, 5), (0.67, 0.08, 4), (0.8, 0.1, 3)):
        for site in range(c.per_unit(sites)):
            if d.chance(0.55):
                flower(c, (site + d.pick((0.35, 0.65))) / sites, y, s, d.pick(petals), stem)


PETAL_COLOURS = (
    hsv(0.93, 0.5, 1.0),
    hsv(0.99, 0.65, 0.97),
    hsv(0.78, 0.45, 0.92),
    hsv(0.12, 0.1, 1.0),
)

PAINTERS: dict[str, Callable[[Canvas, Dice], None]] = {
    "dawn mountains": dawn_mountains,
    "green hills": green_hills,
    "sunset sea": sunset_sea,
    "moonlit night": moonlit_night,
    "desert": desert,
    "snow": snow,
    "forest": forest,
    "city night": city_night,
    "planet": planet,
    "meadow": meadow,
}
