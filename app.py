"""The application factory: composition only. `python app.py` is the development server."""

import logging
import time

from flask import Flask

import auth_middleware
from sam_engine.engine import SamEngine
from service import problems, telemetry
from service.keys import KeyRing
from service.limits import RateLimiter, open_limiter
from service.routes import analysis, health, segment, sequence
from service.routes.context import EXTENSION, Context
from service.segmentation import Segmenter
from service.settings import Settings, load_settings
from service.startup import build_engine

BASE64_GROWTH = 4 / 3
BODY_ALLOWANCE_BYTES = 2**20
FORM_FIELD_BYTES = 8 * 2**20

log = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None, engine: SamEngine | None = None, limiter: RateLimiter | None = None
) -> Flask:
    """The WSGI application.

    Args:
        settings: from the environment without it.
        engine, limiter: made from the settings without them; tests pass their own.

    Raises:
        SettingsError: settings that are wrong, or not safe for `APP_ENV`.
    """
    settings = settings or load_settings()
    telemetry.configure_logging(settings.log_level, settings.log_format_in_use)
    engine = engine or build_engine(settings)
    limiter = limiter or open_limiter(settings.data_dir / "limits.sqlite3")

    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = int(settings.max_file_bytes * BASE64_GROWTH) + BODY_ALLOWANCE_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = FORM_FIELD_BYTES
    app.extensions[EXTENSION] = Context(settings, Segmenter(engine), limiter, time.monotonic())
    telemetry.register(app)
    auth_middleware.Gatekeeper(build_key_ring(settings), limiter).register(app)
    problems.register(app)
    for blueprint in (segment.blueprint, analysis.blueprint, sequence.blueprint, health.blueprint):
        app.register_blueprint(blueprint)
    if settings.warm_model:
        engine.warm()
        log.info("model loaded and warm")
    return app


def build_key_ring(settings: Settings) -> KeyRing:
    """The keys that are accepted."""
    return KeyRing.from_entries(settings.key_entries, admin_key=settings.admin_key)


if __name__ == "__main__":
    configured = load_settings()
    create_app(configured).run(configured.flask_host, configured.flask_port, threaded=True)
