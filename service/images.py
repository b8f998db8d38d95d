"""Bytes from outside to an upright picture, safely: type, bytes and pixels are judged before decoding."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from sam_engine.errors import InvalidInput
from sam_engine.types import ByteArray
from service.errors import DamagedImage, ImageTooLarge, ServiceError, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|II[*+]\x00|MM\x00[*+]|BM", re.DOTALL)
SCALING_PERCENTILES = (0.5, 99.5)
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
MAX_PAGES = 10_000  # counting the pages of a TIFF takes time that grows with their square

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of broken metadata
Image.MAX_IMAGE_PIXELS = None  # the limit is a setting, checked below before anything is decoded


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is taken at most."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """An upright picture.

    Attributes:
        rgb: (H, W, 3) of uint8, what the network sees.
        intensity: (H, W) original values - uint8, uint16, int32 or float32; luma (ITU-R BT.601) of colours.
        channels: of the source.
        bit_depth: of a channel of the source.
        page, pages: which picture of the file, from 0, and how many it has.
    """

    rgb: ByteArray
    intensity: NDArray[Any]
    channels: int
    bit_depth: int
    page: int
    pages: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


def decode(data: bytes, limits: ImageLimits, page: int = 0) -> Picture:
    """A picture of a file.

    EXIF orientation is applied; alpha is dropped. Sources of more than 8 bits a channel are scaled for the
    network: their 0.5th to 99.5th percentile becomes 0 to 255; measurements keep the original values.

    Raises:
        ImageTooLarge: too many bytes, or too many pixels by the header.
        UnsupportedImage: not JPEG, PNG, WebP, TIFF or BMP.
        DamagedImage: the data ends early or is broken.
        InvalidInput: the file has no such page.
    """
    with _opened(data, limits) as image:
        pages = _count_pages(image)
        if page >= pages:
            raise InvalidInput("page", f"={page} lies outside 0..{pages - 1}")
        if page and not isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_frames(image, limits, page + 1)
        return _picture(data, image, limits, page, pages)


def count_pages(data: bytes, limits: ImageLimits) -> int:
    """How many pictures a file has; errors as `decode`."""
    with _opened(data, limits) as image:
        return _count_pages(image)


def decode_pages(data: bytes, limits: ImageLimits) -> Iterator[Picture]:
    """Every picture of a file, one at a time; each of them as `decode` gives it, and errors as there."""
    with _opened(data, limits) as image:
        pages = _count_pages(image)
        for page in range(pages):
            yield _picture(data, image, limits, page, pages)


@contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """A picture whose first page has been judged and none decoded; what fails in the block is named."""
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the file has more than {limits.max_bytes:,} bytes, the most that are taken")
    if not SIGNATURE.match(data):
        raise UnsupportedImage("the file is not a JPEG, PNG, WebP, TIFF or BMP picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image, limits)
            yield image
    except UnidentifiedImageError as error:
        raise DamagedImage("the header of the picture is damaged") from error
    except (ServiceError, InvalidInput):
        raise
    except Exception as error:  # on broken files Pillow raises whatever its parsers trip over
        raise DamagedImage(f"the picture is damaged: {_reason(error)}") from error


def _picture(data: bytes, image: Image.Image, limits: ImageLimits, page: int, pages: int) -> Picture:
    image.seek(page)
    _check_pixels(image, limits)
    colours = _deep_colours(data, image) if page == 0 else None
    image.load()
    channels = len(image.getbands()) if image.mode != "P" else 3
    upright = ImageOps.exif_transpose(image)
    deep = _deep_values(upright) if upright.mode in DEEP_MODES else colours
    rgb = np.array((_scaled(deep) if deep is not None else upright).convert("RGB"))
    values = deep if deep is not None else rgb
    intensity = values if values.ndim == 2 else cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    return Picture(rgb, intensity, channels, intensity.dtype.itemsize * 8, page, pages)


def _count_pages(image: Image.Image) -> int:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return getattr(image, "n_frames", 1)
    pages = 0
    try:
        while pages <= MAX_PAGES:
            image.seek(pages)
            pages += 1
    except EOFError:
        return pages
    raise ImageTooLarge(f"the file has more than {MAX_PAGES:,} pages")


def _check_frames(image: Image.Image, limits: ImageLimits, frames: int) -> None:
    """All frames of an animation up to the one asked for are decoded."""
    width, height = image.size
    if width * height * frames > limits.max_pixels:
        raise ImageTooLarge(f"{frames} frames of {width}x{height} exceed {limits.max_pixels:,} pixels")


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        pixels = f"{width}x{height} = {width * height:,} pixels"
        raise ImageTooLarge(f"the picture has {pixels}; at most {limits.max_pixels:,} are taken")
    if not width or not height:
        raise DamagedImage(f"the picture has {width}x{height} pixels")


def _deep_values(image: Image.Image) -> NDArray[Any]:
    """Original values of a single channel; Pillow reads some 16-bit files as 32-bit, which is undone."""
    values = np.array(image)
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise DamagedImage("the picture has values that are not finite")
    if values.dtype == np.int32 and values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max:
        return values.astype(np.uint16)
    return values.astype(values.dtype.newbyteorder("="))


def _deep_colours(data: bytes, image: Image.Image) -> NDArray[np.uint16] | None:
    """(H, W, 3) of the first picture if its colours have 16 bits, which Pillow would reduce to 8.

    None for other pictures and, for they are rare, for those that are not stored upright.
    """
    tiles = getattr(image, "tile", [])
    raw_mode = str(tiles[0].args) if tiles else ""
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    if ";16" not in raw_mode or image.mode not in ("RGB", "RGBA", "LA") or not upright:
        return None
    width, height = image.size
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[:2] != (height, width):
        return None
    return np.ascontiguousarray(values[..., 2::-1])


def _scaled(values: NDArray[Any]) -> Image.Image:
    exact: NDArray[Any] = values.astype(np.float64 if values.dtype.kind == "f" else np.float32)
    low, high = (float(bound) for bound in np.percentile(exact, SCALING_PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    scale = 255 / (high - low) if high > low else 0.0
    scaled = (exact - low) * scale
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _reason(error: Exception) -> str:
    text = str(error).split("\n")[0]
    return text if text and "<" not in text else "its data cannot be decoded"
