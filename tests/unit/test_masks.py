"""Masks against torch's resizing, pycocotools and plain full-picture implementations."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage

from sam_engine.masks import (
    FRAME,
    LOW_RES,
    Upscaler,
    boxes_xyxy,
    crop,
    decode_rle,
    encode_rle,
    non_maximum_suppression,
    remove_small_regions,
    run_lengths,
    threshold_logits,
)
from sam_engine.types import Mask

# (H, W) and how SAM resizes it: longest side to 1024, rounded half up
SIZES = {
    (1, 1): (1024, 1024),
    (1, 3000): (1, 1024),
    (3000, 200): (1024, 68),
    (480, 640): (768, 1024),
    (640, 480): (1024, 768),
    (777, 1001): (795, 1024),
    (1024, 1024): (1024, 1024),
    (1600, 1200): (1024, 768),
}
ROUNDING = 1e-4  # of logits of about 10

BITS = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda a: a.any())


def mask_of(full: np.ndarray) -> Mask:
    found = crop(full)
    assert found is not None
    pixels, origin = found
    return Mask(pixels, origin, full.shape, 1.0, 1.0)


def resized_twice(logits: np.ndarray, size: tuple[int, int], input_size: tuple[int, int]) -> np.ndarray:
    """segment-anything's `postprocess_masks`."""
    frame = F.interpolate(torch.from_numpy(logits)[None, None], (FRAME, FRAME), mode="bilinear")
    cut = frame[..., : input_size[0], : input_size[1]]
    return F.interpolate(cut, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def smooth_logits(seed: int, cells: int, shift: float) -> np.ndarray:
    """Random hills of about 256 / cells pixels, of -10..10 plus a shift."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-10, 10, (1, 1, cells, cells)))
    fine = F.interpolate(coarse, (LOW_RES, LOW_RES), mode="bicubic")
    return (fine[0, 0].numpy() + shift).astype(np.float32)


LOGITS = st.builds(smooth_logits, st.integers(0, 2**32), st.sampled_from([2, 5, 17, 64]), st.floats(-12, 6))


# --- upscaling ---


@pytest.mark.parametrize("size", SIZES)
def test_upscaling_equals_the_two_resizings(size):
    logits = smooth_logits(1, 40, 0)
    ours = Upscaler(size, SIZES[size])(logits)
    assert ours.shape == size
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, resized_twice(logits, size, SIZES[size]), atol=ROUNDING)


@given(
    LOGITS, st.sampled_from([(1, 1), (1, 3000), (480, 640), (640, 480)]), st.sampled_from([-1.0, 0.0, 3.0])
)
@settings(max_examples=40)
def test_no_pixel_above_the_level_is_missed(logits, size, level):
    full = resized_twice(logits, size, SIZES[size])
    found = Upscaler(size, SIZES[size]).above(logits, level)
    outside = np.ones(size, dtype=bool)
    if found is not None:
        part, (x, y) = found
        window = slice(y, y + part.shape[0]), slice(x, x + part.shape[1])
        np.testing.assert_allclose(part, full[window], atol=ROUNDING)
        outside[window] = False
    assert not (full[outside] > level + ROUNDING).any()


@pytest.mark.parametrize("size", SIZES)
def test_a_single_hot_cell_anywhere_is_found_whole(size):
    rows, columns = (max(0, (side - 1) // 4) for side in SIZES[size])
    for row, column in itertools.product({0, rows // 2, rows}, {0, columns // 2, columns}):
        logits = np.full((LOW_RES, LOW_RES), -10, dtype=np.float32)
        logits[row, column] = 10
        full = resized_twice(logits, size, SIZES[size])
        found = Upscaler(size, SIZES[size]).above(logits, -10 + ROUNDING)
        held = 0 if found is None else np.count_nonzero(found[0] > -9.9)
        assert held == np.count_nonzero(full > -9.9)


def test_only_the_reach_of_a_small_object_is_computed():
    logits = np.full((LOW_RES, LOW_RES), -10, dtype=np.float32)
    logits[100:104, 30:34] = 10
    part, (x, y) = Upscaler((1024, 1024), (1024, 1024)).above(logits, 0)
    assert max(part.shape) <= (4 + 2) * 4
    assert x <= 30 * 4 < 34 * 4 <= x + part.shape[1]
    assert y <= 100 * 4 < 104 * 4 <= y + part.shape[0]


def test_nothing_above_the_level():
    upscaler = Upscaler((480, 640), (768, 1024))
    logits = np.full((LOW_RES, LOW_RES), -1, dtype=np.float32)
    assert upscaler.above(logits, -1) is None
    logits[230:, :] = 5  # the padding below 768 rows of the frame
    assert upscaler.above(logits, 0) is None
    assert threshold_logits(upscaler, logits) is None


@given(LOGITS, st.sampled_from([(480, 640), (640, 480)]), st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=30)
def test_mask_and_stability_are_those_of_the_full_picture(logits, size, offset):
    full = resized_twice(logits, size, SIZES[size])
    assume((full > ROUNDING).any())
    pixels, origin, stability = threshold_logits(Upscaler(size, SIZES[size]), logits, offset=offset)
    mask = Mask(pixels, origin, size, 0.0, stability)
    assert not ((mask.full() != (full > 0)) & (np.abs(full) > ROUNDING)).any()

    # segment-anything's calculate_stability_score
    intersections = np.count_nonzero(full > offset)
    unions = np.count_nonzero(full > -offset)
    unsure = np.count_nonzero(np.abs(np.abs(full) - offset) < ROUNDING)
    assert stability == pytest.approx(intersections / unions, abs=1e-9 + 2 * unsure / unions)


def test_a_picture_below_zero_but_above_the_negative_offset_has_no_mask():
    logits = np.full((LOW_RES, LOW_RES), -0.5, dtype=np.float32)
    assert threshold_logits(Upscaler((64, 64), (1024, 1024)), logits) is None


# --- boxes ---


@given(BITS)
def test_crop_is_tight_and_in_place(full):
    mask = mask_of(full)
    np.testing.assert_array_equal(mask.full(), full)
    for edge in (mask.pixels[0], mask.pixels[-1], mask.pixels[:, 0], mask.pixels[:, -1]):
        assert edge.any()


def test_crop_owns_its_pixels():
    full = np.ones((4, 4), dtype=bool)
    pixels, _ = crop(full)
    full[:] = False
    assert pixels.all()


def test_crop_of_nothing():
    assert crop(np.zeros((3, 4), dtype=bool)) is None


def test_boxes_hold_first_and_last_pixels():
    full = np.zeros((5, 8), dtype=bool)
    full[1:4, 2] = full[3, 2:7] = True
    dot = np.zeros((5, 8), dtype=bool)
    dot[4, 7] = True
    np.testing.assert_array_equal(boxes_xyxy([mask_of(full), mask_of(dot)]), [[2, 1, 6, 3], [7, 4, 7, 4]])
    assert boxes_xyxy([]).shape == (0, 4)


def naive_suppression(boxes: list[tuple[int, int, int, int]], scores: list[float], limit: float) -> list[int]:
    """One box after the other, best first, earlier first among equals."""

    def overlap(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        return w * h if w > 0 and h > 0 else 0

    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        shared = [overlap(boxes[i], boxes[k]) for k in kept]
        unions = [
            overlap(boxes[i], boxes[i]) + overlap(boxes[k], boxes[k]) - s
            for k, s in zip(kept, shared, strict=True)
        ]
        if all(s == 0 or s / u <= limit for s, u in zip(shared, unions, strict=True)):
            kept.append(i)
    return kept


SIDES = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@given(
    st.lists(st.tuples(BOXES, st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=30),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)
@example([((0, 0, 0, 0), 1.0)] * 3, 0.0)
@example([((0, 0, 10, 1), 0.5), ((0, 0, 10, 1), 0.5), ((0, 0, 7, 1), 0.5)], 0.7)
def test_suppression_equals_the_plain_loop(boxes_and_scores, limit):
    boxes = [box for box, _ in boxes_and_scores]
    scores = [score for _, score in boxes_and_scores]
    kept = non_maximum_suppression(np.array(boxes, float).reshape(-1, 4), np.array(scores), limit)
    assert kept.tolist() == naive_suppression(boxes, scores, limit)


# --- small regions ---


def cleaned_by_segment_anything(full: np.ndarray, min_area: int) -> list[np.ndarray]:
    """`remove_small_regions` of segment-anything on the whole picture: holes, then islands.

    Several results where any of equally large islands may stay.
    """
    around = np.ones((3, 3))
    regions, count = ndimage.label(~full, around)
    filled = full.copy()
    for region in range(1, count + 1):
        if np.count_nonzero(regions == region) < min_area:
            filled[regions == region] = True
    regions, count = ndimage.label(filled, around)
    areas = [np.count_nonzero(regions == region) for region in range(1, count + 1)]
    kept = [i for i, area in enumerate(areas, 1) if area >= min_area]
    if kept:
        return [np.isin(regions, kept)]
    return [regions == i for i, area in enumerate(areas, 1) if area == max(areas)]


def check_cleaning(full: np.ndarray, min_area: int) -> bool:
    mask = mask_of(full)
    before = mask.pixels.copy()
    cleaned = remove_small_regions(mask, min_area)
    wanted = cleaned_by_segment_anything(full, min_area)
    np.testing.assert_array_equal(mask.pixels, before)
    result = mask if cleaned is None else Mask(cleaned, mask.origin_xy, mask.image_size, 1.0, 1.0)
    assert any(np.array_equal(result.full(), possible) for possible in wanted)
    assert (cleaned is None) == np.array_equal(result.full(), full)
    return cleaned is not None


@given(BITS, st.integers(0, 9))
@settings(max_examples=300)
def test_cleaning_small_pictures_follows_segment_anything(full, min_area):
    assume(min_area <= min(full.shape))  # background beyond the bounding box is then never small
    check_cleaning(full, min_area)


def test_cleaning_larger_pictures_follows_segment_anything():
    rng = np.random.default_rng(0)
    changed = 0
    for density in np.linspace(0.05, 0.95, 60):
        height, width = rng.integers(16, 48, 2)
        full = np.zeros((height, width), dtype=bool)
        part = full[rng.integers(0, 8) : height - rng.integers(0, 8), rng.integers(0, 8) :]
        part[:] = rng.random(part.shape) < density
        changed += check_cleaning(full, int(rng.integers(1, 16)))
    assert changed > 30


def test_background_that_goes_on_beyond_the_bounding_box_is_no_hole():
    full = np.zeros((3, 3), dtype=bool)
    full[1] = True  # one row of background above and below, each smaller than 100 pixels
    assert remove_small_regions(mask_of(full), 100) is None


def test_a_bay_at_the_edge_of_the_picture_is_a_hole():
    full = np.zeros((4, 9), dtype=bool)
    full[:3, 2:6] = True
    full[0, 3] = False
    assert remove_small_regions(mask_of(full), 2).all()


def test_the_largest_of_small_islands_stays():
    full = np.zeros((9, 9), dtype=bool)
    full[0, 0] = full[4:6, 4] = True
    cleaned = remove_small_regions(mask_of(full), 5)
    assert cleaned.sum() == 2
    assert cleaned[4, 4]
    assert cleaned[5, 4]


# --- run lengths ---


def encoded(full: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(full.astype(np.uint8)))


def corner(height: int, width: int, row: int, column: int) -> np.ndarray:
    full = np.zeros((height, width), dtype=bool)
    full[row, column] = True
    return full


def columns(height: int, width: int, *full_columns: int) -> np.ndarray:
    full = np.zeros((height, width), dtype=bool)
    full[:, list(full_columns)] = True
    return full


SHAPES = [
    np.ones((5, 7), dtype=bool),
    np.ones((1, 1), dtype=bool),
    corner(5, 7, 0, 0),
    corner(5, 7, 4, 6),
    corner(5, 7, 4, 0),
    corner(5, 7, 0, 6),
    columns(4, 6, 0),
    columns(4, 6, 5),
    columns(4, 6, 2, 3, 4),
    columns(4, 6, 0, 1, 4, 5),
    columns(1, 6, 1, 2, 5),
    ~corner(5, 7, 2, 3),
    ~corner(5, 7, 4, 6),
    np.random.default_rng(0).random((211, 333)) < 0.5,
    np.add.outer(np.arange(-150, 150) ** 2, np.arange(-90, 400) ** 2) < 120**2,
]


@pytest.mark.parametrize("full", SHAPES, ids=range(len(SHAPES)))
def test_encoding_of_chosen_masks(full):
    check_encoding(full)


@given(BITS)
@settings(max_examples=300)
def test_encoding_of_any_mask(full):
    check_encoding(full)


def check_encoding(full: np.ndarray) -> None:
    mask = mask_of(full)
    flat = full.T.ravel().tolist()
    lengths = [len(list(run)) for _, run in itertools.groupby(flat)]
    assert run_lengths(mask).tolist() == [0] * flat[0] + lengths
    rle = encode_rle(mask)
    assert rle["size"] == list(full.shape)
    assert rle["counts"] == encoded(full)["counts"].decode()
    decoded = decode_rle(full.shape, rle["counts"])
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, full)


def test_decoding_of_an_empty_mask():
    empty = np.zeros((6, 5), dtype=bool)
    np.testing.assert_array_equal(decode_rle((6, 5), encoded(empty)["counts"].decode()), empty)


def written(runs: list[int]) -> str:
    """COCO's text of run lengths, whatever they are: 5 bits a character, from the fourth on differences."""
    text = ""
    for i, run in enumerate(runs):
        left = run - runs[i - 2] if i > 2 else run
        going_on = True
        while going_on:
            bits, left = left & 0x1F, left >> 5
            going_on = left != (-1 if bits & 0x10 else 0)
            text += chr(48 + (bits | 0x20 * going_on))
    return text


@given(BITS)
def test_the_writer_of_damaged_counts_writes_sound_ones_too(full):
    assert written(run_lengths(mask_of(full)).tolist()) == encoded(full)["counts"].decode()


def refuses(size: tuple[int, int], counts: str) -> None:
    """A ValueError, and little memory on the way to it."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"runs do not cover|not COCO's|middle of a number"):
            decode_rle(size, counts)
        assert tracemalloc.get_traced_memory()[1] < 100_000 + 100 * len(counts)
    finally:
        tracemalloc.stop()


@given(BITS, st.data())
def test_truncated_counts_are_refused(full, data):
    counts = encode_rle(mask_of(full))["counts"]
    refuses(full.shape, counts[: data.draw(st.integers(0, len(counts) - 1))])


@given(st.text(max_size=12), st.tuples(st.integers(1, 4), st.integers(1, 4)))
@settings(max_examples=300)
def test_any_text_is_decoded_to_the_size_or_refused(counts, size):
    try:
        decoded = decode_rle(size, counts)
    except ValueError:
        return
    assert decoded.shape == size


@pytest.mark.parametrize("character", ["/", "p", "~", " ", "\n", "\0", "é", "٣", "\U0001f4a7"])
def test_foreign_characters_are_refused(character):
    counts = encode_rle(mask_of(SHAPES[-1]))["counts"]
    size = SHAPES[-1].shape
    for place in (0, len(counts) // 2, len(counts)):
        refuses(size, counts[:place] + character + counts[place:])


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [3],
        [5],
        [0, 3],
        [0, 4, 1],
        [-1, 5],
        [5, -1],
        [2, 3, -1],
        [1, 1, 4, -2],
        [1, 1, 1, 1, 1, -1],
        [2**31 - 1],
        [2**31, 4 - 2**31],
        [2**33, 2**33],
        [0, 2**34 - 1, 0, 2**34 - 1, 2**34 - 1],
        [-(2**34)],
        [2**40, 4],
        [2**64 + 4],
        [0] * 5000,
        [1] * 5000,
    ],
    ids=str,
)
def test_wrong_runs_are_refused(runs):
    refuses((2, 2), written(runs))


@pytest.mark.parametrize("counts", ["o" * 50_000, "P", "_" * 6, "P" * 7 + "0", "T" + "P" * 7 + "0"])
def test_numbers_without_end_are_refused(counts):
    refuses((2, 2), counts)


@pytest.mark.parametrize("size", [(2, 3), (3, 3), (0, 6), (6, 0), (-2, -3), (1, 1)])
def test_another_size_is_refused(size):
    refuses(size, written([1, 4, 2]))


def test_the_same_runs_over_another_shape_of_as_many_pixels_decode():
    np.testing.assert_array_equal(decode_rle((1, 4), written([1, 2, 1])), [[False, True, True, False]])
    np.testing.assert_array_equal(decode_rle((2, 2), written([1, 2, 1])), [[False, True], [True, False]])
