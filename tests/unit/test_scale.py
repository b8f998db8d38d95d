"""Where micrometres come from."""

import cv2
import numpy as np
import pytest

from sam_engine.errors import InvalidInput
from service.images import Picture
from service.scale import on_scale_bar, scale_of
from service.schemas import SegmentOptions
from tests.segmented import make_mask


def picture_with_bars(*bars: tuple[int, int, int, int]) -> Picture:
    """A grey picture with black bars, each (x, y, width, height)."""
    rgb = np.full((240, 320, 3), 180, np.uint8)
    for x, y, width, height in bars:
        cv2.rectangle(rgb, (x, y), (x + width - 1, y + height - 1), (0, 0, 0), -1)
    return Picture(rgb, rgb[..., 0].copy(), 3, 8, 0, 1)


def test_the_request_says_it() -> None:
    scale = scale_of(picture_with_bars(), SegmentOptions(um_per_px=0.4))
    assert scale is not None
    assert (scale.um_per_px, scale.source, scale.bar) == (0.4, "request", None)


def test_nothing_says_it() -> None:
    assert scale_of(picture_with_bars((200, 220, 80, 4)), SegmentOptions()) is None


def test_the_bar_says_it() -> None:
    scale = scale_of(picture_with_bars((200, 220, 80, 4)), SegmentOptions(scale_bar_um=40))
    assert scale is not None and scale.bar is not None
    assert scale.um_per_px == pytest.approx(0.5, rel=0.01)
    assert scale.source == "scale_bar"
    pixels = np.zeros((240, 320), bool)
    pixels[220:224, 200:280] = True
    elsewhere = np.zeros((240, 320), bool)
    elsewhere[20:40, 20:40] = True
    masks = [make_mask(pixels), make_mask(elsewhere)]
    assert on_scale_bar(masks, scale) == [True, False]
    assert on_scale_bar(masks, None) == [False, False]


def test_no_bar_is_an_error_that_names_the_field() -> None:
    with pytest.raises(InvalidInput) as caught:
        scale_of(picture_with_bars(), SegmentOptions(scale_bar_um=40))
    assert caught.value.field == "scale_bar_um"
