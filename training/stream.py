"""An endless stream of batches: fresh drawn scenes, and pictures of data sets that may be trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from training.augment import Crop, Generator, random_crop
from training.network import FRAME_TOKENS, TOKEN_PX, PromptBatch
from training.prompts import Prompts, draw_prompts
from training.scenes import Scene, draw_scene
from training.targets import guide_targets, head_targets

FRAME_PX = FRAME_TOKENS * TOKEN_PX
FIRST_TEST_SEED = 10_000_000  # training scenes have lower seeds, test scenes this and higher ones


@dataclass(frozen=True, slots=True)
class CropPlan:
    """Crops of one size.

    Attributes:
        share: of the batches.
        side: in pixels; a multiple of 32, at most 1024.
        batch: crops a batch.
        clear, corrected: prompts a crop of each sort (see `draw_prompts`); both 0 trains the head only.
        refined: of the clear ones, how many are asked again with their mask and a click where it is wrong.
        scene_px: side of the scenes that the crops are cut from.
        scales: least and greatest magnification.
    """

    share: float
    side: int
    batch: int
    clear: int = 0
    corrected: int = 0
    refined: int = 0
    scene_px: int = 512
    scales: tuple[float, float] = (0.5, 2.0)


@dataclass(frozen=True, eq=False, slots=True)
class RealSet:
    """Pictures with label maps, and the share of all crops that they give."""

    share: float
    pictures: Sequence[tuple[np.ndarray, np.ndarray]] = field(repr=False)
    scales: tuple[float, float] = (0.5, 4.0)  # small pictures are magnified to the frame


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """B crops.

    Attributes:
        pictures: (B, 3, s, s) uint8.
        field: (B, 7, s/2, s/2), see `head_targets`.
        guide: (B, 5, s/8, s/8), see `guide_targets`.
        offsets: (B, 2) int64, column and row of the crop in the frame, in image tokens.
        objects, inclusions: (B, s, s) int64 labels; only where there are prompts.
        prompts: by number of tokens.
        refined: see `CropPlan`.
    """

    pictures: Tensor
    field: Tensor
    guide: Tensor
    offsets: Tensor
    objects: Tensor | None
    inclusions: Tensor | None
    prompts: tuple[PromptBatch, ...]
    refined: int

    def __len__(self) -> int:
        return len(self.pictures)


class ScenePool:
    """A few hundred recent scenes, each used several times while others are drawn."""

    def __init__(self, rng: Generator, scene_px: int, capacity: int, uses: int) -> None:
        self.rng, self.scene_px, self.capacity, self.uses = rng, scene_px, capacity, uses
        self.scenes: list[Scene] = []
        self.taken = 0

    def take(self) -> Scene:
        """A scene; now and then a new one in place of the oldest."""
        if len(self.scenes) < self.capacity or self.taken % self.uses == 0:
            seed = int(self.rng.integers(FIRST_TEST_SEED))
            scene = draw_scene(np.random.default_rng(seed), self.scene_px)
            if len(self.scenes) < self.capacity:
                self.scenes.append(scene)
            else:
                self.scenes[int(self.rng.integers(self.capacity))] = scene
            self.taken += 1
            return scene
        self.taken += 1
        return self.scenes[int(self.rng.integers(len(self.scenes)))]


class BatchStream(IterableDataset[Batch]):
    """Batches for ever; each worker of a data loader draws its own."""

    def __init__(
        self, plans: Sequence[CropPlan], real: Sequence[RealSet], seed: int, pool: int = 150
    ) -> None:
        self.plans, self.real, self.seed, self.pool = tuple(plans), tuple(real), seed, pool

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        pools = {
            px: ScenePool(rng, px, self.pool if px <= 512 else self.pool // 4, 6)
            for px in {plan.scene_px for plan in self.plans}
        }
        shares = np.array([plan.share for plan in self.plans])
        while True:
            plan = self.plans[rng.choice(len(self.plans), p=shares / shares.sum())]
            yield make_batch(rng, plan, [self._crop(rng, plan, pools) for _ in range(plan.batch)])

    def _crop(self, rng: Generator, plan: CropPlan, pools: dict[int, ScenePool]) -> Crop:
        draw = rng.random()
        for real in self.real:
            if draw < real.share:
                picture, labels = real.pictures[int(rng.integers(len(real.pictures)))]
                return random_crop(rng, picture, labels, None, plan.side, real.scales)
            draw -= real.share
        scene = pools[plan.scene_px].take()
        return random_crop(rng, scene.picture, scene.objects, scene.inclusions, plan.side, plan.scales)


def make_batch(rng: Generator, plan: CropPlan, crops: Sequence[Crop]) -> Batch:
    """Crops with targets, prompts and places in the frame."""
    room = FRAME_TOKENS - plan.side // TOKEN_PX
    offsets = rng.integers(0, room + 1, (len(crops), 2))
    prompted = plan.clear + plan.corrected > 0
    drawn = [draw_prompts(rng, crop, plan.clear, plan.corrected) for crop in crops] if prompted else []
    return Batch(
        pictures=torch.from_numpy(np.stack([crop.picture.transpose(2, 0, 1) for crop in crops])),
        field=torch.from_numpy(np.stack([head_targets(crop) for crop in crops])),
        guide=torch.from_numpy(np.stack([guide_targets(crop) for crop in crops])),
        offsets=torch.from_numpy(offsets),
        objects=_stacked([crop.objects for crop in crops]) if prompted else None,
        inclusions=_stacked([crop.inclusions for crop in crops]) if prompted else None,
        prompts=tuple(_prompt_batch(group, offsets) for group in zip(*drawn, strict=True)),
        refined=plan.refined,
    )


def _stacked(maps: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(maps).astype(np.int64))


def _prompt_batch(group: Sequence[Prompts], offsets: np.ndarray) -> PromptBatch:
    coords = np.stack([p.coords for p in group]) + offsets[:, None, None] * np.float32(TOKEN_PX)
    return PromptBatch(
        coords=torch.from_numpy(coords.astype(np.float32)),
        labels=torch.from_numpy(np.stack([p.labels for p in group])),
        objects=torch.from_numpy(np.stack([p.objects for p in group])),
        inclusions=torch.from_numpy(np.stack([p.inclusions for p in group])),
        ambiguous=torch.from_numpy(np.stack([p.ambiguous for p in group])),
    )
