"""What can go wrong in the engine, named for the domain; nothing here knows of HTTP."""


class EngineError(Exception):
    """Base of every error that the engine raises on purpose."""


class InvalidInput(EngineError):
    """Input that cannot be worked on.

    `field` is the path of the offending value (`prompts[0].points[1]`); the message names value and bound.
    """

    def __init__(self, field: str, message: str) -> None:
        space = "" if not field or message.startswith("=") else " "
        super().__init__(f"{field}{space}{message}")
        self.field = field
        self.message = message


class InvalidPrompt(InvalidInput):
    """A point, box or mask that cannot belong to this picture."""


class CheckpointError(EngineError):
    """A checkpoint file that is missing, damaged, of the wrong architecture, or not safe to load."""


class ModelUnavailable(EngineError):
    """The model could not be loaded; the message says why and how to mend it."""
