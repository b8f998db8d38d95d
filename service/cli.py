"""The service's work without the service: `python -m service.cli analyze PICTURE... --out DIR`.

The same code on an engine in this process. Progress and errors go to standard error.
"""

import argparse
import io
import json
import logging
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sam_engine.errors import EngineError, ModelUnavailable
from service import exports
from service.answers import segment_answer
from service.errors import MalformedRequest, ServiceError
from service.exports import Export, safe_stem
from service.images import ImageLimits, decode
from service.schemas import AnalysisInput, OutputFormat, SegmentOptions, SequenceFormat, SequenceOptions
from service.segmentation import Segmentation, Segmenter, Stopwatch
from service.sequences import OnFrame, Source, analyse_sequence, frames_of
from service.settings import Settings, load_settings
from service.startup import build_engine
from service.validation import invalid_request

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
FILES = "files"  # a ZIP, unpacked
ZIP: OutputFormat = "zip"
FAILED = 1
UNUSABLE = 2
INTERRUPTED = 130

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one picture: a file for each format, and how many objects they tell of."""

    exports: list[Export]
    objects: int


Worker = Callable[[bytes, str, SegmentOptions, Sequence[OutputFormat]], Result]


class Unusable(Exception):
    """A command line that cannot be carried out; the message is for the person who wrote it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all done, 1 something failed, 2 the command line is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    asked = _parser().parse_args(arguments)
    try:
        status: int = asked.run(asked, load_settings())
    except (Unusable, ServiceError, ModelUnavailable, OSError) as error:
        _tell(f"sam-droplet: {error}")
        return UNUSABLE if isinstance(error, Unusable | ServiceError) else FAILED
    except KeyboardInterrupt:
        _tell("sam-droplet: interrupted")
        return INTERRUPTED
    return status


def analyze(asked: argparse.Namespace, settings: Settings) -> int:
    """Size distribution and report of each picture."""
    formats = asked.format or [FILES]
    base = _options(asked, SegmentOptions)
    options = base.model_copy(update={"analysis": base.analysis or AnalysisInput()})
    return _each_picture(asked, settings, options, formats)


def segment(asked: argparse.Namespace, settings: Settings) -> int:
    """Masks and measurements of each picture in one format."""
    options = _options(asked, SegmentOptions)
    if asked.out is not None:
        return _each_picture(asked, settings, options, [asked.format])
    path, *others = _pictures(asked.pictures)
    if others:
        raise Unusable(f"{1 + len(others)} pictures do not fit on standard output; say --out DIR")
    result = local_worker(settings)(path.read_bytes(), path.name, options, [asked.format])
    sys.stdout.buffer.write(result.exports[0].body)
    return 0


def track(asked: argparse.Namespace, settings: Settings) -> int:
    """Objects followed over the frames of a sequence."""
    options = _options(asked, SequenceOptions)
    paths = _pictures(asked.frames)
    started = time.perf_counter()
    limits = _limits(settings)
    frames = frames_of([Source(path.name, path.read_bytes) for path in paths], limits, sys.maxsize)
    segmenter = Segmenter(build_engine(settings))
    found = analyse_sequence(segmenter, frames, options, Stopwatch(), _teller(len(frames)))
    export = exports.write_sequence(found, asked.format, paths[0].name)
    _save(asked.out, safe_stem(paths[0].name), export, unpack=asked.format == "zip")
    _tell(f"{len(frames)} frames, {len(found.tracking.tracks)} tracks, {time.perf_counter() - started:.1f} s")
    return 0


def local_worker(settings: Settings) -> Worker:
    """Work on an engine in this process; the model is loaded with the first picture."""
    segmenter = Segmenter(build_engine(settings))
    limits = _limits(settings)

    def work(data: bytes, name: str, options: SegmentOptions, formats: Sequence[OutputFormat]) -> Result:
        found = segmenter.run(decode(data, limits, options.page), options, Stopwatch())
        return Result([_export(found, form, name) for form in formats], len(found.kept))

    return work


def _export(found: Segmentation, form: OutputFormat, name: str) -> Export:
    if form != "json":
        return exports.write(found, form, name)
    body = json.dumps(segment_answer(found), indent=2, allow_nan=False).encode()
    return Export(body, "application/json", safe_stem(name), ".json")


def _each_picture(
    asked: argparse.Namespace, settings: Settings, options: SegmentOptions, formats: Sequence[Any]
) -> int:
    """Go on after a picture that fails; the failures are listed at the end."""
    pictures = _pictures(asked.pictures)
    worker = local_worker(settings)
    failures = []
    for i, (path, name) in enumerate(_with_names(pictures), start=1):
        started = time.perf_counter()
        try:
            result = worker(
                path.read_bytes(), path.name, options, [ZIP if f == FILES else f for f in formats]
            )
            for form, export in zip(formats, result.exports, strict=True):
                _save(asked.out, name, export, unpack=form == FILES)
        except ModelUnavailable:
            raise
        except (EngineError, ServiceError, OSError) as error:
            failures.append(f"{path}: {error}")
            _tell(f"[{i}/{len(pictures)}] {failures[-1]}")
        else:
            spent = time.perf_counter() - started
            _tell(f"[{i}/{len(pictures)}] {path}: {result.objects} objects, {spent:.1f} s")
    for failure in failures:
        _tell(f"failed: {failure}")
    return FAILED if failures else 0


def _pictures(given: Iterable[Path]) -> list[Path]:
    """Files as they are named, and the pictures of folders in the order of their names, 2 before 10."""
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [p for p in path.iterdir() if p.is_file() and p.suffix.lower() in PICTURE_ENDINGS]
        if not inside:
            raise Unusable(f"{path} has no picture ({', '.join(PICTURE_ENDINGS)})")
        found += sorted(inside, key=_natural)
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _with_names(pictures: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """What the files of each picture are called; a number tells pictures of one name apart."""
    taken: set[str] = set()
    for path in pictures:
        stem = safe_stem(path.name)
        name = next(
            n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(pictures) + 2))) if n not in taken
        )
        taken.add(name)
        yield path, name


def _save(out: Path, name: str, export: Export, *, unpack: bool) -> None:
    """A file `name` with the ending of the format, or a folder `name` of what is in the ZIP."""
    if unpack:
        with zipfile.ZipFile(io.BytesIO(export.body)) as archive:
            archive.extractall(out / name)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}{export.ending}").write_bytes(export.body)


def _options(asked: argparse.Namespace, schema: type[Options]) -> Options:
    """`--options` and, over them, the options with a flag of their own."""
    values = _json_or_file(asked.options)
    for name in schema.model_fields:
        if getattr(asked, name, None) is not None:
            values[name] = getattr(asked, name)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise invalid_request(error) from None


def _json_or_file(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    source = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
    try:
        values = json.loads(source)
    except ValueError as error:
        raise MalformedRequest(f"--options is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise MalformedRequest("--options is not a JSON object")
    return values


def _limits(settings: Settings) -> ImageLimits:
    return ImageLimits(settings.max_file_bytes, settings.max_image_pixels)


def _teller(count: int) -> OnFrame:
    return lambda i, frame: _tell(f"[{i + 1}/{count}] {frame.name}: {len(frame.ids)} objects")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam-droplet", description="Segment pictures and measure what is in them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = _command(commands, analyze, "size distribution and report of pictures", pictures=True)
    one.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder each picture goes in here"
    )
    one.add_argument(
        "--format", action="append", choices=[FILES, *get_args(OutputFormat)],
        help=f"may be said several times; {FILES}, the default, is everything",
    )  # fmt: skip
    two = _command(commands, segment, "masks and measurements of pictures", pictures=True)
    two.add_argument("--out", type=Path, metavar="DIR", help="without it, to standard output")
    two.add_argument("--format", choices=get_args(OutputFormat), default="json")
    three = _command(commands, track, "follow objects over the frames of a sequence", pictures=False)
    three.add_argument("--out", type=Path, required=True, metavar="DIR")
    three.add_argument("--format", choices=get_args(SequenceFormat), default="zip", help="zip is unpacked")
    three.add_argument("--frame-interval-s", type=float, metavar="S", help="seconds from frame to frame")
    return parser


def _command(
    commands: Any, run: Callable[[argparse.Namespace, Settings], int], help_text: str, *, pictures: bool
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        run.__name__, help=help_text, description=run.__doc__
    )
    command.set_defaults(run=run)
    what = "pictures" if pictures else "frames"
    command.add_argument(what, nargs="+", type=Path, metavar=what.upper(), help="files, or folders of them")
    command.add_argument("--options", metavar="JSON", help="fields of a request, as JSON or as a file of it")
    scale = command.add_mutually_exclusive_group()
    scale.add_argument("--um-per-px", type=float, metavar="X", help="micrometres a pixel")
    scale.add_argument(
        "--scale-bar-um", type=float, metavar="L", help="length of the scale bar in the picture"
    )
    return command


if __name__ == "__main__":
    sys.exit(main())
