"""Segment and measure one picture."""

from typing import Any

from flask import Blueprint, Response, jsonify, request
from typing_extensions import TypedDict

from sam_engine.measure import image_statistics
from service.answers import SegmentAnswer, rounded
from service.errors import UnsupportedImage
from service.images import decode
from service.operations import Access, operation
from service.provenance import model_info
from service.routes.context import context
from service.routes.exchange import (
    MEDIA_TYPES,
    answer,
    asked_in_form,
    asked_in_json,
    image_limits,
    refuse_fields,
    uploaded_file,
)
from service.schemas import AnalysisInput, SegmentOptions, SegmentRequest, SequenceOptions
from service.segmentation import Stopwatch, resolve_automatic

blueprint = Blueprint("segment", __name__)

OLD_DEFAULTS = {
    "filters": {"area_min": 50, "area_max": 15000},
    "preprocessing": {
        "blur": {"enabled": True, "kernel_size": 3, "sigma": 1},
        "clahe": {"enabled": True, "clip_limit": 2, "grid_size": 8},
    },
    "clean": {"enabled": True, "max_area_factor": 1.5, "exclude_edge_touching": True, "min_circularity": 0.6},
}


class OverallStats(TypedDict):
    """Of all pixels."""

    mean_intensity: float
    min_intensity: float
    max_intensity: float
    std_intensity: float
    median_intensity: float
    histogram: list[int]


class AnalyzedImage(TypedDict):
    """The picture's shape."""

    width: int
    height: int
    channels: int
    total_pixels: int


class Analysis(TypedDict):
    """Intensities of a whole picture, in its own values."""

    overall_stats: OverallStats
    image_info: AnalyzedImage


class AnalyzeAnswer(TypedDict):
    """The answer of `/analyze_image`."""

    success: bool
    filename: str
    analysis: Analysis


@blueprint.post("/segment")
@operation(
    "Segment a picture sent as base64 or data URL in JSON.",
    "segmentation",
    json=SegmentRequest,
    answer=SegmentAnswer,
    media_types=MEDIA_TYPES,
)
def segment() -> Response:
    if request.mimetype.startswith("multipart/"):
        raise UnsupportedImage("this endpoint takes JSON; send multipart forms to /segment_file")
    watch = Stopwatch()
    with watch.stage("decode"):
        asked = asked_in_json()
    return answer(asked, watch)


@blueprint.post("/segment_file")
@operation(
    "Segment a picture sent as a file; every other field is JSON text.",
    "segmentation",
    form=SegmentOptions,
    takes_file="file",
    answer=SegmentAnswer,
    media_types=MEDIA_TYPES,
)
def segment_file() -> Response:
    watch = Stopwatch()
    with watch.stage("decode"):
        asked = asked_in_form()
    return answer(asked, watch)


@blueprint.post("/analyze_image")
@operation("Intensities of a whole picture.", "segmentation", takes_file="file", answer=AnalyzeAnswer)
def analyze_image() -> Response:
    data, filename = uploaded_file()
    refuse_fields(set(request.form))
    picture = decode(data, image_limits())
    height, width = picture.size
    stats = image_statistics(picture.intensity)
    overall = OverallStats(
        mean_intensity=rounded(stats.mean),
        min_intensity=rounded(stats.min),
        max_intensity=rounded(stats.max),
        std_intensity=rounded(stats.std),
        median_intensity=rounded(stats.median),
        histogram=stats.histogram,
    )
    shape = AnalyzedImage(width=width, height=height, channels=picture.channels, total_pixels=width * height)
    analysis = Analysis(overall_stats=overall, image_info=shape)
    return jsonify(AnalyzeAnswer(success=True, filename=filename, analysis=analysis))


@blueprint.get("/defaults")
@operation("Every default and bound.", "segmentation", access=Access.KEY, answer=dict[str, Any])
def defaults() -> Response:
    parts = context()
    model = parts.segmenter.engine.load()
    options = SegmentOptions()
    automatic = resolve_automatic(model, options.automatic)
    fields = type(options.automatic).model_fields
    return jsonify(
        {
            "model": model_info(model),
            "defaults": {
                **options.model_dump(mode="json"),
                "automatic": {name: getattr(automatic, name) for name in fields},
            },
            "bounds": SegmentOptions.model_json_schema(),
            "analysis_defaults": AnalysisInput().model_dump(mode="json"),
            "sequence": {
                "defaults": SequenceOptions().model_dump(mode="json"),
                "bounds": SequenceOptions.model_json_schema(),
            },
            "limits": {
                "max_file_size_mb": parts.settings.max_file_size_mb,
                "max_image_pixels": parts.settings.max_image_pixels,
                "max_sequence_frames": parts.settings.max_sequence_frames,
                "max_sequence_mb": parts.settings.max_sequence_mb,
            },
            "old_defaults": OLD_DEFAULTS,
        }
    )
