"""Checks of the statistics over many objects by simulation: the tables of docs/measurement.md, as Markdown.

python -m benchmarks.lab_statistics      # about six minutes on one core; the same figures every time
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import beta, binom, poisson

from sam_engine.bootstrap import bca_intervals
from sam_engine.border import border_weights
from sam_engine.nesting import inclusion_statistics
from sam_engine.sample_size import STATISTICS, TAILS, VOLUME, masuda_gotoh_count, required_count
from sam_engine.weighted import WeightedSample, percentiles, statistics, weighted_sample

FloatArray = NDArray[np.float64]

SEED = 13322
WIDTHS = (1.05, 1.2, 1.6)  # geometric standard deviations
COUNTS = (20, 100, 500)
CONFIDENCE, RESAMPLES = 0.95, 1000


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def lognormal(rng: np.random.Generator, width: float, size: int | tuple[int, int]) -> FloatArray:
    """Diameters of median 1 and geometric standard deviation `width`."""
    return np.asarray(np.exp(math.log(width) * rng.standard_normal(size)))


def truth(width: float) -> dict[str, float]:
    """Every statistic of the lognormal population."""
    s = math.log(width)
    cv = math.sqrt(math.expm1(s**2))
    mean = math.exp(s**2 / 2)
    d10, d50, d90 = np.exp(s * ndtri(TAILS)).tolist()
    shift = math.exp(
        3 * s**2
    )  # by volume a lognormal distribution is the same one further up (Hatch & Choate)
    span = (d90 - d10) / d50
    return {
        "mean": mean, "std": cv * mean, "cv": cv, "polydispersity_index": cv**2, "geometric_mean": 1.0,
        "geometric_std": width, "d10": d10, "d50": d50, "d90": d90, "span": span,
        "volume_d10": d10 * shift, "volume_d50": d50 * shift, "volume_d90": d90 * shift, "volume_span": span,
        "d32": math.exp(2.5 * s**2), "d43": math.exp(3.5 * s**2),
    }  # fmt: skip


# --- intervals ---


def both_intervals(sample: WeightedSample, seed: int) -> list[dict[str, tuple[float, float]]]:
    """BCa, and the quantiles of the same bootstrap distribution to compare with."""
    resampled = []

    def of(times: FloatArray) -> dict[str, FloatArray]:
        found = statistics(sample, times)
        if (
            len(times) > 1 and (times.sum(axis=1) == len(sample.d)).all()
        ):  # neither the sample nor the jackknife
            resampled.append(found)
        return found

    bca = bca_intervals(of, len(sample.d), confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed)
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    plain = {name: np.quantile(np.concatenate([f[name] for f in resampled]), tails) for name in STATISTICS}
    return [bca, {name: (float(low), float(high)) for name, (low, high) in plain.items()}]


def coverage(width: float, count: int, samples: int) -> list[dict[str, float]]:
    """How often the BCa and the percentile interval hold the true value."""
    rng = np.random.default_rng([SEED, count, round(100 * width)])
    true = truth(width)
    held = [dict.fromkeys(STATISTICS, 0), dict.fromkeys(STATISTICS, 0)]
    for seed in range(samples):
        sample = weighted_sample(lognormal(rng, width, count), None)
        for tally, found in zip(held, both_intervals(sample, seed), strict=True):
            for name, (low, high) in found.items():
                tally[name] += low <= true[name] <= high
    return [{name: hits / samples for name, hits in tally.items()} for tally in held]


def coverage_table(samples: int = 200) -> str:
    """BCa / percentile for each statistic."""
    cases = [(width, count) for width in WIDTHS for count in COUNTS]
    found = [coverage(width, count, samples) for width, count in cases]
    head = ["interval holds the truth, %: BCa / percentile", *(f"{w}, n = {n}" for w, n in cases)]
    rows = [
        [f"`{name}`", *(f"{100 * a[name]:.0f} / {100 * b[name]:.0f}" for a, b in found)]
        for name in STATISTICS
    ]
    return table(head, rows)


# --- percentiles by volume ---


def other_rules(d: FloatArray, mass: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Percentiles of one sorted sample by other plotting positions."""
    end = np.cumsum(mass)
    yield "middle of each mass over the whole, (C − m/2) / S", np.interp(TAILS, (end - mass / 2) / end[-1], d)
    yield "upper end, C / S", np.interp(TAILS, end / end[-1], d)


def percentile_table(samples: int = 4000) -> str:
    """Bias / RMS error of volume percentiles."""
    cases = [(width, count) for width in WIDTHS[1:] for count in COUNTS]
    rows: dict[str, list[str]] = {}
    for width, count in cases:
        rng = np.random.default_rng([SEED, 1, count])
        found: dict[str, list[FloatArray]] = {}
        for _ in range(samples):
            d = np.sort(lognormal(rng, width, count))
            ours = percentiles(d, d**VOLUME, np.ones((1, count)), TAILS)[:, 0]
            for name, value in (("**rescaled to 0..1** (used)", ours), *other_rules(d, d**VOLUME)):
                found.setdefault(name, []).append(value)
        true = np.array([truth(width)[name] for name in ("volume_d10", "volume_d50", "volume_d90")])
        for name, values in found.items():
            error = 100 * (np.array(values) / true - 1)
            for i, level in enumerate(("D10", "D50", "D90")):
                cell = f"{error[:, i].mean():+.1f} / {np.sqrt((error[:, i] ** 2).mean()):.1f}"
                rows.setdefault(f"{level}, {name}", []).append(cell)
    head = ["bias / RMS error, %", *(f"{w}, n = {n}" for w, n in cases)]
    return table(head, [[name, *rows[name]] for name in sorted(rows)])


# --- required counts ---


def within(statistic: str, width: float, count: int, relative_error: float) -> float:
    """Share of samples of `count` objects that know the statistic to `relative_error`."""
    rng = np.random.default_rng([SEED, 2, count])
    true = truth(width)[statistic]
    samples, hits = 500, 0
    for _ in range(samples):
        sample = weighted_sample(lognormal(rng, width, count), None)
        value = statistics(sample, sample.each_once)[statistic][0]
        hits += abs(value / true - 1) <= relative_error
    return hits / samples


def required_table(relative_error: float = 0.05) -> str:
    """Required count, and how often that many objects keep to the error."""
    rows = []
    for name in STATISTICS:
        cells = []
        for width in (1.1, 1.2, 1.4, 1.6):
            count = required_count(name, width, relative_error=relative_error) or 0
            hits = f"{100 * within(name, width, count, relative_error):.0f}" if count < 50_000 else "–"
            cells.append(f"{count} ({hits})")
        rows.append([f"`{name}`", *cells])
    return table(["objects for 5 %, and how often it was kept, %", "1.1", "1.2", "1.4", "1.6"], rows)


def fitted_table() -> str:
    """The formula of Masuda & Gotoh, and how often a fitted lognormal keeps to 5 %."""
    rng = np.random.default_rng([SEED, 3])
    rows = []
    for title, a, b in (
        ("D[1,0]", 1, 0), ("D[3,2]", 1, 2), ("D[4,3]", 1, 3), ("mean volume", 3, 0), ("by volume", 3, 3),
    ):  # fmt: skip
        cells = [title, f"{a}, {b}"]
        for width in (1.1, 1.2, 1.4, 1.6):
            count, s, samples = masuda_gotoh_count(width, alpha=a, beta=b), math.log(width), 20_000
            log_mean = s / math.sqrt(count) * rng.standard_normal(samples)
            log_variance = s**2 * rng.chisquare(count - 1, samples) / (count - 1)
            error = np.exp(a * log_mean + a * (b + a / 2) * (log_variance - s**2)) - 1
            cells.append(f"{count} ({100 * (np.abs(error) <= 0.05).mean():.0f})")
        rows.append(cells)
    return table(["objects for 5 % from a fitted lognormal", "α, β", "1.1", "1.2", "1.4", "1.6"], rows)


# --- border ---


def disc_boxes(
    rng: np.random.Generator, radius: float, count: int, size: tuple[int, int]
) -> NDArray[np.int64]:
    """(n, 4) first and last columns and rows of discs scattered about the picture, drawn by pixel centres."""
    height, width = size
    reach = radius + 2
    x = rng.uniform(-reach, width + reach, count)
    y = rng.uniform(-reach, height + reach, count)
    half_x = np.sqrt(radius**2 - (y - np.round(y)) ** 2)  # half the longest row and column of pixel centres
    half_y = np.sqrt(radius**2 - (x - np.round(x)) ** 2)
    ends = [np.ceil(x - half_x), np.floor(x + half_x), np.ceil(y - half_y), np.floor(y + half_y)]
    return np.stack(ends, axis=1).astype(np.int64)


def border_table(count: int = 4_000_000) -> str:
    """Number of large discs for each small one, of which there are as many."""
    size = (100, 120)
    rows = []
    for large in (10.0, 20.0, 30.0, 40.0):
        seen: dict[str, list[float]] = {
            "every disc inside, uncorrected": [],
            "all that show, cut ones too": [],
        }
        seen |= {"**corrected** (used)": [], "corrected without the pixel": []}
        for radius in (4.0, large):
            boxes = disc_boxes(np.random.default_rng([SEED, 4]), radius, count, size)
            left, right, top, bottom = boxes.T
            shown = (right >= 0) & (left < size[1]) & (bottom >= 0) & (top < size[0])
            inside = (left > 0) & (right < size[1] - 1) & (top > 0) & (bottom < size[0] - 1)
            w, h = (right - left + 1)[inside], (bottom - top + 1)[inside]
            area = (size[1] + 2 * radius + 4) * (size[0] + 2 * radius + 4)
            xywh = np.stack([left[inside], top[inside], w, h], axis=1)
            plain = size[0] * size[1] / ((size[1] - w) * (size[0] - h))
            totals = (inside.sum(), shown.sum(), border_weights(xywh, size).sum(), plain.sum())
            for name, total in zip(seen, totals, strict=True):
                seen[name].append(float(total) * area)
        rows.append([f"{large:g}", *(f"{many / few:.4f}" for few, many in seen.values())])
    return table(["radius of the large discs", *seen], rows)


# --- digital PCR and inclusions ---


def clopper_pearson(k: NDArray[np.int64], n: int) -> tuple[FloatArray, FloatArray]:
    low, high = beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def wilson(k: NDArray[np.int64], n: int) -> tuple[FloatArray, FloatArray]:
    z = float(ndtri(0.975))
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return middle - half, middle + half


def pcr_table() -> str:
    """Exact coverage of lambda's interval: smallest and mean, over 2000 values of lambda."""
    rows = []
    rules: dict[str, Callable[[NDArray[np.int64], int], tuple[FloatArray, FloatArray]]] = {
        "**Clopper-Pearson** (used)": clopper_pearson, "Wilson": wilson,
    }  # fmt: skip
    for name, rule in rules.items():
        cells = [name]
        for n in (20, 200, 2000, 20_000):
            k = np.arange(n + 1)
            low, high = rule(k, n)
            held = []
            for copies in np.geomspace(2 / n, math.log(n / 2), 2000):
                p = -math.expm1(-copies)
                held.append(binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum())
            cells.append(f"{100 * min(held):.1f} / {100 * np.mean(held):.1f}")
        rows.append(cells)
    return table(["smallest / mean coverage, %", "n = 20", "200", "2000", "20 000"], rows)


def volume_table(count: int = 4_000_000) -> str:
    """Concentration found over the true one where the droplet volume varies."""
    rng = np.random.default_rng([SEED, 5])
    rows = []
    for cv in (0.02, 0.05, 0.1, 0.2):
        d = lognormal(rng, math.exp(math.sqrt(math.log1p(cv**2))), count)
        volume = d**3
        cells = [f"{100 * cv:.0f} %"]
        for copies in (0.1, 0.7, 1.6, 3.0):
            negative = np.exp(-copies * volume / volume.mean()).mean()
            found = -math.log(negative) / copies
            by_mean_diameter = found * volume.mean() / d.mean() ** 3
            cells.append(f"{100 * (found - 1):+.1f} / {100 * (by_mean_diameter - 1):+.1f}")
        rows.append(cells)
    head = ["CV of diameters; bias with mean volume / with the volume of the mean diameter, %"]
    return table([*head, "λ = 0.1", "0.7", "1.6", "3"], rows)


def dispersion_table(samples: int = 4000) -> str:
    """How often the dispersion test at 95 % rejects Poisson counts, where it is made."""
    rows = []
    for n in (10, 30, 100, 1000, 10_000):
        cells = [str(n)]
        for mean in (0.03, 0.1, 0.3, 1.0, 3.0):
            rng = np.random.default_rng([SEED, 6, n])
            counts = poisson.rvs(mean, size=(samples if n < 10_000 else samples // 4, n), random_state=rng)
            verdicts = [inclusion_statistics(row).dispersion for row in counts]
            made = [verdict for verdict in verdicts if verdict is not None]
            share = 100 * sum(verdict != "poisson" for verdict in made) / max(1, len(made))
            cells.append(f"{share:.1f} ({100 * len(made) / len(verdicts):.0f})")
        rows.append(cells)
    head = ["containers; rejected, % (made, %)", "mean 0.03", "0.1", "0.3", "1", "3"]
    return table(head, rows)


def main() -> None:
    """Print the tables in the order of the page."""
    for make in (
        percentile_table, coverage_table, required_table, fitted_table, border_table, pcr_table, volume_table,
        dispersion_table,
    ):  # fmt: skip
        print(make(), flush=True, end="\n\n")


if __name__ == "__main__":
    main()
