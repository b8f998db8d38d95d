"""The use case of statistics with their uncertainty: from the objects of a picture, or of many together.

Every figure is over the objects that are counted: those that no filter removed, without those inside others
where inclusions are asked for, and without those at the edges where the border correction is.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import binary_fill_holes

from sam_engine.border import mask_border_weights
from sam_engine.boundary import BoundaryFit, NoFit, refine_boundary
from sam_engine.calibration import Calibration
from sam_engine.caveat import Caveat
from sam_engine.digital_pcr import DigitalPcr, Separability, digital_pcr, mean_volume_nl, separability
from sam_engine.distribution import SizeStatistics, size_statistics
from sam_engine.nesting import InclusionStatistics, inclusion_statistics, parents
from sam_engine.sample_size import LENGTHS
from sam_engine.sizing import (
    CumulativeCurves,
    Estimate,
    Histogram,
    SizeDistribution,
    cumulative_curves,
    histogram,
    size_distribution,
)
from service.images import Picture
from service.objects import SegmentedObject
from service.schemas import AnalysisInput

FEW_FITS = 0.5  # of the objects; fewer than this are worth a warning
Fit = BoundaryFit | NoFit
VolumeSource = Literal["request", "diameters"]


@dataclass(frozen=True, eq=False, slots=True)
class Sizes:
    """A size distribution with its curves, all in one unit of length."""

    unit: str
    distribution: SizeDistribution
    histogram: Histogram
    curves: CumulativeCurves

    @staticmethod
    def is_length(statistic: str) -> bool:
        """Whether a statistic has the unit of the diameters."""
        return statistic in LENGTHS or statistic in ("std", "min", "max")

    def scaled(self, factor: float, unit: str) -> "Sizes":
        """The same in another unit, of which there are `factor` in each of this one."""
        changed: dict[str, Any] = {
            field.name: _times(getattr(self.distribution, field.name), factor)
            for field in fields(self.distribution)
            if self.is_length(field.name)
        }
        distribution = replace(self.distribution, **changed)
        edges = tuple(factor * edge for edge in self.histogram.edges)
        curves = replace(
            self.curves,
            number=tuple(factor * d for d in self.curves.number),
            volume=tuple(factor * d for d in self.curves.volume),
        )
        return Sizes(unit, distribution, replace(self.histogram, edges=edges), curves)


def sizes_of(diameters: ArrayLike, weights: ArrayLike | None, parameters: AnalysisInput, unit: str) -> Sizes:
    """Size distribution of objects of one picture, or of several in one unit of length."""
    distribution = size_distribution(
        diameters, weights=weights, confidence=parameters.confidence, resamples=parameters.resamples
    )
    return Sizes(
        unit,
        distribution,
        histogram(diameters, weights=weights),
        cumulative_curves(diameters, weights=weights),
    )


def _times(value: Any, factor: float) -> Any:
    """Of an estimate, a number or None."""
    if not isinstance(value, Estimate):
        return None if value is None else factor * value
    value_low_high = ("value", "low", "high")
    return replace(value, **{name: _times(getattr(value, name), factor) for name in value_low_high})


@dataclass(frozen=True, slots=True)
class Counts:
    """How many objects are left after each step, and how many a curve could be fitted to."""

    kept: int
    inside_others: int
    at_the_edge: int
    counted: int
    fitted: int


@dataclass(frozen=True, eq=False, slots=True)
class Partitions:
    """Counted droplets by class, and the concentration that follows; None where nothing can be counted.

    Attributes:
        volume_source: where the droplet volume is from: the request, or the diameters taken as spheres.
    """

    threshold: float | None
    concentration: DigitalPcr | None
    separability: Separability | None
    volume_source: VolumeSource | None


@dataclass(frozen=True, eq=False, slots=True)
class Inclusions:
    """Objects that lie directly in the counted ones.

    Attributes:
        sizes: of these objects, in pixels.
    """

    statistics: InclusionStatistics
    sizes: SizeStatistics


@dataclass(frozen=True, eq=False, slots=True)
class Analysis:
    """Statistics of a picture; what was not asked for is empty or None.

    Attributes:
        weights: of the counted objects, by id: how many each stands for.
        diameters: of all objects, by id, in pixels; of a parent that of its outline, with what lies in it.
        sizes: of the counted objects, in pixels.
        parent_of: by id, the smallest object around each; None for those in no other.
        children_of: the ids of those directly in each that has any.
        fits: by id.
        warnings: what a reader has to know first.
    """

    parameters: AnalysisInput
    counts: Counts
    weights: dict[int, float]
    diameters: dict[int, float]
    sizes: Sizes
    parent_of: dict[int, int | None]
    children_of: dict[int, list[int]]
    fits: dict[int, Fit]
    digital_pcr: Partitions | None
    inclusions: Inclusions | None
    warnings: tuple[Caveat, ...]

    @property
    def counted_ids(self) -> frozenset[int]:
        """Ids of the objects that the statistics are over."""
        return frozenset(self.weights)

    def sizes_in(self, calibration: Calibration | None) -> Sizes:
        """Sizes in micrometres, or in pixels without a calibration."""
        return self.sizes if calibration is None else self.sizes.scaled(calibration.um_per_px, "um")


def analyse(
    objects: Sequence[SegmentedObject],
    picture: Picture,
    parameters: AnalysisInput,
    calibration: Calibration | None,
    threshold: float | None,
) -> Analysis:
    """Analyse the objects of a picture that no filter removed.

    Args:
        threshold: mean intensity from which an object is `high`; None where nothing is classified.
    """
    parent_of = _parents(objects) if parameters.inclusions else {}
    children_of = _children(parent_of)
    outer = [found for found in objects if parent_of.get(found.id) is None]
    weights = _weights(outer, parameters.border_correction)
    counted = [found for found in outer if found.id in weights]
    fits = {} if parameters.fit is None else _fits(objects, picture, parameters.fit)
    diameters = {found.id: _diameter(found, found.id in children_of) for found in objects}
    sizes = sizes_of(
        [diameters[found.id] for found in counted],
        list(weights.values()) if parameters.border_correction else None,
        parameters,
        "px",
    )
    counts = Counts(
        kept=len(objects),
        inside_others=len(objects) - len(outer),
        at_the_edge=len(outer) - len(counted),
        counted=len(counted),
        fitted=sum(isinstance(fit, BoundaryFit) for fit in fits.values()),
    )
    partitions = _partitions(counted, diameters, parameters, calibration, threshold)
    inclusions = _inclusions(objects, children_of, counted, parameters) if parameters.inclusions else None
    return Analysis(
        parameters=parameters,
        counts=counts,
        weights=weights,
        diameters=diameters,
        sizes=sizes,
        parent_of=parent_of,
        children_of=children_of,
        fits=fits,
        digital_pcr=partitions,
        inclusions=inclusions,
        warnings=(
            *_own_warnings(counted, counts, fits),
            *sizes.distribution.caveats,
            *_warnings_of(partitions),
            *(() if inclusions is None else inclusions.statistics.caveats),
        ),
    )


def _parents(objects: Sequence[SegmentedObject]) -> dict[int, int | None]:
    """Holes count as inside: the mode `instances` parts an inner droplet from the one around it."""
    found = parents([replace(item.mask, pixels=binary_fill_holes(item.mask.pixels)) for item in objects])
    ids = [None if parent is None else objects[parent].id for parent in found]
    return {item.id: parent for item, parent in zip(objects, ids, strict=True)}


def _diameter(found: SegmentedObject, is_parent: bool) -> float:
    """Equivalent diameter in pixels; holes of a parent are full of its children."""
    if not is_parent:
        return found.measurement.shape.equivalent_diameter
    return 2.0 * math.sqrt(np.count_nonzero(binary_fill_holes(found.mask.pixels)) / math.pi)


def _children(parent_of: dict[int, int | None]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for child, parent in parent_of.items():
        if parent is not None:
            children.setdefault(parent, []).append(child)
    return children


def _weights(objects: Sequence[SegmentedObject], border_correction: bool) -> dict[int, float]:
    """Of the objects that count; all weigh 1 without the correction."""
    if not border_correction:
        return {found.id: 1.0 for found in objects}
    weights = mask_border_weights([found.mask for found in objects])
    return {found.id: float(w) for found, w in zip(objects, weights, strict=True) if w > 0}


def _fits(
    objects: Sequence[SegmentedObject], picture: Picture, model: Literal["circle", "ellipse"]
) -> dict[int, Fit]:
    image = picture.intensity
    if image.dtype.kind == "i":  # 32-bit integers
        image = image.astype(np.float64)
    return {found.id: refine_boundary(found.mask, image, model) for found in objects}


def _partitions(
    counted: Sequence[SegmentedObject],
    diameters: dict[int, float],
    parameters: AnalysisInput,
    calibration: Calibration | None,
    threshold: float | None,
) -> Partitions | None:
    asked = parameters.digital_pcr
    if asked is None:
        return None
    if threshold is None or not counted:
        return Partitions(threshold, None, None, None)
    volume = asked.droplet_volume_nl
    source: VolumeSource | None = None if volume is None else "request"
    if volume is None and calibration is not None:
        in_um = [calibration.um_per_px * diameters[found.id] for found in counted]
        volume, source = mean_volume_nl(in_um), "diameters"
    positives = sum(found.intensity_class == "high" for found in counted)
    concentration = digital_pcr(positives, len(counted), volume_nl=volume, confidence=parameters.confidence)
    apart = separability([found.measurement.intensity.mean for found in counted], threshold)
    return Partitions(threshold, concentration, apart, source)


def _inclusions(
    objects: Sequence[SegmentedObject],
    children_of: dict[int, list[int]],
    counted: Sequence[SegmentedObject],
    parameters: AnalysisInput,
) -> Inclusions:
    children = [children_of.get(found.id, []) for found in counted]
    ids = {child for group in children for child in group}
    inside = [found.measurement for found in objects if found.id in ids]
    statistics = inclusion_statistics([len(group) for group in children], confidence=parameters.confidence)
    return Inclusions(statistics, size_statistics(inside))


def _own_warnings(counted: Sequence[SegmentedObject], counts: Counts, fits: dict[int, Fit]) -> list[Caveat]:
    """What follows from the objects themselves."""
    found = []
    cut = sum(item.measurement.edge.touches for item in counted)
    if cut:
        message = (
            f"{cut} of {len(counted)} objects touch an edge of the picture and may be cut off, so that their "
            f"sizes are lower bounds; border_correction leaves them out and corrects for it"
        )
        found.append(Caveat("cut_off", message))
    prompts = Counter(item.mask.prompt_index for item in counted if item.mask.prompt_index is not None)
    if any(candidates > 1 for candidates in prompts.values()):
        message = "several candidate masks of one prompt are counted as objects; set multimask to false"
        found.append(Caveat("candidates_counted", message))
    if fits and counts.fitted < FEW_FITS * len(fits):
        message = f"only {counts.fitted} of {len(fits)} objects show an edge that a curve could be fitted to"
        found.append(Caveat("few_fits", message))
    return found


def _warnings_of(partitions: Partitions | None) -> list[Caveat]:
    if partitions is None:
        return []
    if partitions.concentration is None or partitions.separability is None:
        message = "no object is classified, for there is none or all intensities are equal"
        return [Caveat("no_classes", message)]
    found = [*partitions.concentration.caveats, *partitions.separability.caveats]
    if partitions.volume_source == "diameters":
        message = (
            "it is that of spheres of the measured diameters; droplets that a chamber flattens hold less: "
            "give droplet_volume_nl"
        )
        found.append(Caveat("volume_of_spheres", message, "copies_per_ul"))
    return found
