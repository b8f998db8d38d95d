"""Segmentations of drawn masks, as the use case would give them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from sam_engine.distribution import summarise
from sam_engine.masks import crop
from sam_engine.measure import measure
from sam_engine.types import Mask
from service.analysis import analyse
from service.filters import Verdict
from service.images import Picture
from service.objects import SegmentedObject
from service.scale import scale_of
from service.schemas import SegmentOptions
from service.segmentation import Segmentation, Stopwatch

HEIGHT, WIDTH = 120, 160
MODEL = SimpleNamespace(
    name="droplet",
    path=Path("/secret/model/drop.safetensors"),
    sha256="ab" * 32,
    model_type="vit_t",
    device="cpu",
    precision="float32",
    backend="torch",
)


def disc(x, y, radius, hole=0.0):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(columns - x, rows - y)
    return (distance <= radius) & (distance >= hole)


def make_mask(pixels, **extra):
    cropped, origin = crop(pixels)
    return Mask(cropped, origin, pixels.shape, predicted_iou=0.9, stability_score=0.8, **extra)


def make_picture(size=(HEIGHT, WIDTH)):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Picture(rgb, rgb[..., 1].copy(), channels=3, bit_depth=8, page=0, pages=1)


def segment(*drawn, options=None, removed=(), threshold=None, first_id=1, picture=None, **extra):
    """What the use case would give for these masks; those with an index in `removed` were filtered out."""
    picture = picture or make_picture()
    options = options or SegmentOptions()
    objects = []
    for i, pixels in enumerate(drawn):
        mask = pixels if isinstance(pixels, Mask) else make_mask(pixels, **extra)
        measurement = measure(mask, picture.intensity)
        kind = None
        if threshold is not None:
            kind = "high" if measurement.intensity.mean >= threshold else "low"
        verdict = "area_max" if i in removed else None
        objects.append(SegmentedObject(first_id + i, mask, measurement, verdict, kind, None))
    stay = [found for found in objects if found.removed_by is None]
    kept = [found.measurement for found in stay]
    scale = scale_of(picture, options)
    analysis = None
    if options.analysis is not None:
        calibration = None if scale is None else scale.calibration
        analysis = analyse(stay, picture, options.analysis, calibration, threshold)
    return Segmentation(
        picture=picture,
        model=MODEL,
        embedding_id="e",
        objects=objects,
        original_count=len(objects),
        verdict=Verdict(
            [o.removed_by for o in objects], [("area_max", 5.0, len(removed))] if removed else []
        ),
        summary=summarise(kept, intensity_threshold=threshold),
        options=options,
        automatic={"mode": "instances", "points_per_side": 32},
        prompts_without_mask=[],
        watch=Stopwatch(),
        scale=scale,
        analysis=analysis,
    )
