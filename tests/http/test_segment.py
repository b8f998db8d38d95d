"""`/segment`, `/segment_file`, `/analyze_image`, `/defaults` through the application."""

import base64
import csv
import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from safetensors.torch import load_file, save_file
from werkzeug.test import TestResponse

from app import create_app
from sam_engine.checkpoints import SHIPPED_FILE
from sam_engine.engine import SamEngine
from sam_engine.masks import decode_rle
from service.limits import open_limiter
from service.settings import Settings
from tests.conftest import USER_KEY

NO_MASKS = json.dumps({"masks": "none"})


def send(client: FlaskClient, picture: bytes, name: str = "droplets.png", **fields: object) -> TestResponse:
    data = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    return client.post("/segment_file", data={"file": (io.BytesIO(picture), name), **data})


def found(response: TestResponse) -> dict:
    assert response.status_code == 200, response.text
    return response.get_json()


def image_of(mask: dict) -> np.ndarray:
    data = base64.b64decode(mask["image"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def disc() -> bytes:
    """One dark disc of radius 40 at (150, 100) in 300x200."""
    y, x = np.mgrid[:200, :300]
    picture = np.where(np.hypot(x - 150, y - 100) < 40, 60, 200).astype(np.uint8)
    return cv2.imencode(".png", cv2.GaussianBlur(picture, (0, 0), 1))[1].tobytes()


def test_every_droplet_of_the_sample(client: FlaskClient, sample: bytes) -> None:
    answer = found(send(client, sample, output=NO_MASKS))
    assert answer["success"] is True
    assert answer["automatic"]["mode"] == "instances"
    assert answer["automatic"]["pred_iou_thresh"] == 0.46  # the checkpoint's 0.55 is for grids
    assert answer["automatic"]["stability_score_thresh"] is None
    assert answer["automatic"]["prompts_run"] == 0
    assert answer["image"] == {
        "width": 640, "height": 480, "channels": 1, "bit_depth": 8, "page": 0, "pages": 1
    }  # fmt: skip
    assert answer["num_masks"] == len(answer["masks"]) > 80
    assert answer["original_count"] == answer["num_masks"] + answer["user_filter_removed"]
    areas = [mask["area"] for mask in answer["masks"]]
    assert areas == sorted(areas, reverse=True)
    assert [mask["id"] for mask in answer["masks"]] == list(range(1, len(areas) + 1))
    assert set(answer["timings_ms"]) == {"decode", "load", "encode", "masks", "measure", "output", "total"}
    assert answer["model"]["name"] == "droplet_vit_t"
    assert len(answer["model"]["sha256"]) == 64


def test_json_and_file_agree(client: FlaskClient, sample: bytes) -> None:
    by_file = found(send(client, sample, output=NO_MASKS))
    encoded = base64.b64encode(sample).decode()
    for image in (encoded, f"data:image/png;base64,{encoded}"):
        by_json = found(client.post("/segment", json={"image": image, "output": {"masks": "none"}}))
        assert by_json["masks"] == by_file["masks"]
        assert by_json["embedding_id"] == by_file["embedding_id"]


def test_a_click_on_a_disc(client: FlaskClient, disc: bytes) -> None:
    prompts = [{"points": [{"x": 150, "y": 100}]}]
    answer = found(send(client, disc, prompts=prompts, output={"masks": ["png", "rle", "polygon"]}))
    assert answer["automatic"] is None
    assert {mask["prompt_index"] for mask in answer["masks"]} == {0}
    assert answer["user_filter_removed"] == 0
    y, x = np.mgrid[:200, :300]
    truth = np.hypot(x - 150, y - 100) < 40
    ious = []
    for mask in answer["masks"]:
        pixels = image_of(mask)
        assert pixels.shape == (200, 300)
        rle = decode_rle(tuple(mask["rle"]["size"]), mask["rle"]["counts"])
        np.testing.assert_array_equal(pixels > 0, rle)
        assert np.count_nonzero(rle) == mask["area"]
        left, top, width, height = mask["bbox"]
        assert rle[top : top + height, left : left + width].sum() == mask["area"]
        ious.append((truth & rle).sum() / (truth | rle).sum())
    assert max(ious) > 0.8


def test_normalised_points_are_pixels(client: FlaskClient, disc: bytes) -> None:
    by_pixel = [{"points": [{"x": 150, "y": 100}], "multimask": False}]
    by_share = [{"points": [{"x_norm": 150 / 299, "y_norm": 100 / 199}], "multimask": False}]
    first = found(send(client, disc, prompts=by_pixel, output=NO_MASKS))["masks"]
    second = found(send(client, disc, prompts=by_share, output=NO_MASKS))["masks"]
    assert [m["bbox"] for m in first] == [m["bbox"] for m in second]
    assert len(first) == 1


def test_prompts_of_every_kind_in_one_call(client: FlaskClient, disc: bytes) -> None:
    prompts = [
        {"box": [108, 58, 192, 142], "multimask": False},
        {"points": [{"x": 150, "y": 100}, {"x": 20, "y": 20, "positive": False}]},
        {"points": [{"x": 150, "y": 100}], "box": [108, 58, 192, 142], "multimask": False},
    ]
    answer = found(send(client, disc, prompts=prompts, output=NO_MASKS))
    assert {mask["prompt_index"] for mask in answer["masks"]} == {0, 1, 2}
    again = found(send(client, disc, prompts=prompts[2:], output=NO_MASKS))
    mine = next(m for m in answer["masks"] if m["prompt_index"] == 2)
    assert again["masks"][0]["bbox"] == mine["bbox"]


def test_a_mask_refines_by_its_id_and_by_rle(client: FlaskClient, disc: bytes) -> None:
    prompts = [{"points": [{"x": 150, "y": 100}], "multimask": False}]
    first = found(send(client, disc, prompts=prompts, output={"masks": "rle"}))["masks"][0]
    for mask_input in (first["mask_input_id"], first["rle"]):
        refined = [{**prompts[0], "mask_input": mask_input}]
        assert found(send(client, disc, prompts=refined, output=NO_MASKS))["masks"]


def test_filters_count_what_they_remove(client: FlaskClient, sample: bytes) -> None:
    free = found(send(client, sample, filters={"area_min": 0}, output=NO_MASKS))
    middle = sorted(mask["area"] for mask in free["masks"])[len(free["masks"]) // 2]
    filters = {"area_min": middle, "exclude_edge_touching": True}
    answer = found(send(client, sample, filters=filters, output={"masks": "none", "unfiltered": True}))
    applied = {f["filter"]: f["removed"] for f in answer["filters_applied"]}
    expected = sum(mask["area"] < middle for mask in free["masks"])
    assert applied["area_min"] == expected > 0
    assert answer["user_filter_removed"] == sum(applied.values())
    assert answer["num_masks"] == answer["original_count"] - answer["user_filter_removed"]
    removed = [mask["removed_by"] for mask in answer["masks"]]
    assert removed.count("area_min") == expected
    assert removed.count(None) == answer["num_masks"] == answer["summary_statistics"]["total_masks"]


def test_the_old_cleaning_step(client: FlaskClient, sample: bytes) -> None:
    answer = found(send(client, sample, filters={"clean": {}}, output=NO_MASKS))
    info = answer["preprocessing_info"]
    assert answer["preprocessing_removed"] == sum(info.values()) > 0
    assert not any(mask["edge_stats"]["touches_edge"] for mask in answer["masks"])


def test_calibration_and_classes(client: FlaskClient, sample: bytes) -> None:
    filters = {"enable_intensity_coloring": True}
    answer = found(send(client, sample, filters=filters, um_per_px="2.5", output=NO_MASKS))
    mask = answer["masks"][0]
    assert mask["equivalent_diameter_um"] == pytest.approx(2.5 * mask["equivalent_diameter"], rel=1e-4)
    assert mask["area_um2"] == pytest.approx(6.25 * mask["area"])
    summary = answer["summary_statistics"]
    assert summary["diameter_stats_um"]["mean_um"] == pytest.approx(
        2.5 * summary["average_diameter"], rel=1e-4
    )
    groups = summary["intensity_analysis"]
    assert summary["classification_enabled"] is True
    assert groups["high_intensity"]["count"] + groups["low_intensity"]["count"] == answer["num_masks"]
    assert {mask["intensity_class"] for mask in answer["masks"]} == {"high", "low"}


def test_same_keys_without_any_mask(client: FlaskClient, sample: bytes) -> None:
    full = found(send(client, sample, output=NO_MASKS))
    none = found(send(client, sample, filters={"area_min": 1e9}, output=NO_MASKS))
    assert none["num_masks"] == 0
    assert none["masks"] == []

    def keys(value: object) -> object:
        return {k: keys(v) for k, v in value.items()} if isinstance(value, dict) else None

    assert keys(none["summary_statistics"]) == keys(full["summary_statistics"])


def test_preprocessing_changes_what_the_network_sees_alone(client: FlaskClient, disc: bytes) -> None:
    prompts = [{"box": [108, 58, 192, 142], "multimask": False}]
    plain = found(send(client, disc, prompts=prompts, output=NO_MASKS))
    preprocessing = {"blur": {"kernel_size": 9, "sigma": 3}, "clahe": {}}
    changed = found(send(client, disc, prompts=prompts, preprocessing=preprocessing, output=NO_MASKS))
    assert plain["preprocessing_applied"] == {}
    assert set(changed["preprocessing_applied"]) == {"blur", "clahe"}
    assert changed["embedding_id"] != plain["embedding_id"]
    stats = changed["masks"][0]["pixel_stats"]
    assert stats["min_intensity"] == plain["masks"][0]["pixel_stats"]["min_intensity"] == 60


def test_grid_modes(client: FlaskClient, disc: bytes) -> None:
    automatic = {"mode": "exact", "points_per_side": 6, "pred_iou_thresh": 0.3}
    exact = found(send(client, disc, automatic=automatic, output=NO_MASKS))
    assert exact["automatic"]["prompts_run"] == 36
    fast = found(send(client, disc, automatic={**automatic, "mode": "fast"}, output=NO_MASKS))
    assert 0 < fast["automatic"]["prompts_run"] < 36


@pytest.mark.parametrize(
    ("form", "media_type"),
    [
        ("coco", "application/json"),
        ("geojson", "application/geo+json"),
        ("csv", "text/csv"),
        ("labels", "image/png"),
        ("overlay", "image/png"),
        ("yolo", "text/plain"),
        ("zip", "application/zip"),
    ],
)
def test_formats(client: FlaskClient, sample: bytes, form: str, media_type: str) -> None:
    expected = found(send(client, sample, output=NO_MASKS))["num_masks"]
    response = send(client, sample, output={"format": form})
    assert response.status_code == 200
    assert response.mimetype == media_type
    assert "droplets" in response.headers["Content-Disposition"]
    count = {
        "coco": lambda b: len(json.loads(b)["annotations"]),
        "geojson": lambda b: len(json.loads(b)["features"]),
        "csv": lambda b: len(list(csv.DictReader(io.StringIO(b.decode())))),
        "labels": lambda b: len(np.unique(np.asarray(Image.open(io.BytesIO(b))))) - 1,
        "overlay": lambda b: expected if Image.open(io.BytesIO(b)).size == (640, 480) else 0,
        "yolo": lambda b: len(b.decode().splitlines()),
        "zip": lambda b: len(
            [n for n in zipfile.ZipFile(io.BytesIO(b)).namelist() if n.startswith("masks/")]
        ),
    }[form](response.data)
    assert count == expected


def test_accept_chooses_the_format(client: FlaskClient, sample: bytes) -> None:
    data = {"file": (io.BytesIO(sample), "droplets.png")}
    response = client.post("/segment_file", data=data, headers={"Accept": "text/csv"})
    assert response.mimetype == "text/csv"


def test_analyze_image(client: FlaskClient, disc: bytes) -> None:
    response = client.post("/analyze_image", data={"file": (io.BytesIO(disc), "../../etc/disc.png")})
    answer = found(response)
    assert answer["filename"] == "disc.png"
    assert answer["analysis"]["image_info"] == {
        "width": 300, "height": 200, "channels": 1, "total_pixels": 60000
    }  # fmt: skip
    stats = answer["analysis"]["overall_stats"]
    pixels = cv2.imdecode(np.frombuffer(disc, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert stats["mean_intensity"] == pytest.approx(pixels.mean(), abs=1e-3)
    assert len(stats["histogram"]) == 50
    assert sum(stats["histogram"]) == 60000


def test_the_threshold_of_the_answer_is_the_one_that_applied(client: FlaskClient, sample: bytes) -> None:
    everything = found(send(client, sample, output=NO_MASKS, filters={"area_min": 0}))
    confidences = sorted(mask["predicted_iou"] for mask in everything["masks"])
    least = (confidences[4] + confidences[5]) / 2
    some = found(send(client, sample, output=NO_MASKS, automatic={"pred_iou_thresh": least}))
    assert some["automatic"]["pred_iou_thresh"] == least
    assert some["original_count"] == everything["original_count"] - 5
    grid = {"mode": "exact", "points_per_side": 2}
    assert (
        found(send(client, sample, output=NO_MASKS, automatic=grid))["automatic"]["pred_iou_thresh"] == 0.55
    )


def test_defaults(client: FlaskClient) -> None:
    answer = found(client.get("/defaults"))
    assert answer["defaults"]["automatic"]["mode"] == "instances"
    assert answer["defaults"]["automatic"]["pred_iou_thresh"] == 0.55
    assert answer["bounds"]["$defs"]["AutomaticInput"]["properties"]["points_per_side"]["maximum"] == 128
    assert answer["limits"]["max_file_size_mb"] == 50
    assert answer["limits"]["max_sequence_frames"] == 200
    assert answer["defaults"]["analysis"] is None
    assert answer["analysis_defaults"]["confidence"] == 0.95
    assert answer["sequence"]["defaults"]["tracking"]["max_gap"] == 2
    assert "frame_interval_s" in answer["sequence"]["bounds"]["properties"]


def test_instances_tiled_and_refined(client: FlaskClient, disc: bytes) -> None:
    plain = found(send(client, disc, output=NO_MASKS))
    assert (plain["automatic"]["mode"], plain["automatic"]["tiles"]) == ("instances", 0)
    assert plain["automatic"]["proposed_by"] == plain["model"]["name"]
    refined = found(send(client, disc, automatic={"refine": True}, output=NO_MASKS))
    assert refined["automatic"]["prompts_run"] == refined["num_masks"] == plain["num_masks"]
    assert refined["masks"][0]["area"] == pytest.approx(plain["masks"][0]["area"], rel=0.25)


def test_a_checkpoint_without_a_head_asks_the_shipped_one_for_instances(
    settings: Settings, engine: SamEngine, disc: bytes, tmp_path: Path
) -> None:
    """The same weights, saved without the name of their head."""
    weights = load_file(engine.model_dir / SHIPPED_FILE)
    save_file(weights, tmp_path / "headless.safetensors")
    headless = SamEngine(tmp_path, tmp_path / "headless.safetensors", device="cpu", proposer=engine)
    limiter = open_limiter(settings.data_dir / "limits.sqlite3")
    client = create_app(settings, headless, limiter).test_client()
    client.environ_base["HTTP_X_API_KEY"] = USER_KEY
    options = {"points_per_side": 4, "pred_iou_thresh": 0.3}
    assert found(send(client, disc, automatic=options, output=NO_MASKS))["automatic"]["mode"] == "exact"
    asked = {"mode": "instances", "refine": True}
    answer = found(send(client, disc, automatic=asked, output=NO_MASKS))
    assert answer["model"]["name"] == "headless"
    assert answer["automatic"]["proposed_by"] == engine.load().name
    assert answer["num_masks"] >= 1
    limiter.close()


@pytest.mark.parametrize(
    ("automatic", "field"),
    [
        ({"tiling": "some"}, "automatic.tiling"),
        ({"refine": 3}, "automatic.refine"),
        ({"tiles": 2}, "automatic.tiles"),
    ],
)
def test_wrong_options_of_instances_are_named(
    client: FlaskClient, disc: bytes, automatic: dict[str, object], field: str
) -> None:
    answer = send(client, disc, automatic=automatic)
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["field"] == field
