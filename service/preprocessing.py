"""What the network sees instead of the picture, when asked: blur and contrast equalisation."""

import cv2

from sam_engine.types import ByteArray
from service.schemas import Preprocessing


def preprocess(rgb: ByteArray, parameters: Preprocessing) -> ByteArray:
    """A Gaussian blur, then CLAHE of the lightness (Zuiderveld 1994); (H, W, 3) of uint8 to the same."""
    blur, clahe = parameters.blur, parameters.clahe
    if blur is not None and blur.enabled:
        rgb = cv2.GaussianBlur(rgb, (blur.kernel_size, blur.kernel_size), blur.sigma).astype(
            "uint8", copy=False
        )
    if clahe is not None and clahe.enabled:
        lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
        equalise = cv2.createCLAHE(clahe.clip_limit, (clahe.grid_size, clahe.grid_size))
        lab[..., 0] = equalise.apply(lab[..., 0])
        rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype("uint8", copy=False)
    return rgb
