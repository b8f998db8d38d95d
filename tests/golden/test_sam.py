"""SAM's plain vision transformer against the outputs of the reference implementation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sam_engine.engine import SamEngine
from sam_engine.modeling.vit import SIZES, Vit
from sam_engine.types import ImageEmbedding
from tests.golden.reference import DATA, check_answer, engine_of, prompt_of, reference_weights

REFERENCE = DATA / "sam_vit_b"
CASES = json.loads((REFERENCE / "cases.json").read_text())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SamEngine:
    weights = reference_weights(REFERENCE / "state_dict_shapes.json")
    return engine_of(weights, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def embedding(engine: SamEngine) -> ImageEmbedding:
    return engine.embed(np.asarray(Image.open(DATA / "reference.png").convert("RGB")))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "expected.npz") as archive:
        return dict(archive)


def test_it_is_told_from_the_keys(engine: SamEngine, embedding: ImageEmbedding) -> None:
    assert engine.load().model_type == "vit_b"
    assert embedding.instance_field is None


def test_embedding(embedding: ImageEmbedding, expected: dict[str, np.ndarray]) -> None:
    ours = embedding.features[0, ::8, ::4, ::4].numpy()
    reference = expected["embedding_sub"]
    assert np.abs(ours - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("number", [n for n, case in enumerate(CASES) if "mask_input" not in case])
def test_prompt(
    number: int, engine: SamEngine, embedding: ImageEmbedding, expected: dict[str, np.ndarray]
) -> None:
    """The case with a mask input needs the reference's own mask at full size, which is not recorded: through a
    random decoder our rounding in it would grow into another answer.
    """
    answer = engine.predict(embedding, [prompt_of(CASES[number], None)])[0]
    check_answer(answer, number, expected, embedding, 1e-2, differing_share=2e-3)


def keys_of(name: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {key: list(value.shape) for key, value in Vit(SIZES[name]).state_dict().items()}


def test_the_keys_are_the_published_ones() -> None:
    shapes = json.loads((REFERENCE / "state_dict_shapes.json").read_text())
    published = {
        k.removeprefix("image_encoder."): v for k, v in shapes.items() if k.startswith("image_encoder.")
    }
    assert keys_of("vit_b") == published


@pytest.mark.parametrize(
    ("name", "millions", "block"),
    [("vit_l", 308.3, "blocks.23.attn.rel_pos_h"), ("vit_h", 637.0, "blocks.31.attn.rel_pos_h")],
)
def test_the_larger_ones(name: str, millions: float, block: str) -> None:
    """Parameters of the encoder alone, as published: 308 and 637 million."""
    keys = keys_of(name)
    count = sum(int(np.prod(shape)) for shape in keys.values()) / 1e6
    assert count == pytest.approx(millions, abs=0.3)
    assert keys[block] == [127, SIZES[name].width // SIZES[name].heads]
