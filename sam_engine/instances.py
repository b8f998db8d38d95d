"""Every droplet of a field in one pass: the dense head's field to separate objects."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.special import expit, logit
from skimage.segmentation import expand_labels, watershed

from sam_engine.errors import EngineError
from sam_engine.masks import crop
from sam_engine.types import BoolArray, FloatArray, ImageEmbedding, Mask

STRIDE = 2
SMOOTHING_SIGMA = 0.6
MIN_SEED_PX = 2
STABILITY_OFFSET = 1.0

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class InstanceParameters:
    """How the field is cut into objects.

    Attributes:
        seed_thresh: normalised distance above which pixels are the core of an object, 0..1. Higher separates
            touching objects more eagerly.
        foreground_thresh: probability above which a pixel belongs to any object, 0..1.
        min_area: smallest object in pixels of the 1024-pixel frame.
    """

    seed_thresh: float = 0.5
    foreground_thresh: float = 0.5
    min_area: int = 30


def segment_instances(embedding: ImageEmbedding, parameters: InstanceParameters) -> list[Mask]:
    """Objects of the picture, none overlapping another.

    `predicted_iou` is the mean foreground probability inside the object, `stability_score` the ratio of its
    areas at a foreground logit one above and one below the threshold.

    Raises:
        EngineError: the active checkpoint has no instance head.
    """
    if embedding.instance_field is None:
        raise EngineError("the active checkpoint has no instance head")
    rows, columns = (-(-side // STRIDE) for side in embedding.input_size)
    field = embedding.instance_field[:, :rows, :columns].float().numpy()
    labels = _label(field[0], field[2], parameters)
    level = float(logit(parameters.foreground_thresh))
    full_size = _at_full_size(labels, field[0], embedding)
    return list(_objects(*full_size, level, embedding.original_size))


def _label(foreground_logit: FloatArray, distance: FloatArray, parameters: InstanceParameters) -> Labels:
    """Seeded watershed on the normalised distance; labels at the field's resolution."""
    distance = cv2.GaussianBlur(distance, (0, 0), SMOOTHING_SIGMA).astype(np.float32, copy=False)
    foreground = foreground_logit > float(logit(parameters.foreground_thresh))
    cores = ((distance > parameters.seed_thresh) & foreground).view(np.uint8)
    _, seeds, stats, _ = cv2.connectedComponentsWithStats(cores, connectivity=4)
    seeds[(stats[:, cv2.CC_STAT_AREA] < MIN_SEED_PX)[seeds]] = 0
    labels: Labels = watershed(-distance, seeds, mask=foreground)
    small = np.bincount(labels.ravel()) * STRIDE**2 < parameters.min_area
    labels[small[labels]] = 0
    return labels


def _at_full_size(
    labels: Labels, foreground_logit: FloatArray, embedding: ImageEmbedding
) -> tuple[Labels, FloatArray]:
    """Labels, grown by two cells, and foreground logits in the picture's pixels.

    The outer edge of an object is then where the interpolated foreground crosses its threshold, which is
    smooth; only the seam between touching objects keeps the field's resolution.
    """
    places = [
        (np.arange(side, dtype=np.float32) + 0.5) * (frame / STRIDE / side) - 0.5
        for side, frame in zip(embedding.original_size, embedding.input_size, strict=True)
    ]
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


def _objects(labels: Labels, logits: FloatArray, level: float, image_size: tuple[int, int]) -> Iterator[Mask]:
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
        origin = (window[1].start + x, window[0].start + y)
        yield Mask(pixels, origin, image_size, float(probability.mean()), narrow / wide)


def _largest_part(pixels: BoolArray) -> BoolArray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=4)
    if count <= 2:
        return pixels
    largest: BoolArray = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    return largest
