"""Where masks come from: network, picture, filters. JSON answers and archives say the same."""

from typing import Any

from typing_extensions import TypedDict

from sam_engine.engine import LoadedModel
from service.segmentation import Segmentation


class ModelInfo(TypedDict):
    """Which network answered, in which precision, and what its encoder ran on."""

    name: str
    checkpoint: str
    sha256: str
    type: str
    device: str
    precision: str
    backend: str


class ImageInfo(TypedDict):
    """The upright picture."""

    width: int
    height: int
    channels: int
    bit_depth: int
    page: int
    pages: int


class FilterApplied(TypedDict):
    """A filter that removed something."""

    filter: str
    value: Any
    removed: int


def model_info(model: LoadedModel) -> ModelInfo:
    """Which network it is."""
    return ModelInfo(
        name=model.name,
        checkpoint=model.path.name,
        sha256=model.sha256,
        type=model.model_type,
        device=str(model.device),
        precision=model.precision,
        backend=model.backend,
    )


def image_info(found: Segmentation) -> ImageInfo:
    """Which picture it was."""
    picture = found.picture
    height, width = picture.size
    return ImageInfo(
        width=width,
        height=height,
        channels=picture.channels,
        bit_depth=picture.bit_depth,
        page=picture.page,
        pages=picture.pages,
    )


def filters_applied(found: Segmentation) -> list[FilterApplied]:
    """The filters that removed something, cleaning first."""
    return [
        FilterApplied(filter=name, value=value, removed=removed)
        for name, value, removed in found.verdict.applied
    ]
