"""The JSON of an analysis; also its schema in `/openapi.json`. Floats have six significant digits."""

from dataclasses import asdict
from typing import Any

from typing_extensions import TypedDict

from sam_engine.boundary import BoundaryFit
from sam_engine.sample_size import STATISTICS
from service.analysis import Analysis, Fit, Inclusions, Partitions, Sizes
from service.scale import Scale

DIGITS = 6


class EstimateAnswer(TypedDict):
    """A statistic, its interval and relative error, and how many objects 5 % would take."""

    value: float | None
    low: float | None
    high: float | None
    relative_error: float | None
    required_count: int | None


class HistogramAnswer(TypedDict):
    """Bins from edge to edge: objects, and shares of the objects and of their volume."""

    edges: list[float]
    count: list[int]
    number: list[float]
    volume: list[float]


class CurvesAnswer(TypedDict):
    """Diameters below which each fraction of the objects, and of their volume, lies."""

    fraction: list[float]
    number: list[float]
    volume: list[float]


class SizesAnswer(TypedDict):
    """A size distribution in one unit of length."""

    unit: str
    count: int
    effective_count: float
    min: float | None
    max: float | None
    largest_volume_share: float | None
    confidence: float
    resamples: int
    statistics: dict[str, EstimateAnswer]
    histogram: HistogramAnswer
    cumulative: CurvesAnswer


class CountsAnswer(TypedDict):
    """Objects left after each step, and those with a fitted boundary."""

    kept: int
    inside_others: int
    at_the_edge: int
    counted: int
    fitted: int


class BorderAnswer(TypedDict):
    """What the border correction did."""

    excluded: int
    smallest_weight: float | None
    largest_weight: float | None


class CalibrationAnswer(TypedDict):
    """Micrometres a pixel, and where they come from; `bar` where that is a scale bar."""

    um_per_px: float
    source: str
    bar: dict[str, Any] | None


class WarningAnswer(TypedDict):
    """What a reader has to know before relying on a statistic, or on all if it names none."""

    code: str
    message: str
    statistic: str | None


class AnalysisAnswer(TypedDict):
    """Statistics over the counted objects; null for what was not asked for."""

    objects: CountsAnswer
    calibration: CalibrationAnswer | None
    size_distribution: SizesAnswer
    size_distribution_um: SizesAnswer | None
    border_correction: BorderAnswer | None
    digital_pcr: dict[str, Any] | None
    inclusions: dict[str, Any] | None
    warnings: list[WarningAnswer]
    parameters: dict[str, Any]


def analysis_answer(analysis: Analysis, scale: Scale | None) -> AnalysisAnswer:
    """Write an analysis out."""
    micrometres = None if scale is None else sizes_answer(analysis.sizes_in(scale.calibration))
    return AnalysisAnswer(
        objects=CountsAnswer(**asdict(analysis.counts)),  # type: ignore[typeddict-item]
        calibration=None if scale is None else calibration_answer(scale),
        size_distribution=sizes_answer(analysis.sizes),
        size_distribution_um=micrometres,
        border_correction=_border(analysis) if analysis.parameters.border_correction else None,
        digital_pcr=_partitions(analysis.digital_pcr),
        inclusions=_inclusions(analysis.inclusions, scale),
        warnings=[WarningAnswer(**asdict(warning)) for warning in analysis.warnings],  # type: ignore[typeddict-item]
        parameters=analysis.parameters.model_dump(mode="json"),
    )


def sizes_answer(sizes: Sizes) -> SizesAnswer:
    """Write a size distribution out."""
    found = sizes.distribution
    return SizesAnswer(
        unit=sizes.unit,
        count=found.count,
        effective_count=significant(found.effective_count),
        min=significant(found.min),
        max=significant(found.max),
        largest_volume_share=significant(found.largest_volume_share),
        confidence=found.confidence,
        resamples=found.resamples,
        statistics={name: significant(asdict(getattr(found, name))) for name in STATISTICS},
        histogram=significant(asdict(sizes.histogram)),
        cumulative=significant(asdict(sizes.curves)),
    )


def calibration_answer(scale: Scale) -> CalibrationAnswer:
    """Write a calibration out."""
    return CalibrationAnswer(
        um_per_px=scale.um_per_px,
        source=scale.source,
        bar=None if scale.bar is None else significant(asdict(scale.bar)),
    )


def fit_answer(fit: Fit, um_per_px: float | None) -> dict[str, Any]:
    """The fitted curve in pixels, and its diameter in micrometres; or `reason`, why there is none."""
    answer: dict[str, Any] = significant(asdict(fit))
    if um_per_px is not None and isinstance(fit, BoundaryFit):
        answer["equivalent_diameter_um"] = significant(um_per_px * fit.equivalent_diameter)
        answer["diameter_stderr_um"] = significant(um_per_px * fit.diameter_stderr)
    return answer


def significant(value: Any) -> Any:
    """Floats anywhere in lists and dictionaries to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: significant(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [significant(item) for item in value]
    return value


def _border(analysis: Analysis) -> BorderAnswer:
    weights = analysis.weights.values()
    return BorderAnswer(
        excluded=analysis.counts.at_the_edge,
        smallest_weight=significant(min(weights, default=None)),
        largest_weight=significant(max(weights, default=None)),
    )


def _partitions(found: Partitions | None) -> dict[str, Any] | None:
    """Caveats are among the warnings of the analysis."""
    if found is None:
        return None
    answer: dict[str, Any] = {"threshold": found.threshold, "volume_source": found.volume_source}
    for name, record in (("concentration", found.concentration), ("separability", found.separability)):
        answer[name] = None if record is None else _without_caveats(asdict(record))
    return answer


def _inclusions(found: Inclusions | None, scale: Scale | None) -> dict[str, Any] | None:
    if found is None:
        return None
    answer = _without_caveats(asdict(found.statistics))
    answer["diameter_stats"] = significant(asdict(found.sizes))
    if scale is not None:
        answer["diameter_stats_um"] = significant(scale.calibration.sizes(found.sizes))
    return answer


def _without_caveats(record: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = significant({k: v for k, v in record.items() if k != "caveats"})
    return answer
