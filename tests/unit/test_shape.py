"""Shapes against analytic figures, degenerate masks, and invariances.

Tolerances on drawn shapes are the largest errors of the tables in docs/measurement.md, rounded up by at
most a half: they fail for the estimators that those tables reject.
"""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sam_engine.errors import InvalidInput
from sam_engine.measure import measure
from sam_engine.shape import measure_shape
from sam_engine.types import Mask
from tests.measured import make_mask

# Not (0, 0): there a disc of whole radius gains four single pixels; almost no random centre does that.
SUBPIXEL_CENTRES = [(0.13, 0.27), (0.5, 0.5), (0.31, -0.17), (-0.42, 0.08)]
PIXELS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(lambda a: a.any())


def shape_of(pixels):
    return measure_shape(make_mask(pixels))


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
