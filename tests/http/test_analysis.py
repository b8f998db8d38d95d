"""`/advanced_analysis`, `/download_analysis`, and the field `analysis` of every segmentation."""

import base64
import csv
import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from tests.http.test_problems import assert_problem
from tests.http.test_segment import NO_MASKS, found, send

QUICK = {"resamples": 200}
EVERYTHING = {**QUICK, "border_correction": True, "fit": "circle", "digital_pcr": {}, "inclusions": True}
CLASSES = {"enable_intensity_coloring": True}


def ask(
    client: FlaskClient, path: str, picture: bytes, name: str = "drops.png", **fields: object
) -> TestResponse:
    data = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    return client.post(path, data={"file": (io.BytesIO(picture), name), **data})


def archive_of(response: TestResponse) -> zipfile.ZipFile:
    assert response.status_code == 200, response.text
    assert response.mimetype == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.data))
    assert archive.testzip() is None
    return archive


@pytest.fixture(scope="module")
def blank() -> bytes:
    return cv2.imencode(".png", np.full((120, 160), 200, np.uint8))[1].tobytes()


def test_the_analysis_of_the_sample(client: FlaskClient, sample: bytes) -> None:
    answer = found(
        send(client, sample, analysis=EVERYTHING, filters=CLASSES, um_per_px="1.6", output=NO_MASKS)
    )
    analysis = answer["analysis"]
    counts = analysis["objects"]
    assert counts["kept"] == answer["num_masks"]
    assert counts["counted"] == counts["kept"] - counts["at_the_edge"] - counts["inside_others"]
    counted = [mask for mask in answer["masks"] if mask["counted"]]
    assert len(counted) == counts["counted"] == analysis["size_distribution"]["count"]
    assert not any(mask["edge_stats"]["touches_edge"] for mask in counted)
    for mask in answer["masks"]:
        assert (mask["border_weight"] > 1) == mask["counted"]
        assert mask["parent_id"] is None
        assert mask["fit"]["model"] == "circle" if "model" in mask["fit"] else mask["fit"]["reason"]
    median = analysis["size_distribution"]["statistics"]["d50"]
    assert median["low"] < median["value"] < median["high"]
    in_um = analysis["size_distribution_um"]["statistics"]["d50"]
    assert in_um["value"] == pytest.approx(1.6 * median["value"], rel=1e-4)
    assert analysis["calibration"] == answer["calibration"] == {
        "um_per_px": 1.6, "source": "request", "bar": None
    }  # fmt: skip
    pcr = analysis["digital_pcr"]
    high = sum(mask["intensity_class"] == "high" for mask in counted)
    assert pcr["concentration"]["positives"] == high
    assert pcr["volume_source"] == "diameters"
    assert analysis["border_correction"]["excluded"] == counts["at_the_edge"] > 0
    assert sum(analysis["size_distribution"]["histogram"]["count"]) == counts["counted"]
    assert analysis["parameters"]["confidence"] == 0.95


def test_without_the_field_nothing_is_added(client: FlaskClient, sample: bytes) -> None:
    answer = found(send(client, sample, output=NO_MASKS))
    assert "analysis" not in answer and "calibration" not in answer
    assert "analysis" not in answer["timings_ms"]
    assert not {"counted", "fit", "parent_id", "border_weight"} & set(answer["masks"][0])
    with_it = found(send(client, sample, output=NO_MASKS, analysis=QUICK))
    assert answer.keys() == with_it.keys() - {"analysis"}
    assert answer["summary_statistics"] == with_it["summary_statistics"]


def test_the_archive_holds_the_same_numbers_everywhere(client: FlaskClient, sample: bytes) -> None:
    fields = {"analysis": {**QUICK, "border_correction": True}, "um_per_px": "1.6"}
    archive = archive_of(ask(client, "/advanced_analysis", sample, **fields))
    summary = json.loads(archive.read("summary.json"))
    objects = list(csv.DictReader(io.StringIO(archive.read("measurements.csv").decode())))
    counted = [row for row in objects if row["counted"] == "true"]
    distribution = summary["analysis"]["size_distribution_um"]
    assert len(counted) == distribution["count"]
    weights = np.array([float(row["border_weight"]) for row in counted])
    diameters = np.array([float(row["equivalent_diameter_um"]) for row in counted])
    sauter = (weights * diameters**3).sum() / (weights * diameters**2).sum()
    assert distribution["statistics"]["d32"]["value"] == pytest.approx(sauter, rel=1e-5)
    rows = list(csv.DictReader(io.StringIO(archive.read("summary.csv").decode())))
    (row,) = [r for r in rows if r["quantity"].startswith("D[3,2]") and r["unit"] == "um"]
    assert float(row["value"]) == pytest.approx(sauter)
    assert f"{sauter:.4g} µm" in archive.read("report.html").decode()
    for name, size in {
        "overlay.png": (640, 480),
        "overlay_numbered.png": (1920, 1440),
        "labels.png": (640, 480),
    }.items():
        with Image.open(io.BytesIO(archive.read(name))) as image:
            assert image.size == size
    assert len([name for name in archive.namelist() if name.startswith("masks/")]) == len(objects)
    assert archive.read("size_distribution.svg").startswith(b"<?xml")
    assert archive.read("size_distribution.png").startswith(b"\x89PNG")


def test_json_and_file_give_the_same_archive(client: FlaskClient, sample: bytes) -> None:
    body = {"image": base64.b64encode(sample).decode(), "analysis": QUICK}
    by_json = client.post("/advanced_analysis", json=body)
    by_file = ask(client, "/advanced_analysis", sample, "image", analysis=QUICK)
    assert by_json.data == by_file.data
    assert archive_of(by_json)
    assert "filename=image.zip" in by_json.headers["Content-Disposition"]


def test_download_analysis_is_the_archive(client: FlaskClient, sample: bytes) -> None:
    fields = {"analysis": QUICK, "um_per_px": "2"}
    downloaded = client.post(
        "/download_analysis",
        data={"file": (io.BytesIO(sample), "drops.png"), "analysis": json.dumps(QUICK), "um_per_px": "2"},
        headers={"Accept": "application/json"},
    )
    assert downloaded.headers["Content-Disposition"] == "attachment; filename=drops.zip"
    assert downloaded.data == ask(client, "/advanced_analysis", sample, **fields).data
    other = ask(client, "/download_analysis", sample, output={"format": "csv"})
    error = assert_problem(other, 422, "invalid_request")["errors"][0]
    assert error["field"] == "output.format"
    assert "'csv'" in error["message"]


def test_defaults_are_enough(client: FlaskClient, sample: bytes) -> None:
    answer = found(ask(client, "/advanced_analysis", sample, output={"format": "json", "masks": "none"}))
    assert answer["analysis"]["size_distribution"]["resamples"] == 1000
    assert answer["analysis"]["border_correction"] is None


@pytest.mark.parametrize(
    ("form", "accept", "media_type", "shown"),
    [
        ("html", "text/html", "text/html", "inline"),
        ("svg", "image/svg+xml", "image/svg+xml", "attachment"),
        ("plot", None, "image/png", "attachment"),
    ],
)
@pytest.mark.parametrize("path", ["/advanced_analysis", "/segment_file"])
def test_forms_of_the_report(
    client: FlaskClient, sample: bytes, path: str, form: str, accept: str | None, media_type: str, shown: str
) -> None:
    wished = ask(client, path, sample, output={"format": form}, analysis=QUICK)
    assert wished.status_code == 200, wished.text
    assert wished.mimetype == media_type
    assert wished.headers["Content-Disposition"].startswith(shown)
    if accept is not None:
        data = {"file": (io.BytesIO(sample), "drops.png"), "analysis": json.dumps(QUICK)}
        accepted = client.post(path, data=data, headers={"Accept": accept})
        assert accepted.data == wished.data


def test_a_report_in_a_browser_can_do_nothing(client: FlaskClient, sample: bytes) -> None:
    report = ask(
        client, "/segment_file", sample, "<img src=x onerror=alert(1)>.png", output={"format": "html"}
    )
    policy = report.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy
    assert "unsafe" not in policy and "script-src" not in policy
    assert "<img src=x" not in report.text


@pytest.mark.parametrize("form", ["zip", "html", "svg", "plot", "json"])
def test_a_picture_without_objects_has_a_report(client: FlaskClient, blank: bytes, form: str) -> None:
    output = {"format": form, "masks": "none"}
    filters = {**CLASSES, "area_min": 1e9}
    response = ask(client, "/advanced_analysis", blank, analysis=EVERYTHING, filters=filters, output=output)
    assert response.status_code == 200, response.text
    if form == "json":
        analysis = response.get_json()["analysis"]
        assert analysis["objects"]["counted"] == 0
        assert analysis["size_distribution"]["statistics"]["d50"]["value"] is None
        assert analysis["digital_pcr"]["concentration"] is None


def test_prompted_objects_can_be_analysed(client: FlaskClient, sample: bytes) -> None:
    prompts = [{"points": [{"x": 245, "y": 116}]}]
    fields = {"prompts": prompts, "analysis": {**QUICK, "fit": "circle"}, "output": NO_MASKS}
    analysis = found(send(client, sample, **fields))["analysis"]
    assert "candidates_counted" in [warning["code"] for warning in analysis["warnings"]]


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"analysis": {"confidence": 1}}, 422, "analysis.confidence"),
        ({"analysis": {"confidence": "high"}}, 422, "analysis.confidence"),
        ({"analysis": {"resamples": -1}}, 422, "analysis.resamples"),
        ({"analysis": {"resamples": 50}}, 422, "analysis.resamples"),
        ({"analysis": {"resamples": 10_001}}, 422, "analysis.resamples"),
        ({"analysis": {"fit": "square"}}, 422, "analysis.fit"),
        ({"analysis": {"bootstrap": 5}}, 422, "analysis.bootstrap"),
        ({"analysis": {"digital_pcr": {"droplet_volume_nl": 0}}, "filters": CLASSES}, 422, "analysis.digital_pcr.droplet_volume_nl"),
        ({"analysis": {"digital_pcr": {}}}, 422, "analysis"),
        ({"analysis": '{"confidence": NaN}'}, 400, None),
        ({"analysis": "[1"}, 400, None),
        ({"analysis": '"all"'}, 422, "analysis"),
        ({"um_per_px": "2", "scale_bar_um": "50"}, 422, "scale_bar_um"),
        ({"scale_bar_um": "-5"}, 422, "scale_bar_um"),
        ({"scale_bar_um": "Infinity"}, 400, None),
    ],
)  # fmt: skip
def test_wrong_wishes_name_themselves(
    client: FlaskClient, blank: bytes, fields: dict, status: int, field: str | None
) -> None:
    code = "malformed_request" if status == 400 else "invalid_request"
    for path in ("/segment_file", "/advanced_analysis"):
        answer = assert_problem(ask(client, path, blank, **fields), status, code)
        if field is not None:
            assert answer["errors"][0]["field"] == field


def test_both_calibrations_are_refused_in_json_too(client: FlaskClient, blank: bytes) -> None:
    body = {"image": base64.b64encode(blank).decode(), "um_per_px": 2, "scale_bar_um": 50}
    for path in ("/segment", "/advanced_analysis", "/download_analysis"):
        error = assert_problem(client.post(path, json=body), 422, "invalid_request")["errors"][0]
        assert error["field"] == "scale_bar_um"
        assert "um_per_px" in error["message"]


def test_inputs_other_than_pictures(client: FlaskClient) -> None:
    assert_problem(ask(client, "/advanced_analysis", b"no picture"), 415, "unsupported_image")
    assert_problem(client.post("/advanced_analysis", data=b"{"), 400, "malformed_request")
    assert_problem(client.get("/advanced_analysis"), 405, "method_not_allowed")


def test_a_key_is_needed(app: Flask, blank: bytes) -> None:
    for path in ("/advanced_analysis", "/download_analysis"):
        assert_problem(ask(app.test_client(), path, blank), 401, "unauthorized")
