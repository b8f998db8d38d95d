"""Write the averaged weights of a training state as the files that ship: `python -m training.export`."""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from sam_engine.checkpoints import METADATA_KEY, OFFICIAL_FILE, SHIPPED_FILE
from sam_engine.quality import Quality

HEAD_FILE = "droplet_head.safetensors"
LICENCE = "Apache-2.0"
SAM, HEAD = "sam.", "head."
SHARPNESS = 16.0  # a power of two: float16 loses nothing
DRAWING = re.compile(r"sam\.mask_decoder\.output_hypernetworks_mlps\.\d\.layers\.2\.(weight|bias)")
MASK_INPUT = "sam.prompt_encoder.mask_downscaling.0.weight"


def export(state: Path, folder: Path, version: str, defaults: dict[str, float]) -> None:
    """Checkpoint, head and their hashes, in float16, into `folder`.

    Args:
        state: a state file of `training.train`.
        defaults: thresholds that belong to these weights, see `sam_engine.checkpoints.Defaults`.
    """
    weights = sharpened(torch.load(state, map_location="cpu", weights_only=True)["average"]["weights"])
    head = _file(_part(weights, HEAD), {"name": "droplet_head", "kind": "instance_head", "version": version})
    about = {
        "name": "droplet_vit_t",
        "model_type": "vit_t",
        "version": version,
        "defaults": defaults,
        "instance_head": {"file": HEAD_FILE, "sha256": hashlib.sha256(head).hexdigest()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {HEAD_FILE: head, SHIPPED_FILE: _file(_part(weights, SAM), about)}
    for name, data in written.items():
        (folder / name).write_bytes(data)
    _update_manifest(folder / "SHA256SUMS", written)


def sharpened(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same masks from logits SHARPNESS times as large.

    SAM's stability score compares the areas at logits of -1 and 1: a wide band in a network that was trained
    briefly, a narrow one in SAM's. Mask inputs are made smaller as they come back.
    """
    factors = {name: SHARPNESS for name in weights if DRAWING.fullmatch(name)} | {MASK_INPUT: 1 / SHARPNESS}
    return {name: value * factors[name] if name in factors else value for name, value in weights.items()}


def rewrite_metadata(checkpoint: Path, quality: Quality) -> None:
    """Say in a checkpoint that was exported how the IoU of its instances is told."""
    with safe_open(checkpoint, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    weights = quality.weights._asdict()
    about["instance_head"]["quality"] = {
        "intercept": quality.intercept,
        "weights": weights,
        "least": quality.least,
    }
    data = _file(tensors, about)
    checkpoint.write_bytes(data)
    head = (checkpoint.parent / HEAD_FILE).read_bytes()
    _update_manifest(checkpoint.parent / "SHA256SUMS", {HEAD_FILE: head, checkpoint.name: data})


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _file(tensors: dict[str, Tensor], about: Mapping[str, object]) -> bytes:
    halved = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in tensors.items()
    }
    metadata = json.dumps({**about, "licence": LICENCE}, sort_keys=True)
    return to_safetensors(halved, {METADATA_KEY: metadata})


def _update_manifest(manifest: Path, written: dict[str, bytes]) -> None:
    """Hashes of the files written; that of the official checkpoint stays as it is."""
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    kept = [line for line in lines if line.endswith(OFFICIAL_FILE)]
    new = [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in sorted(written.items())]
    manifest.write_text("\n".join([*new, *kept]) + "\n", encoding="utf-8")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state file of the training")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--version", required=True)
    parser.add_argument("--pred-iou-thresh", type=float, default=0.55)
    parser.add_argument("--stability-score-thresh", type=float, default=0.95)
    options = parser.parse_args()
    defaults = {
        "pred_iou_thresh": options.pred_iou_thresh,
        "stability_score_thresh": options.stability_score_thresh,
    }
    export(options.state, options.out, options.version, defaults)
    return 0


if __name__ == "__main__":
    sys.exit(main())
