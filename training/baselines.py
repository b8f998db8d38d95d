"""Classical methods beside which the network is judged.

Each has a few parameters that no single value fits, so they are chosen for each data set by F1 at IoU 0.5 on
its validation pictures (powder_spheres, which has none: on its training pictures). That is more than the
network gets, which has one setting for all. `CHOSEN` records the result of

    python -m training.baselines --data DIR
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from sam_engine.masks import FRAME, crop
from sam_engine.types import BoolArray, ByteArray, Mask
from training.datasets import find_samples, split
from training.groups import DRAWN, Case, case_of, drawn_groups, real_groups
from training.metrics import Labels, masks_of_labels, score_picture, summarise

Value = float | str
Parameters = Mapping[str, Value]

MIN_AREA_PX = 12
TUNING_PICTURES = 12


@dataclass(frozen=True, slots=True)
class Baseline:
    """A method and the grid of parameters that it is tuned over."""

    name: str
    find: Callable[..., list[Mask]]
    grid: Mapping[str, tuple[Value, ...]]

    def settings(self) -> list[dict[str, Value]]:
        """Every point of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def otsu_watershed(picture: ByteArray, *, sigma: float, separation: float, ground: str) -> list[Mask]:
    """Otsu's threshold (1979), distance transform, watershed from its peaks.

    Args:
        sigma: of the Gaussian before the threshold, in pixels.
        separation: of two peaks at least, in pixels.
        ground: how the brightness of the background is told: `border`, as most of the picture's edge;
            `area`, as most of the picture.
    """
    grey = _grey(picture, sigma)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return _separate(_less_ground(grey > level, ground), separation)


def local_watershed(
    picture: ByteArray, *, window: float, offset: float, separation: float, ground: str
) -> list[Mask]:
    """Threshold against the local mean, holes filled, distance transform, watershed from its peaks.

    Args:
        window: side of the neighbourhood as a share of the longest side.
        offset: grey levels by which an object differs from its neighbourhood at least.
        separation, ground: see `otsu_watershed`; `ground` is judged with Otsu's threshold.
    """
    grey = _grey(picture, 1.0)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = grey > level
    side = 2 * round(window * max(grey.shape) / 2) + 1
    contrast = grey.astype(np.float32) - cv2.blur(grey.astype(np.float32), (side, side))
    objects_are_bright = np.array_equal(_less_ground(bright, ground), bright)
    differs = contrast > offset if objects_are_bright else contrast < -offset
    return _separate(_filled(np.asarray(differs)), separation)


def hough_circles(
    picture: ByteArray, *, canny: float, perfection: float, smallest: float, largest: float
) -> list[Mask]:
    """Circles by OpenCV's `HOUGH_GRADIENT_ALT`, in the 1024-pixel frame.

    The plain `HOUGH_GRADIENT` finds far less on every set and takes up to half a minute a picture.

    Args:
        canny: upper threshold of the edges, for Scharr gradients.
        perfection: share of a circle that edges must support, 0..1.
        smallest, largest: radii in pixels of the frame; centres are at least 1.5 `smallest` apart.
    """
    height, width = picture.shape[:2]
    scale = FRAME / max(height, width)
    grey = cv2.medianBlur(cv2.resize(_grey(picture, 0.0), None, fx=scale, fy=scale), 5)
    circles = cv2.HoughCircles(
        grey,
        cv2.HOUGH_GRADIENT_ALT,
        dp=1.5,
        minDist=1.5 * smallest,
        param1=canny,
        param2=perfection,
        minRadius=round(smallest),
        maxRadius=round(largest),
    )
    found = np.zeros((0, 3)) if circles is None else np.asarray(circles, dtype=np.float64).reshape(-1, 3)
    discs = (_disc((x + 0.5) / scale, (y + 0.5) / scale, r / scale, (height, width)) for x, y, r in found)
    return [disc for disc in discs if disc is not None]


BASELINES = (
    Baseline(
        "Otsu + watershed",
        otsu_watershed,
        {"sigma": (1.0, 3.0), "separation": (3.0, 8.0, 20.0, 40.0), "ground": ("border", "area")},
    ),
    Baseline(
        "local threshold + watershed",
        local_watershed,
        {
            "window": (0.1, 0.3),
            "offset": (3.0, 10.0),
            "separation": (3.0, 8.0, 20.0, 40.0),
            "ground": ("border", "area"),
        },
    ),
    Baseline(
        "Hough circles",
        hough_circles,
        {
            "canny": (60.0, 150.0),
            "perfection": (0.6, 0.8, 0.9),
            "smallest": (5.0, 12.0),
            "largest": (60.0, 200.0),
        },
    ),
)

# Per data set and method; `drawn` for scenes, "" for any other set. F1 is that of the pictures chosen on.
CHOSEN: Mapping[str, Mapping[str, Parameters]] = {
    "emps_particles": {
        "Otsu + watershed": {"sigma": 3.0, "separation": 20.0, "ground": "border"},  # F1 0.314
        "local threshold + watershed": {
            "window": 0.3,
            "offset": 10.0,
            "separation": 40.0,
            "ground": "area",
        },  # F1 0.346
        "Hough circles": {"canny": 150.0, "perfection": 0.6, "smallest": 12.0, "largest": 200.0},  # F1 0.431
    },
    "nuclei_dsb2018": {
        "Otsu + watershed": {"sigma": 1.0, "separation": 8.0, "ground": "border"},  # F1 0.785
        "local threshold + watershed": {
            "window": 0.1,
            "offset": 3.0,
            "separation": 8.0,
            "ground": "border",
        },  # F1 0.787
        "Hough circles": {"canny": 60.0, "perfection": 0.6, "smallest": 12.0, "largest": 60.0},  # F1 0.489
    },
    "powder_spheres": {
        "Otsu + watershed": {"sigma": 1.0, "separation": 20.0, "ground": "border"},  # F1 0.048
        "local threshold + watershed": {
            "window": 0.1,
            "offset": 3.0,
            "separation": 8.0,
            "ground": "border",
        },  # F1 0.023
        "Hough circles": {"canny": 150.0, "perfection": 0.8, "smallest": 5.0, "largest": 60.0},  # F1 0.643
    },
    "drawn": {
        "Otsu + watershed": {"sigma": 1.0, "separation": 8.0, "ground": "border"},  # F1 0.237
        "local threshold + watershed": {
            "window": 0.3,
            "offset": 3.0,
            "separation": 3.0,
            "ground": "area",
        },  # F1 0.289
        "Hough circles": {"canny": 60.0, "perfection": 0.8, "smallest": 5.0, "largest": 60.0},  # F1 0.722
    },
    "": {
        "Otsu + watershed": {"sigma": 1.0, "separation": 8.0, "ground": "border"},  # F1 0.308
        "local threshold + watershed": {
            "window": 0.3,
            "offset": 10.0,
            "separation": 8.0,
            "ground": "area",
        },  # F1 0.297
        "Hough circles": {"canny": 60.0, "perfection": 0.8, "smallest": 5.0, "largest": 200.0},  # F1 0.507
    },
}


def settings_of(baseline: Baseline, family: str) -> Parameters:
    """The parameters chosen for a data set."""
    return CHOSEN.get(family, CHOSEN[""])[baseline.name]


def _grey(picture: ByteArray, sigma: float) -> ByteArray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey, dtype=np.uint8)


def _less_ground(bright: BoolArray, ground: str) -> BoolArray:
    """The objects: dark pixels where the background is bright, else the bright ones."""
    edge = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    judged = edge if ground == "border" else bright
    return ~bright if judged.mean() > 0.5 else bright


def _filled(foreground: BoolArray) -> BoolArray:
    """Without specks of a pixel and without holes."""
    opened = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    filled: BoolArray = binary_fill_holes(opened)
    return filled


def _separate(foreground: BoolArray, separation: float) -> list[Mask]:
    """Watershed of the distance to the background, one basin for each of its peaks."""
    distance = cv2.distanceTransform(foreground.astype(np.uint8), cv2.DIST_L2, 5)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1.0)
    peaks = peak_local_max(smooth, min_distance=round(separation), threshold_abs=0.5, exclude_border=False)
    seeds = np.zeros(foreground.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels: Labels = watershed(-smooth, seeds, mask=foreground).astype(np.int32)
    return [mask for mask in masks_of_labels(labels) if mask.area >= MIN_AREA_PX]


def _disc(x: float, y: float, radius: float, size: tuple[int, int]) -> Mask | None:
    """The pixels of a picture (H, W) whose centres lie in a disc; pixel (0, 0) covers 0..1."""
    left, top = (max(0, int(centre - radius)) for centre in (x, y))
    right, bottom = (min(side, int(centre + radius) + 1) for centre, side in ((x, size[1]), (y, size[0])))
    rows, columns = np.ogrid[top : max(top, bottom), left : max(left, right)]
    found = crop(np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius)
    if found is None:
        return None
    pixels, (dx, dy) = found
    return Mask(pixels, (left + dx, top + dy), size, 0.0, 0.0)


def tuning_cases(data: Path, pictures: int) -> dict[str, list[Case]]:
    """What each data set's parameters are chosen on: validation pictures, or training ones where none is."""
    cases = {group.name: list(group.cases) for group in real_groups(data, "validation", pictures)}
    samples = split(find_samples(data), "train")
    for name in sorted({sample.dataset for sample in samples} - set(cases)):
        cases[name] = [case_of(sample) for sample in samples if sample.dataset == name][:pictures]
    scenes = drawn_groups("validation", 2)
    cases[DRAWN] = [case for group in scenes for case in group.cases]
    return cases


def f1_by_setting(baseline: Baseline, cases: Sequence[Case]) -> list[float]:
    """F1 at IoU 0.5, pooled over pictures, of every setting of the grid; 0 where nothing was found."""
    loaded = [(case.name, *case.load()) for case in cases]

    def f1(parameters: Parameters) -> float:
        scores = [
            score_picture(name, truth, baseline.find(picture, **parameters))[0]
            for name, picture, truth in loaded
        ]
        return summarise(scores).f1 or 0.0

    return [f1(parameters) for parameters in baseline.settings()]


def main() -> None:
    """Print the table `CHOSEN`, and the F1 of each choice on the pictures that it was made on."""
    parser = argparse.ArgumentParser(description="Choose the parameters of the classical methods.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=TUNING_PICTURES, help="of each data set at most")
    options = parser.parse_args()
    cases = tuning_cases(options.data, options.pictures)
    f1: dict[str, dict[str, list[float]]] = {}
    for family, own in cases.items():
        print(f"{family}: {len(own)} pictures", file=sys.stderr, flush=True)
        f1[family] = {baseline.name: f1_by_setting(baseline, own) for baseline in BASELINES}
    f1[""] = {b.name: np.mean([own[b.name] for own in f1.values()], axis=0).tolist() for b in BASELINES}
    for family, scores in f1.items():
        print(f"    {json.dumps(family)}: {{")
        for baseline in BASELINES:
            best = int(np.argmax(scores[baseline.name]))
            setting = json.dumps(baseline.settings()[best])
            print(f"        {json.dumps(baseline.name)}: {setting},  # F1 {scores[baseline.name][best]:.3f}")
        print("    },")


if __name__ == "__main__":
    main()
