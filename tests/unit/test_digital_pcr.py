"""Digital PCR against exact binomial sums, published examples and drawn classes."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from sam_engine.digital_pcr import digital_pcr, mean_volume_nl, separability
from sam_engine.errors import InvalidInput


def codes(result):
    return [caveat.code for caveat in result.caveats]


# --- concentration ---


def test_concentration_by_hand():
    """Half of the droplets of 0.85 nl positive: ln 2 copies in each."""
    result = digital_pcr(10_000, 20_000, volume_nl=0.85)
    assert result.fraction == 0.5
    assert result.copies_per_droplet == pytest.approx(math.log(2))
    assert result.copies_per_ul == pytest.approx(math.log(2) / 0.85e-3)
    assert result.caveats == ()


def test_a_sphere_of_100_um_holds_half_a_nanolitre():
    result = digital_pcr(10, 100, diameter_um=100)
    assert result.droplet_volume_nl == pytest.approx(0.5235988)
    assert result.copies_per_ul == pytest.approx(-math.log(0.9) / 0.5235988e-3)
    assert digital_pcr(10, 100, volume_nl=0.5235988).copies_per_ul == pytest.approx(result.copies_per_ul)


def test_mean_volume_is_of_the_volumes():
    assert mean_volume_nl([100, 200]) == pytest.approx((1 + 8) / 2 * 0.5235988)
    assert mean_volume_nl(100) == pytest.approx(0.5235988)


@given(st.integers(1, 30_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_clopper_and_pearsons(kn):
    k, n = kn
    result = digital_pcr(k, n, confidence=0.9)
    low = beta.ppf(0.05, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
    assert (result.fraction_low, result.fraction_high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    assert result.copies_per_droplet_low == pytest.approx(-math.log1p(-low), rel=1e-6, abs=1e-12)
    if k < n:
        assert result.copies_per_droplet_high == pytest.approx(-math.log1p(-high), rel=1e-6)
        assert result.copies_per_droplet_low <= result.copies_per_droplet <= result.copies_per_droplet_high


@pytest.mark.parametrize("n", [5, 40, 300])
def test_coverage_never_falls_below_the_confidence(n):
    results = [digital_pcr(k, n) for k in range(n + 1)]
    low = np.array([r.copies_per_droplet_low for r in results])
    high = np.array(
        [math.inf if r.copies_per_droplet_high is None else r.copies_per_droplet_high for r in results]
    )
    for copies in np.geomspace(0.001, 8, 400):
        held = (low <= copies) & (copies <= high)
        assert binom.pmf(np.arange(n + 1), n, -math.expm1(-copies))[held].sum() >= 0.95 - 1e-9


def test_lambda_is_found_again_in_simulated_droplets():
    copies = np.random.default_rng(1).poisson(1.3, 20_000)
    result = digital_pcr(int((copies > 0).sum()), 20_000)
    assert result.copies_per_droplet_low < 1.3 < result.copies_per_droplet_high
    assert result.copies_per_droplet_high - result.copies_per_droplet_low < 0.06


def test_saturated_has_a_lower_bound_only():
    result = digital_pcr(1000, 1000, volume_nl=1)
    assert (result.copies_per_droplet, result.copies_per_droplet_high, result.copies_per_ul_high) == (
        None,
    ) * 3
    # the fraction for which 1000 of 1000 have a chance of 2.5 %
    assert (1 - math.exp(-result.copies_per_droplet_low)) ** 1000 == pytest.approx(0.025)
    assert result.copies_per_ul_low == pytest.approx(1000 * result.copies_per_droplet_low)
    assert codes(result) == ["saturated"]


def test_none_positive_has_an_upper_bound_only():
    result = digital_pcr(0, 1000, volume_nl=1)
    assert (result.copies_per_droplet, result.copies_per_droplet_low, result.copies_per_ul_low) == (0, 0, 0)
    assert math.exp(-1000 * result.copies_per_droplet_high) == pytest.approx(0.025)
    assert codes(result) == ["no_positives"]


def test_few_droplets_are_said_to_tell_little():
    assert codes(digital_pcr(10, 20)) == ["wide_interval"]
    assert codes(digital_pcr(999_999, 1_000_000)) == []


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_concentrations_become_json(k):
    for volume in (None, 0.5):
        result = asdict(digital_pcr(np.int64(k), np.int64(3), volume_nl=volume))
        assert json.loads(json.dumps(result, allow_nan=False))["positives"] == k
        assert (result["copies_per_ul_low"] is None) == (volume is None)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"positives": 1, "droplets": 0}, "droplets"),
        ({"positives": 0, "droplets": 2_000_000_000}, "droplets"),
        ({"positives": 3, "droplets": 2}, "positives"),
        ({"positives": -1, "droplets": 2}, "positives"),
        ({"positives": 0.5, "droplets": 2}, "positives"),
        ({"positives": True, "droplets": 2}, "positives"),
        ({"positives": 1, "droplets": 2, "volume_nl": 1, "diameter_um": 1}, "volume_nl"),
        ({"positives": 1, "droplets": 2, "volume_nl": 0}, "volume_nl"),
        ({"positives": 1, "droplets": 2, "volume_nl": math.nan}, "volume_nl"),
        ({"positives": 1, "droplets": 2, "diameter_um": math.inf}, "diameter_um"),
        ({"positives": 1, "droplets": 2, "diameter_um": -3}, "diameter_um"),
        ({"positives": 1, "droplets": 2, "confidence": 1}, "confidence"),
    ],
)
def test_bad_input_is_named(arguments, field):
    with pytest.raises(InvalidInput) as error:
        digital_pcr(**arguments)
    assert error.value.field == field


@pytest.mark.parametrize("diameters", [[], [1, math.nan], [0], ["x"]])
def test_bad_diameters_are_refused(diameters):
    with pytest.raises(InvalidInput, match="diameters_um"):
        mean_volume_nl(diameters)


# --- classes ---


def test_eta_by_hand():
    # class means 1 and 6 about 3.5: between 25, within 4
    result = separability([0, 2, 5, 7], 4)
    assert result.eta == pytest.approx(25 / 29)
    assert (result.positives, result.negatives) == (2, 2)


def test_the_threshold_itself_is_positive():
    assert separability([1, 2, 3], 2).positives == 2


def test_eta_of_one_uniform_class_is_three_quarters():
    """The mark below which the two classes are not called apart."""
    assert separability(np.linspace(0, 1, 100_001), 0.5).eta == pytest.approx(0.75, abs=1e-4)
    assert codes(separability(np.random.default_rng(0).normal(size=2000), 0)) == [
        "classes_not_apart",
        "classes_overlap",
    ]


def test_rain_is_what_lies_between_the_classes():
    rng = np.random.default_rng(2)
    negatives, positives = rng.normal(100, 5, 9000), rng.normal(300, 10, 3000)
    rain = rng.uniform(130, 250, 400)
    clean = separability(np.concatenate([negatives, positives]), 200)
    rainy = separability(np.concatenate([negatives, positives, rain]), 200)
    assert clean.eta > 0.98
    assert clean.rain == pytest.approx(0.00135 * 12_000, abs=15)  # beyond 3 standard deviations on one side
    assert rainy.rain - clean.rain == pytest.approx(400, abs=15)
    assert clean.caveats == ()


@given(st.lists(st.floats(-1e12, 1e12), min_size=0, max_size=30), st.floats(-1e12, 1e12))
def test_any_intensities_have_a_sound_answer(values, threshold):
    result = separability(values, threshold)
    json.dumps(asdict(result), allow_nan=False)
    assert result.positives + result.negatives == len(values)
    assert result.eta is None or 0 < result.eta <= 1
    assert (result.eta is None) == (not result.positives or not result.negatives)
    assert result.rain is None or 0 <= result.rain <= len(values)


@pytest.mark.parametrize(
    ("values", "threshold"), [([1, math.nan], 0), ([1e13], 0), (["x"], 0), ([1], math.nan)]
)
def test_bad_intensities_are_refused(values, threshold):
    with pytest.raises(InvalidInput):
        separability(values, threshold)
