"""Pixels to micrometres."""

import math

import pytest

from sam_engine.calibration import calibrate
from sam_engine.distribution import size_statistics
from sam_engine.errors import InvalidInput
from sam_engine.shape import Shape
from tests.measured import fake


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
