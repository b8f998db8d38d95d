"""Nesting against drawn pictures and full-picture overlaps; inclusion counts against scipy and simulation."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sam_engine.errors import InvalidInput
from sam_engine.nesting import inclusion_counts, inclusion_statistics, parents
from tests.drawn import Disc
from tests.measured import make_mask

SIZE = (120, 160)


def disc(x, y, radius, size=SIZE):
    return make_mask(Disc(x, y, radius).pixels(size))


def codes(result):
    return [caveat.code for caveat in result.caveats]


# --- which lies in which ---


def test_beads_in_droplets():
    droplets = [disc(40, 60, 30), disc(110, 60, 30)]
    beads = [disc(30, 50, 4), disc(50, 70, 4), disc(110, 60, 4), disc(75, 10, 4)]
    found = parents([*droplets, *beads])
    assert found == [None, None, 0, 0, 1, None]
    assert inclusion_counts(found, [0, 1]) == [2, 1]
    assert inclusion_counts(found) == [2, 1, 0]  # the stray bead is outermost too


def test_the_smallest_container_is_the_parent_whatever_the_order():
    masks = [disc(60, 60, 5), disc(60, 60, 40), disc(60, 60, 20)]
    assert parents(masks) == [2, None, 1]
    assert inclusion_counts(parents(masks)) == [1]


def test_share_that_must_lie_inside():
    droplet, bead = disc(50, 60, 30), disc(80, 60, 6)  # its middle on the edge
    assert parents([droplet, bead]) == [None, None]
    share = (droplet.full() & bead.full()).sum() / bead.area
    assert 0.4 < share < 0.55
    square = make_mask(np.ones((10, 10)), (20, 20), SIZE)
    wide = make_mask(np.ones((30, 9)), (20, 15), SIZE)  # 9 of its 10 columns
    assert parents([square, wide]) == [1, None]
    assert parents([square, wide], min_overlap=0.91) == [None, None]


def test_two_drawings_of_one_object_are_not_nested():
    masks = [disc(60, 60, 20), disc(60, 60, 21)]
    assert parents(masks) == [None, None]
    assert parents(masks, min_area_ratio=1.05) == [1, None]


def test_equal_parents_take_the_first():
    assert parents([disc(60, 60, 20), disc(60, 60, 20), disc(60, 60, 4)]) == [None, None, 0]


def test_a_ring_does_not_hold_what_lies_in_its_hole():
    ring = disc(60, 60, 30).full() & ~disc(60, 60, 15).full()
    assert parents([make_mask(ring), disc(60, 60, 8)]) == [None, None]


def test_nothing_in_nothing():
    assert parents([]) == []
    assert inclusion_counts([]) == []
    assert parents([disc(60, 60, 20)]) == [None]


RECTANGLES = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 19), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99)),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(deadline=None)
@given(RECTANGLES, st.sampled_from([0.6, 0.9, 1.0]))
def test_against_overlaps_in_the_full_picture(rectangles, min_overlap):
    masks = []
    for x, y, w, h, seed in rectangles:
        pixels = np.random.default_rng(seed).random((h, w)) < 0.8
        pixels[0, 0] = True
        masks.append(make_mask(pixels, (x, y), (40, 40)))
    full = np.array([mask.full().ravel() for mask in masks], dtype=int)
    areas = full.sum(axis=1)
    for child, found in enumerate(parents(masks, min_overlap=min_overlap)):
        holds = (full @ full[child] >= min_overlap * areas[child]) & (areas >= 1.2 * areas[child])
        expected = min(np.flatnonzero(holds), key=lambda i: (areas[i], i), default=None)
        assert found == expected


def test_thousands_of_masks():
    """1000 droplets with a bead each."""
    size = (1200, 1600)
    grid = [(20 + 40 * i, 20 + 40 * j) for i in range(40) for j in range(25)]
    big, small = Disc(20, 20, 18).pixels((40, 40)), Disc(20, 20, 3).pixels((40, 40))
    masks = [make_mask(big, (x - 20, y - 20), size) for x, y in grid]
    masks += [make_mask(small, (x - 20, y - 20), size) for x, y in grid]
    assert parents(masks) == [None] * 1000 + list(range(1000))


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: parents([], min_overlap=0.5), "min_overlap"),
        (lambda: parents([], min_overlap=1.1), "min_overlap"),
        (lambda: parents([], min_overlap=math.nan), "min_overlap"),
        (lambda: parents([], min_area_ratio=1), "min_area_ratio"),
        (lambda: parents([], min_area_ratio=math.inf), "min_area_ratio"),
        (lambda: parents([disc(9, 9, 5), disc(9, 9, 5, (50, 50))]), "masks[1].image_size"),
        (lambda: inclusion_counts([None, 2]), "parent_of[1]"),
        (lambda: inclusion_counts([None], [1]), "containers[0]"),
        (lambda: inclusion_statistics([1, -1]), "counts[1]"),
        (lambda: inclusion_statistics([0.5]), "counts[0]"),
        (lambda: inclusion_statistics([math.nan]), "counts[0]"),
        (lambda: inclusion_statistics([math.inf]), "counts[0]"),
        (lambda: inclusion_statistics([[1]]), "counts"),
        (lambda: inclusion_statistics(["x"]), "counts"),
        (lambda: inclusion_statistics([1], confidence=0), "confidence"),
    ],
)
def test_bad_input_is_named(call, field):
    with pytest.raises(InvalidInput) as error:
        call()
    assert error.value.field == field


# --- inclusions per container ---


def test_statistics_by_hand():
    result = inclusion_statistics([0, 0, 1, 3])
    assert (result.containers, result.inclusions, result.mean) == (4, 4, 1)
    assert result.variance == pytest.approx(2)
    assert result.dispersion_index == pytest.approx(2)
    assert result.observed == (2, 1, 0, 1, 0)
    e = math.exp(-1)
    assert result.expected == pytest.approx((4 * e, 4 * e, 2 * e, 4 * e / 6, 4 * (1 - e * (2.5 + 1 / 6))))
    assert asdict(result.occupancy) == {"empty": 0.5, "single": 0.25, "multiple": 0.25}
    expected = result.expected_occupancy
    assert (expected.empty, expected.single, expected.multiple) == pytest.approx((e, e, 1 - 2 * e))


@pytest.mark.parametrize(
    ("total", "low", "high"), [(0, 0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39), (100, 81.36, 121.63)]
)
def test_interval_is_the_tabulated_one_of_garwood(total, low, high):
    result = inclusion_statistics([total])
    assert (result.mean_low, result.mean_high) == pytest.approx((low, high), rel=2e-3)
    spread = inclusion_statistics([total, 0])
    assert (spread.mean_low, spread.mean_high) == pytest.approx((low / 2, high / 2), rel=2e-3)


def test_interval_covers_at_least_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for counts in rng.poisson(0.2, (800, 15)):
        result = inclusion_statistics(counts)
        held += result.mean_low <= 0.2 <= result.mean_high
    assert held / 800 >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / 800)


@given(st.lists(st.integers(0, 200), max_size=60))
def test_classes_add_up(counts):
    result = inclusion_statistics(counts)
    json.dumps(asdict(result), allow_nan=False)
    assert sum(result.observed) == result.containers == len(counts)
    assert sum(result.expected) == pytest.approx(len(counts))
    assert len(result.observed) == len(result.expected) <= 51
    if counts and max(counts) < 50:
        assert result.observed[-1] == 0
    if counts:
        assert sum(asdict(result.occupancy).values()) == pytest.approx(1)
        assert sum(asdict(result.expected_occupancy).values()) == pytest.approx(1)


def test_no_container_has_no_values():
    result = inclusion_statistics([])
    assert (result.mean, result.mean_high, result.dispersion, result.occupancy) == (None,) * 4
    assert (result.observed, result.expected) == ((), ())
    assert codes(result) == ["too_few_for_test"]


def test_empty_containers_bound_the_mean_and_have_no_index():
    result = inclusion_statistics([0] * 50)
    assert (result.mean, result.mean_low, result.variance, result.dispersion_index) == (0, 0, 0, None)
    assert math.exp(-50 * result.mean_high) == pytest.approx(0.025)
    assert result.expected_occupancy.empty == 1


def test_dispersion_test_is_that_of_scipy():
    """(n - 1) D is the chi-squared of equal expectations."""
    counts = np.random.default_rng(0).poisson(2, 40)
    result = inclusion_statistics(counts)
    assert result.p_over == pytest.approx(stats.chisquare(counts).pvalue)
    assert result.p_under == pytest.approx(1 - result.p_over)


def test_ordered_and_clustered_loading_are_told_apart():
    rng = np.random.default_rng(4)
    ordered = inclusion_statistics(rng.binomial(2, 0.5, 200))
    clustered = inclusion_statistics(3 * rng.poisson(0.4, 200))
    random = inclusion_statistics(rng.poisson(1.0, 200))
    assert [r.dispersion for r in (ordered, clustered, random)] == ["under", "over", "poisson"]
    assert ordered.dispersion_index < 0.7
    assert clustered.dispersion_index > 2
    assert ordered.occupancy.single > ordered.expected_occupancy.single


@pytest.mark.parametrize(("containers", "mean"), [(10, 1.5), (40, 0.6), (300, 0.25)])
def test_poisson_counts_are_rejected_as_seldom_as_they_should_be(containers, mean):
    """5 % of the time, and less near the fewest inclusions that are tested."""
    rng = np.random.default_rng(containers)
    verdicts = [inclusion_statistics(row).dispersion for row in rng.poisson(mean, (1500, containers))]
    made = [verdict for verdict in verdicts if verdict is not None]
    assert len(made) > 1000
    assert 0.02 < sum(verdict != "poisson" for verdict in made) / len(made) < 0.065


@pytest.mark.parametrize("counts", [[1] * 9, [1, 0] * 15, [1] * 20 + [0] * 980, [5]])
def test_too_few_inclusions_are_not_tested(counts):
    result = inclusion_statistics(counts)
    assert (result.p_over, result.p_under, result.dispersion) == (None, None, None)
    assert codes(result) == ["too_few_for_test"]
    assert result.mean is not None
