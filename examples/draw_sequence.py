"""Draws `sequence.tif`: the emulsion of `droplets.png` over four frames, drifting, growing, two merging.

python -m examples.draw_sequence [output.tif]
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from examples.draw_droplets import SEED, Droplet, draw, place

FRAMES = 4
WIDTH, HEIGHT = 320, 240
DRIFT_PX = (5.0, 2.0)
GROWTH = 1.02  # of every radius from frame to frame
MERGED_AFTER = 2


def frames() -> list[list[Droplet]]:
    """The droplets of each frame; the two nearest neighbours become one after `MERGED_AFTER` frames."""
    droplets = place(np.random.default_rng(SEED))
    inside = [d for d in droplets if 60 < d.x < WIDTH - 60 and 60 < d.y < HEIGHT - 60]
    one, other = min(
        ((a, b) for i, a in enumerate(inside) for b in inside[:i]),
        key=lambda pair: (
            np.hypot(pair[0].x - pair[1].x, pair[0].y - pair[1].y) - pair[0].radius - pair[1].radius
        ),
    )
    merged = Droplet(
        (one.x + other.x) / 2,
        (one.y + other.y) / 2,
        (one.radius**3 + other.radius**3) ** (1 / 3),
        one.contrast,
    )
    after = [d for d in droplets if d not in (one, other)] + [merged]
    return [[_moved(d, k) for d in (droplets if k < MERGED_AFTER else after)] for k in range(FRAMES)]


def _moved(droplet: Droplet, frame: int) -> Droplet:
    return replace(
        droplet,
        x=droplet.x + frame * DRIFT_PX[0],
        y=droplet.y + frame * DRIFT_PX[1],
        radius=droplet.radius * GROWTH**frame,
    )


def main() -> None:
    """Draw and write."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("sequence.tif")
    rng = np.random.default_rng(SEED)
    first, *others = (Image.fromarray(draw(droplets, rng)[:HEIGHT, :WIDTH]) for droplets in frames())
    first.save(path, save_all=True, append_images=others, compression="tiff_adobe_deflate")
    print(f"{path}: {FRAMES} frames")


if __name__ == "__main__":
    main()
