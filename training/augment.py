"""Crops of pictures at random scales, turned, and as other cameras would have taken them."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Generator = np.random.Generator
Picture = NDArray[np.uint8]
LabelMap = NDArray[np.int32]

MEAN_COLOUR = (124, 116, 104)  # what SAM's zero padding is before normalisation


@dataclass(frozen=True, eq=False, slots=True)
class Crop:
    """A square training crop; labels are consecutive from 1, 0 is the ground.

    Attributes:
        picture: (s, s, 3) uint8.
        objects, inclusions: (s, s) int32 label maps.
        ignored: (s, s) bool, padding that no loss looks at.
    """

    picture: Picture
    objects: LabelMap
    inclusions: LabelMap
    ignored: NDArray[np.bool_]


def random_crop(
    rng: Generator,
    picture: Picture,
    objects: NDArray[np.integer],
    inclusions: NDArray[np.integer] | None,
    side: int,
    scales: tuple[float, float],
) -> Crop:
    """A crop of `side` pixels, magnified by a factor from `scales`, uniform in its logarithm.

    A picture that is too small for the least magnification is padded to the right and below, as whole
    pictures are.
    """
    if inclusions is None:
        inclusions = np.zeros_like(objects)
    height, width = objects.shape
    scale = math.exp(rng.uniform(math.log(scales[0]), math.log(scales[1])))
    window = max(8, round(side / scale))
    rows, columns = min(window, height), min(window, width)
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    part = slice(top, top + rows), slice(left, left + columns)
    shape = (max(1, round(rows * side / window)), max(1, round(columns * side / window)))
    canvas = np.full((side, side, 3), MEAN_COLOUR, np.uint8)
    labels = np.zeros((2, side, side), np.int32)
    ignored = np.ones((side, side), bool)
    inner = slice(0, shape[0]), slice(0, shape[1])
    canvas[inner] = photometric(rng, resize_picture(picture[part], shape))
    labels[0][inner] = resize_labels(objects[part], shape)
    labels[1][inner] = resize_labels(inclusions[part], shape)
    ignored[inner] = False
    turn, mirror = int(rng.integers(4)), rng.random() < 0.5
    arrays = [np.rot90(a, turn, axes=(0, 1)) for a in (canvas, labels[0], labels[1], ignored)]
    canvas, first, second, ignored = (np.ascontiguousarray(a[:, ::-1] if mirror else a) for a in arrays)
    return Crop(canvas, consecutive(first), consecutive(second), ignored)


def resize_picture(picture: Picture, shape: tuple[int, int]) -> Picture:
    """Area averages when smaller, linear when larger."""
    smaller = shape[0] < picture.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, shape[::-1], interpolation=method), np.uint8)


def resize_labels(labels: NDArray[np.integer], shape: tuple[int, int]) -> LabelMap:
    """The label at the centre of each new pixel."""
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)].astype(np.int32)


def consecutive(labels: LabelMap) -> LabelMap:
    """The same objects numbered 1, 2, ... without gaps."""
    present = np.bincount(labels.ravel()) > 0
    present[0] = False
    return (np.cumsum(present) * present).astype(np.int32)[labels]


def photometric(rng: Generator, picture: Picture) -> Picture:
    """Other light, contrast, colour, focus and noise; never so much that objects vanish."""
    values: NDArray[np.floating] = picture.astype(np.float32)
    if rng.random() < 0.3:
        values = np.repeat(values.mean(2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.3:
        values = values[..., rng.permutation(3)]
    if rng.random() < 0.1:
        values = 255 - values
    if rng.random() < 0.4:
        values = 255 * (values.clip(0, 255) / 255) ** np.float32(math.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.5:
        gain = np.float32(math.exp(rng.normal(-0.03, 0.25)))
        values = (values - 128) * gain + np.float32(128 + rng.normal(0, 18))
    if rng.random() < 0.2:
        values = values * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    focus = rng.random()
    if focus < 0.12:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 1.6))), np.float32)
    elif focus < 0.2:
        blurred = np.asarray(cv2.GaussianBlur(values, (0, 0), 1.5), np.float32)
        values = values + np.float32(0.8) * (values - blurred)
    if rng.random() < 0.2:
        channels = 1 if rng.random() < 0.7 else 3
        noise = rng.standard_normal((*values.shape[:2], channels), np.float32)
        values = values + np.float32(rng.uniform(1, 8)) * noise
    return np.asarray(values.clip(0, 255), np.uint8)
