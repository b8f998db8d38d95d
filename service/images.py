"""Bytes from outside to an upright picture, safely: type, bytes and pixels are judged before decoding."""

import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sam_engine.errors import InvalidInput
from sam_engine.types import ByteArray
from service.errors import DamagedImage, ImageTooLarge, UnsupportedImage

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\x00", b"MM\x00*", b"BM")
SCALING_PERCENTILES = (0.5, 99.5)
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")

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
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are taken")
    if not data.startswith(SIGNATURES):
        raise UnsupportedImage("the file is not a JPEG, PNG, WebP, TIFF or BMP picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _picture(image, limits, page)
    except UnidentifiedImageError as error:
        raise DamagedImage("the header of the picture is damaged") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise DamagedImage(f"the picture is damaged: {_reason(error)}") from error


def _picture(image: Image.Image, limits: ImageLimits, page: int) -> Picture:
    _check_pixels(image, limits)
    pages = getattr(image, "n_frames", 1)
    if page >= pages:
        raise InvalidInput("page", f"={page} lies outside 0..{pages - 1}")
    image.seek(page)
    _check_pixels(image, limits)
    image.load()
    channels = len(image.getbands()) if image.mode != "P" else 3
    upright = ImageOps.exif_transpose(image)
    deep = upright.mode in DEEP_MODES
    values = _deep_values(upright) if deep else None
    rgb = np.array((_scaled(values) if values is not None else upright).convert("RGB"))
    intensity = values if values is not None else cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return Picture(rgb, intensity, channels, intensity.dtype.itemsize * 8, page, pages)


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


def _scaled(values: NDArray[Any]) -> Image.Image:
    low, high = np.percentile(values, SCALING_PERCENTILES)
    if high <= low:
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _reason(error: Exception) -> str:
    text = str(error).split("\n")[0]
    return text if text and "<" not in text else "its data cannot be decoded"
