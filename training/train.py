"""Train the droplet checkpoint, or go on: `python -m training.train --state DIR --data DIR`.

Runs on CPU and GPU, and resumes where it stopped: the state file holds weights, their running average, the
optimiser and how many crops have been seen. SIGTERM and SIGINT save before they end.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.average import WeightAverage
from training.corrections import correct
from training.datasets import find_samples, split
from training.losses import MaskStatistics, coverage, guide_loss, head_loss, mask_loss, single_goal
from training.network import DropletNetwork, initialise
from training.stream import Batch, BatchStream, CropPlan, RealSet

STATE_FILE = "state.pt"
SAVE_EVERY_S = 180.0
STOPPING = (signal.SIGTERM, signal.SIGINT)
REPORT_EVERY_S = 30.0
LONGEST_STEP = 1.0  # norm at which gradients are cut
NEVER_TRAINED = ("norm_head", "image_encoder.head.")
NOT_DECAYED = ("embed", "token", "attention_biases")
SHARE_OF_REAL = {"nuclei_dsb2018": 0.16, "powder_spheres": 0.07}
GUIDE_WEIGHT = 1.0
ATTENTION_STAGES = tuple(
    f"sam.image_encoder.{part}." for part in ("layers.1", "layers.2", "layers.3", "neck")
)
CLIPPED_TOGETHER = (*ATTENTION_STAGES, "sam.image_encoder.", "sam.", "")  # the first prefix that fits
GROUP_WEIGHTS = (0.7, 0.2, 0.1)  # clear, corrected and refined prompts


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training.

    Attributes:
        plans: what is trained on.
        crops: how many; the learning rate is held, then falls to `final` of itself over the share `fall`.
        rate: highest learning rate, of the encoder's attention stages `attention_rate` times that.
        warm_up: batches over which the rate rises.
        average: decay of the running average of the weights.
        frozen_statistics: batch normalisation uses the statistics gathered so far.
        ground_ramp: batches over which the ground beside objects comes to count in full (see `mask_loss`).
    """

    plans: tuple[CropPlan, ...]
    crops: int
    rate: float
    attention_rate: float = 0.5  # small batches at more saturate the attentions, and gradients turn to noise
    warm_up: int = 150
    fall: float = 0.4
    final: float = 0.05
    average: float = 0.998
    frozen_statistics: bool = False
    ground_ramp: int = 0


PHASES = {
    "features": Phase((CropPlan(1.0, 224, 12),), crops=60_000, rate=8e-4, warm_up=300),
    "prompts": Phase(
        (
            CropPlan(0.8, 224, 8, clear=8, corrected=3, refined=1),
            CropPlan(0.2, 448, 2, clear=12, corrected=5, refined=2, scales=(0.6, 2.4)),
        ),
        crops=60_000,
        rate=4e-4,
        ground_ramp=1500,
    ),
    "frame": Phase(
        (
            CropPlan(0.6, 448, 2, clear=16, corrected=6, refined=2, scales=(0.6, 2.4)),
            CropPlan(0.4, 1024, 1, clear=24, corrected=8, refined=3, scene_px=1024, scales=(0.7, 1.6)),
        ),
        crops=6_000,
        rate=1e-4,
        frozen_statistics=True,
    ),
    "smoke": Phase(
        (CropPlan(1.0, 96, 8, scene_px=192, scales=(0.7, 1.4)),),
        crops=2_400,
        rate=2e-3,
        warm_up=20,
        average=0.98,
    ),
}
SCHEDULE = ("features", "prompts", "frame")


class Trainer:
    """Networks, optimiser and progress, saved as one file."""

    def __init__(
        self, phase_name: str, phase: Phase, device: torch.device, dtype: torch.dtype, seed: int
    ) -> None:
        self.phase_name, self.phase, self.device, self.dtype = phase_name, phase, device, dtype
        self.network = DropletNetwork()
        initialise(self.network, seed)
        self.network.to(device)
        for part in (self.network.sam.image_encoder, self.network.head):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.network, phase.average)
        self.trained = {
            name: weight
            for name, weight in self.network.named_parameters()
            if not any(part in name for part in NEVER_TRAINED)
        }
        # apart, so that one part's large gradients do not drown what the others are told
        self.clipped_together: dict[str, list[nn.Parameter]] = {part: [] for part in CLIPPED_TOGETHER}
        for name, weight in self.trained.items():
            self.clipped_together[next(p for p in CLIPPED_TOGETHER if name.startswith(p))].append(weight)
        self.optimiser = self._make_optimiser()
        self.crops, self.batches = 0, 0

    def _make_optimiser(self) -> torch.optim.AdamW:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, weight in self.trained.items():
            decayed = weight.ndim > 1 and not any(part in name for part in NOT_DECAYED)
            groups.setdefault((decayed, name.startswith(ATTENTION_STAGES)), []).append(weight)
        options = [
            {
                "params": weights,
                "weight_decay": 0.05 * decayed,
                "scale": self.phase.attention_rate if attention else 1.0,
            }
            for (decayed, attention), weights in groups.items()
        ]
        return torch.optim.AdamW(options, lr=self.phase.rate, betas=(0.9, 0.98), fused=True)

    @property
    def done(self) -> bool:
        """Whether the phase has seen all its crops."""
        return self.crops >= self.phase.crops

    def rate(self) -> float:
        """Learning rate of the next batch."""
        phase = self.phase
        rise = min(1.0, (self.batches + 1) / phase.warm_up)
        into_fall = max(0.0, (self.crops / phase.crops - (1 - phase.fall)) / phase.fall)
        fallen = phase.final + (1 - phase.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, into_fall)))
        return phase.rate * rise * fallen

    def train_mode(self) -> None:
        """Batch normalisation learns or not, as the phase says."""
        self.network.train()
        if self.phase.frozen_statistics:
            for part in self.network.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()

    def step(self, batch: Batch) -> dict[str, float]:
        """One batch; losses and statistics of it. A step whose gradient is not finite is left out."""
        rate = self.rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        seen = self.network.encode(batch.pictures.to(self.device), self.dtype)
        dense = head_loss(seen.field, batch.field.to(self.device))
        guide = guide_loss(seen.guide, batch.guide.to(self.device))
        loss = dense + GUIDE_WEIGHT * guide
        told = {"dense": float(dense.detach()), "guide": float(guide.detach())}
        if batch.prompts:
            masks, iou, statistics = self._prompt_losses(seen.embeddings, batch)
            loss = loss + masks + iou
            told |= {"masks": float(masks.detach()), "iou": float(iou.detach()), **statistics}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [nn.utils.clip_grad_norm_(part, LONGEST_STEP) for part in self.clipped_together.values()]
        norm = max(float(norm) for norm in norms)
        if all(torch.isfinite(norm) for norm in norms):
            self.optimiser.step()
            self.average.update(self.network)
        self.crops += len(batch)
        self.batches += 1
        return told | {"gradient": norm}

    def _prompt_losses(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
        assert batch.objects is not None and batch.inclusions is not None  # noqa: S101 (for the type checker)
        objects, inclusions = batch.objects.to(self.device), batch.inclusions.to(self.device)
        share = min(1.0, self.batches / self.phase.ground_ramp) if self.phase.ground_ramp else 1.0
        losses, told, answers = [], [], []
        for prompts in batch.prompts:
            moved = type(prompts)(*(value.to(self.device) for value in prompts))
            masks = self.network.decode(embeddings, batch.offsets, moved, self.dtype)
            target, inner = coverage(objects, moved.objects), coverage(inclusions, moved.inclusions)
            mask, iou, statistics = mask_loss(
                masks.logits, masks.iou, target, inner, moved.ambiguous.flatten(), share
            )
            losses.append(torch.stack([mask, iou]))
            told.append(statistics)
            answers.append((moved, masks.logits, single_goal(target, inner)))
        merged = MaskStatistics(*(_mean([float(v) for v in values]) for values in zip(*told, strict=True)))
        figures: dict[str, float] = merged._asdict()
        if batch.refined:
            offsets = batch.offsets.to(self.device)
            second = correct(*answers[0], offsets, batch.refined, seed=self.batches)
            masks = self.network.decode(embeddings, batch.offsets, second.prompts, self.dtype, second.masks)
            mask, iou, statistics = mask_loss(
                masks.logits,
                masks.iou,
                second.goals,
                torch.zeros_like(second.goals),
                second.prompts.ambiguous.flatten(),
                share,
            )
            losses.append(torch.stack([mask, iou]))
            figures |= {"refined": statistics.clear, "from": float(second.before.mean())}
        weights = GROUP_WEIGHTS[: len(losses)]
        total = torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum(0) / sum(weights)
        return total[0], total[1], figures

    def save(self, folder: Path) -> None:
        """Write the state whole or not at all."""
        state = {
            "phase": self.phase_name,
            "crops": self.crops,
            "batches": self.batches,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / (STATE_FILE + ".part")
        torch.save(state, part)
        part.replace(folder / STATE_FILE)

    def load(self, file: Path) -> None:
        """Go on with the phase of a state file; begin another phase with its averaged weights."""
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["phase"] != self.phase_name:
            self.network.load_state_dict(state["average"]["weights"])
            self.average = WeightAverage(self.network, self.phase.average)
            return
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.crops, self.batches = state["crops"], state["batches"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _parse_options(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    dtype = torch.float32 if options.float32 else torch.bfloat16
    real = real_sets(options.data) if options.data else []
    ends = time.monotonic() + 60 * options.minutes
    file = options.state / STATE_FILE
    for name in phases_to_run(options.phase, file):
        phase = replace(PHASES[name], crops=options.crops or PHASES[name].crops)
        trainer = Trainer(name, phase, device, dtype, options.seed)
        if file.exists() or options.start is not None:
            trainer.load(file if file.exists() else options.start)
        stream = BatchStream(phase.plans, real, options.seed + trainer.batches)
        ahead = 4 if options.workers else None
        loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=options.workers,
            prefetch_factor=ahead,
            worker_init_fn=_ignore_signals,
        )
        run(trainer, iter(loader), options.state, (ends - time.monotonic()) / 60)
        if not trainer.done:
            break
    return 0


def phases_to_run(asked: str | None, file: Path) -> tuple[str, ...]:
    """The phase that was asked for, else those of the schedule that the state has not finished; all of them
    where it is of none."""
    if asked is not None:
        return (asked,)
    if not file.exists():
        return SCHEDULE
    reached: str = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["phase"]
    return SCHEDULE[SCHEDULE.index(reached) :] if reached in SCHEDULE else SCHEDULE


def real_sets(data: Path) -> list[RealSet]:
    """The training splits of the data sets whose licence allows it, in memory."""
    samples = split(find_samples(data), "train")
    by_set = {name: [sample for sample in samples if sample.dataset == name] for name in SHARE_OF_REAL}
    return [
        RealSet(SHARE_OF_REAL[name], [sample.load() for sample in found])
        for name, found in by_set.items()
        if found
    ]


def run(trainer: Trainer, batches: Iterator[Batch], folder: Path, minutes: float) -> None:
    """Train until the phase or the time is over, or someone asks to stop."""
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    started = saved = told_at = time.monotonic()
    first_crops, sums = trainer.crops, Means()
    trainer.train_mode()
    try:
        while not (trainer.done or stopped or time.monotonic() - started > 60 * minutes):
            sums.add(trainer.step(next(batches)))
            now = time.monotonic()
            if now - told_at > REPORT_EVERY_S:
                pace = (trainer.crops - first_crops) / (now - started)
                print(f"{(now - started) / 60:.1f} min  {trainer.crops} crops  {pace:.1f}/s  "
                      f"rate {trainer.rate():.1e}  {sums.read()}", flush=True)  # fmt: skip
                told_at, sums = now, Means()
            if now - saved > SAVE_EVERY_S:
                trainer.save(folder)
                saved = now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        trainer.save(folder)
    print(f"{trainer.crops} of {trainer.phase.crops} crops seen; saved in {folder}", flush=True)


def _ignore_signals(_worker: int) -> None:
    """A terminal sends Ctrl-C to the processes that draw as well; the trainer ends them when it has saved."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class Means:
    """Running means of named numbers, without those that are NaN."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, told: dict[str, float]) -> None:
        """Count a batch."""
        for name, value in told.items():
            if math.isfinite(value):
                self.values.setdefault(name, []).append(value)

    def read(self) -> str:
        """`name mean` of each."""
        return "  ".join(f"{name} {_mean(values):.4f}" for name, values in self.values.items())


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder of the state file")
    parser.add_argument("--phase", choices=PHASES, help="only this one; without it what is left of all")
    parser.add_argument("--start", type=Path, help="state file to begin from where the folder has none")
    parser.add_argument("--data", type=Path, help="folder of data sets (NAME/images, NAME/masks)")
    parser.add_argument("--crops", type=int, default=0, help="a phase, instead of its own number")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop and save after so long")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
