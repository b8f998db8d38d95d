"""Prompts of a request to prompts of the engine: pixels, and mask inputs by id and by run lengths."""

import numpy as np
import pytest

from sam_engine.cache import ByteCache
from sam_engine.errors import InvalidPrompt
from sam_engine.masks import crop, encode_rle
from sam_engine.types import Mask
from service.prompts import RLE_LOGIT, keep, to_engine
from service.schemas import PromptInput

SIZE = (120, 200)


def cache(budget_bytes=2**24):
    return ByteCache(budget_bytes)


def convert(kept=None, **prompt):
    (converted,) = to_engine([PromptInput(**prompt)], SIZE, kept or cache())
    return converted


def rle_of(pixels):
    cropped, origin = crop(pixels)
    return encode_rle(Mask(cropped, origin, pixels.shape, 1.0, 1.0))


def rectangle(top, bottom, left, right, size=SIZE):
    pixels = np.zeros(size, bool)
    pixels[top:bottom, left:right] = True
    return pixels


def test_points_box_and_multimask_are_passed_on():
    points = [{"x": 3.5, "y": 4}, {"x": 0, "y": 0, "positive": False}]
    prompt = convert(points=points, box=[1, 2, 30, 40], multimask=False)
    assert prompt.points == ((3.5, 4, 1), (0, 0, 0))
    assert prompt.box == (1, 2, 30, 40)
    assert prompt.mask_input is None
    assert prompt.multimask is False
    assert convert(points=points).multimask is True


@pytest.mark.parametrize(
    ("x_norm", "y_norm", "pixel"),
    [
        (0, 0, (0, 0)),
        (1, 1, (199, 119)),
        (0.5, 0.5, (100, 60)),
        (0.0025, 0.0042, (0, 0)),
        (0.0026, 0.0043, (1, 1)),
        (0.9974, 0.9957, (198, 118)),
    ],
)
def test_normalised_points_are_rounded_to_pixels(x_norm, y_norm, pixel):
    # 0.5 * 199 = 99.5 and 0.5 * 119 = 59.5 lie halfway and go to the even neighbour
    prompt = convert(points=[{"x_norm": x_norm, "y_norm": y_norm}])
    assert prompt.points == ((*pixel, 1),)


def test_prompts_keep_their_order():
    prompts = [PromptInput(points=[{"x": i, "y": 0}]) for i in range(5)]
    assert [p.points[0][0] for p in to_engine(prompts, SIZE, cache())] == [0, 1, 2, 3, 4]


def test_mask_input_by_id():
    kept = cache()
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    name = keep(kept, logits, SIZE)
    np.testing.assert_array_equal(convert(kept, mask_input=name).mask_input, logits)


def test_ids_tell_logits_apart():
    kept = cache()
    zeros, ones = np.zeros((256, 256), np.float32), np.ones((256, 256), np.float32)
    assert keep(kept, zeros, SIZE) == keep(kept, zeros.copy(), SIZE) != keep(kept, ones, SIZE)


def test_unknown_id():
    with pytest.raises(InvalidPrompt, match="is not kept") as caught:
        to_engine([PromptInput(points=[{"x": 1, "y": 1}]), PromptInput(mask_input="0" * 24)], SIZE, cache())
    assert caught.value.field == "prompts[1].mask_input"


def test_unknown_id_is_not_echoed_at_length():
    with pytest.raises(InvalidPrompt) as caught:
        convert(mask_input="z" * 10_000)
    assert len(str(caught.value)) < 200


def test_id_that_was_dropped_for_newer_ones():
    kept = cache(budget_bytes=256 * 256 * 4)
    first = keep(kept, np.zeros((256, 256), np.float32), SIZE)
    keep(kept, np.ones((256, 256), np.float32), SIZE)
    with pytest.raises(InvalidPrompt, match="is not kept"):
        convert(kept, mask_input=first)


def test_id_of_a_picture_of_another_size():
    kept = cache()
    name = keep(kept, np.zeros((256, 256), np.float32), (SIZE[1], SIZE[0]))
    with pytest.raises(InvalidPrompt, match="another size") as caught:
        convert(kept, mask_input=name)
    assert caught.value.field == "prompts[0].mask_input"


def test_mask_input_by_run_lengths_lies_where_the_network_looks_for_it():
    # 200 columns become 1024 and then 256, 120 rows become 614 and then 154
    logits = convert(mask_input=rle_of(rectangle(30, 90, 50, 150))).mask_input
    assert logits.shape == (256, 256) and logits.dtype == np.float32
    inside = logits > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (columns[0], columns[-1]) == (64, 191)
    np.testing.assert_allclose((rows[0], rows[-1] + 1), (30 * 153.5 / 120, 90 * 153.5 / 120), atol=1)
    assert logits.max() == RLE_LOGIT and logits.min() == -RLE_LOGIT


def test_padding_below_the_picture_is_background():
    logits = convert(mask_input=rle_of(np.ones(SIZE, bool))).mask_input
    assert (logits[:153] == RLE_LOGIT).all()
    assert (logits[154:] == -RLE_LOGIT).all()


def test_logits_are_the_share_of_the_object_under_each_of_their_pixels():
    pixels = np.zeros((1024, 1024), bool)
    pixels[:512, ::2] = True
    pixels[:256] = True
    pixels[512:768, ::4] = True
    rle = rle_of(pixels)
    (prompt,) = to_engine([PromptInput(mask_input=rle)], pixels.shape, cache())
    for rows, share in (
        (slice(0, 64), 1),
        (slice(64, 128), 1 / 2),
        (slice(128, 192), 1 / 4),
        (slice(192, 256), 0),
    ):
        np.testing.assert_allclose(prompt.mask_input[rows], (2 * share - 1) * RLE_LOGIT, atol=1e-5)


@pytest.mark.parametrize("size", [(120, 199), (200, 120), (1, 1)])
def test_run_lengths_of_another_size(size):
    with pytest.raises(InvalidPrompt, match=r"is not the picture's \[120, 200\]") as caught:
        convert(mask_input=rle_of(np.ones(size, bool)))
    assert caught.value.field == "prompts[0].mask_input.size"


DAMAGED = {
    "empty": "",
    "cut": rle_of(rectangle(30, 90, 50, 150))["counts"][:-3],
    "longer": rle_of(rectangle(30, 90, 50, 150))["counts"] + "1",
    "spaces": "   ",
    "other letters": "é\x7f",
    "unended": "o" * 5,
    "huge": "o" * 500,
    "negative": "N",
}


@pytest.mark.parametrize("counts", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_run_lengths(counts):
    with pytest.raises(InvalidPrompt) as caught:
        convert(mask_input={"size": list(SIZE), "counts": counts})
    assert caught.value.field == "prompts[0].mask_input.counts"
