"""The outline of an object as a signed distance, negative inside, over a window of the picture."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.scenes.layout import Circles, FloatImage, Generator

FAR = np.float32(1e9)
FARTHEST_CORNER = 1.6  # of a polygon, in radii of the circle of its area; a triangle's is 1.56
CORNER_ROUNDING = 0.12  # of the radius: films of a foam meet in rounded corners (Plateau borders)


@dataclass(frozen=True, slots=True)
class Window:
    """Part of the picture: first and last row and column (exclusive), and its pixels relative to a centre."""

    rows: slice
    columns: slice
    x: FloatImage
    y: FloatImage

    @property
    def index(self) -> tuple[slice, slice]:
        """For arrays of the picture's size."""
        return self.rows, self.columns


def window_around(x: float, y: float, reach: float, size: int) -> Window | None:
    """The window of `reach` pixels to each side of (x, y), cut at the picture; None if less than 3 pixels."""
    left, right = max(0, int(x - reach)), min(size, int(x + reach) + 2)
    top, bottom = max(0, int(y - reach)), min(size, int(y + reach) + 2)
    if right - left < 3 or bottom - top < 3:
        return None
    across = (np.arange(left, right, dtype=np.float32) - np.float32(x))[None, :]
    down = (np.arange(top, bottom, dtype=np.float32) - np.float32(y))[:, None]
    return Window(slice(top, bottom), slice(left, right), *np.broadcast_arrays(across, down))


@dataclass(frozen=True, slots=True)
class Form:
    """How far objects of a scene depart from circles.

    Attributes:
        irregularity: amplitude of random waves of 2 to 5 periods along the outline, as a share of the radius.
        elongation: deviation of the axis ratio from 1.
        longest: greatest ratio of the axes.
        tilt: direction of the long axis; None draws one for each object.
        corners: fewest and most corners of convex polygons with rounded corners, None for round objects.
        rod: greatest half-length, in radii, by which objects are drawn out along their long axis.
        plug_px: half-length by which objects are drawn out along the x (True) or y axis.
        plug_along_x: see above.
    """

    irregularity: float = 0.0
    elongation: float = 0.0
    longest: float = 2.2
    tilt: float | None = None
    corners: tuple[int, int] | None = None
    rod: float = 0.0
    plug_px: float = 0.0
    plug_along_x: bool = True

    @property
    def reach(self) -> float:
        """Farthest point of an outline in radii, less the plug."""
        ratio = min(self.longest, 1 + 3 * self.elongation)
        return (
            (math.sqrt(ratio) + self.rod)
            * (1 + 2.5 * self.irregularity)
            * (FARTHEST_CORNER if self.corners else 1)
        )


def freeform(rng: Generator, window: Window, radius: float, form: Form) -> tuple[FloatImage, FloatImage]:
    """Signed distance in pixels (exact for circles) and distance from the centre in local radii."""
    x, y = window.x, window.y
    if form.plug_px:
        if form.plug_along_x:
            x = np.sign(x) * (np.abs(x) - form.plug_px).clip(0)
        else:
            y = np.sign(y) * (np.abs(y) - form.plug_px).clip(0)
    distance = np.sqrt(x * x + y * y)
    if not (form.irregularity or form.elongation or form.corners or form.rod):
        return distance - np.float32(radius), (distance / np.float32(radius)).astype(np.float32)
    tilt = rng.uniform(0, math.pi) if form.tilt is None else form.tilt
    ratio = min(form.longest, 1 + abs(rng.normal(0, form.elongation)))
    cos, sin = math.cos(tilt), math.sin(tilt)
    long: FloatImage = (cos * x + sin * y).astype(np.float32)
    short: FloatImage = (cos * y - sin * x).astype(np.float32)
    if form.rod:
        half = np.float32(radius * rng.uniform(0.3, 1) * form.rod)
        long = np.sign(long) * (np.abs(long) - half).clip(0)
        distance = np.sqrt(long * long + short * short)
    long = long / np.float32(math.sqrt(ratio) * radius)
    short = short * np.float32(math.sqrt(ratio) / radius)
    if form.corners:
        return _polygon(rng, long, short, radius, int(rng.integers(form.corners[0], form.corners[1] + 1)))
    rho = np.sqrt(long * long + short * short) + np.float32(1e-6)
    if form.irregularity:
        angle = np.arctan2(short, long)
        wave = np.ones_like(rho)
        for periods in range(2, 6):
            amplitude = form.irregularity * rng.normal() * 2 / periods
            wave += np.float32(amplitude) * np.cos(periods * angle + np.float32(rng.uniform(0, 2 * math.pi)))
        rho = rho / wave.clip(0.5, 1.6)
    signed = np.where(rho < 0.05, np.float32(-radius), distance - distance / rho)
    return signed.astype(np.float32), rho


def _polygon(
    rng: Generator, x: FloatImage, y: FloatImage, radius: float, corners: int
) -> tuple[FloatImage, FloatImage]:
    """A convex polygon of about the area of the unit circle; the smooth maximum rounds its corners.

    Sides that do not quite close it are joined by a circle.
    """
    apothem = math.sqrt(math.pi / (corners * math.tan(math.pi / corners)))
    softness = np.float32(rng.uniform(0.02, 0.15))
    uneven = rng.choice([0.0, 0.15])
    total = np.exp(((np.sqrt(x * x + y * y) - np.float32(FARTHEST_CORNER)) / softness).clip(-60, 60))
    for k in range(corners):
        angle = 2 * math.pi * (k + uneven * rng.normal()) / corners
        side = np.float32(apothem * (1 + uneven * rng.normal()))
        beyond = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y - side
        total += np.exp((beyond / softness).clip(-60, 60))
    signed = softness * np.log(total)
    return signed * np.float32(radius), (1 + signed).clip(0)


@dataclass(frozen=True, eq=False, slots=True)
class Packing:
    """Objects that share walls: the power diagram of their circles, corners rounded.

    Attributes:
        wall_px: thickness of the wall between two cells.
        swell: how far cells bulge over their circles, 1 = not at all.
    """

    circles: Circles
    size: int
    wall_px: float
    swell: float
    nearest: NDArray[np.int32] = field(repr=False)
    power: FloatImage = field(repr=False)
    second_power: FloatImage = field(repr=False)

    @classmethod
    def of(cls, circles: Circles, size: int, wall_px: float, swell: float) -> "Packing":
        """Which circle each pixel belongs to (smallest power distance), and the runner-up's distance."""
        nearest = np.full((size, size), -1, np.int32)
        power, second = np.full((size, size), FAR), np.full((size, size), FAR)
        for i, (x, y, radius) in enumerate(circles):
            window = window_around(x, y, 1.5 * radius + 2, size)
            if window is None:
                continue
            at = window.index
            own = window.x**2 + window.y**2 - np.float32(radius**2)
            closer = own < power[at]
            second[at] = np.where(closer, power[at], np.minimum(second[at], own))
            nearest[at][closer] = i
            power[at] = np.where(closer, own, power[at])
        return cls(circles, size, wall_px, swell, nearest, power, second)

    def cell(self, i: int, window: Window) -> tuple[FloatImage, FloatImage]:
        """Signed distance to the cell's wall and distance from its centre in radii."""
        at, radius = window.index, float(self.circles[i, 2])
        distance = np.sqrt(window.x**2 + window.y**2)
        own = distance**2 - np.float32(radius**2)
        others = np.where(self.nearest[at] == i, self.second_power[at], self.power[at])
        to_wall = np.minimum(own - others, 1e6) / np.float32(3.7 * radius)
        to_circle = distance - np.float32(radius * self.swell)
        softness = np.float32(CORNER_ROUNDING * radius)
        highest = np.maximum(to_wall, to_circle)
        apart = np.abs(to_wall - to_circle)
        signed = (
            highest + softness * np.exp(-apart / softness) * np.float32(0.5) + np.float32(self.wall_px / 2)
        )
        return signed, (1 + signed / np.float32(radius)).clip(0)
