"""Masks and measurements made by hand."""

import math

import numpy as np

from sam_engine.measure import EdgeDistance, Intensity, Measurement
from sam_engine.shape import Shape
from sam_engine.types import Mask


def make_mask(pixels, origin_xy=(0, 0), image_size=None):
    """Tight crop of `pixels`, whose first pixel lies at `origin_xy` of the picture."""
    pixels = np.asarray(pixels, dtype=bool)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    crop = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    origin = (origin_xy[0] + int(columns[0]), origin_xy[1] + int(rows[0]))
    return Mask(crop, origin, image_size or pixels.shape, predicted_iou=1.0, stability_score=1.0)


def fake(diameter=10.0, mean=100.0):
    shape = Shape(79, (0.0, 0.0), diameter, diameter, math.pi * diameter, 1.0, 1.0, 0.0)
    return Measurement(shape, Intensity(mean, mean, mean, 0.0, mean, 79), EdgeDistance(1, 1, 1, 1))
