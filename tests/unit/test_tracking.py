"""Tracks, merges, splits and growth of sequences whose truth is known."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_engine.errors import InvalidInput
from sam_engine.tracking import TrackedObject, TrackingParameters, track
from sam_engine.types import Mask

SIZE = (400, 600)


def drop(x, y, d=20.0, mask=None):
    return TrackedObject((float(x), float(y)), float(d), math.pi * d * d / 4, mask)


def paths(result):
    return [list(zip(t.frames, t.objects, strict=True)) for t in result.tracks]


def disc_mask(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    top, left = np.flatnonzero(inside.any(axis=1))[0], np.flatnonzero(inside.any(axis=0))[0]
    pixels = inside[inside.any(axis=1)][:, inside.any(axis=0)]
    return Mask(pixels, (int(left), int(top)), SIZE, 1.0, 1.0)


# --- links ---


def test_no_frame_and_empty_frames_give_no_track():
    assert track([]).tracks == ()
    assert track([[], [], []]).tracks == ()


def test_order_within_a_frame_does_not_matter():
    frames = [[drop(50 + t, 50), drop(100, 50 + t)] for t in range(4)]
    frames[2] = frames[2][::-1]
    assert paths(track(frames)) == [[(0, 0), (1, 0), (2, 1), (3, 0)], [(0, 1), (1, 1), (2, 0), (3, 1)]]


def test_the_sum_of_costs_counts_and_not_the_nearest_pair():
    # Greedy linking would give the object at 60 to the track at 61 and leave 50 to 74 impossible.
    frames = [[drop(50, 50), drop(61, 50)], [drop(60, 50), drop(74, 50)]]
    assert paths(track(frames)) == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]


def test_size_tells_apart_what_crosses():
    frames = [[drop(50 + 4 * t, 50, 12), drop(74 - 4 * t, 50, 17)] for t in range(7)]
    assert paths(track(frames)) == [[(t, i) for t in range(7)] for i in (0, 1)]


def test_velocity_carries_a_track_through_another():
    frames = [[drop(50 + 6 * t, 52), drop(110 - 6 * t, 48)] for t in range(11)]
    assert paths(track(frames)) == [[(t, i) for t in range(11)] for i in (0, 1)]


def test_known_drift_links_what_moves_farther_than_its_distance():
    frames = [[drop(x + 30 * t, 50) for x in (20, 60, 100)] for t in range(3)]
    right = [[(t, i) for t in range(3)] for i in range(3)]
    assert paths(track(frames)) != right
    assert paths(track(frames, TrackingParameters(drift_xy=(30, 0)))) == right


@pytest.mark.parametrize(("gap", "count"), [(1, 1), (2, 1), (3, 2)])
def test_gaps_up_to_the_bound_are_closed(gap, count):
    seen = [0, 1, 2, 3 + gap, 4 + gap]
    frames = [[drop(50 + 5 * t, 50)] if t in seen else [] for t in range(5 + gap)]
    result = track(frames, TrackingParameters(max_gap=2))
    assert len(result.tracks) == count
    assert result.tracks[0].frames == (tuple(seen) if count == 1 else (0, 1, 2))


def test_gates_end_a_track():
    far = track([[drop(50, 50)], [drop(71, 50)]])
    grown = track([[drop(50, 50, 10)], [drop(50, 50, 15)]])
    assert [len(r.tracks) for r in (far, grown)] == [2, 2]
    assert len(track([[drop(50, 50)], [drop(69, 50)]]).tracks) == 1
    assert len(track([[drop(50, 50, 10)], [drop(50, 50, 14.9)]]).tracks) == 1


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60), st.floats(2, 30)), max_size=7), max_size=6
    ),
    st.integers(0, 2),
)
def test_every_object_belongs_to_exactly_one_track(places, gap):
    frames = [[drop(*p) for p in frame] for frame in places]
    parameters = TrackingParameters(max_gap=gap, image_size=(60, 60))
    result = track(frames, parameters)
    claimed = [place for path in paths(result) for place in path]
    assert sorted(claimed) == [(f, i) for f, frame in enumerate(frames) for i in range(len(frame))]
    for t in result.tracks:
        assert all(1 <= b - a <= gap + 1 for a, b in zip(t.frames, t.frames[1:], strict=False))
        assert (t.start in ("merge", "split")) == bool(t.parents)
        assert (t.end in ("merge", "split")) == bool(t.children)
        assert all(t.id in result.tracks[child].parents for child in t.children)
    assert track(frames, parameters) == result
    json.dumps(asdict(result), allow_nan=False)


# --- births and deaths ---


def test_what_crosses_the_border_enters_and_leaves():
    frames = [[drop(x, 200)] if 0 <= (x := -40 + 25 * t) < SIZE[1] else [] for t in range(30)]
    (t,) = track(frames, TrackingParameters(image_size=SIZE, max_displacement=1.5)).tracks
    assert (t.start, t.end) == ("entered", "left")


def test_what_comes_and_goes_in_the_middle_appears_and_vanishes():
    frames = [[drop(300, 200)] if 3 <= t < 8 else [] for t in range(12)]
    (t,) = track(frames, TrackingParameters(image_size=SIZE)).tracks
    assert (t.start, t.end) == ("appeared", "vanished")
    (t,) = track([[drop(1, 1)], [], [], []]).tracks
    assert (t.start, t.end) == ("first_frame", "vanished")  # without a size of the picture there is no border


# --- merges and splits ---


def merging(power, d=(20.0, 24.0)):
    """Two drops that approach, and what they become at frame 4."""
    together = sum(v**power for v in d) ** (1 / power)
    approach = [[drop(100 + 2 * t, 100, d[0]), drop(130, 100, d[1])] for t in range(4)]
    return approach + [[drop(119, 100, together)]] * 3


@pytest.mark.parametrize(("power", "law"), [(3, "volume"), (2, "area")])
def test_merge_and_which_law_it_keeps(power, law):
    result = track(merging(power))
    (event,) = result.merges
    assert (event.frame, event.parents, event.children, event.conserved) == (4, (0, 1), (2,), law)
    assert (event.volume_ratio if power == 3 else event.area_ratio) == pytest.approx(1)
    a, b, c = result.tracks
    assert (a.end, b.end, c.start) == ("merge", "merge", "merge")
    assert (a.children, b.children, c.parents) == ((2,), (2,), (0, 1))
    assert c.frames == (4, 5, 6)
    assert result.splits == ()


@pytest.mark.parametrize(("power", "law"), [(3, "volume"), (2, "area")])
def test_split_is_a_merge_backwards(power, law):
    result = track(merging(power)[::-1])
    (event,) = result.splits
    assert (event.frame, event.parents, event.children, event.conserved) == (3, (0,), (1, 2), law)
    assert (event.volume_ratio if power == 3 else event.area_ratio) == pytest.approx(1)
    assert result.merges == ()


def test_a_large_drop_that_swallows_a_small_one_is_a_merge_of_both():
    result = track(merging(3, d=(14.0, 24.0)))
    assert [e.parents for e in result.merges] == [(0, 1)]
    assert result.tracks[1].frames == (0, 1, 2, 3)


def test_three_become_one():
    d = (3 * 20.0**3) ** (1 / 3)
    corners = [(100, 100), (120, 100), (110, 117)]
    result = track([[drop(*c) for c in corners], [drop(110, 106, d)]])
    assert [e.parents for e in result.merges] == [(0, 1, 2)]


def test_a_drop_that_vanishes_beside_one_that_keeps_its_size_is_no_merge():
    frames = [[drop(100, 100), drop(122, 100)]] * 3 + [[drop(100, 100)]] * 4
    result = track(frames)
    assert result.merges == ()
    assert [t.end for t in result.tracks] == ["last_frame", "vanished"]


def test_a_drop_that_grows_without_anyone_missing_is_no_merge():
    frames = [[drop(100, 100), drop(140, 100)], [drop(100, 100, 25.2), drop(140, 100)]]
    assert track(frames).merges == ()


def test_overlap_is_evidence_where_no_law_holds():
    # A product that is wider than either law allows, as where masks fill the gap between two drops.
    def frames(with_masks):
        def at(x, d):
            return drop(x, 100, d, disc_mask(x, 100, d / 2) if with_masks else None)

        return [[at(90, 20), at(110, 20)], [at(100, 33.6)], [at(100, 33.6)]]

    assert track(frames(False)).merges == ()
    (event,) = track(frames(True)).merges
    assert (event.parents, event.conserved) == ((0, 1), None)


# --- numbers ---


def test_growth_of_a_drop_whose_volume_grows_evenly():
    frames = [[drop(50, 50, (1000 + 100 * t) ** (1 / 3))] for t in range(20)]
    (t,) = track(frames, TrackingParameters(frame_interval=2)).tracks
    assert t.growth.diameter_cubed.slope == pytest.approx(50)
    assert t.growth.diameter_cubed.r_squared == pytest.approx(1)
    assert t.growth.diameter_cubed.stderr == pytest.approx(0, abs=1e-6)
    assert t.growth.diameter.r_squared < 0.995


def test_slope_scatters_as_its_standard_error_says():
    rng = np.random.default_rng(4)
    frames = [[drop(60 * i, 50, 20 + 0.1 * t + rng.normal(0, 0.3)) for i in range(200)] for t in range(12)]
    trends = [t.growth.diameter for t in track(frames).tracks]
    slopes = np.array([t.slope for t in trends])
    assert len(slopes) == 200
    assert slopes.mean() == pytest.approx(0.1, abs=0.008)
    assert np.mean([t.stderr for t in trends]) == pytest.approx(slopes.std(), rel=0.15)


def test_motion():
    frames = [[drop(50 + 3 * t, 50 + 4 * (t % 2))] for t in range(5)]
    (t,) = track(frames, TrackingParameters(frame_interval=0.5)).tracks
    assert t.velocity_xy == pytest.approx((6, 0))
    assert t.mean_speed == pytest.approx(10)


def test_a_single_appearance_has_no_motion_and_a_constant_size_no_r_squared():
    (once,) = track([[drop(5, 5)]]).tracks
    assert (once.velocity_xy, once.mean_speed, once.growth) == (None, None, None)
    (still,) = track([[drop(5, 5)]] * 3).tracks
    assert (still.velocity_xy, still.mean_speed) == ((0, 0), 0)
    assert (still.growth.diameter.slope, still.growth.diameter.r_squared) == (0, None)


# --- bounds ---


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_displacement", 0), ("max_displacement", math.nan), ("max_size_change", -1), ("max_gap", -1),
     ("event_tolerance", 0.6), ("frame_interval", math.inf), ("drift_xy", (math.nan, 0)), ("image_size", (0, 5))],
)  # fmt: skip
def test_parameter_out_of_bounds_is_refused(name, value):
    with pytest.raises(InvalidInput) as error:
        track([], TrackingParameters(**{name: value}))
    assert error.value.field == name


@pytest.mark.parametrize(
    ("found", "field"),
    [(TrackedObject((math.nan, 0), 5, 20), "centroid_xy"), (TrackedObject((0, 0), 0, 20), "equivalent_diameter"),
     (TrackedObject((0, 0), math.inf, 20), "equivalent_diameter"), (TrackedObject((0, 0), 5, math.nan), "area")],
)  # fmt: skip
def test_object_out_of_bounds_is_refused(found, field):
    with pytest.raises(InvalidInput) as error:
        track([[], [drop(5, 5), found]])
    assert error.value.field == f"frames[1][1].{field}"
