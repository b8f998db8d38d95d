"""Everything about a picture in one ZIP. The same segmentation gives the same bytes."""

import io
import json
import zipfile
from typing import Any

from sam_engine.calibration import calibrate
from service import __version__
from service.exports import coco, labels, overlay, table
from service.exports.png import mask_png
from service.provenance import filters_applied, image_info, model_info
from service.segmentation import Segmentation

EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)  # of the format; the true time would make every archive differ
READABLE_FILE = 0o100644 << 16
UNIX = 3


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """Table, summary, COCO document, overlay, label map, and a mask an object under its id."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, "measurements.csv", table.write(segmentation, picture_name))
        _add(archive, "summary.json", _summary_json(segmentation, picture_name))
        _add(archive, "coco.json", coco.write(segmentation, picture_name))
        _add(archive, "overlay.png", overlay.write(segmentation))
        labels_name = "labels.png" if labels.fits_png(segmentation) else "labels.tif"
        _add(archive, labels_name, labels.write(segmentation))
        for found in segmentation.kept:
            _add(archive, f"masks/{found.id:04d}.png", mask_png(found.mask))
    return file.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, EARLIEST_TIME)
    entry.create_system, entry.external_attr = UNIX, READABLE_FILE  # on every platform
    is_text = name.endswith((".csv", ".json"))
    archive.writestr(entry, data, zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED)


def _summary_json(segmentation: Segmentation, picture_name: str) -> bytes:
    """What was found, and all that is needed to find it again."""
    options = segmentation.options
    document = {
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
    return json.dumps(document, indent=2, allow_nan=False).encode()


def _calibration(segmentation: Segmentation) -> dict[str, Any] | None:
    um_per_px = segmentation.options.um_per_px
    if um_per_px is None:
        return None
    sizes = calibrate(um_per_px).sizes(segmentation.summary.diameter_stats)
    return {"um_per_px": um_per_px, "diameter_stats_um": sizes}
