"""Pictures of discs whose places and sizes are known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BACKGROUND, INSIDE = (176, 180, 184), (88, 84, 80)


@dataclass(frozen=True)
class Disc:
    """Centre and radius in pixels; pixel (0, 0) covers 0..1."""

    x: float
    y: float
    radius: float

    def depth(self, image_size: tuple[int, int]) -> NDArray[np.float64]:
        """(H, W): how far inside the edge each pixel's centre lies, in pixels; negative outside."""
        y, x = np.ogrid[: image_size[0], : image_size[1]]
        return self.radius - np.hypot(x + 0.5 - self.x, y + 0.5 - self.y)

    def pixels(self, image_size: tuple[int, int]) -> NDArray[np.bool_]:
        """(H, W): pixels whose centre lies inside."""
        return self.depth(image_size) > 0


def spaced_discs(image_size: tuple[int, int], pitch: float, radius: float, seed: int = 0) -> list[Disc]:
    """Discs on a grid, each moved a little, of radii 0.8 to 1 times the largest; none touches another."""
    rng = np.random.default_rng(seed)
    spare = pitch / 2 - radius - 1
    return [
        Disc(
            (i + 0.5) * pitch + rng.uniform(-spare, spare),
            (j + 0.5) * pitch + rng.uniform(-spare, spare),
            radius * rng.uniform(0.8, 1),
        )
        for j in range(int(image_size[0] // pitch))
        for i in range(int(image_size[1] // pitch))
    ]


def draw(discs: list[Disc], image_size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 3): dark discs with smooth edges on a bright, slightly noisy ground."""
    inside = np.zeros(image_size)
    for disc in discs:
        inside = np.maximum(inside, np.clip(disc.depth(image_size) + 0.5, 0, 1))
    picture = np.array(BACKGROUND) + inside[..., None] * (np.array(INSIDE) - BACKGROUND)
    noise = np.random.default_rng(seed).normal(0, 2, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))
