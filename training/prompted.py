"""How well one click or one box finds the object that it is meant for."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import find_objects

from sam_engine.engine import Prediction, SamEngine
from sam_engine.types import BoolArray, ImageEmbedding, Mask, Prompt
from training.metrics import MIN_OBJECT_PX, Labels


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Sums over the objects of one picture that were prompted.

    Attributes:
        objects: that were prompted.
        click: IoU of the candidate that the network itself ranks first, for one click.
        click_oracle: IoU of the best of the three candidates.
        click_misjudged: |predicted IoU - IoU| of the candidate ranked first.
        box: IoU for the bounding box.
        click_ms, box_ms: processor time of all clicks and of all boxes, embedding not included.
    """

    name: str
    objects: int
    click: float
    click_oracle: float
    click_misjudged: float
    box: float
    click_ms: float
    box_ms: float


@dataclass(frozen=True, slots=True)
class PromptSummary:
    """Means over all objects prompted, see `PromptScore`; None where there was none."""

    objects: int
    click: float | None
    click_oracle: float | None
    click_misjudged: float | None
    box: float | None
    click_ms: float | None
    box_ms: float | None


@dataclass(frozen=True, eq=False, slots=True)
class _Object:
    """`pixels` (h, w) of its bounding box, whose first pixel is (x, y)."""

    pixels: BoolArray
    x: int
    y: int


def score_prompts(
    engine: SamEngine, embedding: ImageEmbedding, name: str, labels: Labels, limit: int
) -> PromptScore:
    """Click and box for at most `limit` objects of a picture, drawn by its name."""
    objects = _drawn_objects(labels, name, limit)
    clicks = [Prompt(points=((*deepest_pixel(o.pixels, (o.x, o.y)), 1),)) for o in objects]
    boxes = [Prompt(box=_box(o), multimask=False) for o in objects]
    by_click, click_ms = _timed(engine, embedding, clicks)
    by_box, box_ms = _timed(engine, embedding, boxes)
    ranked = [_ranked_first(answer) for answer in by_click]
    click = [_iou(mask, o) for mask, o in zip(ranked, objects, strict=True)]
    return PromptScore(
        name=name,
        objects=len(objects),
        click=sum(click),
        click_oracle=sum(_best_iou(answer, o) for answer, o in zip(by_click, objects, strict=True)),
        click_misjudged=sum(abs(_predicted(m) - iou) for m, iou in zip(ranked, click, strict=True)),
        box=sum(_best_iou(answer, o) for answer, o in zip(by_box, objects, strict=True)),
        click_ms=click_ms,
        box_ms=box_ms,
    )


def summarise_prompts(pictures: Sequence[PromptScore]) -> PromptSummary:
    """Means over the objects of all pictures."""
    objects = sum(picture.objects for picture in pictures)

    def mean(name: str) -> float | None:
        return sum(getattr(picture, name) for picture in pictures) / objects if objects else None

    return PromptSummary(
        objects,
        mean("click"),
        mean("click_oracle"),
        mean("click_misjudged"),
        mean("box"),
        mean("click_ms"),
        mean("box_ms"),
    )


def deepest_pixel(pixels: BoolArray, origin_xy: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Column and row of the pixel farthest from the outside; the picture's edge is outside too.

    Args:
        pixels: (h, w), at least one of them set.
        origin_xy: place of `pixels[0, 0]` in the picture.
    """
    distance = cv2.distanceTransform(np.pad(pixels, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return origin_xy[0] + int(column) - 1, origin_xy[1] + int(row) - 1


def _drawn_objects(labels: Labels, name: str, limit: int) -> list[_Object]:
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    numbers = np.flatnonzero(counts >= MIN_OBJECT_PX)
    if len(numbers) > limit:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, limit, replace=False))
    windows = find_objects(labels)
    places = [(number, windows[number - 1]) for number in numbers.tolist()]
    return [_Object(labels[w] == number, w[1].start, w[0].start) for number, w in places]


def _box(o: _Object) -> tuple[float, float, float, float]:
    """The edges of the bounding box, as x, y, x + width, y + height."""
    height, width = o.pixels.shape
    return o.x, o.y, o.x + width, o.y + height


def _timed(
    engine: SamEngine, embedding: ImageEmbedding, prompts: list[Prompt]
) -> tuple[list[Prediction], float]:
    start = time.process_time()
    answers = engine.predict(embedding, prompts)
    return answers, 1000 * (time.process_time() - start)


def _ranked_first(answer: Prediction) -> Mask | None:
    return max(answer.masks, key=lambda mask: mask.predicted_iou, default=None)


def _predicted(mask: Mask | None) -> float:
    return 0.0 if mask is None else mask.predicted_iou


def _best_iou(answer: Prediction, o: _Object) -> float:
    return max((_iou(mask, o) for mask in answer.masks), default=0.0)


def _iou(mask: Mask | None, o: _Object) -> float:
    """0 for no mask."""
    if mask is None:
        return 0.0
    x, y, width, height = mask.bbox_xywh
    left, top = max(x, o.x), max(y, o.y)
    right, bottom = min(x + width, o.x + o.pixels.shape[1]), min(y + height, o.y + o.pixels.shape[0])
    if left >= right or top >= bottom:
        return 0.0
    ours = mask.pixels[top - y : bottom - y, left - x : right - x]
    theirs = o.pixels[top - o.y : bottom - o.y, left - o.x : right - o.x]
    common = np.count_nonzero(ours & theirs)
    return float(common / (mask.area + np.count_nonzero(o.pixels) - common))
