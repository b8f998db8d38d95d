"""Drawn scenes: deterministic, labelled where something can be seen, and nowhere else."""

import cv2
import numpy as np
import pytest

from training.scenes import KINDS, draw_scene
from training.scenes.layout import hexagonal, lines, packed, scattered, without_overlap
from training.scenes.outline import Form, Packing, freeform, window_around


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_of_each_kind(kind):
    scene = draw_scene(np.random.default_rng(3), 192, kind)
    assert scene.kind == kind
    assert (scene.picture.shape, scene.picture.dtype) == ((192, 192, 3), np.uint8)
    assert (scene.objects.shape, scene.objects.dtype) == ((192, 192), np.uint16)
    assert not (scene.inclusions[scene.objects == 0]).any()  # an inclusion lies in an object


def test_the_same_seed_draws_the_same_scene():
    first, again, other = (draw_scene(np.random.default_rng(seed), 160) for seed in (5, 5, 6))
    assert np.array_equal(first.picture, again.picture)
    assert np.array_equal(first.objects, again.objects)
    assert not np.array_equal(first.picture, other.picture)


def test_backgrounds_hold_no_object():
    assert not any(draw_scene(np.random.default_rng(s), 128, "background").objects.any() for s in range(4))


@pytest.mark.parametrize(
    ("kind", "share"), [("double_emulsion", 0.6), ("encapsulation", 0.6), ("emulsion", 0.0)]
)
def test_inclusions_are_where_they_should_be(kind, share):
    scenes = [draw_scene(np.random.default_rng(s), 384, kind) for s in range(6)]
    holding = np.mean([scene.inclusions.any() for scene in scenes])
    assert holding >= share if share else holding == 0


def test_labelled_objects_differ_from_their_surroundings():
    """Along the outline of each object the picture changes: nothing invisible is asked for."""
    changes = []
    for seed in range(8):
        scene = draw_scene(np.random.default_rng(seed), 256, "emulsion")
        grey = scene.picture.astype(float).mean(2)
        for label in np.unique(scene.objects)[1:]:
            inside = scene.objects == label
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            window = slice(max(0, rows[0] - 3), rows[-1] + 4), slice(max(0, columns[0] - 3), columns[-1] + 4)
            changes.append(np.ptp(grey[window]))
    assert len(changes) > 50
    assert np.mean(np.array(changes) > 6) > 0.95


def test_a_circle_is_drawn_to_its_radius():
    window = window_around(50.3, 40.8, 30, 100)
    signed, rho = freeform(np.random.default_rng(0), window, 20.0, Form())
    area = np.count_nonzero(signed < 0)
    assert area == pytest.approx(np.pi * 20**2, rel=0.02)
    assert rho[signed < 0].max() <= 1


@pytest.mark.parametrize("along_x", [True, False])
def test_a_plug_is_longer_by_twice_its_half_length(along_x):
    window = window_around(60, 60, 50, 120)
    signed, _ = freeform(np.random.default_rng(0), window, 15.0, Form(plug_px=20, plug_along_x=along_x))
    inside = signed < 0
    long, short = (1, 0) if along_x else (0, 1)
    assert np.count_nonzero(inside.any(axis=1 - long)) == pytest.approx(30 + 40, abs=2)
    assert np.count_nonzero(inside.any(axis=1 - short)) == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    "form",
    [
        Form(irregularity=0.14, elongation=0.4),
        Form(corners=(3, 3), elongation=0.1),
        Form(corners=(3, 8), elongation=0.1),
        Form(corners=(4, 4), elongation=1.5, longest=4.0),
        Form(rod=4.0, irregularity=0.02),
    ],
)
def test_no_form_is_cut_by_its_window(form):
    window = window_around(300, 300, 20 * form.reach + 3, 600)
    areas = []
    for seed in range(100):
        inside = freeform(np.random.default_rng(seed), window, 20.0, form)[0] < 0
        assert not (inside[[0, -1]].any() or inside[:, [0, -1]].any())
        areas.append(np.count_nonzero(inside) / (np.pi * 20**2))
    assert min(areas) > 0.4
    if not form.rod:
        assert np.mean(areas) == pytest.approx(1, abs=0.1)


def test_a_polygon_has_its_corners():
    """Most of them: uneven sides may meet too far out and are joined by a circle instead."""
    window = window_around(100, 100, 60, 200)
    for corners in (3, 4, 5):
        found = []
        for seed in range(30):
            signed, _ = freeform(np.random.default_rng(seed), window, 30.0, Form(corners=(corners, corners)))
            inside = (signed < 0).astype(np.uint8)
            outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            found.append(len(cv2.approxPolyDP(outlines[0], 6.0, closed=True)))
        assert np.bincount(found).argmax() == corners


def test_cells_of_a_packing_share_no_pixel():
    circles = packed(np.random.default_rng(1), 128, 14, 0.3, 1.0)
    packing = Packing.of(circles, 128, 2.0, 1.1)
    owners = np.zeros((128, 128), int)
    for i, (x, y, radius) in enumerate(circles):
        window = window_around(x, y, 1.5 * radius, 128)
        if window is not None:
            owners[window.index] += packing.cell(i, window)[0] < 0
    assert owners.max() == 1
    assert owners.mean() > 0.5


def test_scattered_circles_keep_their_distance():
    circles = scattered(np.random.default_rng(2), 256, 10, 0.2, 0.3, 3.0)
    x, y, radius = circles.T
    room = np.hypot(x[:, None] - x, y[:, None] - y) - radius[:, None] - radius
    np.fill_diagonal(room, np.inf)
    assert len(circles) > 20
    assert room.min() > 3


def test_vacancies_and_rows_thin_a_layout():
    full, thinned = (hexagonal(np.random.default_rng(4), 256, 12, 0.02, share) for share in (0.0, 0.4))
    assert 0.45 < len(thinned) / len(full) < 0.75
    row = lines(np.random.default_rng(4), 256, 12, 1, 1.5)
    assert min(np.ptp(row[:, 0]), np.ptp(row[:, 1])) < 12 < max(np.ptp(row[:, 0]), np.ptp(row[:, 1]))


def test_without_overlap_keeps_the_first():
    circles = np.array([[0, 0, 10], [5, 0, 10], [30, 0, 10.5]])
    assert without_overlap(circles).tolist() == [[0, 0, 10], [30, 0, 10.5]]
