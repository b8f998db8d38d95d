"""Which objects are counted, and that each figure is over them."""

import math

import numpy as np
import pytest

from sam_engine.boundary import BoundaryFit, NoFit
from sam_engine.calibration import calibrate
from sam_engine.sizing import size_distribution
from service.analysis import sizes_of
from service.images import Picture
from service.schemas import AnalysisInput, SegmentOptions
from tests.segmented import HEIGHT, WIDTH, disc, make_mask, make_picture, segment

QUICK = {"resamples": 200}
EVERYTHING = {
    "analysis": {**QUICK, "border_correction": True, "fit": "ellipse", "digital_pcr": {}, "inclusions": True},
    "filters": {"enable_intensity_coloring": True},
}


def analysed(*drawn, threshold=None, picture=None, um_per_px=None, removed=(), **analysis):
    filters = {"enable_intensity_coloring": True}
    options = SegmentOptions(analysis={**QUICK, **analysis}, um_per_px=um_per_px, filters=filters)
    found = segment(*drawn, options=options, threshold=threshold, picture=picture, removed=removed)
    return found.analysis


def codes(analysis):
    return [warning.code for warning in analysis.warnings]


def bright_and_dark():
    """Dark on the left of the middle, bright on the right."""
    picture = make_picture()
    picture.intensity[:] = np.where(np.arange(WIDTH) < 80, 50, 200)
    return picture


def grid(count, radius=5, pitch=14):
    places = [(x, y) for y in range(14, HEIGHT - 10, pitch) for x in range(14, WIDTH - 10, pitch)]
    return [disc(x, y, radius + 0.02 * i) for i, (x, y) in enumerate(places[:count])]


def test_without_wishes_every_kept_object_counts_once():
    analysis = analysed(disc(40, 60, 20), disc(110, 60, 15), disc(140, 20, 5), removed=(2,))
    assert analysis.weights == {1: 1.0, 2: 1.0}
    assert analysis.sizes.distribution.count == 2
    assert (analysis.digital_pcr, analysis.inclusions, analysis.fits) == (None, None, {})
    assert analysis.sizes.distribution.max == pytest.approx(40, rel=0.02)


def test_no_object_has_no_value_and_no_error():
    options = SegmentOptions.model_validate(EVERYTHING)
    analysis = segment(options=options).analysis
    assert analysis.counts.counted == analysis.counts.kept == 0
    assert analysis.sizes.distribution.d50.value is None
    assert analysis.sizes_in(calibrate(2.0)).distribution.d50.value is None
    assert analysis.digital_pcr.concentration is None
    assert analysis.inclusions.statistics.mean is None
    assert "no_classes" in codes(analysis)


def test_objects_at_the_edge_are_left_out_and_stood_in_for():
    cut, whole = disc(5, 60, 10), disc(80, 60, 20)
    analysis = analysed(cut, whole, border_correction=True)
    assert analysis.counted_ids == {2}
    assert (analysis.counts.at_the_edge, analysis.counts.counted) == (1, 1)
    places = (WIDTH - 41 - 1) * (HEIGHT - 41 - 1)  # of 41 x 41 pixels that touch nothing
    assert analysis.weights[2] == pytest.approx(WIDTH * HEIGHT / places)
    assert "cut_off" not in codes(analysis)
    assert "cut_off" in codes(analysed(cut, whole))


def test_weights_shift_the_mean_towards_large_objects():
    drawn = [disc(30, 60, 6), disc(80, 60, 35)]
    plain, corrected = analysed(*drawn), analysed(*drawn, border_correction=True)
    d, w = [12.0, 70.0], [corrected.weights[1], corrected.weights[2]]
    expected = (d[0] * w[0] + d[1] * w[1]) / sum(w)
    assert corrected.sizes.distribution.mean.value == pytest.approx(expected, rel=0.02)
    assert corrected.sizes.distribution.mean.value > plain.sizes.distribution.mean.value + 3


def test_inclusions_belong_to_the_smallest_object_around_them():
    outer, inner, innermost = disc(60, 60, 40), disc(50, 60, 15), disc(50, 60, 5)
    other = disc(130, 60, 12)
    analysis = analysed(outer, inner, innermost, other, inclusions=True)
    assert analysis.parent_of == {1: None, 2: 1, 3: 2, 4: None}
    assert analysis.children_of == {1: [2], 2: [3]}
    assert analysis.counted_ids == {1, 4}
    assert analysis.counts.inside_others == 2
    statistics = analysis.inclusions.statistics
    assert (statistics.containers, statistics.inclusions) == (2, 1)
    assert analysis.inclusions.sizes.mean == pytest.approx(30, rel=0.02)
    assert analysis.sizes.distribution.min == pytest.approx(24, rel=0.02)


def test_the_droplet_in_a_hole_lies_in_what_is_around_it():
    """The mode `instances` gives masks that do not overlap: the outer one of a double emulsion is a ring."""
    ring, inner = disc(60, 60, 40, hole=20.5), disc(60, 60, 20)
    analysis = analysed(ring, inner, inclusions=True)
    assert analysis.parent_of == {1: None, 2: 1}
    assert analysis.sizes.distribution.mean.value == pytest.approx(80, rel=0.01)
    assert analysis.diameters == pytest.approx({1: 80, 2: 40}, rel=0.02)
    plain = analysed(ring, inner)
    assert plain.diameters[1] == pytest.approx(2 * math.sqrt(40**2 - 20.5**2), rel=0.02)


def test_inclusions_of_objects_at_the_edge_do_not_count():
    analysis = analysed(disc(10, 60, 30), disc(20, 60, 8), inclusions=True, border_correction=True)
    assert analysis.counts.counted == 0
    assert analysis.inclusions.statistics.inclusions == 0


def drawn_picture(*discs, dtype=np.uint8):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    shade = np.full((HEIGHT, WIDTH), 180.0)
    for x, y, radius in discs:
        depth = np.clip(radius - np.hypot(columns - x, rows - y) + 0.5, 0, 1)
        shade += depth * (80 - 180)
    rgb = np.repeat(shade.astype(np.uint8)[..., None], 3, axis=2)
    return Picture(rgb, shade.astype(dtype), 1, 8, 0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_fit_follows_the_edge_of_the_picture_and_not_the_mask(dtype):
    picture = drawn_picture((60.3, 58.6, 24.4), dtype=dtype)
    analysis = analysed(disc(60, 59, 22), picture=picture, fit="circle")
    fit = analysis.fits[1]
    assert isinstance(fit, BoundaryFit)
    assert fit.equivalent_diameter == pytest.approx(48.8, abs=0.1)
    assert fit.centre_xy == pytest.approx((60.3, 58.6), abs=0.1)
    assert analysis.sizes.distribution.max == pytest.approx(44, rel=0.02)  # the mask's, as it is
    assert analysis.counts.fitted == 1


def test_an_object_without_an_edge_has_a_reason():
    flat = drawn_picture()
    analysis = analysed(disc(60, 59, 22), picture=flat, fit="ellipse")
    assert isinstance(analysis.fits[1], NoFit)
    assert analysis.counts.fitted == 0
    assert "few_fits" in codes(analysis)


def test_bright_droplets_are_positive():
    drawn = grid(54)
    analysis = analysed(*drawn, picture=bright_and_dark(), threshold=128, um_per_px=2.0, digital_pcr={})
    pcr = analysis.digital_pcr
    bright = sum(np.flatnonzero(d.any(axis=0)).mean() > 80 for d in drawn)
    assert (pcr.concentration.positives, pcr.concentration.droplets) == (bright, 54)
    assert pcr.concentration.copies_per_droplet == pytest.approx(-math.log(1 - bright / 54))
    assert pcr.volume_source == "diameters"
    diameters_um = [2 * 2 * math.sqrt(d.sum() / math.pi) for d in drawn]
    volume_nl = math.pi / 6 * np.mean(np.array(diameters_um) ** 3) / 1e6
    assert pcr.concentration.droplet_volume_nl == pytest.approx(volume_nl)
    assert "volume_of_spheres" in codes(analysis)


def test_a_given_volume_comes_before_that_of_spheres():
    given = {"droplet_volume_nl": 0.85}
    pcr = analysed(*grid(20), picture=bright_and_dark(), threshold=128, um_per_px=2.0, digital_pcr=given)
    assert pcr.digital_pcr.volume_source == "request"
    assert pcr.digital_pcr.concentration.droplet_volume_nl == 0.85
    assert "volume_of_spheres" not in codes(pcr)


def test_without_calibration_or_volume_there_is_no_concentration():
    pcr = analysed(*grid(20), picture=bright_and_dark(), threshold=128, digital_pcr={}).digital_pcr
    assert pcr.volume_source is None
    assert pcr.concentration.copies_per_ul is None
    assert pcr.concentration.copies_per_droplet > 0


def test_micrometres_are_pixels_times_the_scale():
    analysis = analysed(*grid(40))
    in_um = analysis.sizes_in(calibrate(0.37))
    rng_free = size_distribution([0.37 * d for d in diameters_of(40)], resamples=200)
    assert in_um.unit == "um"
    for name in ("mean", "std", "d10", "volume_d90", "d32", "cv", "span", "geometric_std"):
        ours, theirs = getattr(in_um.distribution, name), getattr(rng_free, name)
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))
        assert ours.required_count == theirs.required_count
    assert in_um.distribution.largest_volume_share == pytest.approx(rng_free.largest_volume_share)
    assert in_um.distribution.max == pytest.approx(rng_free.max)
    assert in_um.histogram.edges[0] == pytest.approx(rng_free.min)
    assert in_um.histogram.count == analysis.sizes.histogram.count
    assert in_um.curves.number[-1] == pytest.approx(rng_free.max)
    assert in_um.curves.fraction == analysis.sizes.curves.fraction


def diameters_of(count):
    return [2 * math.sqrt(np.count_nonzero(d) / math.pi) for d in grid(count)]


def test_diameters_of_several_pictures_together():
    parameters = AnalysisInput(resamples=200)
    pooled = sizes_of([10.0, 20.0, 30.0] * 10, None, parameters, "um")
    assert (pooled.unit, pooled.distribution.count) == ("um", 30)
    assert pooled.distribution.mean.value == pytest.approx(20)
    assert pooled.distribution.confidence == 0.95


def test_candidates_of_one_prompt_are_not_objects():
    masks = [make_mask(disc(60, 60, 20 + i), prompt_index=0, mask_index=i) for i in range(3)]
    assert "candidates_counted" in codes(analysed(*masks))
    apart = [make_mask(disc(30 + 50 * i, 60, 10), prompt_index=i, mask_index=0) for i in range(3)]
    assert "candidates_counted" not in codes(analysed(*apart))


def test_the_same_objects_give_the_same_intervals():
    first, second = analysed(*grid(30)), analysed(*grid(30))
    assert first.sizes.distribution == second.sizes.distribution
