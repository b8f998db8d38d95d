"""Bias and RMS error of shape estimators on drawn shapes: the tables of docs/measurement.md, as Markdown.

python -m benchmarks.shape_estimators      # about 20 s on one core; the same figures every time
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist
from scipy.special import ellipe
from skimage.measure import find_contours, perimeter, perimeter_crofton

# The boundary that every estimator shares is the engine's own; only what follows it differs.
from sam_engine.shape import Shape, boundary_edges, lattice_points, measure_shape, outer_chains
from sam_engine.types import Mask

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

SEED = 13322
RADII = (3, 5, 10, 20, 50, 100, 200)
SOLIDITY_RADII = (3, 5, 8, 12, 20, 50, 100)
DRAWINGS = {3: 1000, 5: 600, 8: 400, 10: 300, 12: 250, 20: 200, 50: 100, 100: 50, 200: 25}  # by radius
MARGIN = 6  # background around a shape: more than the Gaussian of the iso-contour reaches
USED = "**smoothed boundary, twiced 2** (used)"


@dataclass(frozen=True)
class Form:
    """An ideal shape; every length is for a disc of the same area with radius 1."""

    title: str
    aspect: float = 1.0
    square: bool = False
    rotated: bool = True

    @property
    def half_axes(self) -> tuple[float, float]:
        """Semi-axes of the ellipse, or half the sides of the square."""
        if self.square:
            return math.sqrt(math.pi) / 2, math.sqrt(math.pi) / 2
        return math.sqrt(self.aspect), 1 / math.sqrt(self.aspect)

    @property
    def perimeter(self) -> float:
        """Of the ellipse by the complete elliptic integral of the second kind."""
        a, b = self.half_axes
        return 8 * a if self.square else 4 * a * float(ellipe(1 - (b / a) ** 2))

    @property
    def feret(self) -> float:
        """Diagonal of the square, major axis of the ellipse."""
        a, _ = self.half_axes
        return 2 * a * math.sqrt(2) if self.square else 2 * a

    @property
    def circularity(self) -> float:
        """4 pi area / perimeter^2."""
        return (2 * math.pi / self.perimeter) ** 2


FORMS = (
    Form("Discs"),
    Form("Ellipses, aspect 1.5", aspect=1.5),
    Form("Ellipses, aspect 3", aspect=3.0),
    Form("Squares, random angle", square=True),
    Form("Squares, along the pixel grid", square=True, rotated=False),
)
DISC = FORMS[0]


@dataclass(frozen=True)
class Drawing:
    """One drawn shape with a background of `MARGIN` pixels, and what several estimators need of it."""

    pixels: NDArray[np.bool_]

    @cached_property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.pixels))

    @cached_property
    def shape(self) -> Shape:
        """What the service reports of it."""
        x, y, w, h = cv2.boundingRect(self.pixels.astype(np.uint8))
        size = self.pixels.shape
        mask = Mask(self.pixels[y : y + h, x : x + w], (x, y), (size[0], size[1]), 1.0, 1.0)
        return measure_shape(mask)

    @cached_property
    def chain(self) -> NDArray[np.int32]:
        """Boundary pixels, (n, 2) of XY."""
        (chain,) = outer_chains(self.pixels.astype(np.uint8))
        return chain

    @cached_property
    def edges(self) -> ComplexArray:
        """Midpoints of the boundary's pixel edges, x + iy."""
        return boundary_edges(self.chain)

    @cached_property
    def iso_contour(self) -> ComplexArray:
        """Half-level contour of the mask after a Gaussian of 1 px, closed."""
        (contour,) = find_contours(gaussian_filter(self.pixels.astype(np.float64), 1.0), 0.5)
        return np.asarray(contour[:-1, 1] + 1j * contour[:-1, 0])


Estimator = Callable[[Drawing], float]


def draw(form: Form, radius: int, rng: np.random.Generator) -> Drawing:
    """Sample the pixel centres inside `form` at a random sub-pixel position and angle."""
    a, b = (radius * axis for axis in form.half_axes)
    x, y = rng.uniform(-0.5, 0.5, 2)
    angle = rng.uniform(0, math.pi) if form.rotated else 0.0
    reach = math.ceil(a * math.sqrt(2) if form.square else a) + 1 + MARGIN
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    along = np.abs((columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)) / a
    across = np.abs((rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)) / b
    return Drawing(np.maximum(along, across) <= 1 if form.square else along**2 + across**2 <= 1)


def drawings(form: Form, radius: int) -> Iterable[Drawing]:
    """The shapes of one cell; each cell has its own generator, so that it never moves another one."""
    rng = np.random.default_rng((SEED, FORMS.index(form), radius))
    return (draw(form, radius, rng) for _ in range(DRAWINGS[radius]))


def length(curve: ComplexArray) -> float:
    """Length of a closed polygon."""
    return float(np.abs(np.roll(curve, -1) - curve).sum())


def enclosed(curve: ComplexArray) -> float:
    """Area of a closed polygon."""
    return 0.5 * abs(float((curve.conj() * np.roll(curve, -1)).imag.sum()))


def vossepoel_smeulders(drawing: Drawing) -> float:
    """0.980 straight + 1.406 diagonal - 0.091 corners on the pixel-centre chain, moved outwards: + pi."""
    steps = np.roll(drawing.chain, -1, axis=0) - drawing.chain
    straight = int((np.abs(steps).sum(axis=1) == 1).sum())
    turns = int((steps != np.roll(steps, 1, axis=0)).any(axis=1).sum())
    return 0.980 * straight + 1.406 * (len(steps) - straight) - 0.091 * turns + math.pi


def area_restored(drawing: Drawing) -> float:
    """Length of the iso-contour, scaled to the pixel area."""
    contour = drawing.iso_contour
    return length(contour) * math.sqrt(drawing.area / enclosed(contour))


def smoothed(sigma: float, *, twiced: bool) -> Estimator:
    """Length of the smoothed edge midpoints' parallel curve that encloses the pixel area (Steiner)."""

    def estimate(drawing: Drawing) -> float:
        gaussian = np.exp(-2 * (math.pi * sigma * np.fft.fftfreq(len(drawing.edges))) ** 2)
        transfer = gaussian * (2 - gaussian) if twiced else gaussian
        curve = np.fft.ifft(np.fft.fft(drawing.edges) * transfer)
        gain = lattice_points(drawing.chain) - enclosed(curve)
        return math.sqrt(length(curve) ** 2 + 4 * math.pi * gain)

    return estimate


def circularity(of: Estimator) -> Estimator:
    """4 pi area / perimeter^2 with the pixel area, capped at 1."""
    return lambda drawing: min(1.0, 4 * math.pi * drawing.area / of(drawing) ** 2)


def farthest(points: NDArray[Any]) -> float:
    """Largest distance between two of (n, 2) points."""
    return float(pdist(cv2.convexHull(points.astype(np.float32))[:, 0]).max())


def midpoints(drawing: Drawing) -> FloatArray:
    """Edge midpoints, (n, 2) of XY."""
    return np.stack([drawing.edges.real, drawing.edges.imag], axis=1)


def corners(drawing: Drawing) -> FloatArray:
    """Corners of the boundary pixels, (4 n, 2) of XY."""
    square = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    return np.asarray((drawing.chain[:, None] + square).reshape(-1, 2), dtype=np.float64)


def hull_area(points: FloatArray) -> float:
    """Area of the convex hull of (n, 2) points."""
    return float(cv2.contourArea(cv2.convexHull(points.astype(np.float32))))


def crofton(drawing: Drawing) -> float:
    """Intercept counts in 4 directions."""
    return float(perimeter_crofton(drawing.pixels, directions=4))


PERIMETER: dict[str, Estimator] = {
    "pixel-centre chain, plain length (`skimage.measure.perimeter`)": lambda d: float(perimeter(d.pixels)),
    "Crofton, 4 directions": crofton,
    "Vossepoel-Smeulders + pi": vossepoel_smeulders,
    "edge-midpoint polygon": lambda d: length(d.edges),
    "iso-contour, Gaussian 1 px": lambda d: length(d.iso_contour),
    "iso-contour, Gaussian 1 px, area restored": area_restored,
    "smoothed boundary, Gaussian 2": smoothed(2, twiced=False),
    "smoothed boundary, twiced 1.5": smoothed(1.5, twiced=True),
    USED: lambda d: d.shape.perimeter,
    "smoothed boundary, twiced 2.5": smoothed(2.5, twiced=True),
}
CIRCULARITY: dict[str, Estimator] = {
    "Crofton, 4 directions": circularity(crofton),
    "Vossepoel-Smeulders + pi": circularity(vossepoel_smeulders),
    USED: lambda d: d.shape.circularity,
}
FERET: dict[str, Estimator] = {
    "pixel centres": lambda d: farthest(d.chain),
    "pixel centres + 0.5 px": lambda d: farthest(d.chain) + 0.5,
    "pixel edge midpoints": lambda d: farthest(midpoints(d)),
    "pixel corners": lambda d: farthest(corners(d)),
    USED: lambda d: d.shape.max_feret_diameter,
}


@dataclass(frozen=True)
class Section:
    """The tables of one measure: its estimators, its true value, and how a cell is written."""

    heading: str
    estimators: dict[str, Estimator]
    truth: Callable[[Form, int], float]
    cell: Callable[[FloatArray, float], str]


def percent(values: FloatArray, truth: float) -> str:
    """Bias / RMS error in percent of the true value."""
    error = 100 * (values / truth - 1)
    return f"{error.mean():+.2f} / {math.sqrt((error**2).mean()):.2f}"


def absolute(values: FloatArray, truth: float) -> str:
    """Bias / RMS error."""
    error = values - truth
    return f"{error.mean():+.4f} / {math.sqrt((error**2).mean()):.4f}"


DiscRow = tuple[Estimator, Callable[[FloatArray, int], str]]


def mean(values: FloatArray, _: int) -> str:
    """Mean of a cell."""
    return f"{values.mean():.3f}"


SOLIDITY: dict[str, DiscRow] = {
    "**pixels in the hull of the centres** (used)": (lambda d: d.shape.solidity, mean),
    "hull of the pixel squares": (lambda d: d.area / hull_area(corners(d)), mean),
    "hull of the edge midpoints": (lambda d: d.area / hull_area(midpoints(d)), mean),
}
QUOTED: dict[str, DiscRow] = {
    "equivalent diameter, bias / RMS error in %": (
        lambda d: d.shape.equivalent_diameter,
        lambda values, radius: percent(values, 2 * radius),
    ),
    "eccentricity, mean": (lambda d: d.shape.eccentricity, mean),
    "Crofton, share above circularity 1 before the cap": (
        lambda d: float(4 * math.pi * d.area > crofton(d) ** 2),
        mean,
    ),
}


SECTIONS = (
    Section("#### Perimeter, bias / RMS error in %", PERIMETER, lambda f, r: r * f.perimeter, percent),
    Section(
        "#### Circularity, bias / RMS error (absolute, after the cap at 1)",
        CIRCULARITY,
        lambda f, _: f.circularity,
        absolute,
    ),
    Section(
        "#### Maximum Feret diameter, bias / RMS error in %\n\n"
        "The first four are the largest distance between two points of the named set.",
        FERET,
        lambda f, r: r * f.feret,
        percent,
    ),
)


def estimates(shapes: Iterable[Drawing], estimators: Sequence[Estimator]) -> FloatArray:
    """(estimators, shapes) of values."""
    return np.array([[estimate(drawing) for estimate in estimators] for drawing in shapes]).T


def table(first: str, radii: Sequence[int], rows: dict[str, list[str]]) -> str:
    """Markdown table with one column for each radius."""
    lines = [f"| {first} | " + " | ".join(f"r = {r}" for r in radii) + " |", "|---|" + "---:|" * len(radii)]
    return "\n".join(lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()])


def section_tables(form: Form) -> list[str]:
    """The table of `form` for each section, over the same drawings."""
    everything = [estimate for section in SECTIONS for estimate in section.estimators.values()]
    rows: list[dict[str, list[str]]] = [{name: [] for name in section.estimators} for section in SECTIONS]
    for radius in RADII:
        values = iter(estimates(drawings(form, radius), everything))
        for section, cells in zip(SECTIONS, rows, strict=True):
            for name in section.estimators:
                cells[name].append(section.cell(next(values), section.truth(form, radius)))
    return [f"{form.title}:\n\n" + table("estimator", RADII, cells) for cells in rows]


def disc_table(first: str, radii: Sequence[int], discs: dict[str, DiscRow]) -> str:
    """The table of `discs`, over the same drawings for each row."""
    rows: dict[str, list[str]] = {name: [] for name in discs}
    for radius in radii:
        values = estimates(drawings(DISC, radius), [estimate for estimate, _ in discs.values()])
        for (name, (_, cell)), row in zip(discs.items(), values, strict=True):
            rows[name].append(cell(row, radius))
    return table(first, radii, rows)


def main() -> None:
    """Print the tables in the order of the page, then the figures of discs that its text quotes."""
    cv2.setNumThreads(1)
    print(disc_table("solidity of a disc, mean", SOLIDITY_RADII, SOLIDITY))
    by_form = [section_tables(form) for form in FORMS]
    for section, tables in zip(SECTIONS, zip(*by_form, strict=True), strict=True):
        print(f"\n{section.heading}\n\n" + "\n\n".join(tables))
    print("\n" + disc_table("quoted in the text, of discs", RADII, QUOTED))


if __name__ == "__main__":
    main()
