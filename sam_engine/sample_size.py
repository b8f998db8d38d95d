"""How many objects a size statistic takes, and how well a given number of them knows it.

Everything here is for lognormal populations, the model of ISO 13322-1; docs/measurement.md has the formulas
and the simulations that checked them.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from sam_engine.errors import InvalidInput

MIN_OBJECTS = 10  # fewer tell nothing of the width that every count follows from
MIN_FOR_TAILS = 20  # two objects below D10 and two above D90
MAX_COUNT = 1e15

TAILS = (0.1, 0.5, 0.9)
VOLUME = 3  # the power of a diameter that its volume goes with

LENGTHS = (
    "mean", "geometric_mean", "d10", "d50", "d90", "volume_d10", "volume_d50", "volume_d90", "d32", "d43",
)  # fmt: skip
SPREADS = ("std", "cv", "polydispersity_index", "geometric_std", "span", "volume_span")
STATISTICS = LENGTHS + SPREADS


def achieved_error(
    statistic: str, geometric_std: float, count: float, *, confidence: float = 0.95
) -> float | None:
    """Relative half-width u sqrt(V / n) of the interval that `count` objects give.

    V is the relative variance of the estimate per object. None where it has no value: a spread of equal
    diameters, or one beyond all bounds.

    Args:
        statistic: one of `STATISTICS`, as `size_distribution` computes it.
        geometric_std: of the population, >= 1.
        count: > 0; the effective count where objects have weights.

    Raises:
        InvalidInput: an argument is out of range.
    """
    if not (math.isfinite(count) and count > 0):
        raise InvalidInput("count", f"{count} must be finite and > 0")
    u = normal_quantile(confidence)
    variance = _relative_variance(statistic, geometric_std)
    return None if variance is None else u * math.sqrt(variance / count)


def required_count(
    statistic: str, geometric_std: float, *, relative_error: float = 0.05, confidence: float = 0.95
) -> int | None:
    """Objects that it takes to know `statistic` to `relative_error`, (u / relative_error)^2 V.

    At least 10, and 20 for D10, D90 and spans. None as in `achieved_error`, and above 1e15.

    Raises:
        InvalidInput: as `achieved_error`; `relative_error` or `confidence` is not between 0 and 1.
    """
    check_fraction("relative_error", relative_error)
    u = normal_quantile(confidence)
    variance = _relative_variance(statistic, geometric_std)
    if variance is None:
        return None
    exact = (u / relative_error) ** 2 * variance
    fewest = MIN_FOR_TAILS if statistic.endswith(("d10", "d90", "span")) else MIN_OBJECTS
    return max(fewest, math.ceil(exact)) if exact < MAX_COUNT else None


def masuda_gotoh_count(
    geometric_std: float,
    *,
    alpha: float,
    beta: float,
    relative_error: float = 0.05,
    confidence: float = 0.95,
) -> int:
    """Objects to know the mean of d^alpha, weighted by d^beta, from a fitted lognormal (Masuda & Gotoh 1999).

    n = (u / relative_error)^2 alpha^2 s^2 (2 c^2 s^2 + 1) with s = ln geometric_std and c = beta + alpha / 2:
    Annex A of ISO 13322-1. alpha, beta = 1, 0 is D[1,0]; 1, 2 is D[3,2]; 1, 3 is D[4,3]; 3, 0 is the
    mean volume. It presumes that only mean and standard deviation of ln d were measured and the rest was
    computed from them; sums and percentiles of the objects themselves take more: `required_count`.

    Raises:
        InvalidInput: an argument is out of range; alpha and beta may lie between -6 and 6.
    """
    check_fraction("relative_error", relative_error)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not -6 <= value <= 6:
            raise InvalidInput(name, f"{value} must lie between -6 and 6")
    u = normal_quantile(confidence)
    s2 = _log_width(geometric_std) ** 2
    c = beta + alpha / 2
    return max(1, math.ceil((u / relative_error) ** 2 * alpha**2 * s2 * (2 * c**2 * s2 + 1)))


def normal_quantile(confidence: float) -> float:
    """u of the two-sided interval of a normal distribution: 1.96 for 0.95.

    Raises:
        InvalidInput: `confidence` is not between 0 and 1.
    """
    check_fraction("confidence", confidence)
    return float(ndtri((1.0 + confidence) / 2.0))


def check_fraction(field: str, value: float) -> None:
    """Refuse what does not lie between 0 and 1."""
    if not 0 < value < 1:
        raise InvalidInput(field, f"{value} must lie between 0 and 1")


def _log_width(geometric_std: float) -> float:
    """Standard deviation of ln d."""
    if not (math.isfinite(geometric_std) and geometric_std >= 1):
        raise InvalidInput("geometric_std", f"{geometric_std} must be finite and >= 1")
    return math.log(geometric_std)


def _relative_variance(statistic: str, geometric_std: float) -> float | None:
    """n Var(estimate) / value^2 for large n, by the delta method; None where it has no value."""
    s = _log_width(geometric_std)
    if statistic not in STATISTICS:
        raise InvalidInput("statistic", f"{statistic!r} must be one of {', '.join(STATISTICS)}")
    if s == 0 and statistic in SPREADS and statistic != "geometric_std":
        return None
    try:
        variance = _VARIANCES[statistic](s)
    except OverflowError:
        return None
    return variance if math.isfinite(variance) else None


def _of_cv(s: float) -> float:
    """Of sqrt(r - 1), where r = m2 / m1^2 = exp(s^2), by the influence (x^2 / m2 - 2 x / m1 + 1) r."""
    r = math.exp(s**2)
    return r**2 * (r**2 + 2 * r - 1) / 4


def _of_std(s: float) -> float:
    """(kurtosis - 1) / 4 with the kurtosis exp(4 s^2) + 2 exp(3 s^2) + 3 exp(2 s^2) - 3."""
    return (math.exp(4 * s**2) + 2 * math.exp(3 * s**2) + 3 * math.exp(2 * s**2) - 4) / 4


def _of_d32(s: float) -> float:
    """exp(9 s^2) + exp(4 s^2) - 2 exp(6 s^2), written without cancellation."""
    return math.exp(4 * s**2) * (math.expm1(5 * s**2) - 2 * math.expm1(2 * s**2))


def _of_d43(s: float) -> float:
    """exp(16 s^2) + exp(9 s^2) - 2 exp(12 s^2), written without cancellation."""
    return math.exp(9 * s**2) * (math.expm1(7 * s**2) - 2 * math.expm1(3 * s**2))


def _of_percentile(s: float, power: int, index: int) -> float:
    return float(_log_covariance(s, power)[index, index])


def _of_span(s: float, power: int) -> float:
    """Of (D90 - D10) / D50 from the covariance of the three."""
    low, high = np.exp(s * ndtri(np.array(TAILS)))[[0, 2]]
    slope = np.array([-low / (high - low), -1.0, high / (high - low)])
    return float(slope @ _log_covariance(s, power) @ slope)


def _log_covariance(s: float, power: int) -> NDArray[np.float64]:
    """(3, 3): n Cov(ln D_i, ln D_j) of D10, D50, D90 weighted by d^power.

    By the influence of an object on a weighted quantile, -w (1{d <= D} - q) / (E[w] f(D)). With the share of
    w^2 below D, F = Phi(z - power s), the covariance is
    s^2 exp(power^2 s^2) (F_min - q_j F_i - q_i F_j + q_i q_j) / (phi_i phi_j).
    Unweighted it is the textbook's s^2 q_i (1 - q_j) / (phi_i phi_j).
    """
    q = np.array(TAILS)
    z = ndtri(q)
    density = np.exp(-(z**2) / 2.0) / math.sqrt(2.0 * math.pi)
    below = ndtr(z - power * s)
    joint = np.minimum.outer(below, below) - np.outer(below, q) - np.outer(q, below) + np.outer(q, q)
    return np.asarray(s**2 * math.exp((power * s) ** 2) * joint / np.outer(density, density))


_VARIANCES: dict[str, Callable[[float], float]] = {
    "mean": lambda s: math.expm1(s**2),
    "geometric_mean": lambda s: s**2,
    "d10": lambda s: _of_percentile(s, 0, 0),
    "d50": lambda s: _of_percentile(s, 0, 1),
    "d90": lambda s: _of_percentile(s, 0, 2),
    "volume_d10": lambda s: _of_percentile(s, VOLUME, 0),
    "volume_d50": lambda s: _of_percentile(s, VOLUME, 1),
    "volume_d90": lambda s: _of_percentile(s, VOLUME, 2),
    "d32": _of_d32,
    "d43": _of_d43,
    "std": _of_std,
    "cv": _of_cv,
    "polydispersity_index": lambda s: 4.0 * _of_cv(s),
    "geometric_std": lambda s: s**2 / 2.0,
    "span": lambda s: _of_span(s, 0),
    "volume_span": lambda s: _of_span(s, VOLUME),
}
