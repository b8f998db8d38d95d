"""GeoJSON (RFC 7946) in pixels instead of degrees, as image viewers and drawing tools read it.

The RFC wants outer rings anticlockwise and holes clockwise. That is kept by the numbers, which is what
programs test: the shoelace sum of x and y is positive for outer rings. On a screen, where y points down,
outer rings therefore run clockwise.
"""

import json
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.calibration import Calibration
from sam_engine.masks import polygons
from sam_engine.types import Mask
from service.objects import SegmentedObject
from service.segmentation import Segmentation

Ring = NDArray[np.float64]


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """A FeatureCollection; the member `pixel_coordinates` says what its numbers mean."""
    height, width = segmentation.picture.size
    calibration = segmentation.calibration
    document = {
        "type": "FeatureCollection",
        "pixel_coordinates": {
            "image": picture_name,
            "width": width,
            "height": height,
            "origin": "upper left corner of the upper left pixel; y points down",
            "um_per_px": None if calibration is None else calibration.um_per_px,
        },
        "features": [_feature(found, calibration) for found in segmentation.kept],
    }
    return json.dumps(document, allow_nan=False).encode()


def _feature(found: SegmentedObject, calibration: Calibration | None) -> dict[str, Any]:
    parts = [[ring.tolist() for ring in part] for part in _parts(found.mask)]
    single = len(parts) == 1
    return {
        "type": "Feature",
        "id": found.id,
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": parts[0] if single else parts,
        },
        "properties": _properties(found, calibration),
    }


def _properties(found: SegmentedObject, calibration: Calibration | None) -> dict[str, Any]:
    shape, mask = found.measurement.shape, found.mask
    properties = {
        "id": found.id,
        "area": shape.area,
        "equivalent_diameter": shape.equivalent_diameter,
        "max_feret_diameter": shape.max_feret_diameter,
        "perimeter": shape.perimeter,
        "circularity": shape.circularity,
        "solidity": shape.solidity,
        "eccentricity": shape.eccentricity,
        "mean_intensity": found.measurement.intensity.mean,
        "touches_edge": found.measurement.edge.touches,
        "predicted_iou": float(mask.predicted_iou),
        "stability_score": float(mask.stability_score),
        "intensity_class": found.intensity_class,
        "prompt_index": mask.prompt_index,
    }
    return properties if calibration is None else {**properties, **calibration.shape(shape)}


def _parts(mask: Mask) -> list[list[Ring]]:
    """The rings of each component: the outer one first, then its holes."""
    rings = polygons(mask)
    parts = [[ring] for ring in rings if _signed_area(ring) > 0]
    parts.sort(key=lambda part: _signed_area(part[0]))
    for hole in (ring for ring in rings if _signed_area(ring) <= 0):
        next(part for part in parts if _encloses(part[0], hole)).append(hole)
    return parts[::-1]


def _signed_area(ring: Ring) -> float:
    """The shoelace formula."""
    x, y = (ring - ring[0]).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def _encloses(outer: Ring, hole: Ring) -> bool:
    """Rings of one mask never touch, so that any point of the hole decides."""
    return cv2.pointPolygonTest(outer.astype(np.float32), hole[0].tolist(), False) > 0
