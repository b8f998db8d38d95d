"""The overlay with the id of each object: the numbers of the table and of the report."""

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sam_engine.types import BoolArray, ByteArray, Mask
from service.exports import overlay
from service.exports.png import encode_png
from service.objects import SegmentedObject
from service.segmentation import Segmentation

READABLE_SIDE_PX = 1600  # smaller pictures are enlarged towards this, so that small objects can carry numbers
LARGEST_ENLARGEMENT = 4
SMALLEST_FONT_PX = 11
FONT_PX_PER_SIDE = 1 / 80
TEXT_SHARE = 0.7  # of an object's diameter
WIDTH_PER_FONT_PX = 0.6  # of a digit

Place = tuple[int, int]


def write(segmentation: Segmentation, _picture_name: str = "") -> bytes:
    """A PNG; small pictures are enlarged by a whole number, up to four times."""
    return encode_png(draw(segmentation))


def draw(segmentation: Segmentation, largest_side_px: int | None = None) -> ByteArray:
    """(H, W, 3) of RGB: outlines and ids, those of objects that the analysis leaves out in grey.

    Args:
        largest_side_px: reduce larger pictures to this.
    """
    canvas = _overlay(segmentation)
    side = max(segmentation.picture.size)
    scale: float = min(LARGEST_ENLARGEMENT, max(1, math.ceil(READABLE_SIDE_PX / side)))
    if largest_side_px is not None:
        scale = min(scale, largest_side_px / side)
    return _number(_resized(canvas, scale), segmentation.kept, scale)


def _overlay(segmentation: Segmentation) -> ByteArray:
    analysis = segmentation.analysis
    kept = {found.id for found in segmentation.kept}
    return overlay.draw(segmentation, muted=set() if analysis is None else kept - analysis.counted_ids)


def _resized(canvas: ByteArray, scale: float) -> ByteArray:
    if scale == 1:
        return canvas
    how = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=how), dtype=np.uint8)


def _number(canvas: ByteArray, objects: Sequence[SegmentedObject], scale: float) -> ByteArray:
    """Write each id where no other stands, as far as there is such a place nearby."""
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    written = np.zeros(canvas.shape[:2], dtype=bool)
    for found in objects:
        text = str(found.id)
        font_px = _font_px(found, text, scale, max(image.size))
        font, stroke = _font(font_px), max(1, font_px // 8)
        left, top, right, bottom = (
            round(side) for side in font.getbbox(text, anchor="mm", stroke_width=stroke)
        )
        x, y = _place(found.mask, scale, (right - left, bottom - top), written)
        at = (x - (left + right) / 2, y - (top + bottom) / 2)
        pen.text(at, text, "white", font, anchor="mm", stroke_width=stroke, stroke_fill="black")
        written[_window(x, y, right - left, bottom - top)] = True
    return np.asarray(image)


def _font_px(found: SegmentedObject, text: str, scale: float, side: int) -> int:
    """As large as the object can hold, within what is readable and what is not clumsy."""
    room = TEXT_SHARE * found.measurement.shape.equivalent_diameter * scale
    largest = max(SMALLEST_FONT_PX, round(side * FONT_PX_PER_SIDE))
    return min(largest, max(SMALLEST_FONT_PX, int(room / (WIDTH_PER_FONT_PX * len(text)))))


@lru_cache(maxsize=128)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType")
    return font


def _place(mask: Mask, scale: float, size: tuple[int, int], written: BoolArray) -> Place:
    """Centre of the text: inside the object, else around it; where all is taken, where least is."""
    height, width = written.shape
    w, h = size
    best, least = (0, 0), math.inf
    for x, y in _candidates(mask, scale, size):
        inside = (_between(x, w, width), _between(y, h, height))
        taken = int(np.count_nonzero(written[_window(*inside, w, h)]))
        if taken < least:
            best, least = inside, taken
        if not taken:
            break
    return best


def _between(middle: int, extent: int, end: int) -> int:
    """The nearest middle with which `extent` pixels lie in 0..end."""
    return max(extent // 2, min(middle, end - (extent - extent // 2)))


def _candidates(mask: Mask, scale: float, size: tuple[int, int]) -> list[Place]:
    x, y, w, h = mask.bbox_xywh
    middle_x, middle_y = (round(scale * c) for c in _innermost(mask))
    left, right = round(scale * x) - size[0] // 2, round(scale * (x + w)) + size[0] // 2
    above, below = round(scale * y) - size[1] // 2, round(scale * (y + h)) + size[1] // 2
    around = [(middle_x, above), (middle_x, below), (right, middle_y), (left, middle_y)]
    corners = [(right, above), (left, above), (right, below), (left, below)]
    return [(middle_x, middle_y), *around, *corners]


def _innermost(mask: Mask) -> tuple[float, float]:
    """The point farthest from the outline, of a ring on the ring; pixel (0, 0) covers 0..1."""
    inside = np.pad(mask.pixels.astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    deepest = np.argwhere(depth >= depth.max() - 0.5)
    row, column = deepest[np.argmin(((deepest - deepest.mean(axis=0)) ** 2).sum(axis=1))]
    return mask.origin_xy[0] + float(column) - 0.5, mask.origin_xy[1] + float(row) - 0.5


def _window(x: int, y: int, w: int, h: int) -> tuple[slice, slice]:
    top, left = max(0, y - h // 2), max(0, x - w // 2)
    return slice(top, top + h), slice(left, left + w)
