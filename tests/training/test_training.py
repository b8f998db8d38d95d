"""Losses, the network on crops, and a run that is stopped and goes on."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine.checkpoints import load
from sam_engine.decoder import PromptDecoder
from sam_engine.engine import SamEngine
from sam_engine.modeling.prompt_encoder import NOT_A_POINT, POSITIVE
from training import train
from training.average import WeightAverage
from training.export import SHARPNESS, export, sharpened
from training.losses import coverage, guide_loss, head_loss, mask_loss
from training.network import DropletNetwork, PromptBatch, initialise
from training.stream import BatchStream, CropPlan
from training.train import PHASES, SCHEDULE, STATE_FILE, Phase, Trainer, phases_to_run, run

PROJECT = Path(__file__).resolve().parents[2]
TINY = Phase(
    (CropPlan(1.0, 64, 2, clear=3, corrected=1, refined=1, scene_px=96, scales=(0.8, 1.2)),),
    crops=8,
    rate=1e-3,
    warm_up=2,
)


@pytest.fixture(scope="module")
def network():
    made = DropletNetwork()
    initialise(made, seed=0)
    return made.eval()


def tiny_trainer():
    torch.manual_seed(0)
    return Trainer("tiny", TINY, torch.device("cpu"), torch.float32, seed=0)


def test_coverage_counts_the_pixels_of_each_cell():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, :4, :2], labels[0, 4:, 4:] = 1, 2
    covered = coverage(labels, torch.tensor([[1, 2, 0]]))
    assert covered.tolist() == [[[0.5, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]]


def test_the_right_masks_lose_least():
    target = torch.zeros(2, 8, 8)
    target[:, 2:6, 2:6] = 1
    none = torch.zeros_like(target)
    right = (20 * target - 10)[:, None].expand(-1, 4, -1, -1)
    ambiguous = torch.tensor([True, False])
    good, good_iou, told = mask_loss(right, torch.ones(2, 4), target, none, ambiguous)
    bad, bad_iou, _ = mask_loss(-right, torch.ones(2, 4), target, none, ambiguous)
    assert float(good) < 0.01
    assert float(bad) > 1
    assert float(good_iou) < 1e-6
    assert float(bad_iou) > 0.5
    assert (told.click, told.single, told.clear) == (1, 1, 1)
    assert math.isnan(told.ground)


def test_each_candidate_may_take_another_of_two_nested_objects():
    outer, inner = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    outer[:, 1:7, 1:7], inner[:, 3:5, 3:5] = 1, 1
    logits = torch.stack([20 * m - 10 for m in (outer[0], outer[0], inner[0], inner[0])])[None]
    both, _, told = mask_loss(logits, torch.ones(1, 4), outer, inner, torch.tensor([True]))
    one, _, _ = mask_loss(logits[:, [0, 1, 1, 1]], torch.ones(1, 4), outer, inner, torch.tensor([True]))
    assert float(both) < 0.05 < float(one)
    assert told.oracle == 1


def test_a_click_on_nothing_wants_empty_masks_and_a_score_of_zero():
    none = torch.zeros(1, 8, 8)
    empty, low, told = mask_loss(
        torch.full((1, 4, 8, 8), -9.0), torch.zeros(1, 4), none, none, torch.tensor([True])
    )
    full, high, _ = mask_loss(
        torch.full((1, 4, 8, 8), 9.0), torch.ones(1, 4), none, none, torch.tensor([True])
    )
    assert float(empty) < 1e-3
    assert float(full) > 0.1
    assert float(low) == 0 < float(high)
    assert told.ground == 0


def test_head_loss_is_least_for_the_target_and_blind_where_nothing_weighs():
    target = torch.zeros(1, 7, 4, 4)
    target[:, [0, 2], 1:3, 1:3], target[:, 5:, :, :2] = 1, 1
    field = torch.full((1, 5, 4, 4), -12.0)
    field[:, 0, 1:3, 1:3], field[:, 2], field[:, 4] = 12, target[:, 2], 0
    best = head_loss(field, target)
    worse, unseen = field.clone(), field.clone()
    worse[:, 0, 0, 0], unseen[:, 0, 0, 3] = 12, 12
    assert float(best) < 1e-3 < float(head_loss(worse, target))
    assert float(head_loss(unseen, target)) == float(best)


def test_prompts_of_a_crop_decode_as_in_the_whole_frame(network):
    """A crop at the frame's full size, at (0, 0), is the frame."""
    torch.manual_seed(1)
    embedding = torch.randn(1, 256, 64, 64)
    coords = torch.tensor([[[[300.0, 500.0], [0, 0]], [[40.0, 700.0], [0, 0]]]])
    labels = torch.tensor([[[POSITIVE, NOT_A_POINT]] * 2])
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    prompts = PromptBatch(coords, labels, zeros, zeros, zeros.bool())
    with torch.inference_mode():
        masks = network.decode(embedding, torch.zeros(1, 2, dtype=torch.int64), prompts, torch.float32)
        decoder = PromptDecoder(network.sam, torch.float32)
        image = embedding[0].flatten(1).T + network.sam.prompt_encoder.no_mask_embed.weight
        decoded = decoder.decode(decoder.prepare(image), network.sam.prompt_encoder.sparse(coords, labels)[0])
        wanted = decoder.draw(decoded, torch.arange(2), slice(0, 4))
    assert masks.logits.shape == (2, 4, 256, 256)
    assert torch.allclose(masks.logits, wanted, atol=1e-4)
    assert torch.allclose(masks.iou, decoded.iou_predictions, atol=1e-5)


def test_a_new_network_looks_where_it_is_clicked(network):
    """The positional start: before any training, the attention of a click peaks at its own place."""
    attention = network.sam.mask_decoder.transformer.final_attn_token_to_image
    positions = network.sam.prompt_encoder.positions()
    place = torch.tensor([[[24 * 16 + 7.5, 40 * 16 + 7.5]]])
    token = network.sam.prompt_encoder.sparse(place, torch.tensor([[POSITIVE]]))[0]
    with torch.inference_mode():
        q = attention.q_proj(token).view(8, 16)
        k = attention.k_proj(positions).view(-1, 8, 16)
        heat = torch.einsum("hc,nhc->n", q, k).view(64, 64)
    row, column = np.unravel_index(int(heat.argmax()), (64, 64))
    assert (abs(row - 40), abs(column - 24)) <= (2, 2)


def test_a_window_of_the_grid_draws_four_times_its_tokens(network):
    decoder = PromptDecoder(network.sam, torch.float32, (slice(3, 9), slice(10, 20)))
    with torch.inference_mode():
        terms = decoder.prepare(torch.randn(60, 256))
        decoded = decoder.decode(terms, torch.randn(2, 2, 256))
        assert decoder.draw(decoded, torch.arange(2), slice(0, 1)).shape == (2, 1, 24, 40)


def test_the_average_follows_slowly_and_copies_counters():
    layer = torch.nn.BatchNorm1d(2)
    average = WeightAverage(layer, 0.9)
    for _ in range(200):
        with torch.no_grad():
            layer.weight.fill_(3.0)
        layer.num_batches_tracked.fill_(7)
        average.update(layer)
    assert average.weights["weight"].tolist() == pytest.approx([3, 3], abs=1e-3)
    assert int(average.weights["num_batches_tracked"]) == 7
    with torch.no_grad():
        layer.weight.fill_(4.0)
    average.update(layer)
    assert average.weights["weight"].tolist() == pytest.approx([3.1, 3.1], abs=1e-3)


def test_the_rate_rises_holds_and_falls():
    trainer = tiny_trainer()
    rates = []
    for trainer.batches, trainer.crops in ((0, 0), (5, 4), (6, 7), (7, 8)):
        rates.append(trainer.rate() / TINY.rate)
    assert rates[0] == 0.5
    assert rates[1] == 1
    assert 1 > rates[2] > rates[3] == pytest.approx(TINY.final)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    batches = iter(BatchStream(TINY.plans, [], seed=0, pool=2))
    fixed = [next(batches) for _ in range(4)]
    straight = tiny_trainer()
    run(straight, iter(fixed), tmp_path / "a", math.inf)
    first = tiny_trainer()
    first.train_mode()
    for batch in fixed[:2]:
        first.step(batch)
    first.save(tmp_path / "b")
    second = tiny_trainer()
    second.load(tmp_path / "b" / STATE_FILE)
    assert (second.crops, second.batches) == (4, 2)
    run(second, iter(fixed[2:]), tmp_path / "b", math.inf)
    assert second.done
    for name, value in straight.average.weights.items():
        assert torch.allclose(value.float(), second.average.weights[name].float(), atol=1e-6), name
    assert not (tmp_path / "b" / (STATE_FILE + ".part")).exists()


def test_another_phase_begins_with_the_average(tmp_path):
    first = tiny_trainer()
    first.average.weights["head.out.bias"].fill_(0.25)
    first.crops = 8
    first.save(tmp_path)
    second = Trainer("other", TINY, torch.device("cpu"), torch.float32, seed=3)
    second.load(tmp_path / STATE_FILE)
    assert second.crops == 0
    assert second.network.head.out.bias.tolist() == [0.25] * 5


def test_the_schedule_goes_on_with_the_phase_it_had_reached(tmp_path):
    file = tmp_path / STATE_FILE
    assert phases_to_run(None, file) == SCHEDULE
    trainer = tiny_trainer()
    trainer.phase_name = SCHEDULE[1]
    trainer.save(tmp_path)
    assert phases_to_run(None, file) == SCHEDULE[1:]
    assert phases_to_run("smoke", file) == ("smoke",)


def test_the_command_runs_all_phases_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    head_only = Phase((CropPlan(1.0, 64, 2, scene_px=96, scales=(0.8, 1.2)),), crops=4, rate=1e-3)
    monkeypatch.setattr(train, "PHASES", {"features": head_only, "prompts": TINY, "frame": head_only})
    begun = []
    monkeypatch.setattr(
        train,
        "run",
        lambda trainer, *rest: (begun.append((trainer.phase_name, trainer.crops)), run(trainer, *rest)),
    )
    command = ["--state", str(tmp_path), "--workers", "0", "--device", "cpu", "--float32"]
    train.main([*command, "--minutes", "0"])
    assert begun == [("features", 0)]
    train.main(command)
    assert begun[1:] == [("features", 0), ("prompts", 0), ("frame", 0)]
    train.main(command)
    assert begun[4:] == [("frame", 4)]
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert (state["phase"], state["crops"]) == ("frame", 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_its_processes_ends_it_with_its_state_saved(tmp_path, number):
    command = ["-m", "training.train", "--state", str(tmp_path), "--phase", "smoke", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=PROJECT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        ends = time.monotonic() + 120
        while not children.read_text().split() and time.monotonic() < ends:
            time.sleep(0.1)
        time.sleep(3)
        os.killpg(process.pid, number)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "crops seen; saved in" in out
    assert "Traceback" not in errors
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["phase"] == "smoke"


def test_a_state_of_no_phase_of_the_schedule_begins_it(tmp_path):
    tiny_trainer().save(tmp_path)
    assert phases_to_run(None, tmp_path / STATE_FILE) == SCHEDULE


def test_what_is_exported_is_what_the_engine_loads(tmp_path):
    trainer = tiny_trainer()
    trainer.save(tmp_path)
    export(tmp_path / STATE_FILE, tmp_path / "model", "9.9.9", {"pred_iou_thresh": 0.4})
    checkpoint = load(
        tmp_path / "model" / "droplet_vit_t.safetensors", manifest=tmp_path / "model" / "SHA256SUMS"
    )
    assert (checkpoint.model_type, checkpoint.defaults.pred_iou_thresh) == ("vit_t", 0.4)
    assert len(checkpoint.state_dict) == 439
    engine = SamEngine(tmp_path / "model", device="cpu", precision="float32")
    picture = np.zeros((64, 96, 3), np.uint8)
    fields = engine.instance_fields(picture, engine.embed(picture))
    assert [len(field.values) for field in fields] == [5, 5, 5]


@torch.no_grad()
def test_sharper_logits_draw_the_same_masks(network):
    sharp = DropletNetwork()
    sharp.load_state_dict(sharpened(network.state_dict()))
    random = torch.Generator().manual_seed(4)
    image, sparse = (torch.randn(1, n, 256, generator=random) for n in (4096, 2))
    mask = torch.randn(1, 1, 256, 256, generator=random)
    answers = []
    for sam in (network.sam, sharp.sam):
        logits, iou = sam.mask_decoder(image, sam.prompt_encoder.positions(), sparse)
        answers.append(
            (logits, iou, sam.prompt_encoder.dense(mask if sam is network.sam else SHARPNESS * mask))
        )
    (logits, iou, dense), (sharper, same_iou, same_dense) = answers
    assert torch.equal(iou, same_iou)
    assert torch.allclose(SHARPNESS * logits, sharper, rtol=1e-5)
    assert torch.allclose(dense, same_dense, rtol=1e-4, atol=1e-6)
    assert float(logits.std()) > 0


def test_every_phase_is_of_sizes_that_the_encoder_takes():
    for phase in PHASES.values():
        assert all(plan.side % 32 == 0 and plan.side <= 1024 for plan in phase.plans)
        assert 0 < phase.fall <= 1


@torch.no_grad()
def test_new_blocks_keep_what_enters_them(network):
    """What a new block adds is small, so that gradients reach the early layers unharmed."""
    for stage in list(network.sam.image_encoder.layers)[1:]:
        for block in stage.blocks:
            x = torch.randn(1, 28, 28, block.attn.qkv.in_features, generator=torch.Generator().manual_seed(1))
            assert float((block(x) - x).std()) < 0.35 * float(x.std())


def test_the_guide_loses_least_where_it_is_right():
    target = torch.zeros(1, 5, 4, 4)
    target[:, 0, 1:3, 1:3], target[:, 1:4, 1:3, 1:3], target[:, 4] = 1, 0.7, 1
    right = target[:, :4].clone()
    right[:, 0] = 20 * target[:, 0] - 10
    wrong = right.clone()
    wrong[:, 3, 1:3, 1:3] += 0.5
    assert float(guide_loss(right, target)) < 1e-3
    assert float(guide_loss(wrong, target)) > 0.1
    wrong[:, 1:, 0, 0] += 9  # no object there
    target[:, 4] = 0
    assert float(guide_loss(-right, target)) == 0  # ignored
