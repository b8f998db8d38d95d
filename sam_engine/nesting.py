"""Which object lies in which, and whether inclusions are spread over their containers at random.

Inclusions are beads or cells in droplets, or droplets in droplets. docs/measurement.md has the limits of the
test.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtr, chdtrc, chdtri, gammaln, pdtrc, xlogy

from sam_engine.caveat import Caveat
from sam_engine.errors import InvalidInput
from sam_engine.types import Mask

IntArray = NDArray[np.int64]

MAX_CLASS = 50  # inclusions from which all share the last class
MAX_INCLUSIONS = 10**9  # in one container
MIN_CONTAINERS = 10
MIN_PAIRS = 5.0  # of inclusions that chance would put together; fewer and the test does not hold its level


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Fractions of containers with no, one and more inclusions."""

    empty: float
    single: float
    multiple: float


@dataclass(frozen=True, slots=True)
class InclusionStatistics:
    """Inclusions per container against a Poisson distribution of the same mean; None where there is no value.

    Attributes:
        containers, inclusions: how many there are.
        mean: inclusions per container, the lambda of the Poisson distribution.
        mean_low, mean_high: its exact interval (Garwood 1936), if the counts are Poisson's.
        variance: of the sample (n - 1).
        dispersion_index: variance / mean; 1 for Poisson, below for ordered and above for clustered loading.
        p_over, p_under: probability under Poisson of an index at least this high, and at least this low.
        dispersion: "over", "under" or "poisson", by the two-sided test at 1 - `confidence`.
        observed, expected: containers with 0, 1, 2, ... inclusions; the last class has that many or more.
        occupancy, expected_occupancy: as counted, and by Poisson.
    """

    containers: int
    inclusions: int
    confidence: float
    mean: float | None
    mean_low: float | None
    mean_high: float | None
    variance: float | None
    dispersion_index: float | None
    p_over: float | None
    p_under: float | None
    dispersion: str | None
    observed: tuple[int, ...]
    expected: tuple[float, ...]
    occupancy: Occupancy | None
    expected_occupancy: Occupancy | None
    caveats: tuple[Caveat, ...]


def parents(
    masks: Sequence[Mask], *, min_overlap: float = 0.9, min_area_ratio: float = 1.2
) -> list[int | None]:
    """Index of the smallest mask that each mask lies in, None for one that lies in none.

    A mask lies in another that has at least `min_overlap` of its pixels and `min_area_ratio` times its area.
    Parents are larger than their children, so that there is no cycle. Of equally large ones the first counts.

    Args:
        masks: of one picture. A droplet must be filled: pixels of a hole belong to nothing.
        min_overlap: above 0.5, up to 1.
        min_area_ratio: above 1; two masks of nearly equal area are two drawings of one object.

    Raises:
        InvalidInput: an argument is out of range, or the masks are of pictures of different sizes.
    """
    if not 0.5 < min_overlap <= 1:
        raise InvalidInput("min_overlap", f"{min_overlap} must be above 0.5 and at most 1")
    if not (math.isfinite(min_area_ratio) and min_area_ratio > 1):
        raise InvalidInput("min_area_ratio", f"{min_area_ratio} must be finite and > 1")
    for i, mask in enumerate(masks):
        if mask.image_size != masks[0].image_size:
            raise InvalidInput(f"masks[{i}].image_size", f"={mask.image_size} must be {masks[0].image_size}")
    if not masks:
        return []
    boxes = np.array([mask.bbox_xywh for mask in masks], dtype=np.int64)
    areas = np.array([mask.area for mask in masks], dtype=np.int64)
    by_area = np.argsort(areas, kind="stable")
    found: list[int | None] = []
    for child, mask in enumerate(masks):
        needed = min_overlap * areas[child]
        large = by_area[areas[by_area] >= min_area_ratio * areas[child]]
        candidates = large[_common_area(boxes[child], boxes[large]) >= needed]
        inside = (int(parent) for parent in candidates if _overlap(mask, masks[parent]) >= needed)
        found.append(next(inside, None))
    return found


def inclusion_counts(parent_of: Sequence[int | None], containers: Sequence[int] | None = None) -> list[int]:
    """How many masks lie directly in each container.

    Args:
        parent_of: the parent of each mask, as of `parents`.
        containers: indices of masks; None for all that lie in no other. A stray bead outside every droplet is
            such a mask, so name the droplets where there may be any.

    Raises:
        InvalidInput: an index is not one of a mask.
    """
    if containers is None:
        containers = [i for i, parent in enumerate(parent_of) if parent is None]
    for field, indices in (("parent_of", parent_of), ("containers", containers)):
        for i, index in enumerate(indices):
            if index is not None and not 0 <= index < len(parent_of):
                raise InvalidInput(f"{field}[{i}]", f"={index} must be one of {len(parent_of)} masks")
    children = Counter(parent_of)
    return [children[container] for container in containers]


def inclusion_statistics(counts: ArrayLike, *, confidence: float = 0.95) -> InclusionStatistics:
    """How inclusions are spread over containers; `counts` is (n,), the number in each.

    The dispersion test takes (n - 1) variance / mean as chi-squared with n - 1 degrees of freedom (Fisher
    1950). It is made from 10 containers and where chance would put at least 5 pairs of inclusions together,
    N (N - 1) / 2n for N inclusions: below, it does not hold its level.

    Raises:
        InvalidInput: a count is not a whole number from 0 to 1e9, or `confidence` is not between 0 and 1.
    """
    values = _counts(counts)
    if not 0 < confidence < 1:
        raise InvalidInput("confidence", f"{confidence} must lie between 0 and 1")
    n, total = len(values), int(values.sum())
    mean = total / n if n else None
    low, high = _garwood(total, n, confidence)
    variance = float(values.var(ddof=1)) if n > 1 else None
    index = variance / mean if mean and variance is not None else None
    p_over, p_under = _dispersion_test(index, n, total)
    observed, expected = _classes(values)
    return InclusionStatistics(
        containers=n,
        inclusions=total,
        confidence=float(confidence),
        mean=mean,
        mean_low=low,
        mean_high=high,
        variance=variance,
        dispersion_index=index,
        p_over=p_over,
        p_under=p_under,
        dispersion=_verdict(p_over, p_under, confidence),
        observed=observed,
        expected=expected,
        occupancy=_occupancy(values),
        expected_occupancy=_poisson_occupancy(mean),
        caveats=_caveats(n, total, p_over),
    )


def _common_area(box: IntArray, boxes: IntArray) -> IntArray:
    """(n,): pixels that the bounding box has in common with each of `boxes` (n, 4)."""
    start = np.maximum(box[:2], boxes[:, :2])
    stop = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    return np.asarray(np.clip(stop - start, 0, None).prod(axis=1))


def _overlap(a: Mask, b: Mask) -> int:
    """Pixels that two masks have in common."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.bbox_xywh, b.bbox_xywh
    x, y = max(ax, bx), max(ay, by)
    right, bottom = min(ax + aw, bx + bw), min(ay + ah, by + bh)
    if x >= right or y >= bottom:
        return 0
    in_a = a.pixels[y - ay : bottom - ay, x - ax : right - ax]
    in_b = b.pixels[y - by : bottom - by, x - bx : right - bx]
    return int(np.count_nonzero(in_a & in_b))


def _counts(counts: ArrayLike) -> IntArray:
    """(n,) of whole numbers, checked."""
    try:
        values = np.asarray(counts, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput("counts", "must be numbers") from error
    if values.ndim != 1:
        raise InvalidInput("counts", f"have {values.ndim} dimensions, must have 1")
    wrong = ~((values >= 0) & (values <= MAX_INCLUSIONS) & (values == np.floor(values)))
    if wrong.any():
        at = int(wrong.argmax())
        bound = f"must be a whole number from 0 to {MAX_INCLUSIONS}"
        raise InvalidInput(f"counts[{at}]", f"={values[at]:g} {bound}")
    return values.astype(np.int64)


def _garwood(total: int, n: int, confidence: float) -> tuple[float | None, float | None]:
    """Exact interval of a Poisson mean from the sum of n counts (Garwood 1936)."""
    if n == 0:
        return None, None
    tail = (1.0 - confidence) / 2.0
    low = float(chdtri(2 * total, 1.0 - tail)) / 2.0 / n if total else 0.0
    return low, float(chdtri(2 * total + 2, tail)) / 2.0 / n


def _dispersion_test(index: float | None, n: int, total: int) -> tuple[float | None, float | None]:
    """Probabilities of an index as high, and as low; None where the test does not hold its level."""
    if index is None or n < MIN_CONTAINERS or total * (total - 1) / (2 * n) < MIN_PAIRS:
        return None, None
    statistic = (n - 1) * index
    return float(chdtrc(n - 1, statistic)), float(chdtr(n - 1, statistic))


def _verdict(p_over: float | None, p_under: float | None, confidence: float) -> str | None:
    if p_over is None or p_under is None:
        return None
    if min(p_over, p_under) >= (1.0 - confidence) / 2.0:
        return "poisson"
    return "over" if p_over < p_under else "under"


def _classes(values: IntArray) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Containers of 0, 1, ... inclusions, and Poisson's expectation; unless cut at 50, the last is empty."""
    if not len(values):
        return (), ()
    last = min(max(2, int(values.max()) + 1), MAX_CLASS)
    observed = np.bincount(np.minimum(values, last), minlength=last + 1)
    k, mean = np.arange(last), values.mean()
    expected = len(values) * np.append(np.exp(xlogy(k, mean) - mean - gammaln(k + 1)), pdtrc(last - 1, mean))
    return tuple(observed.tolist()), tuple(expected.tolist())


def _occupancy(values: IntArray) -> Occupancy | None:
    if not len(values):
        return None
    return Occupancy(float((values == 0).mean()), float((values == 1).mean()), float((values > 1).mean()))


def _poisson_occupancy(mean: float | None) -> Occupancy | None:
    if mean is None:
        return None
    return Occupancy(math.exp(-mean), mean * math.exp(-mean), float(pdtrc(1, mean)))


def _caveats(n: int, total: int, p_over: float | None) -> tuple[Caveat, ...]:
    if p_over is not None:
        return ()
    message = (
        f"{total} inclusions in {n} containers; the test takes {MIN_CONTAINERS} containers, and inclusions "
        f"enough for {MIN_PAIRS:g} chance pairs"
    )
    return (Caveat("too_few_for_test", message, "dispersion"),)
