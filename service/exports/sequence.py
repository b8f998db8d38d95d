"""A sequence as tables: appearances, tracks, events, frames."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from sam_engine.tracking import Track
from service import __version__
from service.exports.archive import zipped
from service.exports.table import harmless
from service.sequence_answers import POWERS, events_of, factor_of, sequence_answer, units_of
from service.sequences import SequenceAnalysis

Cells = Sequence[object]


def write_csv(found: SequenceAnalysis) -> bytes:
    """One row for each appearance of each object."""
    factor, units = factor_of(found), units_of(found)
    length, seconds = units["length"], found.options.frame_interval_s
    head = ["track", "frame", *(["time_s"] if seconds else []), "picture", "object", "x_px", "y_px",
            f"diameter_{length}", f"area_{length}2", "circularity", "mean_intensity"]  # fmt: skip

    def rows() -> Iterator[Cells]:
        for track in found.tracking.tracks:
            for number, index in zip(track.frames, track.objects, strict=True):
                frame = found.frames[number]
                measured = frame.measurements[index]
                shape = measured.shape
                yield [
                    track.id, number, *([number * seconds] if seconds else []), harmless(frame.name),
                    frame.ids[index], *shape.centroid_xy, factor * shape.equivalent_diameter,
                    factor**2 * shape.area, shape.circularity, measured.intensity.mean,
                ]  # fmt: skip

    return _table(head, rows())


def write_zip(found: SequenceAnalysis) -> bytes:
    """All tables, and the JSON answer without its times, so that the same sequence gives the same bytes."""
    answer = {name: value for name, value in sequence_answer(found).items() if name != "timings_ms"}
    document = json.dumps({"version": __version__, **answer}, indent=2, allow_nan=False)
    return zipped(
        [
            ("appearances.csv", write_csv(found)),
            ("tracks.csv", _tracks(found)),
            ("events.csv", _events(found)),
            ("frames.csv", _frames(found)),
            ("sequence.json", document.encode()),
        ]
    )


def _tracks(found: SequenceAnalysis) -> bytes:
    units = units_of(found)
    length, time = units["length"], units["time"]
    rates = [
        f"{kind}_{name}_{length}{power if power > 1 else ''}_per_{time}"
        for name, power in POWERS.items()
        for kind in ("growth", "growth_stderr")
    ]
    speeds = [f"{name}_{length}_per_{time}" for name in ("velocity_x", "velocity_y", "mean_speed")]
    head = ["track", "first_frame", "last_frame", "appearances", "start", "end", "parents", "children"]
    return _table([*head, *speeds, *rates], (_track(track, found) for track in found.tracking.tracks))


def _track(track: Track, found: SequenceAnalysis) -> Cells:
    factor = factor_of(found)
    speeds: list[float | None] = [*(track.velocity_xy or (None, None)), track.mean_speed]
    rates: Cells = [None] * 2 * len(POWERS)
    if track.growth is not None:
        trends = [(getattr(track.growth, name), factor**power) for name, power in POWERS.items()]
        rates = [scale * value for trend, scale in trends for value in (trend.slope, trend.stderr)]
    return [
        track.id, track.frames[0], track.frames[-1], len(track.frames), track.start, track.end,
        _listed(track.parents), _listed(track.children),
        *(None if speed is None else factor * speed for speed in speeds), *rates,
    ]  # fmt: skip


def _events(found: SequenceAnalysis) -> bytes:
    head = ["event", "frame", "parents", "children", "volume_ratio", "area_ratio", "conserved"]
    rows = (
        [e["kind"], e["frame"], _listed(e["parents"]), _listed(e["children"]), e["volume_ratio"],
         e["area_ratio"], e["conserved"]]
        for e in events_of(found)
    )  # fmt: skip
    return _table(head, rows)


def _frames(found: SequenceAnalysis) -> bytes:
    length, factor = units_of(found)["length"], factor_of(found)
    names = ("mean", "std", "median", "min", "max", "d10", "d90", "d32")
    head = ["frame", "picture", "objects", *(f"diameter_{name}_{length}" for name in names)]
    rows = (
        [i, harmless(frame.name), len(frame.ids),
         *(None if d is None else factor * d for d in (getattr(frame.sizes, name) for name in names))]
        for i, frame in enumerate(found.frames)
    )  # fmt: skip
    return _table(head, rows)


def _listed(ids: Iterable[int]) -> str:
    return " ".join(map(str, ids))


def _table(head: Sequence[str], rows: Iterable[Cells]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(head)
    table.writerows(rows)
    return text.getvalue().encode()
