"""Border weights against counted places and scattered discs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_engine.border import border_weights, mask_border_weights
from sam_engine.errors import InvalidInput
from sam_engine.sizing import size_distribution
from sam_engine.types import Mask

SIZE = (100, 120)


def test_weight_by_hand():
    assert border_weights([(3, 4, 20, 10)], SIZE) == pytest.approx([120 * 100 / (99 * 89)])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_weights_of_all_places_add_up_to_all_places(width, height, w, h):
    """Over every place of its corner in the picture, an object counts as often as there are places."""
    inside = [(x, y, w, h) for x in range(width - w + 1) for y in range(height - h + 1)]
    total = border_weights(inside, (height, width)).sum()
    assert total == pytest.approx(width * height if w <= width - 2 and h <= height - 2 else 0)


@pytest.mark.parametrize("box", [(0, 5, 4, 4), (5, 0, 4, 4), (116, 5, 4, 4), (5, 96, 4, 4), (0, 0, 120, 100)])
def test_what_touches_has_no_weight(box):
    assert border_weights([box], SIZE).tolist() == [0]


def test_one_pixel_from_every_edge_counts():
    assert border_weights([(1, 1, 118, 98)], SIZE) == pytest.approx([120 * 100])


def test_masks_weigh_as_their_boxes():
    masks = [Mask(np.ones((4, 5), dtype=bool), origin, SIZE, 1.0, 1.0) for origin in ((0, 9), (30, 40))]
    assert mask_border_weights(masks).tolist() == border_weights([m.bbox_xywh for m in masks], SIZE).tolist()
    assert mask_border_weights([]).shape == border_weights([], SIZE).shape == (0,)


@pytest.mark.parametrize(
    ("boxes", "size", "field"),
    [
        ([(1, 1, 2, 2), (119, 1, 2, 2)], SIZE, "boxes_xywh[1]"),
        ([(-1, 1, 2, 2)], SIZE, "boxes_xywh[0]"),
        ([(1, 1, 0, 2)], SIZE, "boxes_xywh[0]"),
        ([(1, 1, 2.5, 2)], SIZE, "boxes_xywh[0]"),
        ([(1, 1, math.nan, 2)], SIZE, "boxes_xywh[0]"),
        ([(1, 1, math.inf, 2)], SIZE, "boxes_xywh[0]"),
        ([(1, 1, 2)], SIZE, "boxes_xywh"),
        (["abcd"], SIZE, "boxes_xywh"),
        ([], (0, 5), "image_size"),
    ],
)
def test_bad_input_is_named(boxes, size, field):
    with pytest.raises(InvalidInput) as error:
        border_weights(boxes, size)
    assert error.value.field == field


def scattered(radius, count, seed):
    """First and last columns and rows of discs, as pixel centres draw them, whose centres lie in and about SIZE."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-50, SIZE[1] + 50, count)
    y = rng.uniform(-50, SIZE[0] + 50, count)
    half_x = np.sqrt(radius**2 - (y - np.round(y)) ** 2)
    half_y = np.sqrt(radius**2 - (x - np.round(x)) ** 2)
    return [np.ceil(x - half_x), np.floor(x + half_x), np.ceil(y - half_y), np.floor(y + half_y)]


def boxes_inside(radius, count, seed):
    left, right, top, bottom = scattered(radius, count, seed)
    inside = (left > 0) & (right < SIZE[1] - 1) & (top > 0) & (bottom < SIZE[0] - 1)
    return np.stack([left, top, right - left + 1, bottom - top + 1], axis=1)[inside]


def test_a_window_on_a_plane_of_two_sizes():
    """As many large as small discs lie on the plane; a window shows a third as many, and the weights mend that.

    The number of discs resolves one pixel more or less in the formula: 3.5 % of the large ones.
    """
    count = 1_000_000
    small, large = boxes_inside(4, count, 1), boxes_inside(25, count, 2)
    assert len(large) / len(small) == pytest.approx(0.33, abs=0.02)
    corrected = border_weights(large, SIZE).sum() / border_weights(small, SIZE).sum()
    assert corrected == pytest.approx(1, abs=0.01)
    expected = count * SIZE[0] * SIZE[1] / ((SIZE[0] + 100) * (SIZE[1] + 100))
    assert border_weights(large, SIZE).sum() == pytest.approx(expected, rel=0.01)


def test_weights_mend_a_size_distribution():
    boxes = [boxes_inside(radius, 4000, radius) for radius in (4, 8, 16, 24)]
    diameters = np.repeat([8.0, 16.0, 32.0, 48.0], [len(b) for b in boxes])
    weights = border_weights(np.concatenate(boxes), SIZE)
    assert size_distribution(diameters, resamples=0).mean.value < 23
    assert size_distribution(diameters, weights=weights, resamples=0).mean.value == pytest.approx(
        26, rel=0.04
    )
