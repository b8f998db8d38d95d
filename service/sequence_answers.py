"""The JSON of a sequence; also its schema in `/openapi.json`. Floats have six significant digits."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from typing_extensions import TypedDict

from sam_engine.tracking import Event, Growth, Track
from service.analysis_answers import CalibrationAnswer, calibration_answer, significant
from service.provenance import ModelInfo, model_info
from service.sequences import FrameFound, SequenceAnalysis

POWERS = {"diameter": 1, "diameter_squared": 2, "diameter_cubed": 3}


class SequenceImage(TypedDict):
    """Size of every frame."""

    width: int
    height: int


class Units(TypedDict):
    """Of lengths - areas are its square, volumes its cube - and of time."""

    length: Literal["px", "um"]
    time: Literal["frame", "s"]


class FrameAnswer(TypedDict):
    """A frame; diameters in the unit of length."""

    frame: int
    name: str
    num_objects: int
    original_count: int
    diameter_stats: dict[str, float | int | None]


class TrackAnswer(TypedDict):
    """One object through the frames. `objects` are its ids in them; positions are pixels.

    Growth is the slope of a line through diameter, its square and its cube over time, with its standard error
    and r squared; null for fewer than three appearances.
    """

    id: int
    start: str
    end: str
    parents: list[int]
    children: list[int]
    frames: list[int]
    objects: list[int]
    positions: list[list[float]]
    diameters: list[float]
    velocity: list[float] | None
    mean_speed: float | None
    growth: dict[str, dict[str, float | None]] | None


class EventAnswer(TypedDict):
    """Tracks that merge into one or that one splits into, at `frame`, and what their sizes conserve."""

    kind: Literal["merge", "split"]
    frame: int
    parents: list[int]
    children: list[int]
    volume_ratio: float
    area_ratio: float
    conserved: str | None


class SequenceAnswer(TypedDict):
    """The answer of `/analyze_sequence`."""

    success: bool
    model: ModelInfo
    image: SequenceImage
    num_frames: int
    calibration: CalibrationAnswer | None
    units: Units
    frames: list[FrameAnswer]
    tracks: list[TrackAnswer]
    events: list[EventAnswer]
    parameters: dict[str, Any]
    timings_ms: dict[str, float]


def sequence_answer(found: SequenceAnalysis) -> SequenceAnswer:
    """Write a sequence out, in micrometres where there is a calibration."""
    height, width = found.image_size
    return SequenceAnswer(
        success=True,
        model=model_info(found.model),
        image=SequenceImage(width=width, height=height),
        num_frames=len(found.frames),
        calibration=None if found.scale is None else calibration_answer(found.scale),
        units=units_of(found),
        frames=[_frame(i, frame, found) for i, frame in enumerate(found.frames)],
        tracks=[_track(track, found) for track in found.tracking.tracks],
        events=list(events_of(found)),
        parameters=found.options.model_dump(mode="json", exclude={"output"}),
        timings_ms=found.watch.read(),
    )


def units_of(found: SequenceAnalysis) -> Units:
    """What lengths and times of the answer are in."""
    return Units(
        length="px" if found.scale is None else "um",
        time="frame" if found.options.frame_interval_s is None else "s",
    )


def events_of(found: SequenceAnalysis) -> Iterator[EventAnswer]:
    """Merges and splits in the order of their frames."""
    events: list[tuple[Literal["merge", "split"], Event]] = [
        *(("merge", event) for event in found.tracking.merges),
        *(("split", event) for event in found.tracking.splits),
    ]
    for kind, event in sorted(events, key=lambda pair: pair[1].frame):
        yield EventAnswer(
            kind=kind,
            frame=event.frame,
            parents=list(event.parents),
            children=list(event.children),
            volume_ratio=significant(event.volume_ratio),
            area_ratio=significant(event.area_ratio),
            conserved=event.conserved,
        )


def growth_of(growth: Growth | None, factor: float) -> dict[str, dict[str, float | None]] | None:
    """Slopes and their errors in the unit of length, of which a pixel has `factor`."""
    if growth is None:
        return None
    answer = {}
    for name, power in POWERS.items():
        trend = getattr(growth, name)
        slope, stderr = (value * factor**power for value in (trend.slope, trend.stderr))
        answer[name] = significant({"slope": slope, "stderr": stderr, "r_squared": trend.r_squared})
    return answer


def factor_of(found: SequenceAnalysis) -> float:
    """Units of length a pixel."""
    return 1.0 if found.scale is None else found.scale.um_per_px


def _frame(index: int, frame: FrameFound, found: SequenceAnalysis) -> FrameAnswer:
    factor = factor_of(found)
    stats = {
        name: value if value is None or name in ("count", "cv") else value * factor
        for name, value in asdict(frame.sizes).items()
    }
    return FrameAnswer(
        frame=index,
        name=frame.name,
        num_objects=len(frame.ids),
        original_count=frame.original_count,
        diameter_stats=significant(stats),
    )


def _track(track: Track, found: SequenceAnalysis) -> TrackAnswer:
    factor = factor_of(found)
    places = [(found.frames[f], i) for f, i in zip(track.frames, track.objects, strict=True)]
    shapes = [frame.measurements[i].shape for frame, i in places]
    velocity = track.velocity_xy
    return TrackAnswer(
        id=track.id,
        start=track.start,
        end=track.end,
        parents=list(track.parents),
        children=list(track.children),
        frames=list(track.frames),
        objects=[frame.ids[i] for frame, i in places],
        positions=[significant(list(shape.centroid_xy)) for shape in shapes],
        diameters=[significant(factor * shape.equivalent_diameter) for shape in shapes],
        velocity=None if velocity is None else [significant(factor * v) for v in velocity],
        mean_speed=None if track.mean_speed is None else significant(factor * track.mean_speed),
        growth=growth_of(track.growth, factor),
    )
