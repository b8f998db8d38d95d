"""The records that travel through the engine. All are frozen: they are passed on, never updated."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Mask:
    """One object. `pixels` covers its bounding box only, so that thousands fit in memory.

    Attributes:
        pixels: (h, w) of bool, cropped to the bounding box; never empty.
        origin_xy: column and row of `pixels[0, 0]` in the picture.
        image_size: (H, W) of the whole picture in pixels.
        predicted_iou: the network's own estimate of its IoU with the object.
        stability_score: IoU of the masks at the threshold plus and minus an offset.
        point_coords: ((x, y), ...) of the positive points that asked for the mask, in picture pixels.
        prompt_index, mask_index: which prompt and which of its candidate masks; None in everything mode.
    """

    pixels: BoolArray
    origin_xy: tuple[int, int]
    image_size: tuple[int, int]
    predicted_iou: float
    stability_score: float
    point_coords: tuple[tuple[float, float], ...] = ()
    prompt_index: int | None = None
    mask_index: int | None = None

    @property
    def bbox_xywh(self) -> tuple[int, int, int, int]:
        """Bounding box in pixels; width and height count pixels (one pixel is 1 x 1)."""
        return (*self.origin_xy, self.pixels.shape[1], self.pixels.shape[0])

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.pixels))

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the bounding box in an array of the picture's size."""
        x, y, w, h = self.bbox_xywh
        return slice(y, y + h), slice(x, x + w)

    def full(self) -> BoolArray:
        """The mask at the size of the picture, (H, W) of bool."""
        canvas = np.zeros(self.image_size, dtype=bool)
        canvas[self.window] = self.pixels
        return canvas


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """What one object is asked for with; coordinates in pixels of the upright picture, XY.

    Attributes:
        points: ((x, y, label), ...), label 1 on the object and 0 off it.
        box: (x1, y1, x2, y2).
        mask_input: (256, 256) float32 logits in the 1024-pixel frame at a quarter of its resolution.
        multimask: three candidates for an ambiguous prompt instead of one.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_input: FloatArray | None = None
    multimask: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class InstanceField:
    """What the dense head says of a part of the picture, seen at one magnification.

    Attributes:
        values: (C, rows, columns) of float16 in main memory: foreground logit, edge logit and normalised
            distance of objects; with C = 5 also foreground logit and normalised distance of inclusions.
        origin_xy: the picture's pixel at which the field begins.
        pitch_yx: height and width of a cell in pixels of the picture.
    """

    values: torch.Tensor
    origin_xy: tuple[int, int]
    pitch_yx: tuple[float, float]


@dataclass(frozen=True, eq=False, slots=True)
class InstanceFields:
    """What the dense head says of a picture at one or more magnifications, finest first."""

    fields: tuple[InstanceField, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds."""
        return _bytes_of([field.values for field in self.fields])


@dataclass(frozen=True, eq=False, slots=True)
class ImageEmbedding:
    """A picture as the network sees it: computed once, then prompted any number of times.

    Attributes:
        features: (1, 256, 64, 64) on the engine's device; float16 from a network of half precision.
        instance_field: of the dense head over the whole picture; None without a head.
        original_size: (H, W) of the upright picture.
        input_size: (H, W) after resizing its longest side to 1024.
        key: digest of pixels, checkpoint, backend and precision.
        early: features for HQ-SAM's finer masks, likewise; None elsewhere.
    """

    features: torch.Tensor
    instance_field: InstanceField | None
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    key: str
    early: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds."""
        field = None if self.instance_field is None else self.instance_field.values
        return _bytes_of([tensor for tensor in (self.features, field, self.early) if tensor is not None])


def _bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.element_size() * tensor.nelement() for tensor in tensors)
