"""Shared parts: the shipped checkpoint is loaded once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from sam_engine.engine import SamEngine
from service.limits import open_limiter
from service.settings import PROJECT, Settings, load_settings

USER_KEY = "test-user-key-1"
OTHER_KEY = "test-user-key-2"
ADMIN_KEY = "test-admin-key-1"


@pytest.fixture(scope="session")
def engine() -> SamEngine:
    return SamEngine(PROJECT / "model", device="cpu")


@pytest.fixture(scope="session")
def sample() -> bytes:
    return (PROJECT / "examples" / "droplets.png").read_bytes()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        {
            "API_KEYS": f"{USER_KEY}:user:1000,{OTHER_KEY}:other:3",
            "ADMIN_API_KEY": ADMIN_KEY,
            "DATA_DIR": str(tmp_path / "data"),
        }
    )


@pytest.fixture
def app(settings: Settings, engine: SamEngine) -> Iterator[Flask]:
    limiter = open_limiter(settings.data_dir / "limits.sqlite3")
    yield create_app(settings, engine, limiter)
    limiter.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client that sends the user's key."""
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = USER_KEY
    return client
