"""A segmentation in the formats of other programs; each covers the objects that no filter removed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.exports import archive, coco, geojson, labels, overlay, table, yolo
from service.segmentation import Segmentation

ExportFormat = Literal["coco", "yolo", "geojson", "csv", "labels", "overlay", "zip"]
PICTURE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp)$", re.IGNORECASE)
LONGEST_STEM = 100


@dataclass(frozen=True, slots=True)
class Export:
    """A file to hand over; `filename` has no path and no character that a file system refuses."""

    body: bytes
    media_type: str
    filename: str


@dataclass(frozen=True, slots=True)
class _Format:
    write: Callable[[Segmentation, str], bytes]
    media_type: str
    ending: str


FORMATS: dict[ExportFormat, _Format] = {
    "coco": _Format(coco.write, "application/json", ".coco.json"),
    "yolo": _Format(yolo.write, "text/plain; charset=utf-8", ".txt"),
    "geojson": _Format(geojson.write, "application/geo+json", ".geojson"),
    "csv": _Format(table.write, "text/csv; charset=utf-8", ".csv"),
    "labels": _Format(labels.write, "image/png", ".labels.png"),
    "overlay": _Format(overlay.write, "image/png", ".overlay.png"),
    "zip": _Format(archive.write, "application/zip", ".zip"),
}
LARGE_LABELS = _Format(labels.write, "image/tiff", ".labels.tif")


def write(segmentation: Segmentation, format: ExportFormat, picture_name: str) -> Export:
    """Write a segmentation in a format.

    Args:
        picture_name: of the picture's file, with or without its suffix. COCO, CSV and GeoJSON name it as it
            is; the export is called after it, without the suffix.
    """
    chosen = FORMATS[format]
    if format == "labels" and not labels.fits_png(segmentation):
        chosen = LARGE_LABELS
    body = chosen.write(segmentation, picture_name)
    return Export(body, chosen.media_type, safe_stem(picture_name) + chosen.ending)


def safe_stem(picture_name: str) -> str:
    """Letters, digits, `.`, `-` and `_` of a name, without the picture's suffix; `image` if none is left."""
    stem = re.sub(r"[^\w.-]+", "_", PICTURE_SUFFIX.sub("", picture_name))
    return stem.strip("._-")[:LONGEST_STEM] or "image"
