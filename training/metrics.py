"""How well predicted masks agree with a true label map: of one picture, and of many together.

Predicted masks may overlap; true objects may not. What counts and what does not:

- Objects that the picture's edge cuts count like all others.
- True objects of fewer than `MIN_OBJECT_PX` pixels, and inclusions (objects inside objects), are neither
  asked for nor wrong: a prediction whose IoU with one exceeds 0.5 is left out, as is a prediction below that
  size, unless it matches a true object that does count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from sam_engine.errors import InvalidInput
from sam_engine.masks import FRAME, crop
from sam_engine.types import BoolArray, Mask

Labels = NDArray[np.int32]
IntArray = NDArray[np.int64]
Float64Array = NDArray[np.float64]

MIN_OBJECT_PX = 4
LOOSE, STRICT = 0.5, 0.75
SIZE_CLASSES = ("below 15 px", "15 to 40 px", "above 40 px")
SIZE_BOUNDS = (15.0, 40.0)  # equivalent diameters in the 1024-pixel frame
RECALL_LEVELS = np.linspace(0, 1, 101)  # COCO's


@dataclass(frozen=True, eq=False, slots=True)
class Truth:
    """What is in a picture.

    Attributes:
        labels: (H, W), 0 for background; the objects to be found.
        inclusions: (H, W) or None; objects inside objects, which nobody is asked to find.
    """

    labels: Labels
    inclusions: Labels | None = None


class Overlaps(NamedTuple):
    """Every pair of a true object and a prediction that share a pixel, K of them.

    Attributes:
        labels: (T,) numbers of the true objects.
        true_areas, predicted_areas: (T,) and (P,) in pixels.
        true, predicted: (K,) indices of the pair.
        iou: (K,).
    """

    labels: IntArray
    true_areas: IntArray
    predicted_areas: IntArray
    true: IntArray
    predicted: IntArray
    iou: Float64Array


@dataclass(frozen=True, slots=True)
class PictureScore:
    """One picture. Relative errors are signed percentages of the true value, None where it has none.

    Attributes:
        objects, predictions: that count.
        matched, false: at IoU 0.5, and `_strict` at 0.75.
        matched_iou: sum over the pairs matched at 0.5.
        size_objects, size_matched: by the true diameter, in the order of `SIZE_CLASSES`.
        cv_error: difference of the coefficients of variation of the diameters, in percentage points.
    """

    name: str
    objects: int
    predictions: int
    matched: int
    false: int
    matched_strict: int
    false_strict: int
    matched_iou: float
    size_objects: tuple[int, int, int]
    size_matched: tuple[int, int, int]
    count_error: float | None
    mean_diameter_error: float | None
    cv_error: float | None
    d32_error: float | None


@dataclass(frozen=True, eq=False, slots=True)
class Ranking:
    """Predictions of one picture for average precision: scores, whether each is a match, and the objects."""

    scores: Float64Array
    correct: BoolArray
    objects: int


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Errors of single pictures: their centre (signed) and their size (absolute).

    Attributes:
        pictures: that have a value; the others are None without any.
    """

    pictures: int
    median: float | None = None
    mean: float | None = None
    absolute_median: float | None = None
    absolute_mean: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Many pictures: shares of pooled counts; None where nothing was counted."""

    pictures: int
    objects: int
    precision: float | None
    recall: float | None
    f1: float | None
    precision_strict: float | None
    recall_strict: float | None
    f1_strict: float | None
    false_per_picture: float | None
    matched_iou: float | None
    recall_by_size: dict[str, float | None]
    average_precision: float | None
    count_error: ErrorSummary
    mean_diameter_error: ErrorSummary
    cv_error: ErrorSummary
    d32_error: ErrorSummary


def masks_of_labels(labels: Labels) -> list[Mask]:
    """One mask for each number of a label map but 0, with scores of 0."""
    height, width = labels.shape
    masks = []
    for number, window in enumerate(find_objects(labels), start=1):
        found = None if window is None else crop(labels[window] == number)
        if window is not None and found is not None:
            pixels, (x, y) = found
            origin = (window[1].start + x, window[0].start + y)
            masks.append(Mask(pixels, origin, (height, width), 0.0, 0.0))
    return masks


def overlaps(labels: Labels, masks: Sequence[Mask]) -> Overlaps:
    """IoU of every pair that shares a pixel; time grows with the pixels of the masks, not with all pairs.

    Raises:
        InvalidInput: a mask is of another picture size.
    """
    counts = np.bincount(labels.ravel())
    numbers = np.flatnonzero(counts[1:]) + 1
    index = np.full(len(counts), -1)
    index[numbers] = np.arange(len(numbers))
    rows, areas, shared = [], [], []
    for i, mask in enumerate(masks):
        if mask.image_size != labels.shape:
            raise InvalidInput(f"masks[{i}]", f"is of a picture of {mask.image_size}, not of {labels.shape}")
        inside = np.bincount(labels[mask.window][mask.pixels])
        areas.append(int(inside.sum()))
        rows.append(np.flatnonzero(inside[1:]) + 1)
        shared.append(inside[rows[-1]])
    predicted = np.repeat(np.arange(len(masks)), [len(row) for row in rows])
    true = index[_joined(rows)]
    true_areas, predicted_areas = counts[numbers], np.array(areas, dtype=np.int64)
    common = _joined(shared)
    iou = common / (true_areas[true] + predicted_areas[predicted] - common)
    return Overlaps(numbers, true_areas, predicted_areas, true, predicted, iou)


def match(found: Overlaps, threshold: float) -> tuple[IntArray, IntArray, Float64Array]:
    """One-to-one pairs with IoU > threshold: true indices, predicted indices, IoU.

    Above 0.5 a prediction can exceed the threshold with one true object at most, since these do not overlap
    (Kirillov et al. 2019, Panoptic Segmentation): the best prediction of each true object is then the same
    as the optimal assignment.

    Raises:
        InvalidInput: the threshold is below 0.5, where that does not hold, or not below 1.
    """
    if not LOOSE <= threshold < 1:
        raise InvalidInput("threshold", f"={threshold} must be at least 0.5 and below 1")
    good = np.flatnonzero(found.iou > threshold)
    order = good[np.lexsort((-found.iou[good], found.true[good]))]
    _, first = np.unique(found.true[order], return_index=True)
    best = order[first]
    return found.true[best], found.predicted[best], found.iou[best]


def score_picture(name: str, truth: Truth, masks: Sequence[Mask]) -> tuple[PictureScore, Ranking]:
    """Compare the masks predicted for one picture with what is there.

    Raises:
        InvalidInput: a mask is of another picture size.
    """
    found = overlaps(truth.labels, masks)
    asked = found.true_areas >= MIN_OBJECT_PX
    ignorable = _ignorable(found, truth, masks)
    counted = _without(found, ~asked)
    true, predicted, iou = match(counted, LOOSE)
    _, predicted_strict, _ = match(counted, STRICT)
    kept, kept_strict = ~ignorable, ~ignorable
    kept[predicted], kept_strict[predicted_strict] = True, True
    true_diameters = equivalent_diameters(found.true_areas)
    classes = np.digitize(true_diameters * FRAME / max(truth.labels.shape), SIZE_BOUNDS)
    sizes, expected = equivalent_diameters(found.predicted_areas[kept]), true_diameters[asked]
    score = PictureScore(
        name=name,
        objects=len(expected),
        predictions=len(sizes),
        matched=len(true),
        false=len(sizes) - len(true),
        matched_strict=len(predicted_strict),
        false_strict=int(kept_strict.sum()) - len(predicted_strict),
        matched_iou=float(iou.sum()),
        size_objects=_count_classes(classes[asked]),
        size_matched=_count_classes(classes[true]),
        count_error=_relative_error(len(sizes), len(expected)),
        mean_diameter_error=_relative_error(_mean(sizes), _mean(expected)),
        cv_error=_cv_error(sizes, expected),
        d32_error=_relative_error(_sauter(sizes), _sauter(expected)),
    )
    return score, _ranking(counted, masks, ignorable, len(expected))


def equivalent_diameters(areas: IntArray) -> Float64Array:
    """Diameters of the discs of these areas, in pixels."""
    diameters: Float64Array = np.sqrt(areas * (4 / math.pi))
    return diameters


def average_precision(rankings: Sequence[Ranking]) -> float | None:
    """AP at IoU 0.5 over all pictures together, by COCO's 101-point interpolation; None without objects.

    As COCO's except that IoU must exceed 0.5 instead of reaching it, and that any number of predictions
    counts, not the best hundred of a picture.
    """
    objects = sum(ranking.objects for ranking in rankings)
    if not objects:
        return None
    scores = np.concatenate([ranking.scores for ranking in rankings])
    correct = np.concatenate([ranking.correct for ranking in rankings])
    found = np.cumsum(correct[np.argsort(-scores, kind="stable")])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(found / objects, RECALL_LEVELS, side="left")
    return float(np.append(envelope, 0.0)[place].mean())


def summarise(pictures: Sequence[PictureScore], rankings: Sequence[Ranking] | None = None) -> Summary:
    """Figures of a group of pictures.

    Args:
        rankings: for average precision; None for a method whose predictions have no scores.
    """
    total = {name: sum(getattr(p, name) for p in pictures) for name in _COUNTS}
    loose = _shares(total["matched"], total["false"], total["objects"])
    strict = _shares(total["matched_strict"], total["false_strict"], total["objects"])
    in_class = np.array([p.size_objects for p in pictures]).reshape(-1, 3).sum(axis=0).tolist()
    found = np.array([p.size_matched for p in pictures]).reshape(-1, 3).sum(axis=0).tolist()
    return Summary(
        pictures=len(pictures),
        objects=total["objects"],
        precision=loose[0],
        recall=loose[1],
        f1=loose[2],
        precision_strict=strict[0],
        recall_strict=strict[1],
        f1_strict=strict[2],
        false_per_picture=_share(total["false"], len(pictures)),
        matched_iou=_share(sum(p.matched_iou for p in pictures), total["matched"]),
        recall_by_size={c: _share(f, n) for c, f, n in zip(SIZE_CLASSES, found, in_class, strict=True)},
        average_precision=None if rankings is None else average_precision(rankings),
        count_error=summarise_errors([p.count_error for p in pictures]),
        mean_diameter_error=summarise_errors([p.mean_diameter_error for p in pictures]),
        cv_error=summarise_errors([p.cv_error for p in pictures]),
        d32_error=summarise_errors([p.d32_error for p in pictures]),
    )


def summarise_errors(errors: Sequence[float | None]) -> ErrorSummary:
    """Centre and size of the errors of pictures that have one."""
    known = np.array([error for error in errors if error is not None])
    if not len(known):
        return ErrorSummary(0)
    return ErrorSummary(
        pictures=len(known),
        median=float(np.median(known)),
        mean=float(known.mean()),
        absolute_median=float(np.median(np.abs(known))),
        absolute_mean=float(np.abs(known).mean()),
    )


_COUNTS = ("objects", "matched", "false", "matched_strict", "false_strict")


def _ignorable(found: Overlaps, truth: Truth, masks: Sequence[Mask]) -> BoolArray:
    """(P,): predictions that are too small, or that match what nobody is asked to find."""
    ignorable: BoolArray = found.predicted_areas < MIN_OBJECT_PX
    tiny = (found.true_areas < MIN_OBJECT_PX)[found.true]
    ignorable[found.predicted[tiny & (found.iou > LOOSE)]] = True
    if truth.inclusions is not None:
        inside = overlaps(truth.inclusions, masks)
        ignorable[inside.predicted[inside.iou > LOOSE]] = True
    return ignorable


def _without(found: Overlaps, ignored: BoolArray) -> Overlaps:
    """The pairs of true objects that are not ignored; indices stay."""
    kept = ~ignored[found.true]
    return found._replace(true=found.true[kept], predicted=found.predicted[kept], iou=found.iou[kept])


def _ranking(counted: Overlaps, masks: Sequence[Mask], ignorable: BoolArray, objects: int) -> Ranking:
    """Of several predictions of one object, that with the highest score is the match."""
    scores = np.array([mask.predicted_iou for mask in masks], dtype=np.float64)
    good = counted.iou > LOOSE
    true, predicted = counted.true[good], counted.predicted[good]
    order = np.lexsort((predicted, -scores[predicted], true))
    _, first = np.unique(true[order], return_index=True)
    correct = np.zeros(len(masks), dtype=bool)
    correct[predicted[order][first]] = True
    kept = ~ignorable | correct
    return Ranking(scores[kept], correct[kept], objects)


def _joined(parts: Sequence[NDArray[np.int64]]) -> IntArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _count_classes(classes: IntArray) -> tuple[int, int, int]:
    small, medium, large = np.bincount(classes, minlength=3).tolist()
    return small, medium, large


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _shares(matched: int, false: int, objects: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 = 2 matched / (predictions + objects)."""
    predictions = matched + false
    return _share(matched, predictions), _share(matched, objects), _share(2 * matched, predictions + objects)


def _relative_error(value: float | None, true_value: float | None) -> float | None:
    """In percent of the true value."""
    if value is None or not true_value:
        return None
    return 100 * (value - true_value) / true_value


def _mean(diameters: Float64Array) -> float | None:
    return float(diameters.mean()) if len(diameters) else None


def _sauter(diameters: Float64Array) -> float | None:
    """Sauter mean diameter D[3,2] = sum d^3 / sum d^2 (ISO 9276-2)."""
    return float((diameters**3).sum() / (diameters**2).sum()) if len(diameters) else None


def _cv_error(diameters: Float64Array, true_diameters: Float64Array) -> float | None:
    """In percentage points; the standard deviation is that of a sample and needs two objects."""
    if min(len(diameters), len(true_diameters)) < 2:
        return None
    cv, true_cv = (d.std(ddof=1) / d.mean() for d in (diameters, true_diameters))
    return float(100 * (cv - true_cv))
