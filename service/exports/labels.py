"""Label map: each pixel holds the id of its object, 0 where there is none."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.exports.png import encode_png
from service.segmentation import Segmentation

LARGEST_ID_OF_PNG = np.iinfo(np.uint16).max


def write(segmentation: Segmentation, _picture_name: str = "") -> bytes:
    """A 16-bit grey PNG, or a 32-bit grey TIFF where an id needs it. Smaller objects lie over larger ones."""
    labels = _label_map(segmentation)
    if fits_png(segmentation):
        return encode_png(labels.astype(np.uint16))
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


def fits_png(segmentation: Segmentation) -> bool:
    """Whether no id exceeds 16 bits."""
    return all(found.id <= LARGEST_ID_OF_PNG for found in segmentation.kept)


def _label_map(segmentation: Segmentation) -> NDArray[np.int32]:
    labels = np.zeros(segmentation.picture.size, dtype=np.int32)
    for found in sorted(segmentation.kept, key=lambda found: -found.measurement.shape.area):
        labels[found.mask.window][found.mask.pixels] = found.id
    return labels
