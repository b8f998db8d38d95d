"""Everything about a picture but its objects, as rows: the summary table, and what the report shows of it."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sam_engine.nesting import InclusionStatistics
from service import __version__
from service.analysis import Analysis, Partitions, Sizes
from service.exports.table import harmless
from service.provenance import filters_applied, image_info, model_info
from service.segmentation import Segmentation

HEAD = ("section", "quantity", "value", "low", "high", "unit", "objects_for_5_percent")
LABELS = {
    "mean": "mean D[1,0]",
    "std": "standard deviation",
    "cv": "coefficient of variation",
    "polydispersity_index": "polydispersity index (CV squared)",
    "geometric_mean": "geometric mean",
    "geometric_std": "geometric standard deviation",
    "d10": "D10 by number",
    "d50": "D50 by number (median)",
    "d90": "D90 by number",
    "span": "span by number",
    "volume_d10": "D10 by volume",
    "volume_d50": "D50 by volume",
    "volume_d90": "D90 by volume",
    "volume_span": "span by volume",
    "d32": "D[3,2] (Sauter)",
    "d43": "D[4,3] (De Brouckere)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A quantity, with its interval and the number of objects that 5 % takes, where it has them."""

    section: str
    quantity: str
    value: object
    low: float | None = None
    high: float | None = None
    unit: str = ""
    needed: int | None = None


def write(segmentation: Segmentation, picture_name: str) -> bytes:
    """CSV (RFC 4180) with every digit; what is absent is empty."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(HEAD)
    for row in rows(segmentation, picture_name):
        cells = (row.section, row.quantity, row.value, row.low, row.high, row.unit, row.needed)
        table.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().encode()


def rows(segmentation: Segmentation, picture_name: str) -> Iterator[Row]:
    """Section by section; sizes in pixels, and in micrometres where there is a calibration."""
    analysis = segmentation.analysis
    if analysis is not None:
        yield from _counts(segmentation, analysis)
        yield from size_rows(analysis.sizes)
        if segmentation.scale is not None:
            yield from size_rows(analysis.sizes_in(segmentation.calibration))
        if analysis.digital_pcr is not None:
            yield from _partitions(analysis.digital_pcr)
        if analysis.inclusions is not None:
            yield from _inclusions(analysis.inclusions.statistics)
        yield from (Row("warnings", warning.code, warning.message) for warning in analysis.warnings)
    yield from _calibration(segmentation)
    yield from _filters(segmentation)
    yield from _model(segmentation)
    yield from _picture(segmentation, picture_name)
    yield from _parameters(segmentation)


def size_rows(sizes: Sizes) -> Iterator[Row]:
    """Statistics of one unit, with their intervals."""
    distribution = sizes.distribution
    for field, label in LABELS.items():
        estimate = getattr(distribution, field)
        unit = sizes.unit if sizes.is_length(field) else "1"
        yield Row("sizes", label, estimate.value, estimate.low, estimate.high, unit, estimate.required_count)
    yield Row("sizes", "smallest", distribution.min, unit=sizes.unit)
    yield Row("sizes", "largest", distribution.max, unit=sizes.unit)


def _counts(segmentation: Segmentation, analysis: Analysis) -> Iterator[Row]:
    yield Row("objects", "found", segmentation.original_count)
    yield Row("objects", "removed by filters", segmentation.verdict.removed)
    yield Row("objects", "kept", analysis.counts.kept)
    yield Row("objects", "inside others", analysis.counts.inside_others)
    yield Row("objects", "left out at the edges", analysis.counts.at_the_edge)
    yield Row("objects", "counted", analysis.counts.counted)
    if analysis.parameters.fit is not None:
        yield Row("objects", "with a fitted boundary", analysis.counts.fitted)


def _partitions(found: Partitions) -> Iterator[Row]:
    yield Row("digital PCR", "threshold", found.threshold)
    pcr, apart = found.concentration, found.separability
    if pcr is None or apart is None:
        return
    yield Row("digital PCR", "positive droplets", pcr.positives)
    yield Row("digital PCR", "droplets", pcr.droplets)
    yield Row("digital PCR", "positive fraction", pcr.fraction, pcr.fraction_low, pcr.fraction_high, "1")
    per_droplet = (pcr.copies_per_droplet, pcr.copies_per_droplet_low, pcr.copies_per_droplet_high)
    yield Row("digital PCR", "copies per droplet", *per_droplet, "1")
    if pcr.droplet_volume_nl is not None:
        yield Row(
            "digital PCR", f"droplet volume (from {found.volume_source})", pcr.droplet_volume_nl, unit="nl"
        )
        per_ul = (pcr.copies_per_ul, pcr.copies_per_ul_low, pcr.copies_per_ul_high)
        yield Row("digital PCR", "concentration in the droplets", *per_ul, "copies/ul")
    yield Row("digital PCR", "separation of the classes (eta)", apart.eta, unit="1")
    yield Row("digital PCR", "droplets between the classes (rain)", apart.rain)


def _inclusions(found: InclusionStatistics) -> Iterator[Row]:
    yield Row("inclusions", "containers", found.containers)
    yield Row("inclusions", "inclusions", found.inclusions)
    yield Row("inclusions", "mean per container", found.mean, found.mean_low, found.mean_high, "1")
    yield Row("inclusions", "dispersion index (1 for Poisson)", found.dispersion_index, unit="1")
    yield Row("inclusions", "dispersion against Poisson", found.dispersion)
    for k, (seen, expected) in enumerate(zip(found.observed, found.expected, strict=True)):
        last = " or more" if k == len(found.observed) - 1 else ""
        yield Row("inclusions", f"containers with {k}{last}", seen)
        yield Row("inclusions", f"containers with {k}{last}, expected by Poisson", expected)


def _calibration(segmentation: Segmentation) -> Iterator[Row]:
    scale = segmentation.scale
    if scale is None:
        yield Row("calibration", "source", "none: lengths are pixels")
        return
    yield Row("calibration", "scale", scale.um_per_px, unit="um/px")
    yield Row("calibration", "source", scale.source.replace("_", " "))
    if scale.bar is not None:
        yield Row("calibration", "length of the bar", scale.bar.length_px, unit="px")


def _filters(segmentation: Segmentation) -> Iterator[Row]:
    applied = filters_applied(segmentation)
    for row in applied:
        bound = "" if row["value"] is True else f" = {row['value']:g}"
        yield Row("filters", f"removed by {row['filter']}{bound}", row["removed"])
    if not applied:
        yield Row("filters", "removed", 0)


def _model(segmentation: Segmentation) -> Iterator[Row]:
    yield from (Row("model", name, value) for name, value in model_info(segmentation.model).items())
    yield Row("model", "software", f"SAM Droplet {__version__}")


def _picture(segmentation: Segmentation, name: str) -> Iterator[Row]:
    yield Row("picture", "name", name)
    yield from (Row("picture", key, value) for key, value in image_info(segmentation).items())


def _parameters(segmentation: Segmentation) -> Iterator[Row]:
    """Defaults too; of prompts only how many there are, for they are in summary.json."""
    options = segmentation.options
    values = options.model_dump(mode="json", exclude={"image", "output", "prompts"})
    values["automatic"] = segmentation.automatic
    values["prompts"] = None if options.prompts is None else len(options.prompts)
    yield from (Row("parameters", name, value) for name, value in _flat(values))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
