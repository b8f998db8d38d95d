"""Markdown tables of results; of several results of one part a cell shows each figure, first to last."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training.compare import Result
from training.groups import DRAWN, family_of
from training.metrics import SIZE_CLASSES

Figure = float | None
Pick = Callable[[Mapping[str, Any]], Figure]

NONE = "-"
ARROW = " → "


def headline(results: Sequence[Result]) -> str:
    """One row a group: click, box, and F1 at IoU 0.5 of every method."""
    methods = method_names(results, baselines=False) + method_names(results, baselines=True)
    header = ["", "pictures", "click", "best of 3", "box", *(f"{name} F1" for name in methods)]
    rows = []
    for group in group_names(results):
        prompted = [_prompted(results, group, name) for name in ("click", "click_oracle", "box")]
        f1 = [_method(results, group, name, lambda summary: summary["f1"]) for name in methods]
        rows.append([group, _pictures(results, group), *(cell(values) for values in [*prompted, *f1])])
    return markdown(header, rows)


def everything(results: Sequence[Result]) -> str:
    """One row a group and mode: what was found, what was missed, what was found that is not there."""
    picks: dict[str, Pick] = {
        "precision": lambda s: s["precision"],
        "recall": lambda s: s["recall"],
        "F1": lambda s: s["f1"],
        "F1 at 0.75": lambda s: s["f1_strict"],
        "AP50": lambda s: s["average_precision"],
        "matched IoU": lambda s: s["matched_iou"],
        **{f"recall {size}": _recall_of(size) for size in SIZE_CLASSES},
        "false a picture": lambda s: s["false_per_picture"],
    }
    rows = [
        [group, mode, *(cell(_method(results, group, mode, pick)) for pick in picks.values())]
        for group in group_names(results)
        for mode in method_names(results, baselines=False)
    ]
    return markdown(["", "mode", *picks], rows)


def measurements(results: Sequence[Result]) -> str:
    """One row a group and method: errors of a picture's count and sizes, median and absolute median."""
    names = {
        "count, %": "count_error",
        "mean diameter, %": "mean_diameter_error",
        "D[3,2], %": "d32_error",
        "CV, points": "cv_error",
    }
    rows = [
        [group, method, *(_error_cell(results, group, method, name) for name in names.values())]
        for group in group_names(results)
        for method in method_names(results, baselines=False) + method_names(results, baselines=True)
        if any(_method(results, group, method, lambda s: s["objects"]))
    ]
    return markdown(["", "method", *names], rows)


def group_names(results: Sequence[Result]) -> list[str]:
    """Of all results: data sets first, then kinds of scenes."""
    names = list(dict.fromkeys(name for result in results for name in result["groups"]))
    return sorted(names, key=lambda name: family_of(name) == DRAWN)


def method_names(results: Sequence[Result], *, baselines: bool) -> list[str]:
    """The modes of the engine, or the classical methods, in the order in which they were run."""
    methods = [
        (name, method["baseline"])
        for result in results
        for group in result["groups"].values()
        for name, method in group["methods"].items()
    ]
    return list(dict.fromkeys(name for name, baseline in methods if baseline == baselines))


def cell(values: Sequence[Figure]) -> str:
    """Figures of the results one after another; those that are the same everywhere once."""
    known = [NONE if value is None else f"{value:.2f}" for value in values]
    return _joined(known)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _group(result: Result, group: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result["groups"].get(group, {})
    return found


def _method(results: Sequence[Result], group: str, method: str, pick: Pick) -> list[Figure]:
    found = [_group(result, group).get("methods", {}).get(method) for result in results]
    return [None if one is None else pick(one["summary"]) for one in found]


def _prompted(results: Sequence[Result], group: str, name: str) -> list[Figure]:
    found = [_group(result, group).get("prompts") for result in results]
    return [None if one is None else one["summary"][name] for one in found]


def _pictures(results: Sequence[Result], group: str) -> str:
    """How many were measured, of how many there are."""
    found = [_group(result, group) for result in results]
    counts = [f"{len(one['pictures'])} of {one['available']}" if one else NONE for one in found]
    return _joined(counts)


def _recall_of(size: str) -> Pick:
    return lambda summary: summary["recall_by_size"][size]


def _error_of(name: str, key: str) -> Pick:
    return lambda summary: summary[name][key]


def _error_cell(results: Sequence[Result], group: str, method: str, name: str) -> str:
    median, absolute = (
        _method(results, group, method, _error_of(name, key)) for key in ("median", "absolute_median")
    )
    known = [
        NONE if m is None or a is None else f"{round(m, 1) + 0.0:+.1f} ({a:.1f})"
        for m, a in zip(median, absolute, strict=True)
    ]
    return _joined(known)


def _joined(cells: Sequence[str]) -> str:
    return cells[0] if len(set(cells)) == 1 else ARROW.join(cells)
