"""Fit how the IoU of an instance is told, and write it into a checkpoint.

python -m training.quality --checkpoint DIR/droplet_vit_t.safetensors --data DIR

It learns from training scenes and training pictures, never from those that are evaluated.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from sam_engine.engine import SamEngine
from sam_engine.instances import InstanceParameters, find_objects_of
from sam_engine.quality import Evidence, Quality
from training.export import rewrite_metadata
from training.groups import Group, drawn_groups, real_groups
from training.metrics import LOOSE, overlaps

Float64Array = NDArray[np.float64]

SCENES, PICTURES = 24, 40
RIDGE = 1e-3
THRESHOLDS = np.linspace(0, 0.8, 41)


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """The instances of one picture.

    Attributes:
        evidence: (N, 6).
        iou: (N,) with the object that each fits best; 0 with none.
        objects: how many there are.
    """

    group: str
    evidence: Float64Array
    iou: Float64Array
    objects: int


def look(engine: SamEngine, group: Group) -> list[Seen]:
    """Instances of the pictures of a group, as the engine finds them without any tiles."""
    seen = []
    for case in group.cases:
        picture, truth = case.load()
        fields = engine.instance_fields(picture, engine.embed(picture))
        found = find_objects_of(fields, picture.shape[:2], InstanceParameters())
        pairs = overlaps(truth.labels, [instance.mask for instance in found])
        iou = np.zeros(len(found))
        np.maximum.at(iou, pairs.predicted, pairs.iou)
        evidence = np.array([i.evidence for i in found], np.float64).reshape(-1, len(Evidence._fields))
        seen.append(Seen(group.family, evidence, iou, len(pairs.labels)))
    return seen


def fit(seen: Sequence[Seen]) -> Quality:
    """The weights of least cross-entropy between expected and true IoU, each picture counting by the root of
    its instances, and the threshold of the best mean F1 of the groups."""
    evidence = np.concatenate([s.evidence for s in seen])
    iou = np.concatenate([s.iou for s in seen])
    weight = np.concatenate([np.full(len(s.iou), len(s.iou) ** -0.5) for s in seen if len(s.iou)])
    centre, scale = evidence.mean(0), evidence.std(0) + 1e-9
    columns = np.column_stack([np.ones(len(iou)), (evidence - centre) / scale])

    def loss(parameters: Float64Array) -> tuple[float, Float64Array]:
        logits = columns @ parameters
        value = (weight * (np.logaddexp(0, logits) - iou * logits)).sum() / weight.sum()
        slope = columns.T @ (weight * (expit(logits) - iou)) / weight.sum()
        return float(value + RIDGE * parameters @ parameters), slope + 2 * RIDGE * parameters

    best = minimize(loss, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B").x
    weights = best[1:] / scale
    intercept = float(best[0] - weights @ centre)
    quality = Quality(round(intercept, 4), Evidence(*(round(float(w), 4) for w in weights)))
    return replace(quality, least=best_threshold(seen, quality))


def best_threshold(seen: Sequence[Seen], quality: Quality) -> float:
    """The expected IoU below which instances are better left out."""
    groups = sorted({s.group for s in seen})
    scores = np.zeros((len(groups), len(THRESHOLDS)))
    for row, name in zip(scores, groups, strict=True):
        own = [s for s in seen if s.group == name]
        expected = np.concatenate([expected_iou(s, quality) for s in own])
        right = np.concatenate([s.iou for s in own]) > LOOSE
        kept = expected[:, None] >= THRESHOLDS
        objects = sum(s.objects for s in own)
        row[:] = 2 * (kept & right[:, None]).sum(0) / np.maximum(kept.sum(0) + objects, 1)
    return round(float(THRESHOLDS[scores.mean(0).argmax()]), 3)


def expected_iou(seen: Seen, quality: Quality) -> Float64Array:
    """(N,) of the instances of a picture."""
    out: Float64Array = expit(quality.intercept + seen.evidence @ np.array(quality.weights))
    return out


def calibration_error(expected: Float64Array, iou: Float64Array, bins: int = 10) -> float:
    """Mean distance between expected and true IoU over bins of equal width, weighted by their instances.

    Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    index = np.minimum((expected * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.abs(np.bincount(index, expected, bins) - np.bincount(index, iou, bins))
    return float(gap.sum() / max(1, count.sum()))


def training_groups(data: Path | None, scenes: int, pictures: int) -> list[Group]:
    """Drawn scenes by training seeds, and the training part of each data set."""
    real = [] if data is None else real_groups(data, "train", pictures)
    return [*drawn_groups("train", scenes), *real]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.quality", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="read, and written anew")
    parser.add_argument("--data", type=Path, help="folder of data sets; without it drawn scenes only")
    parser.add_argument("--scenes", type=int, default=SCENES, help="of each kind")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of each data set, at most")
    options = parser.parse_args()
    engine = SamEngine(options.checkpoint.parent, options.checkpoint, device="auto", cache_bytes=0)
    seen: list[Seen] = []
    for group in training_groups(options.data, options.scenes, options.pictures):
        seen += look(engine, group)
        print(f"{group.name}: {sum(len(s.iou) for s in seen)} instances so far", file=sys.stderr, flush=True)
    quality = fit(seen)
    iou = np.concatenate([s.iou for s in seen])
    before = np.concatenate([s.evidence[:, 0] for s in seen])
    after = np.concatenate([expected_iou(s, quality) for s in seen])
    for name, expected in (("mean foreground", before), ("expected IoU", after)):
        error = np.abs(expected - iou).mean()
        gap = calibration_error(expected, iou)
        print(f"{name}: mean error {error:.3f}, calibration error {gap:.3f}")
    print(f"least expected IoU: {quality.least}")
    rewrite_metadata(options.checkpoint, quality)
    return 0


if __name__ == "__main__":
    sys.exit(main())
