"""Sub-pixel boundary of a round object: a circle or ellipse fitted to the edge in the original picture.

A mask says which object is meant; the picture says where it ends. The fit stands beside the mask and its
measures and replaces neither. docs/boundary.md has the method, its measured accuracy and its limits.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InvalidInput
from sam_engine.shape import boundary_edges, lattice_points, outer_chains
from sam_engine.types import Mask

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Model = Literal["circle", "ellipse"]
Polarity = Literal["darker", "brighter"]

MIN_DIAMETER = 5.0  # equivalent diameter of the mask in px; below it the edges of two sides run together
MIN_SUPPORT = 0.3  # share of the closed curve that must show the edge
MAX_RELATIVE_ERROR = 0.1  # standard error of the diameter over the diameter
MIN_SNR = 3.0  # edge response over its noise
STRONG, STRONGEST = 0.5, 0.8  # an edge counts from this share of the object's usual strongest response
CLEAR = 3.0  # between these two, it counts from this many standard deviations of noise

EDGE_SIGMA = 1.0  # of the derivative of a Gaussian along a normal, in px
STEP = 0.5  # between samples along a normal, in px
NORMALS_PER_BLOCK = 3  # averaged before an edge is sought
MAX_BLOCKS = 120
NARROW = 2.5  # search range in px either way once the edge has been found roughly
PASSES = 6
UNSETTLED = 0.2  # px; a last step larger than this is no fit
CONVERGED = 0.02  # px; the step that is this small is still taken
HYPOTHESES = 100
MAX_BLUR = 3.0  # px; blur estimated above it is no blur of an edge

_REACH = math.ceil(3 * EDGE_SIGMA / STEP)  # samples that the kernel needs on either side
_TAPS = np.arange(-_REACH, _REACH + 1) * STEP
_KERNEL = _TAPS * np.exp(-0.5 * (_TAPS / EDGE_SIGMA) ** 2)
_KERNEL /= (_KERNEL * _TAPS).sum()  # a ramp of slope 1 per px gives 1

_SIGNS: tuple[tuple[float, Polarity], ...] = ((1.0, "darker"), (-1.0, "brighter"))


@dataclass(frozen=True, slots=True)
class BoundaryFit:
    """A curve fitted to the edge of one object, in pixels of the picture.

    Attributes:
        model: which curve.
        centre_xy: in the frame of the masks, where pixel (0, 0) is centred at (0, 0).
        semi_axes: (major, minor); a circle has its radius twice.
        angle: of the major axis in degrees in [0, 180), from x towards y (y points down); 0 for a circle.
        equivalent_diameter: 2 sqrt(major minor), the disc of the same area.
        diameter_stderr: standard error of `equivalent_diameter` from the scatter of the edge points.
        rms_residual: of the supporting edge points to the curve, along its normals.
        support: share of the whole closed curve at which an edge lies on it, in (0, 1]; what the picture
            cuts off counts as missing.
        polarity: whether the picture is darker or brighter on the inside of the fitted edge.
    """

    model: Model
    centre_xy: tuple[float, float]
    semi_axes: tuple[float, float]
    angle: float
    equivalent_diameter: float
    diameter_stderr: float
    rms_residual: float
    support: float
    polarity: Polarity


@dataclass(frozen=True, slots=True)
class NoFit:
    """Why an object has no fitted boundary."""

    reason: str


class _NoEdge(Exception):
    """Ends the work on one object; its text becomes `NoFit.reason`."""


@dataclass(frozen=True, slots=True)
class _Curve:
    """Ellipse: `centre` + `stretch` @ (cos t, sin t) with a symmetric positive definite (2, 2) `stretch`.

    Unlike axes and an angle these parameters are smooth at the circle, where the angle has no meaning.
    """

    centre: Float64Array
    stretch: Float64Array

    @property
    def diameter(self) -> float:
        """Of the circle of the same area."""
        return 2.0 * math.sqrt(max(0.0, self.determinant))

    @property
    def determinant(self) -> float:
        """Product of the semi-axes."""
        (xx, xy), (_, yy) = self.stretch.tolist()
        return float(xx * yy - xy * xy)

    @property
    def semi_axes(self) -> tuple[float, float]:
        """(major, minor): the eigenvalues of `stretch`."""
        (xx, xy), (_, yy) = self.stretch.tolist()
        middle, half_gap = (xx + yy) / 2.0, math.hypot((xx - yy) / 2.0, xy)
        return middle + half_gap, middle - half_gap


@dataclass(frozen=True, slots=True)
class _Feet:
    """`n` places spread evenly along a curve.

    Attributes:
        points, normals: (n, 2); normals have length 1 and point outwards.
        design: (n, p) how far the curve moves along its normal for each parameter.
        curvature: (n,) in 1 / px.
    """

    points: Float64Array
    normals: Float64Array
    design: Float64Array
    curvature: Float64Array


@dataclass(frozen=True, slots=True)
class _Strip:
    """Edge responses along normals: (blocks, offsets), NaN where the picture does not reach."""

    offsets: Float64Array
    response: Float64Array


@dataclass(frozen=True, slots=True)
class _Step:
    """A change of the parameters and the blocks that agree on it."""

    change: Float64Array
    residual: Float64Array
    inliers: BoolArray


def refine_boundary(
    mask: Mask, intensity_image: NDArray[Any], model: Model, *, polarity: Polarity | None = None
) -> BoundaryFit | NoFit:
    """Fit a circle or an ellipse to the edge of an object in the original picture.

    The curve that fits the outline of the mask is where the search starts. Along its normals the extremum of
    the derivative of a Gaussian is the edge; a step of Gauss-Newton on the distances moves the curve, and the
    search is repeated along the new normals. Of several edges, such as the two of a dark rim, the outermost
    counts.

    Args:
        mask: the object; the largest of its components is taken.
        intensity_image: (H, W) original picture of uint8, uint16 or float.
        polarity: only edges of this kind count; without it the outermost of either kind.

    Raises:
        InvalidInput: the picture is not of the mask's `image_size` or not of a known type, model or polarity
            are unknown, or the mask has no pixel.
    """
    _check(mask, intensity_image, model, polarity)
    try:
        found, curve = _find_edge(_start(mask, model), intensity_image, model, polarity)
        return _polish(curve, intensity_image, model, found)
    except _NoEdge as no_edge:
        return NoFit(str(no_edge))


def refine_boundaries(
    masks: Sequence[Mask], intensity_image: NDArray[Any], model: Model
) -> list[BoundaryFit | NoFit]:
    """Fit every object of a picture to the same kind of edge, so that their diameters compare.

    Where droplets with dark rims are packed, the outer edge of some is hidden. Every object is fitted by
    itself; those that took the rarer polarity are fitted again to the more common one.

    Raises:
        InvalidInput: as `refine_boundary`.
    """
    fits = [refine_boundary(mask, intensity_image, model) for mask in masks]
    votes = Counter(fit.polarity for fit in fits if isinstance(fit, BoundaryFit))
    if len(votes) < 2:
        return fits
    common: Polarity = "darker" if votes["darker"] >= votes["brighter"] else "brighter"
    return [
        refine_boundary(mask, intensity_image, model, polarity=common)
        if isinstance(fit, NoFit) or fit.polarity != common
        else fit
        for mask, fit in zip(masks, fits, strict=True)
    ]


def _check(mask: Mask, image: NDArray[Any], model: str, polarity: str | None) -> None:
    if image.shape != mask.image_size:
        raise InvalidInput("intensity_image", f"has shape {image.shape}, the mask wants {mask.image_size}")
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise InvalidInput("intensity_image", f"has type {image.dtype}, must be uint8, uint16 or float")
    if model not in ("circle", "ellipse"):
        raise InvalidInput("model", f"={model!r} must be circle or ellipse")
    if polarity not in (None, "darker", "brighter"):
        raise InvalidInput("polarity", f"={polarity!r} must be darker or brighter")
    if not mask.area:
        raise InvalidInput("mask", "has 0 pixels, must have at least 1")


# --- the curve that starts the search ---


def _start(mask: Mask, model: Model) -> _Curve:
    """Curve through the outline of the largest component, but for the part that the picture cuts off."""
    chain = max(outer_chains(np.ascontiguousarray(mask.pixels, dtype=np.uint8)), key=lattice_points)
    diameter = 2.0 * math.sqrt(lattice_points(chain) / math.pi)
    if diameter < MIN_DIAMETER:
        raise _NoEdge(f"the mask is {diameter:.1f} px wide, a fit needs {MIN_DIAMETER:g}")
    edges = boundary_edges(chain) + complex(*mask.origin_xy)
    points = np.stack([edges.real, edges.imag], axis=1)
    height, width = mask.image_size
    inside = ((points > -0.5) & (points < (width - 0.5, height - 0.5))).all(axis=1)
    points = points[inside]
    if len(points) < 8:
        raise _NoEdge("no outline of the mask lies inside the picture")
    curve = _circle_through(points) if model == "circle" else _ellipse_through(points)
    if not _is_sound(curve, max(mask.image_size)):
        raise _NoEdge(f"the outline of the mask is no {model}")
    return curve


def _circle_through(points: Float64Array) -> _Curve:
    """Algebraic fit of Taubin 1991: smallest generalised eigenvector, by a singular value decomposition."""
    middle = points.mean(axis=0)
    xy = points - middle
    square = (xy**2).sum(axis=1)
    mean = square.mean()
    scaled = np.column_stack([(square - mean) / (2.0 * math.sqrt(mean)), xy])
    a, b, c = np.linalg.svd(scaled, full_matrices=False)[2][-1]
    a /= 2.0 * math.sqrt(mean)
    if a == 0.0:  # the points lie on a line
        return _Curve(middle, np.full((2, 2), np.inf))
    offset = np.array([b, c]) / (-2.0 * a)
    return _Curve(middle + offset, math.sqrt(float(offset @ offset) + mean) * np.eye(2))


def _ellipse_through(points: Float64Array) -> _Curve:
    """Direct least squares of Fitzgibbon, Pilu & Fisher 1999."""
    middle = points.mean(axis=0)
    (x, y), (width, height), degrees = cv2.fitEllipseDirect((points - middle).astype(np.float32))
    turn = math.radians(degrees)
    axes = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return _Curve(middle + np.array([x, y]), axes @ np.diag([width / 2.0, height / 2.0]) @ axes.T)


def _is_sound(curve: _Curve, longest: float) -> bool:
    """Whether the curve is an ellipse that the picture could show."""
    values = np.concatenate([curve.centre, curve.stretch.ravel()])
    if not np.isfinite(values).all():
        return False
    major, minor = curve.semi_axes
    return bool(minor > MIN_DIAMETER / 4.0 and major < 2.0 * longest and major < 20.0 * minor)


# --- along the normals ---


def _feet(curve: _Curve, count: int, model: Model) -> _Feet:
    """`count` places at equal distances along the curve."""
    fine = np.linspace(0.0, 2.0 * math.pi, 4 * count + 1)
    on_curve = np.stack([np.cos(fine), np.sin(fine)], axis=1) @ curve.stretch
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(on_curve, axis=0).T))])
    t = np.interp(np.arange(count) * along[-1] / count, along, fine)
    unit = np.stack([np.cos(t), np.sin(t)], axis=1)
    tangent = np.stack([-unit[:, 1], unit[:, 0]], axis=1) @ curve.stretch
    speed = np.hypot(tangent[:, 0], tangent[:, 1])
    normals = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) / speed[:, None]
    if model == "circle":
        shape = np.ones((count, 1))
    else:
        cross = normals[:, 0] * unit[:, 1] + normals[:, 1] * unit[:, 0]
        shape = np.column_stack([normals[:, 0] * unit[:, 0], cross, normals[:, 1] * unit[:, 1]])
    design = np.hstack([normals, shape])
    curvature = curve.determinant / speed**3
    return _Feet(curve.centre + unit @ curve.stretch, normals, design, curvature)


def _block_count(curve: _Curve) -> int:
    """About three pixels of boundary to a block, so that the noise of blocks is nearly independent."""
    return int(np.clip(round(math.pi * curve.diameter / 3.0), 12, MAX_BLOCKS))


def _strip(image: NDArray[Any], feet: _Feet, inwards: float, outwards: float) -> _Strip:
    """Edge responses along the normals at `feet`, averaged over the normals of a block."""
    first = math.floor(-inwards / STEP) - _REACH
    offsets = np.arange(first, math.ceil(outwards / STEP) + _REACH + 1).astype(np.float64)
    offsets *= STEP
    spare = max(-offsets[0], offsets[-1]) + 2.0
    low = np.maximum(np.floor(feet.points.min(axis=0) - spare), 0.0).astype(int)
    high = np.ceil(feet.points.max(axis=0) + spare).astype(int) + 1
    crop = image[low[1] : max(0, high[1]), low[0] : max(0, high[0])]
    if not crop.size:
        raise _NoEdge("the boundary lies outside the picture")
    points, normals = (feet.points - low).astype(np.float32), feet.normals.astype(np.float32)
    places = points[:, None] + normals[:, None] * offsets.astype(np.float32)[:, None]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and shows no edge
        profiles = _sample(crop.astype(np.float32), places)
    profiles = profiles.reshape(-1, NORMALS_PER_BLOCK, len(offsets)).mean(axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(profiles, len(_KERNEL), axis=1)
    return _Strip(offsets[_REACH:-_REACH], windows @ _KERNEL)


def _sample(crop: NDArray[np.float32], places: NDArray[np.float32]) -> Float64Array:
    """Values at (..., 2) XY by cubic interpolation; NaN beyond the centres of the outer pixels."""
    (height, width), x, y = crop.shape, places[..., 0], places[..., 1]
    sampled = cv2.remap(crop, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= 0.0) & (x <= width - 1) & (y >= 0.0) & (y <= height - 1)
    return np.where(inside, sampled.astype(np.float64), np.nan)


def _noise(strip: _Strip) -> float:
    """Standard deviation of a response, from neighbouring blocks: what they share is not noise."""
    difference = np.abs(np.diff(strip.response, axis=0))
    known = difference[np.isfinite(difference)]
    return 1.4826 * float(np.median(known)) / math.sqrt(2.0) if len(known) else math.inf


def _strength(signed: Float64Array) -> float:
    """Usual strongest response of a block: the median over the blocks that see the picture."""
    known = np.isfinite(signed).all(axis=1)
    return float(np.median(signed[known].max(axis=1))) if known.any() else 0.0


def _threshold(strip: _Strip, strength: float) -> float:
    """Response from which a peak is an edge: a share of the usual strongest, more where noise reaches it."""
    noise = _noise(strip)
    if not strength > MIN_SNR * noise:
        raise _NoEdge("the picture shows no edge that stands out of its noise")
    return float(np.clip(CLEAR * noise, STRONG * strength, STRONGEST * strength))


def _peaks(signed: Float64Array, threshold: float) -> BoolArray:
    """Local maxima at or above the threshold; (blocks, offsets)."""
    middle = signed[:, 1:-1]
    peaks = np.zeros(signed.shape, dtype=bool)
    peaks[:, 1:-1] = (middle >= signed[:, :-2]) & (middle > signed[:, 2:]) & (middle >= threshold)
    return peaks


def _positions(strip: _Strip, signed: Float64Array, peaks: BoolArray, *, outermost: bool) -> Float64Array:
    """Offset of one peak of each block, the outermost or the nearest, between samples by a parabola."""
    if outermost:
        column = peaks.shape[1] - 1 - np.argmax(peaks[:, ::-1], axis=1)
    else:
        column = np.argmin(np.where(peaks, np.abs(strip.offsets), np.inf), axis=1)
    row = np.arange(len(peaks))
    found = peaks[row, column]
    column = np.clip(column, 1, peaks.shape[1] - 2)
    before, at, after = (signed[row, column + k] for k in (-1, 0, 1))
    bend = np.where(found, before - 2.0 * at + after, -1.0)
    shift = np.where(found, 0.5 * (before - after) / bend, np.nan)
    return np.asarray(strip.offsets[column] + STEP * shift)


# --- fitting ---


def _first_step(design: Float64Array, distance: Float64Array, longest: float) -> _Step | None:
    """Least squares on the blocks that agree with the least median of squares (Rousseeuw 1984).

    Args:
        design: (n, p); distance: (n,) with NaN where a block has no edge.
        longest: a block farther than this from the curve never supports it, in px.
    """
    known = np.flatnonzero(np.isfinite(distance))
    count, unknowns = len(known), design.shape[1]
    if count < unknowns + 3:
        return None
    a, d = design[known], distance[known]
    drawn = np.random.default_rng(1).integers(0, count, (HYPOTHESES, unknowns))
    rows = a[drawn]
    normal = rows.transpose(0, 2, 1) @ rows + 1e-6 * np.eye(unknowns)
    right = rows.transpose(0, 2, 1) @ d[drawn][..., None]
    guesses = np.linalg.solve(normal, right)[..., 0]
    best = int(np.argmin(_middle(np.abs(guesses @ a.T - d), unknowns)))
    return _step(design, distance, longest, guesses[best])


def _middle(sizes: Float64Array, unknowns: int) -> Float64Array:
    """The (n + p + 1) / 2-th smallest of n sizes along the last axis: a median for p unknowns."""
    rank = (sizes.shape[-1] + unknowns + 1) // 2 - 1
    return np.asarray(np.partition(sizes, rank, axis=-1)[..., rank])


def _step(
    design: Float64Array, distance: Float64Array, longest: float, guess: Float64Array | None = None
) -> _Step | None:
    """Least squares on the blocks within 3 standard deviations of a guess, then of the result, and again.

    The standard deviation is 1.4826 times the median absolute residual, which outliers do not swell.
    """
    known = np.flatnonzero(np.isfinite(distance))
    unknowns = design.shape[1]
    if len(known) < unknowns + 3:
        return None
    a, d = design[known], distance[known]
    change = np.zeros(unknowns) if guess is None else guess
    for _ in range(2):
        sizes = np.abs(a @ change - d)
        limit = 3.0 * 1.4826 * float(_middle(sizes, unknowns)) * len(known) / (len(known) - unknowns)
        inliers = sizes <= min(max(limit, 0.25), longest)
        if np.count_nonzero(inliers) < unknowns + 3:
            return None
        change, _, rank, _ = np.linalg.lstsq(a[inliers], d[inliers], rcond=1e-6)
        if rank < unknowns:
            return None
    agreed = np.zeros(len(distance), dtype=bool)
    agreed[known[inliers]] = True
    return _Step(change, distance - design @ change, agreed)


def _moved(curve: _Curve, change: Float64Array) -> _Curve:
    """The curve after a step."""
    if len(change) == 3:
        grown = change[2] * np.eye(2)
    else:
        grown = np.array([[change[2], change[3]], [change[3], change[4]]])
    return _Curve(curve.centre + change[:2], curve.stretch + grown)


def _tolerance(curve: _Curve) -> float:
    """Farthest that an edge of an object a little out of round may lie from the curve, in px."""
    return max(1.0, 0.05 * curve.diameter)


def _find_edge(
    curve: _Curve, image: NDArray[Any], model: Model, wanted: Polarity | None
) -> tuple[Polarity, _Curve]:
    """Which way the outermost edge goes, and the curve through it.

    Both ways are tried unless one is wanted; of those that enough of the boundary supports, the larger curve
    is the outer edge. An edge that few blocks share, such as that of neighbours, loses to one with clearly
    more support.
    """
    feet = _feet(curve, NORMALS_PER_BLOCK * _block_count(curve), model)
    reach = float(np.clip(0.1 * curve.diameter, 3.0, 12.0))
    strip = _strip(image, feet, min(reach, 0.6 * curve.semi_axes[1]), reach)
    signs = [(sign, polarity) for sign, polarity in _SIGNS if wanted in (None, polarity)]
    threshold = _threshold(strip, max(_strength(sign * strip.response) for sign, _ in signs))
    design = feet.design[1::NORMALS_PER_BLOCK]
    found: list[tuple[int, Polarity, _Curve]] = []
    for sign, polarity in signs:
        signed = sign * strip.response
        distance = _positions(strip, signed, _peaks(signed, threshold), outermost=True)
        step = _first_step(design, distance, _tolerance(curve))
        if step is not None and _is_sound(moved := _moved(curve, step.change), max(image.shape)):
            found.append((int(np.count_nonzero(step.inliers)), polarity, moved))
    if not found:
        raise _NoEdge("too few edges agree on one curve")
    most = max(votes for votes, _, _ in found)
    _, polarity, curve = max(
        (f for f in found if f[0] >= 0.75 * most), key=lambda candidate: candidate[2].diameter
    )
    return polarity, curve


def _polish(curve: _Curve, image: NDArray[Any], model: Model, polarity: Polarity) -> BoundaryFit:
    """Search again along the normals of the curve until it stays."""
    for _ in range(PASSES):
        design, step = _search(curve, image, model, polarity)
        curve = _moved(curve, step.change)
        if not _is_sound(curve, max(image.shape)):
            raise _NoEdge("the edges found lie on no closed curve")
        last = float(np.abs(step.change).max())
        if last < CONVERGED:
            break
    if last > UNSETTLED:
        raise _NoEdge("the fit does not settle")
    return _report(curve, model, polarity, design, step)


def _search(
    curve: _Curve, image: NDArray[Any], model: Model, polarity: Polarity
) -> tuple[Float64Array, _Step]:
    """The edge nearest to the curve, and the step towards it; (blocks, p) of the design too."""
    feet = _feet(curve, NORMALS_PER_BLOCK * _block_count(curve), model)
    strip = _strip(image, feet, min(NARROW, 0.6 * curve.semi_axes[1]), NARROW)
    signed = strip.response if polarity == "darker" else -strip.response
    strength = _strength(signed)
    peaks = _peaks(signed, _threshold(strip, strength))
    distance = _positions(strip, signed, peaks, outermost=False)
    distance += _curvature_shift(strip, signed, distance, feet.curvature[1::NORMALS_PER_BLOCK])
    design = feet.design[1::NORMALS_PER_BLOCK]
    step = _step(design, distance, _tolerance(curve))
    if step is None:
        raise _NoEdge("too few edges agree on one curve")
    return design, step


def _curvature_shift(
    strip: _Strip, signed: Float64Array, distance: Float64Array, curvature: Float64Array
) -> Float64Array:
    """How far blur has drawn the edge towards the centre of curvature, in px: sigma^2 curvature / 2.

    The radial derivative of a disc of radius R under a Gaussian of sigma is, near the edge, that Gaussian
    times sqrt(R / r), whose maximum lies sigma^2 / 2R inside. Smoothing along the normal moves nothing
    further. The sigma of the picture comes from the width of the mean response: a Gaussian of variance v
    falls by the factor exp(-1 / 2v) over 1 px.
    """
    seen = np.isfinite(distance) & np.isfinite(signed).all(axis=1)
    middle = int(np.argmin(np.abs(strip.offsets)))
    pixel = round(1.0 / STEP)
    if not seen.any():
        return np.zeros_like(curvature)
    before, at, after = signed[seen][:, [middle - pixel, middle, middle + pixel]].mean(axis=0)
    if not (0.0 < before < at and 0.0 < after < at):
        return np.zeros_like(curvature)
    variance = 1.0 / (2.0 * math.log(at) - math.log(before) - math.log(after))
    blur = float(np.clip(variance - EDGE_SIGMA**2, 0.0, MAX_BLUR**2))
    return 0.5 * blur * curvature


def _report(
    curve: _Curve, model: Model, polarity: Polarity, design: Float64Array, step: _Step
) -> BoundaryFit:
    """The fit as a record; the standard error is that of linear least squares, by the delta method."""
    a, residual = design[step.inliers], step.residual[step.inliers]
    freedom = len(a) - a.shape[1]
    support = len(a) / len(design)
    if support < MIN_SUPPORT:
        raise _NoEdge(
            f"only {support:.0%} of the boundary shows an edge on the {model}, {MIN_SUPPORT:.0%} must"
        )
    covariance = float(residual @ residual) / freedom * np.linalg.inv(a.T @ a)
    slope = _diameter_slope(curve, model)
    stderr = math.sqrt(max(0.0, float(slope @ covariance @ slope)))
    if stderr > MAX_RELATIVE_ERROR * curve.diameter:
        raise _NoEdge("the part of the boundary that shows an edge is too short to tell the diameter")
    xx, xy, yy = curve.stretch[0, 0], curve.stretch[0, 1], curve.stretch[1, 1]
    angle = math.degrees(0.5 * math.atan2(2.0 * xy, xx - yy)) % 180.0
    return BoundaryFit(
        model=model,
        centre_xy=(float(curve.centre[0]), float(curve.centre[1])),
        semi_axes=curve.semi_axes,
        angle=angle % 180.0,  # a tiny negative angle has just become 180
        equivalent_diameter=curve.diameter,
        diameter_stderr=stderr,
        rms_residual=math.sqrt(float(residual @ residual) / len(a)),
        support=support,
        polarity=polarity,
    )


def _diameter_slope(curve: _Curve, model: Model) -> Float64Array:
    """Derivative of 2 sqrt(det stretch) with respect to the parameters."""
    if model == "circle":
        return np.array([0.0, 0.0, 2.0])
    (xx, xy), (_, yy) = curve.stretch
    return np.array([0.0, 0.0, yy, -2.0 * xy, xx]) * 2.0 / curve.diameter
