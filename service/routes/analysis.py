"""Size distribution and report of one picture."""

from flask import Blueprint, Response, request

from service.answers import SegmentAnswer
from service.errors import FieldError, InvalidRequest
from service.operations import operation
from service.routes.exchange import (
    MEDIA_TYPES,
    Asked,
    accepted_format,
    asked_in_form,
    asked_in_json,
    carry_out,
    with_analysis,
)
from service.schemas import SegmentOptions, SegmentRequest
from service.segmentation import Stopwatch

blueprint = Blueprint("analysis", __name__)


@blueprint.post("/advanced_analysis")
@operation(
    "Size distribution with intervals, plots and report; a ZIP unless another format is asked for.",
    "analysis",
    json=SegmentRequest,
    form=SegmentOptions,
    takes_file="file",
    answer=SegmentAnswer,
    media_types=MEDIA_TYPES,
)
def advanced_analysis() -> Response:
    watch = Stopwatch()
    with watch.stage("decode"):
        asked = _asked()
    return carry_out(asked, asked[1].output.format or accepted_format("zip"), watch)


@blueprint.post("/download_analysis")
@operation(
    "The ZIP of `/advanced_analysis`, whatever `Accept` says.",
    "analysis",
    json=SegmentRequest,
    form=SegmentOptions,
    takes_file="file",
    media_types=("application/zip",),
)
def download_analysis() -> Response:
    watch = Stopwatch()
    with watch.stage("decode"):
        asked = _asked()
    wished = asked[1].output.format
    if wished not in (None, "zip"):
        message = f"={wished!r} must be 'zip' here; /advanced_analysis gives the others"
        raise InvalidRequest([FieldError("output.format", message)])
    return carry_out(asked, "zip", watch)


def _asked() -> Asked:
    """A request in either form, with an analysis."""
    multipart = request.mimetype.startswith("multipart/")
    picture, options, name = asked_in_form() if multipart else asked_in_json()
    return picture, with_analysis(options), name
