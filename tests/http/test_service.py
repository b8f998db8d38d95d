"""Health, readiness, the API's description, and a model that cannot be loaded."""

import json
import pickle
from pathlib import Path

import jsonschema
import pytest
from flask import Flask
from openapi_spec_validator import validate

from app import create_app
from sam_engine import errors as engine_errors
from sam_engine.engine import SamEngine
from service import __version__, errors, problems
from service.limits import open_limiter
from service.operations import operation_of
from service.settings import PROJECT, Settings
from tests.conftest import USER_KEY
from tests.http.test_problems import assert_problem
from tests.http.test_segment import found, send


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(self.path),))


def test_health_never_loads(settings: Settings, tmp_path: Path) -> None:
    engine = SamEngine(tmp_path, tmp_path / "missing.pt")
    limiter = open_limiter(tmp_path / "limits.sqlite3")
    client = create_app(settings, engine, limiter).test_client()
    health = found(client.get("/health"))
    assert health["status"] == "healthy"
    assert health["model_loaded"] is False
    assert health["version"] == __version__
    limiter.close()


def test_ready(app: Flask) -> None:
    assert found(app.test_client().get("/ready")) == {
        "ready": True,
        "checks": {"model": "ok", "storage": "ok"},
    }


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "malicious"])
def test_a_bad_checkpoint(kind: str, settings: Settings, tmp_path: Path, sample: bytes) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pt"
    content = {
        "missing": None,
        "truncated": (PROJECT / "model" / "droplet_vit_t.safetensors").read_bytes()[:1_000_000],
        "text": b"not a model",
        "malicious": pickle.dumps({"image_encoder": Canary(str(canary))}),
    }[kind]
    if content is not None:
        path.write_bytes(content)
    limiter = open_limiter(tmp_path / "limits.sqlite3")
    client = create_app(settings, SamEngine(tmp_path, path), limiter).test_client()
    client.environ_base["HTTP_X_API_KEY"] = USER_KEY

    ready = client.get("/ready")
    assert ready.status_code == 503
    assert "model.pt" in ready.get_json()["checks"]["model"]
    assert str(tmp_path) not in ready.text
    response = send(client, sample)
    assert "model.pt" in assert_problem(response, 503, "model_unavailable")["detail"]
    assert str(tmp_path) not in response.text
    assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/health").status_code == 200
    assert not canary.exists()
    limiter.close()


def test_the_document_is_valid_and_covers_every_endpoint(app: Flask) -> None:
    api = found(app.test_client().get("/openapi.json"))
    validate(api)
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            assert rule.rule in api["paths"]
            assert operation_of(app.view_functions[rule.endpoint]) is not None
    assert api["openapi"].startswith("3.1")
    assert api["info"]["version"] == __version__


def test_answers_fit_the_document(app: Flask, sample: bytes) -> None:
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = USER_KEY
    api = found(client.get("/openapi.json"))

    def check(path: str, method: str, status: str, media_type: str, answer: object) -> None:
        content = api["paths"][path][method]["responses"][status]["content"]
        schema = {**content[media_type]["schema"], "components": api["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer)

    prompts = [{"points": [{"x": 100, "y": 100}]}]
    output = {"masks": ["png", "rle", "polygon"], "unfiltered": True}
    for fields in ({}, {"prompts": prompts, "um_per_px": "2"}):
        answer = found(send(client, sample, output=output, **fields))
        check("/segment_file", "post", "200", "application/json", answer)
        check("/segment", "post", "200", "application/json", answer)
    check("/health", "get", "200", "application/json", found(client.get("/health")))
    wrong = client.post("/segment", data="{}")
    check("/segment", "post", "422", "application/problem+json", json.loads(wrong.data))


def test_the_page(app: Flask) -> None:
    page = app.test_client().get("/docs")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    for path in ("/segment", "/segment_file", "/analyze_image", "/defaults", "/health"):
        assert path in page.text
    sheet = app.test_client().get("/static/docs.css")
    assert sheet.status_code == 200
    assert sheet.mimetype == "text/css"
    sheet.close()
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_every_error_has_a_status() -> None:
    def leaves(kind: type) -> set[type]:
        below = {leaf for child in kind.__subclasses__() for leaf in leaves(child)}
        return below or {kind}

    answered = leaves(errors.ServiceError) | leaves(engine_errors.EngineError)
    # SettingsError ends the start, CheckpointError is raised on as ModelUnavailable
    for kind in answered - {errors.SettingsError, engine_errors.CheckpointError}:
        assert any(base in problems.STATUS for base in kind.__mro__), kind
