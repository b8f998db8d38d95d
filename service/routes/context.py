"""What the endpoints share: the parts that `create_app` put together."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from service.limits import RateLimiter
from service.segmentation import Segmenter
from service.settings import Settings

EXTENSION = "sam_droplet"


@dataclass(frozen=True)
class Context:
    """Parts of one application."""

    settings: Settings
    segmenter: Segmenter
    limiter: RateLimiter
    started_at: float


def context() -> Context:
    """The parts of the application that answers the current request."""
    return cast(Context, current_app.extensions[EXTENSION])
