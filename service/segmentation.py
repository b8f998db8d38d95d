"""The use case: a picture and a request to measured objects."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sam_engine.automatic import AutomaticParameters, segment_everything
from sam_engine.cache import ByteCache
from sam_engine.calibration import Calibration
from sam_engine.distribution import Summary, summarise
from sam_engine.engine import LoadedModel, SamEngine
from sam_engine.instances import InstanceParameters
from sam_engine.measure import Measurement, measure
from sam_engine.types import ByteArray, ImageEmbedding, Mask
from service.analysis import Analysis, analyse
from service.filters import Verdict, judge
from service.images import Picture
from service.objects import SegmentedObject
from service.preprocessing import preprocess
from service.prompts import LowResCache, keep, to_engine
from service.scale import Scale, on_scale_bar, scale_of
from service.schemas import AutomaticInput, FiltersInput, PromptInput, SegmentOptions

LOW_RES_CACHE_BYTES = 64 * 2**20
CHECKPOINT_THRESHOLDS = ("pred_iou_thresh", "stability_score_thresh")


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds of named stages."""

    timings_ms: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = 1000 * (time.perf_counter() - start)
            self.timings_ms[name] = self.timings_ms.get(name, 0.0) + elapsed

    def read(self) -> dict[str, float]:
        """All stages so far and `total`, the time since the start."""
        total = 1000 * (time.perf_counter() - self.started)
        return {name: round(ms, 1) for name, ms in {**self.timings_ms, "total": total}.items()}


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """The answer to a request, before it is written in any format.

    Attributes:
        objects: those that stay, and with `output.unfiltered` the others after them; largest first.
        summary: of the objects that stay.
        automatic: the parameters that everything mode ran with; None for prompts.
        prompts_without_mask: indices of prompts none of whose candidates has a pixel.
        watch: the times of the stages so far.
        scale: micrometres a pixel and where they come from; None without calibration.
        analysis: of the objects that stay, where it was asked for.
    """

    picture: Picture
    model: LoadedModel
    embedding_id: str
    objects: list[SegmentedObject]
    original_count: int
    verdict: Verdict
    summary: Summary
    options: SegmentOptions
    automatic: dict[str, Any] | None
    prompts_without_mask: list[int]
    watch: Stopwatch
    scale: Scale | None = None
    analysis: Analysis | None = None

    @property
    def calibration(self) -> Calibration | None:
        """Pixels to micrometres."""
        return None if self.scale is None else self.scale.calibration

    @property
    def kept(self) -> list[SegmentedObject]:
        """Objects that no filter removed."""
        return [found for found in self.objects if found.removed_by is None]


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    """What the engine gave: masks, the ids of their logits if prompted, and how they came about."""

    masks: list[Mask]
    mask_input_ids: list[str | None]
    automatic: dict[str, Any] | None = None
    prompts_without_mask: list[int] = field(default_factory=list)


class Segmenter:
    """Runs requests on an engine. Safe for any number of threads."""

    def __init__(self, engine: SamEngine) -> None:
        self.engine = engine
        self.low_res: LowResCache = ByteCache(LOW_RES_CACHE_BYTES)

    def run(
        self, picture: Picture, options: SegmentOptions, watch: Stopwatch, scale: Scale | None = None
    ) -> Segmentation:
        """Segment, measure and filter a picture.

        Args:
            scale: where it is known already, as of an earlier picture; else what the options say of it.

        Raises:
            ModelUnavailable: no usable checkpoint.
            InvalidPrompt, InvalidInput: a prompt outside the picture, a mode that the checkpoint lacks, a
                scale bar that is not there.
        """
        scale = scale or scale_of(picture, options)
        with watch.stage("load"):
            model = self.engine.load()
        with watch.stage("encode"):
            seen = preprocess(picture.rgb, options.preprocessing)
            embedding = self.engine.embed(seen)
        with watch.stage("masks"):
            if options.prompts is None:
                found = self._everything(model, seen, embedding, options)
            else:
                found = self._prompted(embedding, options.prompts)
        with watch.stage("measure"):
            measurements = [measure(mask, picture.intensity) for mask in found.masks]
            on_bar = [] if options.prompts is not None else on_scale_bar(found.masks, scale)
            verdict = judge(measurements, options.filters, options.prompts is not None, on_bar)
            stay = [m for m, removed in zip(measurements, verdict.removed_by, strict=True) if removed is None]
            threshold = _intensity_threshold(stay, options.filters)
            summary = summarise(stay, intensity_threshold=threshold)
            objects = _objects(found, measurements, verdict, threshold, options.output.unfiltered)
        analysis = None
        if options.analysis is not None:
            with watch.stage("analysis"):
                stays = [found for found in objects if found.removed_by is None]
                calibration = None if scale is None else scale.calibration
                analysis = analyse(stays, picture, options.analysis, calibration, threshold)
        return Segmentation(
            picture=picture,
            model=model,
            embedding_id=embedding.key,
            objects=objects,
            original_count=len(found.masks),
            verdict=verdict,
            summary=summary,
            options=options,
            automatic=found.automatic,
            prompts_without_mask=found.prompts_without_mask,
            watch=watch,
            scale=scale,
            analysis=analysis,
        )

    def _everything(
        self, model: LoadedModel, image: ByteArray, embedding: ImageEmbedding, options: SegmentOptions
    ) -> _Found:
        counted = options.analysis is not None and options.analysis.inclusions
        parameters = resolve_automatic(model, options.automatic, inclusions=counted)
        found = segment_everything(self.engine, image, embedding, parameters)
        applied = {name: getattr(parameters, name) for name in AutomaticInput.model_fields}
        how = {
            "pred_iou_thresh": found.pred_iou_thresh,
            "prompts_run": found.prompts_run,
            "tiles": found.tiles,
            "proposed_by": found.proposed_by,
        }
        if parameters.mode == "instances":  # has no such threshold
            how["stability_score_thresh"] = None
        return _Found(found.masks, [None] * len(found.masks), {**applied, **how})

    def _prompted(self, embedding: ImageEmbedding, prompts: list[PromptInput]) -> _Found:
        size = embedding.original_size
        masks: list[Mask] = []
        ids: list[str | None] = []
        empty = []
        for i, answer in enumerate(self.engine.predict(embedding, to_engine(prompts, size, self.low_res))):
            masks.extend(answer.masks)
            ids.extend(
                keep(self.low_res, answer.low_res_masks[m.mask_index or 0], size) for m in answer.masks
            )
            if not answer.masks:
                empty.append(i)
        return _Found(masks, ids, prompts_without_mask=empty)


def resolve_automatic(
    model: LoadedModel, asked: AutomaticInput, *, inclusions: bool = False
) -> AutomaticParameters:
    """The request's parameters; what it leaves open is the active checkpoint's.

    Args:
        inclusions: whether something else of the request needs objects inside objects.
    """
    values = asked.model_dump()
    instances = InstanceParameters(
        pred_iou_thresh=asked.pred_iou_thresh, inclusions=values.pop("inclusions") or inclusions
    )
    for name in CHECKPOINT_THRESHOLDS:
        if values[name] is None:
            values[name] = getattr(model.defaults, name)
    if values["mode"] is None:
        values["mode"] = "exact" if model.head is None else "instances"
    return AutomaticParameters(**values, instances=instances)


def _objects(
    found: _Found,
    measurements: Sequence[Measurement],
    verdict: Verdict,
    threshold: float | None,
    unfiltered: bool,
) -> list[SegmentedObject]:
    rows = zip(found.masks, measurements, verdict.removed_by, found.mask_input_ids, strict=True)
    objects = [
        SegmentedObject(0, mask, measured, removed, _intensity_class(measured, threshold), mask_input_id)
        for mask, measured, removed, mask_input_id in rows
        if unfiltered or removed is None
    ]
    objects.sort(key=lambda found: (found.removed_by is not None, -found.measurement.shape.area))
    return [replace(found, id=i) for i, found in enumerate(objects, start=1)]


def _intensity_threshold(measurements: Sequence[Measurement], filters: FiltersInput) -> float | None:
    if not filters.enable_intensity_coloring:
        return None
    if filters.intensity_threshold is not None:
        return filters.intensity_threshold
    return otsu_threshold([m.intensity.mean for m in measurements])


def otsu_threshold(values: Sequence[float]) -> float | None:
    """Where a sample parts into two groups of least variance (Otsu 1979); None if all values are equal."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return None
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    difference = (ordered.sum() - sums) / (len(ordered) - below) - sums / below
    best = int(np.argmax(below * (len(ordered) - below) * difference**2))
    return float((ordered[best] + ordered[best + 1]) / 2)


def _intensity_class(measurement: Measurement, threshold: float | None) -> str | None:
    if threshold is None:
        return None
    return "high" if measurement.intensity.mean >= threshold else "low"
