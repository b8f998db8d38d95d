"""Prompts of a request to prompts of the engine."""

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from sam_engine.cache import ByteCache
from sam_engine.engine import input_size_of
from sam_engine.errors import InvalidPrompt
from sam_engine.masks import FRAME, LOW_RES, decode_rle
from sam_engine.types import FloatArray, Prompt
from service.schemas import PointInput, PromptInput, RleInput

RLE_LOGIT = 10.0


@dataclass(frozen=True, eq=False, slots=True)
class LowRes:
    """Low-resolution logits (256, 256) of a mask, kept so that a later prompt can refine it."""

    logits: FloatArray
    image_size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.logits.nbytes


LowResCache = ByteCache[LowRes]


def keep(cache: LowResCache, logits: FloatArray, image_size: tuple[int, int]) -> str:
    """Keep logits and give the id by which a prompt may name them."""
    name = hashlib.sha256(logits.tobytes()).hexdigest()[:24]
    cache.put(name, LowRes(logits, image_size))
    return name


def to_engine(prompts: list[PromptInput], image_size: tuple[int, int], cache: LowResCache) -> list[Prompt]:
    """Prompts in pixels of the upright picture.

    Raises:
        InvalidPrompt: a mask input that is unknown or of another picture's size. The engine checks the rest.
    """
    return [_prompt(prompt, f"prompts[{i}]", image_size, cache) for i, prompt in enumerate(prompts)]


def _prompt(prompt: PromptInput, field: str, image_size: tuple[int, int], cache: LowResCache) -> Prompt:
    mask = prompt.mask_input
    if mask is None:
        logits = None
    elif isinstance(mask, str):
        logits = _kept(mask, f"{field}.mask_input", image_size, cache)
    else:
        logits = _logits_of(mask, f"{field}.mask_input", image_size)
    points = tuple((*_pixel(point, image_size), int(point.positive)) for point in prompt.points)
    return Prompt(points=points, box=prompt.box, mask_input=logits, multimask=prompt.multimask)


def _pixel(point: PointInput, image_size: tuple[int, int]) -> tuple[float, float]:
    if point.x is not None and point.y is not None:
        return point.x, point.y
    if point.x_norm is None or point.y_norm is None:
        raise AssertionError("the schema takes one pair")
    height, width = image_size
    return round(point.x_norm * (width - 1)), round(point.y_norm * (height - 1))


def _kept(name: str, field: str, image_size: tuple[int, int], cache: LowResCache) -> FloatArray:
    kept = cache.get(name)
    if kept is None:
        raise InvalidPrompt(field, f"={name[:40]!r} is not kept (any more); send the mask as RLE instead")
    if kept.image_size != image_size:
        raise InvalidPrompt(field, "belongs to a picture of another size")
    return kept.logits


def _logits_of(rle: RleInput, field: str, image_size: tuple[int, int]) -> FloatArray:
    """A mask as confident logits at the scale the network takes; outside the picture counts as background."""
    if tuple(rle.size) != image_size:
        raise InvalidPrompt(f"{field}.size", f"={list(rle.size)} is not the picture's {list(image_size)}")
    try:
        pixels = decode_rle(image_size, rle.counts)
    except ValueError as error:
        raise InvalidPrompt(f"{field}.counts", str(error)) from error
    scale = LOW_RES / FRAME
    height, width = (max(1, round(side * scale)) for side in input_size_of(*image_size))
    share = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    logits = np.full((LOW_RES, LOW_RES), -RLE_LOGIT, dtype=np.float32)
    logits[:height, :width] = (2 * share - 1) * RLE_LOGIT
    return logits
