"""The reference weights, made by rule so that no large file need travel, and what was computed from them."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from sam_engine.engine import Prediction, SamEngine
from sam_engine.types import ImageEmbedding, Prompt

DATA = Path(__file__).parents[1] / "data"
SEED = 20261121
RANDOM_TABLES = ("embed", "token", "attention_biases", "gaussian", "rel_pos")


def reference_weights(shapes_file: Path) -> dict[str, torch.Tensor]:
    """The state dict from which the reference implementations computed `expected.npz`."""
    shapes = json.loads(shapes_file.read_text())
    return {key: _weight(i, key, tuple(shapes[key])) for i, key in enumerate(sorted(shapes))}


def _weight(i: int, key: str, shape: tuple[int, ...]) -> torch.Tensor:
    if "num_batches_tracked" in key:
        return torch.zeros(shape, dtype=torch.int64)
    z = np.random.default_rng([SEED, i]).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(np.asarray(_shaped(key, z), dtype=np.float32))


def _shaped(key: str, z: NDArray[np.float32]) -> NDArray[np.float32]:
    if "running_var" in key:
        return 1 + 0.1 * np.abs(z)
    if "running_mean" in key:
        return 0.02 * z
    if z.ndim >= 2 and not any(word in key for word in RANDOM_TABLES):
        return z / np.sqrt(np.prod(z.shape[1:]))
    if "gaussian" in key:
        return z
    if z.ndim == 1 and key.endswith("weight"):
        return 1 + 0.1 * z
    if key.endswith("bias"):
        return 0.02 * z
    return 0.5 * z


def engine_of(weights: dict[str, torch.Tensor], folder: Path) -> SamEngine:
    path = folder / "reference.safetensors"
    save_file(weights, path)
    return SamEngine(folder, path, device="cpu", precision="float32")


def prompt_of(case: dict, previous: np.ndarray | None) -> Prompt:
    points = zip(case.get("point_coords", []), case.get("point_labels", []), strict=True)
    return Prompt(
        points=tuple((x, y, label) for (x, y), label in points),
        box=tuple(case["box"]) if "box" in case else None,
        mask_input=previous if "mask_input" in case else None,
        multimask=case["multimask_output"],
    )


def check_answer(
    answer: Prediction,
    number: int,
    expected: dict[str, np.ndarray],
    embedding: ImageEmbedding,
    tolerance: float,
    differing_share: float = 1e-3,
) -> None:
    """Logits, scores and masks of a case; `tolerance` is relative to the largest logit."""
    reference = expected[f"case{number}_low_res_sub"].reshape(-1, 64, 64)
    assert np.abs(answer.low_res_masks[:, ::4, ::4] - reference).max() < tolerance * np.abs(reference).max()
    scores = [mask.predicted_iou for mask in answer.masks]
    np.testing.assert_allclose(scores, expected[f"case{number}_iou"].ravel(), atol=1e-3)

    height, width = embedding.original_size
    areas = expected[f"case{number}_mask_area"].ravel()
    bits = np.unpackbits(expected[f"case{number}_mask_bits"])[: len(areas) * height * width]
    for mask, area, pixels in zip(
        answer.masks, areas, bits.reshape(-1, height, width).astype(bool), strict=True
    ):
        differing = np.count_nonzero(mask.full() != pixels)
        assert differing <= differing_share * height * width
        assert abs(mask.area - area) <= differing
