"""OpenAPI 3.1 from the same schemas that validate requests and type answers."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from typing_extensions import TypedDict

from service import __version__
from service.operations import Access, Operation

DESCRIPTION = (
    "Segment pictures and measure what is in them. Coordinates and lengths are pixels of the upright picture."
)
REFERENCES = "#/components/schemas/{model}"
ERRORS = {
    400: "The body is malformed.",
    401: "The key is missing or not known.",
    403: "The key lacks the right.",
    413: "Too many bytes or pixels.",
    415: "Not a picture, or a body, of a kind that is taken.",
    422: "Well formed, but impossible; errors[] names each field.",
    429: "The key's limit is used up; Retry-After says for how long.",
    503: "No model, or no capacity; Retry-After says when to try again.",
}


class ProblemField(TypedDict):
    """One wrong value."""

    field: str
    message: str


class Problem(TypedDict, total=False):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ProblemField]


class Endpoint(NamedTuple):
    """A path as Flask writes it, a method, and what the view says about itself."""

    path: str
    method: str
    operation: Operation


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of the service."""
    endpoints = list(endpoints)
    schemas = _Schemas(endpoints)
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint.operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SAM Droplet",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


class _Schemas:
    """Definitions of all types that the endpoints name, and references to them."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        operations = [endpoint.operation for endpoint in endpoints]
        models: list[type[BaseModel]] = [m for o in operations for m in (o.json, o.form) if m is not None]
        answers = {id(o.answer): o.answer for o in operations if o.answer is not None}
        inputs: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = [
            (key, "serialization", TypeAdapter(answer)) for key, answer in answers.items()
        ]
        inputs.append((id(Problem), "serialization", TypeAdapter(Problem)))
        refs, first = models_json_schema(
            [(model, "validation") for model in dict.fromkeys(models)], ref_template=REFERENCES
        )
        answer_refs, second = TypeAdapter.json_schemas(inputs, ref_template=REFERENCES)
        self._models = {model: schema for (model, _), schema in refs.items()}
        self._answers = {key: schema for (key, _), schema in answer_refs.items()}
        self.definitions: dict[str, Any] = {**first.get("$defs", {}), **second.get("$defs", {})}

    def of(self, kind: Any) -> dict[str, Any]:
        """Schema of a model or of an answer's type."""
        found: dict[str, Any] = self._models[kind] if kind in self._models else self._answers[id(kind)]
        return found


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "200": {"description": "Done.", "content": _answer_content(operation, schemas)}
    }
    problem = {"application/problem+json": {"schema": schemas.of(Problem)}}
    for status in _possible_errors(operation):
        answers[str(status)] = {"description": ERRORS[status], "content": problem}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [] if operation.access is Access.PUBLIC else [{"key": []}],
        "responses": answers,
    }
    content = _request_content(operation, schemas)
    if content:
        described["requestBody"] = {"required": True, "content": content}
    return described


def _answer_content(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {} for media_type in operation.media_types}
    if operation.answer is not None:
        content = {"application/json": {"schema": schemas.of(operation.answer)}, **content}
    return content


def _request_content(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.json is not None:
        content["application/json"] = {"schema": schemas.of(operation.json)}
    if operation.takes_file is not None:
        content["multipart/form-data"] = _form_content(operation, operation.takes_file, schemas)
    return content


def _form_content(operation: Operation, file_field: str, schemas: _Schemas) -> dict[str, Any]:
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    if file_field != "file":
        file = {"type": "array", "items": file, "minItems": 1}
    properties: dict[str, Any] = {file_field: file}
    encoding = {}
    if operation.form is not None:
        fields = schemas.definitions[operation.form.__name__]["properties"]
        properties.update(fields)
        encoding = {name: {"contentType": "application/json"} for name in fields}
    schema = {
        "type": "object",
        "properties": properties,
        "required": [file_field],
        "additionalProperties": False,
    }
    return {"schema": schema, "encoding": encoding}


def _possible_errors(operation: Operation) -> list[int]:
    errors = [] if operation.access is Access.PUBLIC else [401]
    if operation.access is Access.ADMIN:
        errors.append(403)
    if operation.json is not None or operation.takes_file is not None:
        errors += [400, 413, 415, 422]
    if operation.access is Access.LIMITED:
        errors.append(429)
    return sorted([*errors, 503])
