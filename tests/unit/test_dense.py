"""Views for the dense head, and masks drawn again by the decoder."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam_engine.dense import find_instances, refine, tile_boxes
from sam_engine.engine import Prediction, SamEngine, input_size_of
from sam_engine.instances import InstanceParameters
from sam_engine.types import ImageEmbedding, InstanceField, Mask, Prompt
from tests.drawn import Disc
from tests.measured import make_mask


@pytest.mark.parametrize(
    ("size", "side"),
    [((1000, 1000), 1024), ((4000, 6000), 1024), ((700, 3000), 512), ((1, 1), 64), ((65, 64), 64)],
)
def test_tiles_cover_the_picture_and_share_a_quarter(size, side):
    boxes = list(tile_boxes(size, side))
    covered = np.zeros(size, dtype=int)
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
        assert max(x2 - x1, y2 - y1) <= side
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({box[axis] for box in boxes})
        steps = np.diff(starts)
        assert not len(steps) or steps.max() <= side * 3 / 4 + 1


class SeeingEngine(SamEngine):
    """A perfect head for discs of a known picture; tiles are told by the numbers in their pixels."""

    def __init__(self, discs: list[Disc], size: tuple[int, int], smallest_seen: float = 8.0) -> None:
        self.discs, self.size, self.smallest_seen = discs, size, smallest_seen
        self.tiles = 0
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
        self.image = np.stack([rows // 256, columns // 256, rows % 256], axis=-1).astype(np.uint8)
        self.rest = columns % 256

    def field(self, origin: tuple[int, int], size: tuple[int, int]) -> InstanceField:
        frame = input_size_of(*size)
        cells = tuple(-(-side // 2) for side in frame)
        pitch = tuple(2 * own / seen for own, seen in zip(size, frame, strict=True))
        y = ((np.arange(cells[0]) + 0.5) * pitch[0] + origin[1])[:, None]
        x = (np.arange(cells[1]) + 0.5) * pitch[1] + origin[0]
        values = np.zeros((3, *cells), np.float16)
        values[0] = -8
        for disc in self.discs:
            if disc.radius / pitch[0] * 2 < self.smallest_seen:
                continue
            near = np.ix_(
                np.flatnonzero(np.abs(y[:, 0] - disc.y) < 1.3 * disc.radius),
                np.flatnonzero(np.abs(x - disc.x) < 1.3 * disc.radius),
            )
            depth = disc.radius - np.hypot(x[near[1][0]] - disc.x, y[near[0][:, 0]] - disc.y)
            values[0][near] = np.maximum(values[0][near], np.clip(2 * depth / pitch[0], -8, 8))
            values[2][near] = np.maximum(values[2][near], np.clip(depth / disc.radius, 0, 1))
        return InstanceField(torch.from_numpy(values), (0, 0), pitch)

    def embed(self, image: np.ndarray) -> ImageEmbedding:
        field = self.field((0, 0), self.size)
        return ImageEmbedding(torch.zeros(1), field, self.size, input_size_of(*self.size), "whole")

    def load(self) -> SimpleNamespace:
        return SimpleNamespace(instance_quality=None)

    def instance_fields(self, image: np.ndarray, embedding: ImageEmbedding) -> tuple[InstanceField, ...]:
        return (embedding.instance_field,)

    def instance_field_of_tile(self, image: np.ndarray) -> InstanceField:
        self.tiles += 1
        row = int(image[0, 0, 0]) * 256 + int(image[0, 0, 2])
        columns = np.flatnonzero(
            (self.image[row, :, 1] == image[0, 0, 1]) & (self.image[row, :, 0] == image[0, 0, 0])
        )
        # the first column of the tile: where its blocks of 256 begin to change tells the rest
        change = np.flatnonzero(np.diff(image[0, :, 1].astype(int)))
        left = int(columns[0]) + (255 - int(change[0]) if len(change) else 0)
        return self.field((left, row), image.shape[:2])


def small_discs(size: tuple[int, int], radius: float) -> list[Disc]:
    pitch = 6 * radius
    return [
        Disc((i + 0.5) * pitch, (j + 0.5) * pitch, radius)
        for j in range(int(size[0] / pitch))
        for i in range(int(size[1] / pitch))
    ]


def test_a_large_picture_of_small_objects_is_seen_in_tiles():
    size = (1800, 2400)
    discs = small_discs(size, 8)
    engine = SeeingEngine(discs, size)
    embedding = engine.embed(engine.image)
    off, _ = find_instances(engine, engine.image, embedding, InstanceParameters(), "off")
    masks, tiles = find_instances(engine, engine.image, embedding, InstanceParameters(), "auto")
    assert off == []
    assert tiles == engine.tiles > 5
    assert len(masks) == len(discs)
    assert all(mask.area == pytest.approx(np.pi * 8**2, rel=0.15) for mask in masks)


@pytest.mark.parametrize(
    ("radius", "tiling", "tiled"), [(150, "auto", False), (150, "full", True), (150, "off", False)]
)
def test_tiles_are_looked_at_when_they_are_worth_it(radius, tiling, tiled):
    size = (2000, 2600)
    discs = small_discs(size, radius)
    engine = SeeingEngine(discs, size)
    masks, tiles = find_instances(
        engine, engine.image, engine.embed(engine.image), InstanceParameters(), tiling
    )
    assert (tiles > 0) == tiled
    assert len(masks) == len(discs)


class DrawingEngine(SamEngine):
    """Answers each prompt with a mask made for it."""

    def __init__(self, answers: list[Mask | None]) -> None:
        self.answers = answers
        self.prompts: list[Prompt] = []

    def predict(self, embedding: ImageEmbedding, prompts: list[Prompt]) -> list[Prediction]:
        first = len(self.prompts)
        self.prompts.extend(prompts)
        chosen = self.answers[first : first + len(prompts)]
        return [
            Prediction(() if mask is None else (mask,), np.zeros((1, 256, 256), np.float32))
            for mask in chosen
        ]


def test_refined_masks_replace_those_they_agree_with():
    size = (60, 80)
    mine = [make_mask(Disc(x, 30, 10).pixels(size)) for x in (15, 40, 65)]
    near = replace(make_mask(Disc(15, 30, 9).pixels(size)), prompt_index=0, mask_index=0)
    elsewhere = make_mask(Disc(60, 50, 5).pixels(size))
    engine = DrawingEngine([near, elsewhere, None])
    first, second, third = refine(engine, None, mine)
    assert first.area == near.area
    assert (first.prompt_index, first.mask_index) == (None, None)
    assert (second, third) == (mine[1], mine[2])
    for prompt, mask in zip(engine.prompts, mine, strict=True):
        x, y, width, height = mask.bbox_xywh
        assert prompt.box == (x, y, x + width, y + height)
        ((px, py, label),) = prompt.points
        assert label == 1
        assert mask.full()[int(py), int(px)]
        assert not prompt.multimask


def test_many_masks_are_refined_in_order():
    size = (200, 200)
    mine = [make_mask(Disc(8 + 12 * (k % 15), 8 + 12 * (k // 15), 4).pixels(size)) for k in range(150)]
    assert [m.origin_xy for m in refine(DrawingEngine(mine), None, mine)] == [m.origin_xy for m in mine]
