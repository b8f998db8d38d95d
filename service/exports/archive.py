"""Everything about a picture in one ZIP. The same segmentation gives the same bytes."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from service import __version__
from service.analysis_answers import analysis_answer, calibration_answer
from service.exports import coco, labelled, labels, overlay, plots, report, summary, table
from service.exports.png import mask_png
from service.provenance import filters_applied, image_info, model_info
from service.segmentation import Segmentation

EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)  # of the format; the true time would make every archive differ
READABLE_FILE = 0o100644 << 16
UNIX = 3
TEXT = (".csv", ".json", ".html", ".svg")


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """Table, summary, COCO document, overlay, label map, and a mask an object under its id.

    With an analysis also the report, its summary as a table, its numbered overlay and its plot.
    """
    return zipped(_members(segmentation, picture_name))


def zipped(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A ZIP of names and contents; the same members give the same bytes. Text alone is compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            entry = zipfile.ZipInfo(name, EARLIEST_TIME)
            entry.create_system, entry.external_attr = UNIX, READABLE_FILE  # on every platform
            compress = zipfile.ZIP_DEFLATED if name.endswith(TEXT) else zipfile.ZIP_STORED
            archive.writestr(entry, data, compress)
    return file.getvalue()


def _members(segmentation: Segmentation, picture_name: str) -> Iterator[tuple[str, bytes]]:
    yield "measurements.csv", table.write(segmentation, picture_name)
    yield "summary.json", _summary_json(segmentation, picture_name)
    yield "coco.json", coco.write(segmentation, picture_name)
    yield "overlay.png", overlay.write(segmentation)
    labels_name = "labels.png" if labels.fits_png(segmentation) else "labels.tif"
    yield labels_name, labels.write(segmentation)
    if segmentation.analysis is not None:
        yield "summary.csv", summary.write(segmentation, picture_name)
        yield "report.html", report.write(segmentation, picture_name)
        yield "overlay_numbered.png", labelled.write(segmentation)
        yield "size_distribution.png", plots.write_png(segmentation)
        yield "size_distribution.svg", plots.write_svg(segmentation)
    for found in segmentation.kept:
        yield f"masks/{found.id:04d}.png", mask_png(found.mask)


def _summary_json(segmentation: Segmentation, picture_name: str) -> bytes:
    """What was found, and all that is needed to find it again."""
    options = segmentation.options
    document: dict[str, Any] = {
        "version": __version__,
        "model": model_info(segmentation.model),
        "image": {"name": picture_name, **image_info(segmentation)},
        "options": options.model_dump(mode="json", exclude_unset=True, exclude={"image"}),
        "automatic": segmentation.automatic,
        "original_count": segmentation.original_count,
        "filters_applied": filters_applied(segmentation),
        "calibration": _calibration(segmentation),
        "summary_statistics": segmentation.summary.as_dict(),
    }
    if segmentation.analysis is not None:
        document["analysis"] = analysis_answer(segmentation.analysis, segmentation.scale)
    return json.dumps(document, indent=2, allow_nan=False).encode()


def _calibration(segmentation: Segmentation) -> dict[str, Any] | None:
    scale = segmentation.scale
    if scale is None:
        return None
    sizes = scale.calibration.sizes(segmentation.summary.diameter_stats)
    return {**calibration_answer(scale), "diameter_stats_um": sizes}
