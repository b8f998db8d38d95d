"""One object measured: shape, intensity, distance to the picture's edge; and whole pictures.

Lengths are pixels and areas are pixels squared. Pixel (0, 0) is the unit square centred at (0, 0).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InvalidInput
from sam_engine.shape import Shape, measure_shape
from sam_engine.types import Mask

HISTOGRAM_BINS = 50


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
        shape=measure_shape(mask),
        intensity=_intensity(intensity_image[mask.window][mask.pixels]),
        edge=_edge_distance(mask),
    )


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
