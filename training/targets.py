"""What the dense head should predict, from label maps."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.augment import Crop, LabelMap

STRIDE = 2
GUIDE_STRIDE = 8
CHANNELS = 5
REFERENCE_AREA = 150.0  # cells; larger objects weigh less a cell, smaller ones more

FloatImage = NDArray[np.float32]


def head_targets(crop: Crop) -> FloatImage:
    """(7, s/2, s/2): the five channels of `InstanceHead`, then the weights of objects and of inclusions.

    A cell weighs by the fourth root of how small its object is, so that a field of small droplets is not lost
    beside one large bubble; ignored cells weigh 0.
    """
    cell = slice(None, None, STRIDE)
    objects, inclusions = crop.objects[cell, cell], crop.inclusions[cell, cell]
    seen = (~crop.ignored[cell, cell]).astype(np.float32)
    foreground, edge, distance, weight = _of_labels(objects)
    inner, _, inner_distance, inner_weight = _of_labels(inclusions)
    # the ground inside objects teaches what is no inclusion; outside there is little to learn
    inner_weight = inner_weight * np.where(objects > 0, 1.0, 0.3)
    layers = [foreground, edge, distance, inner, inner_distance, weight * seen, inner_weight * seen]
    return np.stack(layers).astype(np.float32)


def guide_targets(crop: Crop) -> FloatImage:
    """(5, s/8, s/8): what the image embedding alone should know of the object at each place.

    Foreground, offset to the object's centre (x, y, in its radii), logarithm of its radius in units of 16
    pixels, and the weight: 0 where ignored.
    """
    side = crop.objects.shape[0]
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    flat = crop.objects.ravel()
    area = np.bincount(flat).astype(np.float32).clip(1)
    centre_x, centre_y = (np.bincount(flat, v.ravel()).astype(np.float32) / area for v in (x, y))
    radius = np.sqrt(area / np.float32(np.pi))
    cell = slice(GUIDE_STRIDE // 2, None, GUIDE_STRIDE)
    labels = crop.objects[cell, cell]
    own = radius[labels]
    layers = [
        labels > 0,
        ((centre_x[labels] - x[cell, cell]) / own).clip(-3, 3),
        ((centre_y[labels] - y[cell, cell]) / own).clip(-3, 3),
        np.log(own / 16),
        ~crop.ignored[cell, cell],
    ]
    return np.stack(layers).astype(np.float32)


def _of_labels(labels: LabelMap) -> tuple[FloatImage, FloatImage, FloatImage, FloatImage]:
    """Foreground, edge, normalised distance and weight of each cell."""
    foreground = labels > 0
    edge = foreground & _borders(labels)
    depth = cv2.distanceTransform((foreground & ~edge).astype(np.uint8), cv2.DIST_L2, 5) + 0.5
    depth[~foreground] = 0
    count = int(labels.max()) + 1
    deepest = np.full(count, 0.5, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    area = np.bincount(labels.ravel(), minlength=count).astype(np.float32)
    weight = ((REFERENCE_AREA / area.clip(1)) ** 0.25).clip(0.5, 2.5)
    weight[0] = 1
    distance = np.where(foreground, depth / deepest[labels], 0)
    return foreground.astype(np.float32), edge.astype(np.float32), distance, weight[labels]


def _borders(labels: LabelMap) -> NDArray[np.bool_]:
    """Cells with a neighbour of another label; the crop's own edge is none."""
    padded = np.pad(labels, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    out: NDArray[np.bool_] = np.logical_or.reduce([n != centre for n in neighbours])
    return out
