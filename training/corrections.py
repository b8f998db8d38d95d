"""Second prompts: a mask goes in again with a click where it is wrong, as people correct it."""

from typing import NamedTuple

import torch
from torch import Tensor

from sam_engine.modeling.prompt_encoder import NEGATIVE, POSITIVE
from training.losses import LOW_RES_STRIDE
from training.network import TOKEN_PX, PromptBatch


class Corrections(NamedTuple):
    """R second prompts of each of B crops.

    Attributes:
        prompts: the first ones, each with one click more.
        masks: (B, R, s/4, s/4) logits that go in.
        goals: (B * R, s/4, s/4) coverage of what is meant.
        before: (B * R,) IoU of the masks that go in.
    """

    prompts: PromptBatch
    masks: Tensor
    goals: Tensor
    before: Tensor


def correct(
    prompts: PromptBatch, logits: Tensor, goals: Tensor, offsets: Tensor, count: int, seed: int
) -> Corrections:
    """`count` of the prompts of each crop, with the mask of theirs that fits best.

    Prompts that mean nothing are taken last, since there is nothing to correct.

    Args:
        logits: (B * P, K, h, w); goals: (B * P, h, w) of coverage, all 0 where nothing is meant.
        offsets: (B, 2) int64, column and row of each crop in the frame, in image tokens.
    """
    crops, first = prompts.labels.shape[:2]
    truth = goals >= 0.5
    meant = truth.flatten(1).any(1).view(crops, first)
    generator = torch.Generator(logits.device).manual_seed(seed)
    order = (torch.rand(crops, first, device=logits.device, generator=generator) + meant).argsort(
        1, descending=True
    )[:, :count]
    flat = (order + first * torch.arange(crops, device=logits.device)[:, None]).flatten()
    found, wanted = logits[flat].detach(), truth[flat]
    common = ((found > 0) & wanted[:, None]).flatten(2).sum(-1)
    either = ((found > 0) | wanted[:, None]).flatten(2).sum(-1)
    overlap = common / either.clamp(min=1)
    best = overlap.argmax(1)
    masks = found[torch.arange(len(best), device=best.device), best]
    x, y, label = _click_on_error(masks > 0, wanted, generator)
    corner = offsets.repeat_interleave(count, 0) * TOKEN_PX
    click = torch.stack([x, y], 1) * LOW_RES_STRIDE + (LOW_RES_STRIDE - 1) / 2 + corner

    def taken(values: Tensor) -> Tensor:
        return values.flatten(0, 1)[flat].view(crops, count, *values.shape[2:])

    second = PromptBatch(
        coords=torch.cat([taken(prompts.coords), click.float().view(crops, count, 1, 2)], dim=2),
        labels=torch.cat([taken(prompts.labels), label.view(crops, count, 1)], dim=2),
        objects=taken(prompts.objects),
        inclusions=taken(prompts.inclusions),
        ambiguous=torch.zeros_like(order, dtype=torch.bool),
    )
    before = overlap.gather(1, best[:, None])[:, 0]
    return Corrections(second, masks.view(crops, count, *masks.shape[1:]), goals[flat], before)


def _click_on_error(
    found: Tensor, wanted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) column, row and label of a random wrong cell of each mask; of any cell where none is wrong."""
    wrong = found != wanted
    odds = wrong.flatten(1).float() + 1e-6
    at = torch.multinomial(odds, 1, generator=generator)[:, 0]
    label = torch.where(wanted.flatten(1).gather(1, at[:, None])[:, 0], POSITIVE, NEGATIVE)
    return at % found.shape[2], at // found.shape[2], label
