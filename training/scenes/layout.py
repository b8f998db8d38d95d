"""Where objects lie and how large they are: (n, 3) of x, y, radius in pixels."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Generator = np.random.Generator
Circles = NDArray[np.float64]
FloatImage = NDArray[np.float32]

SMALLEST_RADIUS_PX = 3.2
MOST_OBJECTS = 1000


def smooth_noise(
    rng: Generator, size: int, cell: float, octaves: int = 1, persistence: float = 0.5
) -> FloatImage:
    """(size, size) of noise with features about `cell` pixels wide, mean near 0, deviation near 0.6."""
    total = np.zeros((size, size), np.float32)
    weight = 0.0
    for octave in range(octaves):
        amplitude = persistence**octave
        knots = max(2, int(size / max(1.5, cell / 2**octave)) + 2)
        grid = rng.standard_normal((knots, knots)).astype(np.float32)
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight += amplitude
    return total / weight


def radii(rng: Generator, base: float, spread: float, count: int) -> NDArray[np.float64]:
    """Log-normal radii of median `base` and geometric deviation e**spread, cut at a third and at 2.5."""
    return base * np.exp(rng.normal(0, spread, count)).clip(0.33, 2.5)


def scattered(
    rng: Generator, size: int, base: float, spread: float, fill: float, gap: float, cling: float = 0.0
) -> Circles:
    """Circles dropped at random until they cover `fill` of the square, never nearer than `gap` px.

    Args:
        cling: chance that a circle is laid against the nearest one instead of anywhere.
    """
    queue = np.sort(radii(rng, base, spread, MOST_OBJECTS))[::-1].copy()
    placed = np.zeros((0, 3))
    covered, tries, i = 0.0, 0, 0
    while covered < fill * size * size and i < len(queue) and tries < 3000:
        radius = queue[i]
        places = rng.uniform(-0.3 * radius, size + 0.3 * radius, (24, 2))
        room = np.full(24, np.inf)
        if len(placed):
            tries += 1
            apart = np.linalg.norm(places[:, None] - placed[None, :, :2], axis=-1)
            room = (apart - placed[:, 2]).min(axis=1) - radius - gap
        free = np.flatnonzero(room > 0)
        if not len(free):
            queue[i] *= 0.9
            i += queue[i] < SMALLEST_RADIUS_PX or tries % 40 == 0
            continue
        best = free[np.argmin(room[free])] if rng.random() < cling else free[0]
        placed = np.vstack([placed, [*places[best], radius]])
        covered += math.pi * radius**2
        i += 1
    return placed


def overlapping(rng: Generator, size: int, base: float, spread: float, fill: float) -> Circles:
    """Circles at random places, however near to each other."""
    count = int(np.clip(fill * size * size / (math.pi * base**2), 2, 400))
    return np.column_stack([rng.uniform(0, size, (count, 2)), radii(rng, base, spread, count)])


def packed(rng: Generator, size: int, base: float, spread: float, density: float) -> Circles:
    """A disordered packing: circles pushed apart until they hardly overlap."""
    count = int(np.clip(density * size * size / (math.pi * base**2 * math.exp(2 * spread**2)), 3, 900))
    places = rng.uniform(-base, size + base, (count, 2))
    radius = radii(rng, base, spread, count)
    for _ in range(16 if count < 400 else 8):
        apart = places[:, None] - places[None]
        distance = np.sqrt((apart**2).sum(-1)) + 1e-3
        np.fill_diagonal(distance, 1e9)
        overlap = (radius[:, None] + radius[None] - distance).clip(0)
        places += 0.4 * (apart / distance[..., None] * overlap[..., None]).sum(1)
    return np.column_stack([places, radius])


def hexagonal(rng: Generator, size: int, base: float, disorder: float, vacancies: float) -> Circles:
    """A near-regular packing, turned at random, with some places empty."""
    pitch = 2 * base * rng.uniform(0.97, 1.12)
    side = int(size * 1.5 / pitch) + 3
    row, column = np.mgrid[-side : side + 1, -side : side + 1]
    square = rng.random() < 0.12
    x = pitch * (column if square else column + 0.5 * (row % 2))
    y = pitch * row * (1 if square else math.sqrt(3) / 2)
    angle = rng.uniform(0, math.pi / 3)
    turned = np.column_stack([(math.cos(angle) * x - math.sin(angle) * y).ravel(),
                              (math.sin(angle) * x + math.cos(angle) * y).ravel()])  # fmt: skip
    places = size / 2 + turned + rng.normal(0, disorder * base, turned.shape)
    near = ((places > -base) & (places < size + base)).all(1) & (rng.random(len(places)) >= vacancies)
    places = places[near]
    return np.column_stack([places, radii(rng, base, 0.3 * disorder + 0.01, len(places))])


def lines(rng: Generator, size: int, base: float, rows: int, pitch: float) -> Circles:
    """Droplets following each other along channels, `pitch` diameters apart."""
    trains = []
    for _ in range(rows):
        radius = base if rng.random() < 0.7 else base * rng.uniform(0.6, 1.5)
        step = 2 * radius * pitch
        along = np.arange(-radius, size + radius, step) + rng.uniform(0, step)
        along = along + rng.normal(0, 0.1 * (step - 2 * radius) + 0.01, len(along))
        across = rng.uniform(0.1, 0.9) * size + rng.normal(0, 0.03 * radius, len(along))
        trains.append(np.column_stack([along, across, radii(rng, radius, 0.03, len(along))]))
    found = np.vstack(trains)
    return without_overlap(found[:, [1, 0, 2]] if rng.random() < 0.5 else found)


def without_overlap(circles: Circles, allowed_px: float = 1.0) -> Circles:
    """The circles in their order, less those that overlap an earlier one."""
    kept: list[int] = []
    for i, (x, y, radius) in enumerate(circles):
        others = circles[kept]
        room = np.hypot(others[:, 0] - x, others[:, 1] - y) - others[:, 2] - radius
        if not len(others) or room.min() > -allowed_px:
            kept.append(i)
    return circles[kept]


def with_satellites(rng: Generator, circles: Circles, size: int, share: float) -> Circles:
    """Small drops in the spaces between: as many as `share` times the circles."""
    count = min(MOST_OBJECTS - len(circles), int(share * len(circles)) + 1)
    if count <= 0 or not len(circles):
        return circles
    small = np.median(circles[:, 2]) * rng.uniform(0.15, 0.4, count)
    extra = np.column_stack([rng.uniform(0, size, (count, 2)), small])
    return without_overlap(np.vstack([circles, extra]), allowed_px=0.0)


def holed(rng: Generator, circles: Circles, size: int) -> Circles:
    """The circles less those in a few smooth empty regions."""
    if not len(circles):
        return circles
    field = smooth_noise(rng, size, size / 3)
    at = circles[:, :2].clip(0, size - 1).astype(int)
    kept: Circles = circles[field[at[:, 1], at[:, 0]] > rng.uniform(-0.7, 0.1)]
    return kept


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Uniform in the logarithm; `low` in pictures so small that `high`, a share of their side, is less."""
    return float(np.exp(rng.uniform(math.log(low), math.log(max(low, high)))))
