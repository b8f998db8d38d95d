"""Two results of `training.evaluate` group by group: what became better, what worse, and whether to ship."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import InvalidInput

Float64Array = NDArray[np.float64]
Result = Mapping[str, Any]
Verdict = Literal["better", "worse", "mixed", "same", "undecided"]

FORMAT = 1
RESAMPLES = 2000
SEED = 7
CONFIDENCE = 0.95
MIN_PICTURES = 5  # resampling fewer says nothing

# Checkpoints whose training saw an unknown part of a set: their figures there flatter them.
SEEN = {
    "a8f84312e76e33a154ddad5c8fc80b5089771b754e9e288a5a8ec8ba8509675e": ("nuclei_dsb2018", "emps_particles"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one group, before and after.

    Attributes:
        interval: of the difference, by resampling pictures; None for fewer than `MIN_PICTURES`.
        sign: 1 where more is better, -1 where less is.
    """

    figure: str
    before: float
    after: float
    interval: tuple[float, float] | None
    sign: int = 1

    @property
    def verdict(self) -> Verdict:
        """A change counts where the interval does not hold zero."""
        if self.before == self.after:
            return "same"
        if self.interval is None:
            return "undecided"
        low, high = sorted(self.sign * end for end in self.interval)
        return "better" if low > 0 else "worse" if high < 0 else "same"


@dataclass(frozen=True, slots=True)
class GroupChange:
    """All headline figures of one group.

    Attributes:
        flattered: whether the earlier checkpoint saw pictures of this set in training.
    """

    group: str
    pictures: int
    changes: tuple[Change, ...]
    flattered: bool = False

    @property
    def verdict(self) -> Verdict:
        """Better if something is and nothing is worse; and so on."""
        verdicts = {change.verdict for change in self.changes}
        if {"better", "worse"} <= verdicts:
            return "mixed"
        for verdict in ("worse", "undecided", "better"):
            if verdict in verdicts:
                return verdict
        return "same"


@dataclass(frozen=True, eq=False, slots=True)
class _Ratio:
    """A figure that is a ratio of sums over pictures."""

    name: str
    numerator: Float64Array
    denominator: Float64Array
    sign: int = 1


def read_result(path: Path) -> Result:
    """What `training.evaluate --json` wrote.

    Raises:
        InvalidInput: the file is no such result, or one of another format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(str(path), f"is not JSON: {error}") from error
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise InvalidInput(str(path), f"is a result of format {found}, must be {FORMAT}")
    return dict(result)


def compare(before: Result, after: Result) -> list[GroupChange]:
    """Changes of every group that both results have, on the same pictures.

    Raises:
        InvalidInput: the results are of different parts, have no group in common, or other pictures in one.
    """
    parts = (before["settings"]["split"], after["settings"]["split"])
    if parts[0] != parts[1]:
        raise InvalidInput("compare", f"needs results of one part of the data, has {parts[0]} and {parts[1]}")
    common = [name for name in after["groups"] if name in before["groups"]]
    if not common:
        raise InvalidInput("compare", "needs a group that both results have")
    flattered = SEEN.get(before["checkpoint"]["sha256"], ())
    found = [_compare_group(name, before["groups"][name], after["groups"][name]) for name in common]
    return [replace(change, flattered=change.group in flattered) for change in found]


def ships(changes: Sequence[GroupChange]) -> bool:
    """The shipped file is replaced only by one that is better on most groups and worse on none.

    Groups that the earlier checkpoint saw in training do not decide.
    """
    verdicts = [change.verdict for change in changes if not change.flattered]
    better = verdicts.count("better")
    return 2 * better > len(verdicts) and better + verdicts.count("same") == len(verdicts)


def as_text(changes: Sequence[GroupChange]) -> str:
    """A table and the verdict."""
    lines = [f"{'group':24} {'figure':18} {'before':>7} {'after':>7}  {'change (95 %)':26} verdict"]
    for group in changes:
        for change in group.changes:
            ends = (
                "too few pictures"
                if change.interval is None
                else "{:+.3f} to {:+.3f}".format(*change.interval)
            )
            difference = f"{change.after - change.before:+.3f} ({ends})"
            lines.append(
                f"{group.group:24} {change.figure:18} {change.before:7.3f} {change.after:7.3f}  "
                f"{difference:26} {change.verdict}"
            )
        flattered = ", seen in training by the earlier one" if group.flattered else ""
        lines.append(f"{group.group:24} {group.verdict} ({group.pictures} pictures{flattered})")
    ready = "yes" if ships(changes) else "no, not better on most groups and worse on none"
    return "\n".join([*lines, f"replace the shipped checkpoint: {ready}"])


def interval_of(
    numerators: Sequence[Float64Array], denominators: Sequence[Float64Array]
) -> tuple[float, float] | None:
    """Percentile bootstrap (Efron 1979) of the second ratio of sums minus the first, pictures in pairs."""
    pictures = len(numerators[0])
    if pictures < MIN_PICTURES:
        return None
    drawn = np.random.default_rng(SEED).integers(pictures, size=(RESAMPLES, pictures))
    ratios = [
        n[drawn].sum(axis=1) / np.maximum(d[drawn].sum(axis=1), 1e-12)
        for n, d in zip(numerators, denominators, strict=True)
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ratios[1] - ratios[0], (tail, 100 - tail))
    return float(low), float(high)


def _compare_group(name: str, before: Result, after: Result) -> GroupChange:
    if before["pictures"] != after["pictures"]:
        raise InvalidInput(
            f"groups.{name}", "has other pictures in the two results; evaluate with the same limit"
        )
    old, new = (_ratios(group) for group in (before, after))
    pairs = [(ratio, new[key]) for key, ratio in old.items() if key in new]
    changes = [_change(a, b) for a, b in pairs if a.denominator.sum() and b.denominator.sum()]
    return GroupChange(name, len(after["pictures"]), tuple(changes))


def _change(before: _Ratio, after: _Ratio) -> Change:
    return Change(
        before.name,
        float(before.numerator.sum() / before.denominator.sum()),
        float(after.numerator.sum() / after.denominator.sum()),
        interval_of((before.numerator, after.numerator), (before.denominator, after.denominator)),
        before.sign,
    )


def _ratios(group: Result) -> dict[str, _Ratio]:
    """Click IoU, box IoU and F1 of each mode; where there is nothing to find, false masks a picture."""
    ratios = []
    if group["prompts"] is not None:
        rows = group["prompts"]["pictures"]
        objects = _column(rows, "objects")
        ratios += [_Ratio(f"{name} IoU", _column(rows, name), objects) for name in ("click", "box")]
    for mode, method in group["methods"].items():
        if method["baseline"]:
            continue
        rows = method["pictures"]
        objects, false = _column(rows, "objects"), _column(rows, "false")
        matched = _column(rows, "matched")
        if objects.any():
            ratios.append(_Ratio(f"{mode} F1", 2 * matched, matched + false + objects))
        else:
            ratios.append(_Ratio(f"{mode} false", false, np.ones(len(rows)), sign=-1))
    return {ratio.name: ratio for ratio in ratios}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Float64Array:
    return np.array([row[name] for row in rows], dtype=np.float64)
