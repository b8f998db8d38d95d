"""Size distribution of many objects by number and by volume, with the uncertainty of every figure.

Works on equivalent diameters in any unit of length. docs/measurement.md has the formulas with their sources
and the measured coverage of the intervals.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_engine.bootstrap import bca_intervals
from sam_engine.caveat import Caveat
from sam_engine.errors import InvalidInput
from sam_engine.sample_size import (
    LENGTHS,
    MIN_OBJECTS,
    STATISTICS,
    achieved_error,
    check_fraction,
    required_count,
)
from sam_engine.weighted import WeightedSample, percentiles, statistics, weighted_sample

Float64Array = NDArray[np.float64]

RESAMPLES = (200, 20_000)
DOMINANT_VOLUME = 0.1  # share of the volume in one object
UNEVEN = 0.5  # effective count over count
MAX_BINS = 200
CURVE_STEPS = 100


@dataclass(frozen=True, slots=True)
class Estimate:
    """One statistic; None where it, its interval or its error has no value.

    Attributes:
        low, high: ends of the bootstrap confidence interval.
        relative_error: half-width of the interval, as a fraction of the value, that this (effective) count
            gives from a lognormal population of the sample's geometric standard deviation.
        required_count: objects that it takes for the relative error asked for.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    relative_error: float | None = None
    required_count: int | None = None


@dataclass(frozen=True, slots=True)
class SizeDistribution:
    """Statistics of diameters, in their unit.

    Attributes:
        count: objects that count, those of weight above 0.
        excluded: objects of weight 0.
        effective_count: (sum w)^2 / sum w^2 (Kish 1965); the count where all weights are equal.
        largest_volume_share: largest part that one object has in the (weighted) volume of all, in (0, 1].
        mean: D[1,0].
        std: of the sample (n - 1); 0 for one object.
        cv: std / mean, a fraction.
        polydispersity_index: (std / mean)^2; others call D[4,3] / D[1,0] by that name.
        geometric_mean, geometric_std: exponentials of mean and standard deviation (n - 1) of ln d.
        d10, d50, d90: diameters below which 10, 50 and 90 % of the objects lie, by number.
        span: (d90 - d10) / d50.
        volume_d10, volume_d50, volume_d90: diameters below which 10, 50 and 90 % of the volume lies.
        volume_span: (volume_d90 - volume_d10) / volume_d50.
        d32, d43: sum d^3 / sum d^2 (Sauter) and sum d^4 / sum d^3 (De Brouckere).
    """

    count: int
    excluded: int
    effective_count: float
    min: float | None
    max: float | None
    largest_volume_share: float | None
    confidence: float
    resamples: int
    mean: Estimate
    std: Estimate
    cv: Estimate
    polydispersity_index: Estimate
    geometric_mean: Estimate
    geometric_std: Estimate
    d10: Estimate
    d50: Estimate
    d90: Estimate
    span: Estimate
    volume_d10: Estimate
    volume_d50: Estimate
    volume_d90: Estimate
    volume_span: Estimate
    d32: Estimate
    d43: Estimate
    caveats: tuple[Caveat, ...]


@dataclass(frozen=True, slots=True)
class CumulativeCurves:
    """Undersize curves for plotting; empty where there is no object.

    Attributes:
        fraction: from 0 to 1.
        number, volume: the diameters below which that fraction of the objects, or of their volume, lies.
    """

    fraction: tuple[float, ...]
    number: tuple[float, ...]
    volume: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bins of equal width, each from `edges[i]` to below `edges[i + 1]`, the last with its upper end.

    Attributes:
        count: objects in each bin, without weights.
        number, volume: shares of the (weighted) objects and of their volume in each bin.
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    number: tuple[float, ...]
    volume: tuple[float, ...]


def size_distribution(
    diameters: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    relative_error: float = 0.05,
) -> SizeDistribution:
    """Statistics of `diameters` by number and by volume, each with a bootstrap interval.

    Below 10 objects there are values but neither intervals nor errors.

    Args:
        diameters: (n,) of equivalent diameters in any unit of length, 1e-9 to 1e9; n may be 0.
        weights: (n,) of how many objects each stands for, >= 0, as of `border_weights`; only ratios matter.
        confidence: of the intervals, between 0 and 1.
        resamples: of the bootstrap, 200 to 20,000, or 0 for no intervals.
        seed: the same one gives the same intervals.
        relative_error: that `required_count` and the caveat `too_few_objects` go by, between 0 and 1.

    Raises:
        InvalidInput: a diameter or weight is not finite or out of range, or another argument is.
    """
    sample = weighted_sample(diameters, weights)
    check_fraction("confidence", confidence)
    check_fraction("relative_error", relative_error)
    _check_resamples(resamples, seed)
    n = len(sample.d)
    estimates = _estimates(sample, confidence, resamples, seed, relative_error)
    share = float(sample.volumes.max() / sample.volumes.sum()) if n else None
    return SizeDistribution(
        count=n,
        excluded=sample.excluded,
        effective_count=sample.effective_count,
        min=float(sample.d[0]) if n else None,
        max=float(sample.d[-1]) if n else None,
        largest_volume_share=share,
        confidence=float(confidence),
        resamples=int(resamples),
        **estimates,
        caveats=(*_caveats_of_sample(sample, share), *_caveats_of_count(sample, estimates, relative_error)),
    )


def cumulative_curves(diameters: ArrayLike, *, weights: ArrayLike | None = None) -> CumulativeCurves:
    """Cumulative distributions by number and volume (Q0 and Q3 of ISO 9276-1) in steps of 1 %.

    They are the curves that the percentiles of `size_distribution` are read from; same arguments and errors.
    """
    sample = weighted_sample(diameters, weights)
    if not len(sample.d):
        return CumulativeCurves((), (), ())
    levels = tuple((np.arange(CURVE_STEPS + 1) / CURVE_STEPS).tolist())
    number, volume = (
        percentiles(sample.d, mass, sample.each_once, levels)[:, 0] for mass in (sample.w, sample.volumes)
    )
    return CumulativeCurves(levels, tuple(number.tolist()), tuple(volume.tolist()))


def histogram(
    diameters: ArrayLike, *, weights: ArrayLike | None = None, bins: int | None = None
) -> Histogram:
    """Histogram over the range of the diameters; one bin, 5 % to either side, where all are equal.

    Without `bins` the width is the smaller of 2 IQR / n^(1/3) (Freedman & Diaconis 1981) and
    range / (log2 n + 1) (Sturges 1926) for the effective count n, but there are at most 200 bins.

    Raises:
        InvalidInput: as `size_distribution`, or `bins` is not 1 to 200.
    """
    sample = weighted_sample(diameters, weights)
    if bins is not None and not (_is_whole(bins) and 1 <= bins <= MAX_BINS):
        raise InvalidInput("bins", f"{bins} must be a whole number from 1 to {MAX_BINS}")
    if not len(sample.d):
        return Histogram((), (), (), ())
    low, high = float(sample.d[0]), float(sample.d[-1])
    if high - low <= 1e-9 * high:
        edges = np.array([0.95 * low, 1.05 * high])
    else:
        edges = np.linspace(low, high, (bins or _bin_count(sample)) + 1)
    count, number, volume = (
        np.histogram(sample.d, edges, weights=mass)[0].tolist()
        for mass in (None, sample.w / sample.w.sum(), sample.volumes / sample.volumes.sum())
    )
    return Histogram(tuple(edges.tolist()), tuple(count), tuple(number), tuple(volume))


def _bin_count(sample: WeightedSample) -> int:
    """By the two rules; Freedman & Diaconis' is left out where half of all objects are of one size."""
    n, extent = sample.effective_count, float(sample.d[-1] - sample.d[0])
    lower, upper = percentiles(sample.d, sample.w, sample.each_once, (0.25, 0.75))[:, 0]
    sturges = math.log2(n) + 1.0
    quartiles = float(upper - lower)
    freedman = extent * n ** (1 / 3) / (2.0 * quartiles) if quartiles > 1e-9 * extent else 0.0
    return min(MAX_BINS, math.ceil(max(sturges, freedman)))


def _check_resamples(resamples: int, seed: int) -> None:
    fewest, most = RESAMPLES
    if not (_is_whole(resamples) and (resamples == 0 or fewest <= resamples <= most)):
        raise InvalidInput("resamples", f"{resamples} must be 0 or from {fewest} to {most}")
    if not (_is_whole(seed) and seed >= 0):
        raise InvalidInput("seed", f"{seed} must be a whole number >= 0")


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _estimates(
    sample: WeightedSample, confidence: float, resamples: int, seed: int, relative_error: float
) -> dict[str, Estimate]:
    """Every statistic with interval and error, as far as the count allows."""
    n = len(sample.d)
    if n == 0:
        return dict.fromkeys(STATISTICS, Estimate())
    values = {name: float(v[0]) for name, v in statistics(sample, sample.each_once).items()}
    if n < MIN_OBJECTS:
        return {name: Estimate(value) for name, value in values.items()}
    intervals: Mapping[str, tuple[float | None, float | None]] = {}
    if resamples:
        intervals = bca_intervals(
            partial(statistics, sample), n, confidence=confidence, resamples=resamples, seed=seed
        )
    width = max(1.0, values["geometric_std"])
    effective = sample.effective_count
    return {
        name: Estimate(
            value,
            *intervals.get(name, (None, None)),
            relative_error=achieved_error(name, width, effective, confidence=confidence),
            required_count=required_count(name, width, relative_error=relative_error, confidence=confidence),
        )
        for name, value in values.items()
    }


def _caveats_of_sample(sample: WeightedSample, share: float | None) -> list[Caveat]:
    """What holds for all statistics, or for all that go by volume."""
    n = len(sample.d)
    if n < MIN_OBJECTS:
        return [Caveat("too_few_objects", f"{n} objects; fewer than {MIN_OBJECTS} give no interval")]
    found = []
    if share is not None and share > DOMINANT_VOLUME:
        message = f"one object has {share:.0%} of the volume; what goes by volume rests on it"
        found.append(Caveat("volume_dominated", message))
    if sample.effective_count < UNEVEN * n:
        message = f"{n} objects with these weights tell as much as {sample.effective_count:.0f} equal ones"
        found.append(Caveat("uneven_weights", message))
    return found


def _caveats_of_count(
    sample: WeightedSample, estimates: dict[str, Estimate], relative_error: float
) -> list[Caveat]:
    """One for each mean or percentile that these objects know less well than asked for."""
    n = sample.effective_count
    if len(sample.d) < MIN_OBJECTS:
        return []
    return [
        Caveat(
            "too_few_objects",
            f"{n:.0f} objects give {name} to {_percent(estimates[name].relative_error)}; "
            f"{relative_error:.0%} takes {estimates[name].required_count or 'more than anyone can count'}",
            name,
        )
        for name in LENGTHS
        if (estimates[name].required_count or math.inf) > n
    ]


def _percent(error: float | None) -> str:
    return "no known error" if error is None else f"{error:.1%}"
