"""Measurements as a table (CSV, RFC 4180): one row an object, units in the names of the columns."""

import csv
import io
from collections.abc import Callable

from sam_engine.calibration import calibrate
from service.segmentation import Segmentation, SegmentedObject

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

COLUMNS: dict[str, Callable[[SegmentedObject], object]] = {
    "id": lambda o: o.id,
    "area_px": lambda o: o.measurement.shape.area,
    "equivalent_diameter_px": lambda o: o.measurement.shape.equivalent_diameter,
    "max_feret_diameter_px": lambda o: o.measurement.shape.max_feret_diameter,
    "perimeter_px": lambda o: o.measurement.shape.perimeter,
    "circularity": lambda o: o.measurement.shape.circularity,
    "solidity": lambda o: o.measurement.shape.solidity,
    "eccentricity": lambda o: o.measurement.shape.eccentricity,
    "centroid_x_px": lambda o: o.measurement.shape.centroid_xy[0],
    "centroid_y_px": lambda o: o.measurement.shape.centroid_xy[1],
    "bbox_x_px": lambda o: o.mask.bbox_xywh[0],
    "bbox_y_px": lambda o: o.mask.bbox_xywh[1],
    "bbox_width_px": lambda o: o.mask.bbox_xywh[2],
    "bbox_height_px": lambda o: o.mask.bbox_xywh[3],
    "mean_intensity": lambda o: o.measurement.intensity.mean,
    "min_intensity": lambda o: o.measurement.intensity.min,
    "max_intensity": lambda o: o.measurement.intensity.max,
    "std_intensity": lambda o: o.measurement.intensity.std,
    "median_intensity": lambda o: o.measurement.intensity.median,
    "edge_distance_top_px": lambda o: o.measurement.edge.top,
    "edge_distance_bottom_px": lambda o: o.measurement.edge.bottom,
    "edge_distance_left_px": lambda o: o.measurement.edge.left,
    "edge_distance_right_px": lambda o: o.measurement.edge.right,
    "touches_edge": lambda o: str(o.measurement.edge.touches).lower(),
    "predicted_iou": lambda o: float(o.mask.predicted_iou),
    "stability_score": lambda o: float(o.mask.stability_score),
    "intensity_class": lambda o: o.intensity_class,
    "prompt_index": lambda o: o.mask.prompt_index,
    "mask_index": lambda o: o.mask.mask_index,
}
CALIBRATED_COLUMNS = ("area_um2", "equivalent_diameter_um", "max_feret_diameter_um", "perimeter_um")


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """UTF-8 with a header, a decimal point and every digit; what is absent is empty.

    The first column names the picture, so that the tables of several can be joined.
    """
    um_per_px = segmentation.options.um_per_px
    calibration = None if um_per_px is None else calibrate(um_per_px)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["image", *COLUMNS, *(() if calibration is None else CALIBRATED_COLUMNS)])
    name = harmless(picture_name)
    for found in segmentation.kept:
        lengths = {} if calibration is None else calibration.shape(found.measurement.shape)
        measured = [value(found) for value in COLUMNS.values()]
        table.writerow([name, *measured, *(lengths[column] for column in CALIBRATED_COLUMNS if lengths)])
    return text.getvalue().encode()


def harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: an apostrophe goes before one (OWASP)."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
