"""Scale bars drawn into pictures of discs, and pictures without one."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sam_engine.errors import InvalidInput
from sam_engine.scale_bar import calibrate_by_bar, find_scale_bar, find_scale_bars, overlaps_bar
from tests.drawn import draw, spaced_discs

SIZE = (360, 480)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture
def scene():
    """(360, 480, 3): dark discs on a bright ground, the same every time."""
    return draw(spaced_discs(SIZE, pitch=60, radius=24), SIZE)


def add_bar(image, x=370, y=330, width=88, height=6, colour=WHITE):
    image[y : y + height, x : x + width] = colour
    return image


def add_text(image, text, x, y, colour=WHITE):
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)
    return image


def add_box(image, x, y, width, height, colour):
    image[y : y + height, x : x + width] = colour
    return image


def test_white_bar_with_text_in_a_black_box(scene):
    add_box(scene, 360, 300, 110, 45, BLACK)
    add_text(add_bar(scene), "100 um", 385, 322)
    bar = find_scale_bar(scene)
    assert (bar.bbox_xywh, bar.brightness) == ((370, 330, 88, 6), "light")
    assert bar.length_px == pytest.approx(88, abs=0.01)
    assert bar.ends_x == pytest.approx((369.5, 457.5), abs=0.01)
    assert bar.region_xywh == (360, 300, 110, 45)
    assert bar.confidence > 0.9
    json.dumps(asdict(bar), allow_nan=False)


def test_black_bar_on_the_bare_picture_with_text_above(scene):
    scene[280:] = 180
    add_text(add_bar(scene, x=30, colour=BLACK), "20 um", 40, 320, BLACK)
    bar = find_scale_bar(scene)
    assert (bar.bbox_xywh, bar.brightness) == ((30, 330, 88, 6), "dark")
    x, y, w, h = bar.region_xywh
    assert x <= 40 and y <= 310 and x + w >= 118 and y + h >= 336
    assert w < 130 and h < 60


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 255, 0)])
def test_coloured_bar(scene, colour):
    scene[300:] = 30
    assert find_scale_bar(add_bar(scene, colour=colour)).bbox_xywh == (370, 330, 88, 6)


def test_end_ticks_do_not_count_as_length(scene):
    scene[300:] = 20
    add_bar(scene, height=3)
    for x in (370, 456):
        add_box(scene, x, 322, 2, 19, WHITE)
    assert find_scale_bar(scene).length_px == pytest.approx(88, abs=0.01)


def test_halves_with_text_between_are_one_bar(scene):
    scene[300:] = 20
    add_bar(scene, x=250, width=60, height=2)
    add_bar(scene, x=360, width=60, height=2)
    add_text(scene, "2 um", 316, 335)
    assert find_scale_bar(scene).ends_x == pytest.approx((249.5, 419.5), abs=0.01)


def test_half_of_a_bar_that_runs_out_of_the_picture_is_none(scene):
    scene[300:] = 20
    add_bar(scene, x=330, width=60, height=2)
    add_bar(scene, x=440, width=40, height=2)
    assert find_scale_bar(scene) is None


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 0.8])
def test_ends_lie_between_pixels(scene, shift):
    """A bar of 88 px whose ends cover pixels in part."""
    scene[300:] = 20
    add_bar(scene, width=89)
    scene[330:336, 370] = round(20 + 235 * (1 - shift))
    scene[330:336, 458] = round(20 + 235 * shift)
    assert find_scale_bar(scene).length_px == pytest.approx(88, abs=0.3)


@pytest.mark.parametrize("quality", [60, 85])
def test_jpeg_and_enlargement_keep_the_length(scene, quality):
    add_box(scene, 360, 300, 110, 45, BLACK)
    add_text(add_bar(scene), "100 um", 385, 322)
    larger = cv2.resize(scene, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
    _, packed = cv2.imencode(".jpg", larger, [cv2.IMWRITE_JPEG_QUALITY, quality])
    bar = find_scale_bar(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)))
    assert bar.length_px == pytest.approx(132, abs=0.7)


# --- no bar ---


def test_pictures_without_a_bar():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        discs = spaced_discs(SIZE, pitch=rng.uniform(24, 120), radius=9, seed=seed)
        assert find_scale_bars(draw(discs, SIZE, seed)) == []
        assert find_scale_bars(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) == []


def test_lines_of_frames_are_no_bars(scene):
    cv2.rectangle(scene, (100, 250), (300, 340), WHITE, 2)
    assert find_scale_bars(scene) == []
    banner = scene.copy()
    banner[320:] = 0
    banner[318:320] = 255
    assert find_scale_bars(banner) == []


@pytest.mark.parametrize(
    "shape",
    [{"x": 480 - 88}, {"x": 0}, {"width": 14}, {"height": 24}, {"y": 177}, {"colour": (120, 120, 120)}],
)  # fmt: skip
def test_what_is_no_bar(scene, shape):
    """At the edge, short, thick, in the middle of the picture, grey on grey."""
    ground = np.full_like(scene, 100 if shape.get("colour") else 170)
    assert find_scale_bars(add_bar(ground, **{"colour": BLACK, **shape})) == []


def test_a_graded_bar_is_none(scene):
    scene[300:] = 20
    scene[330:336, 370:458] = np.linspace(90, 255, 88)[None, :, None]
    assert find_scale_bars(scene) == []


@settings(max_examples=30)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_any_picture_has_an_answer(image):
    for bar in find_scale_bars(image):
        assert 0 < bar.confidence <= 1
        assert bar.length_px > 0


# --- calibration and masks ---


def test_calibration(scene):
    add_box(scene, 360, 300, 110, 45, BLACK)
    calibration, bar = calibrate_by_bar(add_bar(scene), 44)
    assert calibration.um_per_px == pytest.approx(0.5, rel=1e-3)
    assert bar.bbox_xywh == (370, 330, 88, 6)


def test_no_bar_and_two_bars_cannot_calibrate(scene):
    with pytest.raises(InvalidInput, match="no scale bar is found") as error:
        calibrate_by_bar(scene, 100)
    assert error.value.field == "scale_bar_um"
    scene[300:] = 20
    scene[:60] = 20
    add_bar(add_bar(scene), x=40, y=20, width=60)
    assert find_scale_bar(scene) is None
    with pytest.raises(
        InvalidInput, match=r"\[370, 330, 88, 6\].*\[40, 20, 60, 6\]|\[40, .*\[370, "
    ) as error:
        calibrate_by_bar(scene, 100)
    assert error.value.field == "scale_bar_um"


@pytest.mark.parametrize("length", [0, -1, math.nan, math.inf])
def test_length_out_of_bounds_is_refused(scene, length):
    with pytest.raises(InvalidInput, match="must be finite and > 0") as error:
        calibrate_by_bar(add_bar(scene), length)
    assert error.value.field == "scale_bar_um"


@pytest.mark.parametrize(
    "image", [np.zeros((50, 50), np.uint8), np.zeros((50, 50, 4), np.uint8), np.zeros((50, 50, 3))]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(InvalidInput, match="must be"):
        find_scale_bar(image)


def test_masks_on_the_bar_overlap_it(scene):
    add_box(scene, 360, 300, 110, 45, BLACK)
    bar = find_scale_bar(add_text(add_bar(scene), "100 um", 385, 322))
    assert overlaps_bar((370, 330, 88, 6), bar)
    assert overlaps_bar((386, 310, 9, 12), bar)
    assert overlaps_bar((350, 300, 20, 20), bar)  # half of it
    assert not overlaps_bar((349, 300, 20, 20), bar)
    assert not overlaps_bar((100, 100, 30, 30), bar)


def test_even_ground_between_objects_is_no_box_behind_the_bar():
    """The ground around the sample's bar is even, and droplets enclose it to 168 x 127 pixels."""
    picture = cv2.imread(str(Path(__file__).parents[2] / "examples" / "droplets.png"))
    bar = find_scale_bar(picture)
    assert bar is not None
    _, _, width, height = bar.region_xywh
    assert width < 100
    assert height < 80
