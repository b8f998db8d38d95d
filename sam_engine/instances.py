"""Every droplet of a field in one pass: the dense head's fields to separate objects.

A field sees the picture at one magnification. The head knows objects of up to some two hundred pixels and
cuts larger ones apart, so the picture is also seen smaller, and a large one of small objects in tiles. Each
field is cut into candidates by a seeded watershed; of candidates that overlap, the one that looks most like a
whole object stays.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.special import expit, logit
from skimage.segmentation import expand_labels, watershed

from sam_engine.masks import crop
from sam_engine.types import BoolArray, FloatArray, InstanceField, Mask

SMOOTHING_SIGMA = 0.6
MIN_SEED_CELLS = 2
STABILITY_OFFSET = 1.0
CELL_AREA_PX = 4  # of the frame
LEAST_COARSE_CELLS = 200  # smaller objects are seen better in the finer field
COARSE_HANDICAP = 0.04
MOST_TAKEN = 0.3  # share of a candidate that better ones may cover already
CONTAINED = 12  # whole objects inside from which a candidate is a dish or a field of view, no object
WHOLE = 0.75
MUCH_SMALLER = 0.1  # of the area

FOREGROUND, EDGE, DISTANCE, INNER_FOREGROUND, INNER_DISTANCE = range(5)

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class InstanceParameters:
    """How a field is cut into objects.

    Attributes:
        seed_thresh: normalised distance above which cells are the core of an object, 0..1. Higher separates
            touching objects more eagerly.
        foreground_thresh: probability above which a cell belongs to any object, 0..1.
        min_area: smallest object in pixels of the frame that the field saw.
        inclusions: whether objects inside objects are looked for as well.
    """

    seed_thresh: float = 0.5
    foreground_thresh: float = 0.5
    min_area: int = 30
    inclusions: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class _Candidate:
    mask: Mask
    wholeness: float


def segment_instances(
    fields: Sequence[InstanceField], image_size: tuple[int, int], parameters: InstanceParameters
) -> list[Mask]:
    """Objects of a picture of (H, W), none overlapping another; then inclusions, likewise.

    `predicted_iou` is the mean foreground probability inside the object, `stability_score` the ratio of its
    areas at a foreground logit one above and one below the threshold.
    """
    objects = _layer(fields, image_size, parameters, FOREGROUND, DISTANCE)
    with_inclusions = [field for field in fields if len(field.values) > INNER_DISTANCE]
    if not (parameters.inclusions and with_inclusions):
        return objects
    return objects + _layer(with_inclusions, image_size, parameters, INNER_FOREGROUND, INNER_DISTANCE)


def _layer(
    fields: Sequence[InstanceField],
    image_size: tuple[int, int],
    parameters: InstanceParameters,
    foreground: int,
    distance: int,
) -> list[Mask]:
    finest = min(math.prod(field.pitch_yx) for field in fields)
    candidates = [
        candidate
        for field in fields
        for candidate in _candidates(field, image_size, parameters, (foreground, distance), finest)
    ]
    return _choose(candidates, image_size)


def _candidates(
    field: InstanceField,
    image_size: tuple[int, int],
    parameters: InstanceParameters,
    channels: tuple[int, int],
    finest: float,
) -> Iterator[_Candidate]:
    """Whole objects of one field; of a field that is not the finest, the large ones only."""
    logits, distance = (field.values[channel].float().numpy() for channel in channels)
    coarse = math.prod(field.pitch_yx) > 1.5 * finest
    least_cells = max(parameters.min_area / CELL_AREA_PX, LEAST_COARSE_CELLS if coarse else 0)
    labels = _label(logits, distance, parameters, least_cells)
    if not labels.any():
        return
    level = float(logit(parameters.foreground_thresh))
    full_size = _at_full_size(labels, logits, field, image_size)
    for mask in _objects(*full_size, level, field.origin_xy, image_size):
        if not _cut_by_tile(mask, field, image_size):
            yield _Candidate(mask, _roundness(mask) * mask.predicted_iou - COARSE_HANDICAP * coarse)


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
) -> tuple[Labels, FloatArray]:
    """Labels, grown by two cells, and foreground logits in the picture's pixels that the field covers.

    The outer edge of an object is then where the interpolated foreground crosses its threshold, which is
    smooth; only the seam between touching objects keeps the field's resolution.
    """
    left, top = field.origin_xy
    places = []
    for start, cells, pitch, side in zip((top, left), labels.shape, field.pitch_yx, image_size, strict=True):
        count = min(side - start, math.ceil(cells * pitch))
        places.append(((np.arange(count) + 0.5) / pitch - 0.5).astype(np.float32))
    grown = expand_labels(labels, distance=2)
    nearest = [np.clip(np.rint(at).astype(int), 0, n - 1) for at, n in zip(places, labels.shape, strict=True)]
    return grown[np.ix_(*nearest)], _interpolate(_interpolate(foreground_logit, places[0]).T, places[1]).T


def _interpolate(values: FloatArray, places: FloatArray) -> FloatArray:
    """Rows at fractional places, linear between two; beyond the ends the last row repeats."""
    places = places.clip(0, len(values) - 1)
    low = places.astype(int)
    weight = (places - low)[:, None]
    high = np.minimum(low + 1, len(values) - 1)
    mixed: FloatArray = values[low] * (1 - weight) + values[high] * weight
    return mixed


def _objects(
    labels: Labels,
    logits: FloatArray,
    level: float,
    origin_xy: tuple[int, int],
    image_size: tuple[int, int],
) -> Iterator[Mask]:
    for label, window in enumerate(find_objects(labels), start=1):
        if window is None:
            continue
        inside, local = labels[window] == label, logits[window]
        found = crop(_largest_part(inside & (local > level)))
        if found is None:
            continue
        pixels, (x, y) = found
        probability = expit(local[y : y + pixels.shape[0], x : x + pixels.shape[1]][pixels])
        wide = np.count_nonzero(inside & (local > level - STABILITY_OFFSET))
        narrow = np.count_nonzero(inside & (local > level + STABILITY_OFFSET))
        origin = (origin_xy[0] + window[1].start + x, origin_xy[1] + window[0].start + y)
        yield Mask(pixels, origin, image_size, float(probability.mean()), narrow / wide)


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


def _choose(candidates: Sequence[_Candidate], image_size: tuple[int, int]) -> list[Mask]:
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
        chosen.append(mask)
    return chosen


def _without_containers(candidates: Sequence[_Candidate]) -> list[_Candidate]:
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
