"""Every droplet of a field in one pass: the dense head's fields to separate objects.

A field sees the picture at one magnification. The head knows objects of up to some two hundred pixels and
cuts larger ones apart, so the picture is also seen smaller, and a large one of small objects in tiles. Each
field is cut into candidates by a seeded watershed; of candidates that overlap, the one that looks most like a
whole object stays.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.special import expit, logit
from skimage.segmentation import expand_labels, find_boundaries, watershed

from sam_engine.masks import crop
from sam_engine.quality import Evidence, Quality
from sam_engine.types import BoolArray, FloatArray, InstanceField, Mask

SMOOTHING_SIGMA = 0.6
MIN_SEED_CELLS = 2
STABILITY_OFFSET = 1.0
CELL_AREA_PX = 4  # of the frame
DENSE = 0.3  # share of the cells
LEAST_COARSE_CELLS = 200  # smaller objects are seen better in the finer field
COARSE_HANDICAP = 0.04
MOST_TAKEN = 0.3  # share of a candidate that better ones may cover already
CONTAINED = 12  # whole objects inside from which a candidate is a dish or a field of view, no object
WHOLE = 0.75
MUCH_SMALLER = 0.1  # of the area

INNER_DISTANCE = 4

Labels = NDArray[np.int32]


class _Channels(NamedTuple):
    """Which channels of a field tell of one layer."""

    foreground: int
    distance: int
    edge: int | None = None


OBJECTS = _Channels(foreground=0, distance=2, edge=1)
INCLUSIONS = _Channels(foreground=3, distance=INNER_DISTANCE)


@dataclass(frozen=True, slots=True)
class InstanceParameters:
    """How a field is cut into objects.

    Attributes:
        seed_thresh: normalised distance above which cells are the core of an object, 0..1. Higher separates
            touching objects more eagerly.
        foreground_thresh: probability above which a cell belongs to any object, 0..1.
        min_area: smallest object in pixels of the frame that the field saw.
        pred_iou_thresh: objects of a lower `predicted_iou` go; None leaves it to the head's `Quality`.
        inclusions: whether objects inside objects are looked for as well.
    """

    seed_thresh: float = 0.5
    foreground_thresh: float = 0.5
    min_area: int = 30
    pred_iou_thresh: float | None = None
    inclusions: bool = False

    def least_iou(self, quality: Quality | None) -> float:
        """The threshold that applies with a head's quality; 0 lets all pass."""
        if self.pred_iou_thresh is not None:
            return self.pred_iou_thresh
        return 0.0 if quality is None else quality.least


@dataclass(frozen=True, eq=False, slots=True)
class Instance:
    """A mask, what is known of it, and how much like a whole object it looks."""

    mask: Mask
    evidence: Evidence
    wholeness: float


def segment_instances(
    fields: Sequence[InstanceField],
    image_size: tuple[int, int],
    parameters: InstanceParameters,
    quality: Quality | None = None,
) -> list[Mask]:
    """Objects of a picture of (H, W), none overlapping another; then inclusions, likewise.

    `predicted_iou` is what `quality` expects; of inclusions, and without it, the mean foreground probability
    inside. `stability_score` is the ratio of the areas at a foreground logit one above and one below the
    threshold.
    """
    found = find_objects_of(fields, image_size, parameters)
    if quality is not None:
        found = [_rated(instance, quality) for instance in found]
    least = parameters.least_iou(quality)
    found = [instance for instance in found if instance.mask.predicted_iou >= least]
    if parameters.inclusions:
        found += find_inclusions_of(fields, image_size, parameters)
    return [instance.mask for instance in found]


def find_objects_of(
    fields: Sequence[InstanceField], image_size: tuple[int, int], parameters: InstanceParameters
) -> list[Instance]:
    """The instances of a picture's objects, `predicted_iou` being the mean foreground probability."""
    return _layer(fields, image_size, parameters, OBJECTS)


def find_inclusions_of(
    fields: Sequence[InstanceField], image_size: tuple[int, int], parameters: InstanceParameters
) -> list[Instance]:
    """Likewise of what lies inside objects; none from a head that does not know inclusions."""
    knowing = [field for field in fields if len(field.values) > INNER_DISTANCE]
    return _layer(knowing, image_size, parameters, INCLUSIONS)


def _rated(instance: Instance, quality: Quality) -> Instance:
    expected = quality.expected_iou(instance.evidence)
    return replace(instance, mask=replace(instance.mask, predicted_iou=expected))


def _layer(
    fields: Sequence[InstanceField],
    image_size: tuple[int, int],
    parameters: InstanceParameters,
    channels: _Channels,
) -> list[Instance]:
    finest = min((math.prod(field.pitch_yx) for field in fields), default=0.0)
    candidates = [
        candidate
        for field in fields
        for candidate in _candidates(field, image_size, parameters, channels, finest)
    ]
    return _choose(candidates, image_size)


def _candidates(
    field: InstanceField,
    image_size: tuple[int, int],
    parameters: InstanceParameters,
    channels: _Channels,
    finest: float,
) -> Iterator[Instance]:
    """Whole objects of one field; of a field that is not the finest, the large ones only."""
    logits, distance = (field.values[k].float().numpy() for k in (channels.foreground, channels.distance))
    coarse = math.prod(field.pitch_yx) > 1.5 * finest
    least_cells = max(parameters.min_area / CELL_AREA_PX, LEAST_COARSE_CELLS if coarse else 0)
    labels = _label(logits, distance, parameters, least_cells)
    if not labels.any():
        return
    edge = None if channels.edge is None else expit(field.values[channels.edge].float().numpy())
    edges, peaks, areas = _statistics(labels, edge, distance)
    level = float(logit(parameters.foreground_thresh))
    for label, inside, local, origin in _at_full_size(labels, logits, field, image_size):
        mask = _mask(inside, local, level, origin, image_size)
        if mask is None or _cut_by_tile(mask, field, image_size):
            continue
        evidence = Evidence(
            foreground=mask.predicted_iou,
            edge=float(edges[label]),
            peak=float(peaks[label]),
            stability=mask.stability_score,
            roundness=_roundness(mask),
            size=math.log(areas[label]),
        )
        wholeness = evidence.roundness * evidence.foreground - COARSE_HANDICAP * coarse
        yield Instance(mask, evidence, wholeness)


def _statistics(
    labels: Labels, edge: FloatArray | None, distance: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each label, from 0: mean of `edge` along its outline, largest distance, number of cells."""
    count = int(labels.max()) + 1
    flat = labels.ravel()
    peaks = np.zeros(count, np.float32)
    np.maximum.at(peaks, flat, distance.ravel())
    areas = np.bincount(flat, minlength=count).astype(np.float32)
    if edge is None:
        return np.zeros(count, np.float32), peaks, areas
    outline = find_boundaries(labels, mode="inner")
    on = labels[outline]
    length = np.bincount(on, minlength=count).clip(1)
    edges = np.bincount(on, edge[outline], minlength=count) / length
    return edges.astype(np.float32), peaks, areas


def _label(
    foreground_logit: FloatArray, distance: FloatArray, parameters: InstanceParameters, least_cells: float
) -> Labels:
    """Seeded watershed on the normalised distance; labels at the field's resolution."""
    distance = cv2.GaussianBlur(distance, (0, 0), SMOOTHING_SIGMA).astype(np.float32, copy=False)
    foreground = foreground_logit > float(logit(parameters.foreground_thresh))
    cores = ((distance > parameters.seed_thresh) & foreground).view(np.uint8)
    _, seeds, stats, _ = cv2.connectedComponentsWithStats(cores, connectivity=4)
    seeds[(stats[:, cv2.CC_STAT_AREA] < MIN_SEED_CELLS)[seeds]] = 0
    labels: Labels = watershed(-distance, seeds, mask=foreground)
    small = np.bincount(labels.ravel()) < least_cells
    labels[small[labels]] = 0
    return labels


def _at_full_size(
    labels: Labels, foreground_logit: FloatArray, field: InstanceField, image_size: tuple[int, int]
) -> Iterator[tuple[int, BoolArray, FloatArray, tuple[int, int]]]:
    """Each label in the picture's pixels: number, which pixels, foreground logits, and where they begin (XY).

    Labels are grown by two cells, so that the outer edge of an object is where the interpolated foreground
    crosses its threshold, which is smooth; only the seam between touching objects keeps the field's pitch.
    """
    places = []
    for start, cells, pitch, side in zip(
        field.origin_xy[::-1], labels.shape, field.pitch_yx, image_size, strict=True
    ):
        count = min(side - start, math.ceil(cells * pitch))
        places.append(((np.arange(count) + 0.5) / pitch - 0.5).astype(np.float32).clip(0, cells - 1))
    nearest = [np.rint(at).astype(int) for at in places]
    grown = expand_labels(labels, distance=2)
    # where objects are dense one interpolation is quicker than many small ones
    everywhere = None
    if np.count_nonzero(grown) > DENSE * grown.size:
        everywhere = _interpolate(foreground_logit, *places)
    for label, window in enumerate(find_objects(grown), start=1):
        if window is None:
            continue
        rows, columns = (
            slice(*np.searchsorted(n, (cells.start, cells.stop)).tolist())
            for n, cells in zip(nearest, window, strict=True)
        )
        inside = grown[np.ix_(nearest[0][rows], nearest[1][columns])] == label
        if not inside.size:  # smaller than a pixel
            continue
        if everywhere is None:
            local = _interpolate(foreground_logit, places[0][rows], places[1][columns])
        else:
            local = everywhere[rows, columns]
        yield label, inside, local, (field.origin_xy[0] + columns.start, field.origin_xy[1] + rows.start)


def _interpolate(values: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Values at fractional rows and columns, both ascending, linear between neighbours."""
    for at in (rows, columns):
        first = int(at[0])
        part = values[first : int(at[-1]) + 2]
        low = at.astype(int) - first
        high = np.minimum(low + 1, len(part) - 1)
        weight = (at - first - low)[:, None]
        values = (part[low] * (1 - weight) + part[high] * weight).T
    return values


def _mask(
    inside: BoolArray,
    logits: FloatArray,
    level: float,
    origin_xy: tuple[int, int],
    image_size: tuple[int, int],
) -> Mask | None:
    """The largest part of what lies inside and above the level; None if nothing does."""
    found = crop(_largest_part(inside & (logits > level)))
    if found is None:
        return None
    pixels, (x, y) = found
    probability = expit(logits[y : y + pixels.shape[0], x : x + pixels.shape[1]][pixels])
    wide = np.count_nonzero(inside & (logits > level - STABILITY_OFFSET))
    narrow = np.count_nonzero(inside & (logits > level + STABILITY_OFFSET))
    origin = (origin_xy[0] + x, origin_xy[1] + y)
    return Mask(pixels, origin, image_size, float(probability.mean()), narrow / wide)


def _largest_part(pixels: BoolArray) -> BoolArray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=4)
    if count <= 2:
        return pixels
    largest: BoolArray = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    return largest


def _cut_by_tile(mask: Mask, field: InstanceField, image_size: tuple[int, int]) -> bool:
    """Whether the mask ends at an edge of its tile that is none of the picture: another tile has it whole."""
    x, y, width, height = mask.bbox_xywh
    left, top = field.origin_xy
    bottom, right = (
        start + cells * pitch
        for start, cells, pitch in zip((top, left), field.values.shape[1:], field.pitch_yx, strict=True)
    )
    at_end = (right - 1.5 < x + width < image_size[1]) or (bottom - 1.5 < y + height < image_size[0])
    return (0 < left == x) or (0 < top == y) or at_end


def _roundness(mask: Mask) -> float:
    """IoU of the mask with the ellipse of the same second moments: near 1 for droplets, less for pieces."""
    pixels = mask.pixels.view(np.uint8)
    moments = cv2.moments(pixels, binaryImage=True)
    area = moments["m00"]
    xx, yy = moments["mu20"] / area + 1 / 12, moments["mu02"] / area + 1 / 12
    xy = moments["mu11"] / area
    x = np.arange(pixels.shape[1], dtype=np.float32) - np.float32(moments["m10"] / area)
    y = (np.arange(pixels.shape[0], dtype=np.float32) - np.float32(moments["m01"] / area))[:, None]
    squared = (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy)
    ellipse = squared <= 4  # the boundary of a uniform ellipse lies at two standard deviations
    common = np.count_nonzero(ellipse & mask.pixels)
    return float(common / (np.count_nonzero(ellipse) + area - common))


def _choose(candidates: Sequence[Instance], image_size: tuple[int, int]) -> list[Instance]:
    """The most whole candidates first; those that hardly overlap these keep the pixels that are free."""
    taken = np.zeros(image_size, dtype=bool)
    chosen = []
    for candidate in sorted(_without_containers(candidates), key=lambda c: -c.wholeness):
        mask = candidate.mask
        free = mask.pixels & ~taken[mask.window]
        count = np.count_nonzero(free)
        if count < (1 - MOST_TAKEN) * mask.area:
            continue
        if count < mask.area:
            mask = _restricted(mask, free)
        taken[mask.window] |= mask.pixels
        chosen.append(replace(candidate, mask=mask))
    return chosen


def _without_containers(candidates: Sequence[Instance]) -> list[Instance]:
    """The candidates less those that hold many whole, much smaller ones: glasses, dishes, fields of view."""
    boxes = np.array([c.mask.bbox_xywh for c in candidates]).reshape(-1, 4)
    middle = boxes[:, :2] + boxes[:, 2:] // 2
    areas = np.array([c.mask.area for c in candidates])
    whole = np.array([c.wholeness >= WHOLE for c in candidates], dtype=bool)
    kept = []
    for candidate, (x, y, width, height), area in zip(candidates, boxes, areas, strict=True):
        small = whole & (areas < MUCH_SMALLER * area)
        at = middle[small] - (x, y)
        at = at[((at >= 0) & (at < (width, height))).all(axis=1)]
        if len(at) < CONTAINED or np.count_nonzero(candidate.mask.pixels[at[:, 1], at[:, 0]]) < CONTAINED:
            kept.append(candidate)
    return kept


def _restricted(mask: Mask, pixels: BoolArray) -> Mask:
    """The largest part of the mask that is among `pixels`, of the same window."""
    found = crop(_largest_part(pixels))
    assert found is not None  # noqa: S101 (most of its pixels are free)
    cropped, (dx, dy) = found
    x, y = mask.origin_xy
    return replace(mask, pixels=cropped, origin_xy=(x + dx, y + dy))
