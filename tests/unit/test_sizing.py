"""Size distributions against cases worked by hand, scipy, plain code and lognormal populations."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sam_engine.distribution import size_statistics
from sam_engine.errors import InvalidInput
from sam_engine.sample_size import LENGTHS, STATISTICS, achieved_error, masuda_gotoh_count, required_count
from sam_engine.sizing import cumulative_curves, histogram, size_distribution
from sam_engine.weighted import percentiles, statistics, weighted_sample
from tests.measured import fake

DIAMETERS = st.lists(st.floats(0.5, 500), min_size=1, max_size=40)


def value_of(sizes, name):
    return getattr(sizes, name).value


def estimates(sizes):
    return [getattr(sizes, name) for name in STATISTICS]


def lognormal(n, width=1.2, median=50.0, seed=0):
    return median * np.exp(math.log(width) * np.random.default_rng(seed).standard_normal(n))


def codes(sizes):
    return {caveat.code for caveat in sizes.caveats}


# --- values ---


def test_statistics_by_hand():
    sizes = size_distribution([4, 1, 2], resamples=0)
    assert (sizes.count, sizes.excluded, sizes.effective_count, sizes.min, sizes.max) == (3, 0, 3, 1, 4)
    assert sizes.mean.value == pytest.approx(7 / 3)
    assert sizes.std.value == pytest.approx(math.sqrt(7 / 3))
    assert sizes.cv.value == pytest.approx(math.sqrt(3 / 7))
    assert sizes.polydispersity_index.value == pytest.approx(3 / 7)
    assert sizes.geometric_mean.value == pytest.approx(2)
    assert sizes.geometric_std.value == pytest.approx(2)
    assert (sizes.d10.value, sizes.d50.value, sizes.d90.value) == pytest.approx((1.2, 2, 3.6))
    assert sizes.span.value == pytest.approx(1.2)
    assert sizes.d32.value == pytest.approx(73 / 21)
    assert sizes.d43.value == pytest.approx(273 / 73)
    assert sizes.largest_volume_share == pytest.approx(64 / 73)


def test_volume_percentiles_by_hand():
    # masses 1, 8, 64: middles at 0.5, 5, 41, rescaled to 0, 1/9, 1
    sizes = size_distribution([4, 1, 2], resamples=0)
    assert sizes.volume_d10.value == pytest.approx(1 + 0.9)
    assert sizes.volume_d50.value == pytest.approx(2 + 2 * (0.5 - 1 / 9) / (8 / 9))
    assert sizes.volume_d90.value == pytest.approx(4 - 2 * 0.1 / (8 / 9))
    assert sizes.volume_span.value == pytest.approx(
        (sizes.volume_d90.value - sizes.volume_d10.value) / sizes.volume_d50.value
    )


@given(DIAMETERS)
def test_by_number_they_are_those_of_the_summary(diameters):
    sizes = size_distribution(diameters, resamples=0)
    summary = size_statistics([fake(d) for d in diameters])
    for name in ("mean", "d10", "d50", "d90", "d32"):
        assert value_of(sizes, name) == pytest.approx(getattr(summary, name), rel=1e-9)
    assert sizes.std.value == pytest.approx(summary.std, rel=1e-6, abs=1e-9 * summary.mean)
    assert (sizes.count, sizes.min, sizes.max) == (summary.count, summary.min, summary.max)


@given(DIAMETERS)
def test_order_of_the_statistics(diameters):
    s = size_distribution(diameters, resamples=0)
    ordered = [s.min, s.geometric_mean.value, s.mean.value, s.d32.value, s.d43.value, s.max]
    for lower, upper in [*itertools.pairwise(ordered),
                         (s.d10.value, s.volume_d10.value), (s.d50.value, s.volume_d50.value),
                         (s.d90.value, s.volume_d90.value), (s.volume_d90.value, s.max)]:  # fmt: skip
        assert lower <= upper * (1 + 1e-9)


@given(DIAMETERS, st.floats(0.01, 100))
def test_lengths_scale_and_spreads_do_not(diameters, factor):
    a = size_distribution(diameters, resamples=0)
    b = size_distribution([d * factor for d in diameters], resamples=0)
    for name in (*LENGTHS, "std"):
        assert value_of(b, name) == pytest.approx(factor * value_of(a, name), rel=1e-6, abs=1e-6 * factor)
    for name in ("cv", "geometric_std", "span", "volume_span"):
        assert value_of(b, name) == pytest.approx(value_of(a, name), rel=1e-6, abs=1e-6)


@given(DIAMETERS, st.floats(1e-3, 1e3))
def test_equal_weights_change_nothing(diameters, weight):
    plain = size_distribution(diameters, resamples=0)
    weighted = size_distribution(diameters, weights=[weight] * len(diameters), resamples=0)
    assert asdict(weighted) == asdict(plain)


def test_a_large_lognormal_sample_has_the_moments_of_hatch_and_choate():
    s = math.log(1.3)
    sizes = size_distribution(lognormal(200_000, 1.3), resamples=0)
    assert sizes.geometric_std.value == pytest.approx(1.3, rel=0.005)
    assert sizes.d32.value == pytest.approx(50 * math.exp(2.5 * s**2), rel=0.005)
    assert sizes.d43.value == pytest.approx(50 * math.exp(3.5 * s**2), rel=0.005)
    for name, z in (("volume_d10", -1.2816), ("volume_d50", 0), ("volume_d90", 1.2816)):
        assert value_of(sizes, name) == pytest.approx(50 * math.exp(3 * s**2 + z * s), rel=0.01)
    assert sizes.volume_span.value == pytest.approx(sizes.span.value, rel=0.02)


def test_weighted_moments_by_hand():
    sizes = size_distribution([1, 4], weights=[3, 1], resamples=0)
    assert sizes.mean.value == pytest.approx(7 / 4)
    # sum w (d - mean)^2 = 27/4, over W - sum w^2 / W = 4 - 10/4
    assert sizes.std.value == pytest.approx(math.sqrt(27 / 4 / 1.5))
    assert sizes.geometric_mean.value == pytest.approx(math.sqrt(2))
    assert sizes.d32.value == pytest.approx(67 / 19)
    assert sizes.effective_count == pytest.approx(16 / 10)


def test_weights_undo_uneven_sampling():
    """Large droplets seen three times less often, each standing for three."""
    rng = np.random.default_rng(3)
    d = lognormal(400_000, seed=3)
    seen = rng.random(len(d)) < np.where(d > 50, 1 / 3, 1)
    full = size_distribution(d, resamples=0)
    found = size_distribution(d[seen], weights=np.where(d > 50, 3.0, 1.0)[seen], resamples=0)
    for name in STATISTICS:
        assert value_of(found, name) == pytest.approx(value_of(full, name), rel=0.02)
    biased = size_distribution(d[seen], resamples=0)
    assert biased.d50.value < 0.95 * full.d50.value


def test_objects_of_weight_zero_are_only_counted():
    with_cut = size_distribution([5, 1, 2, 100], weights=[1, 1, 1, 0], resamples=0)
    without = size_distribution([5, 1, 2], resamples=0)
    assert (with_cut.count, with_cut.excluded) == (3, 1)
    assert asdict(with_cut) == {**asdict(without), "excluded": 1}


def test_percentiles_of_repeated_objects_are_those_of_the_written_out_sample():
    rng = np.random.default_rng(0)
    d = np.sort(rng.uniform(1, 9, 12))
    times = rng.integers(0, 4, (50, 12)).astype(float)
    levels = (0.0, 0.1, 0.37, 0.5, 0.9, 1.0)
    found = percentiles(d, np.full(12, 0.7), times, levels)
    for row, column in zip(times, found.T, strict=True):
        assert column == pytest.approx(
            np.percentile(np.repeat(d, row.astype(int)), [100 * q for q in levels])
        )


# --- few, equal, extreme ---


def test_no_objects_have_no_values():
    sizes = size_distribution([])
    assert (sizes.count, sizes.min, sizes.largest_volume_share) == (0, None, None)
    assert {value_of(sizes, name) for name in STATISTICS} == {None}
    assert codes(sizes) == {"too_few_objects"}


def test_all_objects_cut_is_no_objects():
    sizes = size_distribution([3, 4], weights=[0, 0])
    assert (sizes.count, sizes.excluded, sizes.mean.value) == (0, 2, None)


def test_one_object_has_no_spread():
    sizes = size_distribution([12])
    assert [value_of(sizes, name) for name in LENGTHS] == pytest.approx([12] * len(LENGTHS))
    assert (sizes.std.value, sizes.cv.value, sizes.span.value, sizes.geometric_std.value) == (0, 0, 0, 1)


def test_few_objects_have_values_without_intervals():
    sizes = size_distribution(lognormal(9))
    assert sizes.mean.value is not None
    assert {(e.low, e.high, e.relative_error, e.required_count) for e in estimates(sizes)} == {(None,) * 4}
    assert codes(sizes) == {"too_few_objects"}


def test_equal_objects_have_exactly_no_spread():
    sizes = size_distribution([0.1] * 30)
    assert (sizes.std.value, sizes.geometric_std.value, sizes.span.value) == (0, 1, 0)
    assert (sizes.mean.low, sizes.mean.high) == (0.1, 0.1)
    assert (sizes.mean.relative_error, sizes.mean.required_count, sizes.cv.relative_error) == (0, 10, None)
    assert not sizes.caveats or codes(sizes) == {"volume_dominated"}


@pytest.mark.parametrize(
    ("diameters", "weights"),
    [
        ([], None),
        ([1], None),
        ([1e-9, 1e9] * 10, None),
        (lognormal(200), None),
        (lognormal(20), np.linspace(0, 1e300, 20)),
        (lognormal(20), [5e-324] * 20),
        ([7.0] * 12, None),
    ],
)
def test_everything_becomes_json(diameters, weights):
    for record in (
        size_distribution(diameters, weights=weights, resamples=200),
        cumulative_curves(diameters, weights=weights),
        histogram(diameters, weights=weights),
    ):
        text = json.dumps(asdict(record), allow_nan=False)
        assert json.loads(text).keys() == asdict(record).keys()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"diameters": [1, math.nan]}, "diameters[1]"),
        ({"diameters": [math.inf]}, "diameters[0]"),
        ({"diameters": [1, 2, 0]}, "diameters[2]"),
        ({"diameters": [-1]}, "diameters[0]"),
        ({"diameters": [1e10]}, "diameters[0]"),
        ({"diameters": [[1, 2]]}, "diameters"),
        ({"diameters": ["wide"]}, "diameters"),
        ({"diameters": [1], "weights": [1, 2]}, "weights"),
        ({"diameters": [1, 2], "weights": [1, -1]}, "weights[1]"),
        ({"diameters": [1], "weights": [math.nan]}, "weights[0]"),
        ({"diameters": [1], "weights": [math.inf]}, "weights[0]"),
        ({"diameters": [1], "confidence": 1.0}, "confidence"),
        ({"diameters": [1], "confidence": math.nan}, "confidence"),
        ({"diameters": [1], "relative_error": 0}, "relative_error"),
        ({"diameters": [1], "resamples": 100}, "resamples"),
        ({"diameters": [1], "resamples": 20_001}, "resamples"),
        ({"diameters": [1], "seed": -1}, "seed"),
    ],
)
def test_bad_input_is_named(arguments, field):
    with pytest.raises(InvalidInput) as error:
        size_distribution(**arguments)
    assert error.value.field == field


# --- intervals ---


def test_the_same_seed_gives_the_same_intervals_and_another_gives_others():
    d = lognormal(60)
    first, again, other = (size_distribution(d, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.mean.low != other.mean.low


def test_no_resamples_no_intervals_but_errors():
    sizes = size_distribution(lognormal(60), resamples=0)
    assert (sizes.mean.low, sizes.mean.high) == (None, None)
    assert sizes.mean.relative_error is not None


def test_the_interval_is_that_of_scipy():
    d = lognormal(80, 1.4)
    ours = size_distribution(d, resamples=5000)
    for name, statistic in (("mean", np.mean), ("geometric_std", lambda x: stats.gstd(x, ddof=1))):
        theirs = stats.bootstrap((d,), statistic, n_resamples=5000, method="BCa", rng=1, vectorized=False)
        estimate = getattr(ours, name)
        width = estimate.high - estimate.low
        assert estimate.low == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
        assert estimate.high == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_groups_of_the_jackknife_give_the_acceleration_of_single_objects():
    """More than 200 objects are left out in groups; skewed sizes make an error there visible."""
    d = lognormal(1000, 1.8)
    ours = size_distribution(d, resamples=4000).d32
    theirs = stats.bootstrap(
        (d,),
        lambda x, axis: (x**3).sum(axis=axis) / (x**2).sum(axis=axis),
        n_resamples=4000,
        method="BCa",
        rng=1,
    ).confidence_interval
    width = ours.high - ours.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.08 * width)


def test_wider_confidence_wider_interval():
    d = lognormal(60)
    narrow, wide = (size_distribution(d, confidence=c).d43 for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_intervals_cover_the_population():
    """95 % of 120 samples of 100 objects, give or take three standard deviations."""
    held = 0
    for seed in range(120):
        d50 = size_distribution(lognormal(100, seed=seed), resamples=200, seed=seed).d50
        held += d50.low <= 50 <= d50.high
    assert 0.89 <= held / 120 < 1


# --- counts ---


def test_masuda_gotoh_gives_the_count_in_the_scope_of_iso_13322():
    """ "over 6 000 particles" for a volume mean of a geometric standard deviation of 1.6."""
    assert masuda_gotoh_count(1.6, alpha=3, beta=0) == 6092


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (1, 2), (1, 3), (3, 0), (3, 3)])
def test_masuda_gotoh_holds_for_a_fitted_lognormal(alpha, beta):
    count, s = masuda_gotoh_count(1.4, alpha=alpha, beta=beta, relative_error=0.05), math.log(1.4)
    rng = np.random.default_rng(0)
    mean = s / math.sqrt(count) * rng.standard_normal(20_000)
    variance = s**2 * rng.chisquare(count - 1, 20_000) / (count - 1)
    c = beta + alpha / 2
    error = np.exp(alpha * (mean + c * (variance - s**2))) - 1
    assert np.mean(np.abs(error) <= 0.05) == pytest.approx(0.95, abs=0.01)


@pytest.fixture(scope="module")
def population():
    """Statistics of a lognormal population of geometric standard deviation 1.15, from 100,000 even quantiles."""
    levels = (np.arange(100_000) + 0.5) / 100_000
    return size_distribution(50 * np.exp(math.log(1.15) * stats.norm.ppf(levels)), resamples=0)


@pytest.mark.parametrize("statistic", [s for s in STATISTICS if s != "geometric_std"])
def test_the_required_count_is_enough_and_not_much_more(statistic, population):
    """Samples of that many objects keep to the error 95 times in a hundred."""
    relative_error, repeats = 0.05 if statistic in LENGTHS else 0.1, 400
    count = required_count(statistic, 1.15, relative_error=relative_error)
    assert count > 20
    true, kept = value_of(population, statistic), 0
    for seed in range(repeats):
        sample = weighted_sample(lognormal(count, 1.15, seed=seed), None)
        kept += abs(statistics(sample, sample.each_once)[statistic][0] / true - 1) <= relative_error
    assert kept / repeats == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / repeats))


def test_error_and_count_are_two_sides_of_one_formula():
    for statistic in STATISTICS:
        count = required_count(statistic, 1.5, relative_error=0.02)
        assert achieved_error(statistic, 1.5, count) == pytest.approx(0.02, rel=0.01)


@given(st.floats(1.0, 1e18), st.sampled_from(STATISTICS))
def test_any_width_has_a_count_or_none(width, statistic):
    count, error = required_count(statistic, width), achieved_error(statistic, width, 100)
    assert count is None or (isinstance(count, int) and count >= 10)
    assert error is None or (math.isfinite(error) and error >= 0)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: required_count("mode", 1.2), "statistic"),
        (lambda: required_count("mean", 0.9), "geometric_std"),
        (lambda: required_count("mean", math.nan), "geometric_std"),
        (lambda: required_count("mean", 1.2, relative_error=1), "relative_error"),
        (lambda: required_count("mean", 1.2, confidence=0), "confidence"),
        (lambda: achieved_error("mean", 1.2, 0), "count"),
        (lambda: masuda_gotoh_count(1.2, alpha=math.nan, beta=0), "alpha"),
        (lambda: masuda_gotoh_count(1.2, alpha=1, beta=7), "beta"),
    ],
)
def test_bad_arguments_of_counts_are_named(call, field):
    with pytest.raises(InvalidInput) as error:
        call()
    assert error.value.field == field


# --- caveats ---


def test_too_few_objects_is_said_of_each_statistic_that_needs_more():
    sizes = size_distribution(lognormal(100), resamples=0)
    said = {caveat.statistic for caveat in sizes.caveats if caveat.code == "too_few_objects"}
    assert said == {name for name in LENGTHS if getattr(sizes, name).required_count > 100}
    assert "mean" not in said
    assert "volume_d90" in said
    assert not size_distribution(lognormal(2000), resamples=0).caveats


def test_a_giant_that_holds_the_volume_is_said():
    small = [10.0] * 500
    assert "volume_dominated" not in codes(size_distribution(small, resamples=0))
    assert "volume_dominated" in codes(size_distribution([*small, 50.0], resamples=0))


def test_uneven_weights_are_said():
    sizes = size_distribution(lognormal(100), weights=[100.0] + [1.0] * 99, resamples=0)
    assert sizes.effective_count < 5
    assert "uneven_weights" in codes(sizes)


# --- curves and histogram ---


def test_curves_pass_through_the_percentiles():
    d, w = lognormal(40), np.linspace(1, 2, 40)
    sizes, curves = size_distribution(d, weights=w, resamples=0), cumulative_curves(d, weights=w)
    assert (curves.number[0], curves.number[100], curves.volume[0], curves.volume[100]) == (
        sizes.min, sizes.max, sizes.min, sizes.max,
    )  # fmt: skip
    for i in (10, 50, 90):
        assert curves.fraction[i] == i / 100
        assert curves.number[i] == pytest.approx(value_of(sizes, f"d{i}"))
        assert curves.volume[i] == pytest.approx(value_of(sizes, f"volume_d{i}"))
    assert list(curves.number) == sorted(curves.number)
    assert list(curves.volume) == sorted(curves.volume)


def test_histogram_by_hand():
    bars = histogram([1, 1, 2, 3], bins=2)
    assert (bars.edges, bars.count, bars.number) == ((1, 2, 3), (2, 2), (0.5, 0.5))
    assert bars.volume == pytest.approx((2 / 37, 35 / 37))


def test_weights_count_in_the_histogram():
    bars = histogram([1, 2], weights=[3, 1], bins=2)
    assert (bars.count, bars.number) == ((1, 1), (0.75, 0.25))
    assert bars.volume == pytest.approx((3 / 11, 8 / 11))


@pytest.mark.parametrize("n", [2, 30, 1000, 20_000])
def test_bins_are_those_of_numpy(n):
    """numpy's `auto` takes the same two rules."""
    d = lognormal(n)
    assert len(histogram(d).count) == len(np.histogram_bin_edges(d, "auto")) - 1


def test_bins_are_bounded():
    assert len(histogram([1.0] * 40 + [2.0] * 40 + [1e6]).count) <= 200
    assert histogram([5.0, 5.0]).edges == pytest.approx((4.75, 5.25))


@given(DIAMETERS)
def test_every_object_is_in_one_bin(diameters):
    bars = histogram(diameters)
    assert sum(bars.count) == len(diameters)
    assert sum(bars.number) == pytest.approx(1)
    assert sum(bars.volume) == pytest.approx(1)


@pytest.mark.parametrize("bins", [0, 201, 2.5, True])
def test_bad_bins_are_refused(bins):
    with pytest.raises(InvalidInput) as error:
        histogram([1, 2], bins=bins)
    assert error.value.field == "bins"
