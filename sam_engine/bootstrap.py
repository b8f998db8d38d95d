"""Bootstrap confidence intervals of many statistics at once, with bounded memory."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Float64Array = NDArray[np.float64]
Statistics = Callable[[Float64Array], Mapping[str, Float64Array]]

BLOCK = 200_000  # multiplicities held at once
JACKKNIFE_GROUPS = 200


def bca_intervals(
    statistics: Statistics, count: int, *, confidence: float, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Bias-corrected and accelerated intervals (BCa, Efron 1987), the same ones for the same seed.

    The acceleration comes from a jackknife that leaves out one of at most 200 random groups at a time.

    Args:
        statistics: the (rows,) values by name of (rows, n) samples, each given by how many times it holds
            each of the n objects.
        count: number n of objects, at least 2.
    """
    rng = np.random.default_rng(seed)
    value = statistics(np.ones((1, count)))
    boot = _gather(statistics, _resamples(rng, count, resamples))
    jack = _gather(statistics, _leave_out(rng, count))
    tail = (1.0 - confidence) / 2.0
    return {name: _bca(boot[name], jack[name], float(value[name][0]), tail) for name in value}


def _resamples(rng: np.random.Generator, count: int, resamples: int) -> Iterator[Float64Array]:
    """Blocks of rows, each of `count` draws with replacement."""
    most = max(1, BLOCK // count)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _leave_out(rng: np.random.Generator, count: int) -> Iterator[Float64Array]:
    """Blocks of rows that each lack one group."""
    groups = min(count, JACKKNIFE_GROUPS)
    group = rng.permutation(count) % groups
    most = max(1, BLOCK // count)
    for start in range(0, groups, most):
        left_out = np.arange(start, min(start + most, groups))
        yield (group != left_out[:, None]).astype(np.float64)


def _gather(statistics: Statistics, blocks: Iterator[Float64Array]) -> dict[str, Float64Array]:
    """The statistics of all blocks, end to end."""
    found = [statistics(block) for block in blocks]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _bca(boot: Float64Array, jack: Float64Array, value: float, tail: float) -> tuple[float, float]:
    """Ends of one interval; a resample that gives the value itself counts half as below it."""
    below = np.count_nonzero(boot < value) + 0.5 * np.count_nonzero(boot == value)
    edge = 0.5 / len(boot)
    bias = ndtri(np.clip(below / len(boot), edge, 1.0 - edge))
    away = jack.mean() - jack
    squares = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6.0 * squares**1.5) if squares > 0 else 0.0
    shifted = bias + ndtri(np.array([tail, 1.0 - tail]))
    levels = ndtr(bias + shifted / np.maximum(1.0 - acceleration * shifted, 0.05))
    low, high = np.quantile(boot, levels)
    return float(low), float(high)
