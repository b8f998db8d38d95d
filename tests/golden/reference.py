"""The reference weights: made by rule, so that no file of 40 MB need travel."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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
