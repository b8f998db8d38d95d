"""The second prompt of a pair: the mask goes in again with a click where it is wrong."""

import pytest
import torch

from sam_engine.modeling.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, NOT_A_POINT, POSITIVE
from training.corrections import correct
from training.network import PromptBatch

OFFSET = 3  # image tokens of 16 pixels


def prompts_of_one_crop():
    """A click on an object, a click on nothing, a box."""
    return PromptBatch(
        coords=torch.tensor([[[60.0, 60], [0, 0]], [[90, 90], [0, 0]], [[52, 52], [70, 70]]])[None],
        labels=torch.tensor(
            [[[POSITIVE, NOT_A_POINT], [POSITIVE, NOT_A_POINT], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]]
        ),
        objects=torch.tensor([[1, 0, 1]]),
        inclusions=torch.tensor([[0, 0, 0]]),
        ambiguous=torch.tensor([[True, True, False]]),
    )


def masks_and_goals(found):
    goals = torch.zeros(3, 8, 8)
    goals[0, 2:6, 2:6] = goals[2, 2:6, 2:6] = 1
    logits = torch.full((3, 4, 8, 8), -9.0)
    logits[:, 2][:, found[0], found[1]] = 9
    return logits, goals


@pytest.mark.parametrize(
    ("found", "label", "iou"),
    [
        ((slice(2, 6), slice(2, 5)), POSITIVE, 12 / 16),  # the last column is missing
        ((slice(2, 7), slice(2, 6)), NEGATIVE, 16 / 20),  # a row too many
    ],
)
def test_the_click_is_where_the_mask_is_wrong(found, label, iou):
    logits, goals = masks_and_goals(found)
    second = correct(prompts_of_one_crop(), logits, goals, torch.tensor([[OFFSET, OFFSET]]), 2, seed=0)
    assert second.masks.shape == (1, 2, 8, 8)
    assert torch.equal(second.masks[0, 0] > 0, logits[0, 2] > 0)  # the candidate that fits best
    assert second.before.tolist() == pytest.approx([iou, iou])
    for k in range(2):
        assert second.prompts.labels[0, k, -1] == label
        cell = (second.prompts.coords[0, k, -1] - 16 * OFFSET - 1.5) / 4
        x, y = cell.long().tolist()
        assert torch.equal(cell, cell.round())
        assert (goals[0, y, x] > 0) == (label == POSITIVE)
        assert (logits[0, 2, y, x] > 0) == (label == NEGATIVE)


def test_prompts_that_mean_nothing_come_last():
    logits, goals = masks_and_goals((slice(2, 6), slice(2, 6)))
    for seed in range(10):
        second = correct(prompts_of_one_crop(), logits, goals, torch.tensor([[0, 0]]), 2, seed)
        assert second.prompts.objects.tolist() == [[1, 1]]
    everything = correct(prompts_of_one_crop(), logits, goals, torch.tensor([[0, 0]]), 3, seed=1)
    assert everything.prompts.objects[0].tolist()[-1] == 0


def test_the_first_prompt_stays():
    logits, goals = masks_and_goals((slice(2, 6), slice(2, 6)))
    first = prompts_of_one_crop()
    second = correct(first, logits, goals, torch.tensor([[0, 0]]), 3, seed=1).prompts
    kept = {tuple(labels[:2].tolist()) for labels in second.labels[0]}
    assert kept == {(POSITIVE, NOT_A_POINT), (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)}
    assert not second.ambiguous.any()
