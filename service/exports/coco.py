"""COCO's detection format, https://cocodataset.org/#format-data."""

import json
from typing import Any

from sam_engine.masks import encode_rle, polygons
from service import __version__
from service.objects import SegmentedObject
from service.segmentation import Segmentation

IMAGE_ID = 1
CATEGORY_OF_CLASS = {None: 1, "low": 1, "high": 2}


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """One JSON document of one picture, with `picture_name` as its `file_name`."""
    height, width = segmentation.picture.size
    image = {"id": IMAGE_ID, "file_name": picture_name, "width": width, "height": height}
    document = {
        "info": {"description": "Segmented by SAM Droplet", "version": __version__},
        "licenses": [],
        "images": [image],
        "categories": _categories(segmentation),
        "annotations": [_annotation(found) for found in segmentation.kept],
    }
    return json.dumps(document, allow_nan=False).encode()


def _categories(segmentation: Segmentation) -> list[dict[str, Any]]:
    if segmentation.summary.intensity_analysis.threshold is None:
        return [{"id": 1, "name": "droplet", "supercategory": "object"}]
    return [{"id": CATEGORY_OF_CLASS[c], "name": c, "supercategory": "droplet"} for c in ("low", "high")]


def _annotation(found: SegmentedObject) -> dict[str, Any]:
    """`iscrowd` stays 0 with run lengths too: 1 marks regions of many objects, which evaluation ignores."""
    return {
        "id": found.id,
        "image_id": IMAGE_ID,
        "category_id": CATEGORY_OF_CLASS[found.intensity_class],
        "bbox": [int(side) for side in found.mask.bbox_xywh],
        "area": found.measurement.shape.area,
        "segmentation": _outline_or_runs(found),
        "iscrowd": 0,
        "score": float(found.mask.predicted_iou),
    }


def _outline_or_runs(found: SegmentedObject) -> list[list[float]] | dict[str, object]:
    """COCO's polygons cannot say that there is a hole, and its tools take islands for separate objects."""
    outlines = polygons(found.mask)
    return [outlines[0][:-1].ravel().tolist()] if len(outlines) == 1 else encode_rle(found.mask)
