"""A segmentation in the formats of other programs; each covers the objects that no filter removed."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.exports import archive, coco, geojson, labels, overlay, plots, report, sequence, table, yolo
from service.schemas import SequenceFormat
from service.segmentation import Segmentation
from service.sequence_answers import sequence_answer
from service.sequences import SequenceAnalysis

ExportFormat = Literal["coco", "yolo", "geojson", "csv", "labels", "overlay", "zip", "html", "svg", "plot"]
WITH_ANALYSIS: tuple[ExportFormat, ...] = ("html", "svg", "plot")
PICTURE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp)$", re.IGNORECASE)
LONGEST_STEM = 100


@dataclass(frozen=True, slots=True)
class Export:
    """A file to hand over; `stem` has no path and no character that a file system refuses."""

    body: bytes
    media_type: str
    stem: str
    ending: str

    @property
    def filename(self) -> str:
        """Stem and ending."""
        return self.stem + self.ending


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
    "html": _Format(report.write, "text/html; charset=utf-8", ".report.html"),
    "svg": _Format(plots.write_svg, "image/svg+xml", ".sizes.svg"),
    "plot": _Format(plots.write_png, "image/png", ".sizes.png"),
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
    return Export(body, chosen.media_type, safe_stem(picture_name), chosen.ending)


def write_sequence(found: SequenceAnalysis, format: SequenceFormat, name: str) -> Export:
    """Write a sequence in a format; the export is called after the file `name`."""
    stem = safe_stem(name)
    if format == "zip":
        return Export(sequence.write_zip(found), "application/zip", stem, ".tracks.zip")
    if format == "csv":
        return Export(sequence.write_csv(found), "text/csv; charset=utf-8", stem, ".tracks.csv")
    body = json.dumps(sequence_answer(found), indent=2, allow_nan=False).encode()
    return Export(body, "application/json", stem, ".tracks.json")


def safe_stem(picture_name: str) -> str:
    """Letters, digits, `.`, `-` and `_` of a name, without the picture's suffix; `image` if none is left."""
    stem = re.sub(r"[^\w.-]+", "_", PICTURE_SUFFIX.sub("", picture_name))
    return stem.strip("._-")[:LONGEST_STEM] or "image"
