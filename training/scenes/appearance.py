"""What an object does to the light: a family wide enough to hold every kind of scene.

Lengths across the outline count in line widths, so that one appearance serves objects of all sizes. Profiles
are sums of Gaussian bumps across the outline; what microscopes and cameras really do (refraction, Fresnel
fringes, edge effect, phase halo) are special cases of that.
"""

import math
from dataclasses import dataclass

import numpy as np

from training.scenes.layout import FloatImage, Generator
from training.scenes.outline import Window

WHITE = 255.0


@dataclass(frozen=True, slots=True)
class Bump:
    """A line along the outline: where across it (negative inside) and how wide, in line widths."""

    at: float
    width: float
    amplitude: float


@dataclass(frozen=True, slots=True)
class Spot:
    """A highlight or caustic: distance from the centre and size in radii, direction in radians."""

    at: float
    angle: float
    size: float
    amplitude: float


@dataclass(frozen=True, slots=True)
class Appearance:
    """How the objects of a scene look.

    Attributes:
        additive: amplitudes are grey levels that are added (light sources, dark grounds); otherwise they are
            shares of the ground's own brightness.
        line_px: width of lines; `line_share` instead is a share of each object's radius.
        rim: lines along the outline.
        level: brightness of the inside relative to the ground.
        opacity: how much of the ground's texture the object hides, 0..1.
        dome: brightness of the centre relative to the edge, with a profile of (1 - rho^2)^dome_power.
        side, slope: light from one direction, on the outline and across the whole object.
        light: direction of the light in radians.
        spots: highlights.
        edge_glow: brightening towards the edge, as of spheres in an electron microscope.
        texture: amplitude of `texture_image` inside.
        softness_px: blur of the outline.
        variation: deviation of the level from object to object.
        faint_share: share of the objects at a tenth to a third of the level.
        defocus_px: largest blur of objects out of focus.
    """

    additive: bool
    line_px: float = 2.0
    line_share: float | None = None
    rim: tuple[Bump, ...] = ()
    level: float = 0.0
    opacity: float = 0.0
    dome: float = 0.0
    dome_power: float = 1.0
    side: float = 0.0
    slope: float = 0.0
    light: float = 0.0
    spots: tuple[Spot, ...] = ()
    edge_glow: float = 0.0
    texture: float = 0.0
    softness_px: float = 0.7
    variation: float = 0.05
    faint_share: float = 0.0
    defocus_px: float = 0.0

    def line_of(self, radius: float) -> float:
        """Line width of an object in pixels."""
        line = self.line_px if self.line_share is None else self.line_share * radius
        return float(np.clip(line, 0.6, max(0.8, 0.4 * radius)))

    def reach_px(self, radius: float) -> float:
        """How far outside the outline the object still shows."""
        outermost = max((b.at + 2.5 * b.width for b in self.rim), default=0.0)
        return max(0.0, outermost) * self.line_of(radius) + 3 * (self.softness_px + self.defocus_px) + 3


def gaussian(x: FloatImage, width: float) -> FloatImage:
    """exp(-x^2 / 2 width^2)."""
    out: FloatImage = np.exp(np.float32(-0.5 / width**2) * x * x)
    return out


def paint(
    rng: Generator,
    ground: FloatImage,
    window: Window,
    signed: FloatImage,
    rho: FloatImage,
    radius: float,
    look: Appearance,
    texture_image: FloatImage,
) -> FloatImage:
    """The window of the ground with the object on it, in grey levels 0..255, not clipped."""
    blur = look.defocus_px * abs(rng.normal(0, 0.5))
    line = look.line_of(radius)
    inside = _coverage(signed, look.softness_px + blur)
    strength = math.exp(rng.normal(0, look.variation)) * line / math.hypot(line, blur)
    if rng.random() < look.faint_share:
        strength *= rng.uniform(0.1, 0.35)
    light = np.zeros_like(ground)
    for bump in look.rim:
        width = math.hypot(bump.width * line, blur)
        light += np.float32(bump.amplitude) * gaussian(signed - np.float32(bump.at * line), width)
    light += inside * np.float32(look.level)
    if look.dome:
        light += inside * np.float32(look.dome) * (1 - rho.clip(0, 1) ** 2) ** np.float32(look.dome_power)
    if look.side or look.slope:
        light += _directional(window, signed, inside, radius, math.hypot(line, blur), look)
    if look.edge_glow:
        light += inside * np.float32(look.edge_glow) * rho.clip(0, 1) ** 6
    light *= np.float32(strength)
    if look.texture:
        light += inside * np.float32(look.texture) * texture_image[window.index]
    for spot in look.spots:
        light += inside * _spot(window, spot, radius)
    base = ground
    if look.opacity:
        flat = np.float32(np.median(ground))
        base = ground + inside * np.float32(look.opacity) * (flat - ground)
    return base + light if look.additive else base * (1 + light).clip(0, 6)


def _coverage(signed: FloatImage, softness: float) -> FloatImage:
    if softness < 0.5:
        covered: FloatImage = (np.float32(0.5) - signed).clip(0, 1)
        return covered
    soft: FloatImage = 1 / (1 + np.exp((signed * np.float32(1.7 / softness)).clip(-30, 30)))
    return soft


def _directional(
    window: Window, signed: FloatImage, inside: FloatImage, radius: float, line: float, look: Appearance
) -> FloatImage:
    towards = window.x * np.float32(math.cos(look.light)) + window.y * np.float32(math.sin(look.light))
    distance = np.sqrt(window.x**2 + window.y**2) + np.float32(1e-3)
    light = np.float32(look.side) * towards / distance * gaussian(signed + np.float32(line), line)
    total: FloatImage = light + inside * (towards * np.float32(look.slope / radius)).clip(-2, 2)
    return total


def _spot(window: Window, spot: Spot, radius: float) -> FloatImage:
    x = window.x - np.float32(spot.at * radius * math.cos(spot.angle))
    y = window.y - np.float32(spot.at * radius * math.sin(spot.angle))
    width = max(0.7, spot.size * radius)
    out: FloatImage = np.float32(spot.amplitude) * np.exp(np.float32(-0.5 / width**2) * (x * x + y * y))
    return out


def random_rim(rng: Generator, strength: float, lines: int, brightest: float = 0.6) -> tuple[Bump, ...]:
    """Lines near an outline: the first dark and just inside, the others anywhere near it."""
    first = Bump(rng.uniform(-1.2, -0.2), rng.uniform(0.6, 1.3), -strength)
    more = [
        Bump(
            rng.uniform(-4.0, 1.8),
            rng.uniform(0.5, 1.5),
            strength * rng.uniform(0.2, brightest) * rng.choice([-0.6, 1.0], p=[0.35, 0.65]),
        )
        for _ in range(lines - 1)
    ]
    return (first, *more)


def random_spots(rng: Generator, amplitude: float, most: int, light: float) -> tuple[Spot, ...]:
    """Up to `most` highlights, the first towards the light."""
    return tuple(
        Spot(
            rng.uniform(0.0, 0.7),
            light + k * rng.uniform(1.5, math.pi),
            rng.uniform(0.05, 0.25),
            amplitude * rng.uniform(0.4, 1.0),
        )
        for k in range(int(rng.integers(0, most + 1)))
    )
