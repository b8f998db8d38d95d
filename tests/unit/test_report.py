"""Report, plots, numbered overlay and summary, read back as their readers do."""

import base64
import csv
import hashlib
import io
import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from service import __version__, exports
from service.exports import labelled, plots, report
from service.exports.report import POLICY
from service.exports.summary import LABELS
from service.schemas import SegmentOptions
from tests.segmented import HEIGHT, WIDTH, disc, make_picture, segment

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}.png"
FETCHES = ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "background")
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())


def options_with(um_per_px=None, **analysis):
    return SegmentOptions(analysis={"resamples": 200, **analysis}, um_per_px=um_per_px)


def drops(count=20, **how):
    places = [(x, y) for y in range(20, HEIGHT - 10, 24) for x in range(20, WIDTH - 10, 24)]
    drawn = [disc(x, y, 6 + 0.2 * i) for i, (x, y) in enumerate(places[:count])]
    return segment(*drawn, **{"options": options_with(), **how})


def html_of(found, name="drops.png"):
    return exports.write(found, "html", name).body.decode()


def table_of(found, name="drops.png"):
    with zipfile.ZipFile(io.BytesIO(exports.write(found, "zip", name).body)) as archive:
        return list(csv.DictReader(io.StringIO(archive.read("summary.csv").decode())))


# report


@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_report_stands_alone(count):
    page = Page(html_of(drops(count)))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes
        for name in FETCHES:
            assert re.match(r"#|data:image/jpeg;base64,", attributes.get(name, "#")), attributes[name]
    assert not re.search(r"@import|url\((?!#)|expression", html_of(drops(count)))


def test_the_policy_lets_its_own_style_through():
    text = html_of(drops(3))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    metas = [a for tag, a in Page(text).tags if tag == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in metas


def test_ids_are_unique():
    ids = [a["id"] for _, a in Page(html_of(drops(20))).tags if "id" in a]
    assert len(ids) == len(set(ids)) > 4


def test_hostile_names_are_text():
    text = html_of(drops(3), HOSTILE)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert HOSTILE in Page(text).words


def test_a_report_says_how_it_was_made():
    options = SegmentOptions(
        analysis={"resamples": 200},
        um_per_px=0.25,
        filters={"area_max": 400},
        automatic={"mode": "instances"},
    )
    words = Page(html_of(drops(20, options=options, removed=(19,)))).words
    for expected in ("0.25 µm/px", "ab" * 32, f"SAM Droplet {__version__}", "drop.safetensors", "drops.png"):
        assert expected in words
    assert words[words.index("removed by area_max = 5") + 1 :][:2].count("1") == 1
    for parameter in ("analysis.confidence", "filters.area_max", "automatic.mode"):
        assert parameter in words
    assert not [word for word in words if "/secret" in word]


def test_every_object_has_a_line():
    found = segment(disc(5, 60, 10), disc(80, 60, 20), options=options_with(border_correction=True))
    text = html_of(found)
    rows = re.findall(r'<tr><th scope="row">(\d+)</th>.*?<td>(yes|no)</td></tr>', text)
    assert rows == [("1", "no"), ("2", "yes")]
    assert "Grey: not counted" in text


def test_statistics_are_those_of_the_table():
    found = drops(20, options=options_with(um_per_px=2.0))
    d50 = next(r for r in table_of(found) if r["quantity"] == LABELS["d50"] and r["unit"] == "um")
    words = Page(html_of(found)).words
    shown = words[words.index(LABELS["d50"]) + 1 :]
    value, unit, interval = [word for word in shown if word][:3]
    assert float(value) == pytest.approx(float(d50["value"]), rel=1e-3)
    assert unit == "µm"
    assert interval == f"{float(d50['low']):#.4g} to {float(d50['high']):#.4g}"


def test_few_objects_are_warned_of_in_words():
    text = html_of(drops(12))
    assert "Before you use these numbers" in text
    assert "<b>Too few objects:</b>" in text
    assert "volume_d90" not in text


def test_a_large_picture_is_reduced_in_the_report_alone():
    side = 2500
    square = np.zeros((side, side), bool)
    square[100:900, 100:900] = True
    found = segment(square, picture=make_picture((side, side)), options=options_with())
    image = re.search(r"data:image/jpeg;base64,([^\"]+)", html_of(found))[1]
    with Image.open(io.BytesIO(base64.b64decode(image))) as shown:
        assert shown.size == (1600, 1600)
    assert labelled.draw(found).shape == (side, side, 3)


@pytest.mark.parametrize("form", ["html", "svg", "plot", "zip"])
def test_the_same_segmentation_gives_the_same_bytes(form):
    found = drops(20, options=options_with(um_per_px=1.5, fit="circle", inclusions=True))
    assert exports.write(found, form, "a.png").body == exports.write(found, form, "a.png").body


@pytest.mark.parametrize("form", ["html", "svg", "plot"])
def test_without_analysis_there_is_nothing_to_write(form):
    with pytest.raises(ValueError, match="without analysis"):
        exports.write(segment(disc(60, 60, 20)), form, "a.png")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (3, "3"), (0.0, "0"), (45.4, "45.40"), (19760.8, "19761"), (0.036165, "0.03617"), ("a", "a"),
     (True, "True"), (1234.56, "1235"), (2.5e-7, "2.500e-07")],
)  # fmt: skip
def test_numbers_are_readable(value, text):
    assert report._number(value) == text


# plots


def texts_of(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


@pytest.mark.parametrize(("um_per_px", "unit"), [(None, "px"), (0.5, "µm")])
def test_axes_have_units(um_per_px, unit):
    svg = exports.write(drops(20, options=options_with(um_per_px)), "svg", "a").body
    assert texts_of(svg).count(f"equivalent diameter / {unit}") == 2
    assert {"D10", "D50", "D90", "number", "volume", "by number, n = 20"} <= set(texts_of(svg))


def test_a_plot_without_objects_says_so():
    assert texts_of(exports.write(drops(0), "svg", "a").body).count("no object") == 2
    with Image.open(io.BytesIO(exports.write(drops(0), "plot", "a").body)) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("radii", [[10], [10, 10, 10], [3, 40]])
def test_plots_of_few_or_equal_sizes(radii):
    drawn = [disc(45 + 45 * i, 60, radius) for i, radius in enumerate(radii)]
    svg = exports.write(segment(*drawn, options=options_with()), "svg", "a").body
    assert f"by number, n = {len(radii)}" in texts_of(svg)


def test_plots_are_the_same_from_many_threads():
    found = drops(20)
    expected = exports.write(found, "svg", "a").body
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: exports.write(found, "svg", "a").body, range(8)))
    assert set(drawn) == {expected}


def test_units_as_people_write_them():
    assert [plots.pretty(unit) for unit in ("um", "um2", "px", "nl", "copies/ul", "um/px")] == [
        "µm", "µm²", "px", "nl", "copies/µl", "µm/px"
    ]  # fmt: skip


# numbered overlay


def test_a_small_picture_is_enlarged_and_a_large_one_is_not():
    assert labelled.draw(drops(3)).shape == (4 * HEIGHT, 4 * WIDTH, 3)
    large = segment(np.ones((1700, 900), bool), picture=make_picture((1700, 900)))
    assert labelled.draw(large).shape == (1700, 900, 3)


def test_numbers_lie_in_their_objects_and_on_no_other():
    found = drops(20)
    plain = np.repeat(np.repeat(exports.overlay.draw(found), 4, axis=0), 4, axis=1)
    written = (labelled.draw(found) != plain).any(axis=2)
    outside = np.ones((HEIGHT, WIDTH), bool)
    for item in found.kept:
        inside = np.kron(item.mask.full(), np.ones((4, 4), bool))
        assert np.count_nonzero(written & inside) > 40
        outside &= ~item.mask.full()
    assert not (written & np.kron(outside, np.ones((4, 4), bool))).any()


def test_numbers_of_objects_in_objects_do_not_cover_each_other():
    found = segment(disc(60, 60, 40), disc(60, 60, 30), disc(60, 60, 20), options=options_with())
    written = np.zeros((4 * HEIGHT, 4 * WIDTH), bool)
    for item in found.kept:
        x, y = labelled._place(item.mask, 4.0, (24, 16), written)
        window = labelled._window(x, y, 24, 16)
        assert not written[window].any()
        written[window] = True


def test_numbers_stay_in_the_picture():
    taken = np.zeros((HEIGHT, WIDTH), bool)
    for x, y in [(0, 0), (WIDTH - 1, HEIGHT - 1)]:
        pixel = np.zeros((HEIGHT, WIDTH), bool)
        pixel[y, x] = True
        (item,) = segment(pixel).kept
        place = labelled._place(item.mask, 1.0, (25, 17), taken)
        rows, columns = labelled._window(*place, 25, 17)
        assert 0 <= rows.start and rows.stop <= HEIGHT and 0 <= columns.start and columns.stop <= WIDTH


def test_where_all_is_taken_the_number_is_written_still():
    found = segment(disc(60, 60, 10))
    taken = np.ones((HEIGHT, WIDTH), bool)
    assert labelled._place(found.kept[0].mask, 1.0, (9, 9), taken) == (60, 60)


def test_the_number_of_a_ring_lies_on_the_ring():
    ring = disc(60, 60, 40, hole=20)
    x, y = labelled._innermost(segment(ring).kept[0].mask)
    assert ring[int(y), int(x)]
    assert np.hypot(x - 60.5, y - 60.5) == pytest.approx(30, abs=2)


# summary and archive


def test_summary_has_intervals_units_and_provenance():
    options = SegmentOptions(analysis={"resamples": 200, "confidence": 0.9}, um_per_px=0.5)
    rows = table_of(drops(20, options=options), "=cmd.png")
    sizes = {(r["quantity"], r["unit"]): r for r in rows if r["section"] == "sizes"}
    in_px, in_um = sizes["D[3,2] (Sauter)", "px"], sizes["D[3,2] (Sauter)", "um"]
    assert float(in_um["value"]) == pytest.approx(0.5 * float(in_px["value"]))
    assert float(in_um["low"]) == pytest.approx(0.5 * float(in_px["low"]))
    assert float(in_px["low"]) < float(in_px["value"]) < float(in_px["high"])
    assert in_px["objects_for_5_percent"] == in_um["objects_for_5_percent"]
    other = {(r["section"], r["quantity"]): r for r in rows}
    assert other["picture", "name"]["value"] == "'=cmd.png"
    scale = other["calibration", "scale"]
    assert (scale["value"], scale["unit"]) == ("0.5", "um/px")
    assert other["model", "sha256"]["value"] == "ab" * 32
    assert other["parameters", "analysis.confidence"]["value"] == "0.9"
    assert other["objects", "counted"]["value"] == "20"
    assert any(section == "warnings" for section, _ in other)


def test_columns_of_the_analysis():
    outer, inner, cut = disc(70, 60, 40), disc(60, 60, 12), disc(4, 60, 8)
    options = options_with(um_per_px=2.0, border_correction=True, inclusions=True, fit="circle")
    found = segment(outer, inner, cut, options=options)
    table = list(csv.DictReader(io.StringIO(exports.write(found, "csv", "a").body.decode())))
    assert [row["counted"] for row in table] == ["true", "false", "false"]
    assert [row["parent_id"] for row in table] == ["", "1", ""]
    assert [row["inclusions"] for row in table] == ["1", "0", "0"]
    assert float(table[0]["outline_diameter_um"]) == 2 * float(table[0]["outline_diameter_px"])
    assert float(table[0]["border_weight"]) > 1 and table[2]["border_weight"] == "0"
    assert all(bool(row["fit_diameter_px"]) != bool(row["fit_failure"]) for row in table)
    assert "fit_diameter_um" in table[0]


def test_archive_with_an_analysis():
    found = drops(5, options=options_with(digital_pcr=None, inclusions=True))
    with zipfile.ZipFile(io.BytesIO(exports.write(found, "zip", HOSTILE).body)) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert {
            "report.html", "summary.csv", "overlay_numbered.png", "size_distribution.png", "size_distribution.svg"
        } <= names  # fmt: skip
        assert archive.read("report.html") == exports.write(found, "html", HOSTILE).body
        assert archive.read("size_distribution.svg") == exports.write(found, "svg", HOSTILE).body
        analysis = json.loads(archive.read("summary.json"))["analysis"]
        with Image.open(io.BytesIO(archive.read("overlay_numbered.png"))) as image:
            assert image.size == (4 * WIDTH, 4 * HEIGHT)
    assert analysis["size_distribution"]["count"] == 5
    assert analysis["size_distribution_um"] is None
