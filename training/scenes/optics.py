"""What lens, sensor and file format do to a scene."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes.layout import FloatImage, Generator


def expose(rng: Generator, scene: FloatImage) -> NDArray[np.uint8]:
    """(H, W) of light to an (H, W, 3) picture: blur, vignette, contrast, noise, colour, compression."""
    light = scene
    if rng.random() < 0.6:
        light = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(0.3, 1.6))).astype(np.float32)
    if rng.random() < 0.3:
        y, x = np.mgrid[-1 : 1 : len(light) * 1j, -1 : 1 : len(light) * 1j].astype(np.float32)
        light = light * (1 - np.float32(rng.uniform(0.05, 0.3)) * (x * x + y * y))
    if rng.random() < 0.3:
        light = 128 + (light - 128) * np.float32(rng.uniform(0.4, 0.85)) + np.float32(rng.uniform(-20, 20))
    if rng.random() < 0.08:
        light = 255 - light
    light = _noise(rng, light)
    picture = _coloured(rng, light.clip(0, 255))
    if rng.random() < 0.2:
        picture = _compressed(rng, picture)
    return picture


def _noise(rng: Generator, light: FloatImage) -> FloatImage:
    if rng.random() < 0.5:
        light = light + np.float32(rng.uniform(0.5, 7)) * rng.standard_normal(light.shape, np.float32)
    if rng.random() < 0.15:
        photons = rng.uniform(0.5, 3)
        light = rng.poisson(light.clip(0, 255) * photons).astype(np.float32) / np.float32(photons)
    if rng.random() < 0.15:
        light = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(0.5, 1.2))).astype(np.float32)
    return light


def _coloured(rng: Generator, grey: FloatImage) -> NDArray[np.uint8]:
    """Grey mostly; else a ramp between two or three colours, as stains, filters and dyes give."""
    if rng.random() < 0.65:
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    dark, bright = rng.uniform(0, 80, 3), rng.uniform(140, 255, 3)
    if rng.random() < 0.3:  # one fluorescent channel
        dark, bright = np.zeros(3), np.zeros(3)
        bright[rng.integers(3)] = 255
    middle = (dark + bright) / 2 + (rng.normal(0, 35, 3) if rng.random() < 0.4 else 0)
    knots = [0.0, 127.0, 255.0]
    table = np.stack(
        [np.interp(np.arange(256), knots, [dark[c], middle[c], bright[c]]) for c in range(3)], axis=1
    )
    coloured: NDArray[np.uint8] = table.clip(0, 255).astype(np.uint8)[grey.astype(np.uint8)]
    return coloured


def _compressed(rng: Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR), np.uint8)
