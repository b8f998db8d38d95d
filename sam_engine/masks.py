"""Masks as pixels, run lengths, boxes and polygons."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from skimage.measure import find_contours

from sam_engine.types import BoolArray, FloatArray, Mask

FRAME = 1024
LOW_RES = 256
SUPPORT = 4  # one output row of the two bilinear resizings reads at most this many low-resolution rows


class Upscaler:
    """Low-resolution logits of the 1024-pixel frame to pixels of the original picture.

    SAM resizes 256 -> 1024, cuts the padding off and resizes to the original, both bilinearly. Each step is
    linear and separable, so a matrix for rows and one for columns do it at once - and only for the rows and
    columns that the object reaches, which is what makes small objects cheap.

    Args:
        original_size, input_size: (H, W) of the picture and of its resized form, as in `ImageEmbedding`.
    """

    def __init__(self, original_size: tuple[int, int], input_size: tuple[int, int]) -> None:
        self.original_size = original_size
        self.rows = _resize_matrix(original_size[0], input_size[0])
        self.columns = _resize_matrix(original_size[1], input_size[1])

    def __call__(self, logits: FloatArray) -> FloatArray:
        """(256, 256) to (H, W)."""
        return np.asarray(self.rows @ logits @ self.columns.T, dtype=np.float32)

    def above(self, logits: FloatArray, level: float) -> tuple[FloatArray, tuple[int, int]] | None:
        """The part of the upscaled logits outside which none exceeds `level`, and its (x, y) origin.

        An upscaled logit is a weighted mean of its neighbours at low resolution, so it exceeds no level that
        none of them exceeds: nothing is missed. None if no logit does.
        """
        low_y, low_x = np.nonzero(logits > level)
        if not len(low_y):
            return None
        rows, low_rows = _reach(self.rows, low_y)
        columns, low_columns = _reach(self.columns, low_x)
        if rows.start == rows.stop or columns.start == columns.stop:  # only the padding is reached
            return None
        part = logits[low_rows, low_columns]
        full = self.rows[rows, low_rows] @ part @ self.columns[columns, low_columns].T
        return np.asarray(full, dtype=np.float32), (columns.start, rows.start)


@lru_cache(maxsize=16)
def _resize_matrix(original: int, resized: int) -> FloatArray:
    """(original, 256): what one axis of the two resizings does to a vector. Shared, hence read-only."""
    identity = torch.eye(LOW_RES)[None, None]
    frame = F.interpolate(identity, (FRAME, LOW_RES), mode="bilinear", align_corners=False)
    matrix = F.interpolate(frame[:, :, :resized], (original, LOW_RES), mode="bilinear", align_corners=False)
    out: FloatArray = matrix[0, 0].numpy()
    out.flags.writeable = False
    return out


def _reach(matrix: FloatArray, low: NDArray[np.intp]) -> tuple[slice, slice]:
    """Output indices that read low-resolution indices in the range of `low`, and all that they read."""
    first, last = int(low.min()), int(low.max())
    out = np.flatnonzero(matrix[:, first : last + 1].any(axis=1))
    if not len(out):
        return slice(0, 0), slice(0, 0)
    return slice(int(out[0]), int(out[-1]) + 1), slice(max(0, first - SUPPORT), last + 1 + SUPPORT)


def threshold_logits(
    upscaler: Upscaler, logits: FloatArray, *, offset: float = 1.0
) -> tuple[BoolArray, tuple[int, int], float] | None:
    """Pixels above zero cropped to their bounding box, its (x, y) origin, and the stability score.

    The stability score is the IoU of the masks above `+offset` and above `-offset` (segment-anything's
    `calculate_stability_score`). None if no pixel is above zero.
    """
    part = upscaler.above(logits, -offset)
    if part is None:
        return None
    values, (x, y) = part
    outer = np.count_nonzero(values > -offset)
    stability = float(np.count_nonzero(values > offset) / outer) if outer else 0.0
    cropped = crop(values > 0)
    if cropped is None:
        return None
    pixels, (dx, dy) = cropped
    return pixels, (x + dx, y + dy), stability


def crop(pixels: BoolArray) -> tuple[BoolArray, tuple[int, int]] | None:
    """Pixels cut to their bounding box and its (x, y) origin; None if there are none."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return None
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return pixels[window].copy(), (int(columns[0]), int(rows[0]))


def boxes_xyxy(masks: Sequence[Mask]) -> NDArray[np.float64]:
    """(N, 4) of first and last columns and rows, as segment-anything's `batched_mask_to_box`."""
    xywh = np.array([mask.bbox_xywh for mask in masks], dtype=np.float64).reshape(-1, 4)
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] - 1])


def non_maximum_suppression(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], iou_threshold: float
) -> NDArray[np.intp]:
    """Indices of the boxes (N, 4) that no better box overlaps by more than the threshold, best first."""
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        corners_min = np.maximum(boxes[best, :2], boxes[order, :2])
        corners_max = np.minimum(boxes[best, 2:], boxes[order, 2:])
        overlap = np.prod(np.clip(corners_max - corners_min, 0, None), axis=1)
        with np.errstate(invalid="ignore"):  # boxes without area overlap nothing
            iou = overlap / (areas[best] + areas[order] - overlap)
        order = order[~(iou > iou_threshold)]
    return np.array(kept, dtype=np.intp)


def remove_small_regions(mask: Mask, min_area: int) -> BoolArray | None:
    """Fill holes, then drop islands, smaller than `min_area` pixels (8-connected); None if nothing changed.

    If every island is small, the largest stays. The result has the shape of `mask.pixels`.
    """
    pixels = _fill_holes(mask, min_area)
    kept = _drop_islands(pixels, min_area)
    return None if np.array_equal(kept, mask.pixels) else kept


def _fill_holes(mask: Mask, min_area: int) -> BoolArray:
    """Background that goes on past the bounding box is outside, however small its part here."""
    x, y, w, h = mask.bbox_xywh
    height, width = mask.image_size
    beyond = ((int(y > 0), int(y + h < height)), (int(x > 0), int(x + w < width)))
    background = np.pad(~mask.pixels, beyond, constant_values=True)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(background.view(np.uint8), connectivity=8)
    holes = stats[:, cv2.CC_STAT_AREA] < min_area
    holes[0] = False
    (top, bottom), (left, right) = beyond
    edges = (
        labels[:top],
        labels[labels.shape[0] - bottom :],
        labels[:, :left],
        labels[:, labels.shape[1] - right :],
    )
    for edge in edges:
        holes[np.unique(edge)] = False
    inside = labels[top : top + h, left : left + w]
    filled: BoolArray = mask.pixels | holes[inside]
    return filled


def _drop_islands(pixels: BoolArray, min_area: int) -> BoolArray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    keep = areas >= max(1, min_area)
    if not keep.any():
        keep[np.argmax(areas)] = True
    kept: BoolArray = keep[labels]
    return kept


def run_lengths(mask: Mask) -> NDArray[np.int64]:
    """Lengths of alternating runs down the columns of the picture, the first of background."""
    height, width = mask.image_size
    x, y, w, h = mask.bbox_xywh
    padded = np.zeros((w, h + 2), dtype=np.int8)
    padded[:, 1:-1] = mask.pixels.T
    column, row = np.nonzero(np.diff(padded, axis=1))  # starts and ends alternate
    places = (column + x) * height + row + y
    joined = (
        np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1
    )  # a run down to the edge goes on at the top
    places = np.delete(places, np.concatenate([joined, joined + 1]))
    total = height * width
    return np.diff(np.concatenate([[0], places[places < total], [total]]))


def encode_rle(mask: Mask) -> dict[str, object]:
    """COCO's compressed run-length encoding: {"size": [H, W], "counts": text}."""
    height, width = mask.image_size
    raw = {"size": [height, width], "counts": run_lengths(mask).tolist()}
    compressed: dict[str, bytes] = coco_mask.frPyObjects(raw, height, width)  # type: ignore[call-overload]
    return {"size": [height, width], "counts": compressed["counts"].decode("ascii")}


def decode_rle(size: tuple[int, int], counts: str) -> BoolArray:
    """COCO's compressed run-length encoding to (H, W) of bool.

    Raises:
        ValueError: the runs are damaged or do not cover the picture exactly.
    """
    runs = _uncompress_counts(counts)
    height, width = size
    if min(size) < 1 or any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"runs do not cover a picture of {width}x{height}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _uncompress_counts(counts: str) -> list[int]:
    """COCO's text: characters of 5 bits and a flag; from the fourth run, differences to two before."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("counts are not COCO's compressed run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (bits & 0x10) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("counts end in the middle of a number")
    return runs


def polygons(mask: Mask) -> list[NDArray[np.float64]]:
    """Outlines as (K, 2) of XY, closed (last = first): outer ones and, the other way round, those of holes.

    They run between pixels at half level (marching squares); coordinates are COCO's, in which pixel (0, 0)
    covers 0..1, so that the outline of a full picture is its frame but for the cut corners.
    """
    x, y, _, _ = mask.bbox_xywh
    contours = find_contours(np.pad(mask.pixels, 1).astype(np.float32), 0.5)
    # find_contours gives (row, column) of pixel centres of the padded crop
    return [_corners(c)[:, ::-1] + (x - 0.5, y - 0.5) for c in contours]


def _corners(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points (K, 2) of a closed outline at which it turns; closed again."""
    step = np.diff(outline, axis=0)
    before = np.roll(step, 1, axis=0)
    turns = before[:, 0] * step[:, 1] != before[:, 1] * step[:, 0]
    corners = outline[:-1][turns]
    return np.concatenate([corners, corners[:1]])
