"""Sequences of drawn pictures: frames, what is followed over them, and the tables of it."""

import csv
import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from sam_engine.calibration import calibrate
from sam_engine.errors import InvalidInput
from service import exports
from service.errors import DamagedImage, UnsupportedImage
from service.images import ImageLimits
from service.scale import Scale
from service.schemas import SequenceOptions
from service.segmentation import Stopwatch
from service.sequence_answers import sequence_answer
from service.sequences import Source, analyse_sequence, frames_of
from tests.segmented import HEIGHT, WIDTH, disc, segment

LIMITS = ImageLimits(2**20, 10**6)


class DrawnSegmenter:
    """Finds every dark component of a picture, as the real one would."""

    def __init__(self):
        self.scales = []

    def run(self, picture, options, watch, scale=None):
        self.scales.append(scale)
        count, labels = cv2.connectedComponents((picture.rgb[..., 0] < 128).astype(np.uint8))
        masks = sorted((labels == i for i in range(1, count)), key=np.count_nonzero, reverse=True)
        return segment(*masks, picture=picture, options=options)


def png(*discs, size=(HEIGHT, WIDTH)):
    shade = np.full((HEIGHT, WIDTH), 200, np.uint8)
    for x, y, radius in discs:
        shade[disc(x, y, radius)] = 50
    return cv2.imencode(".png", shade[: size[0], : size[1]])[1].tobytes()


def growing(count=5):
    """One drop that moves and grows by 1 px in diameter a frame, and one that stays."""
    return [png((30 + 6 * i, 40, 8 + 0.5 * i), (120, 80, 12)) for i in range(count)]


def sources(*pictures):
    return [Source(f"f{i}.png", lambda data=data: data) for i, data in enumerate(pictures)]


def analysed(pictures, **options):
    frames = frames_of(sources(*pictures), LIMITS, 100)
    return analyse_sequence(DrawnSegmenter(), frames, SequenceOptions(**options), Stopwatch())


def table(data):
    return list(csv.DictReader(io.StringIO(data.decode())))


def test_a_drop_that_grows():
    answer = sequence_answer(analysed(growing(), um_per_px=2.0, frame_interval_s=0.5))
    assert answer["units"] == {"length": "um", "time": "s"}
    assert (answer["num_frames"], [frame["num_objects"] for frame in answer["frames"]]) == (5, [2] * 5)
    moving, still = sorted(answer["tracks"], key=lambda track: track["positions"][0])
    assert moving["frames"] == still["frames"] == [0, 1, 2, 3, 4]
    assert moving["positions"][0] == pytest.approx([30, 40], abs=0.1)
    assert moving["velocity"] == pytest.approx([6 * 2 / 0.5, 0], abs=0.5)
    growth = moving["growth"]["diameter"]
    assert growth["slope"] == pytest.approx(1 * 2 / 0.5, rel=0.1)
    assert still["growth"]["diameter"]["slope"] == 0
    middle = (16 + 20) / 2 * 2  # mean diameter in um; d(d^2)/dt = 2 d d'
    assert moving["growth"]["diameter_squared"]["slope"] == pytest.approx(
        2 * middle * growth["slope"], rel=0.02
    )
    assert answer["events"] == []


def test_without_calibration_growth_is_pixels_a_frame():
    answer = sequence_answer(analysed(growing()))
    assert answer["units"] == {"length": "px", "time": "frame"}
    assert answer["calibration"] is None
    moving = min(answer["tracks"], key=lambda track: track["positions"][0])
    assert moving["growth"]["diameter"]["slope"] == pytest.approx(1, rel=0.1)


def merging():
    apart = [png((50 + 4 * i, 60, 10), (100 - 4 * i, 60, 10)) for i in range(4)]
    together = [png((75, 60, 10 * 2 ** (1 / 3)))] * 3
    return apart + together


def test_a_merge_is_an_event():
    answer = sequence_answer(analysed(merging()))
    (event,) = answer["events"]
    assert (event["kind"], event["frame"], event["conserved"]) == ("merge", 4, "volume")
    assert event["volume_ratio"] == pytest.approx(1, abs=0.06)
    by_id = {track["id"]: track for track in answer["tracks"]}
    assert all(by_id[parent]["end"] == "merge" for parent in event["parents"])
    assert by_id[event["children"][0]]["start"] == "merge"


def test_no_object_at_all():
    found = analysed([png(), png()])
    answer = sequence_answer(found)
    assert answer["tracks"] == [] and answer["events"] == []
    assert answer["frames"][0]["diameter_stats"]["mean"] is None
    for form in ("json", "csv", "zip"):
        assert exports.write_sequence(found, form, "f.png").body


def test_a_single_frame_is_a_sequence():
    answer = sequence_answer(analysed([png((60, 60, 20))]))
    assert [track["growth"] for track in answer["tracks"]] == [None]


def test_the_scale_of_the_first_frame_holds_for_all():
    segmenter = DrawnSegmenter()
    frames = frames_of(sources(*growing(3)), LIMITS, 100)
    found = analyse_sequence(segmenter, frames, SequenceOptions(um_per_px=0.5), Stopwatch())
    assert segmenter.scales == [None, *[Scale(calibrate(0.5), "request")] * 2]
    assert found.scale.um_per_px == 0.5


def test_tables_agree_with_the_answer():
    found = analysed(merging(), um_per_px=0.5)
    answer = sequence_answer(found)
    with zipfile.ZipFile(io.BytesIO(exports.write_sequence(found, "zip", "a.png").body)) as archive:
        assert archive.testzip() is None
        names = ["appearances.csv", "tracks.csv", "events.csv", "frames.csv", "sequence.json"]
        assert archive.namelist() == names
        appearances, tracks, events, frames = (table(archive.read(name)) for name in names[:4])
        document = json.loads(archive.read("sequence.json"))
    assert "timings_ms" not in document
    assert document["tracks"] == answer["tracks"]
    assert len(appearances) == sum(frame["num_objects"] for frame in answer["frames"])
    for track in answer["tracks"]:
        mine = [row for row in appearances if int(row["track"]) == track["id"]]
        assert [int(row["frame"]) for row in mine] == track["frames"]
        assert [int(row["object"]) for row in mine] == track["objects"]
        assert [float(row["diameter_um"]) for row in mine] == pytest.approx(track["diameters"], rel=1e-5)
    assert [int(row["track"]) for row in tracks] == [track["id"] for track in answer["tracks"]]
    assert [row["parents"].split() for row in events] == [[str(i) for i in answer["events"][0]["parents"]]]
    assert [int(row["objects"]) for row in frames] == [frame["num_objects"] for frame in answer["frames"]]
    assert "growth_diameter_squared_um2_per_frame" in tracks[0]
    assert exports.write_sequence(found, "csv", "a.png").filename == "a.tracks.csv"


def test_the_same_sequence_gives_the_same_bytes():
    first, second = (exports.write_sequence(analysed(growing()), "zip", "a").body for _ in range(2))
    assert first == second


def test_names_of_frames_are_no_formulas():
    frames = frames_of([Source("=1+1.png", lambda: png((60, 60, 20)))], LIMITS, 5)
    found = analyse_sequence(DrawnSegmenter(), frames, SequenceOptions(), Stopwatch())
    (row,) = table(exports.write_sequence(found, "csv", "a").body)
    assert row["picture"] == "'=1+1.png"


def multipage(count=4, form="TIFF"):
    file = io.BytesIO()
    pages = [Image.open(io.BytesIO(data)).convert("RGB") for data in growing(count)]
    pages[0].save(
        file, form, save_all=True, append_images=pages[1:], **({"lossless": True} if form == "WEBP" else {})
    )
    return file.getvalue()


@pytest.mark.parametrize("form", ["TIFF", "WEBP"])
def test_frames_of_one_file(form):
    frames = frames_of([Source("film", lambda: multipage(4, form))], LIMITS, 4)
    assert len(frames) == 4
    found = analyse_sequence(DrawnSegmenter(), frames, SequenceOptions(), Stopwatch())
    assert [frame.name for frame in found.frames] == ["film[0]", "film[1]", "film[2]", "film[3]"]
    alone = sequence_answer(analysed(growing(4)))["tracks"]
    assert sequence_answer(found)["tracks"] == alone


def test_too_many_frames():
    with pytest.raises(InvalidInput, match="has 4 frames, at most 3"):
        frames_of([Source("film", multipage)], LIMITS, 3)
    with pytest.raises(InvalidInput, match="has 5 frames, at most 4"):
        frames_of(sources(*growing(5)), LIMITS, 4)


def test_frames_of_different_sizes():
    with pytest.raises(InvalidInput, match=r"f1\.png has 100x80 pixels, the first frame has 160x120"):
        analysed([png((30, 40, 8)), png((30, 40, 8), size=(80, 100))])


def test_a_multipage_file_among_others():
    frames = frames_of([*sources(png()), Source("film.tif", multipage)], LIMITS, 10)
    with pytest.raises(InvalidInput, match=r"film\.tif has 4 pages"):
        list(frames)


@pytest.mark.parametrize(
    ("data", "kind"), [(b"no picture", UnsupportedImage), (png((60, 60, 20))[:100], DamagedImage)]
)
def test_a_bad_frame_is_named(data, kind):
    with pytest.raises(kind, match=r"^f1\.png: "):
        analysed([png(), data])


def test_frames_are_told_of_as_they_are_done():
    told = []
    frames = frames_of(sources(*growing(3)), LIMITS, 10)
    analyse_sequence(
        DrawnSegmenter(),
        frames,
        SequenceOptions(),
        Stopwatch(),
        lambda i, frame: told.append((i, frame.name)),
    )
    assert told == [(0, "f0.png"), (1, "f1.png"), (2, "f2.png")]


def test_one_picture_is_held_at_a_time():
    read = []
    pictures = growing(4)

    def source(i):
        return Source(f"{i}", lambda: (read.append(i), pictures[i])[1])

    frames = iter(frames_of([source(i) for i in range(4)], LIMITS, 10))
    assert read == []
    next(frames)
    next(frames)
    assert read == [0, 1]
