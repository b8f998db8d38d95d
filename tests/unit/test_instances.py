"""The instance head's field to objects, on fields that are constructed by hand; no network."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sam_engine.engine import input_size_of
from sam_engine.instances import InstanceParameters, find_objects_of, segment_instances
from sam_engine.quality import Evidence, Quality
from sam_engine.types import InstanceField, Mask
from tests.drawn import Disc, spaced_discs

CELLS = 512
STEEPNESS = 2.0  # logits per pixel of the frame


def whole(field: np.ndarray, size: tuple[int, int], shrink: int = 1) -> InstanceField:
    """A field of the whole picture, whose frame was made `shrink` times smaller; padding is cut off."""
    frame = input_size_of(*size)
    rows, columns = (-(-side // (2 * shrink)) for side in frame)
    held = torch.from_numpy(np.asarray(field[:, :rows, :columns], dtype=np.float16))
    pitch = tuple(2 * shrink * own / seen for own, seen in zip(size, frame, strict=True))
    return InstanceField(held, (0, 0), pitch)


def segment(field: np.ndarray, size: tuple[int, int], **parameters: float) -> list[Mask]:
    return segment_instances([whole(field, size)], size, InstanceParameters(**parameters))


def field_of(discs: list[Disc], size: tuple[int, int]) -> np.ndarray:
    """What a perfect head gives: at the centre of each cell of 2 x 2 pixels of the 1024-pixel frame."""
    height, width = size
    frame_height, frame_width = input_size_of(*size)
    centres = 2 * np.arange(CELLS) + 1.0
    x, y = centres * width / frame_width, (centres * height / frame_height)[:, None]
    depth = np.full((CELLS, CELLS), -np.inf)
    distance = np.zeros((CELLS, CELLS))
    for disc in discs:
        to_edge = disc.radius - np.hypot(x - disc.x, y - disc.y)
        depth = np.maximum(depth, to_edge)
        distance = np.maximum(distance, np.clip(to_edge / disc.radius, 0, 1))
    foreground = np.clip(depth * frame_width / width * STEEPNESS, -12, 12)
    return np.stack([foreground, np.zeros_like(foreground), distance])


def found_in(discs: list[Disc], size: tuple[int, int], **parameters: float) -> list[Mask]:
    return segment(field_of(discs, size), size, **parameters)


def overlaps(discs: list[Disc], masks: list[Mask], size: tuple[int, int]) -> list[float]:
    """IoU of each disc with its mask. Every disc has its own, and there are no others."""
    assert len(masks) == len(discs)
    painted = np.zeros(size, dtype=int)
    for number, mask in enumerate(masks, start=1):
        painted[mask.window][mask.pixels] = number
    owners, shares = [], []
    for disc in discs:
        inside = disc.pixels(size)
        counts = np.bincount(painted[inside], minlength=len(masks) + 1)[1:]
        owners.append(int(counts.argmax()))
        union = np.count_nonzero(inside) + masks[owners[-1]].area - counts.max()
        shares.append(float(counts.max() / union))
    assert sorted(owners) == list(range(len(masks)))
    return shares


@pytest.mark.parametrize(
    "size", [(777, 1001), (1001, 777), (1024, 1024), (300, 1200), (1200, 300), (63, 89), (1300, 1700)]
)
def test_each_disc_is_found_once(size):
    pitch = max(size) / 6
    discs = spaced_discs(size, pitch, 0.4 * pitch, seed=3)
    masks = found_in(discs, size)
    assert min(overlaps(discs, masks, size)) > 0.9
    assert all(mask.image_size == size for mask in masks)


@pytest.mark.parametrize("size", [(1024, 1024), (777, 1001), (480, 640)])
def test_discs_that_touch_are_separated(size):
    radius = max(size) / 16
    rows, columns = (int(side // (2 * radius)) for side in size)
    discs = [
        Disc((2 * i + 1) * radius, (2 * j + 1) * radius, radius) for j in range(rows) for i in range(columns)
    ]
    assert min(overlaps(discs, found_in(discs, size), size)) > 0.85


@pytest.mark.parametrize("overlap", [0.05, 0.2])
def test_discs_that_overlap_are_parted_at_their_waist(overlap):
    size, radius = (400, 600), 80
    apart = 2 * radius * (1 - overlap)
    discs = [Disc(200, 200, radius), Disc(200 + apart, 200, radius)]
    left, right = sorted(found_in(discs, size), key=lambda mask: mask.origin_xy)
    waist = 200 + apart / 2
    assert left.origin_xy[0] + left.pixels.shape[1] == pytest.approx(waist, abs=3)
    assert right.origin_xy[0] == pytest.approx(waist, abs=3)


def test_discs_of_very_different_sizes_side_by_side():
    size = (700, 1024)
    discs = [Disc(300, 350, 250), Disc(580, 350, 30), Disc(640, 350, 30), Disc(900, 600, 8)]
    assert min(overlaps(discs, found_in(discs, size), size)) > 0.85


@pytest.mark.parametrize("size", [(3000, 3000), (2111, 2999)])
def test_edges_are_smooth_in_pictures_much_larger_than_the_frame(size):
    """A cell of the field is six pixels wide here; copied cells would miss the edge by three."""
    discs = [Disc(301.7, 411.2, 60), Disc(1503.1, 1190.9, 201.4), Disc(2204.4, 403.3, 30)]
    masks = found_in(discs, size)
    assert len(masks) == len(discs)
    for disc in discs:
        mask = max(masks, key=lambda m: np.count_nonzero(m.full() & disc.pixels(size)))
        assert mask.area == pytest.approx(np.pi * disc.radius**2, rel=0.02)
        wrong = mask.full() != disc.pixels(size)
        assert np.abs(disc.depth(size)[wrong]).max(initial=0) < 1.2


def test_a_disc_cut_by_the_border_keeps_its_part():
    size = (777, 1001)
    discs = [Disc(5, 400, 90), Disc(995, 300, 80), Disc(500, 771, 70), Disc(500, 2, 60)]
    assert min(overlaps(discs, found_in(discs, size), size)) > 0.95


def test_nothing_comes_from_the_padding():
    """Below 512 of 1024 rows the frame of a wide picture is padding, whatever the head says there."""
    size = (512, 1024)
    discs = [Disc(300, 500, 60), Disc(700, 500, 60), Disc(500, 100, 60)]
    field = field_of(discs, size)
    field[0, 256:], field[2, 256:] = 12, 1
    masks = segment(field, size)
    assert min(overlaps(discs, masks, size)) > 0.95


def test_min_area_counts_pixels_of_the_frame():
    size = (2048, 2048)  # twice the frame: four pixels of the picture to one
    discs = [Disc(400, 400, 20), Disc(1000, 1000, 40), Disc(1600, 400, 80)]  # 314, 1257, 5027 in the frame
    assert [len(found_in(discs, size, min_area=area)) for area in (0, 250, 400, 1100, 1500, 6000)] == [
        3,
        3,
        2,
        2,
        1,
        0,
    ]


def test_seed_thresh_parts_more_eagerly_the_higher_it_is():
    size, radius = (400, 600), 80
    discs = [Disc(250, 200, radius), Disc(250 + radius, 200, radius)]  # the waist lies at half the depth
    assert [len(found_in(discs, size, seed_thresh=t)) for t in (0.3, 0.7)] == [1, 2]


@pytest.mark.parametrize(("thresh", "larger"), [(0.2, True), (0.8, False)])
def test_foreground_thresh_moves_the_edge(thresh, larger):
    size = (1024, 1024)
    disc = Disc(500, 500, 100)
    (usual,), (moved,) = found_in([disc], size), found_in([disc], size, foreground_thresh=thresh)
    assert (moved.area > usual.area) == larger
    shift = -np.log(thresh / (1 - thresh)) / STEEPNESS
    assert moved.area == pytest.approx(np.pi * (100 + shift) ** 2, rel=0.005)


def test_the_ends_of_foreground_thresh():
    size = (64, 64)
    discs = [Disc(32, 32, 20)]
    (everything,) = found_in(discs, size, foreground_thresh=0.0)
    assert everything.area > np.pi * 20**2
    assert found_in(discs, size, foreground_thresh=1.0) == []


@pytest.mark.parametrize("size", [(1, 1), (777, 1001), (1, 3000)])
@pytest.mark.parametrize("foreground", [-12.0, 12.0])
def test_a_field_without_seeds_gives_nothing(size, foreground):
    field = np.zeros((3, CELLS, CELLS))
    field[0] = foreground
    assert segment(field, size) == []


def test_a_field_that_is_one_object():
    field = np.ones((3, CELLS, CELLS))
    field[0] = 12
    (mask,) = segment(field, (300, 200))
    assert mask.pixels.all()
    assert mask.pixels.shape == (300, 200)
    assert mask.stability_score == 1
    assert mask.predicted_iou == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("seed", "size"), [(0, (512, 512)), (1, (333, 450)), (2, (1300, 900))])
def test_in_any_field_objects_are_whole_and_apart(seed, size):
    """Rough fields, in which foreground and distance have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.standard_normal((CELLS, CELLS)), sigma) for sigma in (2.5, 4)]
    foreground, distance = (values / values.std() for values in smooth)
    field = np.stack([3 * foreground, 0 * foreground, 0.4 + 0.3 * distance])
    masks = segment(field, size, min_area=8)
    assert len(masks) > 50
    times_covered = np.zeros(size, dtype=int)
    for mask in masks:
        count, _ = cv2.connectedComponents(mask.pixels.astype(np.uint8), connectivity=4)
        assert count == 2  # the ground and one
        for edge in (mask.pixels[0], mask.pixels[-1], mask.pixels[:, 0], mask.pixels[:, -1]):
            assert edge.any()
        assert 0.5 <= mask.predicted_iou <= 1
        assert 0 <= mask.stability_score <= 1
        times_covered += mask.full()
    assert times_covered.max() == 1


def test_scores_tell_a_sharp_object_from_a_vague_one():
    size = (400, 800)
    discs = [Disc(200, 200, 80), Disc(600, 200, 80)]
    field = field_of(discs, size)
    field[0, :, CELLS // 2 :] /= 4
    sharp, vague = sorted(segment(field, size), key=lambda mask: mask.origin_xy)
    assert sharp.predicted_iou > 0.98 > vague.predicted_iou
    assert sharp.stability_score > 0.97 > vague.stability_score
    radii = [80 + sign * 4 / STEEPNESS / (1024 / 800) for sign in (-1, 1)]
    assert vague.stability_score == pytest.approx((radii[0] / radii[1]) ** 2, abs=0.01)


def coarse_field_of(discs: list[Disc], size: tuple[int, int], shrink: int) -> np.ndarray:
    """What a perfect head gives of the frame made smaller: the mean of its cells."""
    field = field_of(discs, size)
    side = CELLS // shrink
    return field.reshape(3, side, shrink, side, shrink).mean(axis=(2, 4))


def torn(field: np.ndarray, disc: Disc) -> np.ndarray:
    """The field with the cores of a disc broken into pieces, as the head does to what is too large for it."""
    radius, x, y = disc.radius / 2, disc.x / 2, disc.y / 2
    column, row = np.meshgrid(np.arange(CELLS), np.arange(CELLS))
    angle = np.arctan2(row - y, column - x)
    from_centre = np.hypot(column - x, row - y)
    inside = from_centre < radius
    seams = (np.abs(np.sin(1.5 * angle)) < 0.15) | (from_centre < 0.2 * radius)
    out = field.copy()
    out[2][inside] = np.where(seams, 0.1, 0.9)[inside]
    return out


def test_what_the_fine_field_tears_the_coarse_one_has_whole():
    size = (1024, 1024)
    large, small = Disc(400, 420, 240), [Disc(800, 100 + 60 * k, 20) for k in range(6)]
    fine = torn(field_of([large, *small], size), large)
    assert len(segment(fine, size)) > 7
    coarse = coarse_field_of([large, *small], size, 2)
    masks = segment_instances([whole(fine, size), whole(coarse, size, shrink=2)], size, InstanceParameters())
    assert min(overlaps([large, *small], masks, size)) > 0.85


def test_what_the_coarse_field_merges_the_fine_one_has_apart():
    size = (1024, 1024)
    discs = [Disc(300 + 60 * i, 300 + 60 * j, 29) for i in range(4) for j in range(4)]
    coarse = coarse_field_of(discs, size, 2)
    coarse[0, 66:130, 66:130] = 5
    coarse[2, 66:130, 66:130] = 0.9  # one core for all
    fields = [whole(field_of(discs, size), size), whole(coarse, size, shrink=2)]
    masks = segment_instances(fields, size, InstanceParameters())
    assert min(overlaps(discs, masks, size)) > 0.85


def test_tiles_find_what_is_too_small_in_the_whole_and_give_nothing_twice():
    """Two tiles share a strip; an object in it is whole in both, one that a tile cuts is whole in the other."""
    size = (1024, 1536)
    discs = [Disc(100 + 56 * i, 200 + 90 * j, 9) for i in range(24) for j in range(7)]
    fields = []
    for left in (0, 512):
        moved = [Disc(d.x - left, d.y, d.radius) for d in discs]
        values = torch.from_numpy(field_of(moved, (1024, 1024)).astype(np.float16))
        fields.append(InstanceField(values, (left, 0), (2.0, 2.0)))
    masks = segment_instances(fields, size, InstanceParameters())
    assert min(overlaps(discs, masks, size)) > 0.7


def test_inclusions_come_after_the_objects_they_lie_in():
    size = (1024, 1024)
    outer, inner = [Disc(300, 300, 120), Disc(700, 600, 90)], [Disc(320, 310, 40), Disc(680, 600, 25)]
    objects, inclusions = field_of(outer, size), field_of(inner, size)
    five = np.concatenate([objects, inclusions[[0, 2]]])
    masks = segment(five, size, inclusions=True)
    assert min(overlaps(outer, masks[:2], size)) > 0.95
    assert min(overlaps(inner, masks[2:], size)) > 0.9
    assert len(segment(five, size)) == 2


@pytest.mark.parametrize("shrink", [1, 2])
def test_no_object_at_all_in_several_fields(shrink):
    size = (300, 500)
    empty = np.full((5, CELLS // shrink, CELLS // shrink), -9.0)
    fields = [whole(np.full((5, CELLS, CELLS), -9.0), size), whole(empty, size, shrink)]
    assert segment_instances(fields, size, InstanceParameters()) == []


def test_a_dish_full_of_drops_is_no_object():
    """The coarse field sees the dish whole, the fine one its drops; the drops are meant."""
    size = (1024, 1024)
    drops = [Disc(330 + 60 * i, 330 + 60 * j, 20) for i in range(7) for j in range(7)]
    coarse = coarse_field_of([Disc(510, 510, 400)], size, 2)
    fields = [whole(field_of(drops, size), size), whole(coarse, size, shrink=2)]
    masks = segment_instances(fields, size, InstanceParameters())
    assert min(overlaps(drops, masks, size)) > 0.85


def test_what_is_known_of_an_instance():
    size = (1024, 1024)
    discs = spaced_discs(size, 170, 60, seed=3)
    field = field_of(discs, size)
    whole_objects = find_objects_of([whole(field, size)], size, InstanceParameters())
    assert len(whole_objects) == len(discs)
    for instance in whole_objects:
        assert instance.evidence.peak > 0.95
        assert instance.evidence.foreground > 0.95
        assert instance.evidence.roundness > 0.97
        assert instance.evidence.edge == pytest.approx(0.5)  # a logit of 0 everywhere
        assert instance.evidence.size == pytest.approx(np.log(instance.mask.area / 4), abs=0.05)
    field[1] = 5  # edges everywhere
    (first, *_) = find_objects_of([whole(field, size)], size, InstanceParameters())
    assert first.evidence.edge > 0.99


def test_the_heads_own_quality_rates_and_chooses():
    size = (1024, 1024)
    large, small = Disc(300, 300, 120), Disc(700, 700, 30)
    fields = [whole(field_of([large, small], size), size)]
    by_size = Quality(-7.0, Evidence(0, 0, 0, 0, 0, size=1.0), least=0.5)  # 0.5 at 1100 cells of 4 pixels
    (kept,) = segment_instances(fields, size, InstanceParameters(), by_size)
    assert kept.area > 40_000
    assert kept.predicted_iou == pytest.approx(1 / (1 + np.exp(7 - np.log(kept.area / 4))), abs=0.01)
    everything = segment_instances(fields, size, InstanceParameters(pred_iou_thresh=0.0), by_size)
    assert [mask.predicted_iou > 0.5 for mask in everything] == [mask.area > 9000 for mask in everything]
    assert len(everything) == 2
    assert segment_instances(fields, size, InstanceParameters(pred_iou_thresh=1.0), by_size) == []
