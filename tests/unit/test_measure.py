"""Intensities, distances to the edge, and whole pictures, against cases worked by hand."""

import numpy as np
import pytest

from sam_engine.errors import InvalidInput
from sam_engine.measure import EdgeDistance, image_statistics, measure
from tests.measured import make_mask

# --- intensity ---


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_intensity_by_hand(dtype):
    scale = {np.uint8: 1, np.uint16: 1000, np.float32: 0.25}[dtype]
    picture = (np.array([[1, 2, 3], [4, 5, 6], [7, 8, 60]]) * scale).astype(dtype)
    plus = make_mask([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    intensity = measure(plus, picture).intensity
    assert intensity.mean == pytest.approx(5 * scale)
    assert (intensity.min, intensity.max, intensity.median) == (2 * scale, 8 * scale, 5 * scale)
    assert intensity.std == pytest.approx(2 * scale)  # sqrt((9 + 1 + 0 + 1 + 9) / 5)
    assert intensity.pixel_count == 5


def test_median_of_an_even_count_is_the_middle_of_two():
    assert measure(make_mask([[1, 1]]), np.array([[3, 8]], dtype=np.uint8)).intensity.median == 5.5


def test_sixteen_bit_values_do_not_overflow():
    picture = np.full((300, 300), 65535, dtype=np.uint16)
    intensity = measure(make_mask(np.ones((300, 300))), picture).intensity
    assert (intensity.mean, intensity.std) == (65535.0, 0.0)


def test_float_values_are_summed_in_double_precision():
    picture = np.tile(np.array([16777214, 16777215], dtype=np.float32), (100, 50))
    intensity = measure(make_mask(np.ones((100, 100))), picture).intensity
    assert (intensity.mean, intensity.std, intensity.median) == (16777214.5, 0.5, 16777214.5)


@pytest.mark.parametrize("size", [(3, 4), (4, 3), (3, 3, 3)])
def test_picture_of_another_size_is_refused(size):
    with pytest.raises(InvalidInput, match=r"intensity_image has shape .*\(3, 3\)"):
        measure(make_mask(np.ones((3, 3))), np.zeros(size, dtype=np.uint8))


def test_picture_that_is_not_finite_is_refused():
    with pytest.raises(InvalidInput, match="must be finite"):
        measure(make_mask([[1, 1]]), np.array([[1.0, np.nan]], dtype=np.float32))


# --- edges ---


def test_distance_to_each_edge():
    edge = measure(make_mask(np.ones((3, 4)), (5, 2), (20, 30)), np.zeros((20, 30), np.uint8)).edge
    assert edge == EdgeDistance(top=2, bottom=15, left=5, right=21)
    assert (edge.minimum, edge.touches, edge.touching_sides) == (2, False, ())


@pytest.mark.parametrize(
    ("origin_xy", "sides"),
    [
        ((3, 0), ("top",)),
        ((3, 8), ("bottom",)),
        ((0, 3), ("left",)),
        ((7, 3), ("right",)),
        ((0, 0), ("top", "left")),
        ((7, 8), ("bottom", "right")),
    ],
)
def test_touching_sides(origin_xy, sides):
    edge = measure(make_mask(np.ones((2, 3)), origin_xy, (10, 10)), np.zeros((10, 10), np.uint8)).edge
    assert (edge.minimum, edge.touches, edge.touching_sides) == (0, True, sides)


# --- whole pictures ---


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_image_statistics_of_integers_span_the_type(dtype, top):
    stats = image_statistics(np.array([[0, 0, 0], [0, top // 2, top]], dtype=dtype))
    assert stats.histogram_range == (0, top)
    assert len(stats.histogram) == 50
    assert (stats.histogram[0], stats.histogram[24], stats.histogram[49]) == (4, 1, 1)
    assert (stats.min, stats.max, stats.median) == (0, top, 0)
    assert stats.mean == pytest.approx((top // 2 + top) / 6)
    assert stats.std == pytest.approx(np.std([0.0, 0, 0, 0, top // 2, top]))


def test_histogram_of_a_dark_picture_still_spans_the_type():
    stats = image_statistics(np.array([[0, 10]], dtype=np.uint8))
    assert stats.histogram_range == (0, 255)
    assert (stats.histogram[0], stats.histogram[1], sum(stats.histogram)) == (1, 1, 2)


def test_image_statistics_of_floats_span_the_data():
    stats = image_statistics(np.array([[-1.0, 0.0], [0.5, 4.0]], dtype=np.float32))
    assert stats.histogram_range == (-1, 4)
    assert (stats.histogram[0], stats.histogram[10], stats.histogram[15], stats.histogram[49]) == (1, 1, 1, 1)
    assert stats.median == 0.25


def test_constant_float_picture_has_one_full_bin():
    stats = image_statistics(np.full((3, 3), 2.5, dtype=np.float32))
    assert (stats.std, max(stats.histogram), sum(stats.histogram)) == (0, 9, 9)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.zeros((2, 2), np.int32),
        np.array([[1.0, np.inf]], np.float32),
        np.array([[1.0, np.nan]], np.float32),
    ],
)
def test_unfit_picture_is_refused(picture):
    with pytest.raises(InvalidInput) as error:
        image_statistics(picture)
    assert error.value.field == "intensity_image"
