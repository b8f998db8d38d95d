"""What an endpoint says about itself, once: who may call it, what it takes and gives.

Authentication, limits and `/openapi.json` all read it from the view function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

from pydantic import BaseModel


class Access(Enum):
    """Who may call an endpoint. What says nothing is LIMITED."""

    PUBLIC = "no key"
    KEY = "any key, not counted"
    LIMITED = "any key, counted against its limit"
    ADMIN = "an admin key"


@dataclass(frozen=True)
class Operation:
    """An endpoint, for people and programs.

    Attributes:
        json: schema of a JSON body.
        form: schema of the fields of a multipart body beside its file.
        takes_file: the multipart field with the picture, `file`, or with several, `files`.
        answer: type of the JSON answer, as pydantic reads it; None where it is not JSON.
        media_types: of the answer, besides JSON.
    """

    summary: str
    tag: str
    access: Access = Access.LIMITED
    json: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    takes_file: Literal["file", "files"] | None = None
    answer: Any = None
    media_types: tuple[str, ...] = ()


View = TypeVar("View", bound=Callable[..., Any])


def operation(summary: str, tag: str, **details: Any) -> Callable[[View], View]:
    """Attach an `Operation` to a view function."""

    def attach(view: View) -> View:
        view.operation = Operation(summary, tag, **details)  # type: ignore[attr-defined]
        return view

    return attach


def operation_of(view: Callable[..., Any] | None) -> Operation | None:
    """What a view function says about itself."""
    return getattr(view, "operation", None)
