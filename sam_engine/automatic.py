"""Segment everything: by the dense head where the checkpoint has one, else by a grid of points."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.dense import Tiling, find_instances, refine
from sam_engine.engine import SamEngine
from sam_engine.errors import InvalidInput
from sam_engine.instances import InstanceParameters
from sam_engine.masks import (
    Upscaler,
    boxes_xyxy,
    crop,
    non_maximum_suppression,
    remove_small_regions,
    threshold_logits,
)
from sam_engine.types import BoolArray, ByteArray, FloatArray, ImageEmbedding, Mask

Mode = Literal["instances", "fast", "exact"]
Box = tuple[int, int, int, int]

CROP_NMS_THRESH = 0.7
CROP_OVERLAP_RATIO = 512 / 1500
CROP_EDGE_TOLERANCE_PX = 20
FAST_FIRST_STEP = 4


@dataclass(frozen=True, slots=True)
class AutomaticParameters:
    """Parameters of segment-anything's automatic mask generator, and of the instance head.

    Attributes:
        mode: `instances` asks the dense head; `exact` prompts every point of a grid; `fast` prompts a sparse
            grid first and then only the points that no mask found so far covers.
        points_per_side: of the grid.
        pred_iou_thresh, stability_score_thresh: masks must exceed the first and reach the second; 0 or less
            lets all pass.
        stability_score_offset: shift of the logit threshold for the stability score.
        box_nms_thresh: box IoU above which the worse of two masks goes.
        crop_n_layers: the picture is also cut into 2, 4, ... crops a side, each with a grid of its own.
        crop_n_points_downscale_factor: the grid of layer n has points_per_side / factor**n points a side.
        crop_nms_thresh, crop_overlap_ratio: between crops; overlap as a share of the picture's short side.
        min_mask_region_area: holes and islands smaller than this many pixels go.
        max_mask_area: larger masks go; None keeps all.
        instances: of the dense head.
        tiling: whether the dense head also sees magnified tiles of the picture: `off`, `full` (at its own
            resolution), `auto` (as far as the objects are small).
        refine: the mask decoder draws each instance again.
    """

    mode: Mode = "exact"
    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_n_points_downscale_factor: int = 1
    crop_nms_thresh: float = CROP_NMS_THRESH
    crop_overlap_ratio: float = CROP_OVERLAP_RATIO
    min_mask_region_area: int = 0
    max_mask_area: int | None = None
    instances: InstanceParameters = field(default_factory=InstanceParameters)
    tiling: Tiling = "auto"
    refine: bool = False

    @property
    def inclusions(self) -> bool:
        """Whether the dense head looks for objects inside objects as well."""
        return self.instances.inclusions


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """Everything found in a picture.

    Attributes:
        pred_iou_thresh: least predicted IoU that applied.
        prompts_run: how many prompts it took; none for the dense head alone.
        tiles: parts of the picture that the dense head saw besides the whole.
        proposed_by: name of the checkpoint whose dense head found the instances; None in other modes.
    """

    masks: list[Mask]
    pred_iou_thresh: float
    prompts_run: int
    tiles: int = 0
    proposed_by: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class _CropMasks:
    masks: list[Mask]
    prompts_run: int
    crop_area: int


def segment_everything(
    engine: SamEngine, image: ByteArray, embedding: ImageEmbedding, parameters: AutomaticParameters
) -> Segmentation:
    """All objects of an upright RGB picture (H, W, 3) whose embedding is given.

    Raises:
        InvalidInput: `instances` is asked for and the active checkpoint has no instance head.
    """
    if parameters.mode != "instances":
        found = _segment_by_grid(engine, image, embedding, parameters)
    else:
        found = _segment_densely(engine, image, embedding, parameters)
    masks = found.masks
    if parameters.min_mask_region_area:
        masks = _without_small_regions(masks, parameters)
    return replace(found, masks=[mask for mask in masks if _is_wanted(mask, parameters)])


def _segment_densely(
    engine: SamEngine, image: ByteArray, embedding: ImageEmbedding, parameters: AutomaticParameters
) -> Segmentation:
    """By the engine's own dense head or that of its proposer; `refine` draws with the engine's decoder."""
    proposer, seen = engine, embedding
    if embedding.instance_field is None:
        if engine.proposer is None:
            raise InvalidInput(
                "automatic.mode", "=instances needs a checkpoint with an instance head; use exact"
            )
        proposer = engine.proposer
        seen = proposer.embed(image)
    masks, tiles = find_instances(proposer, image, seen, parameters.instances, parameters.tiling)
    if parameters.refine:
        masks = refine(engine, embedding, masks)
    prompts_run = len(masks) if parameters.refine else 0
    model = proposer.load()
    least = parameters.instances.least_iou(model.instance_quality)
    return Segmentation(masks, least, prompts_run, tiles, model.name)


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """Centres of a grid of cells over the unit square, (points_per_side**2, 2) of XY, row by row."""
    places = (np.arange(points_per_side) + 0.5) / points_per_side
    return np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)


def crop_boxes(image_size: tuple[int, int], n_layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """(x1, y1, x2, y2) of the picture and of its crops, each with its layer; crops of a layer overlap."""
    height, width = image_size
    boxes = [((0, 0, width, height), 0)]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * 2 / n)
        w, h = (math.ceil((overlap * (n - 1) + side) / n) for side in (width, height))
        for i, j in product(range(n), range(n)):
            x, y = (w - overlap) * i, (h - overlap) * j
            boxes.append(((x, y, min(x + w, width), min(y + h, height)), layer))
    return boxes


def _segment_by_grid(
    engine: SamEngine, image: ByteArray, embedding: ImageEmbedding, parameters: AutomaticParameters
) -> Segmentation:
    crops = [
        _segment_crop(engine, image, embedding, parameters, box, layer)
        for box, layer in crop_boxes(image.shape[:2], parameters.crop_n_layers, parameters.crop_overlap_ratio)
    ]
    masks = [mask for crop in crops for mask in crop.masks]
    if len(crops) > 1:  # a mask from a smaller crop has seen more detail
        detail = np.array([1 / crop.crop_area for crop in crops for _ in crop.masks])
        kept = non_maximum_suppression(boxes_xyxy(masks), detail, parameters.crop_nms_thresh)
        masks = [masks[i] for i in kept]
    return Segmentation(masks, parameters.pred_iou_thresh, sum(crop.prompts_run for crop in crops))


def _segment_crop(
    engine: SamEngine,
    image: ByteArray,
    embedding: ImageEmbedding,
    parameters: AutomaticParameters,
    box: Box,
    layer: int,
) -> _CropMasks:
    x1, y1, x2, y2 = box
    if layer:
        embedding = engine.embed(image[y1:y2, x1:x2])
    grid = point_grid(
        max(1, int(parameters.points_per_side / parameters.crop_n_points_downscale_factor**layer))
    )
    masks, prompts_run = _masks_of_grid(engine, embedding, grid, parameters)
    image_size = image.shape[:2]
    masks = [mask for mask in masks if not _cut_by_crop(mask, box, image_size)]
    scores = np.array([mask.predicted_iou for mask in masks])
    kept = non_maximum_suppression(boxes_xyxy(masks), scores, parameters.box_nms_thresh)
    placed = [_place(masks[i], (x1, y1), image_size) for i in kept]
    return _CropMasks(placed, prompts_run, (x2 - x1) * (y2 - y1))


def _masks_of_grid(
    engine: SamEngine, embedding: ImageEmbedding, grid: NDArray[np.float64], parameters: AutomaticParameters
) -> tuple[list[Mask], int]:
    """Masks that pass the thresholds, and the number of prompts decoded."""
    height, width = embedding.original_size
    points = grid * (width, height)
    if parameters.mode == "exact":
        return list(_masks_at(engine, embedding, points, parameters)), len(points)
    side = math.isqrt(len(points))
    y, x = np.divmod(np.arange(len(points)), side)
    start = min(FAST_FIRST_STEP, side) // 2
    first = (x % FAST_FIRST_STEP == start) & (y % FAST_FIRST_STEP == start)
    masks = list(_masks_at(engine, embedding, points[first], parameters))
    covering = [mask for mask in masks if _is_wanted(mask, parameters)]
    rest = points[~first & ~_covered(points, covering, embedding.original_size)]
    masks.extend(_masks_at(engine, embedding, rest, parameters))
    return masks, int(first.sum()) + len(rest)


def _is_wanted(mask: Mask, parameters: AutomaticParameters) -> bool:
    return parameters.max_mask_area is None or mask.area <= parameters.max_mask_area


def _covered(
    points: NDArray[np.float64], masks: list[Mask], image_size: tuple[int, int]
) -> NDArray[np.bool_]:
    canvas = np.zeros(image_size, dtype=bool)
    for mask in masks:
        canvas[mask.window] |= mask.pixels
    covered: NDArray[np.bool_] = canvas[points[:, 1].astype(int), points[:, 0].astype(int)]
    return covered


def _masks_at(
    engine: SamEngine,
    embedding: ImageEmbedding,
    points: NDArray[np.float64],
    parameters: AutomaticParameters,
) -> Iterator[Mask]:
    """Candidates of each point that pass the thresholds. Masks are drawn only where a score passes."""
    upscaler = Upscaler(embedding.original_size, embedding.input_size)
    for part, decoded in engine.decode_points(embedding, points.astype(np.float32)):
        scores = decoded.iou_predictions[:, 1:]
        passing = (scores > parameters.pred_iou_thresh) | (parameters.pred_iou_thresh <= 0)
        passing &= engine.answering(scores)
        prompts = torch.nonzero(passing.any(dim=1))[:, 0]
        if not len(prompts):
            continue
        logits = engine.draw(decoded, prompts, slice(1, 4))
        rows, candidates = torch.nonzero(passing[prompts], as_tuple=True)
        for row, candidate in zip(rows.tolist(), candidates.tolist(), strict=True):
            prompt = int(prompts[row])
            point = tuple(points[part][prompt].tolist())
            score = float(scores[prompt, candidate])
            mask = _stable_mask(upscaler, logits[row, candidate], score, point, parameters)
            if mask is not None:
                yield mask


def _stable_mask(
    upscaler: Upscaler,
    logits: FloatArray,
    score: float,
    point: tuple[float, float],
    parameters: AutomaticParameters,
) -> Mask | None:
    found = threshold_logits(upscaler, logits, offset=parameters.stability_score_offset)
    if found is None:
        return None
    pixels, origin, stability = found
    if 0 < parameters.stability_score_thresh and stability < parameters.stability_score_thresh:
        return None
    return Mask(pixels, origin, upscaler.original_size, score, stability, (point,))


def _cut_by_crop(mask: Mask, box: Box, image_size: tuple[int, int]) -> bool:
    """Whether the mask ends at an edge of the crop that is not an edge of the picture."""
    height, width = image_size
    x, y, w, h = mask.bbox_xywh
    found = (box[0] + x, box[1] + y, box[0] + x + w - 1, box[1] + y + h - 1)
    edges = zip(found, box, (0, 0, width, height), strict=True)
    return any(
        abs(at - crop) <= CROP_EDGE_TOLERANCE_PX and abs(at - picture) > CROP_EDGE_TOLERANCE_PX
        for at, crop, picture in edges
    )


def _place(mask: Mask, origin: tuple[int, int], image_size: tuple[int, int]) -> Mask:
    """A mask of a crop as one of the picture."""
    dx, dy = origin
    x, y = mask.origin_xy
    points = tuple((px + dx, py + dy) for px, py in mask.point_coords)
    return replace(mask, origin_xy=(x + dx, y + dy), image_size=image_size, point_coords=points)


def _without_small_regions(masks: list[Mask], parameters: AutomaticParameters) -> list[Mask]:
    """Masks without small holes and islands; of masks that became alike, the untouched stay."""
    cleaned, untouched = [], []
    for mask in masks:
        pixels = remove_small_regions(mask, parameters.min_mask_region_area)
        cleaned.append(mask if pixels is None else _with_pixels(mask, pixels))
        untouched.append(pixels is None)
    threshold = max(parameters.box_nms_thresh, parameters.crop_nms_thresh)
    kept = non_maximum_suppression(boxes_xyxy(cleaned), np.array(untouched, dtype=float), threshold)
    return [cleaned[i] for i in kept]


def _with_pixels(mask: Mask, pixels: BoolArray) -> Mask:
    """The mask with other pixels in the same bounding box, which may shrink."""
    found = crop(pixels)
    if found is None:
        return mask
    cropped, (dx, dy) = found
    x, y = mask.origin_xy
    return replace(mask, pixels=cropped, origin_xy=(x + dx, y + dy))
