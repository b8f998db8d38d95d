"""Draws `droplets.png`: an emulsion in a brightfield microscope, nearly monodisperse.

    python examples/draw_droplets.py [output.png]

The same numbers are drawn every time, so that the picture in this folder can be made again.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SEED = 20
WIDTH, HEIGHT = 640, 480
DROPLETS = 120
TYPICAL_RADIUS_PX, RADIUS_CV = 15.0, 0.05
LARGER, SMALLER = 4, 8
TOUCHING_SHARE = 0.35
GAP_PX = 4.0
BACKGROUND, NOISE = 158.0, 2.5
UM_PER_PX = 1.6
BAR_UM = 125
BAR_BOX = (WIDTH - 140, HEIGHT - 50, WIDTH, HEIGHT)  # kept free of droplets

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Droplet:
    """A circle in pixels; `contrast` is the strength of its rim."""

    x: float
    y: float
    radius: float
    contrast: float


def place(rng: np.random.Generator) -> list[Droplet]:
    """The larger ones first, while there is room; some touch one that is already there."""
    droplets: list[Droplet] = []
    for radius in sorted(_radii(rng), reverse=True):
        touches = bool(droplets) and rng.random() < TOUCHING_SHARE
        while True:
            x, y = _beside(rng, droplets, radius) if touches else rng.uniform((0, 0), (WIDTH, HEIGHT))
            if _is_free(droplets, x, y, radius, 0.0 if touches else GAP_PX):
                break
        droplets.append(Droplet(x, y, radius, rng.uniform(0.85, 1.15)))
    return droplets


def draw(droplets: list[Droplet], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH) of grey values."""
    picture = np.ones((HEIGHT, WIDTH), dtype=np.float32)
    for droplet in droplets:
        _add_droplet(picture, droplet)
    picture = cv2.GaussianBlur(picture * _light(), (0, 0), 0.7)
    picture += rng.normal(0, NOISE, picture.shape)
    grey = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    _add_scale_bar(grey)
    return grey


def _radii(rng: np.random.Generator) -> list[float]:
    typical = DROPLETS - LARGER - SMALLER
    return [
        *rng.normal(TYPICAL_RADIUS_PX, RADIUS_CV * TYPICAL_RADIUS_PX, typical),
        *rng.uniform(22, 28, LARGER),
        *rng.uniform(7, 10, SMALLER),
    ]


def _beside(rng: np.random.Generator, droplets: list[Droplet], radius: float) -> tuple[float, float]:
    other = droplets[rng.integers(len(droplets))]
    angle, distance = rng.uniform(0, 2 * np.pi), other.radius + radius + 0.1
    return other.x + distance * np.cos(angle), other.y + distance * np.sin(angle)


def _is_free(droplets: list[Droplet], x: float, y: float, radius: float, gap: float) -> bool:
    """Clear of the others and of the scale bar, and at least half inside the picture."""
    left, top, _, _ = BAR_BOX
    inside = 0 <= x < WIDTH and 0 <= y < HEIGHT and not (x > left - radius and y > top - radius)
    return inside and all(np.hypot(x - d.x, y - d.y) >= radius + d.radius + gap for d in droplets)


def _add_droplet(picture: Image, droplet: Droplet) -> None:
    """A ball of higher refraction: dark at the rim, a bright spot inside, a faint halo around it."""
    reach = int(droplet.radius) + 8
    left, top = max(0, int(droplet.x) - reach), max(0, int(droplet.y) - reach)
    window = picture[top : int(droplet.y) + reach, left : int(droplet.x) + reach]
    rows, columns = np.indices(window.shape, dtype=np.float32)
    distance = np.hypot(columns + left - droplet.x, rows + top - droplet.y)
    width = 1.2 + 0.05 * droplet.radius
    rim = np.exp(-(((distance - droplet.radius + width) / width) ** 2))
    halo = np.exp(-(((distance - droplet.radius - 2) / 1.6) ** 2))
    spot = np.exp(-((distance / (0.5 * droplet.radius)) ** 2))
    body = 1 / (1 + np.exp(2.5 * (distance - droplet.radius)))
    window += droplet.contrast * (0.10 * halo - 0.55 * rim + body * (0.30 * spot - 0.06))


def _light() -> Image:
    """Brighter towards the upper left, darker in the corners."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    across, down = columns / WIDTH - 0.5, rows / HEIGHT - 0.5
    return BACKGROUND * (1 - 0.14 * across - 0.10 * down - 0.28 * (across**2 + down**2))


def _add_scale_bar(grey: NDArray[np.uint8]) -> None:
    right, bottom = WIDTH - 16, HEIGHT - 12
    left = right - round(BAR_UM / UM_PER_PX)
    cv2.rectangle(grey, (left, bottom - 4), (right, bottom), 20, cv2.FILLED)
    text, font, size = f"{BAR_UM} um", cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (text_width, _), _ = cv2.getTextSize(text, font, size, 1)
    place = ((left + right - text_width) // 2, bottom - 10)
    cv2.putText(grey, text, place, font, size, 20, 1, cv2.LINE_AA)


def main() -> None:
    """Draw and write."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("droplets.png")
    rng = np.random.default_rng(SEED)
    droplets = place(rng)
    done, data = cv2.imencode(".png", draw(droplets, rng), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise OSError(f"cannot write {path}")
    path.write_bytes(data.tobytes())
    print(f"{path}: {len(droplets)} droplets, {UM_PER_PX} um a pixel")


if __name__ == "__main__":
    main()
