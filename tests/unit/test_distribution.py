"""Size distribution and intensity classes against cases worked by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_engine.distribution import intensity_classes, size_statistics, summarise
from sam_engine.errors import InvalidInput
from tests.measured import fake


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
