"""Logs: one line a request, in either form, and no secrets in them."""

import json
import logging

import pytest
from flask.testing import FlaskClient

from service.telemetry import configure_logging
from tests.conftest import USER_KEY


@pytest.fixture
def restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("restored_logging")
def test_one_json_line_a_request(client: FlaskClient, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "json")
    client.get("/defaults", headers={"X-Request-ID": "abc-1"})
    client.get("/nothing?key=" + USER_KEY)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    mine = [line for line in lines if line["event"] == "request"]
    assert [(line["route"], line["status"], line["key"]) for line in mine] == [
        ("/defaults", 200, "user"),
        (None, 404, None),
    ]
    assert mine[0]["request_id"] == "abc-1"
    assert mine[0]["ms"] >= 0


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_key_reaches_the_log(form: str, client: FlaskClient, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", form)
    client.get("/defaults")
    client.get("/defaults", headers={"X-API-Key": "canary-key-that-is-wrong"})
    client.post("/segment", data=b"{" + USER_KEY.encode())
    written = capsys.readouterr().err
    assert "/defaults" in written
    assert USER_KEY not in written
    assert "canary" not in written


@pytest.mark.usefixtures("restored_logging")
def test_foreign_logs_take_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logging.getLogger("some.library").warning("careful %s", "now")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["logger"]) == ("careful now", "warning", "some.library")
