"""Agreement of masks and label maps, against cases counted by hand and against pycocotools."""

import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from sam_engine.errors import InvalidInput
from sam_engine.types import Mask
from training.metrics import (
    Ranking,
    Truth,
    average_precision,
    masks_of_labels,
    match,
    overlaps,
    score_picture,
    summarise,
    summarise_errors,
)

SIZE = (60, 80)
Box = tuple[int, int, int, int]


def label_map(*boxes: Box, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Object i + 1 fills box i, (x, y, width, height)."""
    labels = np.zeros(size, dtype=np.int32)
    for number, (x, y, w, h) in enumerate(boxes, start=1):
        labels[y : y + h, x : x + w] = number
    return labels


def block(box: Box, score: float = 0.9, size: tuple[int, int] = SIZE) -> Mask:
    x, y, w, h = box
    return Mask(np.ones((h, w), dtype=bool), (x, y), size, score, 1.0)


def scored(labels: np.ndarray, masks: list[Mask], inclusions: np.ndarray | None = None):
    return score_picture("a", Truth(labels, inclusions), masks)[0]


SQUARES = ((0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10))


def test_every_label_becomes_a_mask():
    labels = label_map(*SQUARES)
    labels[labels == 2] = 900
    masks = masks_of_labels(labels)
    assert len(masks) == 3
    for mask, number in zip(masks, (1, 3, 900), strict=True):
        assert np.array_equal(mask.full(), labels == number)
        assert mask.pixels.shape == (10, 10)
    assert masks_of_labels(np.zeros(SIZE, np.int32)) == []


@pytest.mark.parametrize("shift", range(11))
def test_iou_of_shifted_squares(shift):
    found = overlaps(label_map((10, 10, 10, 10)), [block((10 + shift, 10, 10, 10))])
    expected = [] if shift == 10 else [(10 - shift) / (10 + shift)]
    assert found.iou.tolist() == pytest.approx(expected)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 8))
def test_iou_is_that_of_full_masks(seed, objects, predictions):
    rng = np.random.default_rng(seed)
    labels, masks = random_picture(rng, objects, predictions)
    found = overlaps(labels, masks)
    numbers = [n for n in np.unique(labels) if n]
    assert found.labels.tolist() == numbers
    table = np.zeros((len(numbers), len(masks)))
    table[found.true, found.predicted] = found.iou
    for i, number in enumerate(numbers):
        for j, mask in enumerate(masks):
            a, b = labels == number, mask.full()
            assert table[i, j] == pytest.approx(np.count_nonzero(a & b) / np.count_nonzero(a | b))


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.6, 0.75]))
def test_matching_is_the_optimal_assignment(seed, threshold):
    """Of the Hungarian method on the full table; predictions overlap each other at will."""
    labels, masks = random_picture(np.random.default_rng(seed), 5, 10)
    found = overlaps(labels, masks)
    table = np.zeros((len(found.labels), len(masks)))
    table[found.true, found.predicted] = found.iou
    wanted = np.where(table > threshold, 1 + table, 0)
    rows, columns = linear_sum_assignment(wanted, maximize=True)
    best = wanted[rows, columns]
    true, predicted, iou = match(found, threshold)
    assert len(set(true.tolist())) == len(set(predicted.tolist())) == len(true)
    assert len(true) == np.count_nonzero(best)
    assert iou.sum() == pytest.approx((best[best > 0] - 1).sum())


def random_picture(rng: np.random.Generator, objects: int, predictions: int) -> tuple[np.ndarray, list[Mask]]:
    """Boxes that may hide one another, and masks near them."""
    boxes = [(*rng.integers(0, 45, 2), *rng.integers(4, 15, 2)) for _ in range(objects)]
    labels = label_map(*boxes) * 3
    masks = []
    for _ in range(predictions):
        near = boxes[rng.integers(objects)] if objects else (20, 20, 9, 9)
        x, y, w, h = (int(max(1, v + rng.integers(-2, 3))) for v in near)
        score = round(float(rng.random()), 2)
        masks.append(block((x, y, min(w, 80 - x), min(h, 60 - y)), score))
    return labels, masks


def test_a_threshold_below_one_half_has_no_unique_matching():
    found = overlaps(label_map(*SQUARES), [])
    for threshold in (0.49, 1.0, math.nan):
        with pytest.raises(InvalidInput, match="threshold"):
            match(found, threshold)


def test_a_mask_of_another_picture_is_refused():
    with pytest.raises(InvalidInput, match=r"masks\[1\]"):
        overlaps(label_map(*SQUARES), [block(SQUARES[0]), block(SQUARES[0], size=(60, 81))])


def test_a_perfect_answer():
    labels = label_map((0, 0, 10, 10), (20, 0, 12, 12), (40, 0, 15, 15))
    score = scored(labels, masks_of_labels(labels))
    assert (score.objects, score.predictions, score.matched, score.false) == (3, 3, 3, 0)
    assert (score.matched_strict, score.false_strict, score.matched_iou) == (3, 0, 3)
    errors = (score.count_error, score.mean_diameter_error, score.cv_error, score.d32_error)
    assert errors == (0, 0, 0, 0)
    summary = summarise([score])
    assert (summary.precision, summary.recall, summary.f1, summary.f1_strict) == (1, 1, 1, 1)


def test_counts_by_hand():
    """One exact, one at IoU 0.6, one missed; two masks are nowhere; one object is found twice."""
    masks = [
        block(SQUARES[0]),
        block((0, 0, 10, 9)),
        block((20, 0, 10, 6)),
        block((0, 30, 5, 5)),
        block((60, 30, 9, 9)),
    ]
    score = scored(label_map(*SQUARES), masks)
    assert (score.objects, score.predictions) == (3, 5)
    assert (score.matched, score.false, score.matched_iou) == (2, 3, pytest.approx(1.6))
    assert (score.matched_strict, score.false_strict) == (1, 4)
    assert score.count_error == pytest.approx(100 * 2 / 3)
    summary = summarise([score])
    assert (summary.precision, summary.recall, summary.f1) == (2 / 5, 2 / 3, pytest.approx(4 / 8))
    assert (summary.precision_strict, summary.recall_strict, summary.f1_strict) == (1 / 5, 1 / 3, 2 / 8)
    assert (summary.matched_iou, summary.false_per_picture) == (pytest.approx(0.8), 3)


def test_an_object_in_two_halves_counts_for_none():
    halves = [block((0, 0, 10, 5)), block((0, 5, 10, 5))]
    assert (scored(label_map(SQUARES[0]), halves).matched, scored(label_map(SQUARES[0]), halves).false) == (
        0,
        2,
    )


def test_two_objects_as_one_count_for_none():
    both = [block((0, 0, 20, 10))]
    score = scored(label_map((0, 0, 10, 10), (10, 0, 10, 10)), both)
    assert (score.matched, score.false) == (0, 1)


def test_objects_at_the_edge_count():
    score = scored(label_map((0, 0, 3, 3), (77, 57, 3, 3)), [block((77, 57, 3, 3))])
    assert (score.objects, score.matched) == (2, 1)


def test_errors_of_size_by_hand():
    """Squares of 10 and 20 found as 11 and 22 wide: every diameter is 10 % too large, the spread is the same."""
    labels = label_map((0, 0, 10, 10), (30, 0, 20, 20))
    score = scored(labels, [block((0, 0, 11, 11)), block((30, 0, 22, 22))])
    assert (score.mean_diameter_error, score.d32_error) == (pytest.approx(10), pytest.approx(10))
    assert (score.cv_error, score.count_error) == (pytest.approx(0, abs=1e-9), 0)


def test_a_missed_object_shifts_the_sizes():
    """Diameters k, 2k, 3k of which the largest is missed: mean 2 -> 1.5, D[3,2] 36/14 -> 9/5, CV 1/2 -> sqrt(2)/3."""
    boxes = ((0, 0, 8, 8), (20, 0, 16, 16), (40, 0, 24, 24))
    score = scored(label_map(*boxes), [block(boxes[0]), block(boxes[1])])
    assert score.mean_diameter_error == pytest.approx(-25)
    assert score.d32_error == pytest.approx(100 * (9 / 5 / (36 / 14) - 1))
    assert score.cv_error == pytest.approx(100 * (math.sqrt(2) / 3 - 0.5))


def test_nothing_to_find():
    empty = np.zeros(SIZE, np.int32)
    score = scored(empty, [block(SQUARES[0])])
    assert (score.objects, score.predictions, score.false) == (0, 1, 1)
    assert (score.count_error, score.mean_diameter_error, score.cv_error, score.d32_error) == (None,) * 4
    summary = summarise([score, scored(empty, [])])
    assert (summary.precision, summary.recall, summary.f1, summary.false_per_picture) == (0, None, 0, 0.5)
    assert summarise([scored(empty, [])]).f1 is None


def test_nothing_found():
    score = scored(label_map(*SQUARES), [])
    assert (score.count_error, score.mean_diameter_error, score.cv_error) == (-100, None, None)
    summary = summarise([score], [score_picture("a", Truth(label_map(*SQUARES)), [])[1]])
    assert (summary.precision, summary.recall, summary.f1, summary.average_precision) == (None, 0, 0, 0)


def test_no_pictures():
    summary = summarise([], [])
    assert (summary.pictures, summary.f1, summary.average_precision, summary.false_per_picture) == (
        0,
        None,
        None,
        None,
    )
    assert set(summary.recall_by_size.values()) == {None}


def test_one_object_has_no_spread():
    assert scored(label_map(SQUARES[0]), [block(SQUARES[0])]).cv_error is None


def test_tiny_objects_are_neither_asked_for_nor_wrong():
    labels = label_map(SQUARES[0], (30, 30, 3, 1), (50, 30, 2, 2))
    found_all = [block(SQUARES[0]), block((30, 30, 3, 1)), block((50, 30, 2, 2))]
    score = scored(labels, found_all)
    assert (score.objects, score.predictions, score.matched, score.false) == (2, 2, 2, 0)
    score = scored(labels, [block(SQUARES[0]), block((30, 30, 4, 1))])  # four pixels on three
    assert (score.predictions, score.false) == (1, 0)
    assert scored(labels, [block((70, 50, 3, 1))]).false == 0  # a speck is left out wherever it lies
    assert scored(labels, [block((70, 50, 4, 1))]).false == 1


def test_a_speck_that_is_most_of_an_object_counts():
    score = scored(label_map((0, 0, 2, 2)), [block((0, 0, 3, 1))])
    assert (score.predictions, score.matched) == (0, 0)  # 2 of 5 pixels
    score = scored(label_map((0, 0, 4, 1)), [block((0, 0, 3, 1))])
    assert (score.predictions, score.matched, score.false) == (1, 1, 0)


def test_inclusions_are_neither_asked_for_nor_wrong():
    labels, inclusions = label_map((0, 0, 20, 20)), label_map((5, 5, 8, 8))
    masks = [block((0, 0, 20, 20)), block((5, 5, 8, 8)), block((30, 30, 8, 8))]
    assert scored(labels, masks).false == 2
    score = scored(labels, masks, inclusions)
    assert (score.objects, score.predictions, score.matched, score.false) == (1, 2, 1, 1)


def test_an_object_filled_by_its_inclusion_is_still_asked_for():
    labels, inclusions = label_map((0, 0, 10, 10)), label_map((0, 0, 10, 9))
    score = scored(labels, [block((0, 0, 10, 9))], inclusions)
    assert (score.objects, score.matched, score.false) == (1, 1, 0)


@pytest.mark.parametrize(("side", "size_class"), [(13, 0), (14, 1), (35, 1), (36, 2)])
def test_size_classes_are_of_the_1024_frame(side, size_class):
    """A square of 13 px has an equivalent diameter of 14.7 px, one of 36 px 40.6 px."""
    for factor in (1, 2):
        size = (100 * factor, 1024 * factor)
        box = (0, 0, side * factor, side * factor)
        score = scored(label_map(box, size=size), [block(box, size=size)])
        expected = tuple(int(i == size_class) for i in range(3))
        assert (score.size_objects, score.size_matched) == (expected, expected)


def test_counts_are_pooled_over_pictures():
    many = scored(label_map(*SQUARES), [block(box) for box in SQUARES])
    missed = scored(label_map(SQUARES[0]), [])
    summary = summarise([many, missed])
    assert (summary.recall, summary.precision, summary.pictures, summary.objects) == (3 / 4, 1, 2, 4)


def test_errors_have_a_centre_and_a_size():
    summary = summarise_errors([-10, None, 4, 0])
    assert (summary.pictures, summary.median, summary.mean) == (3, 0, -2)
    assert (summary.absolute_median, summary.absolute_mean) == (4, pytest.approx(14 / 3))
    assert summarise_errors([None]).median is None


def ranking(scores: list[float], correct: list[int], objects: int) -> Ranking:
    return Ranking(np.array(scores), np.array(correct, dtype=bool), objects)


def test_average_precision_by_hand():
    """Found, wrong, found of 4 objects: precision 1 up to recall 1/4, 2/3 up to 1/2, then 0."""
    expected = (26 * 1 + 25 * 2 / 3) / 101
    assert average_precision([ranking([0.9, 0.8, 0.7], [1, 0, 1], 4)]) == pytest.approx(expected)
    split = [ranking([0.7], [1], 1), ranking([0.9, 0.8], [1, 0], 3)]
    assert average_precision(split) == pytest.approx(expected)


def test_average_precision_of_nothing():
    assert average_precision([]) is None
    assert average_precision([ranking([0.5], [0], 0)]) is None
    assert average_precision([ranking([], [], 3)]) == 0


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_is_that_of_pycocotools(seed):
    """With its area range telling what is too small to count; overlapping predictions, equal scores."""
    rng = np.random.default_rng(seed)
    pictures = [random_picture(rng, int(rng.integers(0, 7)), int(rng.integers(0, 12))) for _ in range(6)]
    pictures.append(
        (label_map(SQUARES[0], (50, 50, 3, 1)), [block((50, 50, 3, 1), 0.95), block((9, 50, 2, 1), 0.99)])
    )
    rankings = [score_picture("a", Truth(labels), masks)[1] for labels, masks in pictures]
    assert average_precision(rankings) == pytest.approx(coco_average_precision(pictures), abs=1e-9)


def coco_average_precision(pictures: list[tuple[np.ndarray, list[Mask]]]) -> float:
    def entry(image: int, pixels: np.ndarray, **more: float) -> dict:
        rle = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        area = int(pixels.sum())
        return {"image_id": image, "category_id": 1, "segmentation": rle, "area": area, "iscrowd": 0, **more}

    truth = [
        entry(i, labels == n) for i, (labels, _) in enumerate(pictures, 1) for n in np.unique(labels) if n
    ]
    found = [
        entry(i, mask.full(), score=mask.predicted_iou)
        for i, (_, masks) in enumerate(pictures, 1)
        for mask in masks
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(pictures) + 1)]
        annotations = [{**a, "id": i} for i, a in enumerate(truth, 1)]
        coco.dataset = {"info": {}, "images": images, "categories": [{"id": 1}], "annotations": annotations}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.iouThrs = np.array([0.5 + 1e-9])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[4, 1e9]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"].mean())


def test_a_thousand_objects_are_compared_in_a_moment():
    """All pairs of full masks would need 10^12 pixels; a wrong algorithm would not end here."""
    size = (1000, 1000)
    boxes = [(x, y, 20, 20) for y in range(0, 1000, 31) for x in range(0, 1000, 31)]
    labels = label_map(*boxes, size=size)
    masks = [block((x + 1, y, 20 - (x > 979), 20), size=size) for x, y, _, _ in boxes]
    masks = [m for m in masks if m.origin_xy[0] + m.pixels.shape[1] <= size[1]]
    masks = [m for m in masks if m.origin_xy[1] + m.pixels.shape[0] <= size[0]]
    score = scored(labels, masks)
    assert score.matched == score.predictions == len(masks) > 900
