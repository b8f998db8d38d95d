"""Objects with weights, and the statistics of many samples of them at once."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_engine.errors import InvalidInput
from sam_engine.sample_size import TAILS, VOLUME

Float64Array = NDArray[np.float64]

SMALLEST, LARGEST = 1e-9, 1e9  # of a diameter: fourth powers of both ends stay far from the limits of a float
NEGLIGIBLE_WEIGHT = 1e-9  # of the largest


@dataclass(frozen=True, slots=True)
class WeightedSample:
    """Objects in ascending order of diameter.

    Attributes:
        d, w: (n,) of diameters, and of weights of which the largest is 1.
        volumes: w d^3.
        terms: (n, 9) of w, w^2, w y, w y^2, w l, w l^2, w d^2, w d^3, w d^4, where y and l are d and ln d
            less those of the middle object, so that equal diameters have exactly no spread.
    """

    d: Float64Array
    w: Float64Array
    excluded: int
    volumes: Float64Array
    terms: Float64Array

    @property
    def effective_count(self) -> float:
        """Objects of equal weight that would tell as much: (sum w)^2 / sum w^2 (Kish 1965)."""
        return float(self.w.sum() ** 2 / (self.w**2).sum()) if len(self.d) else 0.0

    @property
    def each_once(self) -> Float64Array:
        """(1, n): the sample as one of those that `statistics` takes."""
        return np.ones((1, len(self.d)))


def weighted_sample(diameters: ArrayLike, weights: ArrayLike | None) -> WeightedSample:
    """Checked, sorted, and without objects of weight 0.

    Raises:
        InvalidInput: a diameter or weight is not finite or out of range, or there is not one weight for each.
    """
    d = _vector("diameters", diameters)
    _refuse("diameters", d, ~((d >= SMALLEST) & (d <= LARGEST)), f"from {SMALLEST:g} to {LARGEST:g}")
    w = np.ones_like(d) if weights is None else _vector("weights", weights)
    if len(w) != len(d):
        raise InvalidInput("weights", f"are {len(w)}, must be as many as the {len(d)} diameters")
    _refuse("weights", w, ~((w >= 0) & np.isfinite(w)), "finite and >= 0")
    w = w / (w.max(initial=0.0) or 1.0)
    counts = w > NEGLIGIBLE_WEIGHT
    order = np.argsort(d[counts], kind="stable")
    excluded = int(len(d) - np.count_nonzero(counts))
    d, w = d[counts][order], w[counts][order]
    return WeightedSample(d, w, excluded, w * d**VOLUME, _terms(d, w))


def _terms(d: Float64Array, w: Float64Array) -> Float64Array:
    """What every mean is a ratio of sums of; `WeightedSample` lists the columns."""
    middle = d[len(d) // 2 : len(d) // 2 + 1]
    y, log_y = d - middle, np.log(d / middle)
    return np.stack(
        [w, w * w, w * y, w * y**2, w * log_y, w * log_y**2, w * d**2, w * d**3, w * d**4], axis=1
    )


def _vector(field: str, values: ArrayLike) -> Float64Array:
    """(n,) of float64."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(field, "must be one list of numbers") from error
    if array.ndim != 1:
        raise InvalidInput(field, f"have {array.ndim} dimensions, must have 1")
    return array


def _refuse(field: str, values: Float64Array, wrong: NDArray[np.bool_], bound: str) -> None:
    """Name the first wrong value."""
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidInput(f"{field}[{at}]", f"={values[at]} must be {bound}")


def statistics(sample: WeightedSample, times: Float64Array) -> dict[str, Float64Array]:
    """Every statistic of samples that hold each object `times` (rows, n) times; (rows,) each."""
    total, squared, y1, y2, l1, l2, m2, m3, m4 = (times @ sample.terms).T
    middle = sample.d[len(sample.d) // 2]
    mean, std = middle + y1 / total, _sample_std(total, squared, y1, y2)
    d10, d50, d90 = percentiles(sample.d, sample.w, times, TAILS)
    v10, v50, v90 = percentiles(sample.d, sample.volumes, times, TAILS)
    return {
        "mean": mean,
        "std": std,
        "cv": std / mean,
        "polydispersity_index": (std / mean) ** 2,
        "geometric_mean": middle * np.exp(l1 / total),
        "geometric_std": np.exp(_sample_std(total, squared, l1, l2)),
        "d10": d10,
        "d50": d50,
        "d90": d90,
        "span": (d90 - d10) / d50,
        "volume_d10": v10,
        "volume_d50": v50,
        "volume_d90": v90,
        "volume_span": (v90 - v10) / v50,
        "d32": m3 / m2,
        "d43": m4 / m3,
    }


def _sample_std(
    total: Float64Array, squared: Float64Array, first: Float64Array, second: Float64Array
) -> Float64Array:
    """Standard deviation from sum w, sum w^2, sum w y and sum w y^2; 0 for a single object.

    The divisor W - sum w^2 / W makes the variance unbiased where weights do not depend on the sizes; with
    equal weights it is n - 1.
    """
    squares = np.maximum(second - first**2 / total, 0.0)
    freedom = total - squared / total
    return np.sqrt(np.divide(squares, freedom, out=np.zeros_like(squares), where=freedom > 1e-12 * total))


def percentiles(
    d: Float64Array, mass: Float64Array, times: Float64Array, levels: tuple[float, ...]
) -> Float64Array:
    """(levels, rows): where the cumulative mass of each sample reaches each level in [0, 1].

    Each object lies in the middle of its own mass, m_k = (sum of the masses up to k) - mass_k / 2, the
    smallest at 0 and the largest at 1: p_k = (m_k - m_1) / (m_n - m_1), and linearly between. Equal masses
    give p_k = (k - 1) / (n - 1), type 7 of Hyndman & Fan 1996.

    Args:
        d, mass: (n,) in ascending order of d, mass > 0.
        times: (rows, n) of how many times each sample holds each object.
    """
    rows, last = np.arange(len(times)), len(d) - 1
    end = np.cumsum(times * mass, axis=1)
    held = times > 0
    start = 0.5 * mass[held.argmax(axis=1)]
    stop = end[:, -1] - 0.5 * mass[last - held[:, ::-1].argmax(axis=1)]
    target = start[:, None] + (stop - start)[:, None] * np.array(levels)
    k = np.minimum(_search(end, target, "left"), last)
    before = np.where(k > 0, end[rows[:, None], k - 1], 0.0)
    border = np.where(target < before + 0.5 * mass[k], before, end[rows[:, None], k])
    low = np.minimum(_search(end, border, "left"), last)
    high = np.minimum(_search(end, border, "right"), last)
    part = (target - border + 0.5 * mass[low]) / (0.5 * (mass[low] + mass[high]))
    return np.asarray(d[low] + np.clip(part, 0.0, 1.0) * (d[high] - d[low])).T


def _search(end: Float64Array, values: Float64Array, side: Literal["left", "right"]) -> NDArray[np.intp]:
    """`np.searchsorted` of each row of `values` in the same row of `end`."""
    return np.stack([np.searchsorted(e, v, side) for e, v in zip(end, values, strict=True)])
