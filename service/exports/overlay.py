"""The picture with its objects drawn over it."""

import colorsys
from collections.abc import Collection, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.types import ByteArray, Mask
from service.exports.png import encode_png
from service.objects import SegmentedObject
from service.segmentation import Segmentation

FILL = 0.35
PICTURE_SIDE_PER_LINE_PX = 512
NEIGHBOUR_LINES = 12  # objects nearer than so many lines get different colours
GOLDEN_RATIO = (5**0.5 - 1) / 2
COLOUR_OF_CLASS = {
    "low": (0, 114, 178),
    "high": (230, 159, 0),
}  # safe for colour-blind eyes: Okabe & Ito 2008
MUTED = (150, 150, 150)
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

Colour = tuple[int, int, int]


def _golden_hue(k: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(k * GOLDEN_RATIO % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


PALETTE = tuple(_golden_hue(k) for k in range(8))  # at least 32 degrees of hue apart


def write(segmentation: Segmentation, _picture_name: str = "") -> bytes:
    """A PNG of the upright picture; fills are transparent, outlines run inside the objects."""
    return encode_png(draw(segmentation))


def draw(segmentation: Segmentation, muted: Collection[int] = ()) -> ByteArray:
    """(H, W, 3) of RGB; objects whose id is in `muted` are grey."""
    kept = segmentation.kept
    canvas = segmentation.picture.rgb.copy()
    line = max(1, round(max(segmentation.picture.size) / PICTURE_SIDE_PER_LINE_PX))
    for found, colour in zip(kept, colours(kept, NEIGHBOUR_LINES * line), strict=True):
        _draw_object(canvas, found.mask, MUTED if found.id in muted else colour, line)
    return canvas


def colours(objects: Sequence[SegmentedObject], near_px: int) -> list[Colour]:
    """The colour of its class, else one that no object nearer than `near_px` has, as far as there are any."""
    boxes = np.array([found.mask.bbox_xywh for found in objects], dtype=np.int64).reshape(-1, 4)
    first, last = boxes[:, :2] - near_px, boxes[:, :2] + boxes[:, 2:]
    chosen = np.zeros(len(objects), dtype=np.int64)
    for i in range(len(objects)):
        near = ((first[:i] < last[i]) & (first[i] < last[:i])).all(axis=1)
        chosen[i] = _least_used(chosen[:i][near], i)
    return [
        PALETTE[k] if found.intensity_class is None else COLOUR_OF_CLASS[found.intensity_class]
        for found, k in zip(objects, chosen, strict=True)
    ]


def _least_used(taken: NDArray[np.int64], start: int) -> int:
    """Index of a colour, beginning at another one for each object so that all of them appear."""
    order = (start + np.arange(len(PALETTE))) % len(PALETTE)
    return int(order[np.argmin(np.bincount(taken, minlength=len(PALETTE))[order])])


def _draw_object(canvas: ByteArray, mask: Mask, colour: Colour, line: int) -> None:
    inside = mask.pixels
    region = canvas[mask.window]
    core = cv2.erode(
        inside.astype(np.uint8), CROSS, iterations=line, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    blended = (1 - FILL) * region[inside] + FILL * np.array(colour)
    region[inside] = np.rint(blended).astype(np.uint8)
    region[inside & (core == 0)] = colour
