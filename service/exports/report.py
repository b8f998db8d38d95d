"""One HTML file that says everything about a picture, runs nothing and fetches nothing."""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from sam_engine.boundary import BoundaryFit
from sam_engine.sizing import Estimate
from service import __version__
from service.analysis import Analysis
from service.exports import labelled, plots, summary
from service.exports.plots import pretty
from service.exports.summary import Row
from service.objects import SegmentedObject
from service.segmentation import Segmentation
from service.settings import PROJECT

PICTURE_SIDE_PX = 1600
JPEG_QUALITY = 88
MOST_OBJECTS = 5000  # of the table; the CSV has all
DIGITS = 4
TITLES = {
    "objects": "What was counted",
    "digital PCR": "Digital PCR",
    "inclusions": "Inclusions",
    "calibration": "Calibration",
    "filters": "Filters",
    "model": "Model",
    "picture": "File",
    "parameters": "Parameters",
}
PLOT_CAPTION = (
    "Shares of the objects in each class of size; shares of the objects (solid) and of their volume (dashed) "
    "below a diameter. Volumes are those of spheres of the equivalent diameter."
)
TOO_FEW = "too_few_objects"
LEADS = {
    TOO_FEW: "Too few objects",
    "volume_dominated": "One object decides",
    "uneven_weights": "Uneven weights",
    "cut_off": "Cut at the edge",
    "candidates_counted": "Not all are objects",
    "few_fits": "Weak edges",
    "no_classes": "No classes",
    "one_class": "One class only",
    "classes_not_apart": "The two classes are not clearly apart",
    "classes_overlap": "The two classes overlap",
    "wide_interval": "Few droplets",
    "saturated": "Too concentrated",
    "no_positives": "No positive droplet",
    "volume_of_spheres": "Droplet volume",
    "too_few_for_test": "Not compared with Poisson",
}
STYLE = (PROJECT / "static" / "report.css").read_text(encoding="utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'sha256-{_DIGEST}'"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text; the first of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a table and what is to be said about it."""

    title: str
    table: Table
    notes: Sequence[str] = field(default_factory=tuple)


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """UTF-8. The picture is reduced to 1600 pixels; the same segmentation gives the same bytes."""
    analysis = segmentation.analysis
    if analysis is None:
        raise ValueError("a segmentation without analysis has no report")
    picture = _picture(segmentation)
    page = _template().render(
        name=picture_name,
        version=__version__,
        policy=POLICY,
        style=Markup(STYLE),  # noqa: S704 - our own file
        headline=_headline(segmentation, analysis),
        warnings=_warnings(analysis),
        overlay=_data_url(picture),
        overlay_size=picture.size,
        overlay_caption=_overlay_caption(segmentation, analysis),
        plots=[Markup(plot) for plot in plots.svg_elements(segmentation)],  # noqa: S704 - drawn from numbers
        plot_caption=PLOT_CAPTION,
        statistics=_statistics(segmentation, analysis),
        notes=_notes(analysis),
        sections=_sections(segmentation, picture_name),
        objects=_objects(segmentation, analysis),
        objects_left_out=_left_out(segmentation),
    )
    return page.encode()


@cache
def _template() -> Template:
    pages = Environment(
        loader=FileSystemLoader(PROJECT / "templates"), autoescape=True, undefined=StrictUndefined
    )
    return pages.get_template("report.html")


def _picture(segmentation: Segmentation) -> Image.Image:
    return Image.fromarray(labelled.draw(segmentation, PICTURE_SIDE_PX))


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _overlay_caption(segmentation: Segmentation, analysis: Analysis) -> str:
    text = "Outlines and numbers are those of the table of objects."
    threshold = segmentation.summary.intensity_analysis.threshold
    if threshold is not None:
        text += f" Orange: mean intensity of at least {_number(threshold)} (high), blue: below (low)."
    if analysis.counts.counted < analysis.counts.kept:
        text += " Grey: not counted, for they lie in others or at an edge."
    return text


def _warnings(analysis: Analysis) -> list[tuple[str, str]]:
    """What each is about, and its sentence; those of single statistics together."""
    found = [
        (LEADS.get(warning.code, ""), warning.message)
        for warning in analysis.warnings
        if warning.code != TOO_FEW or warning.statistic is None
    ]
    few = [
        warning.statistic for warning in analysis.warnings if warning.code == TOO_FEW and warning.statistic
    ]
    if not few:
        return found
    known = ", ".join(_known_to(getattr(analysis.sizes.distribution, name), name) for name in few)
    return [(LEADS[TOO_FEW], f"known to no better than 5 %: {known}."), *found]


def _known_to(estimate: Estimate, name: str) -> str:
    error = "unknown" if estimate.relative_error is None else f"{100 * estimate.relative_error:.1f} %"
    needed = "no count is enough" if estimate.required_count is None else f"{estimate.required_count} needed"
    return f"{summary.LABELS[name]} ({error}; {needed})"


def _headline(segmentation: Segmentation, analysis: Analysis) -> list[tuple[str, str]]:
    sizes = analysis.sizes_in(segmentation.calibration)
    found, unit = sizes.distribution, sizes.unit
    scale = "pixels" if segmentation.scale is None else f"{segmentation.scale.um_per_px:.6g} µm/px"
    return [
        ("objects counted", str(found.count)),
        ("D50 by number", _with_unit(found.d50.value, unit)),
        ("D[3,2]", _with_unit(found.d32.value, unit)),
        ("CV", "–" if found.cv.value is None else f"{_number(100 * found.cv.value)} %"),
        ("scale", scale),
    ]


def _statistics(segmentation: Segmentation, analysis: Analysis) -> Table:
    sizes = analysis.sizes_in(segmentation.calibration)
    interval = f"{100 * sizes.distribution.confidence:g} % interval"
    shown = []
    for row in summary.size_rows(sizes):
        unit = "" if row.unit == "1" else pretty(row.unit)
        needed = "" if row.needed is None else str(row.needed)
        shown.append([row.quantity, _number(row.value), unit, _interval(row), needed])
    return Table(("diameters", "value", "unit", interval, "objects for 5 %"), shown)


def _notes(analysis: Analysis) -> list[str]:
    parameters = analysis.parameters
    notes = []
    if parameters.resamples:
        notes.append(
            f"Intervals: bootstrap, bias-corrected and accelerated, {parameters.resamples} resamples."
        )
    if parameters.border_correction:
        notes.append(
            "Border correction: each object is weighted by the inverse of its chance not to touch an edge."
        )
    return notes


def _sections(segmentation: Segmentation, picture_name: str) -> list[Section]:
    listed = [row for row in summary.rows(segmentation, picture_name) if row.section in TITLES]
    groups = groupby(listed, key=lambda row: row.section)
    return [Section(TITLES[name], Table((), [_fact(row) for row in rows])) for name, rows in groups]


def _fact(row: Row) -> list[str]:
    value = _as_given(row.value) if row.section == "parameters" else _with_unit(row.value, row.unit)
    interval = _interval(row)
    return [row.quantity, f"{value} ({interval})" if interval else value]


def _objects(segmentation: Segmentation, analysis: Analysis) -> Table:
    calibration = segmentation.calibration
    unit, factor = ("px", 1.0) if calibration is None else ("µm", calibration.um_per_px)
    head = [
        "id",
        f"diameter / {unit}",
        f"max. Feret / {unit}",
        f"area / {unit}²",
        "circularity",
        "mean intensity",
    ]
    fitted = analysis.parameters.fit is not None
    head += [f"fitted diameter / {unit}"] if fitted else []
    head += ["x / px", "y / px", "counted"]

    def cells(found: SegmentedObject) -> list[str]:
        shape = found.measurement.shape
        lengths = (analysis.diameters[found.id] * factor, shape.max_feret_diameter * factor)
        row: list[Any] = [found.id, *lengths, shape.area * factor**2, shape.circularity]
        row.append(found.measurement.intensity.mean)
        fit = analysis.fits.get(found.id)
        row += [fit.equivalent_diameter * factor if isinstance(fit, BoundaryFit) else None] if fitted else []
        x, y = shape.centroid_xy
        where = [f"{x:.1f}", f"{y:.1f}", "yes" if found.id in analysis.counted_ids else "no"]
        return [*(_number(value) for value in row), *where]

    return Table(head, [cells(found) for found in segmentation.kept[:MOST_OBJECTS]])


def _left_out(segmentation: Segmentation) -> str:
    more = len(segmentation.kept) - MOST_OBJECTS
    return f"{more} smaller objects are left out here; measurements.csv has all." if more > 0 else ""


def _as_given(value: Any) -> str:
    """A parameter as a request writes it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _interval(row: Row) -> str:
    return "" if row.low is None or row.high is None else f"{_number(row.low)} to {_number(row.high)}"


def _with_unit(value: Any, unit: str) -> str:
    text = _number(value)
    return text if unit in ("", "1") or value is None else f"{text} {pretty(unit)}"


def _number(value: Any) -> str:
    """Four significant digits of a float, without an exponent where that can be read."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:#.{DIGITS}g}".rstrip(".")
    if value == 0:
        return "0"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e9 else text
