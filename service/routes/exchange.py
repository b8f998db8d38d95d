"""What endpoints share: requests to pictures and options, segmentations to answers."""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from flask import Response, jsonify, request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from service import exports
from service.answers import segment_answer
from service.errors import FieldError, InvalidRequest, MalformedRequest, UnsupportedImage
from service.exports import report
from service.images import ImageLimits, Picture, decode
from service.routes.context import context
from service.schemas import AnalysisInput, OutputFormat, SegmentOptions, SegmentRequest
from service.segmentation import Stopwatch
from service.telemetry import note
from service.validation import invalid_request

FORMAT_OF_MEDIA_TYPE: dict[str, OutputFormat] = {
    "application/json": "json",
    "application/geo+json": "geojson",
    "text/csv": "csv",
    "image/png": "overlay",
    "application/zip": "zip",
    "text/html": "html",
    "image/svg+xml": "svg",
}
MEDIA_TYPES = (*list(FORMAT_OF_MEDIA_TYPE)[1:], "text/plain", "image/tiff")

Options = TypeVar("Options", bound=BaseModel)
Asked = tuple[Picture, SegmentOptions, str]


def asked_in_json() -> Asked:
    """Picture, options and the picture's name of a JSON body."""
    try:
        asked = SegmentRequest.model_validate_json(_body())
    except ValidationError as error:
        raise invalid_request(error) from None
    return decode(_from_base64(asked.image), image_limits(), asked.page), asked, "image"


def asked_in_form() -> Asked:
    """Picture, options and the picture's name of a multipart body."""
    options = form_options(SegmentOptions)
    data, filename = uploaded_file()
    return decode(data, image_limits(), options.page), options, filename


def form_options(schema: type[Options]) -> Options:
    """The fields of a form, each of them JSON text.

    Raises:
        MalformedRequest: a field is not JSON.
        InvalidRequest: a field is unknown or has an impossible value.
    """
    refuse_fields(set(request.form) - set(schema.model_fields))
    values = {}
    for name, text in request.form.items():
        try:
            values[name] = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise MalformedRequest(f"the field {name} is not valid JSON: {error}") from None
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise invalid_request(error) from None


def refuse_fields(surplus: set[str]) -> None:
    """Fields that a request does not have are errors."""
    if surplus:
        raise InvalidRequest(
            [FieldError(name[:80], "is not a field of this request") for name in sorted(surplus)]
        )


def uploaded_file() -> tuple[bytes, str]:
    """The bytes of the one file, and its name without a path."""
    require_multipart()
    files = request.files.getlist("file")
    others = sorted(set(request.files) - {"file"})
    if others or len(files) != 1:
        got = f"{len(files)} of them" + (
            f" and other files in {', '.join(n[:80] for n in others)}" if others else ""
        )
        raise InvalidRequest([FieldError("file", f"must be exactly one file; got {got}")])
    limit = context().settings.max_file_bytes
    return files[0].read(limit + 1), name_of(files[0])


def require_multipart() -> None:
    """Raises UnsupportedImage if the body is not a form with files."""
    if not request.mimetype.startswith("multipart/"):
        raise UnsupportedImage("send the picture as multipart/form-data in the field file")


def name_of(file: FileStorage) -> str:
    """A file's name without a path."""
    return (file.filename or "image").replace("\\", "/").rpartition("/")[2]


def image_limits() -> ImageLimits:
    """What is taken at most."""
    settings = context().settings
    return ImageLimits(settings.max_file_bytes, settings.max_image_pixels)


def answer(asked: Asked, watch: Stopwatch) -> Response:
    """Carry out a request and write what it asks for; JSON without a wish."""
    return carry_out(asked, asked[1].output.format or accepted_format("json"), watch)


def carry_out(asked: Asked, chosen: OutputFormat, watch: Stopwatch) -> Response:
    """Carry out a request and write it in a format; those that need an analysis get the default one."""
    picture, options, filename = asked
    if chosen in exports.WITH_ANALYSIS:
        options = with_analysis(options)
    found = context().segmenter.run(picture, options, watch)
    if chosen == "json":
        response = jsonify(segment_answer(found))
    else:
        with watch.stage("output"):
            response = handed_over(exports.write(found, chosen, filename))
    note(stages=watch.read(), pixels=picture.rgb.size // 3, masks=found.original_count)
    return response


def with_analysis(options: SegmentOptions) -> SegmentOptions:
    """The options with an analysis: the request's, else the default one."""
    return options.model_copy(update={"analysis": options.analysis or AnalysisInput()})


def handed_over(export: exports.Export) -> Response:
    """A file as an answer. A report may be looked at, and runs nothing."""
    response = Response(export.body, content_type=export.media_type)
    shown = export.media_type.startswith("text/html")
    response.headers.set("Content-Disposition", "inline" if shown else "attachment", filename=export.filename)
    if shown:
        response.headers["Content-Security-Policy"] = f"{report.POLICY}; sandbox"
    return response


def accepted(offered: Sequence[str]) -> str:
    """Which media type `Accept` prefers; the first without a preference."""
    return request.accept_mimetypes.best_match(offered, default=offered[0])


def accepted_format(default: OutputFormat) -> OutputFormat:
    """The format that `Accept` prefers."""
    offered = sorted(FORMAT_OF_MEDIA_TYPE, key=lambda kind: FORMAT_OF_MEDIA_TYPE[kind] != default)
    return FORMAT_OF_MEDIA_TYPE[accepted(offered)]


def _body() -> bytes:
    """The whole body; one of unknown length that reaches the limit was cut off there by Werkzeug."""
    data = request.get_data(cache=False)
    if request.content_length is None and len(data) >= (request.max_content_length or 0):
        raise RequestEntityTooLarge
    return data


def _from_base64(text: str) -> bytes:
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest([FieldError("image", "is neither base64 nor a base64 data URL")]) from None
