"""Is it up, can it work, what does it offer."""

import logging
import sqlite3
import time
from typing import Any

from flask import Blueprint, Response, current_app, json, jsonify, render_template
from typing_extensions import TypedDict

from sam_engine.errors import ModelUnavailable
from service import __version__
from service.openapi import Endpoint, document
from service.operations import Access, operation, operation_of
from service.problems import without_folders
from service.routes.context import context

blueprint = Blueprint("health", __name__)
log = logging.getLogger(__name__)


class Health(TypedDict):
    """The process is up."""

    status: str
    model_loaded: bool
    version: str
    uptime_s: float


class Ready(TypedDict):
    """Whether requests can be carried out, and what stands in the way (`ok` or a reason)."""

    ready: bool
    checks: dict[str, str]


@blueprint.get("/health")
@operation("Is the process up? Never loads the model.", "service", access=Access.PUBLIC, answer=Health)
def health() -> Response:
    parts = context()
    return jsonify(
        Health(
            status="healthy",
            model_loaded=parts.segmenter.engine.loaded,
            version=__version__,
            uptime_s=round(time.monotonic() - parts.started_at, 1),
        )
    )


@blueprint.get("/ready")
@operation("Can requests be carried out? Loads the model.", "service", access=Access.PUBLIC, answer=Ready)
def ready() -> tuple[Response, int]:
    checks = {"model": _model(), "storage": _storage()}
    well = all(state == "ok" for state in checks.values())
    return jsonify(Ready(ready=well, checks=checks)), 200 if well else 503


@blueprint.get("/openapi.json")
@operation("This document.", "service", access=Access.PUBLIC, answer=dict[str, Any])
def openapi() -> Response:
    return Response(json.dumps(_description()), content_type="application/json")


@blueprint.get("/docs")
@operation("The API as a page.", "service", access=Access.PUBLIC, media_types=("text/html",))
def docs() -> str:
    return render_template("docs.html", api=_description())


def _description() -> dict[str, Any]:
    """The OpenAPI document, made once: the endpoints of an application do not change."""
    made: dict[str, Any] | None = current_app.extensions.get("openapi")
    if made is None:
        made = current_app.extensions["openapi"] = document(endpoints())
    return made


def endpoints() -> list[Endpoint]:
    """Every endpoint of the application that says something of itself."""
    found = []
    for rule in current_app.url_map.iter_rules():
        described = operation_of(current_app.view_functions[rule.endpoint])
        if described is not None:
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            found += [Endpoint(rule.rule, method, described) for method in sorted(methods)]
    return found


def _model() -> str:
    try:
        context().segmenter.engine.load()
    except ModelUnavailable as error:
        log.warning("not ready: %s", error)
        return without_folders(str(error))
    return "ok"


def _storage() -> str:
    try:
        return "ok" if context().limiter.check() else "the limits cannot be stored"
    except (OSError, sqlite3.Error) as error:
        log.warning("not ready: %s", error)
        return "the limits cannot be stored"
