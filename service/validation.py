"""What a schema complains about, as one of our errors."""

from pydantic import ValidationError

from service.errors import FieldError, InvalidRequest, MalformedRequest


def invalid_request(error: ValidationError, prefix: str = "") -> InvalidRequest | MalformedRequest:
    """A schema's complaints as one of our errors; text that is not JSON at all is malformed."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems and problems[0]["type"] == "json_invalid":
        return MalformedRequest(f"{prefix or 'the body'} is not valid JSON: {problems[0]['msg']}")
    return InvalidRequest([FieldError(_path(p["loc"], prefix), _sentence(p["msg"])) for p in problems])


def _path(location: tuple[int | str, ...], prefix: str) -> str:
    """`("prompts", 0, "points", 1)` to `prompts[0].points[1]`."""
    path = prefix
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    return path


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")
