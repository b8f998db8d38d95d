"""Objects followed over the frames of a sequence."""

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.datastructures import FileStorage

from service import exports
from service.errors import FieldError, InvalidRequest, RateLimited
from service.keys import Client
from service.operations import operation
from service.routes.context import context
from service.routes.exchange import (
    accepted,
    form_options,
    handed_over,
    image_limits,
    name_of,
    require_multipart,
)
from service.schemas import SequenceFormat, SequenceOptions
from service.segmentation import Stopwatch
from service.sequence_answers import SequenceAnswer, sequence_answer
from service.sequences import Frames, Source, analyse_sequence, frames_of
from service.telemetry import note

blueprint = Blueprint("sequence", __name__)

FORMAT_OF_MEDIA_TYPE: dict[str, SequenceFormat] = {
    "application/json": "json",
    "text/csv": "csv",
    "application/zip": "zip",
}


@blueprint.post("/analyze_sequence")
@operation(
    "Segment every frame of `files` - pictures in their order, or one multipage TIFF or animated WebP - and "
    "follow each object. Each frame counts as a request.",
    "analysis",
    form=SequenceOptions,
    takes_file="files",
    answer=SequenceAnswer,
    media_types=tuple(FORMAT_OF_MEDIA_TYPE)[1:],
)
def analyze_sequence() -> Response:
    settings = context().settings
    request.max_content_length = settings.max_sequence_mb * 2**20
    require_multipart()
    watch = Stopwatch()
    with watch.stage("decode"):
        options = form_options(SequenceOptions)
        sources = _sources()
        frames = frames_of(sources, image_limits(), settings.max_sequence_frames)
    _count(frames)
    found = analyse_sequence(context().segmenter, frames, options, watch)
    note(stages=watch.read(), frames=len(frames), masks=sum(frame.original_count for frame in found.frames))
    chosen = options.output.format or FORMAT_OF_MEDIA_TYPE[accepted(tuple(FORMAT_OF_MEDIA_TYPE))]
    if chosen == "json":
        return jsonify(sequence_answer(found))
    return handed_over(exports.write_sequence(found, chosen, sources[0].name))


def _sources() -> list[Source]:
    files = request.files.getlist("files")
    others = sorted(set(request.files) - {"files"})
    if others or not files:
        got = f"other files in {', '.join(n[:80] for n in others)}" if others else "none of them"
        raise InvalidRequest([FieldError("files", f"must be the frames, one file or more; got {got}")])
    return [_source(file) for file in files]


def _source(file: FileStorage) -> Source:
    """Read when its turn comes; until then large uploads lie on the disk."""
    limit = context().settings.max_file_bytes

    def read() -> bytes:
        file.stream.seek(0)
        data: bytes = file.stream.read(limit + 1)
        return data

    return Source(name_of(file), read)


def _count(frames: Frames) -> None:
    """One frame was counted with the request; count the others before any work is done."""
    client: Client = g.client
    limit, others = client.limit_per_hour, len(frames) - 1
    if limit is None or not others:
        return
    if len(frames) > limit:
        message = f"has {len(frames)} frames; this key may send {limit} an hour"
        raise InvalidRequest([FieldError("files", message)])
    g.allowance = context().limiter.hit(client.key_id, limit, others)
    if not g.allowance.allowed:
        raise RateLimited(limit, g.allowance.retry_after_s)
