"""Shape of a mask: area, diameters, perimeter, circularity, solidity, eccentricity; all in pixels.

docs/measurement.md has every formula with its source, the measured bias and RMS error of each estimator, and
the limits at small sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InvalidInput
from sam_engine.types import Mask

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int32]

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
class _Outline:
    """Boundary of one component: the curve `points` (n, 2) moved outwards by `offset` pixels."""

    points: Float64Array
    offset: float
    perimeter: float


def measure_shape(mask: Mask) -> Shape:
    """Shape of `mask`; every measure comes from the crop alone."""
    crop = np.ascontiguousarray(mask.pixels, dtype=np.uint8)
    moments = cv2.moments(crop, binaryImage=True)
    area = round(moments["m00"])
    if area == 0:
        raise InvalidInput("mask", "has 0 pixels, must have at least 1")
    chains = outer_chains(crop)
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


def outer_chains(crop: NDArray[np.uint8]) -> list[IntArray]:
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
    curve = _smooth(boundary_edges(chain))
    following = np.roll(curve, -1)
    length = float(np.abs(following - curve).sum())
    enclosed = 0.5 * abs(float((curve.conj() * following).imag.sum()))
    perimeter = math.sqrt(length**2 + 4.0 * math.pi * (lattice_points(chain) - enclosed))
    points = np.stack([curve.real, curve.imag], axis=1)
    return _Outline(points, offset=(perimeter - length) / (2.0 * math.pi), perimeter=perimeter)


def boundary_edges(chain: IntArray) -> NDArray[np.complex128]:
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


def lattice_points(polygon: IntArray) -> float:
    """Pixel centres in and on a closed lattice polygon: area + boundary / 2 + 1 (Pick 1899)."""
    step = np.abs(np.roll(polygon, -1, axis=0) - polygon)
    return cv2.contourArea(polygon) + int(np.gcd(step[:, 0], step[:, 1]).sum()) / 2 + 1


def _convex_area(chains: Sequence[IntArray]) -> float:
    """Number of pixels whose centres lie in the convex hull of the object's pixel centres."""
    hull = cv2.convexHull(np.concatenate(chains))
    return lattice_points(np.asarray(hull[:, 0], dtype=np.int32))


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
