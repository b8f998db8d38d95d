"""The shipped checkpoint in exact precision and one picture, shared by the tests that need a real network."""

import numpy as np
import pytest
from hypothesis import settings

from sam_engine.checkpoints import MODEL_DIR, SHIPPED_FILE
from sam_engine.engine import SamEngine
from sam_engine.types import ImageEmbedding
from tests.drawn import Disc, draw, spaced_discs

PICTURE_SIZE = (360, 480)

settings.register_profile("unit", deadline=None)  # a busy machine is no failure
settings.load_profile("unit")


@pytest.fixture(scope="session")
def engine() -> SamEngine:
    return SamEngine(MODEL_DIR, MODEL_DIR / SHIPPED_FILE, device="cpu", precision="float32")


@pytest.fixture(scope="session")
def discs() -> list[Disc]:
    return spaced_discs(PICTURE_SIZE, pitch=120, radius=48)


@pytest.fixture(scope="session")
def picture(discs: list[Disc]) -> np.ndarray:
    return draw(discs, PICTURE_SIZE)


@pytest.fixture(scope="session")
def embedding(engine: SamEngine, picture: np.ndarray) -> ImageEmbedding:
    return engine.embed(picture)
