"""Bad input: the right status, one shape, a detail that helps, and nothing that was not asked for."""

import base64
import io
import json
import struct
import zlib

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import USER_KEY


def assert_problem(response: TestResponse, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    body = json.loads(response.data)
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    assert body["status"] == status
    assert body["code"] == code
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert "Traceback" not in response.text
    return body


def post_file(client: FlaskClient, data: bytes, name: str = "a.png", **fields: str) -> TestResponse:
    return client.post("/segment_file", data={"file": (io.BytesIO(data), name), **fields})


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize("key", [None, "", "wrong", "sam-demo-key-123", "ключ", "x" * 5000, USER_KEY + " x"])
def test_without_a_valid_key(app: Flask, key: str | None, sample: bytes) -> None:
    headers = {} if key is None else {"X-API-Key": key.encode("utf-8").decode("latin-1")}
    response = app.test_client().post(
        "/segment_file", data={"file": (io.BytesIO(sample), "a.png")}, headers=headers
    )
    assert_problem(response, 401, "unauthorized")
    assert "X-API-Key" in response.headers["WWW-Authenticate"]
    assert "RateLimit-Limit" not in response.headers


def test_over_the_limit(app: Flask) -> None:
    client = app.test_client()
    headers = {"X-API-Key": "test-user-key-2"}
    remaining = []
    for _ in range(3):
        response = client.post("/analyze_image", headers=headers)
        assert_problem(response, 415, "unsupported_image")
        remaining.append(int(response.headers["RateLimit-Remaining"]))
    assert remaining == [2, 1, 0]
    response = client.post("/analyze_image", headers=headers)
    body = assert_problem(response, 429, "rate_limited")
    assert "3 requests per hour" in body["detail"]
    assert 1 <= int(response.headers["Retry-After"]) <= 3600
    assert response.headers["RateLimit-Limit"] == "3"
    assert client.get("/defaults", headers=headers).status_code == 200  # not counted


def test_an_admin_has_no_limit_and_may_segment(app: Flask) -> None:
    response = app.test_client().post("/analyze_image", headers={"X-API-Key": "test-admin-key-1"})
    assert_problem(response, 415, "unsupported_image")
    assert "RateLimit-Limit" not in response.headers


def test_too_many_bytes(client: FlaskClient) -> None:
    def send(size: int) -> TestResponse:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        body = head + b"\x89PNG\r\n\x1a\n" + bytes(size) + b"\r\n--x--\r\n"
        return client.post("/segment_file", data=body, content_type="multipart/form-data; boundary=x")

    answer = assert_problem(send(60 * 2**20), 413, "image_too_large")
    assert "52,428,800" in answer["detail"]
    assert_problem(send(70 * 2**20), 413, "body_too_large")


def test_too_many_pixels_by_the_header(client: FlaskClient) -> None:
    body = assert_problem(post_file(client, png_header(30000, 30000)), 413, "image_too_large")
    assert "30000x30000" in body["detail"]
    assert "100,000,000" in body["detail"]


@pytest.mark.parametrize("data", [b"just text", b"", b"GIF89a" + bytes(50), b"<svg/>", b"%PDF-1.7"])
def test_not_a_picture(client: FlaskClient, data: bytes) -> None:
    assert_problem(post_file(client, data), 415, "unsupported_image")


def test_truncated_picture(client: FlaskClient, sample: bytes) -> None:
    assert_problem(post_file(client, sample[: len(sample) // 2]), 422, "damaged_image")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ("{", 400, "malformed_request", None),
        ("", 400, "malformed_request", None),
        ("[" * 100_000, 400, "malformed_request", None),
        ("[]", 422, "invalid_request", ""),
        ("{}", 422, "invalid_request", "image"),
        ('{"image": 5}', 422, "invalid_request", "image"),
        ('{"image": null}', 422, "invalid_request", "image"),
        ('{"image": "%%%"}', 422, "invalid_request", "image"),
        ('{"image": ""}', 415, "unsupported_image", None),
        ('{"image": "aGVsbG8="}', 415, "unsupported_image", None),
        ('{"image": "x", "colour": 1}', 422, "invalid_request", "colour"),
        ('{"image": "x", "page": -1}', 422, "invalid_request", "page"),
        ('{"image": "x", "um_per_px": 0}', 422, "invalid_request", "um_per_px"),
        ('{"image": "x", "um_per_px": NaN}', 422, "invalid_request", "um_per_px"),
        ('{"image": "x", "prompts": []}', 422, "invalid_request", "prompts"),
        ('{"image": "x", "automatic": {"points_per_side": 0}}', 422, "invalid_request", "automatic.points_per_side"),
        ('{"image": "x", "filters": {"area_min": 9, "area_max": 3}}', 422, "invalid_request", "filters"),
        ('{"image": "x", "output": {"masks": ["jpg"]}}', 422, "invalid_request", "output.masks[0]"),
        ('{"image": "x", "preprocessing": {"blur": {"kernel_size": 4}}}', 422, "invalid_request", "preprocessing.blur.kernel_size"),
    ],
)  # fmt: skip
def test_json_bodies(client: FlaskClient, body: str, status: int, code: str, field: str | None) -> None:
    answer = assert_problem(client.post("/segment", data=body), status, code)
    if field is not None:
        assert answer["errors"][0]["field"] == field
        assert answer["errors"][0]["message"]


@pytest.mark.parametrize(
    ("prompt", "field", "message"),
    [
        ({"points": [{"x": 9999, "y": 3}]}, "prompts[0].points[0]", "=(9999, 3) lies outside 640x480"),
        ({"points": [{"x": -1, "y": 3}]}, "prompts[0].points[0]", "=(-1, 3) lies outside 640x480"),
        ({"points": [{"x": 1e308, "y": 3}]}, "prompts[0].points[0]", "=(1e+308, 3) lies outside 640x480"),
        ({"points": [{"x": 1}]}, "prompts[0].points[0]", "needs either x and y or x_norm and y_norm, got x"),
        ({"points": [{"x_norm": 1.1, "y_norm": 0}]}, "prompts[0].points[0].x_norm", "less than or equal to 1"),
        ({"box": [10, 10, 5, 20]}, "prompts[0].box", "inverted"),
        ({"box": [0, 0, 9999, 20]}, "prompts[0].box", "lies outside 640x480"),
        ({}, "prompts[0]", "neither points nor a box nor a mask_input"),
        ({"mask_input": "nope"}, "prompts[0].mask_input", "is not kept"),
        ({"mask_input": {"size": [2, 2], "counts": "04"}}, "prompts[0].mask_input.size", "[480, 640]"),
        ({"mask_input": {"size": [480, 640], "counts": "zzzzzzzz"}}, "prompts[0].mask_input.counts", "counts"),
    ],
)  # fmt: skip
def test_impossible_prompts(
    client: FlaskClient, sample: bytes, prompt: dict, field: str, message: str
) -> None:
    response = post_file(client, sample, prompts=json.dumps([prompt]))
    error = assert_problem(response, 422, "invalid_request")["errors"][0]
    assert error["field"] == field
    assert message in error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        ({"filters": "{area_min: 5}"}, 400, "filters"),
        ({"um_per_px": "two"}, 400, "um_per_px"),
        ({"um_per_px": "Infinity"}, 400, "um_per_px"),
        ({"output": '{"masks": "none"'}, 400, "output"),
        ({"treshold": "1"}, 422, "treshold"),
        ({"output": '"png"'}, 422, "output"),
    ],
)
def test_form_fields(client: FlaskClient, sample: bytes, fields: dict, status: int, detail: str) -> None:
    code = "malformed_request" if status == 400 else "invalid_request"
    assert detail in assert_problem(post_file(client, sample, **fields), status, code)["detail"]


def test_files_that_are_missing_or_too_many(client: FlaskClient, sample: bytes) -> None:
    none = client.post("/segment_file", data={"output": "{}"}, content_type="multipart/form-data")
    assert assert_problem(none, 422, "invalid_request")["errors"][0]["field"] == "file"
    two = {"file": [(io.BytesIO(sample), "a.png"), (io.BytesIO(sample), "b.png")]}
    assert_problem(client.post("/segment_file", data=two), 422, "invalid_request")
    other = {"file": (io.BytesIO(sample), "a.png"), "files": (io.BytesIO(sample), "b.png")}
    assert (
        "files" in assert_problem(client.post("/segment_file", data=other), 422, "invalid_request")["detail"]
    )
    assert_problem(client.post("/segment_file", data=b"{}"), 415, "unsupported_image")
    multipart = {"file": (io.BytesIO(sample), "a.png")}
    assert (
        "/segment_file"
        in assert_problem(client.post("/segment", data=multipart), 415, "unsupported_image")["detail"]
    )


def test_page_out_of_range(client: FlaskClient, sample: bytes) -> None:
    error = assert_problem(post_file(client, sample, page="3"), 422, "invalid_request")["errors"][0]
    assert error == {"field": "page", "message": "=3 lies outside 0..0"}


def test_unknown_paths_and_methods(client: FlaskClient) -> None:
    assert_problem(client.get("/nothing"), 404, "not_found")
    response = client.get("/segment")
    assert_problem(response, 405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-123", True), ("a b", False), ("x" * 65, False), ("<b>", False)]
)
def test_request_ids(client: FlaskClient, given: str, kept: bool) -> None:
    answer = client.get("/health", headers={"X-Request-ID": given})
    assert (answer.headers["X-Request-ID"] == given) is kept
    assert answer.headers["X-Request-ID"]


def test_an_unforeseen_error_shows_nothing(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.routes.exchange.decode", broken)
    response = post_file(client, b"x")
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text


def test_disk_full_is_507(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.routes.exchange.decode", full)
    assert_problem(post_file(client, b"x"), 507, "disk_full")


def test_base64_of_a_truncated_picture(client: FlaskClient, sample: bytes) -> None:
    image = base64.b64encode(sample[:5000]).decode()
    assert_problem(client.post("/segment", json={"image": image}), 422, "damaged_image")
