"""Which masks stay, and which filter removed the others."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from sam_engine.measure import Measurement
from service.schemas import CleanInput, FiltersInput

MIN_MASKS_TO_CLEAN = 3
ON_SCALE_BAR = "scale_bar"

Measure = Callable[[Measurement], float]

# filter -> (what it looks at, whether a value below the bound goes)
BOUNDS: dict[str, tuple[Measure, bool]] = {
    "area_min": (lambda m: m.shape.area, True),
    "area_max": (lambda m: m.shape.area, False),
    "diameter_min": (lambda m: m.shape.equivalent_diameter, True),
    "diameter_max": (lambda m: m.shape.equivalent_diameter, False),
    "circularity_min": (lambda m: m.shape.circularity, True),
    "mean_min": (lambda m: m.intensity.mean, True),
    "mean_max": (lambda m: m.intensity.mean, False),
    "median_min": (lambda m: m.intensity.median, True),
    "median_max": (lambda m: m.intensity.median, False),
    "std_min": (lambda m: m.intensity.std, True),
    "std_max": (lambda m: m.intensity.std, False),
    "min_threshold": (lambda m: m.intensity.min, True),
    "max_threshold": (lambda m: m.intensity.max, False),
    "min_edge_distance": (lambda m: m.edge.minimum, True),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the filters did.

    Attributes:
        removed_by: for each mask the filter that removed it first, or None.
        applied: each filter that removed something, its bound and how many masks it removed.
    """

    removed_by: list[str | None]
    applied: list[tuple[str, object, int]]

    def count(self, prefix: str) -> int:
        """Masks removed by filters whose name begins so."""
        return sum(removed for name, _, removed in self.applied if name.startswith(prefix))

    @property
    def removed(self) -> int:
        """Masks removed in all."""
        return sum(removed for _, _, removed in self.applied)


def judge(
    measurements: Sequence[Measurement],
    filters: FiltersInput,
    named_only: bool,
    on_scale_bar: Sequence[bool] = (),
) -> Verdict:
    """What lies on the scale bar goes first, then the cleaning step, then each filter in the schema's order.

    Args:
        named_only: apply only the filters that the request names, not the defaults (prompted masks).
        on_scale_bar: for each mask whether it is part of the scale bar; empty if there is none.
    """
    removed_by: list[str | None] = [ON_SCALE_BAR if on else None for on in on_scale_bar]
    removed_by = removed_by or [None] * len(measurements)
    objects = [i for i, removed in enumerate(removed_by) if removed is None]
    if filters.clean is not None and filters.clean.enabled and len(objects) >= MIN_MASKS_TO_CLEAN:
        for i, removed in zip(
            objects, _clean([measurements[i] for i in objects], filters.clean), strict=True
        ):
            removed_by[i] = removed
    bounds = _bounds(filters, named_only)
    for i, measurement in enumerate(measurements):
        if removed_by[i] is None:
            removed_by[i] = next((n for n, fails in bounds if fails(measurement)), None)
    counts = Counter(name for name in removed_by if name is not None)
    applied = [(name, _value(filters, name), count) for name, count in counts.items()]
    return Verdict(removed_by, applied)


def _clean(measurements: Sequence[Measurement], clean: CleanInput) -> list[str | None]:
    largest = clean.max_area_factor * median(m.shape.area for m in measurements)

    def verdict(m: Measurement) -> str | None:
        if m.shape.area > largest:
            return "clean.max_area_factor"
        if clean.exclude_edge_touching and m.edge.touches:
            return "clean.exclude_edge_touching"
        return "clean.min_circularity" if m.shape.circularity < clean.min_circularity else None

    return [verdict(m) for m in measurements]


def _bounds(filters: FiltersInput, named_only: bool) -> list[tuple[str, Callable[[Measurement], bool]]]:
    names = filters.model_fields_set if named_only else FiltersInput.model_fields.keys()
    found: list[tuple[str, Callable[[Measurement], bool]]] = []
    for name, (measure, least) in BOUNDS.items():
        bound = getattr(filters, name)
        if name in names and bound is not None:
            found.append((name, _outside(measure, bound, least)))
    if filters.exclude_edge_touching:
        found.append(("exclude_edge_touching", lambda m: m.edge.touches))
    return found


def _outside(measure: Measure, bound: float, least: bool) -> Callable[[Measurement], bool]:
    if least:
        return lambda m: measure(m) < bound
    return lambda m: measure(m) > bound


def _value(filters: FiltersInput, name: str) -> object:
    if name == ON_SCALE_BAR:
        return True
    holder: object = filters
    for part in name.split("."):
        holder = getattr(holder, part)
    return holder
