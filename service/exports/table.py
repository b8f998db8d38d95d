"""Measurements as a table (CSV, RFC 4180): one row an object, units in the names of the columns."""

import csv
import io
from collections.abc import Callable

from sam_engine.boundary import BoundaryFit, NoFit
from sam_engine.calibration import Calibration
from service.analysis import Analysis, Fit
from service.objects import SegmentedObject
from service.segmentation import Segmentation

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
FIT_COLUMNS: dict[str, Callable[[BoundaryFit], object]] = {
    "fit_x_px": lambda f: f.centre_xy[0],
    "fit_y_px": lambda f: f.centre_xy[1],
    "fit_major_axis_px": lambda f: 2 * f.semi_axes[0],
    "fit_minor_axis_px": lambda f: 2 * f.semi_axes[1],
    "fit_angle_degrees": lambda f: f.angle,
    "fit_diameter_px": lambda f: f.equivalent_diameter,
    "fit_diameter_stderr_px": lambda f: f.diameter_stderr,
    "fit_rms_residual_px": lambda f: f.rms_residual,
    "fit_support": lambda f: f.support,
}

Cells = dict[str, object]


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """UTF-8 with a header, a decimal point and every digit; what is absent is empty.

    The first column names the picture, so that the tables of several can be joined.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _header(segmentation))
    table.writeheader()
    name = harmless(picture_name)
    for found in segmentation.kept:
        table.writerow({"image": name, **_cells(found, segmentation)})
    return text.getvalue().encode()


def _header(segmentation: Segmentation) -> list[str]:
    header = ["image", *COLUMNS]
    if segmentation.calibration is not None:
        header += CALIBRATED_COLUMNS
    if segmentation.analysis is not None:
        header += _analysis_header(segmentation.analysis, segmentation.calibration)
    return header


def _analysis_header(analysis: Analysis, calibration: Calibration | None) -> list[str]:
    header = ["counted", "border_weight"]
    if analysis.parameters.inclusions:
        header += ["parent_id", "inclusions", "outline_diameter_px"]
        header += [] if calibration is None else ["outline_diameter_um"]
    if analysis.parameters.fit is not None:
        header += [*FIT_COLUMNS, "fit_failure"]
        header += [] if calibration is None else ["fit_diameter_um"]
    return header


def _cells(found: SegmentedObject, segmentation: Segmentation) -> Cells:
    calibration, analysis = segmentation.calibration, segmentation.analysis
    cells = {column: value(found) for column, value in COLUMNS.items()}
    if calibration is not None:
        cells |= calibration.shape(found.measurement.shape)
    if analysis is None:
        return cells
    cells |= {
        "counted": str(found.id in analysis.weights).lower(),
        "border_weight": analysis.weights.get(found.id, 0),
    }
    if analysis.parameters.inclusions:
        children = analysis.children_of.get(found.id, [])
        cells |= {"parent_id": analysis.parent_of[found.id], "inclusions": len(children)}
        cells |= _lengths("outline_diameter", analysis.diameters[found.id], calibration)
    return cells | _fit_cells(analysis.fits.get(found.id), calibration)


def _lengths(name: str, pixels: float, calibration: Calibration | None) -> Cells:
    calibrated = {} if calibration is None else {f"{name}_um": calibration.um_per_px * pixels}
    return {f"{name}_px": pixels, **calibrated}


def _fit_cells(fit: Fit | None, calibration: Calibration | None) -> Cells:
    if fit is None:
        return {}
    if isinstance(fit, NoFit):
        return {"fit_failure": fit.reason}
    cells = {column: value(fit) for column, value in FIT_COLUMNS.items()}
    return cells | _lengths("fit_diameter", fit.equivalent_diameter, calibration)


def harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: an apostrophe goes before one (OWASP)."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
