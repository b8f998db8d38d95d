"""Measurements against analytic shapes, cases worked by hand, and invariances.

Tolerances on drawn shapes are the largest errors of the tables in docs/measurement.md, rounded up by at
most a half: they fail for the estimators that those tables reject.
"""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sam_engine.errors import InvalidInput
from sam_engine.measure import (
    EdgeDistance,
    Intensity,
    Measurement,
    Shape,
    calibrate,
    image_statistics,
    intensity_classes,
    measure,
    size_statistics,
    summarise,
)
from sam_engine.types import Mask

# Not (0, 0): there a disc of whole radius gains four single pixels; almost no random centre does that.
SUBPIXEL_CENTRES = [(0.13, 0.27), (0.5, 0.5), (0.31, -0.17), (-0.42, 0.08)]
PIXELS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(lambda a: a.any())


def make_mask(pixels, origin_xy=(0, 0), image_size=None):
    """Tight crop of `pixels`, whose first pixel lies at `origin_xy` of the picture."""
    pixels = np.asarray(pixels, dtype=bool)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    crop = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    origin = (origin_xy[0] + int(columns[0]), origin_xy[1] + int(rows[0]))
    return Mask(crop, origin, image_size or pixels.shape, predicted_iou=1.0, stability_score=1.0)


def shape_of(pixels):
    mask = make_mask(pixels)
    return measure(mask, np.zeros(mask.image_size, dtype=np.uint8)).shape


def draw(inside, radius, centre=(0.0, 0.0)):
    """Pixels whose centres satisfy `inside(x, y)`, on a square with room for `radius` around the centre."""
    middle = math.ceil(radius) + 2
    y, x = np.mgrid[: 2 * middle + 1, : 2 * middle + 1]
    return inside(x - middle - centre[0], y - middle - centre[1])


def disc(radius, centre=(0.0, 0.0)):
    return draw(lambda x, y: x**2 + y**2 <= radius**2, radius, centre)


def ellipse(major, minor, degrees, centre=(0.0, 0.0)):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return draw(
        lambda x, y: ((x * c + y * s) / major) ** 2 + ((y * c - x * s) / minor) ** 2 <= 1, major, centre
    )


def square(side, degrees, centre=(0.0, 0.0)):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return draw(lambda x, y: np.maximum(abs(x * c + y * s), abs(y * c - x * s)) <= side / 2, side, centre)


def ellipse_perimeter(major, minor):
    """Ramanujan (1914), second approximation: relative error below 1e-7 at the aspects used here."""
    h = ((major - minor) / (major + minor)) ** 2
    return math.pi * (major + minor) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def fake(diameter=10.0, mean=100.0):
    shape = Shape(79, (0.0, 0.0), diameter, diameter, math.pi * diameter, 1.0, 1.0, 0.0)
    return Measurement(shape, Intensity(mean, mean, mean, 0.0, mean, 79), EdgeDistance(1, 1, 1, 1))


# --- shape: analytic figures ---


@pytest.mark.parametrize("centre", SUBPIXEL_CENTRES)
@pytest.mark.parametrize(
    ("radius", "diameter_tol", "perimeter_tol", "feret_tol", "circularity_tol"),
    [(5, 0.035, 0.035, 0.05, 0.013), (10, 0.01, 0.012, 0.025, 0.013), (20, 0.005, 0.008, 0.013, 0.010),
     (50, 0.0012, 0.005, 0.007, 0.008), (200, 0.0001, 0.004, 0.0025, 0.007)],
)  # fmt: skip
def test_disc(radius, diameter_tol, perimeter_tol, feret_tol, circularity_tol, centre):
    shape = shape_of(disc(radius, centre))
    assert shape.area == pytest.approx(math.pi * radius**2, rel=2 * diameter_tol)
    assert shape.equivalent_diameter == pytest.approx(2 * radius, rel=diameter_tol)
    assert shape.perimeter == pytest.approx(2 * math.pi * radius, rel=perimeter_tol)
    assert shape.max_feret_diameter == pytest.approx(2 * radius, rel=feret_tol)
    assert shape.circularity == pytest.approx(1.0, abs=circularity_tol)
    assert shape.solidity == 1.0


def test_mean_perimeter_of_discs_is_nearly_unbiased():
    rng = np.random.default_rng(7)
    errors = [
        shape_of(disc(12, rng.uniform(-0.5, 0.5, 2))).perimeter / (24 * math.pi) - 1 for _ in range(200)
    ]
    assert abs(np.mean(errors)) < 0.004
    assert np.sqrt(np.mean(np.square(errors))) < 0.005


@pytest.mark.parametrize("centre", SUBPIXEL_CENTRES)
def test_centroid_is_in_pixel_centre_coordinates(centre):
    pixels = disc(20, centre)
    middle = pixels.shape[0] // 2
    assert shape_of(pixels).centroid_xy == pytest.approx((middle + centre[0], middle + centre[1]), abs=0.07)


@pytest.mark.parametrize("degrees", [0, 17, 45, 80])
@pytest.mark.parametrize(("major", "minor"), [(24.5, 16.3), (34.6, 11.5)])
def test_ellipse(major, minor, degrees):
    shape = shape_of(ellipse(major, minor, degrees, centre=(0.3, -0.2)))
    assert shape.area == pytest.approx(math.pi * major * minor, rel=0.01)
    assert shape.perimeter == pytest.approx(ellipse_perimeter(major, minor), rel=0.008)
    assert shape.max_feret_diameter == pytest.approx(2 * major, rel=0.014)
    assert shape.eccentricity == pytest.approx(math.sqrt(1 - (minor / major) ** 2), abs=0.006)
    assert shape.solidity == 1.0


@pytest.mark.parametrize("degrees", [0, 10, 30, 45])
def test_square(degrees):
    side = 88.6
    shape = shape_of(square(side, degrees, centre=(0.2, 0.4)))
    assert shape.area == pytest.approx(side**2, rel=0.015)
    assert shape.perimeter == pytest.approx(4 * side, rel=0.02)
    assert shape.max_feret_diameter == pytest.approx(side * math.sqrt(2), rel=0.025)
    assert shape.circularity == pytest.approx(math.pi / 4, abs=0.03)
    assert shape.solidity == 1.0


def test_concave_object_has_the_solidity_of_its_pixels():
    pixels = np.ones((10, 10), dtype=bool)
    pixels[5:, 5:] = False
    # The hull of the L cuts the missing corner on the diagonal through (9, 4) and (4, 9): ten of the missing
    # twenty-five pixel centres lie on its inner side or on it.
    assert shape_of(pixels).solidity == pytest.approx(75 / 85)


@pytest.mark.parametrize(("width", "height"), [(7, 3), (10, 1), (4, 4), (3, 7)])
def test_eccentricity_of_a_rectangle_is_exact(width, height):
    small, large = sorted((width, height))
    expected = math.sqrt(1 - (small / large) ** 2)
    assert shape_of(np.ones((height, width))).eccentricity == pytest.approx(expected, abs=1e-12)


# --- shape: degenerate masks ---


def test_single_pixel_measures_as_the_disc_of_its_area():
    shape = shape_of([[1]])
    assert (shape.area, shape.solidity, shape.eccentricity) == (1, 1.0, 0.0)
    assert shape.centroid_xy == (0.0, 0.0)
    assert shape.equivalent_diameter == pytest.approx(2 / math.sqrt(math.pi))
    assert shape.max_feret_diameter == pytest.approx(2 / math.sqrt(math.pi), rel=0.002)
    assert shape.perimeter == pytest.approx(2 * math.sqrt(math.pi), rel=0.001)
    assert shape.circularity == pytest.approx(1.0, abs=0.001)


def test_line_of_pixels():
    shape = shape_of(np.ones((1, 40)))
    assert (shape.area, shape.solidity) == (40, 1.0)
    assert shape.centroid_xy == pytest.approx((19.5, 0.0))
    assert shape.max_feret_diameter == pytest.approx(40, rel=0.03)
    assert shape.perimeter == pytest.approx(82, rel=0.05)
    assert shape.circularity == pytest.approx(4 * math.pi * 40 / 82**2, rel=0.1)


def test_diagonal_line_is_one_convex_component():
    shape = shape_of(np.eye(30))
    assert shape.solidity == 1.0
    assert shape.max_feret_diameter == pytest.approx(30 * math.sqrt(2), rel=0.07)
    assert shape.eccentricity > 0.99


def test_hole_lowers_the_area_but_not_the_outer_perimeter():
    outer, hole = disc(20), np.pad(disc(10), 10)
    filled, ring = shape_of(outer), shape_of(outer & ~hole)
    assert ring.area == outer.sum() - hole.sum()
    assert ring.perimeter == pytest.approx(filled.perimeter, rel=1e-12)
    assert ring.max_feret_diameter == pytest.approx(filled.max_feret_diameter, rel=1e-12)
    assert ring.solidity == pytest.approx(ring.area / filled.area)
    assert ring.circularity == pytest.approx(filled.circularity * ring.area / filled.area)


def test_components_add_their_perimeters_and_share_one_feret():
    pair = np.zeros((10, 40), dtype=bool)
    pair[:, :10] = pair[:, 30:] = True
    one, two = shape_of(np.ones((10, 10))), shape_of(pair)
    assert two.area == 200
    assert two.perimeter == pytest.approx(2 * one.perimeter, rel=1e-12)
    assert two.max_feret_diameter == pytest.approx(math.hypot(40, 10), rel=0.06)
    assert two.solidity == 0.5
    assert two.centroid_xy == pytest.approx((19.5, 4.5))


def test_island_in_a_hole_counts_as_a_component():
    ring = disc(20) & ~np.pad(disc(14), 6)
    island = np.pad(disc(6), 14)
    both = shape_of(ring | island)
    assert both.perimeter == pytest.approx(shape_of(ring).perimeter + shape_of(island).perimeter, rel=1e-12)


def test_mask_without_a_pixel_is_refused():
    mask = Mask(np.zeros((2, 2), dtype=bool), (0, 0), (4, 4), 1.0, 1.0)
    with pytest.raises(InvalidInput, match="mask has 0 pixels"):
        measure(mask, np.zeros((4, 4), dtype=np.uint8))


# --- shape: properties of any mask ---


@given(PIXELS)
def test_ranges_of_any_mask(pixels):
    shape = shape_of(pixels)
    assert shape.area == pixels.sum()
    assert 0 < shape.circularity <= 1
    assert 0 < shape.solidity <= 1
    assert 0 <= shape.eccentricity < 1
    # Isodiametric inequality, less the 1 degree step of the directions.
    assert shape.max_feret_diameter >= shape.equivalent_diameter * (1 - 4e-5)
    height, width = make_mask(pixels).pixels.shape
    assert shape.max_feret_diameter <= math.hypot(width, height) * 1.1


@given(PIXELS, st.integers(0, 30), st.integers(0, 30))
def test_translation_moves_the_centroid_and_nothing_else(pixels, dx, dy):
    rows, columns = pixels.shape
    values = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    picture = np.full((50, 50), 60000, dtype=np.uint16)
    picture[dy : dy + rows, dx : dx + columns] = values
    here = measure(make_mask(pixels), values)
    there = measure(make_mask(pixels, (dx, dy), (50, 50)), picture)
    x, y = here.shape.centroid_xy
    assert there.shape.centroid_xy == pytest.approx((x + dx, y + dy))
    assert asdict(there.shape) | {"centroid_xy": None} == asdict(here.shape) | {"centroid_xy": None}
    assert there.intensity == here.intensity


@given(PIXELS, st.integers(1, 3), st.booleans())
def test_quarter_turns_and_mirrors_change_no_size_or_form(pixels, turns, mirror):
    turned = np.rot90(pixels[:, ::-1] if mirror else pixels, turns)
    here, there = asdict(shape_of(pixels)), asdict(shape_of(turned))
    del here["centroid_xy"], there["centroid_xy"]
    assert there == pytest.approx(here, rel=1e-6, abs=1e-6)


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


# --- statistics ---


def test_size_statistics_by_hand():
    sizes = size_statistics([fake(d) for d in (30, 10, 50, 20, 40)])
    assert (sizes.count, sizes.mean, sizes.median, sizes.min, sizes.max) == (5, 30, 30, 10, 50)
    assert (sizes.d10, sizes.d50, sizes.d90) == pytest.approx((14, 30, 46))
    assert sizes.std == pytest.approx(math.sqrt(250))
    assert sizes.cv == pytest.approx(math.sqrt(250) / 30)
    assert sizes.d32 == pytest.approx((1 + 8 + 27 + 64 + 125) * 10 / (1 + 4 + 9 + 16 + 25))


def test_one_object_has_no_spread():
    sizes = size_statistics([fake(12.0)])
    assert (sizes.std, sizes.cv) == (0, 0)
    assert {sizes.mean, sizes.median, sizes.min, sizes.max, sizes.d10, sizes.d50, sizes.d90} == {12.0}
    assert sizes.d32 == pytest.approx(12.0)


@given(st.lists(st.floats(0.5, 500), min_size=1, max_size=40))
def test_order_of_the_statistics(diameters):
    sizes = size_statistics([fake(d) for d in diameters])
    assert sizes.d50 == sizes.median == pytest.approx(np.median(diameters))
    assert sizes.min <= sizes.d10 <= sizes.d50 <= sizes.d90 <= sizes.max
    assert sizes.mean * (1 - 1e-12) <= sizes.d32 <= sizes.max * (1 + 1e-12)


def test_intensity_classes_by_hand():
    objects = [fake(10, 50), fake(20, 100), fake(40, 160)]
    analysis = intensity_classes(objects, 100)
    high, low = analysis.high_intensity, analysis.low_intensity
    assert (analysis.threshold, analysis.overall.count, analysis.overall.fraction) == (100, 3, 1)
    assert (high.count, high.mean_intensity, high.median_intensity, high.mean_diameter) == (2, 130, 130, 30)
    assert (high.min_intensity, high.max_intensity) == (100, 160)
    assert high.std_intensity == pytest.approx(math.sqrt(1800))
    assert high.fraction == pytest.approx(2 / 3)
    assert (low.count, low.mean_intensity, low.std_intensity, low.mean_diameter) == (1, 50, 0, 10)


def test_empty_class_beside_a_full_one():
    low = intensity_classes([fake(mean=100)], 50).low_intensity
    assert (low.count, low.fraction, low.mean_intensity, low.mean_diameter) == (0, 0, None, None)


def test_classes_of_nothing_have_no_fraction():
    analysis = intensity_classes([], 50)
    assert {g.fraction for g in (analysis.overall, analysis.high_intensity, analysis.low_intensity)} == {None}


def test_no_threshold_classifies_nothing():
    summary = summarise([fake(mean=100)])
    analysis = summary.intensity_analysis
    assert (analysis.threshold, analysis.overall.count) == (None, 1)
    assert (analysis.high_intensity.count, analysis.low_intensity.count) == (0, 0)
    assert summary.as_dict()["classification_enabled"] is False


def test_a_threshold_of_zero_is_a_threshold():
    summary = summarise([fake(mean=0.0)], intensity_threshold=0)
    assert summary.as_dict()["classification_enabled"] is True
    assert summary.intensity_analysis.high_intensity.count == 1


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_threshold_that_is_not_finite_is_refused(threshold):
    with pytest.raises(InvalidInput) as error:
        summarise([], intensity_threshold=threshold)
    assert error.value.field == "intensity_threshold"


@pytest.mark.parametrize("threshold", [None, 80.0])
def test_summary_has_the_same_keys_without_objects(threshold):
    full = summarise([fake()], intensity_threshold=threshold).as_dict()
    empty = summarise([], intensity_threshold=threshold).as_dict()
    assert _keys(empty) == _keys(full)
    assert (empty["total_masks"], empty["average_diameter"]) == (0, None)
    assert empty["diameter_stats"]["count"] == 0
    assert {v for k, v in empty["diameter_stats"].items() if k != "count"} == {None}
    assert json.loads(json.dumps(empty, allow_nan=False)) == empty


def test_summary_has_the_keys_of_the_contract():
    answer = summarise([fake(12), fake(14)], intensity_threshold=80).as_dict()
    assert set(answer) == {
        "total_masks", "average_diameter", "diameter_stats", "intensity_analysis", "classification_enabled",
    }  # fmt: skip
    assert set(answer["diameter_stats"]) == {
        "count", "mean", "std", "cv", "median", "min", "max", "d10", "d50", "d90", "d32",
    }  # fmt: skip
    assert set(answer["intensity_analysis"]) == {"threshold", "overall", "high_intensity", "low_intensity"}
    assert (answer["total_masks"], answer["average_diameter"]) == (2, 13)


def _keys(tree):
    return {key: _keys(value) for key, value in tree.items()} if isinstance(tree, dict) else None


# --- calibration ---


def test_calibrated_shape():
    fields = calibrate(0.5).shape(Shape(80, (3.0, 4.0), 10.0, 11.0, 32.0, 0.98, 1.0, 0.1))
    assert fields == {
        "area_um2": 20.0, "equivalent_diameter_um": 5.0, "max_feret_diameter_um": 5.5, "perimeter_um": 16.0,
    }  # fmt: skip


def test_calibrated_sizes():
    pixels = size_statistics([fake(10), fake(30)])
    fields = calibrate(2).sizes(pixels)
    assert set(fields) == {
        "mean_um", "std_um", "median_um", "min_um", "max_um", "d10_um", "d50_um", "d90_um", "d32_um",
    }  # fmt: skip
    assert (fields["mean_um"], fields["min_um"], fields["max_um"]) == (40, 20, 60)
    assert fields["d32_um"] == pytest.approx(2 * pixels.d32)


def test_calibrated_sizes_of_nothing():
    fields = calibrate(2).sizes(size_statistics([]))
    assert len(fields) == 9
    assert set(fields.values()) == {None}


@pytest.mark.parametrize("um_per_px", [0, -0.1, math.nan, math.inf])
def test_scale_out_of_bounds_is_refused(um_per_px):
    with pytest.raises(InvalidInput, match=f"um_per_px {um_per_px} must be finite and > 0") as error:
        calibrate(um_per_px)
    assert error.value.field == "um_per_px"


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
