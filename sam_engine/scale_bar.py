"""The scale bar that a microscope has drawn into a picture: where it is and how long, in pixels.

A bar is a thin, even, bright or dark, horizontal rectangle; what it stands for is printed beside it and has
to be given by the caller. docs/scale_bar.md has the method and how often it is right on real pictures.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.calibration import Calibration, calibrate
from sam_engine.errors import InvalidInput
from sam_engine.types import ByteArray

Box = tuple[int, int, int, int]
Brightness = Literal["light", "dark"]

MIN_ASPECT = 4.0
MIN_LENGTH_SHARE, MAX_LENGTH_SHARE = 0.045, 0.7  # of the width of the picture
MIN_LENGTH_PX = 20
MAX_THICKNESS_SHARE = 0.06  # of the height of the picture
LEVELS = (60, 110, 160, 210)  # thresholds that part a bar from what surrounds it
MIN_CONTRAST = 40.0  # grey levels between a bar and what surrounds it
MAX_SPREAD = 0.12  # standard deviation inside a bar over its contrast
MIN_FILL = 0.95  # share of its box that a bar covers; the rest is for soft corners
MIN_DIFFERING = 0.9  # share of its surroundings that differ from a bar by half of its contrast
GAP = 2  # px between a bar and where its surroundings are read: the width of a soft edge
FULL_CONTRAST, SATURATED = 100.0, 225.0  # grey levels from which contrast and brightness speak for a bar
MIN_CONFIDENCE = 0.5
RIVAL = 0.8  # another bar of this share of the confidence makes a picture ambiguous

MAX_BOX_SHARE = 0.35  # of the picture that the box behind a bar may cover
EVEN_BOX = 12  # grey levels within which a box is one colour
MIN_BOX_FRAME = 0.85  # of the rim of a box is of its colour; patches of even ground have ragged rims


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """A scale bar, in pixels of the picture; pixel (0, 0) is centred at (0, 0).

    Attributes:
        bbox_xywh: the pixels of the bar; width and height count pixels.
        length_px: between its ends, at half of their contrast.
        ends_x: columns of the left and the right end.
        brightness: whether it is lighter or darker than what surrounds it.
        confidence: in (0, 1]; a score, not a probability.
        region_xywh: the bar with its text and the box behind them, where nothing is to be measured.
    """

    bbox_xywh: Box
    length_px: float
    ends_x: tuple[float, float]
    brightness: Brightness
    confidence: float
    region_xywh: Box


def find_scale_bar(image: ByteArray) -> ScaleBar | None:
    """The scale bar of an (H, W, 3) picture; None where there is none or more than one that may be it.

    Raises:
        InvalidInput: the picture is not (H, W, 3) of uint8.
    """
    bars = find_scale_bars(image)
    return bars[0] if len(bars) == 1 else None


def find_scale_bars(image: ByteArray) -> list[ScaleBar]:
    """All that may be the scale bar of an (H, W, 3) picture, best first: more than one is ambiguous.

    Raises:
        InvalidInput: the picture is not (H, W, 3) of uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InvalidInput("image", f"has shape {image.shape} of {image.dtype}, must be (H, W, 3) of uint8")
    if min(image.shape[:2]) < MIN_LENGTH_PX:
        return []
    found = [
        bar
        for plane in _planes(image)
        for brightness in ("light", "dark")
        for bar in _bars_of(plane, brightness)
    ]
    bars = _without_twins(_distinct(found))
    return [bar for bar in bars if bar.confidence >= RIVAL * bars[0].confidence]


def calibrate_by_bar(image: ByteArray, scale_bar_um: float) -> tuple[Calibration, ScaleBar]:
    """Scale of an (H, W, 3) picture whose scale bar stands for `scale_bar_um` micrometres.

    Raises:
        InvalidInput: `scale_bar_um` is not a finite number above 0, the picture is not (H, W, 3) of uint8, or
            it has no bar or several.
    """
    if not (math.isfinite(scale_bar_um) and scale_bar_um > 0):
        raise InvalidInput("scale_bar_um", f"{scale_bar_um} must be finite and > 0")
    bars = find_scale_bars(image)
    if not bars:
        raise InvalidInput("scale_bar_um", f"{scale_bar_um} is given, but no scale bar is found")
    if len(bars) > 1:
        boxes = ", ".join(str(list(bar.bbox_xywh)) for bar in bars)
        raise InvalidInput(
            "scale_bar_um", f"{scale_bar_um} is given, but 1 bar is needed of those at {boxes}"
        )
    return calibrate(scale_bar_um / bars[0].length_px), bars[0]


def overlaps_bar(bbox_xywh: Box, bar: ScaleBar, *, min_share: float = 0.5) -> bool:
    """Whether at least `min_share` of a mask's bounding box lies on the bar, its text or their box."""
    x, y, w, h = bbox_xywh
    bar_x, bar_y, bar_w, bar_h = bar.region_xywh
    width = min(x + w, bar_x + bar_w) - max(x, bar_x)
    height = min(y + h, bar_y + bar_h) - max(y, bar_y)
    return width > 0 and height > 0 and width * height >= min_share * w * h


# --- candidates ---


def _planes(image: ByteArray) -> list[ByteArray]:
    """Grey, and each colour too where the picture has colours: a red bar on black is dark in grey."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    spread = np.ptp(image, axis=2)
    if np.count_nonzero(spread > 60) < MIN_LENGTH_PX:
        return [grey]
    return [grey, *(np.ascontiguousarray(image[..., channel]) for channel in range(3))]


def _bars_of(plane: ByteArray, brightness: Brightness) -> Iterator[ScaleBar]:
    """Bars of one brightness; dark ones are light ones of the negative."""
    light = plane if brightness == "light" else np.asarray(255 - plane, dtype=np.uint8)
    bars = [_measured(light, box, brightness) for box in _rectangles(light)]
    for bar in _joined(_distinct([bar for bar in bars if bar is not None])):
        if bar.confidence >= MIN_CONFIDENCE and not _goes_on(light, bar.bbox_xywh):
            yield bar


def _rectangles(light: ByteArray) -> set[Box]:
    """Boxes of thin, solid, horizontal shapes above any of the levels.

    Opening by a horizontal line removes all that is shorter: text, end ticks, the sides of frames.
    """
    height, width = light.shape
    shortest = max(MIN_LENGTH_PX, round(MIN_LENGTH_SHARE * width))
    line = np.ones((1, shortest | 1), dtype=np.uint8)  # an even length would move what stays by a pixel
    boxes = set()
    for level in LEVELS:
        long = cv2.morphologyEx((light > level).astype(np.uint8), cv2.MORPH_OPEN, line)
        _, _, stats, _ = cv2.connectedComponentsWithStats(long, connectivity=8)
        x, _, w, h, area = stats[1:].T
        fits = (w >= MIN_ASPECT * h) & (area >= MIN_FILL * w * h)
        fits &= (w <= MAX_LENGTH_SHARE * width) & (h <= max(2.0, MAX_THICKNESS_SHARE * height))
        fits &= (x > 0) & (x + w < width)  # a bar that is cut off has no length
        boxes |= {(int(a), int(b), int(c), int(d)) for a, b, c, d, _ in stats[1:][fits]}
    return boxes


def _measured(light: ByteArray, box: Box, brightness: Brightness) -> ScaleBar | None:
    """The bar in `box`, if it is even and differs from all that surrounds it."""
    x, y, w, h = box
    inner = light[y + (h > 2) : y + h - (h > 2), x + 2 : x + w - 2]
    value = float(np.median(inner))
    sides = _surroundings(light, box)
    if sides is None:
        return None
    level = max(float(np.median(side)) for side in sides)
    contrast = value - level
    if contrast < MIN_CONTRAST or float(inner.std()) > MAX_SPREAD * contrast:
        return None
    differing = [np.count_nonzero(side < value - 0.5 * contrast) / side.size for side in sides]
    if min(differing) < MIN_DIFFERING or _has_corners(light, box, value - 0.5 * contrast):
        return None
    ends = _ends(light, box, value)
    if ends is None:
        return None
    glyphs = _glyphs(light, box, value, contrast)
    score = min(1.0, contrast / FULL_CONTRAST) * (1.0 - 0.5 * float(inner.std()) / (MAX_SPREAD * contrast))
    score *= 1.0 if value >= SATURATED else 0.7
    score *= 1.0 if glyphs else 0.75
    score *= 1.0 if _is_near_an_edge(box, light.shape[0]) else 0.6
    region = _region(light, box, glyphs, sides[2:])
    return ScaleBar(box, ends[1] - ends[0], ends, brightness, score, region)


def _surroundings(light: ByteArray, box: Box) -> list[ByteArray] | None:
    """Strips beside the bar: left, right and, where the picture goes on, above and below.

    None if the picture ends so near that no side above or below is left.
    """
    x, y, w, h = box
    rows, last = slice(y, y + h), light.shape[1] - 1
    left = light[rows, max(0, x - GAP - 3) : max(1, x - GAP)]
    right = light[rows, min(x + w + GAP, last) : x + w + GAP + 3]
    # The ends are left out: ticks may stand there.
    spare = max(GAP, w // 10)
    columns = slice(x + spare, x + w - spare)
    above, below = (
        light[max(0, y - GAP - 2) : max(0, y - GAP), columns],
        light[y + h + GAP : y + h + GAP + 2, columns],
    )
    if not (above.size or below.size):
        return None
    return [side for side in (left, right, above, below) if side.size]


def _has_corners(light: ByteArray, box: Box, level: float) -> bool:
    """Whether both ends go on up or down, farther than an end tick: the sides of a frame or of a box."""
    x, y, w, h = box
    reach = max(3 * h, round(0.15 * w)) + GAP
    ends = [slice(x, x + 3), slice(x + w - 3, x + w)]
    above, below = light[max(0, y - reach) : y], light[y + h : y + h + reach]
    return any(
        len(part) == reach and all((part[:, end] >= level).any(axis=1).all() for end in ends)
        for part in (above, below)
    )


def _ends(light: ByteArray, box: Box, value: float) -> tuple[float, float] | None:
    """Columns at which the mean row of the bar crosses half of its contrast, between pixel centres."""
    x, y, w, h = box
    first = max(0, x - GAP - 4)
    profile = light[y + (h > 2) : y + h - (h > 2), first : x + w + GAP + 4].mean(axis=0)
    middle = len(profile) // 2
    left = _crossing(profile[: middle + 1][::-1], value)
    right = _crossing(profile[middle:], value)
    if left is None or right is None:
        return None
    return first + middle - left, first + middle + right


def _crossing(profile: NDArray[np.floating], value: float) -> float | None:
    """Distance along `profile`, which starts on the bar, to where it falls half way to the level beyond.

    That level is the lowest near the end: a box behind the bar may be only two pixels wider than it.
    """
    half = 0.5 * (value + float(profile[-GAP - 4 :].min()))
    below = np.flatnonzero(profile < half)
    if not len(below) or below[0] == 0:
        return None
    k = int(below[0])
    return k - 1 + float((profile[k - 1] - half) / (profile[k - 1] - profile[k]))


def _goes_on(light: ByteArray, box: Box) -> bool:
    """Whether a second thin line stands at the same height: the other half of a bar with text between."""
    x, y, w, h = box
    level = float(np.median(light[y : y + h, x + 2 : x + 2 + w // 4])) - 0.5 * MIN_CONTRAST
    rows = [row for row in (y - GAP - 1, y + h + GAP) if 0 <= row < light.shape[0]]
    line = (np.median(light[y : y + h], axis=0) >= level) & (light[rows] < level).all(axis=0)
    line[max(0, x - GAP) : x + w + GAP] = False
    line[: max(0, x - 2 * w)] = line[x + 3 * w :] = False
    starts, stops = np.flatnonzero(np.diff(np.pad(line, 1).astype(np.int8))).reshape(-1, 2).T
    return len(starts) > 0 and int((stops - starts).max()) >= max(MIN_LENGTH_PX, w // 2)


def _is_near_an_edge(box: Box, height: int) -> bool:
    """Whether the bar lies in the upper or the lower quarter of the picture."""
    middle = box[1] + box[3] / 2.0
    return min(middle, height - middle) <= height / 4.0


# --- text and the box behind it ---


def _glyphs(light: ByteArray, box: Box, value: float, contrast: float) -> list[Box]:
    """Boxes of what may be the text of a bar: small things of its brightness close above or below it.

    What reaches the border of the window is part of the picture and not of the text.
    """
    (x, y, w, h), (height, width) = box, light.shape
    reach_x, reach_y = w // 2 + 10, max(8 * h, min(w, height // 8))
    left, top = max(0, x - reach_x), max(0, y - reach_y)
    window = light[top : min(height, y + h + reach_y), left : min(width, x + w + reach_x)]
    alike = (window > value - 0.4 * contrast).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(alike, connectivity=8)
    boxes = [(int(a) + left, int(b) + top, int(c), int(d)) for a, b, c, d, _ in stats[1:]]
    inner = (left + 1, top + 1, left + window.shape[1] - 1, top + window.shape[0] - 1)
    tall = [g for g in boxes if 5 <= g[3] <= height // 10 and g[2] <= 3 * g[3] and _is_inside(g, inner)]
    if len(tall) < 2:
        return []
    size = float(np.median([g[3] for g in tall]))
    return [g for g in tall if 0.4 * size <= g[3] <= 2.0 * size]


def _is_inside(box: Box, corners: Box) -> bool:
    """Whether a box lies within (x1, y1, x2, y2), the last two excluded."""
    x, y, w, h = box
    return x >= corners[0] and y >= corners[1] and x + w <= corners[2] and y + h <= corners[3]


def _region(light: ByteArray, box: Box, glyphs: Sequence[Box], sides: Sequence[ByteArray]) -> Box:
    """Box around the bar, its text and, where they stand on one of an even colour, the box behind them."""
    together = [box, *glyphs]
    for side in sides:
        colour = float(np.median(side))
        if np.count_nonzero(np.abs(side - colour) <= EVEN_BOX) >= 0.8 * side.size:
            behind = _even_box(light, box, colour)
            together += [behind] if behind else []
    return _around(together)


def _even_box(light: ByteArray, box: Box, colour: float) -> Box | None:
    """Box of one colour that encloses the bar; None if it is the ground of the picture."""
    x, y, w, h = box
    like = (np.abs(light.astype(np.int16) - int(colour)) <= EVEN_BOX).astype(np.uint8)
    like[y - 1 : y + h + 1, x - 1 : x + w + 1] = 1  # the bar itself and its soft edge join
    _, labels, stats, _ = cv2.connectedComponentsWithStats(like, connectivity=4)
    left, top, width, height, area = (int(v) for v in stats[labels[y + h // 2, x + w // 2]])
    if width * height > MAX_BOX_SHARE * light.size or area < 0.5 * width * height:
        return None
    part = like[top : top + height, left : left + width]
    frame = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    return (left, top, width, height) if frame.mean() >= MIN_BOX_FRAME else None


# --- which of them ---


def _distinct(bars: Sequence[ScaleBar]) -> list[ScaleBar]:
    """Best first, each place once: levels and colours find the same bar again.

    A bar that touches the strip of a box below or above it is the shorter of the two.
    """
    kept: list[ScaleBar] = []
    for bar in sorted(bars, key=lambda b: (-b.confidence, b.length_px, b.bbox_xywh)):
        if not any(_touch(bar.bbox_xywh, other.bbox_xywh) for other in kept):
            kept.append(bar)
    return kept


def _touch(a: Box, b: Box) -> bool:
    """Whether two boxes come within 2 px of each other."""
    apart_x = max(a[0], b[0]) - min(a[0] + a[2], b[0] + b[2])
    apart_y = max(a[1], b[1]) - min(a[1] + a[3], b[1] + b[3])
    return apart_x <= 2 and apart_y <= 2


def _joined(bars: Sequence[ScaleBar]) -> list[ScaleBar]:
    """Two equal lines at one height are the halves of one bar with its text between them."""
    left_over, joined = list(bars), []
    while left_over:
        bar = left_over.pop(0)
        half = next((other for other in left_over if _are_halves(bar, other)), None)
        if half is not None:
            left_over.remove(half)
            bar = _union(bar, half)
        joined.append(bar)
    return joined


def _are_halves(a: ScaleBar, b: ScaleBar) -> bool:
    """Whether two lines have one height, thickness and length, and less than a length and a half between."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.bbox_xywh, b.bbox_xywh
    gap = max(ax, bx) - min(ax + aw, bx + bw)
    alike = a.brightness == b.brightness and abs(ay - by) <= 1 and abs(ah - bh) <= 2
    return alike and abs(aw - bw) <= max(3, aw // 10) and 0 < gap < 1.5 * aw


def _union(a: ScaleBar, b: ScaleBar) -> ScaleBar:
    """One bar from the outer ends of two."""
    ends = (min(a.ends_x[0], b.ends_x[0]), max(a.ends_x[1], b.ends_x[1]))
    return replace(
        a,
        bbox_xywh=_around([a.bbox_xywh, b.bbox_xywh]),
        length_px=ends[1] - ends[0],
        ends_x=ends,
        confidence=min(a.confidence, b.confidence),
        region_xywh=_around([a.region_xywh, b.region_xywh]),
    )


def _around(boxes: Sequence[Box]) -> Box:
    """Smallest box around all of them."""
    x, y = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return x, y, right - x, bottom - y


def _without_twins(bars: Sequence[ScaleBar]) -> list[ScaleBar]:
    """Without lines that begin and end at the same columns: the top and the bottom of an outline."""
    return [
        bar
        for bar in bars
        if not any(
            other is not bar
            and abs(other.ends_x[0] - bar.ends_x[0]) <= 3
            and abs(other.ends_x[1] - bar.ends_x[1]) <= 3
            for other in bars
        )
    ]
