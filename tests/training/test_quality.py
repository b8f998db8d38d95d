"""How the IoU of an instance is told: fitted where the truth is known, and carried by the checkpoint."""

import numpy as np
import pytest
import torch

from sam_engine.checkpoints import load
from sam_engine.quality import Evidence, Quality
from training.export import export, rewrite_metadata
from training.network import DropletNetwork, initialise
from training.quality import Seen, best_threshold, calibration_error, expected_iou, fit, training_groups
from training.stream import FIRST_TEST_SEED

TRUE = Quality(-2.0, Evidence(foreground=3.0, edge=1.0, peak=0.0, stability=2.0, roundness=-1.0, size=0.1))


def pictures(count: int, seed: int = 0) -> list[Seen]:
    """Instances whose IoU scatters around the model's."""
    rng = np.random.default_rng(seed)
    seen = []
    for k in range(count):
        evidence = rng.uniform(0, 1, (60, 6)) * [1, 1, 1, 1, 1, 8]
        picture = Seen("ab"[k % 2], evidence, np.zeros(60), 60)
        iou = np.clip(expected_iou(picture, TRUE) + rng.normal(0, 0.05, 60), 0, 1)
        seen.append(Seen(picture.group, evidence, iou, 60))
    return seen


def test_a_known_model_is_found_again():
    quality = fit(pictures(40))
    fresh = pictures(10, seed=1)
    expected = np.concatenate([expected_iou(s, quality) for s in fresh])
    iou = np.concatenate([s.iou for s in fresh])
    assert np.abs(expected - iou).mean() < 0.05
    assert calibration_error(expected, iou) < 0.02
    assert quality.weights.foreground > quality.weights.edge > 0 > quality.weights.roundness


def test_one_instance_and_many_are_rated_alike():
    (seen,) = pictures(1)
    one = TRUE.expected_iou(Evidence(*seen.evidence[7]))
    assert one == pytest.approx(expected_iou(seen, TRUE)[7])
    assert 0 < one < 1


def test_the_threshold_leaves_out_what_is_mostly_wrong():
    only = Quality(-5.0, Evidence(10.0, 0, 0, 0, 0, 0))  # 0.5 at a foreground of 0.5
    evidence = np.zeros((100, 6))
    evidence[:, 0] = np.linspace(0, 1, 100)
    wrong_below = np.where(evidence[:, 0] < 0.6, 0.1, 0.9)
    least = best_threshold([Seen("a", evidence, wrong_below, 40)], only)
    assert TRUE.least == 0
    assert least == pytest.approx(1 / (1 + np.exp(-1)), abs=0.02)
    assert best_threshold([Seen("a", evidence, np.full(100, 0.9), 100)], only) == 0


def test_calibration_error_is_the_gap_within_bins():
    expected = np.array([0.25, 0.25, 0.85, 0.85])
    assert calibration_error(expected, expected) == 0
    assert calibration_error(expected, np.array([0.2, 0.3, 0.8, 0.9])) == pytest.approx(0)
    assert calibration_error(expected, np.array([0.35, 0.35, 0.85, 0.85])) == pytest.approx(0.05)


def test_scenes_are_the_trainings_own():
    groups = training_groups(None, 2, 5)
    assert all(int(case.name) < FIRST_TEST_SEED for group in groups for case in group.cases)


def test_the_checkpoint_carries_it(tmp_path):
    network = DropletNetwork()
    initialise(network, seed=0)
    torch.save({"average": {"weights": network.state_dict()}}, tmp_path / "state.pt")
    export(tmp_path / "state.pt", tmp_path / "model", "1.2.3", {"pred_iou_thresh": 0.4})
    file = tmp_path / "model" / "droplet_vit_t.safetensors"
    manifest = tmp_path / "model" / "SHA256SUMS"
    before = load(file, manifest=manifest)
    assert before.instance_quality is None
    rewrite_metadata(file, Quality(TRUE.intercept, TRUE.weights, least=0.3))
    after = load(file, manifest=manifest)
    assert after.instance_quality == Quality(TRUE.intercept, TRUE.weights, least=0.3)
    assert after.defaults == before.defaults
    assert all(torch.equal(value, before.state_dict[name]) for name, value in after.state_dict.items())
