"""Instances mode: which views of the picture the dense head gets, and masks that the decoder draws again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

import cv2
import numpy as np

from sam_engine.engine import SamEngine
from sam_engine.instances import InstanceParameters, segment_instances
from sam_engine.masks import FRAME
from sam_engine.types import ByteArray, ImageEmbedding, Mask, Prompt

Box = tuple[int, int, int, int]
Tiling = Literal["auto", "off", "full"]

TILE_OVERLAP_PX = 256
COMFORTABLE_DIAMETER_PX = 32  # in the frame; the head measures smaller objects better when magnified
WORTHWHILE_MAGNIFICATION = 1.3
FEW_OBJECTS = 4  # fewer in the whole view say nothing of what is too small for it
MOST_MAGNIFICATION = 8.0
MOST_TILES = 256
REFINED_TOGETHER = 64
LEAST_AGREEMENT = 0.5  # IoU with the instance under which the decoder has drawn something else


def find_instances(
    engine: SamEngine,
    image: ByteArray,
    embedding: ImageEmbedding,
    parameters: InstanceParameters,
    tiling: Tiling,
) -> tuple[list[Mask], int]:
    """Objects of an upright RGB picture (H, W, 3), and how many tiles were looked at besides the whole.

    Args:
        embedding: of the picture, by an engine with an instance head.
        tiling: `off`; `full` looks at tiles at the picture's own resolution; `auto` does so as far as the
            objects of the whole view are too small for the head, or where it shows hardly any.
    """
    size = embedding.original_size
    fields = list(engine.instance_fields(image, embedding))
    quality = engine.load().instance_quality
    whole = segment_instances(fields, size, parameters, quality)
    magnification = _magnification(whole, embedding, tiling)
    if magnification < WORTHWHILE_MAGNIFICATION:
        return whole, 0
    boxes = list(tile_boxes(size, math.ceil(max(size) / magnification)))
    for x1, y1, x2, y2 in boxes:
        fields.append(replace(engine.instance_field_of_tile(image[y1:y2, x1:x2]), origin_xy=(x1, y1)))
    return segment_instances(fields, size, parameters, quality), len(boxes)


def tile_boxes(image_size: tuple[int, int], side: int) -> Iterator[Box]:
    """(x1, y1, x2, y2) of squares that cover the picture; neighbours share a quarter of a side or more."""
    overlap = side * TILE_OVERLAP_PX // FRAME
    starts = []
    for length in image_size:
        count = 1 if length <= side else math.ceil((length - overlap) / (side - overlap))
        starts.append(
            [round(i * (length - side) / max(1, count - 1)) if count > 1 else 0 for i in range(count)]
        )
    for y, x in product(*starts):
        yield x, y, min(x + side, image_size[1]), min(y + side, image_size[0])


def _magnification(masks: Sequence[Mask], embedding: ImageEmbedding, tiling: Tiling) -> float:
    """How much larger than in the frame the tiles should show the picture; 1 for no tiles."""
    own = max(embedding.original_size) / FRAME
    most = min(own, MOST_MAGNIFICATION, math.sqrt(MOST_TILES) * (1 - TILE_OVERLAP_PX / FRAME))
    if tiling == "off":
        return 1.0
    if tiling == "full" or len(masks) < FEW_OBJECTS:
        return most
    areas = np.array([mask.area for mask in masks]) / own**2
    diameter = 2 * math.sqrt(float(np.median(areas)) / math.pi)
    return min(most, COMFORTABLE_DIAMETER_PX / diameter)


def refine(engine: SamEngine, embedding: ImageEmbedding, masks: Sequence[Mask]) -> list[Mask]:
    """The masks as the mask decoder draws them, asked by box and inner point; those it disagrees on stay.

    Args:
        embedding: of the same picture by `engine`, whose checkpoint may be another than the one that found
            the masks.
    """
    refined = []
    for start in range(0, len(masks), REFINED_TOGETHER):
        part = masks[start : start + REFINED_TOGETHER]
        answers = engine.predict(embedding, [_prompt(mask) for mask in part])
        for mask, answer in zip(part, answers, strict=True):
            drawn = answer.masks[0] if answer.masks else None
            agreed = drawn is not None and _iou(mask, drawn) >= LEAST_AGREEMENT
            refined.append(replace(drawn, prompt_index=None, mask_index=None) if drawn and agreed else mask)
    return refined


def _prompt(mask: Mask) -> Prompt:
    x, y, width, height = mask.bbox_xywh
    depth = cv2.distanceTransform(np.pad(mask.pixels.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return Prompt(
        points=((float(x + column), float(y + row), 1),),
        box=(float(x), float(y), float(x + width), float(y + height)),
        multimask=False,
    )


def _iou(a: Mask, b: Mask) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.bbox_xywh, b.bbox_xywh
    x1, y1, x2, y2 = max(ax, bx), max(ay, by), min(ax + aw, bx + bw), min(ay + ah, by + bh)
    if x1 >= x2 or y1 >= y2:
        return 0.0
    common = np.count_nonzero(
        a.pixels[y1 - ay : y2 - ay, x1 - ax : x2 - ax] & b.pixels[y1 - by : y2 - by, x1 - bx : x2 - bx]
    )
    return common / (a.area + b.area - common)
