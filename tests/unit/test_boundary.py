"""Fitted boundaries against drawn discs and ellipses with soft edges and noise.

Tolerances are the largest errors of the tables in docs/boundary.md, rounded up.
"""

import json
import math
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from sam_engine.boundary import BoundaryFit, NoFit, refine_boundaries, refine_boundary
from sam_engine.errors import InvalidInput
from sam_engine.types import Mask
from tests.measured import make_mask

CENTRES = [(60.0, 60.0), (60.31, 59.62), (59.8, 60.45)]
INSIDE, OUTSIDE = 90.0, 180.0


def depth(centre, semi_axes, degrees=0.0, size=121):
    """(size, size): signed distance inside an ellipse, to first order; exact for a disc."""
    y, x = np.mgrid[:size, :size].astype(float)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = (x - centre[0]) * c + (y - centre[1]) * s, (y - centre[1]) * c - (x - centre[0]) * s
    a, b = semi_axes
    f = np.hypot(u / a, v / b)
    slope = np.hypot(u / a**2, v / b**2) / np.maximum(f, 1e-9)
    return (1 - f) / np.maximum(slope, 1e-9)


def picture(inside, *, blur=1.0, noise=0.0, seed=0):
    """Edges of one pixel, blurred, with noise; `inside` is the depth."""
    drawn = OUTSIDE + (INSIDE - OUTSIDE) * np.clip(inside + 0.5, 0, 1)
    drawn = cv2.GaussianBlur(drawn, (0, 0), blur)
    return drawn + np.random.default_rng(seed).normal(0, noise, drawn.shape)


def mask_of(inside, error=0.0):
    """Pixels inside the shape moved outwards by `error`."""
    return make_mask(inside > -error)


def bytes_of(image):
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


# --- discs ---


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("error", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("radius", [5, 10, 25, 45])
def test_disc_whatever_the_error_of_its_mask(radius, error, centre):
    inside = depth(centre, (radius, radius))
    fit = refine_boundary(mask_of(inside, error), bytes_of(picture(inside)), "circle")
    assert fit.equivalent_diameter == pytest.approx(2 * radius, abs=0.06)
    assert fit.centre_xy == pytest.approx(centre, abs=0.03)
    assert fit.semi_axes == (pytest.approx(radius, abs=0.03),) * 2
    assert (fit.model, fit.polarity, fit.support) == ("circle", "darker", 1.0)
    assert fit.rms_residual < 0.05


def test_without_its_correction_for_curvature_a_small_blurred_disc_would_be_short():
    """Blur of 1.5 px moves the edge of a disc of 6 px by 0.19 px, 0.4 px of diameter."""
    inside = depth((60.2, 59.7), (6, 6))
    fit = refine_boundary(mask_of(inside), picture(inside, blur=1.5), "circle")
    assert fit.equivalent_diameter == pytest.approx(12, abs=0.08)


def test_jagged_mask_changes_nothing():
    inside = depth((60.3, 59.6), (20, 20))
    rough = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, inside.shape), (0, 0), 1)
    mask = make_mask(inside + 2.5 * rough / rough.std() * 0.5 > 0)
    fit = refine_boundary(mask, picture(inside), "circle")
    assert fit.equivalent_diameter == pytest.approx(40, abs=0.03)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_types_and_negatives_measure_alike(kind):
    inside = depth((60.3, 59.6), (15, 15))
    drawn = picture(inside)
    scaled = drawn * (257 if kind is np.uint16 else 1)
    dark = refine_boundary(mask_of(inside), scaled.astype(kind), "circle")
    light = refine_boundary(mask_of(inside), (scaled.max() + scaled.min() - scaled).astype(kind), "circle")
    assert (dark.polarity, light.polarity) == ("darker", "brighter")
    assert dark.equivalent_diameter == pytest.approx(30, abs=0.03)
    assert light.equivalent_diameter == pytest.approx(dark.equivalent_diameter, abs=0.02)


def test_moving_picture_and_mask_moves_the_fit_and_nothing_else():
    inside = depth((60.3, 59.6), (15, 15))
    drawn = picture(inside, noise=3)
    mask = mask_of(inside)
    fit = refine_boundary(mask, drawn, "circle")
    moved = Mask(mask.pixels, (mask.origin_xy[0] + 7, mask.origin_xy[1] + 4), (125, 128), 1.0, 1.0)
    again = refine_boundary(moved, np.pad(drawn, ((4, 0), (7, 0)), mode="edge"), "circle")
    assert again.centre_xy == pytest.approx((fit.centre_xy[0] + 7, fit.centre_xy[1] + 4), abs=1e-3)
    assert again.equivalent_diameter == pytest.approx(fit.equivalent_diameter, abs=1e-3)


@pytest.mark.parametrize("model", ["circle", "ellipse"])
def test_errors_scatter_as_the_standard_error_says(model):
    errors, stated = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        inside = depth(60 + rng.uniform(-0.5, 0.5, 2), (12, 12))
        fit = refine_boundary(mask_of(inside), picture(inside, noise=8, seed=seed), model)
        errors.append(fit.equivalent_diameter - 24)
        stated.append(fit.diameter_stderr)
    assert abs(np.mean(errors)) < 0.04
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(np.std(errors), rel=0.3)


# --- ellipses ---


@pytest.mark.parametrize("degrees", [0, 30, 90, 171])
@pytest.mark.parametrize("semi_axes", [(14, 10), (30, 18)])
@pytest.mark.parametrize("error", [-1.0, 1.5])
def test_ellipse(semi_axes, degrees, error):
    inside = depth((60.2, 59.7), semi_axes, degrees)
    fit = refine_boundary(mask_of(inside, error), picture(inside), "ellipse")
    assert fit.semi_axes == pytest.approx(semi_axes, abs=0.06)
    assert fit.centre_xy == pytest.approx((60.2, 59.7), abs=0.03)
    assert abs((fit.angle - degrees + 90) % 180 - 90) < 0.5
    assert 0 <= fit.angle < 180
    assert fit.equivalent_diameter == pytest.approx(2 * math.sqrt(math.prod(fit.semi_axes)))


def test_a_disc_as_an_ellipse_keeps_its_diameter():
    inside = depth((60.2, 59.7), (15, 15))
    fit = refine_boundary(mask_of(inside), picture(inside), "ellipse")
    assert fit.equivalent_diameter == pytest.approx(30, abs=0.03)
    assert fit.semi_axes[0] - fit.semi_axes[1] < 0.05


def test_a_circle_on_an_ellipse_says_so_by_its_residual():
    inside = depth((60.2, 59.7), (16, 14.5))
    circle = refine_boundary(mask_of(inside), picture(inside), "circle")
    ellipse = refine_boundary(mask_of(inside), picture(inside), "ellipse")
    assert circle.rms_residual > 8 * ellipse.rms_residual
    assert circle.equivalent_diameter == pytest.approx(2 * math.sqrt(16 * 14.5), abs=0.3)


# --- several edges ---


def rimmed(inside, width, rim=60.0):
    """A dark rim of `width` px around an inside that is as bright as the ground."""
    drawn = OUTSIDE + (rim - OUTSIDE) * np.clip(inside + 0.5, 0, 1)
    drawn += (OUTSIDE - rim) * np.clip(inside - width + 0.5, 0, 1)
    return cv2.GaussianBlur(drawn, (0, 0), 0.8)


@pytest.mark.parametrize("error", [-3.0, -1.5, 0.0, 1.5])
def test_of_a_rim_the_outer_edge_counts(error):
    inside = depth((60.2, 59.7), (20, 20))
    fit = refine_boundary(mask_of(inside, error), rimmed(inside, 5), "circle")
    assert fit.polarity == "darker"
    assert fit.equivalent_diameter == pytest.approx(40, abs=0.12)


def test_polarity_can_be_asked_for():
    inside = depth((60.2, 59.7), (20, 20))
    fit = refine_boundary(mask_of(inside, -2.5), rimmed(inside, 5), "circle", polarity="brighter")
    assert fit.polarity == "brighter"
    assert fit.equivalent_diameter == pytest.approx(30, abs=0.12)


def test_a_neighbour_that_touches_does_not_pull():
    inside = depth((45.0, 60.0), (18, 18))
    both = np.maximum(inside, depth((82.5, 60.0), (18, 18)))
    fit = refine_boundary(mask_of(inside), picture(both), "circle")
    assert fit.equivalent_diameter == pytest.approx(36, abs=0.06)
    assert 0.6 < fit.support < 1.0


def test_a_mask_that_has_swallowed_part_of_a_neighbour_is_put_right():
    inside = depth((45.0, 60.0), (18, 18))
    other = depth((82.5, 60.0), (18, 18))
    columns = np.arange(121)[None, :]
    mask = make_mask((inside > 0) | ((other > 0) & (columns < 70)))
    fit = refine_boundary(mask, picture(np.maximum(inside, other)), "circle")
    assert fit.equivalent_diameter == pytest.approx(36, abs=0.1)


def test_objects_of_one_picture_are_fitted_to_one_kind_of_edge():
    """Of two rimmed droplets the mask of one fits its inner edge only: too far from the outer one."""
    a, b = depth((30, 60), (18, 18)), depth((85, 60), (18, 18))
    drawn = np.minimum(rimmed(a, 7), rimmed(b, 7))
    masks = [mask_of(a), mask_of(depth((30, 60), (17.5, 17.5))), mask_of(b, -8.5)]
    alone = refine_boundary(masks[2], drawn, "circle")
    together = refine_boundaries(masks, drawn, "circle")
    assert alone.polarity == "brighter"
    assert [type(f) for f in together[:2]] == [BoundaryFit, BoundaryFit]
    assert all(isinstance(f, NoFit) or f.polarity == "darker" for f in together)
    assert refine_boundaries([], drawn, "circle") == []


# --- the picture's edge ---


@pytest.mark.parametrize(("cut", "tolerance", "support"), [(0.3, 0.06, 0.55), (0.5, 0.15, 0.4)])
def test_cut_by_the_picture_the_fit_goes_beyond_it(cut, tolerance, support):
    inside = depth((60.2, 59.7), (20, 20))
    first = round(40 + 40 * cut)
    fit = refine_boundary(mask_of(inside[:, first:]), picture(inside)[:, first:], "circle")
    assert fit.equivalent_diameter == pytest.approx(40, abs=tolerance)
    assert fit.centre_xy[0] == pytest.approx(60.2 - first, abs=tolerance)
    assert support < fit.support < 1 - cut / 2


# --- no fit ---


def test_tiny_masks_have_no_fit():
    for pixels in ([[1]], np.ones((3, 3)), np.ones((1, 40))):
        image = np.pad(np.asarray(pixels, dtype=float) * 100, 5)
        fit = refine_boundary(make_mask(image > 0), image, "circle")
        assert isinstance(fit, NoFit) and fit.reason


@pytest.mark.parametrize("model", ["circle", "ellipse"])
def test_pictures_without_an_edge_have_no_fit(model):
    mask = mask_of(depth((60, 60), (15, 15)))
    flat = np.full((121, 121), 7.0)
    ramp = np.tile(np.linspace(0, 255, 121), (121, 1))
    noise = np.random.default_rng(0).normal(120, 10, (121, 121))
    some = np.where(noise > 120, noise, np.inf)
    huge = noise * 1e300
    for image in (
        flat,
        ramp,
        noise,
        flat * np.nan,
        flat * np.inf,
        some,
        huge,
        np.zeros((121, 121), np.uint8),
    ):
        fit = refine_boundary(mask, image, model)
        assert isinstance(fit, NoFit) and fit.reason


def test_a_few_unknown_pixels_cost_support_only():
    inside = depth((60.2, 59.7), (20, 20))
    image = picture(inside)
    image[55:60, 76:84] = np.nan
    fit = refine_boundary(mask_of(inside), image, "circle")
    assert fit.equivalent_diameter == pytest.approx(40, abs=0.05)
    assert fit.support < 1


@pytest.mark.parametrize("model", ["circle", "ellipse"])
def test_any_mask_on_any_picture_has_an_answer(model):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = tuple(int(n) for n in rng.integers(1, 40, 2))
        pixels = cv2.GaussianBlur(rng.normal(size=size), (0, 0), rng.uniform(0.3, 5)) > 0
        if pixels.any():
            image = rng.integers(0, 256, size).astype(np.uint8)
            fit = refine_boundary(make_mask(pixels), image, model)
            json.dumps(asdict(fit), allow_nan=False)
            if isinstance(fit, BoundaryFit):
                assert 0 < fit.support <= 1
                assert fit.semi_axes[0] >= fit.semi_axes[1] > 0


@pytest.mark.parametrize(
    ("image", "model", "polarity", "field"),
    [(np.zeros((5, 5)), "circle", None, "intensity_image"), (np.zeros((9, 9, 3)), "circle", None, "intensity_image"),
     (np.zeros((9, 9), np.int64), "circle", None, "intensity_image"), (np.zeros((9, 9)), "square", None, "model"),
     (np.zeros((9, 9)), "circle", "dark", "polarity")],
)  # fmt: skip
def test_bad_input_is_refused(image, model, polarity, field):
    with pytest.raises(InvalidInput) as error:
        refine_boundary(make_mask(np.ones((9, 9))), image, model, polarity=polarity)
    assert error.value.field == field


def test_a_mask_without_a_pixel_is_refused():
    mask = Mask(np.zeros((2, 2), dtype=bool), (0, 0), (4, 4), 1.0, 1.0)
    with pytest.raises(InvalidInput, match="mask has 0 pixels"):
        refine_boundary(mask, np.zeros((4, 4)), "circle")
