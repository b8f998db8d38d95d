"""Where micrometres come from."""

import dataclasses

import cv2
import numpy as np
import pytest

from sam_engine.calibration import calibrate
from sam_engine.errors import InvalidInput
from sam_engine.scale_bar import ScaleBar
from service.images import Picture
from service.scale import Scale, on_scale_bar, scale_of
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


def test_what_is_far_from_the_bar_is_an_object_however_even_the_ground() -> None:
    box = (200, 220, 80, 4)
    bar = ScaleBar(box, 80.0, (199.5, 279.5), "dark", 0.9, (100, 100, 220, 140))
    scale = Scale(calibrate(0.5), "scale_bar", bar)
    near, far = np.zeros((240, 320), bool), np.zeros((240, 320), bool)
    near[219:225, 210:230] = True
    far[120:140, 220:240] = True
    masks = [make_mask(near), make_mask(far)]
    assert on_scale_bar(masks, scale) == [True, False]
    strip = dataclasses.replace(bar, region_xywh=(100, 210, 220, 30))
    near_text = np.zeros((240, 320), bool)
    near_text[212:218, 150:156] = True
    assert on_scale_bar([make_mask(near_text)], Scale(calibrate(0.5), "scale_bar", strip)) == [True]


def test_no_bar_is_an_error_that_names_the_field() -> None:
    with pytest.raises(InvalidInput) as caught:
        scale_of(picture_with_bars(), SegmentOptions(scale_bar_um=40))
    assert caught.value.field == "scale_bar_um"
