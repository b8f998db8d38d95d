"""From scenes to what a training step gets: crops, targets, prompts."""

import numpy as np
import pytest

from sam_engine.modeling.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, NOT_A_POINT, POSITIVE
from tests.drawn import Disc
from training.augment import Crop, consecutive, photometric, random_crop, resize_labels
from training.prompts import Regions, draw_prompts
from training.stream import FIRST_TEST_SEED, BatchStream, CropPlan, RealSet, ScenePool, make_batch
from training.targets import guide_targets, head_targets


def drawn_crop(side=64):
    objects = np.zeros((side, side), np.int32)
    objects[Disc(20, 20, 12).pixels((side, side))] = 1
    objects[Disc(44, 40, 9).pixels((side, side))] = 2
    inclusions = np.zeros_like(objects)
    inclusions[Disc(22, 20, 5).pixels((side, side))] = 1
    return Crop(np.zeros((side, side, 3), np.uint8), objects, inclusions, np.zeros((side, side), bool))


def test_a_crop_has_its_side_and_consecutive_labels():
    rng = np.random.default_rng(0)
    labels = np.zeros((100, 140), np.uint16)
    labels[Disc(60, 50, 20).pixels((100, 140))] = 77
    picture = np.full((100, 140, 3), 90, np.uint8)
    for _ in range(20):
        crop = random_crop(rng, picture, labels, None, 64, (0.3, 3.0))
        assert (crop.picture.shape, crop.objects.shape) == ((64, 64, 3), (64, 64))
        assert set(np.unique(crop.objects)) <= {0, 1}
        assert not crop.objects[crop.ignored].any()


def test_a_picture_smaller_than_the_window_is_padded():
    crop = random_crop(
        np.random.default_rng(0),
        np.zeros((20, 20, 3), np.uint8),
        np.ones((20, 20), int),
        None,
        64,
        (1.0, 1.0),
    )
    assert crop.ignored.sum() == 64 * 64 - 20 * 20
    assert crop.objects.sum() == 20 * 20


def test_labels_and_picture_are_resized_and_turned_alike():
    rng = np.random.default_rng(1)
    labels = np.zeros((96, 96), np.int32)
    labels[Disc(30, 60, 18).pixels((96, 96))] = 1
    picture = np.repeat((200 * labels).astype(np.uint8)[..., None], 3, axis=2)
    for _ in range(12):
        crop = random_crop(rng, picture, labels, None, 64, (0.5, 1.5))
        grey = crop.picture.astype(float).mean(2)
        inside, outside = crop.objects > 0, (crop.objects == 0) & ~crop.ignored
        if inside.sum() > 40:
            assert abs(grey[inside].mean() - grey[outside].mean()) > 25


def test_resized_labels_are_the_nearest_ones():
    assert resize_labels(np.array([[1, 2], [3, 4]]), (4, 4)).tolist() == [
        [1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]
    ]  # fmt: skip
    assert consecutive(np.array([[0, 9], [4, 9]], np.int32)).tolist() == [[0, 2], [1, 2]]


def test_photometric_changes_keep_type_and_shape():
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    changed = [photometric(rng, picture) for _ in range(10)]
    assert all((c.shape, c.dtype) == (picture.shape, np.uint8) for c in changed)
    assert len({c.tobytes() for c in changed}) == 10


def test_head_targets_of_two_discs():
    target = head_targets(drawn_crop())
    foreground, edge, distance, inner, inner_distance, weight, inner_weight = target
    assert target.shape == (7, 32, 32)
    assert foreground.sum() == pytest.approx(np.pi * (12**2 + 9**2) / 4, rel=0.05)
    assert (distance[10, 10], distance[20, 22]) == (pytest.approx(1, abs=0.1), pytest.approx(1, abs=0.1))
    assert distance[foreground == 0].max() == 0
    assert edge[foreground == 0].max() == 0
    assert 0 < edge.sum() < foreground.sum()
    assert inner.sum() == pytest.approx(np.pi * 5**2 / 4, rel=0.15)
    assert inner_distance[10, 11] > 0.8
    assert weight[20, 22] > weight[10, 10] > 0  # the smaller object weighs more a cell
    assert inner_weight[30, 30] < inner_weight[10, 5]  # the ground teaches little about inclusions


def test_ignored_cells_weigh_nothing():
    crop = drawn_crop()
    crop.ignored[:, 32:] = True
    _, _, _, _, _, weight, inner_weight = head_targets(crop)
    assert weight[:, 16:].max() == inner_weight[:, 16:].max() == 0


def test_regions_know_their_pixels_and_boxes():
    regions = Regions(drawn_crop().objects)
    assert regions.usable().tolist() == [1, 2]
    assert regions.box(2).tolist() == [35, 31, 53, 49]
    rng = np.random.default_rng(0)
    assert all(regions.labels[y, x] == 2 for x, y in (regions.pixel(rng, 2) for _ in range(50)))


def test_prompts_mean_what_lies_under_them():
    rng, crop = np.random.default_rng(0), drawn_crop()
    seen = set()
    for _ in range(40):
        clear, corrected = draw_prompts(rng, crop, 8, 4)
        assert clear.coords.shape == (8, 2, 2)
        assert corrected.coords.shape == (4, 4, 2)
        for coords, labels, target, inner, ambiguous in zip(
            clear.coords, clear.labels, clear.objects, clear.inclusions, clear.ambiguous, strict=True
        ):
            seen.add(tuple(labels.tolist()))
            if ambiguous:
                x, y = coords[0].astype(int)
                assert labels.tolist() == [POSITIVE, NOT_A_POINT]
                assert crop.objects[y, x] == target
                assert crop.inclusions[y, x] == inner
            else:
                assert labels.tolist() == [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]
                assert (target > 0) != (inner > 0)
        for coords, labels, target in zip(corrected.coords, corrected.labels, corrected.objects, strict=True):
            for (x, y), label in zip(coords.astype(int), labels, strict=True):
                if label in (POSITIVE, NEGATIVE):
                    assert (crop.objects[y, x] == target) == (label == POSITIVE)
    assert seen == {(POSITIVE, NOT_A_POINT), (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)}


def test_prompts_where_there_is_nothing():
    empty = np.zeros((64, 64), np.int32)
    crop = Crop(np.zeros((64, 64, 3), np.uint8), empty, empty, empty > 0)
    clear, corrected = draw_prompts(np.random.default_rng(0), crop, 6, 2)
    assert not clear.objects.any()
    assert not corrected.objects.any()


def test_prompts_where_one_object_is_everything():
    full = np.ones((64, 64), np.int32)
    crop = Crop(np.zeros((64, 64, 3), np.uint8), full, 0 * full, full < 0)
    clear, corrected = draw_prompts(np.random.default_rng(0), crop, 6, 2)
    assert clear.objects.tolist() == [1] * 6
    assert corrected.objects.tolist() == [1] * 2


def test_places_in_the_frame_are_added_to_the_prompts():
    rng = np.random.default_rng(0)
    batch = make_batch(rng, CropPlan(1, 64, 3, clear=4, corrected=2), [drawn_crop() for _ in range(3)])
    room = 1024 - 64
    assert batch.offsets.max() * 16 <= room
    clicks = batch.prompts[0]
    inside = clicks.coords[clicks.labels == POSITIVE]
    assert len(inside) > 0
    for crop in range(3):
        coords = clicks.coords[crop][clicks.labels[crop] == POSITIVE]
        assert ((coords - batch.offsets[crop] * 16) >= 0).all()
        assert ((coords - batch.offsets[crop] * 16) < 64).all()


def test_the_stream_mixes_scenes_and_real_pictures():
    real = RealSet(0.5, [(np.full((64, 64, 3), 200, np.uint8), np.ones((64, 64), np.int32))])
    plans = [CropPlan(1.0, 32, 4, scene_px=96)]
    batches = iter(BatchStream(plans, [real], seed=1, pool=3))
    first = [next(batches) for _ in range(4)]
    assert all(len(b) == 4 and b.prompts == () and b.objects is None for b in first)
    again = iter(BatchStream(plans, [real], seed=1, pool=3))
    assert all(
        (a.pictures == b.pictures).all() for a, b in zip(first, (next(again) for _ in range(4)), strict=True)
    )


def test_a_pool_uses_scenes_several_times_and_stays_below_the_test_seeds(monkeypatch):
    seeds = []

    class Recording:
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def integers(self, top):
            value = int(self.rng.integers(top))
            if top == FIRST_TEST_SEED:
                seeds.append(value)
            return value

    pool = ScenePool(Recording(), 64, capacity=2, uses=5)
    for _ in range(20):
        pool.take()
    assert 4 <= len(seeds) <= 7
    assert max(seeds) < FIRST_TEST_SEED


def test_the_guide_knows_centre_and_size():
    crop = drawn_crop()
    foreground, to_x, to_y, size, seen = guide_targets(crop)
    assert foreground.shape == (8, 8)
    assert seen.all()
    for row, column in np.argwhere(foreground > 0):
        x, y = 8 * column + 4, 8 * row + 4
        disc = Disc(20, 20, 12) if crop.objects[y, x] == 1 else Disc(44, 40, 9)
        assert x + disc.radius * to_x[row, column] == pytest.approx(disc.x, abs=0.6)
        assert y + disc.radius * to_y[row, column] == pytest.approx(disc.y, abs=0.6)
        assert 16 * np.exp(size[row, column]) == pytest.approx(disc.radius, rel=0.03)
    ignored = Crop(crop.picture, crop.objects, crop.inclusions, np.ones((64, 64), bool))
    assert not guide_targets(ignored)[4].any()
