"""The use case of a sequence: segment every frame, follow each object, one picture in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sam_engine.distribution import SizeStatistics
from sam_engine.engine import LoadedModel
from sam_engine.errors import InvalidInput
from sam_engine.measure import Measurement
from sam_engine.tracking import TrackedObject, Tracking, TrackingParameters, track
from service.errors import DamagedImage, ImageTooLarge, UnsupportedImage
from service.images import ImageLimits, Picture, count_pages, decode, decode_pages
from service.objects import SegmentedObject
from service.scale import Scale
from service.schemas import OutputInput, PictureOptions, SegmentOptions, SequenceOptions
from service.segmentation import Segmentation, Segmenter, Stopwatch


@dataclass(frozen=True, slots=True)
class Source:
    """A file with one frame or all of them; `read` gives its bytes, more than once if asked."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a sequence, decoded when their turn comes."""

    sources: tuple[Source, ...]
    count: int
    limits: ImageLimits

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[str, Picture]]:
        """Name and picture of each frame.

        Raises:
            UnsupportedImage, DamagedImage, ImageTooLarge: a file cannot be taken, and the message names it.
            InvalidInput: one of several files has several pages.
        """
        for source in self.sources:
            yield from _frames_of(source, self.limits, alone=len(self.sources) == 1)


@dataclass(frozen=True, eq=False, slots=True)
class FrameFound:
    """What was found in one frame; `ids` and `measurements` are those of the objects that filters left."""

    name: str
    original_count: int
    ids: list[int]
    measurements: list[Measurement]
    sizes: SizeStatistics


@dataclass(frozen=True, eq=False, slots=True)
class SequenceAnalysis:
    """A sequence with its objects followed.

    Attributes:
        image_size: (H, W) of every frame.
        tracking: its frames and objects are indices into `frames` and into their measurements.
    """

    model: LoadedModel
    image_size: tuple[int, int]
    options: SequenceOptions
    scale: Scale | None
    frames: list[FrameFound]
    tracking: Tracking
    watch: Stopwatch


OnFrame = Callable[[int, FrameFound], None]


def frames_of(sources: Sequence[Source], limits: ImageLimits, most: int) -> Frames:
    """The frames of several pictures in their order, or of one multipage file.

    Raises:
        InvalidInput: more than `most` frames.
        UnsupportedImage, DamagedImage, ImageTooLarge: one file that cannot be taken.
    """
    count = len(sources) if len(sources) > 1 else count_pages(sources[0].read(), limits)
    if count > most:
        raise InvalidInput("files", f"has {count} frames, at most {most} are taken")
    return Frames(tuple(sources), count, limits)


def _frames_of(source: Source, limits: ImageLimits, *, alone: bool) -> Iterator[tuple[str, Picture]]:
    try:
        if not alone:
            picture = decode(source.read(), limits)
            if picture.pages > 1:
                message = f"{source.name} has {picture.pages} pages; send it alone, or one picture a file"
                raise InvalidInput("files", message)
            yield source.name, picture
            return
        for picture in decode_pages(source.read(), limits):
            name = source.name if picture.pages == 1 else f"{source.name}[{picture.page}]"
            yield name, picture
    except (UnsupportedImage, DamagedImage, ImageTooLarge) as error:
        raise type(error)(f"{source.name}: {error}") from error


def analyse_sequence(
    segmenter: Segmenter,
    frames: Frames,
    options: SequenceOptions,
    watch: Stopwatch,
    on_frame: OnFrame = lambda _index, _frame: None,
) -> SequenceAnalysis:
    """Segment each frame, then follow the objects.

    Args:
        on_frame: called after each frame with its index and what was found.

    Raises:
        InvalidInput: a frame is not of the size of the first; and as `Segmenter.run` and the frames.
    """
    found: list[FrameFound] = []
    seen: list[list[TrackedObject]] = []
    first: Segmentation | None = None
    for index, (name, picture) in enumerate(frames):
        if first is not None and picture.size != first.picture.size:
            message = f"{name} has {_size(picture)} pixels, the first frame has {_size(first.picture)}"
            raise InvalidInput("files", message)
        scale = None if first is None else first.scale
        segmentation = segmenter.run(picture, _options_of_frame(options), watch, scale)
        first = first or segmentation
        found.append(_found(name, segmentation))
        seen.append([_tracked(item) for item in segmentation.kept])
        on_frame(index, found[-1])
    if first is None:
        raise InvalidInput("files", "are 0 frames, at least 1 is needed")
    with watch.stage("track"):
        tracking = track(seen, _parameters(options, first.picture.size))
    return SequenceAnalysis(first.model, first.picture.size, options, first.scale, found, tracking, watch)


def _options_of_frame(options: SequenceOptions) -> SegmentOptions:
    shared = {name: getattr(options, name) for name in PictureOptions.model_fields}
    return SegmentOptions(**shared, output=OutputInput(masks=["none"]))


def _found(name: str, segmentation: Segmentation) -> FrameFound:
    kept = segmentation.kept
    return FrameFound(
        name=name,
        original_count=segmentation.original_count,
        ids=[item.id for item in kept],
        measurements=[item.measurement for item in kept],
        sizes=segmentation.summary.diameter_stats,
    )


def _tracked(item: SegmentedObject) -> TrackedObject:
    shape = item.measurement.shape
    return TrackedObject(shape.centroid_xy, shape.equivalent_diameter, shape.area, item.mask)


def _parameters(options: SequenceOptions, image_size: tuple[int, int]) -> TrackingParameters:
    asked = options.tracking
    return TrackingParameters(
        max_displacement=asked.max_displacement,
        max_size_change=asked.max_size_change,
        max_gap=asked.max_gap,
        event_tolerance=asked.event_tolerance,
        drift_xy=asked.drift,
        image_size=image_size,
        frame_interval=options.frame_interval_s or 1.0,
    )


def _size(picture: Picture) -> str:
    height, width = picture.size
    return f"{width}x{height}"
