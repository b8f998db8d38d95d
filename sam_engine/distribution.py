"""Statistics over the objects of a picture: size distribution and intensity classes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InvalidInput
from sam_engine.measure import Measurement

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SizeStatistics:
    """Number-weighted statistics of equivalent diameters in pixels; None where no object gives a value.

    Attributes:
        std: of the sample (n - 1); 0 for one object.
        cv: std / mean, a fraction.
        d10, d50, d90: diameters below which 10, 50 and 90 % of the objects lie, by number.
        d32: Sauter mean diameter, sum d^3 / sum d^2 (ISO 9276-2).
    """

    count: int
    mean: float | None = None
    std: float | None = None
    cv: float | None = None
    median: float | None = None
    min: float | None = None
    max: float | None = None
    d10: float | None = None
    d50: float | None = None
    d90: float | None = None
    d32: float | None = None


@dataclass(frozen=True, slots=True)
class IntensityGroup:
    """Objects of one intensity class; the statistics are over the objects' mean intensities.

    Attributes:
        fraction: share of all objects in [0, 1]; None where there is no object at all.
        std_intensity: of the sample (n - 1); 0 for one object.
        mean_diameter: mean equivalent diameter in pixels.
    """

    count: int
    fraction: float | None = None
    mean_intensity: float | None = None
    std_intensity: float | None = None
    min_intensity: float | None = None
    max_intensity: float | None = None
    median_intensity: float | None = None
    mean_diameter: float | None = None


@dataclass(frozen=True, slots=True)
class IntensityAnalysis:
    """Objects by mean intensity: high is >= threshold, low is below it; both empty without a threshold."""

    threshold: float | None
    overall: IntensityGroup
    high_intensity: IntensityGroup
    low_intensity: IntensityGroup


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics over all objects of a picture; diameters are equivalent diameters in pixels."""

    diameter_stats: SizeStatistics
    intensity_analysis: IntensityAnalysis

    def as_dict(self) -> dict[str, Any]:
        """The `summary_statistics` of an answer: the same keys for any number of objects."""
        return {
            "total_masks": self.diameter_stats.count,
            "average_diameter": self.diameter_stats.mean,
            "diameter_stats": asdict(self.diameter_stats),
            "intensity_analysis": asdict(self.intensity_analysis),
            "classification_enabled": self.intensity_analysis.threshold is not None,
        }


def summarise(measurements: Sequence[Measurement], *, intensity_threshold: float | None = None) -> Summary:
    """Statistics of all objects together, and by intensity class where a threshold is given.

    Raises:
        InvalidInput: `intensity_threshold` is not finite.
    """
    return Summary(size_statistics(measurements), intensity_classes(measurements, intensity_threshold))


def size_statistics(measurements: Sequence[Measurement]) -> SizeStatistics:
    """Size distribution by number, in pixels.

    Percentiles interpolate linearly between order statistics (type 7 of Hyndman & Fan 1996), so that
    d50 is the median. D[3,2] = sum d^3 / sum d^2 (ISO 9276-2).
    """
    if not measurements:
        return SizeStatistics(count=0)
    d = _column(measurements, lambda m: m.shape.equivalent_diameter)
    d10, d50, d90 = (float(q) for q in np.percentile(d, (10, 50, 90)))
    mean, std = float(d.mean()), _sample_std(d)
    return SizeStatistics(
        count=len(d),
        mean=mean,
        std=std,
        cv=std / mean,
        median=d50,
        min=float(d.min()),
        max=float(d.max()),
        d10=d10,
        d50=d50,
        d90=d90,
        d32=float((d**3).sum() / (d**2).sum()),
    )


def intensity_classes(
    measurements: Sequence[Measurement], intensity_threshold: float | None
) -> IntensityAnalysis:
    """Split objects by their mean intensity: high is >= `intensity_threshold`, low is below it.

    Without a threshold no object is classified and both classes are empty.

    Raises:
        InvalidInput: `intensity_threshold` is not finite.
    """
    total = len(measurements)
    overall = _intensity_group(measurements, total)
    if intensity_threshold is None:
        return IntensityAnalysis(None, overall, IntensityGroup(count=0), IntensityGroup(count=0))
    if not math.isfinite(intensity_threshold):
        raise InvalidInput("intensity_threshold", f"{intensity_threshold} must be finite")
    high = [m for m in measurements if m.intensity.mean >= intensity_threshold]
    low = [m for m in measurements if m.intensity.mean < intensity_threshold]
    return IntensityAnalysis(
        float(intensity_threshold), overall, _intensity_group(high, total), _intensity_group(low, total)
    )


def _intensity_group(measurements: Sequence[Measurement], total: int) -> IntensityGroup:
    """Statistics of the objects of one class out of `total` objects."""
    if not measurements:
        return IntensityGroup(count=0, fraction=0.0 if total else None)
    means = _column(measurements, lambda m: m.intensity.mean)
    return IntensityGroup(
        count=len(means),
        fraction=len(means) / total,
        mean_intensity=float(means.mean()),
        std_intensity=_sample_std(means),
        min_intensity=float(means.min()),
        max_intensity=float(means.max()),
        median_intensity=float(np.median(means)),
        mean_diameter=float(_column(measurements, lambda m: m.shape.equivalent_diameter).mean()),
    )


def _column(measurements: Sequence[Measurement], value: Callable[[Measurement], float]) -> Float64Array:
    """One number of each measurement."""
    return np.array([value(m) for m in measurements], dtype=np.float64)


def _sample_std(values: Float64Array) -> float:
    """Standard deviation with n - 1, 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
