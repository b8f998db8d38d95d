"""`/analyze_sequence` through the application."""

import csv
import io
import json
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from app import create_app
from sam_engine.engine import SamEngine
from service.limits import open_limiter
from service.settings import load_settings
from tests.conftest import USER_KEY
from tests.drawn import Disc, draw
from tests.http.test_problems import assert_problem
from tests.http.test_segment import found

SIZE = (160, 240)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def frame(i: int) -> np.ndarray:
    """Two drops; the left one moves to the right and grows."""
    return draw([Disc(60 + 8 * i, 80, 20 + i), Disc(190, 80, 24)], SIZE, seed=i)


@pytest.fixture(scope="module")
def film() -> list[bytes]:
    return [png(frame(i)) for i in range(3)]


@pytest.fixture(scope="module")
def tiff() -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(frame(i)) for i in range(3))
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def send(
    client: FlaskClient, pictures: list[bytes], headers: dict | None = None, **fields: object
) -> TestResponse:
    files = [(io.BytesIO(data), f"f{i}.png") for i, data in enumerate(pictures)]
    form = {name: json.dumps(value) for name, value in fields.items()}
    return client.post("/analyze_sequence", data={"files": files, **form}, headers=headers)


def test_drops_are_followed(client: FlaskClient, film: list[bytes]) -> None:
    answer = found(send(client, film, um_per_px=2.0, frame_interval_s=0.1, filters={"diameter_min": 30}))
    assert answer["num_frames"] == 3
    assert answer["image"] == {"width": 240, "height": 160}
    assert [row["name"] for row in answer["frames"]] == ["f0.png", "f1.png", "f2.png"]
    whole = [track for track in answer["tracks"] if track["frames"] == [0, 1, 2]]
    assert len(whole) == 2
    moving, still = sorted(whole, key=lambda track: track["positions"][0])
    assert moving["velocity"][0] == pytest.approx(8 * 2 / 0.1, rel=0.1)
    assert abs(still["velocity"][0]) < 10
    assert moving["growth"]["diameter"]["slope"] == pytest.approx(2 * 2 / 0.1, rel=0.4)
    assert all(min(track["diameters"]) >= 60 for track in answer["tracks"])


def test_one_multipage_file_is_the_same_sequence(client: FlaskClient, film: list[bytes], tiff: bytes) -> None:
    assert found(send(client, [tiff]))["tracks"] == found(send(client, film))["tracks"]


def test_the_sample_of_the_readme(client: FlaskClient) -> None:
    """Drawn with one merging pair and radii that grow by 2 % a frame."""
    answer = found(send(client, [(EXAMPLES / "sequence.tif").read_bytes()]))
    (event,) = answer["events"]
    assert (event["kind"], event["frame"], event["conserved"]) == ("merge", 2, "volume")
    followed = [track for track in answer["tracks"] if len(track["frames"]) == 4]
    growth = [track["diameters"][3] / track["diameters"][0] for track in followed]
    assert len(followed) >= 24
    assert np.median(growth) == pytest.approx(1.02**3, abs=0.02)


def test_formats(client: FlaskClient, film: list[bytes]) -> None:
    as_json = found(send(client, film))
    table = send(client, film, output={"format": "csv"})
    assert table.mimetype == "text/csv"
    assert table.headers["Content-Disposition"] == "attachment; filename=f0.tracks.csv"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert len(rows) == sum(row["num_objects"] for row in as_json["frames"])
    accepted = send(client, film, headers={"Accept": "application/zip"})
    with zipfile.ZipFile(io.BytesIO(accepted.data)) as archive:
        assert json.loads(archive.read("sequence.json"))["tracks"] == as_json["tracks"]
    assert accepted.data == send(client, film, headers={"Accept": "application/zip"}).data


def test_the_answer_fits_the_document(client: FlaskClient, film: list[bytes]) -> None:
    api = found(client.get("/openapi.json"))
    operation = api["paths"]["/analyze_sequence"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    answer = found(send(client, film, um_per_px=2.0))
    jsonschema.Draft202012Validator({**schema, "components": api["components"]}).validate(answer)
    body = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["required"] == ["files"]
    assert body["properties"]["files"]["type"] == "array"


def test_each_frame_counts(app: Flask, film: list[bytes]) -> None:
    client = app.test_client()
    headers = {"X-API-Key": "test-user-key-2"}  # three an hour
    four = assert_problem(send(client, [*film, film[0]], headers), 422, "invalid_request")
    assert four["errors"] == [{"field": "files", "message": "has 4 frames; this key may send 3 an hour"}]
    refused = send(client, film, headers)  # of its three, one was used by the request before
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1
    last = send(client, film[:1], headers)
    assert last.status_code == 200
    assert last.headers["RateLimit-Remaining"] == "0"


def test_bounds_of_the_operator(engine: SamEngine, film: list[bytes], tmp_path: Path) -> None:
    settings = load_settings(
        {
            "API_KEYS": f"{USER_KEY}:user:1000",
            "DATA_DIR": str(tmp_path),
            "MAX_SEQUENCE_FRAMES": "2",
            "MAX_SEQUENCE_MB": "1",
        }
    )
    limiter = open_limiter(tmp_path / "limits.sqlite3")
    client = create_app(settings, engine, limiter).test_client()
    client.environ_base["HTTP_X_API_KEY"] = USER_KEY
    error = assert_problem(send(client, film), 422, "invalid_request")["errors"][0]
    assert error == {"field": "files", "message": "has 3 frames, at most 2 are taken"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + bytes(2**20) + b"\r\n--x--\r\n"
    large = client.post("/analyze_sequence", data=body, content_type="multipart/form-data; boundary=x")
    assert_problem(large, 413, "body_too_large")
    limiter.close()


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"tracking": {"max_gap": -1}}, 422, "tracking.max_gap"),
        ({"tracking": {"max_displacement": 0}}, 422, "tracking.max_displacement"),
        ({"tracking": {"event_tolerance": 0.5}}, 422, "tracking.event_tolerance"),
        ({"tracking": {"drift": [1]}}, 422, "tracking.drift[1]"),
        ({"tracking": {"gap": 1}}, 422, "tracking.gap"),
        ({"frame_interval_s": 0}, 422, "frame_interval_s"),
        ({"um_per_px": 1, "scale_bar_um": 5}, 422, "scale_bar_um"),
        ({"scale_bar_um": 5}, 422, "scale_bar_um"),
        ({"prompts": []}, 422, "prompts"),
        ({"page": 1}, 422, "page"),
        ({"output": {"format": "coco"}}, 422, "output.format"),
    ],
)  # fmt: skip
def test_wrong_wishes(client: FlaskClient, film: list[bytes], fields: dict, status: int, field: str) -> None:
    answer = assert_problem(send(client, film[:1], **fields), status, "invalid_request")
    assert answer["errors"][0]["field"] == field


def test_wrong_files(client: FlaskClient, film: list[bytes], tiff: bytes) -> None:
    bad = assert_problem(send(client, [film[0], b"no picture"]), 415, "unsupported_image")
    assert bad["detail"].startswith("f1.png: ")
    half = assert_problem(send(client, [film[0], film[1][:200]]), 422, "damaged_image")
    assert half["detail"].startswith("f1.png: ")
    small = assert_problem(send(client, [film[0], png(frame(0)[:100])]), 422, "invalid_request")
    assert "240x100" in small["detail"] and "240x160" in small["detail"]
    assert "3 pages" in assert_problem(send(client, [film[0], tiff]), 422, "invalid_request")["detail"]
    none = client.post("/analyze_sequence", data={"output": "{}"}, content_type="multipart/form-data")
    assert assert_problem(none, 422, "invalid_request")["errors"][0]["field"] == "files"
    other = client.post("/analyze_sequence", data={"file": (io.BytesIO(film[0]), "a.png")})
    assert "file" in assert_problem(other, 422, "invalid_request")["detail"]
    assert_problem(client.post("/analyze_sequence", json={}), 415, "unsupported_image")
