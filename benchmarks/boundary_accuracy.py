"""Bias and RMS error of fitted diameters on drawn objects: the tables of docs/boundary.md, as Markdown.

python -m benchmarks.boundary_accuracy      # some minutes on one core; the same figures every time
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from sam_engine.boundary import BoundaryFit, Model, refine_boundary
from sam_engine.types import Mask

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SEED = 1991
RADII = (4, 6, 10, 20, 40, 100)
DRAWINGS = {4: 150, 6: 150, 10: 100, 20: 80, 40: 40, 100: 15}  # by radius
FINE = 5  # drawn at this many times the resolution
MARGIN = 14
GROUND, CONTRAST = 180.0, 80.0


@dataclass(frozen=True)
class Scene:
    """What is drawn; `rim` is the width of a dark rim around an inside as bright as the ground."""

    title: str
    model: Model = "circle"
    aspect: float = 1.0
    rim: float | None = None
    blur: float = 1.0
    noise: float = 4.0


@dataclass(frozen=True)
class Drawing:
    """One picture and the pixels of its object."""

    image: NDArray[np.uint8]
    pixels: BoolArray


def draw(scene: Scene, radius: int, rng: np.random.Generator) -> Drawing:
    """An object at a random place between pixels and a random angle: averaged, blurred, noisy, 8 bits."""
    a, b = radius * math.sqrt(scene.aspect), radius / math.sqrt(scene.aspect)
    size = 2 * math.ceil(a + MARGIN) + 1
    cx, cy = size // 2 + rng.uniform(-0.5, 0.5, 2)
    turn = rng.uniform(0, math.pi)
    places = (np.arange(size * FINE) + 0.5) / FINE - 0.5
    x, y = places[None, :] - cx, places[:, None] - cy
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    whole = (u / a) ** 2 + (v / b) ** 2 <= 1
    dark = whole.astype(np.float64)
    if scene.rim is not None:
        dark -= (u * (b - scene.rim)) ** 2 + (v * (a - scene.rim)) ** 2 <= (
            (a - scene.rim) * (b - scene.rim)
        ) ** 2
    image = gaussian_filter(GROUND - CONTRAST * coarse(dark), scene.blur)
    image += rng.normal(0, scene.noise, image.shape)
    return Drawing(np.clip(np.round(image), 0, 255).astype(np.uint8), coarse(whole.astype(np.float64)) > 0.5)


def coarse(fine: FloatArray) -> FloatArray:
    """Mean over each pixel."""
    size = len(fine) // FINE
    return np.asarray(fine.reshape(size, FINE, size, FINE).mean(axis=(1, 3)))


def jagged(pixels: BoolArray, rng: np.random.Generator) -> BoolArray:
    """The outline moved in and out by 1.2 px (standard deviation) every few pixels."""
    rough = gaussian_filter(rng.normal(size=pixels.shape), 1.0)
    inside = cv2.distanceTransform(pixels.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(inside - outside + 1.2 * rough / rough.std() > 0)


Damage = Callable[[BoolArray, np.random.Generator], BoolArray]
MASKS: dict[str, Damage] = {
    "exact": lambda pixels, _: pixels,
    "dilated by 1 px": lambda pixels, _: binary_dilation(pixels),
    "dilated by 2 px": lambda pixels, _: binary_dilation(pixels, iterations=2),
    "eroded by 1 px": lambda pixels, _: binary_erosion(pixels),
    "eroded by 2 px": lambda pixels, _: binary_erosion(pixels, iterations=2),
    "jagged": jagged,
    "moved by (2, 1) px": lambda pixels, _: np.roll(pixels, (1, 2), (0, 1)),
}


def mask_of(pixels: BoolArray) -> Mask:
    """Tight crop."""
    x, y, w, h = cv2.boundingRect(pixels.astype(np.uint8))
    return Mask(pixels[y : y + h, x : x + w], (x, y), (pixels.shape[0], pixels.shape[1]), 1.0, 1.0)


@dataclass
class Cell:
    """Errors of diameters in pixels, and what the fits say of themselves."""

    mask: list[float]
    fit: list[float]
    stated: list[float]
    seconds: float = 0.0


def measure(scene: Scene, radius: int, damage: Damage) -> Cell:
    """All drawings of one cell; each cell has its own generator, the same for every kind of mask."""
    rng = np.random.default_rng((SEED, radius))
    cell = Cell([], [], [])
    for _ in range(DRAWINGS[radius]):
        drawing = draw(scene, radius, rng)
        mask = mask_of(damage(drawing.pixels, rng))
        cell.mask.append(2 * math.sqrt(mask.area / math.pi) - 2 * radius)
        started = time.perf_counter()
        fit = refine_boundary(mask, drawing.image, scene.model)
        cell.seconds += time.perf_counter() - started
        if isinstance(fit, BoundaryFit):
            cell.fit.append(fit.equivalent_diameter - 2 * radius)
            cell.stated.append(fit.diameter_stderr)
    return cell


def errors(values: Sequence[float], wanted: int) -> str:
    """Bias / RMS error, and the share without a value where there are such."""
    if not values:
        return "no fit"
    v = np.array(values)
    missing = "" if len(v) == wanted else f" ({100 * (1 - len(v) / wanted):.0f} % none)"
    return f"{v.mean():+.3f} / {math.sqrt((v**2).mean()):.3f}{missing}"


def table(first: str, rows: dict[str, list[str]]) -> str:
    """Markdown table with one column for each radius."""
    head = f"| {first} | " + " | ".join(f"r = {r}" for r in RADII) + " |"
    return "\n".join(
        [head, "|---|" + "---:|" * len(RADII)] + [f"| {k} | " + " | ".join(v) + " |" for k, v in rows.items()]
    )


def masks_table(scene: Scene, names: Sequence[str]) -> str:
    """Diameters of masks and of fits under the errors of masks."""
    rows: dict[str, list[str]] = {}
    for name in names:
        cells = [measure(scene, radius, MASKS[name]) for radius in RADII]
        rows[f"mask, {name}"] = [errors(c.mask, len(c.mask)) for c in cells]
        rows[f"**fit**, {name}"] = [errors(c.fit, len(c.mask)) for c in cells]
    return table(scene.title, rows)


def scenes_table(first: str, scenes: Sequence[Scene]) -> str:
    """Diameters of fits from masks dilated by 1 px, for several scenes."""
    rows = {}
    for scene in scenes:
        cells = [measure(scene, radius, MASKS["dilated by 1 px"]) for radius in RADII]
        rows[scene.title] = [errors(c.fit, len(c.mask)) for c in cells]
    return table(first, rows)


def stated_table(scenes: Sequence[Scene]) -> str:
    """Scatter of the diameters over the standard error that the fits state."""
    rows = {}
    for scene in scenes:
        cells = [measure(scene, radius, MASKS["exact"]) for radius in RADII]
        rows[scene.title] = [f"{np.std(c.fit) / math.sqrt(np.mean(np.square(c.stated))):.2f}" for c in cells]
    return table("scatter over stated error", rows)


def speed() -> str:
    """Milliseconds an object."""
    rows = {}
    for model in ("circle", "ellipse"):
        cells = [measure(Scene(model, model), radius, MASKS["dilated by 1 px"]) for radius in RADII]
        rows[model] = [f"{1000 * c.seconds / len(c.mask):.1f}" for c in cells]
    return table("ms an object", rows)


def main() -> None:
    """Print the tables in the order of the page."""
    cv2.setNumThreads(1)
    disc, ellipse = Scene("discs, circle"), Scene("ellipses of aspect 1.5, ellipse", "ellipse", 1.5)
    tables = [
        masks_table(disc, list(MASKS)),
        masks_table(ellipse, ["exact", "dilated by 2 px", "jagged"]),
        scenes_table(
            "discs, circle",
            [
                Scene(f"blur {b:g} px, noise {n:g}", blur=b, noise=n)
                for b in (0.5, 1.0, 2.0)
                for n in (0.0, 4.0, 16.0)
            ],
        ),
        scenes_table("dark rims, circle", [Scene(f"rim of {w} px", rim=w) for w in (2, 3, 4)]),
        stated_table(
            [disc, Scene("discs, ellipse", "ellipse"), ellipse, Scene("discs, circle, noise 16", noise=16.0)]
        ),
        speed(),
    ]
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
