"""Requests: what is refused and which field is named; the defaults; what preprocessing does with its own."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from service.preprocessing import preprocess
from service.schemas import (
    MAX_POINTS,
    MAX_PROMPTS,
    MAX_RESAMPLES,
    MIN_RESAMPLES,
    AnalysisInput,
    FiltersInput,
    OutputInput,
    PointInput,
    Preprocessing,
    SegmentOptions,
    SegmentRequest,
)


def errors_of(**fields):
    """{dotted field: message} of a request that must be refused."""
    with pytest.raises(ValidationError) as caught:
        SegmentOptions.model_validate(fields)
    return {".".join(str(part) for part in e["loc"]): e["msg"] for e in caught.value.errors()}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"colour": 1}, "colour"),
        ({"filters": {"area_mim": 5}}, "filters.area_mim"),
        ({"filters": {"clean": {"factor": 2}}}, "filters.clean.factor"),
        ({"automatic": {"tiles": 2}}, "automatic.tiles"),
        ({"preprocessing": {"blur": {"kernel": 3}}}, "preprocessing.blur.kernel"),
        ({"output": {"mask": "png"}}, "output.mask"),
        ({"prompts": [{"point": []}]}, "prompts.0.point"),
        ({"prompts": [{"points": [{"x": 1, "y": 1, "label": 1}]}]}, "prompts.0.points.0.label"),
    ],
)
def test_unknown_field_is_named(fields, place):
    assert errors_of(**fields) == {place: "Extra inputs are not permitted"}


@pytest.mark.parametrize(
    ("point", "got"),
    [
        ({}, "neither"),
        ({"x": 1}, "x"),
        ({"y_norm": 0.5}, "y_norm"),
        ({"x": 1, "y_norm": 0.5}, "x, y_norm"),
        ({"x": 1, "y": 1, "x_norm": 0.5, "y_norm": 0.5}, "x, y, x_norm, y_norm"),
        ({"x": 1, "y": 1, "x_norm": 0.5}, "x, y, x_norm"),
    ],
)
def test_a_point_has_one_pair_of_coordinates(point, got):
    (message,) = errors_of(prompts=[{"points": [point]}]).values()
    assert message.endswith(f"needs either x and y or x_norm and y_norm, got {got}")


def test_zero_is_a_coordinate():
    assert (PointInput(x=0, y=0).x, PointInput(x_norm=0, y_norm=0).x_norm) == (0, 0)
    assert PointInput(x=0, y=0).positive is True


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "place",
    [
        "um_per_px",
        "filters.area_min",
        "filters.mean_max",
        "filters.intensity_threshold",
        "preprocessing.blur.sigma",
    ],
)
def test_numbers_are_finite(place, value):
    fields = value
    for name in reversed(place.split(".")):
        fields = {name: fields}
    assert place in errors_of(**fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_coordinates_are_finite(value):
    assert "prompts.0.points.0.x" in errors_of(prompts=[{"points": [{"x": value, "y": 1}]}])
    assert "prompts.0.box.2" in errors_of(prompts=[{"box": [0, 0, value, 1]}])


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("area_min", "area_max"),
        ("diameter_min", "diameter_max"),
        ("mean_min", "mean_max"),
        ("median_min", "median_max"),
        ("std_min", "std_max"),
        ("min_threshold", "max_threshold"),
    ],
)
def test_inverted_range(low, high):
    (message,) = errors_of(filters={low: 51, high: 50}).values()
    assert message.endswith(f"{low}=51 is above {high}=50")
    assert getattr(FiltersInput(**{low: 50, high: 50}), high) == 50


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"automatic": {"points_per_side": 0}}, "automatic.points_per_side"),
        ({"automatic": {"points_per_side": 129}}, "automatic.points_per_side"),
        ({"automatic": {"points_per_side": 2.5}}, "automatic.points_per_side"),
        ({"automatic": {"crop_n_layers": 4}}, "automatic.crop_n_layers"),
        ({"automatic": {"pred_iou_thresh": 1.01}}, "automatic.pred_iou_thresh"),
        ({"automatic": {"mode": "slow"}}, "automatic.mode"),
        ({"filters": {"area_min": -1}}, "filters.area_min"),
        ({"filters": {"circularity_min": 1.1}}, "filters.circularity_min"),
        ({"preprocessing": {"clahe": {"clip_limit": 0}}}, "preprocessing.clahe.clip_limit"),
        ({"preprocessing": {"clahe": {"grid_size": 65}}}, "preprocessing.clahe.grid_size"),
        ({"um_per_px": 0}, "um_per_px"),
        ({"um_per_px": 1e7}, "um_per_px"),
        ({"page": -1}, "page"),
        ({"scale_bar_um": 0}, "scale_bar_um"),
        ({"scale_bar_um": 1e10}, "scale_bar_um"),
        ({"analysis": {"confidence": 0.49}}, "analysis.confidence"),
        ({"analysis": {"confidence": 1.0}}, "analysis.confidence"),
        ({"analysis": {"resamples": MIN_RESAMPLES - 1}}, "analysis.resamples"),
        ({"analysis": {"resamples": MAX_RESAMPLES + 1}}, "analysis.resamples"),
        ({"analysis": {"resamples": 10.5}}, "analysis.resamples"),
        ({"analysis": {"fit": "oval"}}, "analysis.fit"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [{}] * (MAX_PROMPTS + 1)}, "prompts"),
        ({"prompts": [{"points": [{"x": 1, "y": 1}] * (MAX_POINTS + 1)}]}, "prompts.0.points"),
        ({"prompts": [{"box": [1, 2, 3]}]}, "prompts.0.box.3"),
        ({"prompts": [{"points": [{"x_norm": 1.01, "y_norm": 0}]}]}, "prompts.0.points.0.x_norm"),
        ({"output": {"format": "xml"}}, "output.format"),
    ],
)
def test_value_out_of_bounds_is_named(fields, place):
    assert set(errors_of(**fields)) == {place}


@pytest.mark.parametrize("size", [0, 2, 100])
def test_blur_kernel_is_odd_and_small(size):
    assert "preprocessing.blur.kernel_size" in errors_of(preprocessing={"blur": {"kernel_size": size}})


@pytest.mark.parametrize(
    ("given", "masks"),
    [("rle", ["rle"]), (["rle", "polygon"], ["rle", "polygon"]), ("none", ["none"]), (["png"], ["png"])],
)
def test_masks_are_one_form_or_several(given, masks):
    assert OutputInput(masks=given).masks == masks


@pytest.mark.parametrize("given", ["gif", ["png", "gif"], 3, None, {"png": True}, ["png"] * 5])
def test_masks_of_an_unknown_form(given):
    assert any(place.startswith("output.masks") for place in errors_of(output={"masks": given}))


def test_what_is_measured_by_is_given_once():
    assert errors_of(um_per_px=1, scale_bar_um=50) == {
        "scale_bar_um": "Value error, um_per_px is given too; give one of them"
    }
    assert SegmentOptions(scale_bar_um=50).um_per_px is None
    assert SegmentOptions(um_per_px=None, scale_bar_um=50).scale_bar_um == 50


def test_digital_pcr_needs_classes():
    assert set(errors_of(analysis={"digital_pcr": {}})) == {"analysis"}
    assert set(errors_of(analysis={"digital_pcr": {}}, filters={"intensity_threshold": 3})) == {"analysis"}
    filters = {"enable_intensity_coloring": True}
    assert SegmentOptions(analysis={"digital_pcr": {}}, filters=filters).analysis.digital_pcr is not None
    assert set(errors_of(analysis={"digital_pcr": {}}, filters={"area_min": -1})) == {"filters.area_min"}


def test_analysis_without_wishes():
    analysis = SegmentOptions(analysis={}).analysis
    assert analysis.model_dump() == {
        "confidence": 0.95, "resamples": 1000, "border_correction": False, "fit": None, "digital_pcr": None,
        "inclusions": False,
    }  # fmt: skip
    assert AnalysisInput(resamples=0).resamples == 0
    assert AnalysisInput(resamples=MIN_RESAMPLES).resamples == MIN_RESAMPLES


def test_defaults():
    options = SegmentOptions()
    assert options.prompts is None and options.um_per_px is None and options.page == 0
    assert (options.output.masks, options.output.format, options.output.unfiltered) == (["png"], None, False)
    assert options.automatic.model_dump() == {
        "mode": None,
        "points_per_side": 32,
        "pred_iou_thresh": None,
        "stability_score_thresh": None,
        "box_nms_thresh": 0.7,
        "crop_n_layers": 0,
        "crop_n_points_downscale_factor": 1,
        "min_mask_region_area": 0,
        "max_mask_area": None,
        "tiling": "auto",
        "refine": False,
        "inclusions": False,
    }
    active = options.filters.model_dump(exclude_none=True)
    assert active == {"area_min": 20, "exclude_edge_touching": False, "enable_intensity_coloring": False}
    assert options.preprocessing == Preprocessing(blur=None, clahe=None)


def test_steps_that_are_named_have_the_old_defaults():
    steps = Preprocessing(blur={}, clahe={})
    assert steps.blur.model_dump() == {"enabled": True, "kernel_size": 3, "sigma": 1}
    assert steps.clahe.model_dump() == {"enabled": True, "clip_limit": 2, "grid_size": 8}
    assert FiltersInput(clean={}).clean.model_dump() == {
        "enabled": True,
        "max_area_factor": 1.5,
        "exclude_edge_touching": True,
        "min_circularity": 0.6,
    }


def test_null_switches_a_bound_off():
    assert FiltersInput(area_max=None).area_max is None


def test_requests_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        SegmentOptions().page = 3


def test_request_needs_an_image():
    with pytest.raises(ValidationError, match="image"):
        SegmentRequest.model_validate({})


# preprocessing

RGB = np.random.default_rng(5).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "steps", [{}, {"blur": {"enabled": False}}, {"clahe": {"enabled": False}}, {"blur": None, "clahe": None}]
)
def test_no_step_leaves_the_picture_alone(steps):
    np.testing.assert_array_equal(preprocess(RGB, Preprocessing(**steps)), RGB)


def test_blur_is_gaussian_with_the_given_sigma():
    spot = np.zeros((21, 21, 3), np.uint8)
    spot[10, 10] = 255
    blurred = preprocess(spot, Preprocessing(blur={"kernel_size": 9, "sigma": 1.5}))
    weights = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    weights /= weights.sum()
    np.testing.assert_allclose(blurred[10, 6:15, 1], 255 * weights * weights[4], atol=1)
    assert not blurred[:, :6].any()


def test_clahe_raises_contrast_and_keeps_colour():
    ramp = np.tile(np.linspace(110, 140, 64).astype(np.uint8), (64, 1))
    flat = np.dstack([ramp, ramp, ramp])
    equalised = preprocess(flat, Preprocessing(clahe={"clip_limit": 4, "grid_size": 2}))
    assert equalised.dtype == np.uint8 and equalised.shape == flat.shape
    assert np.ptp(equalised[..., 0].astype(int)) > 1.5 * np.ptp(ramp.astype(int))
    assert np.abs(np.diff(equalised.astype(int), axis=2)).max() <= 2


def test_blur_comes_before_clahe():
    both = preprocess(RGB, Preprocessing(blur={}, clahe={}))
    blurred = preprocess(RGB, Preprocessing(blur={}))
    np.testing.assert_array_equal(both, preprocess(blurred, Preprocessing(clahe={})))
    other_order = preprocess(preprocess(RGB, Preprocessing(clahe={})), Preprocessing(blur={}))
    assert not np.array_equal(both, other_order)


def test_original_is_not_changed():
    before = RGB.copy()
    preprocess(RGB, Preprocessing(blur={}, clahe={}))
    np.testing.assert_array_equal(RGB, before)


def test_clahe_works_on_lightness_alone():
    equalised = preprocess(RGB, Preprocessing(clahe={}))
    lab = cv2.cvtColor(RGB, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
    np.testing.assert_array_equal(equalised, cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
