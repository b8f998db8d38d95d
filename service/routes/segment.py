"""Segment and measure one picture."""

import base64
import binascii
from typing import Any

from flask import Blueprint, Response, jsonify, request
from pydantic import ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict
from werkzeug.exceptions import RequestEntityTooLarge

from sam_engine.measure import image_statistics
from service import exports
from service.answers import SegmentAnswer, rounded, segment_answer
from service.errors import FieldError, InvalidRequest, MalformedRequest, UnsupportedImage
from service.images import ImageLimits, Picture, decode
from service.operations import Access, operation
from service.problems import invalid_request
from service.provenance import model_info
from service.routes.context import context
from service.schemas import OutputFormat, SegmentOptions, SegmentRequest
from service.segmentation import Stopwatch, resolve_automatic
from service.telemetry import note

blueprint = Blueprint("segment", __name__)

FORMAT_OF_MEDIA_TYPE: dict[str, OutputFormat] = {
    "application/json": "json",
    "application/geo+json": "geojson",
    "text/csv": "csv",
    "image/png": "overlay",
    "application/zip": "zip",
}
MEDIA_TYPES = (*list(FORMAT_OF_MEDIA_TYPE)[1:], "text/plain", "image/tiff")
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
        try:
            asked = SegmentRequest.model_validate_json(_body())
        except ValidationError as error:
            raise invalid_request(error) from None
        picture = decode(_from_base64(asked.image), _limits(), asked.page)
    return _answer(picture, asked, watch, "image")


@blueprint.post("/segment_file")
@operation(
    "Segment a picture sent as a file; every other field is JSON text.",
    "segmentation",
    form=SegmentOptions,
    takes_file=True,
    answer=SegmentAnswer,
    media_types=MEDIA_TYPES,
)
def segment_file() -> Response:
    watch = Stopwatch()
    with watch.stage("decode"):
        options = _form_options()
        data, filename = _uploaded()
        picture = decode(data, _limits(), options.page)
    return _answer(picture, options, watch, filename)


@blueprint.post("/analyze_image")
@operation("Intensities of a whole picture.", "segmentation", takes_file=True, answer=AnalyzeAnswer)
def analyze_image() -> Response:
    data, filename = _uploaded()
    _refuse_fields(set(request.form))
    picture = decode(data, _limits())
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
            "limits": {
                "max_file_size_mb": parts.settings.max_file_size_mb,
                "max_image_pixels": parts.settings.max_image_pixels,
            },
            "old_defaults": OLD_DEFAULTS,
        }
    )


def _answer(picture: Picture, options: SegmentOptions, watch: Stopwatch, filename: str) -> Response:
    chosen = options.output.format or _accepted_format()
    found = context().segmenter.run(picture, options, watch)
    if chosen == "json":
        answer = jsonify(segment_answer(found))
    else:
        with watch.stage("output"):
            export = exports.write(found, chosen, filename)
        answer = Response(export.body, content_type=export.media_type)
        answer.headers.set("Content-Disposition", "attachment", filename=export.filename)
    note(stages=watch.read(), pixels=picture.rgb.size // 3, masks=found.original_count)
    return answer


def _accepted_format() -> OutputFormat:
    best = request.accept_mimetypes.best_match(FORMAT_OF_MEDIA_TYPE, default="application/json")
    return FORMAT_OF_MEDIA_TYPE[best]


def _body() -> bytes:
    """The whole body; one of unknown length that reaches the limit was cut off there by Werkzeug."""
    data = request.get_data(cache=False)
    if request.content_length is None and len(data) >= (request.max_content_length or 0):
        raise RequestEntityTooLarge
    return data


def _limits() -> ImageLimits:
    settings = context().settings
    return ImageLimits(settings.max_file_bytes, settings.max_image_pixels)


def _from_base64(text: str) -> bytes:
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest([FieldError("image", "is neither base64 nor a base64 data URL")]) from None


def _form_options() -> SegmentOptions:
    _refuse_fields(set(request.form) - set(SegmentOptions.model_fields))
    values = {}
    for name, text in request.form.items():
        try:
            values[name] = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise MalformedRequest(f"the field {name} is not valid JSON: {error}") from None
    try:
        return SegmentOptions.model_validate(values)
    except ValidationError as error:
        raise invalid_request(error) from None


def _refuse_fields(surplus: set[str]) -> None:
    if surplus:
        raise InvalidRequest(
            [FieldError(name[:80], "is not a field of this request") for name in sorted(surplus)]
        )


def _uploaded() -> tuple[bytes, str]:
    """The bytes of the one file, and its name without a path."""
    if not request.mimetype.startswith("multipart/"):
        raise UnsupportedImage("send the picture as multipart/form-data in the field file")
    files = request.files.getlist("file")
    others = sorted(set(request.files) - {"file"})
    if others or len(files) != 1:
        got = f"{len(files)} of them" + (
            f" and other files in {', '.join(n[:80] for n in others)}" if others else ""
        )
        raise InvalidRequest([FieldError("file", f"must be exactly one file; got {got}")])
    limit = context().settings.max_file_bytes
    name = (files[0].filename or "image").replace("\\", "/").rpartition("/")[2]
    return files[0].read(limit + 1), name
