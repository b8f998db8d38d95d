"""Objects at the picture's border: those cut are left out, and the rest weighted for what went with them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_engine.errors import InvalidInput
from sam_engine.types import Mask

Float64Array = NDArray[np.float64]


def border_weights(boxes_xywh: ArrayLike, image_size: tuple[int, int]) -> Float64Array:
    """How many objects each stands for (Miles 1974, Lantuejoul 1980; ISO 13322-1); 0 for those that touch.

    Of the W x H places that a corner of an object can take in the picture, one with a bounding box of w x h
    pixels touches no edge in (W - w - 1) x (H - h - 1): it weighs W H / ((W - w - 1) (H - h - 1)). Without
    pixels the ones are missing, since an object may then reach up to the edge; pixels at the edge cannot tell
    that from being cut. What is wider than W - 2 or higher than H - 2 touches at every place, so that nothing
    divides by 0.

    Args:
        boxes_xywh: (n, 4) of whole pixels, as `Mask.bbox_xywh`; n may be 0.
        image_size: (H, W).

    Returns:
        (n,) of weights, 0 or above 1.

    Raises:
        InvalidInput: a box is empty, not of whole pixels, or does not lie in the picture.
    """
    height, width = image_size
    if min(height, width) < 1:
        raise InvalidInput("image_size", f"{width}x{height} must be at least 1x1")
    x, y, w, h = _boxes(boxes_xywh, image_size).T
    columns, rows = width - w - 1, height - h - 1
    inside = (x > 0) & (y > 0) & (x + w < width) & (y + h < height)
    weights = np.zeros(len(x))
    weights[inside] = width * height / (columns[inside] * rows[inside])
    return weights


def mask_border_weights(masks: Sequence[Mask]) -> Float64Array:
    """`border_weights` of the masks, each in its own picture."""
    weights = [border_weights([mask.bbox_xywh], mask.image_size) for mask in masks]
    return np.concatenate([np.zeros(0), *weights])


def _boxes(boxes_xywh: ArrayLike, image_size: tuple[int, int]) -> Float64Array:
    """(n, 4), checked."""
    height, width = image_size
    try:
        boxes = np.asarray(boxes_xywh, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput("boxes_xywh", "must be (n, 4) numbers") from error
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidInput("boxes_xywh", f"have the shape {boxes.shape}, must be (n, 4)")
    x, y, w, h = boxes.T
    right = (w >= 1) & (h >= 1) & (x >= 0) & (y >= 0) & (x + w <= width) & (y + h <= height)
    whole = (boxes == np.floor(boxes)).all(axis=1)
    if not (right & whole).all():
        at = int((~(right & whole)).argmax())
        bound = f"must be whole pixels, not empty, inside {width}x{height}"
        raise InvalidInput(f"boxes_xywh[{at}]", f"={boxes[at].tolist()} {bound}")
    return boxes
