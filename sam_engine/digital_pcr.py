"""Digital PCR: copies in a volume from the share of positive droplets; and how well the two classes part.

docs/measurement.md has the coverage of the interval, and what is not modelled.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from sam_engine.caveat import Caveat
from sam_engine.errors import InvalidInput

MAX_DROPLETS = 10**9
UM3_PER_NL = 1e6
NL_PER_UL = 1e3
WIDE = 0.25  # half-width of the interval over the estimate
UNIFORM_ETA = 0.75  # what cutting a uniform distribution in half gives; a normal one 2 / pi = 0.64
RAIN_WIDTH = 3.0  # standard deviations that belong to a class
MAD_TO_STD = 1.4826  # of a normal distribution


@dataclass(frozen=True, slots=True)
class DigitalPcr:
    """Copies per droplet and per volume; None where a value has no bound or the volume is not known.

    Attributes:
        fraction: positives / droplets, with the Clopper-Pearson interval.
        copies_per_droplet: lambda = -ln(1 - fraction), the mean of a Poisson distribution.
        copies_per_ul: lambda / droplet volume, in the liquid of the droplets.
        droplet_volume_nl: as given, or of a sphere.
        confidence: of all three intervals.
    """

    positives: int
    droplets: int
    confidence: float
    fraction: float
    fraction_low: float
    fraction_high: float
    copies_per_droplet: float | None
    copies_per_droplet_low: float
    copies_per_droplet_high: float | None
    droplet_volume_nl: float | None
    copies_per_ul: float | None
    copies_per_ul_low: float | None
    copies_per_ul_high: float | None
    caveats: tuple[Caveat, ...]


@dataclass(frozen=True, slots=True)
class Separability:
    """How well a threshold parts intensities; None where a class is empty or all values are equal.

    Attributes:
        positives, negatives: at or above the threshold, and below it.
        eta: variance between the classes over the total one, in [0, 1] (Otsu 1979).
        rain: droplets more than 3 robust standard deviations above the median of the negatives and as far
            below that of the positives; None also where these bands overlap.
    """

    positives: int
    negatives: int
    eta: float | None
    rain: int | None
    caveats: tuple[Caveat, ...]


def digital_pcr(
    positives: int,
    droplets: int,
    *,
    volume_nl: float | None = None,
    diameter_um: float | None = None,
    confidence: float = 0.95,
) -> DigitalPcr:
    """Concentration from `positives` of `droplets` of one volume, copies being spread at random over them.

    The interval of the fraction is Clopper & Pearson's (1934), which covers the truth at least as often as it
    says at any fraction; -ln(1 - p) carries it over. All positive, there is only a lower bound, and none
    positive, only an upper one above 0; each is that end of the two-sided interval.

    Args:
        volume_nl: of one droplet; or
        diameter_um: of one droplet, as a sphere. For droplets of several sizes `mean_volume_nl` gives
            `volume_nl`: the volume of the mean diameter is too small.

    Raises:
        InvalidInput: a number is out of range, or both volume and diameter are given.
    """
    _check_counts(positives, droplets)
    if not 0 < confidence < 1:
        raise InvalidInput("confidence", f"{confidence} must lie between 0 and 1")
    volume = _volume(volume_nl, diameter_um)
    negatives = droplets - positives
    tail = (1.0 - confidence) / 2.0
    # ends of the interval of the negative fraction, which keep their digits where nearly all are positive
    most = _beta_quantile(negatives + 1, positives, 1.0 - tail)
    fewest = _beta_quantile(negatives, positives + 1, tail)
    middle = -math.log(negatives / droplets) + 0.0 if negatives else None
    low, high = max(0.0, -math.log(most)), -math.log(fewest) if negatives else None
    return DigitalPcr(
        positives=int(positives),
        droplets=int(droplets),
        confidence=float(confidence),
        fraction=positives / droplets,
        fraction_low=1.0 - most,
        fraction_high=1.0 - fewest,
        copies_per_droplet=middle,
        copies_per_droplet_low=low,
        copies_per_droplet_high=high,
        droplet_volume_nl=volume,
        copies_per_ul=_per_ul(middle, volume),
        copies_per_ul_low=_per_ul(low, volume),
        copies_per_ul_high=_per_ul(high, volume),
        caveats=_caveats(low, middle, high, droplets),
    )


def mean_volume_nl(diameters_um: ArrayLike) -> float:
    """Mean volume of spheres, pi / 6 mean(d^3), in nl; (n,) diameters in um, n >= 1.

    Raises:
        InvalidInput: there is no diameter, or one is not between 1e-3 and 1e6.
    """
    d = np.atleast_1d(_numbers("diameters_um", diameters_um))
    if not d.size:
        raise InvalidInput("diameters_um", "are 0, must be at least 1")
    wrong = ~((d >= 1e-3) & (d <= 1e6))
    if wrong.any():
        raise InvalidInput("diameters_um", f"hold {d[wrong][0]}, must lie between 0.001 and 1000000")
    return float(math.pi / 6.0 * (d**3).mean() / UM3_PER_NL)


def separability(intensities: ArrayLike, threshold: float) -> Separability:
    """How clearly `threshold` parts `intensities`, (n,) finite values of one droplet each, into two classes.

    Raises:
        InvalidInput: an intensity or the threshold is not finite, or beyond 1e12.
    """
    values = np.ravel(_numbers("intensities", intensities))
    if not (np.abs(values) <= 1e12).all():
        raise InvalidInput("intensities", "must be finite and within 1e12")
    if not abs(threshold) <= 1e12:
        raise InvalidInput("threshold", f"{threshold} must be finite and within 1e12")
    high, low = values[values >= threshold], values[values < threshold]
    if not (len(high) and len(low)):
        caveat = Caveat("one_class", f"all {len(values)} intensities lie on one side of {threshold:g}")
        return Separability(len(high), len(low), None, None, (caveat,))
    eta, rain = _eta(low, high), _rain(low, high)
    caveats = []
    if eta < UNIFORM_ETA:
        message = f"eta {eta:.2f} is no more than cutting a single uniform class gives ({UNIFORM_ETA})"
        caveats.append(Caveat("classes_not_apart", message, "eta"))
    if rain is None:
        message = f"{RAIN_WIDTH:g} standard deviations about the two medians overlap"
        caveats.append(Caveat("classes_overlap", message, "rain"))
    return Separability(len(high), len(low), eta, rain, tuple(caveats))


def _check_counts(positives: int, droplets: int) -> None:
    for field, value, fewest, most in (
        ("droplets", droplets, 1, MAX_DROPLETS),
        ("positives", positives, 0, droplets),
    ):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not (whole and fewest <= value <= most):
            raise InvalidInput(field, f"{value} must be a whole number from {fewest} to {most}")


def _volume(volume_nl: float | None, diameter_um: float | None) -> float | None:
    """Volume of a droplet in nl, if anything is known of it."""
    if diameter_um is not None:
        if volume_nl is not None:
            raise InvalidInput("volume_nl", "and diameter_um exclude each other")
        if not 1e-3 <= diameter_um <= 1e6:
            raise InvalidInput("diameter_um", f"{diameter_um} must lie between 0.001 and 1000000")
        return mean_volume_nl([diameter_um])
    if volume_nl is not None and not 1e-18 <= volume_nl <= 1e12:
        raise InvalidInput("volume_nl", f"{volume_nl} must lie between 1e-18 and 1e12")
    return None if volume_nl is None else float(volume_nl)


def _numbers(field: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(field, "must be numbers") from error


def _beta_quantile(a: int, b: int, level: float) -> float:
    """Quantile of Beta(a, b), with its limits 0 for a = 0 and 1 for b = 0."""
    if a == 0 or b == 0:
        return float(b == 0)
    return float(betaincinv(a, b, level))


def _per_ul(copies_per_droplet: float | None, volume_nl: float | None) -> float | None:
    """Copies per ul."""
    if copies_per_droplet is None or volume_nl is None:
        return None
    return copies_per_droplet / volume_nl * NL_PER_UL


def _caveats(low: float, middle: float | None, high: float | None, droplets: int) -> tuple[Caveat, ...]:
    if middle is None or high is None:
        message = f"all {droplets} droplets are positive: at least {low:.3g} copies per droplet"
        return (Caveat("saturated", message, "copies_per_droplet"),)
    if middle == 0:
        message = f"none of {droplets} droplets is positive: at most {high:.3g} copies per droplet"
        return (Caveat("no_positives", message, "copies_per_droplet"),)
    half_width = (high - low) / 2.0 / middle
    if half_width > WIDE:
        message = f"{droplets} droplets give the concentration to {half_width:.0%}"
        return (Caveat("wide_interval", message, "copies_per_droplet"),)
    return ()


def _eta(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Between-class over total variance, on the scale of the range, which is above 0."""
    start, extent = low.min(), high.max() - low.min()
    low, high = (low - start) / extent, (high - start) / extent
    n, m = len(low), len(high)
    between = n * m / (n + m) * float(high.mean() - low.mean()) ** 2
    within = float(((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum())
    return between / (between + within)


def _rain(low: NDArray[np.float64], high: NDArray[np.float64]) -> int | None:
    """Values between the bands of the two classes; medians, since rain would widen means and deviations."""
    (bottom, bottom_width), (top, top_width) = _median_and_std(low), _median_and_std(high)
    start, stop = bottom + RAIN_WIDTH * bottom_width, top - RAIN_WIDTH * top_width
    if start >= stop:
        return None
    return int(np.count_nonzero(low > start) + np.count_nonzero(high < stop))


def _median_and_std(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation stands for."""
    median = float(np.median(values))
    return median, MAD_TO_STD * float(np.median(np.abs(values - median)))
