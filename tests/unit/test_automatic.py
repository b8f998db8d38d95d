"""Segment everything: grids and crops worked by hand, and an engine that knows the answer."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sam_engine import automatic
from sam_engine.automatic import AutomaticParameters, crop_boxes, point_grid, segment_everything
from sam_engine.decoder import Decoded
from sam_engine.engine import SamEngine, input_size_of
from sam_engine.errors import InvalidInput
from sam_engine.types import ImageEmbedding, Mask
from tests.drawn import Disc, draw, iou, spaced_discs

BLOCK = 3
SURE, UNSURE = 0.95, 0.2


class KnowingEngine(SamEngine):
    """Its pictures hold an object's number in each pixel; a point gets the object under it.

    The first candidate is nothing, the second the object (or the ground, 0), the third the whole picture.

    Args:
        whole_score: of the third candidate.
    """

    def __init__(self, whole_score: float = UNSURE) -> None:
        self.whole_score = whole_score
        self.proposer = None
        self.pictures: dict[str, np.ndarray] = {}
        self.asked: list[tuple[float, float]] = []

    def embed(self, image: np.ndarray) -> ImageEmbedding:
        size = image.shape[:2]
        key = str(len(self.pictures))
        self.pictures[key] = image[..., 0]
        return ImageEmbedding(torch.zeros(1), None, size, input_size_of(*size), key)

    def decode_points(self, embedding: ImageEmbedding, points: np.ndarray) -> Iterator[tuple[slice, Decoded]]:
        picture = self.pictures[embedding.key]
        self.now = embedding
        for start in range(0, len(points), BLOCK):
            part = slice(start, min(start + BLOCK, len(points)))
            self.asked.extend((float(x), float(y)) for x, y in points[part])
            numbers = [int(picture[int(y), int(x)]) for x, y in points[part]]
            scores = [[0.99, UNSURE, SURE if n else UNSURE, self.whole_score] for n in numbers]
            yield part, Decoded(torch.tensor(numbers), torch.zeros(0), torch.tensor(scores))

    def answering(self, iou_predictions: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(iou_predictions, dtype=torch.bool)

    def draw(self, decoded: Decoded, prompts: torch.Tensor, masks: slice) -> np.ndarray:
        picture = self.pictures[self.now.key]
        places = [
            np.minimum(((np.arange(256) + 0.5) * 4 * side / frame).astype(int), side - 1)
            for side, frame in zip(picture.shape, self.now.input_size, strict=True)
        ]
        seen = picture[np.ix_(*places)]
        chosen = [int(decoded.tokens[p]) for p in prompts]
        nothing, whole = np.full(seen.shape, -9.0), np.full(seen.shape, 9.0)
        logits = [[nothing, nothing, np.where(seen == n, 9.0, -9.0), whole] for n in chosen]
        return np.array(logits, dtype=np.float32)[:, masks]


def numbered(discs: list[Disc], size: tuple[int, int]) -> np.ndarray:
    picture = np.zeros((*size, 3), dtype=np.uint8)
    for number, disc in enumerate(discs, start=1):
        picture[disc.pixels(size)] = number
    return picture


def run(engine: SamEngine, image: np.ndarray, **parameters: object) -> automatic.Segmentation:
    return segment_everything(engine, image, engine.embed(image), AutomaticParameters(**parameters))


def check_found(discs: list[Disc], masks: list[Mask], size: tuple[int, int], at_least: float = 0.9) -> None:
    """Each disc once, and nothing else."""
    assert len(masks) == len(discs)
    for disc in discs:
        assert max(iou(mask.full(), disc.pixels(size)) for mask in masks) > at_least


SIZE = (240, 320)
LARGE = spaced_discs(SIZE, pitch=80, radius=35)


# --- grids and crops ---


def test_grid_of_two():
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


@pytest.mark.parametrize("side", [3, 5, 32])
def test_the_grid_is_segment_anythings(side):
    places = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    wanted = [(x, y) for y in places for x in places]
    np.testing.assert_allclose(point_grid(side), wanted, atol=1e-12)


def test_crops_worked_by_hand():
    """400 x 600, a quarter of 400 as overlap: 100 px between 2 crops a side, 50 px between 4."""
    assert crop_boxes((400, 600), 0, 0.25) == [((0, 0, 600, 400), 0)]
    assert crop_boxes((400, 600), 1, 0.25)[1:] == [
        ((0, 0, 350, 250), 1),
        ((0, 150, 350, 400), 1),
        ((250, 0, 600, 250), 1),
        ((250, 150, 600, 400), 1),
    ]
    second = [box for box, layer in crop_boxes((400, 600), 2, 0.25) if layer == 2]
    assert sorted({(x1, x2) for x1, _, x2, _ in second}) == [(0, 188), (138, 326), (276, 464), (414, 600)]
    assert sorted({(y1, y2) for _, y1, _, y2 in second}) == [(0, 138), (88, 226), (176, 314), (264, 400)]
    assert len(second) == 16


@pytest.mark.parametrize("size", [(400, 600), (333, 1001), (64, 64)])
def test_each_layer_covers_the_picture(size):
    boxes = crop_boxes(size, 3, automatic.CROP_OVERLAP_RATIO)
    for layer in range(4):
        covered = np.zeros(size, dtype=bool)
        for (x1, y1, x2, y2), of_layer in boxes:
            assert 0 <= x1 < x2 <= size[1]
            assert 0 <= y1 < y2 <= size[0]
            if of_layer == layer:
                covered[y1:y2, x1:x2] = True
        assert covered.all()


# --- by a grid ---


def test_exact_prompts_every_point_and_finds_each_object_once():
    engine = KnowingEngine()
    found = run(engine, numbered(LARGE, SIZE), mode="exact", points_per_side=12)
    wanted = point_grid(12) * (SIZE[1], SIZE[0])
    np.testing.assert_allclose(engine.asked, wanted)
    assert found.prompts_run == 144
    check_found(LARGE, found.masks, SIZE)
    for mask in found.masks:
        ((x, y),) = mask.point_coords
        assert mask.full()[int(y), int(x)]
        assert mask.predicted_iou == pytest.approx(SURE)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7, 32])
def test_fast_prompts_a_sparse_grid_and_then_what_is_not_covered(side):
    engine = KnowingEngine()
    found = run(engine, numbered(LARGE, SIZE), mode="fast", points_per_side=side)
    assert found.prompts_run == len(engine.asked) == len(set(engine.asked))
    columns = len(range(min(4, side) // 2, side, 4))
    covered = np.zeros(SIZE, dtype=bool)
    for mask in found.masks:
        covered[mask.window] |= mask.pixels
    first = np.array(engine.asked[: columns**2])
    if side > 1:  # the sparse grid leaves no wide border
        step = np.array([SIZE[1], SIZE[0]]) / side
        assert (first.min(axis=0) < 3 * step).all()
        assert (first.max(axis=0) > np.array([SIZE[1], SIZE[0]]) - 4 * step).all()
    asked = {tuple(np.round(point, 3)) for point in engine.asked}
    for x, y in point_grid(side) * (SIZE[1], SIZE[0]):
        assert tuple(np.round((x, y), 3)) in asked or covered[int(y), int(x)]


def test_the_sparse_grid_of_three_is_its_middle():
    engine = KnowingEngine()
    run(engine, numbered([], SIZE), mode="fast", points_per_side=3)
    assert engine.asked[0] == (SIZE[1] / 2, SIZE[0] / 2)
    assert len(engine.asked) == 9


def test_fast_finds_the_same_with_fewer_prompts():
    image = numbered(LARGE, SIZE)
    found = run(KnowingEngine(), image, mode="fast", points_per_side=32)
    check_found(LARGE, found.masks, SIZE)
    ground = np.count_nonzero(image[..., 0] == 0) / image[..., 0].size
    assert found.prompts_run < 1.15 * ground * 32**2


def test_fast_is_done_when_the_first_masks_cover_everything():
    found = run(KnowingEngine(), np.full((60, 80, 3), 1, dtype=np.uint8), mode="fast", points_per_side=8)
    assert found.prompts_run == 4
    assert [mask.area for mask in found.masks] == [60 * 80]


def test_a_mask_that_is_too_large_to_stay_hides_no_points():
    size = (400, 400)
    discs = [Disc(30, 30, 20), Disc(370, 220, 20)]  # neither lies under the sparse grid
    few = run(KnowingEngine(whole_score=SURE), numbered(discs, size), mode="fast", points_per_side=8)
    assert few.prompts_run == 4
    assert [mask.area for mask in few.masks] == [400 * 400]
    engine = KnowingEngine(whole_score=SURE)
    found = run(engine, numbered(discs, size), mode="fast", points_per_side=8, max_mask_area=100 * 100)
    assert found.prompts_run == 64
    check_found(discs, found.masks, size, at_least=0.8)


@pytest.mark.parametrize(("thresh", "count"), [(SURE - 0.01, 12), (SURE + 0.01, 0), (0.0, 13), (-1.0, 13)])
def test_masks_must_exceed_pred_iou_thresh(thresh, count):
    found = run(KnowingEngine(), numbered(LARGE, SIZE), points_per_side=8, pred_iou_thresh=thresh)
    assert len(found.masks) == count  # the thirteenth is the ground or the whole picture


def test_masks_must_reach_the_stability_score():
    image = numbered(LARGE, SIZE)
    scores = [mask.stability_score for mask in run(KnowingEngine(), image, points_per_side=12).masks]
    middle = float(np.median(scores))
    steady = run(KnowingEngine(), image, points_per_side=12, stability_score_thresh=middle)
    assert len(steady.masks) == sum(score >= middle for score in scores)
    vague = run(KnowingEngine(), image, points_per_side=12, stability_score_offset=8.9)
    assert not vague.masks


def test_crops_give_masks_in_the_place_of_the_picture():
    engine = KnowingEngine()
    found = run(engine, numbered(LARGE, SIZE), points_per_side=8, crop_n_layers=1)
    assert found.prompts_run == 5 * 64
    check_found(LARGE, found.masks, SIZE)
    for mask in found.masks:
        assert mask.image_size == SIZE
        ((x, y),) = mask.point_coords
        assert mask.full()[int(y), int(x)]


def test_of_the_same_object_the_mask_of_the_smaller_crop_stays():
    """It has seen more detail. Points tell which it is: those of the picture's grid are no crop's."""
    size = (400, 600)
    disc = Disc(110, 100, 60)
    (alone,) = run(KnowingEngine(), numbered([disc], size), points_per_side=8).masks
    (mask,) = run(KnowingEngine(), numbered([disc], size), points_per_side=8, crop_n_layers=1).masks
    grid = (point_grid(8) * (600, 400)).tolist()
    assert list(alone.point_coords[0]) in grid
    assert list(mask.point_coords[0]) not in grid


def test_crops_have_coarser_grids_by_the_downscale_factor():
    found = run(
        KnowingEngine(),
        numbered([], SIZE),
        points_per_side=8,
        crop_n_layers=2,
        crop_n_points_downscale_factor=3,
    )
    assert found.prompts_run == 8**2 + 4 * 2**2 + 16 * 1**2


def test_crops_find_what_the_grid_of_the_picture_steps_over():
    size = (600, 800)
    small = [Disc(x, y, 20) for x in (150, 650) for y in (100, 500)]
    image = numbered(small, size)
    assert not run(KnowingEngine(), image, points_per_side=16).masks
    found = run(KnowingEngine(), image, points_per_side=16, crop_n_layers=1)
    check_found(small, found.masks, size, at_least=0.85)


def test_an_object_that_a_crop_cuts_comes_from_the_picture_only():
    size = (400, 400)
    disc = Disc(200, 200, 120)  # reaches beyond every crop
    whole = run(KnowingEngine(), numbered([disc], size), points_per_side=4, crop_n_layers=1)
    check_found([disc], whole.masks, size)


def test_smfoundregions_go():
    size = (512, 512)
    disc = Disc(256, 256, 120)
    image = numbered([disc], size)
    image[250:262, 250:262] = 0  # a hole of 144 pixels, and an island of 144
    image[20:32, 20:32] = 1
    (rough,) = run(KnowingEngine(), image, points_per_side=4).masks
    (clean,) = run(KnowingEngine(), image, points_per_side=4, min_mask_region_area=400).masks
    (same,) = run(KnowingEngine(), image, points_per_side=4, min_mask_region_area=20).masks
    assert rough.origin_xy[0] < 40
    assert not rough.full()[256, 256]
    assert clean.full()[256, 256]
    assert iou(clean.full(), disc.pixels(size)) > 0.98
    for edge in (clean.pixels[0], clean.pixels[-1], clean.pixels[:, 0], clean.pixels[:, -1]):
        assert edge.any()
    np.testing.assert_array_equal(same.full(), rough.full())


def test_max_mask_area():
    image = numbered(LARGE, SIZE)
    areas = sorted(mask.area for mask in run(KnowingEngine(), image, points_per_side=12).masks)
    kept = run(KnowingEngine(), image, points_per_side=12, max_mask_area=areas[4]).masks
    assert sorted(mask.area for mask in kept) == areas[:5]


def test_a_picture_with_nothing_in_it():
    for mode in ("exact", "fast"):
        found = run(KnowingEngine(), numbered([], (30, 40)), mode=mode, points_per_side=5, crop_n_layers=1)
        assert found.masks == []
        assert found.prompts_run == 5 * 25
    cleaned = run(KnowingEngine(), numbered([], (30, 40)), points_per_side=2, min_mask_region_area=9)
    assert cleaned.masks == []


# --- by the instance head, and with the shipped network ---


def test_instances_need_a_head():
    with pytest.raises(InvalidInput) as caught:
        run(KnowingEngine(), numbered(LARGE, SIZE), mode="instances")
    assert caught.value.field == "automatic.mode"
    assert "exact" in str(caught.value)


def test_instances_of_the_shipped_checkpoint(engine, picture, embedding, discs):
    found = segment_everything(engine, picture, embedding, AutomaticParameters(mode="instances"))
    assert found.prompts_run == 0
    check_found(discs, found.masks, picture.shape[:2], at_least=0.93)
    area = sorted(mask.area for mask in found.masks)[5]
    some = AutomaticParameters(mode="instances", max_mask_area=area)
    assert len(segment_everything(engine, picture, embedding, some).masks) == 6


def test_fast_saves_prompts_with_the_shipped_checkpoint(engine):
    """Four discs under the sparse grid of 8 points a side, each over a point above and one below."""
    size = (112, 400)
    discs = [Disc(x, y, 26) for y in (35, 91) for x in (125, 325)]
    image = draw(discs, size)
    parameters = AutomaticParameters(
        mode="fast", points_per_side=8, pred_iou_thresh=0.75, stability_score_thresh=0.9
    )
    found = segment_everything(engine, image, engine.embed(image), parameters)
    best = [max(iou(mask.full(), disc.pixels(size)) for mask in found.masks) for disc in discs]
    assert min(best) > 0.85
    assert found.prompts_run <= 8**2 - 2 * 4
