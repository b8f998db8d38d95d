"""Errors to RFC 9457 answers: one table, one shape."""

import errno
import logging
import re
import sqlite3
from typing import Any

from flask import Flask, Response, g, json
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from sam_engine.errors import EngineError, InvalidInput, ModelUnavailable
from service.errors import (
    DamagedImage,
    FieldError,
    Forbidden,
    ImageTooLarge,
    InvalidRequest,
    MalformedRequest,
    RateLimited,
    ServiceError,
    Unauthorized,
    UnsupportedImage,
)

log = logging.getLogger(__name__)

MODEL_RETRY_AFTER_S = 30
UNPROCESSABLE = (422, "invalid_request", "The request cannot be carried out")
STATUS: dict[type[Exception], tuple[int, str, str]] = {
    MalformedRequest: (400, "malformed_request", "The request cannot be read"),
    Unauthorized: (401, "unauthorized", "A valid key is needed"),
    Forbidden: (403, "forbidden", "The key lacks the right"),
    ImageTooLarge: (413, "image_too_large", "The picture is too large"),
    UnsupportedImage: (415, "unsupported_image", "Not a picture of a kind that is taken"),
    DamagedImage: (422, "damaged_image", "The picture is damaged"),
    InvalidRequest: UNPROCESSABLE,
    InvalidInput: UNPROCESSABLE,
    RateLimited: (429, "rate_limited", "The key's limit is used up"),
    ModelUnavailable: (503, "model_unavailable", "The model cannot be loaded"),
}
INTERNAL = (500, "internal_error", "Something went wrong on our side")
DISK_FULL = (507, "disk_full", "The disk is full")


def register(app: Flask) -> None:
    """Answer every error of the application as a problem."""
    app.register_error_handler(ServiceError, _known)
    app.register_error_handler(EngineError, _known)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unknown)


def problem(
    status: int, code: str, title: str, detail: str, errors: list[FieldError] | None = None
) -> Response:
    """The answer to a request that failed."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": g.get("request_id"),
    }
    if errors:
        body["errors"] = [{"field": e.field, "message": e.message} for e in errors]
    return Response(json.dumps(body), status, content_type="application/problem+json")


def status_of(error: Exception) -> tuple[int, str, str]:
    """Status, code and title of an error, by its nearest listed class."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), INTERNAL)


def without_folders(text: str) -> str:
    """Names of files alone: where they lie is the operator's business, and in the log."""
    return re.sub(r"(?:/[^\s/]+)*/(?=[^\s/])", "", text)


def _known(error: Exception) -> Response:
    status, code, title = status_of(error)
    if status == INTERNAL[0]:
        return _unknown(error)
    errors = None
    if isinstance(error, InvalidInput):
        errors = [FieldError(error.field, error.message)]
    elif isinstance(error, InvalidRequest):
        errors = error.errors
    detail = without_folders(str(error)) if isinstance(error, ModelUnavailable) else str(error)
    answer = problem(status, code, title, detail, errors)
    if isinstance(error, Unauthorized):
        answer.headers["WWW-Authenticate"] = 'ApiKey header="X-API-Key"'
    elif isinstance(error, RateLimited):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    elif isinstance(error, ModelUnavailable):
        log.error("model unavailable: %s", error)
        answer.headers["Retry-After"] = str(MODEL_RETRY_AFTER_S)
    return answer


def _http(error: HTTPException) -> Response:
    status = error.code or INTERNAL[0]
    title = error.name
    code = re.sub(r"[^a-z]+", "_", title.lower()).strip("_")
    detail = error.description or title
    if isinstance(error, RequestEntityTooLarge):
        code, detail = "body_too_large", "the body is larger than this service takes"
    answer = problem(status, code, title, detail)
    allow = error.get_response().headers.get("Allow")
    if allow:
        answer.headers["Allow"] = allow
    return answer


def _unknown(error: Exception) -> Response:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or (isinstance(error, sqlite3.OperationalError) and "full" in str(error))
    log.exception("unhandled error", exc_info=error)
    if full:
        return problem(*DISK_FULL, "there is no space left to store what the request needs")
    return problem(*INTERNAL, "the error has been logged under this request_id")
