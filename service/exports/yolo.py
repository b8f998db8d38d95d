"""The text of YOLO's segmentation data sets: `class x1 y1 x2 y2 ...`, one object a line."""

import cv2
import numpy as np

from sam_engine.masks import polygons
from service.objects import SegmentedObject
from service.segmentation import Segmentation

CLASS_NUMBER = {None: 0, "low": 0, "high": 1}


def write(segmentation: Segmentation, _picture_name: str) -> bytes:
    """Coordinates are shares of width and height; an empty text if there is no object."""
    height, width = segmentation.picture.size
    lines = [_line(found, width, height) for found in segmentation.kept]
    return "".join(f"{line}\n" for line in lines).encode()


def _line(found: SegmentedObject, width: int, height: int) -> str:
    """The format has one outline an object: that of the largest component, without its holes."""
    outline = max(polygons(found.mask), key=lambda points: cv2.contourArea(points.astype(np.float32)))
    shares = (outline[:-1] / (width, height)).ravel()
    return " ".join([str(CLASS_NUMBER[found.intensity_class]), *(f"{share:.6f}" for share in shares)])
