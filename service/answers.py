"""The JSON of a segmentation. These types are also the schemas of `/openapi.json`."""

import base64
from typing import Any, NotRequired

from typing_extensions import TypedDict

from sam_engine.calibration import Calibration
from sam_engine.masks import encode_rle, polygons
from sam_engine.measure import Measurement
from service.analysis import Analysis
from service.analysis_answers import (
    AnalysisAnswer,
    CalibrationAnswer,
    analysis_answer,
    calibration_answer,
    fit_answer,
    significant,
)
from service.exports.png import mask_png
from service.objects import SegmentedObject
from service.provenance import FilterApplied, ImageInfo, ModelInfo, filters_applied, image_info, model_info
from service.segmentation import Segmentation

DECIMALS = 4


class PixelStats(TypedDict):
    """Of the original pixels under a mask."""

    mean_intensity: float
    min_intensity: float
    max_intensity: float
    std_intensity: float
    median_intensity: float
    pixel_count: int


class Distances(TypedDict):
    """Pixels between the bounding box and each edge of the picture."""

    top: int
    bottom: int
    left: int
    right: int


class EdgeStats(TypedDict):
    """How near the mask is to the edges of the picture."""

    min_distance_to_edge: int
    touches_edge: bool
    distances: Distances
    edge_touching_sides: list[str]


class MaskAnswer(TypedDict):
    """A mask; lengths in pixels, and in micrometres where there is a calibration.

    `counted` to `fit` come with an analysis: whether its statistics are over the object, how many objects it
    stands for, the object around it, those in it, its diameter with them, and the curve through its edge (or
    `reason`, why there is none).
    """

    id: int
    bbox: list[int]
    area: int
    predicted_iou: float
    stability_score: float
    point_coords: list[list[float]]
    max_feret_diameter: float
    equivalent_diameter: float
    perimeter: float
    circularity: float
    solidity: float
    eccentricity: float
    centroid: list[float]
    pixel_stats: PixelStats
    edge_stats: EdgeStats
    prompt_index: NotRequired[int]
    mask_index: NotRequired[int]
    mask_input_id: NotRequired[str]
    removed_by: NotRequired[str | None]
    intensity_class: NotRequired[str]
    area_um2: NotRequired[float]
    equivalent_diameter_um: NotRequired[float]
    max_feret_diameter_um: NotRequired[float]
    perimeter_um: NotRequired[float]
    counted: NotRequired[bool]
    border_weight: NotRequired[float]
    parent_id: NotRequired[int | None]
    children: NotRequired[list[int]]
    outline_diameter: NotRequired[float]
    outline_diameter_um: NotRequired[float]
    fit: NotRequired[dict[str, Any]]
    image: NotRequired[str]
    rle: NotRequired[dict[str, Any]]
    polygon: NotRequired[list[list[float]]]


class PreprocessingInfo(TypedDict):
    """What the cleaning step removed."""

    removed_large_masks: int
    removed_edge_touching: int
    removed_non_circular: int


class SegmentAnswer(TypedDict):
    """The answer of `/segment` and `/segment_file`."""

    success: bool
    model: ModelInfo
    image: ImageInfo
    num_masks: int
    original_count: int
    preprocessing_removed: int
    user_filter_removed: int
    preprocessing_info: PreprocessingInfo
    masks: list[MaskAnswer]
    automatic: dict[str, Any] | None
    prompts_without_mask: list[int]
    filters_applied: list[FilterApplied]
    preprocessing_applied: dict[str, Any]
    summary_statistics: dict[str, Any]
    timings_ms: dict[str, float]
    embedding_id: str
    calibration: NotRequired[CalibrationAnswer]
    analysis: NotRequired[AnalysisAnswer]


def segment_answer(found: Segmentation) -> SegmentAnswer:
    """Write a segmentation out; intensities and lengths are rounded to four decimals."""
    verdict, calibration = found.verdict, found.calibration
    with found.watch.stage("output"):
        masks = [_mask_answer(item, found) for item in found.objects]
    cleaned = verdict.count("clean.")
    answer = SegmentAnswer(
        success=True,
        model=model_info(found.model),
        image=image_info(found),
        num_masks=len(found.kept),
        original_count=found.original_count,
        preprocessing_removed=cleaned,
        user_filter_removed=verdict.removed - cleaned,
        preprocessing_info=PreprocessingInfo(
            removed_large_masks=verdict.count("clean.max_area_factor"),
            removed_edge_touching=verdict.count("clean.exclude_edge_touching"),
            removed_non_circular=verdict.count("clean.min_circularity"),
        ),
        masks=masks,
        automatic=found.automatic,
        prompts_without_mask=found.prompts_without_mask,
        filters_applied=filters_applied(found),
        preprocessing_applied=_preprocessing_applied(found),
        summary_statistics=_summary(found, calibration),
        timings_ms=found.watch.read(),
        embedding_id=found.embedding_id,
    )
    if found.scale is not None:
        answer["calibration"] = calibration_answer(found.scale)
    if found.analysis is not None:
        answer["analysis"] = analysis_answer(found.analysis, found.scale)
    return answer


def rounded(value: Any) -> Any:
    """Floats anywhere in lists and dictionaries to four decimals."""
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _mask_answer(item: SegmentedObject, found: Segmentation) -> MaskAnswer:
    answer = _measured(item)
    mask = item.mask
    if mask.prompt_index is not None and mask.mask_index is not None and item.mask_input_id is not None:
        answer["prompt_index"], answer["mask_index"] = mask.prompt_index, mask.mask_index
        answer["mask_input_id"] = item.mask_input_id
    if found.options.output.unfiltered:
        answer["removed_by"] = item.removed_by
    if item.intensity_class is not None:
        answer["intensity_class"] = item.intensity_class
    if found.calibration is not None:
        answer.update(rounded(found.calibration.shape(item.measurement.shape)))
    if found.analysis is not None and item.removed_by is None:
        _add_analysis(answer, found.analysis, found.calibration)
    forms = found.options.output.masks
    if "png" in forms:
        answer["image"] = "data:image/png;base64," + base64.b64encode(mask_png(mask)).decode("ascii")
    if "rle" in forms:
        answer["rle"] = encode_rle(mask)
    if "polygon" in forms:
        answer["polygon"] = [rounded(outline.ravel().tolist()) for outline in polygons(mask)]
    return answer


def _add_analysis(answer: MaskAnswer, analysis: Analysis, calibration: Calibration | None) -> None:
    """What was asked for of this object."""
    number = answer["id"]
    answer["counted"] = number in analysis.weights
    if analysis.parameters.border_correction:
        answer["border_weight"] = significant(analysis.weights.get(number, 0.0))
    if analysis.parameters.inclusions:
        answer["parent_id"] = analysis.parent_of[number]
        answer["children"] = analysis.children_of.get(number, [])
        answer["outline_diameter"] = rounded(analysis.diameters[number])
        if calibration is not None:
            answer["outline_diameter_um"] = rounded(calibration.um_per_px * analysis.diameters[number])
    if number in analysis.fits:
        um_per_px = None if calibration is None else calibration.um_per_px
        answer["fit"] = fit_answer(analysis.fits[number], um_per_px)


def _measured(item: SegmentedObject) -> MaskAnswer:
    mask, shape = item.mask, item.measurement.shape
    return MaskAnswer(
        id=item.id,
        bbox=[int(side) for side in mask.bbox_xywh],
        area=shape.area,
        predicted_iou=rounded(mask.predicted_iou),
        stability_score=rounded(mask.stability_score),
        point_coords=rounded(mask.point_coords),
        max_feret_diameter=rounded(shape.max_feret_diameter),
        equivalent_diameter=rounded(shape.equivalent_diameter),
        perimeter=rounded(shape.perimeter),
        circularity=rounded(shape.circularity),
        solidity=rounded(shape.solidity),
        eccentricity=rounded(shape.eccentricity),
        centroid=rounded(shape.centroid_xy),
        pixel_stats=_pixel_stats(item.measurement),
        edge_stats=_edge_stats(item.measurement),
    )


def _pixel_stats(measurement: Measurement) -> PixelStats:
    intensity = measurement.intensity
    return PixelStats(
        mean_intensity=rounded(intensity.mean),
        min_intensity=rounded(intensity.min),
        max_intensity=rounded(intensity.max),
        std_intensity=rounded(intensity.std),
        median_intensity=rounded(intensity.median),
        pixel_count=intensity.pixel_count,
    )


def _edge_stats(measurement: Measurement) -> EdgeStats:
    edge = measurement.edge
    return EdgeStats(
        min_distance_to_edge=edge.minimum,
        touches_edge=edge.touches,
        distances=Distances(top=edge.top, bottom=edge.bottom, left=edge.left, right=edge.right),
        edge_touching_sides=list(edge.touching_sides),
    )


def _preprocessing_applied(found: Segmentation) -> dict[str, Any]:
    steps = found.options.preprocessing.model_dump(exclude_none=True)
    return {name: step for name, step in steps.items() if step["enabled"]}


def _summary(found: Segmentation, calibration: Calibration | None) -> dict[str, Any]:
    summary = found.summary.as_dict()
    if calibration is not None:
        summary["um_per_px"] = calibration.um_per_px
        summary["diameter_stats_um"] = calibration.sizes(found.summary.diameter_stats)
    answer: dict[str, Any] = rounded(summary)
    return answer
