"""What can go wrong in the service, named for the domain. `problems` maps each to an HTTP status."""

from dataclasses import dataclass


class ServiceError(Exception):
    """Base of the service's own errors; the message is for the caller."""


class SettingsError(ServiceError):
    """A setting that is wrong; the message names it, its value and what is allowed."""


class MalformedRequest(ServiceError):
    """A body that cannot be read: not JSON, not a form."""


@dataclass(frozen=True)
class FieldError:
    """One wrong value of a request: `prompts[0].points[1].x` and what is wrong with it."""

    field: str
    message: str


class InvalidRequest(ServiceError):
    """A body that can be read and says something impossible."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors))
        self.errors = errors


class UnsupportedImage(ServiceError):
    """Bytes that are not a picture of a kind that we take."""


class DamagedImage(ServiceError):
    """A picture whose data ends early or does not decode."""


class ImageTooLarge(ServiceError):
    """A picture over the limit of bytes or pixels."""


class Unauthorized(ServiceError):
    """No key, or none that we know."""


class Forbidden(ServiceError):
    """A known key without the right."""


class RateLimited(ServiceError):
    """A key over its hourly limit."""

    def __init__(self, limit: int, retry_after_s: int) -> None:
        super().__init__(f"the limit of {limit} requests per hour is used up; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s
