"""Exports of drawn masks, read back with the programs that they are meant for or from first principles."""

import csv
import io
import json
import zipfile
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO

from service import __version__, exports
from service.exports.geojson import _parts
from service.exports.overlay import COLOUR_OF_CLASS, FILL, colours
from service.exports.png import encode_png, mask_png
from service.exports.table import harmless
from service.schemas import SegmentOptions, SegmentRequest
from tests.segmented import HEIGHT, WIDTH, disc, make_mask, make_picture, segment


def islands():
    """Two components, in a hole of the larger of which the smaller one lies, and a third beside them."""
    return disc(60, 60, 30, hole=20) | disc(60, 60, 10, hole=4) | disc(120, 30, 8)


def document(found, form):
    return json.loads(exports.write(found, form, "drops.png").body)


def rows(found, name="drops.png"):
    return list(csv.DictReader(io.StringIO(exports.write(found, "csv", name).body.decode())))


def open_png(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def as_coco(found):
    """What `COCO(path)` does, but for the file that it leaves open."""
    coco = COCO()
    coco.dataset = document(found, "coco")
    coco.createIndex()
    return coco


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


# the table of formats


@pytest.mark.parametrize(
    ("form", "media_type", "filename"),
    [
        ("coco", "application/json", "a.coco.json"),
        ("yolo", "text/plain; charset=utf-8", "a.txt"),
        ("geojson", "application/geo+json", "a.geojson"),
        ("csv", "text/csv; charset=utf-8", "a.csv"),
        ("labels", "image/png", "a.labels.png"),
        ("overlay", "image/png", "a.overlay.png"),
        ("zip", "application/zip", "a.zip"),
    ],
)
def test_media_type_and_filename(form, media_type, filename):
    export = exports.write(segment(disc(50, 50, 10)), form, "a.JPG")
    assert (export.media_type, export.filename) == (media_type, filename)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("drops.tiff", "drops"),
        ("drops.v2", "drops.v2"),
        ("", "image"),
        (".png", "image"),
        ("../../etc/passwd", "etc_passwd"),
        ('a"; x=\r\nb.png', "a_x_b"),
        ("капли 1.png", "капли_1"),
        ("x" * 300, "x" * 100),
    ],
)
def test_filename_is_safe(name, stem):
    assert exports.safe_stem(name) == stem


@pytest.mark.parametrize("form", ["coco", "yolo", "geojson", "csv", "labels", "overlay", "zip"])
def test_no_object(form):
    found = segment()
    body = exports.write(found, form, "a").body
    if form == "coco":
        assert json.loads(body)["annotations"] == []
    elif form == "geojson":
        assert json.loads(body)["features"] == []
    elif form == "csv":
        assert body.count(b"\r\n") == 1
    elif form == "yolo":
        assert body == b""
    elif form == "labels":
        assert not np.array(open_png(body)).any()
    elif form == "overlay":
        np.testing.assert_array_equal(np.array(open_png(body)), found.picture.rgb)
    else:
        assert not any(name.startswith("masks/") for name in zipfile.ZipFile(io.BytesIO(body)).namelist())


def test_only_kept_objects_are_written():
    found = segment(disc(40, 60, 20), disc(110, 60, 15), removed=(0,))
    assert [a["id"] for a in document(found, "coco")["annotations"]] == [2]
    assert [f["id"] for f in document(found, "geojson")["features"]] == [2]
    assert [row["id"] for row in rows(found)] == ["2"]
    assert exports.write(found, "yolo", "a").body.count(b"\n") == 1
    assert set(np.unique(open_png(exports.write(found, "labels", "a").body))) == {0, 2}
    drawn = np.array(open_png(exports.write(found, "overlay", "a").body))
    np.testing.assert_array_equal(drawn[disc(40, 60, 20)], found.picture.rgb[disc(40, 60, 20)])
    names = zipfile.ZipFile(io.BytesIO(exports.write(found, "zip", "a").body)).namelist()
    assert [name for name in names if name.startswith("masks/")] == ["masks/0002.png"]


# COCO


def test_coco_describes_the_picture_and_its_objects():
    written = document(segment(disc(50, 50, 10)), "coco")
    assert written["images"] == [{"id": 1, "file_name": "drops.png", "width": WIDTH, "height": HEIGHT}]
    assert written["categories"] == [{"id": 1, "name": "droplet", "supercategory": "object"}]
    assert written["licenses"] == []
    (annotation,) = written["annotations"]
    assert annotation["bbox"] == [40, 40, 21, 21]
    assert annotation["area"] == np.count_nonzero(disc(50, 50, 10))
    assert (annotation["id"], annotation["image_id"], annotation["category_id"]) == (1, 1, 1)
    assert (annotation["iscrowd"], annotation["score"]) == (0, 0.9)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
@pytest.mark.parametrize("diameter", [20, 21.3, 33, 60, 90])
@pytest.mark.parametrize("centre", [(80, 60), (80.4, 60.3), (0, 0), (159, 60.5)])
def test_coco_polygons_give_round_masks_back(diameter, centre):
    drawn = disc(*centre, diameter / 2)
    coco = as_coco(segment(drawn))
    annotation = coco.anns[1]
    (outline,) = annotation["segmentation"]
    assert outline[:2] != outline[-2:]
    assert iou(coco.annToMask(annotation).astype(bool), drawn) >= 0.98


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
@pytest.mark.parametrize(
    "drawn",
    [disc(60, 60, 30, hole=8), islands(), disc(10, 10, 5) | disc(100, 100, 5), ~disc(80, 60, 3)],
    ids=["hole", "islands", "two", "all but a hole"],
)
def test_coco_run_lengths_give_masks_back_exactly(drawn):
    coco = as_coco(segment(drawn))
    annotation = coco.anns[1]
    assert annotation["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert annotation["iscrowd"] == 0
    np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), drawn)


def test_coco_categories_of_classified_objects():
    picture = make_picture()
    picture.intensity[:] = np.linspace(0, 255, WIDTH).astype(np.uint8)
    found = segment(disc(30, 60, 20), disc(130, 60, 20), threshold=128, picture=picture)
    written = document(found, "coco")
    names = {category["id"]: category["name"] for category in written["categories"]}
    assert [names[a["category_id"]] for a in written["annotations"]] == ["low", "high"]


# YOLO


def test_yolo_outline_is_that_of_the_mask():
    drawn = disc(50.3, 60.2, 20)
    (line,) = exports.write(segment(drawn), "yolo", "a").body.decode().splitlines()
    kind, *numbers = line.split(" ")
    assert kind == "0"
    assert all(len(number.partition(".")[2]) == 6 for number in numbers)
    points = np.array(numbers, dtype=float).reshape(-1, 2)
    assert points.min() >= 0 and points.max() <= 1
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    # OpenCV's pixel (0, 0) is centred at 0, the format's covers 0..1
    cv2.fillPoly(canvas, [np.rint((points * (WIDTH, HEIGHT) - 0.5) * 256).astype(np.int32)], 1, shift=8)
    assert iou(canvas.astype(bool), drawn) > 0.95
    assert not np.array_equal(points[0], points[-1])


def test_yolo_takes_the_outer_outline_of_the_largest_component():
    (line,) = exports.write(segment(islands()), "yolo", "a").body.decode().splitlines()
    points = np.array(line.split(" ")[1:], dtype=float).reshape(-1, 2) * (WIDTH, HEIGHT)
    np.testing.assert_allclose(points.min(axis=0), (30, 30), atol=1e-3)
    np.testing.assert_allclose(points.max(axis=0), (91, 91), atol=1e-3)


def test_yolo_classes():
    picture = make_picture()
    picture.intensity[:] = np.linspace(0, 255, WIDTH).astype(np.uint8)
    found = segment(disc(30, 60, 20), disc(130, 60, 20), threshold=128, picture=picture)
    lines = exports.write(found, "yolo", "a").body.decode().splitlines()
    assert [line[0] for line in lines] == ["0", "1"]


# GeoJSON


def signed_area(ring):
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def test_geojson_polygon_with_a_hole():
    found = segment(disc(60, 60, 30, hole=10), options=SegmentOptions(um_per_px=0.5))
    written = document(found, "geojson")
    assert written["type"] == "FeatureCollection" and "crs" not in written
    assert written["pixel_coordinates"]["width"] == WIDTH
    (feature,) = written["features"]
    outer, hole = feature["geometry"]["coordinates"]
    assert feature["geometry"]["type"] == "Polygon"
    assert outer[0] == outer[-1] and hole[0] == hole[-1]
    assert signed_area(outer) > 0 > signed_area(hole)
    properties = feature["properties"]
    assert properties["area"] == np.count_nonzero(disc(60, 60, 30, hole=10))
    assert properties["area_um2"] == pytest.approx(properties["area"] / 4)
    assert signed_area(outer) + signed_area(hole) == pytest.approx(properties["area"], rel=0.01)


def test_geojson_puts_each_hole_into_its_own_component():
    (feature,) = document(segment(islands()), "geojson")["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    parts = feature["geometry"]["coordinates"]
    sizes = [[round(abs(signed_area(ring))) for ring in part] for part in parts]
    assert [len(part) for part in sizes] == [2, 2, 1]
    radii = [[(size / np.pi) ** 0.5 for size in part] for part in sizes]
    np.testing.assert_allclose(np.concatenate(radii), [30, 20, 10, 4, 8], atol=0.6)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda a: a.any()))
def test_geojson_of_any_mask(pixels):
    parts = _parts(make_mask(pixels))
    components = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=4)[0] - 1
    assert len(parts) == components
    background = np.pad(~pixels, 1, constant_values=True).astype(np.uint8)
    holes = cv2.connectedComponents(background, connectivity=8)[0] - 2
    assert sum(len(part) - 1 for part in parts) == holes
    for outer, *inner in parts:
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in inner)
        assert all((hole.min(axis=0) > outer.min(axis=0)).all() for hole in inner)


# CSV


def test_table_has_every_measurement_with_all_digits():
    found = segment(disc(50, 50, 10), disc(10, 100, 12), prompt_index=3, mask_index=1)
    first, second = rows(found)
    shape = found.kept[0].measurement.shape
    assert float(first["equivalent_diameter_px"]) == shape.equivalent_diameter
    assert float(first["centroid_x_px"]) == shape.centroid_xy[0]
    assert int(first["area_px"]) == shape.area
    assert float(first["std_intensity"]) == found.kept[0].measurement.intensity.std
    assert [first[f"bbox_{c}_px"] for c in ("x", "y", "width", "height")] == ["40", "40", "21", "21"]
    sides = ("top", "bottom", "left", "right")
    assert [first[f"edge_distance_{side}_px"] for side in sides] == ["40", "59", "40", "99"]
    assert (first["touches_edge"], second["touches_edge"]) == ("false", "true")
    assert (first["predicted_iou"], first["stability_score"]) == ("0.9", "0.8")
    assert (first["prompt_index"], first["mask_index"], first["intensity_class"]) == ("3", "1", "")
    assert not [name for name in first if "_um" in name]


def test_table_has_micrometres_when_calibrated():
    (row,) = rows(segment(disc(50, 50, 10), options=SegmentOptions(um_per_px=2)))
    assert float(row["equivalent_diameter_um"]) == 2 * float(row["equivalent_diameter_px"])
    assert float(row["area_um2"]) == 4 * float(row["area_px"])
    assert {"max_feret_diameter_um", "perimeter_um"} <= row.keys()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_table_disarms_formulas_in_names(start):
    name = start + 'HYPERLINK("http://x","y").png'
    (row,) = rows(segment(disc(50, 50, 10)), name)
    assert row["image"] == "'" + name


def test_table_leaves_other_names_alone():
    assert harmless("a=b, c.png") == "a=b, c.png"


# label map


def test_labels_hold_ids_and_smaller_objects_lie_on_top():
    large, small, other = disc(60, 60, 40), disc(70, 60, 10), disc(140, 60, 12)
    image = open_png(exports.write(segment(small, large, other, first_id=300), "labels", "a").body)
    assert image.mode == "I;16"
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[large], expected[small], expected[other] = 301, 300, 302
    np.testing.assert_array_equal(np.array(image), expected)


def test_labels_beyond_16_bits_are_a_tiff():
    export = exports.write(segment(disc(60, 60, 40), disc(140, 60, 12), first_id=65535), "labels", "a")
    assert (export.media_type, export.filename) == ("image/tiff", "a.labels.tif")
    image = open_png(export.body)
    assert image.format == "TIFF"
    np.testing.assert_array_equal(np.unique(image), [0, 65535, 65536])


def test_labels_up_to_16_bits_are_a_png():
    export = exports.write(segment(disc(60, 60, 40), first_id=65535), "labels", "a")
    assert export.media_type == "image/png"
    np.testing.assert_array_equal(np.unique(open_png(export.body)), [0, 65535])


# overlay


def test_overlay_fills_and_outlines_inside_the_object_only():
    drawn = disc(60, 60, 30)
    found = segment(drawn)
    overlay = np.array(open_png(exports.write(found, "overlay", "a").body))
    np.testing.assert_array_equal(overlay[~drawn], found.picture.rgb[~drawn])
    (colour,) = colours(found.kept, 4)
    blended = np.rint((1 - FILL) * found.picture.rgb + FILL * np.array(colour))
    core = disc(60, 60, 27)
    np.testing.assert_array_equal(overlay[core], blended[core])
    rim = drawn & ~cv2.erode(drawn.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    four = rim & ~cv2.erode(
        drawn.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    ).astype(bool)
    assert (overlay[four] == colour).all()


def test_overlay_outlines_grow_with_the_picture():
    def line_px(side):
        square = np.zeros((side, side), bool)
        square[side // 4 : side // 2, side // 4 : side // 2] = True
        found = segment(square, picture=make_picture((side, side)))
        overlay = np.array(open_png(exports.write(found, "overlay", "a").body))
        (colour,) = colours(found.kept, 4)
        middle = overlay[side // 4 : side // 2, 3 * side // 8]
        return int(np.argmin((middle == colour).all(axis=1)))

    assert (line_px(64), line_px(1024), line_px(2048)) == (1, 2, 4)


def test_overlay_draws_an_object_at_the_edge_of_the_picture():
    found = segment(np.ones((HEIGHT, WIDTH), bool))
    overlay = np.array(open_png(exports.write(found, "overlay", "a").body))
    (colour,) = colours(found.kept, 4)
    assert (overlay[0] == colour).all() and (overlay[:, -1] == colour).all()


def test_neighbours_never_share_a_colour():
    centres = [(x, y) for y in range(8, HEIGHT, 14) for x in range(8, WIDTH, 14)]
    found = segment(*[disc(x, y, 6) for x, y in centres])
    drawn = colours(found.kept, 4)
    for (x, y), colour in zip(centres, drawn, strict=True):
        near = [c for (u, v), c in zip(centres, drawn, strict=True) if max(abs(u - x), abs(v - y)) == 14]
        assert colour not in near
    assert len(set(drawn)) == 8


def test_classified_objects_have_two_colours():
    picture = make_picture()
    picture.intensity[:] = np.linspace(0, 255, WIDTH).astype(np.uint8)
    found = segment(disc(30, 60, 20), disc(130, 60, 20), threshold=128, picture=picture)
    assert colours(found.kept, 4) == [COLOUR_OF_CLASS["low"], COLOUR_OF_CLASS["high"]]


# archive


def test_archive_holds_everything():
    options = SegmentRequest(
        image="AAAA", um_per_px=0.25, automatic={"mode": "instances"}, filters={"area_max": 50}
    )
    found = segment(disc(40, 60, 20), disc(110, 60, 15), options=options)
    archive = zipfile.ZipFile(io.BytesIO(exports.write(found, "zip", "drops.png").body))
    assert archive.testzip() is None
    assert set(archive.namelist()) == {
        "measurements.csv", "summary.json", "coco.json", "overlay.png", "labels.png",
        "masks/0001.png", "masks/0002.png",
    }  # fmt: skip
    for member, form in {
        "measurements.csv": "csv", "coco.json": "coco", "overlay.png": "overlay", "labels.png": "labels"
    }.items():  # fmt: skip
        assert archive.read(member) == exports.write(found, form, "drops.png").body
    np.testing.assert_array_equal(np.array(open_png(archive.read("masks/0002.png"))), disc(110, 60, 15))


def test_archive_summary_says_how_it_was_made():
    options = SegmentRequest(
        image="AAAA", um_per_px=0.25, automatic={"mode": "instances"}, filters={"area_max": 50}
    )
    found = segment(disc(40, 60, 20), disc(110, 60, 15), options=options, removed=(1,))
    archive = zipfile.ZipFile(io.BytesIO(exports.write(found, "zip", "drops.png").body))
    text = archive.read("summary.json").decode()
    summary = json.loads(text)
    assert summary["options"] == {
        "um_per_px": 0.25,
        "automatic": {"mode": "instances"},
        "filters": {"area_max": 50.0},
    }
    assert summary["automatic"] == {"mode": "instances", "points_per_side": 32}
    assert summary["filters_applied"] == [{"filter": "area_max", "value": 5.0, "removed": 1}]
    assert summary["summary_statistics"] == json.loads(json.dumps(found.summary.as_dict()))
    assert summary["calibration"]["diameter_stats_um"]["mean_um"] == pytest.approx(
        found.summary.diameter_stats.mean / 4
    )
    assert summary["model"] == {
        "name": "droplet", "checkpoint": "drop.safetensors", "sha256": "ab" * 32,
        "type": "vit_t", "device": "cpu", "precision": "float32", "backend": "torch",
    }  # fmt: skip
    assert summary["version"] == __version__
    assert "/secret" not in text and "AAAA" not in text


def test_archive_without_calibration():
    archive = zipfile.ZipFile(io.BytesIO(exports.write(segment(disc(40, 60, 20)), "zip", "a").body))
    assert json.loads(archive.read("summary.json"))["calibration"] is None


def test_archive_is_deterministic_and_compresses_only_text():
    found = segment(disc(40, 60, 20))
    body = exports.write(found, "zip", "a").body
    found.watch.timings_ms["later"] = 5.0
    assert exports.write(found, "zip", "a").body == body
    for entry in zipfile.ZipFile(io.BytesIO(body)).infolist():
        assert (entry.date_time, entry.create_system) == ((1980, 1, 1, 0, 0, 0), 3)
        assert entry.external_attr >> 16 == 0o100644
        stored = entry.compress_type == zipfile.ZIP_STORED
        assert stored == entry.filename.endswith(".png")


# PNG of a mask


@given(st.data())
def test_mask_png_gives_any_mask_back(data):
    height, width = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 40)))
    pixels = data.draw(hnp.arrays(bool, (height, width)).filter(lambda a: a.any()))
    image = open_png(mask_png(make_mask(pixels)))
    assert image.mode == "1"
    np.testing.assert_array_equal(np.array(image), pixels)
    decoded = cv2.imdecode(np.frombuffer(mask_png(make_mask(pixels)), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded > 0, pixels)


def test_encode_png_keeps_colours_in_order():
    rgb = make_picture().rgb
    np.testing.assert_array_equal(np.array(open_png(encode_png(rgb))), rgb)
