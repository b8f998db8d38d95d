"""Each filter at its bound, who is blamed for a removal, and the cleaning step."""

import math

import pytest

from sam_engine.measure import EdgeDistance, Intensity, Measurement
from sam_engine.shape import Shape
from service.filters import BOUNDS, judge
from service.schemas import FiltersInput


def fake(
    area=400, circularity=0.9, mean=100.0, median=100.0, std=10.0, least=50.0, most=150.0, edge=(9, 9, 9, 9)
):
    shape = Shape(area, (0.0, 0.0), 2 * math.sqrt(area / math.pi), 20.0, 60.0, circularity, 1.0, 0.0)
    return Measurement(shape, Intensity(mean, least, most, std, median, area), EdgeDistance(*edge))


def removed_by(measurements, named_only=False, **filters):
    return judge(measurements, FiltersInput(**filters), named_only).removed_by


DIAMETER = fake().shape.equivalent_diameter

# filter, its bound, the measurement exactly at the bound, one just beyond it
AT_BOUND = [
    ("area_min", 400, fake(area=400), fake(area=399)),
    ("area_max", 400, fake(area=400), fake(area=401)),
    ("diameter_min", DIAMETER, fake(area=400), fake(area=399)),
    ("diameter_max", DIAMETER, fake(area=400), fake(area=401)),
    ("circularity_min", 0.9, fake(circularity=0.9), fake(circularity=0.899)),
    ("mean_min", 100, fake(mean=100.0), fake(mean=99.9)),
    ("mean_max", 100, fake(mean=100.0), fake(mean=100.1)),
    ("median_min", 100, fake(median=100.0), fake(median=99.9)),
    ("median_max", 100, fake(median=100.0), fake(median=100.1)),
    ("std_min", 10, fake(std=10.0), fake(std=9.9)),
    ("std_max", 10, fake(std=10.0), fake(std=10.1)),
    ("min_threshold", 50, fake(least=50.0), fake(least=49.0)),
    ("max_threshold", 150, fake(most=150.0), fake(most=151.0)),
    ("min_edge_distance", 9, fake(edge=(9, 9, 9, 9)), fake(edge=(9, 9, 8, 9))),
    ("exclude_edge_touching", True, fake(edge=(1, 9, 9, 9)), fake(edge=(9, 9, 9, 0))),
]


@pytest.mark.parametrize(("name", "bound", "at", "beyond"), AT_BOUND, ids=[case[0] for case in AT_BOUND])
def test_filter_keeps_its_bound_and_removes_what_is_beyond(name, bound, at, beyond):
    verdict = judge([at, beyond], FiltersInput(**{name: bound}), named_only=False)
    assert verdict.removed_by == [None, name]
    assert verdict.applied == [(name, bound, 1)]


def test_every_filter_of_the_schema_is_tested_at_its_bound():
    tested = {name for name, *_ in AT_BOUND}
    no_removal = {"enable_intensity_coloring", "intensity_threshold", "clean"}
    assert tested == FiltersInput.model_fields.keys() - no_removal
    assert tested == BOUNDS.keys() | {"exclude_edge_touching"}


def test_default_removes_specks_only():
    assert removed_by([fake(area=19), fake(area=20), fake(area=10**6)]) == ["area_min", None, None]


def test_what_lies_on_the_scale_bar_goes_first_and_is_no_object_to_clean_by():
    measured = [
        fake(area=100),
        fake(area=100),
        fake(area=100),
        fake(area=900),
        fake(area=900),
        fake(area=900),
    ]
    on_bar = [False, False, False, True, True, True]
    verdict = judge(measured, FiltersInput(clean={"max_area_factor": 1.5}, area_min=101), False, on_bar)
    assert verdict.removed_by == ["area_min"] * 3 + ["scale_bar"] * 3
    assert verdict.applied == [("area_min", 101, 3), ("scale_bar", True, 3)]
    large = judge([*measured[:3], fake(area=160)], FiltersInput(clean={}), False, [False] * 4)
    assert large.removed_by == [None, None, None, "clean.max_area_factor"]


def test_zero_is_a_bound_and_not_an_absent_filter():
    assert removed_by([fake(mean=1.0), fake(mean=0.0)], mean_max=0) == ["mean_max", None]


def test_first_filter_in_the_order_of_the_schema_is_blamed():
    small_dark_at_edge = fake(area=100, mean=10.0, edge=(0, 9, 9, 9))
    filters = {"exclude_edge_touching": True, "mean_min": 50, "area_min": 200}
    assert removed_by([small_dark_at_edge], **filters) == ["area_min"]
    assert removed_by([small_dark_at_edge], **{**filters, "area_min": 50}) == ["mean_min"]
    assert removed_by([small_dark_at_edge], exclude_edge_touching=True) == ["exclude_edge_touching"]


def test_each_filter_counts_what_it_removed():
    masks = [fake(), fake(area=100), fake(area=120), fake(mean=10.0), fake(area=100, mean=10.0)]
    verdict = judge(masks, FiltersInput(area_min=200, mean_min=50, std_min=1), named_only=False)
    assert sorted(verdict.applied) == [("area_min", 200, 3), ("mean_min", 50, 1)]
    assert verdict.removed == 4
    assert verdict.count("area") == 3


def test_cleaning_removes_large_edge_touching_and_irregular_masks():
    masks = [fake(), fake(), fake(area=601), fake(edge=(0, 9, 9, 9)), fake(circularity=0.59)]
    verdict = judge(masks, FiltersInput(clean={}), named_only=False)
    assert verdict.removed_by == [
        None,
        None,
        "clean.max_area_factor",
        "clean.exclude_edge_touching",
        "clean.min_circularity",
    ]
    assert sorted(verdict.applied) == [
        ("clean.exclude_edge_touching", True, 1),
        ("clean.max_area_factor", 1.5, 1),
        ("clean.min_circularity", 0.6, 1),
    ]
    assert verdict.count("clean.") == 3


def test_cleaning_keeps_its_bounds():
    masks = [fake(), fake(), fake(), fake(area=600), fake(circularity=0.6)]
    assert removed_by(masks, clean={}) == [None] * 5


def test_cleaning_is_judged_before_the_filters():
    masks = [fake(), fake(), fake(), fake(area=2000)]
    assert removed_by(masks, clean={}, area_max=1000)[3] == "clean.max_area_factor"
    assert removed_by(masks, area_max=1000)[3] == "area_max"


@pytest.mark.parametrize(("count", "cleaned"), [(1, False), (2, False), (3, True)])
def test_cleaning_is_skipped_under_three_masks(count, cleaned):
    masks = [fake(circularity=0.1)] * count
    assert removed_by(masks, clean={}) == ["clean.min_circularity" if cleaned else None] * count


def test_cleaning_can_be_switched_off():
    masks = [fake(circularity=0.1)] * 4
    assert removed_by(masks, clean={"enabled": False}) == [None] * 4
    assert removed_by(masks, clean={"min_circularity": 0.05}) == [None] * 4
    touching = [fake(edge=(0, 9, 9, 9))] * 3
    assert removed_by(touching, clean={"exclude_edge_touching": False}) == [None] * 3


def test_prompted_masks_meet_only_the_filters_that_are_named():
    speck = fake(area=5)
    assert removed_by([speck]) == ["area_min"]
    assert removed_by([speck], named_only=True) == [None]
    assert removed_by([speck], named_only=True, mean_min=0) == [None]
    assert removed_by([speck], named_only=True, area_min=20) == ["area_min"]
    assert removed_by([fake(edge=(0, 9, 9, 9))], named_only=True, exclude_edge_touching=True) == [
        "exclude_edge_touching"
    ]


def test_nothing_to_judge():
    verdict = judge([], FiltersInput(clean={}, mean_min=5), named_only=False)
    assert (verdict.removed_by, verdict.applied, verdict.removed) == ([], [], 0)
