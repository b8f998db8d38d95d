"""A short training on drawn scenes must learn something that can be measured on scenes it has not seen."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from training.augment import random_crop
from training.losses import head_loss
from training.scenes import draw_scene
from training.stream import FIRST_TEST_SEED, Batch, BatchStream, CropPlan, make_batch
from training.train import PHASES, Trainer, run

KINDS = ("spheres", "shadowgraph", "fluorescence", "ddpcr")


def held_out(plan: CropPlan) -> Batch:
    crops = []
    for k in range(16):
        rng = np.random.default_rng(FIRST_TEST_SEED + k)
        scene = draw_scene(rng, plan.scene_px, KINDS[k % len(KINDS)])
        crops.append(random_crop(rng, scene.picture, scene.objects, scene.inclusions, plan.side, plan.scales))
    return make_batch(np.random.default_rng(0), plan, crops)


@torch.no_grad()
def quality(trainer: Trainer, batch: Batch) -> tuple[float, float]:
    """Loss of the dense head, and the chance that it ranks a cell of an object above one of the ground."""
    network = trainer.network.eval()
    field = network.encode(batch.pictures, torch.float32).field
    inside = (batch.field[:, 0] > 0.5).numpy()
    ranks = rankdata(field[:, 0].numpy()).reshape(inside.shape)[inside]
    pairs = len(ranks) * (inside.size - len(ranks))
    return float(head_loss(field, batch.field)), (ranks.sum() - len(ranks) * (len(ranks) + 1) / 2) / pairs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_short_training_finds_objects(tmp_path):
    phase = PHASES["smoke"]
    trainer = Trainer("smoke", phase, torch.device("cpu"), torch.bfloat16, seed=1)
    batch = held_out(phase.plans[0])
    loss_before, chance = quality(trainer, batch)
    batches = iter(BatchStream(phase.plans, [], seed=1, pool=60))
    run(trainer, batches, tmp_path, math.inf)
    loss, ranked = quality(trainer, batch)
    assert chance == pytest.approx(0.5)
    assert ranked > 0.55
    assert loss < 0.9 * loss_before
