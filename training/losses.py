"""What is minimised."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOW_RES_STRIDE = 4
FOCAL_EXPONENT = 2
CANDIDATE_LEAK = 0.1  # of the gradient goes to all candidates, so that none dies
GROUND_WEIGHT = 0.25
NEVER = 1e4


class MaskStatistics(NamedTuple):
    """Means over a batch; NaN where it has no such prompt.

    Attributes:
        click: IoU of the best-scored candidate for one click; `oracle` of the best one; `single` of mask 0.
        clear: IoU of boxes and several points.
        ground: score of clicks on nothing.
        calibration: error of the predicted IoU.
    """

    click: float
    oracle: float
    single: float
    clear: float
    ground: float
    calibration: float


def head_loss(field: Tensor, target: Tensor) -> Tensor:
    """Foreground, edge and distance of objects; foreground and distance of inclusions.

    Args:
        field: (B, 5, h, w) of the head.
        target: (B, 7, h, w), see `training.targets.head_targets`.
    """
    weight, inner_weight = target[:, 5], target[:, 6]
    twice = torch.tensor(2.0, device=field.device)

    def binary(k: int, goal: int, w: Tensor, positive: Tensor | None = None) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(
            field[:, k], target[:, goal], reduction="none", pos_weight=positive
        )
        return (loss * w).mean()

    def linear(k: int, goal: int, w: Tensor) -> Tensor:
        loss = F.smooth_l1_loss(field[:, k], target[:, goal], reduction="none", beta=0.1)
        return (loss * w).mean()

    objects = binary(0, 0, weight) + 0.5 * binary(1, 1, weight, twice) + 4 * linear(2, 2, weight)
    inclusions = binary(3, 3, inner_weight) + 4 * linear(4, 4, inner_weight)
    return objects + 0.5 * inclusions


def guide_loss(guide: Tensor, target: Tensor) -> Tensor:
    """Foreground, and of objects centre and size.

    Args:
        guide: (B, 4, h, w) of `DropletNetwork.guide`.
        target: (B, 5, h, w), see `training.targets.guide_targets`.
    """
    foreground, seen = target[:, 0], target[:, 4]
    found = F.binary_cross_entropy_with_logits(guide[:, 0], foreground, reduction="none")
    apart = F.smooth_l1_loss(guide[:, 1:], target[:, 1:4], reduction="none", beta=0.2).mean(1)
    objects = (foreground * seen).sum().clamp(min=1)
    return (found * seen).mean() + (apart * foreground * seen).sum() / objects


def single_goal(target: Tensor, inner: Tensor) -> Tensor:
    """What the one mask of a prompt should be: the object meant, else the inclusion."""
    return torch.where(target.flatten(1).any(1)[:, None, None], target, inner)


def coverage(labels: Tensor, wanted: Tensor) -> Tensor:
    """(B, s, s) labels and (B, P) of them to (B * P, s/4, s/4): the share of each cell, 0 for label 0."""
    covered = (labels[:, None] == wanted[:, :, None, None]) & (wanted > 0)[:, :, None, None]
    return F.avg_pool2d(covered.flatten(0, 1)[:, None].float(), LOW_RES_STRIDE)[:, 0]


def mask_loss(
    logits: Tensor,
    iou: Tensor,
    target: Tensor,
    inner: Tensor,
    ambiguous: Tensor,
    ground_share: float = 1.0,
) -> tuple[Tensor, Tensor, MaskStatistics]:
    """Loss of masks and of predicted IoU over N prompts.

    An ambiguous prompt trains the best of its three candidates for each of the objects it can mean; a clear
    one trains mask 0 and, lightly, the candidates.

    Args:
        logits: (N, 4, h, w); iou: (N, 4).
        target: (N, h, w) coverage of the object meant, all 0 if none; inner: likewise of an inclusion.
        ambiguous: (N,) bool.
        ground_share: 1 counts the ground beside an object in full, 0 about as much as the object. New
            networks begin at 0: the ground outweighs small objects by far, and empty masks are a trap.
    """
    goals = torch.stack([target, inner], dim=1)
    valid = goals.flatten(2).sum(-1) > 0
    nothing = ~valid.any(1)
    single = single_goal(target, inner)
    losses = _pair_losses(logits[:, 1:], goals, nothing, ground_share)
    first = _pair_losses(logits[:, :1], single[:, None], nothing, ground_share)[:, 0, 0]
    counted = valid.clone()
    counted[nothing, 0] = True
    best = torch.where(counted, losses.min(1).values, 0).sum(1) / counted.sum(1)
    nearest = (losses + NEVER * ~counted[:, None]).min(2).values.mean(1)
    candidates = (1 - CANDIDATE_LEAK) * best + CANDIDATE_LEAK * nearest
    candidate_weight = torch.where(ambiguous, 1.0, 0.25)
    first_weight = torch.where(ambiguous, 0.4, 1.0)
    loss = (candidates * candidate_weight + first * first_weight).mean()
    reached = _true_iou(logits.detach(), goals, valid, single)
    error = (iou - reached) ** 2
    iou_loss = (error[:, 0] * first_weight + error[:, 1:].mean(1) * candidate_weight).mean()
    return loss, iou_loss, _statistics(iou.detach(), reached, ambiguous, nothing)


def _pair_losses(logits: Tensor, goals: Tensor, nothing: Tensor, ground_share: float) -> Tensor:
    """(N, K, h, w) against (N, J, h, w): (N, K, J) of focal loss balanced by area, plus dice."""
    x, t = logits.flatten(2)[:, :, None], goals.flatten(2)[:, None]
    p = x.sigmoid()
    area = t.sum(-1)
    balance = (4 * area / x.shape[-1]).clamp(max=1) * (1 - ground_share) + ground_share
    ground_weight = torch.where(nothing[:, None, None], 1.0, balance)[..., None]
    weight_of_cell = torch.where(t > 0, 1.0, ground_weight)
    focal = ((F.softplus(x) - x * t) * (t - p) ** FOCAL_EXPONENT * weight_of_cell).sum(-1)
    # the plain form, balanced by the whole picture, collapses to empty masks
    balanced = focal / torch.where(nothing[:, None, None], 0.08 * x.shape[-1], area + 25)
    dice = 1 - (2 * (p * t).sum(-1) + 1) / ((p * p).sum(-1) + (t * t).sum(-1) + 1)
    weight = torch.where(nothing, GROUND_WEIGHT, 1.0)[:, None, None]
    return weight * (2 * balanced + dice * ~nothing[:, None, None])


@torch.no_grad()
def _true_iou(logits: Tensor, goals: Tensor, valid: Tensor, single: Tensor) -> Tensor:
    """(N, 4): IoU of mask 0 with its goal and of each candidate with the goal it fits best; 0 for nothing."""
    masks = (logits > 0).float().flatten(2)

    def iou(which: Tensor, goal: Tensor) -> Tensor:
        truth = (goal >= 0.5).float().flatten(2)
        common = torch.bmm(which, truth.transpose(1, 2))
        union = which.sum(2)[:, :, None] + truth.sum(2)[:, None] - common
        return common / union.clamp(min=1)

    candidates = (iou(masks[:, 1:], goals) * valid[:, None]).max(2).values
    first = iou(masks[:, :1], single[:, None])[:, :, 0] * valid.any(1)[:, None]
    return torch.cat([first, candidates], dim=1)


def _statistics(iou: Tensor, reached: Tensor, ambiguous: Tensor, nothing: Tensor) -> MaskStatistics:
    click, clear = ambiguous & ~nothing, ~ambiguous & ~nothing
    chosen = reached[:, 1:].gather(1, iou[:, 1:].argmax(1, keepdim=True))[:, 0]
    return MaskStatistics(
        click=float(chosen[click].mean()),
        oracle=float(reached[click, 1:].max(1).values.mean()) if click.any() else float("nan"),
        single=float(reached[click, 0].mean()),
        clear=float(reached[clear, 0].mean()),
        ground=float(iou[nothing, 1:].max(1).values.mean()) if nothing.any() else float("nan"),
        calibration=float((iou - reached).abs().mean()),
    )
