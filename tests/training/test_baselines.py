"""Classical methods on drawn discs, where they must succeed, and on pictures with nothing to find."""

import numpy as np
import pytest
from PIL import Image

from tests.drawn import Disc, draw, spaced_discs
from training.baselines import (
    BASELINES,
    CHOSEN,
    MIN_AREA_PX,
    Baseline,
    f1_by_setting,
    hough_circles,
    local_watershed,
    otsu_watershed,
    settings_of,
    tuning_cases,
)
from training.datasets import POLICIES
from training.groups import Case
from training.metrics import Truth, score_picture

SIZE = (360, 480)
OTSU = {"sigma": 1.0, "separation": 12.0, "ground": "border"}
LOCAL = {"window": 0.4, "offset": 10.0, "separation": 12.0, "ground": "border"}
HOUGH = {"canny": 150.0, "perfection": 0.8, "smallest": 25.0, "largest": 90.0}
METHODS = [(otsu_watershed, OTSU), (local_watershed, LOCAL), (hough_circles, HOUGH)]


def truth_of(discs: list[Disc], size: tuple[int, int] = SIZE) -> Truth:
    labels = np.zeros(size, dtype=np.int32)
    for number, disc in enumerate(discs, start=1):
        labels[disc.pixels(size)] = number
    return Truth(labels)


@pytest.mark.parametrize("inverted", [False, True], ids=["dark", "bright"])
@pytest.mark.parametrize(("find", "parameters"), METHODS)
def test_discs_are_found_whether_dark_or_bright(find, parameters, inverted):
    discs = spaced_discs(SIZE, pitch=80, radius=30)
    picture = draw(discs, SIZE)
    masks = find(255 - picture if inverted else picture, **parameters)
    score, _ = score_picture("discs", truth_of(discs), masks)
    assert (score.matched_strict, score.false_strict) == (len(discs), 0)


@pytest.mark.parametrize(("find", "parameters"), [(otsu_watershed, OTSU), (local_watershed, LOCAL)])
def test_touching_discs_are_parted(find, parameters):
    discs = [Disc(120, 180, 40), Disc(198, 180, 40), Disc(340, 180, 40)]
    score, _ = score_picture("discs", truth_of(discs), find(draw(discs, SIZE), **parameters))
    assert (score.matched_strict, score.false_strict) == (3, 0)


def test_separation_joins_what_lies_closer():
    discs = [Disc(150, 180, 40), Disc(205, 180, 40)]
    found = [len(otsu_watershed(draw(discs, SIZE), **(OTSU | {"separation": s}))) for s in (12.0, 60.0)]
    assert found == [2, 1]


@pytest.mark.parametrize(("ground", "found"), [("border", True), ("area", False)])
def test_the_ground_is_told_in_two_ways(ground, found):
    """A dark disc that fills more than half of the picture: its edge is bright, most of it is dark."""
    disc = Disc(240, 180, 178)
    assert disc.pixels(SIZE).mean() > 0.5
    masks = otsu_watershed(draw([disc], SIZE), **(OTSU | {"separation": 200.0, "ground": ground}))
    assert any(mask.full()[180, 240] for mask in masks) == found


def test_circles_keep_their_place_and_size_at_any_scale():
    for size, scale in (((360, 480), 1.0), ((720, 960), 2.0), ((180, 240), 0.5)):
        disc = Disc(200 * scale, 150 * scale, 35 * scale)
        (mask,) = hough_circles(draw([disc], size), **(HOUGH | {"largest": 200.0}))
        score, _ = score_picture("disc", truth_of([disc], size), [mask])
        assert score.matched_iou > 0.9


def test_a_circle_over_the_edge_is_cut():
    discs = [Disc(20, 180, 40), Disc(470, 180, 40)]
    masks = hough_circles(draw(discs, SIZE), **HOUGH)
    assert score_picture("discs", truth_of(discs), masks)[0].matched_strict == 2


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda b: b.name)
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (1, 300), (7, 3)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_even_picture_has_no_circles_and_raises_nothing(baseline, size, level):
    masks = baseline.find(np.full((*size, 3), level, dtype=np.uint8), **baseline.settings()[0])
    assert all(mask.image_size == size for mask in masks)
    if baseline.find is hough_circles:
        assert masks == []


def test_specks_are_dropped():
    picture = draw([Disc(240, 180, 40), Disc(50, 50, 1.5)], SIZE)
    masks = otsu_watershed(picture, **OTSU)
    assert [mask.area >= MIN_AREA_PX for mask in masks] == [True]


def test_every_point_of_a_grid_is_a_setting():
    baseline = Baseline("any", otsu_watershed, {"a": (1.0, 2.0), "b": (3.0, 4.0, 5.0)})
    settings = baseline.settings()
    assert len({tuple(s.items()) for s in settings}) == len(settings) == 6


@pytest.mark.parametrize("family", [*POLICIES, "drawn", "an unknown set"])
@pytest.mark.parametrize("baseline", BASELINES, ids=lambda b: b.name)
def test_what_was_chosen_lies_on_the_grid(baseline, family):
    assert settings_of(baseline, family) in baseline.settings()


def test_the_choices_name_the_sets_of_the_policy():
    assert set(CHOSEN) == {*POLICIES, "drawn", ""}


def test_the_best_setting_is_the_one_that_finds_the_discs():
    """Discs with radii of 51 to 64 pixels in the frame: only one range of radii holds them."""
    discs = spaced_discs(SIZE, pitch=80, radius=30)
    case = Case("discs", lambda: (draw(discs, SIZE), truth_of(discs)))
    grid = {"canny": (150.0,), "perfection": (0.8,), "smallest": (5.0, 25.0), "largest": (30.0, 90.0)}
    f1 = f1_by_setting(Baseline("Hough", hough_circles, grid), [case])
    assert f1.index(max(f1)) in (1, 3)
    assert (max(f1), f1[0]) == (1.0, 0.0)


def test_parameters_are_never_chosen_on_test_pictures(tmp_path):
    folder = tmp_path / "nuclei_dsb2018"
    other = tmp_path / "powder_spheres"
    stems = {folder: [str(i) for i in range(20)], other: ["training_Sc1Tile_001-001", "unnamed"]}
    for path, names in stems.items():
        for part in ("images", "masks"):
            (path / part).mkdir(parents=True)
            for name in names:
                Image.fromarray(np.eye(8, dtype=np.uint8)).save(path / part / f"{name}.png")
    cases = tuning_cases(tmp_path, 50)
    chosen_on = {name: {case.name for case in own} for name, own in cases.items() if name != "drawn"}
    policy = POLICIES["nuclei_dsb2018"]
    assert chosen_on["nuclei_dsb2018"] == {n for n in stems[folder] if policy.part_of(n) == "validation"}
    assert chosen_on["powder_spheres"] == {"training_Sc1Tile_001-001"}
    assert all(int(case.name) < 20_000_000 for case in cases["drawn"])
