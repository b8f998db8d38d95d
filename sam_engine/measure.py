"""Particle sizing of masks: shape, intensity, distance to the picture's edge, size distribution.

Lengths are pixels and areas are pixels squared until a `Calibration` is applied. Pixel (0, 0) is the unit
square centred at (0, 0). docs/measurement.md has every formula with its source, the measured bias and RMS
error of each estimator, and the limits at small sizes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InvalidInput
from sam_engine.types import Mask

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int32]

HISTOGRAM_BINS = 50
CONTOUR_SIGMA = 2.0  # boundary edges; docs/measurement.md has the values tried

# The eight steps of a chain code (Freeman 1961), anticlockwise on a screen whose y points down.
_STEPS = np.array([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)], dtype=np.int32)
_CODE_OF_STEP = np.array([[3, 2, 1], [4, 0, 0], [5, 6, 7]])  # [dy + 1, dx + 1]
_ANGLES = np.deg2rad(np.arange(180))
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])


@dataclass(frozen=True, slots=True)
class Shape:
    """Size and form of one object, in pixels (areas in pixels squared).

    Attributes:
        area: number of pixels; holes are not counted.
        centroid_xy: mean of the pixel centres, in picture coordinates.
        equivalent_diameter: diameter of the disc of the same area (ISO 9276-1, ISO 13322-1).
        max_feret_diameter: largest distance between two parallel tangents, over all components together.
        perimeter: length of the outer boundaries, summed over the components; holes add nothing.
        circularity: 4 pi area / perimeter^2 in (0, 1]; the square of the form factor of ISO 9276-6.
        solidity: area / area of the convex hull, in (0, 1].
        eccentricity: of the ellipse with the same second moments, in [0, 1).
    """

    area: int
    centroid_xy: tuple[float, float]
    equivalent_diameter: float
    max_feret_diameter: float
    perimeter: float
    circularity: float
    solidity: float
    eccentricity: float


@dataclass(frozen=True, slots=True)
class Intensity:
    """Pixel values inside one mask, in the units of the picture; `std` is that of the population (n)."""

    mean: float
    min: float
    max: float
    std: float
    median: float
    pixel_count: int


@dataclass(frozen=True, slots=True)
class EdgeDistance:
    """Whole pixels between the bounding box and each edge of the picture; 0 means that it touches."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def minimum(self) -> int:
        """Distance to the nearest edge in pixels."""
        return min(self.top, self.bottom, self.left, self.right)

    @property
    def touches(self) -> bool:
        """Whether the object may be cut off, so that its size is only a lower bound."""
        return self.minimum == 0

    @property
    def touching_sides(self) -> tuple[str, ...]:
        """Names of the edges touched, in the order top, bottom, left, right."""
        return tuple(side for side in ("top", "bottom", "left", "right") if getattr(self, side) == 0)


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that is measured of one object."""

    shape: Shape
    intensity: Intensity
    edge: EdgeDistance


@dataclass(frozen=True, slots=True)
class SizeStatistics:
    """Number-weighted statistics of equivalent diameters in pixels; None where no object gives a value.

    Attributes:
        std: of the sample (n - 1); 0 for one object.
        cv: std / mean, a fraction.
        d10, d50, d90: diameters below which 10, 50 and 90 % of the objects lie, by number.
        d32: Sauter mean diameter, sum d^3 / sum d^2 (ISO 9276-2).
    """

    count: int
    mean: float | None = None
    std: float | None = None
    cv: float | None = None
    median: float | None = None
    min: float | None = None
    max: float | None = None
    d10: float | None = None
    d50: float | None = None
    d90: float | None = None
    d32: float | None = None


@dataclass(frozen=True, slots=True)
class IntensityGroup:
    """Objects of one intensity class; the statistics are over the objects' mean intensities.

    Attributes:
        fraction: share of all objects in [0, 1]; None where there is no object at all.
        std_intensity: of the sample (n - 1); 0 for one object.
        mean_diameter: mean equivalent diameter in pixels.
    """

    count: int
    fraction: float | None = None
    mean_intensity: float | None = None
    std_intensity: float | None = None
    min_intensity: float | None = None
    max_intensity: float | None = None
    median_intensity: float | None = None
    mean_diameter: float | None = None


@dataclass(frozen=True, slots=True)
class IntensityAnalysis:
    """Objects by mean intensity: high is >= threshold, low is below it; both empty without a threshold."""

    threshold: float | None
    overall: IntensityGroup
    high_intensity: IntensityGroup
    low_intensity: IntensityGroup


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics over all objects of a picture; diameters are equivalent diameters in pixels."""

    diameter_stats: SizeStatistics
    intensity_analysis: IntensityAnalysis

    def as_dict(self) -> dict[str, Any]:
        """The `summary_statistics` of an answer: the same keys for any number of objects."""
        return {
            "total_masks": self.diameter_stats.count,
            "average_diameter": self.diameter_stats.mean,
            "diameter_stats": asdict(self.diameter_stats),
            "intensity_analysis": asdict(self.intensity_analysis),
            "classification_enabled": self.intensity_analysis.threshold is not None,
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """Pixels to micrometres, for square pixels; made by `calibrate`."""

    um_per_px: float

    def shape(self, shape: Shape) -> dict[str, float]:
        """Area in um^2 and lengths in um; what has no unit is left out, and so is the position."""
        return {
            "area_um2": shape.area * self.um_per_px**2,
            "equivalent_diameter_um": shape.equivalent_diameter * self.um_per_px,
            "max_feret_diameter_um": shape.max_feret_diameter * self.um_per_px,
            "perimeter_um": shape.perimeter * self.um_per_px,
        }

    def sizes(self, sizes: SizeStatistics) -> dict[str, float | None]:
        """Every diameter of `sizes` in um; None stays None, and count and cv are left out."""
        lengths = {key: value for key, value in asdict(sizes).items() if key not in ("count", "cv")}
        return {f"{key}_um": None if d is None else d * self.um_per_px for key, d in lengths.items()}


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Pixel values of a whole picture, in its own units; `std` is that of the population (n).

    Attributes:
        histogram: counts in 50 bins of equal width over `histogram_range`, whose upper end is included.
        histogram_range: that of the integer type, or the smallest and largest value of a float picture.
    """

    mean: float
    min: float
    max: float
    std: float
    median: float
    histogram: list[int]
    histogram_range: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Outline:
    """Boundary of one component: the curve `points` (n, 2) moved outwards by `offset` pixels."""

    points: Float64Array
    offset: float
    perimeter: float


def measure(mask: Mask, intensity_image: NDArray[Any]) -> Measurement:
    """Measure one object.

    Args:
        mask: the object; its `pixels` are the tight crop of it.
        intensity_image: (H, W) original picture of uint8, uint16 or float; intensities are in its units.

    Raises:
        InvalidInput: the picture is not single-channel, is not of the mask's `image_size` or is not finite
            under the mask, or the mask has no pixel.
    """
    if intensity_image.shape != mask.image_size:
        raise InvalidInput(
            "intensity_image", f"has shape {intensity_image.shape}, the mask wants {mask.image_size}"
        )
    return Measurement(
        shape=_shape(mask),
        intensity=_intensity(intensity_image[mask.window][mask.pixels]),
        edge=_edge_distance(mask),
    )


def summarise(measurements: Sequence[Measurement], *, intensity_threshold: float | None = None) -> Summary:
    """Statistics of all objects together, and by intensity class where a threshold is given.

    Raises:
        InvalidInput: `intensity_threshold` is not finite.
    """
    return Summary(size_statistics(measurements), intensity_classes(measurements, intensity_threshold))


def size_statistics(measurements: Sequence[Measurement]) -> SizeStatistics:
    """Size distribution by number, in pixels.

    Percentiles interpolate linearly between order statistics (type 7 of Hyndman & Fan 1996), so that
    d50 is the median. D[3,2] = sum d^3 / sum d^2 (ISO 9276-2).
    """
    if not measurements:
        return SizeStatistics(count=0)
    d = _column(measurements, lambda m: m.shape.equivalent_diameter)
    d10, d50, d90 = (float(q) for q in np.percentile(d, (10, 50, 90)))
    mean, std = float(d.mean()), _sample_std(d)
    return SizeStatistics(
        count=len(d),
        mean=mean,
        std=std,
        cv=std / mean,
        median=d50,
        min=float(d.min()),
        max=float(d.max()),
        d10=d10,
        d50=d50,
        d90=d90,
        d32=float((d**3).sum() / (d**2).sum()),
    )


def intensity_classes(
    measurements: Sequence[Measurement], intensity_threshold: float | None
) -> IntensityAnalysis:
    """Split objects by their mean intensity: high is >= `intensity_threshold`, low is below it.

    Without a threshold no object is classified and both classes are empty.

    Raises:
        InvalidInput: `intensity_threshold` is not finite.
    """
    total = len(measurements)
    overall = _intensity_group(measurements, total)
    if intensity_threshold is None:
        return IntensityAnalysis(None, overall, IntensityGroup(count=0), IntensityGroup(count=0))
    if not math.isfinite(intensity_threshold):
        raise InvalidInput("intensity_threshold", f"{intensity_threshold} must be finite")
    high = [m for m in measurements if m.intensity.mean >= intensity_threshold]
    low = [m for m in measurements if m.intensity.mean < intensity_threshold]
    return IntensityAnalysis(
        float(intensity_threshold), overall, _intensity_group(high, total), _intensity_group(low, total)
    )


def calibrate(um_per_px: float) -> Calibration:
    """Scale of a picture: lengths are multiplied by `um_per_px` and areas by its square.

    Raises:
        InvalidInput: `um_per_px` is not a finite number above 0.
    """
    if not (math.isfinite(um_per_px) and um_per_px > 0):
        raise InvalidInput("um_per_px", f"{um_per_px} must be finite and > 0")
    return Calibration(float(um_per_px))


def image_statistics(intensity_image: NDArray[Any]) -> ImageStatistics:
    """Statistics and histogram of a whole (H, W) picture of uint8, uint16 or float.

    Raises:
        InvalidInput: the picture is empty, is not single-channel, has another type, or is not finite.
    """
    if intensity_image.ndim != 2 or intensity_image.size == 0:
        raise InvalidInput(
            "intensity_image", f"has shape {intensity_image.shape}, must be (H, W) with pixels"
        )
    bounds = _histogram_range(intensity_image)
    counts, _ = np.histogram(intensity_image, bins=HISTOGRAM_BINS, range=bounds)
    return ImageStatistics(
        mean=float(intensity_image.mean(dtype=np.float64)),
        min=float(intensity_image.min()),
        max=float(intensity_image.max()),
        std=float(intensity_image.std(dtype=np.float64)),
        median=float(np.median(intensity_image)),
        histogram=counts.tolist(),
        histogram_range=bounds,
    )


def _shape(mask: Mask) -> Shape:
    """Shape of `mask`; every measure comes from the crop alone."""
    crop = np.ascontiguousarray(mask.pixels, dtype=np.uint8)
    moments = cv2.moments(crop, binaryImage=True)
    area = round(moments["m00"])
    if area == 0:
        raise InvalidInput("mask", "has 0 pixels, must have at least 1")
    chains = _outer_chains(crop)
    outlines = [_outline(chain) for chain in chains]
    perimeter = sum(outline.perimeter for outline in outlines)
    x, y = mask.origin_xy
    return Shape(
        area=area,
        centroid_xy=(x + moments["m10"] / area, y + moments["m01"] / area),
        equivalent_diameter=2.0 * math.sqrt(area / math.pi),
        max_feret_diameter=_max_feret(outlines),
        perimeter=perimeter,
        circularity=min(1.0, 4.0 * math.pi * area / perimeter**2),
        solidity=area / _convex_area(chains),
        eccentricity=_eccentricity(moments),
    )


def _outer_chains(crop: NDArray[np.uint8]) -> list[IntArray]:
    """Outer boundary of each 8-connected component as the (n, 2) XY pixel centres of a closed chain.

    CCOMP, because an island inside a hole is a component too.
    """
    contours, hierarchy = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parents = hierarchy[0, :, 3]
    return [np.asarray(c[:, 0], dtype=np.int32) for c, up in zip(contours, parents, strict=True) if up < 0]


def _outline(chain: IntArray) -> _Outline:
    """Smooth boundary that encloses the filled area of the component exactly.

    The smoothed curve of length L encloses A'. Its parallel curve that encloses the filled area A has, by
    Steiner's formulas L + 2 pi t and A' + L t + pi t^2, the length P = sqrt(L^2 + 4 pi (A - A')) at the
    offset t = (P - L) / 2 pi. P^2 - 4 pi A = L^2 - 4 pi A' >= 0, so that no circularity exceeds 1.
    """
    curve = _smooth(_boundary_edges(chain))
    following = np.roll(curve, -1)
    length = float(np.abs(following - curve).sum())
    enclosed = 0.5 * abs(float((curve.conj() * following).imag.sum()))
    perimeter = math.sqrt(length**2 + 4.0 * math.pi * (_lattice_points(chain) - enclosed))
    points = np.stack([curve.real, curve.imag], axis=1)
    return _Outline(points, offset=(perimeter - length) / (2.0 * math.pi), perimeter=perimeter)


def _boundary_edges(chain: IntArray) -> NDArray[np.complex128]:
    """Midpoints, x + iy, of the pixel edges on the outside of `chain`, in the order of the chain.

    Around each pixel the edges between the step that came and the step that leaves face the background.
    """
    if len(chain) == 1:
        edges = chain + 0.5 * _STEPS[::2]
    else:
        step = np.roll(chain, -1, axis=0) - chain
        codes = _CODE_OF_STEP[step[:, 1] + 1, step[:, 0] + 1]
        back = np.roll(codes, 1) + 4
        turn = np.arange(1, 8)
        facing = (back[:, None] + turn) % 8
        outside = turn <= ((codes - back - 1) % 8)[:, None]
        edges = (chain[:, None] + 0.5 * _STEPS[facing])[outside & (facing % 2 == 0)]
    return np.asarray(edges[:, 0] + 1j * edges[:, 1])


def _smooth(curve: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Closed curve under the twiced Gaussian 2 g - g*g (Tukey 1977) of CONTOUR_SIGMA points.

    Twicing leaves low frequencies alone to fourth order where a Gaussian shrinks them to second order.
    """
    gaussian = np.exp(-2.0 * (math.pi * CONTOUR_SIGMA * np.fft.fftfreq(len(curve))) ** 2)
    return np.asarray(np.fft.ifft(np.fft.fft(curve) * gaussian * (2.0 - gaussian)))


def _lattice_points(polygon: IntArray) -> float:
    """Pixel centres in and on a closed lattice polygon: area + boundary / 2 + 1 (Pick 1899)."""
    step = np.abs(np.roll(polygon, -1, axis=0) - polygon)
    return cv2.contourArea(polygon) + int(np.gcd(step[:, 0], step[:, 1]).sum()) / 2 + 1


def _convex_area(chains: Sequence[IntArray]) -> float:
    """Number of pixels whose centres lie in the convex hull of the object's pixel centres."""
    hull = cv2.convexHull(np.concatenate(chains))
    return _lattice_points(np.asarray(hull[:, 0], dtype=np.int32))


def _max_feret(outlines: Sequence[_Outline]) -> float:
    """Largest distance of parallel tangents (ISO 13322-1), over directions 1 degree apart, in pixels.

    The step underestimates by at most 1 - cos(0.5 degrees) = 4e-5 of the diameter.
    """
    spans = [_span(outline) for outline in outlines]
    high = np.max([high for _, high in spans], axis=0)
    low = np.min([low for low, _ in spans], axis=0)
    return float((high - low).max())


def _span(outline: _Outline) -> tuple[Float64Array, Float64Array]:
    """Lowest and highest coordinate of the outline along each direction."""
    corners = cv2.convexHull(outline.points.astype(np.float32), returnPoints=False)
    along = outline.points[corners[:, 0]] @ _DIRECTIONS
    return along.min(axis=0) - outline.offset, along.max(axis=0) + outline.offset


def _eccentricity(moments: dict[str, float]) -> float:
    """sqrt(1 - (minor / major)^2) of the ellipse with the same second central moments (Hu 1962).

    A pixel is a unit square and not a point: each axis gains its variance of 1/12.
    """
    xx = moments["mu20"] / moments["m00"] + 1.0 / 12.0
    yy = moments["mu02"] / moments["m00"] + 1.0 / 12.0
    xy = moments["mu11"] / moments["m00"]
    half_gap = math.hypot((xx - yy) / 2.0, xy)
    return math.sqrt(2.0 * half_gap / ((xx + yy) / 2.0 + half_gap))


def _intensity(values: NDArray[Any]) -> Intensity:
    """Statistics of the pixel values under a mask."""
    samples = values.astype(np.float64)
    mean = float(samples.mean())
    if not math.isfinite(mean):
        raise InvalidInput("intensity_image", f"has a mean of {mean} under a mask, must be finite")
    return Intensity(
        mean=mean,
        min=float(samples.min()),
        max=float(samples.max()),
        std=float(samples.std()),
        median=float(np.median(samples)),
        pixel_count=len(samples),
    )


def _edge_distance(mask: Mask) -> EdgeDistance:
    """Distances of the bounding box of `mask` to the edges of its picture."""
    x, y, width, height = mask.bbox_xywh
    rows, columns = mask.image_size
    return EdgeDistance(top=y, bottom=rows - y - height, left=x, right=columns - x - width)


def _intensity_group(measurements: Sequence[Measurement], total: int) -> IntensityGroup:
    """Statistics of the objects of one class out of `total` objects."""
    if not measurements:
        return IntensityGroup(count=0, fraction=0.0 if total else None)
    means = _column(measurements, lambda m: m.intensity.mean)
    return IntensityGroup(
        count=len(means),
        fraction=len(means) / total,
        mean_intensity=float(means.mean()),
        std_intensity=_sample_std(means),
        min_intensity=float(means.min()),
        max_intensity=float(means.max()),
        median_intensity=float(np.median(means)),
        mean_diameter=float(_column(measurements, lambda m: m.shape.equivalent_diameter).mean()),
    )


def _column(measurements: Sequence[Measurement], value: Callable[[Measurement], float]) -> Float64Array:
    """One number of each measurement."""
    return np.array([value(m) for m in measurements], dtype=np.float64)


def _sample_std(values: Float64Array) -> float:
    """Standard deviation with n - 1, 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _histogram_range(image: NDArray[Any]) -> tuple[float, float]:
    """Full range of an integer type, data range of a float picture."""
    if image.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(image.dtype).max)
    if image.dtype.kind != "f":
        raise InvalidInput("intensity_image", f"has type {image.dtype}, must be uint8, uint16 or float")
    low, high = float(image.min()), float(image.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidInput("intensity_image", f"spans {low}..{high}, must be finite")
    return low, high
