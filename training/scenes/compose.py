"""From a recipe to a picture with label maps."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes.appearance import gaussian, paint
from training.scenes.kinds import RECIPES, Inclusions, Recipe
from training.scenes.layout import SMALLEST_RADIUS_PX, FloatImage, Generator, log_uniform, smooth_noise
from training.scenes.optics import expose
from training.scenes.outline import Form, Packing, Window, freeform, window_around

KINDS = tuple(RECIPES)
_SHARES = np.array([share for share, _ in RECIPES.values()])

MOST_DRAWN = 1000
SMALLEST_VISIBLE_PX = 10
LEAST_CONTRAST = 3.5  # grey levels: what a person would not see is not to be learnt either
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
CAPTIONS = (
    "100 um",
    "2 um",
    "500 nm",
    "1 mm",
    "t = 0.4 s",
    "A",
    "b",
    "(c)",
    "d)",
    "B2",
    "Ag@SiO2",
    "30 C",
    "200 fps",
    "x20",
    "5.0 kV",
    "-00:04:30:484,29",
)


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """A drawn picture and its truth.

    Attributes:
        picture: (H, W, 3) uint8.
        objects: (H, W) uint16 labels of the objects that can be seen; where two overlap, of the front one.
        inclusions: (H, W) uint16 labels of what lies inside objects.
        kind: one of `KINDS`.
    """

    picture: NDArray[np.uint8]
    objects: NDArray[np.uint16]
    inclusions: NDArray[np.uint16]
    kind: str


def draw_scene(rng: Generator, size: int = 512, kind: str | None = None) -> Scene:
    """A scene of `size` x `size` pixels, of a random kind unless one is named."""
    chosen = str(rng.choice(KINDS, p=_SHARES / _SHARES.sum())) if kind is None else kind
    recipe = RECIPES[chosen][1](rng, size)
    ground = _ground(rng, recipe, size)
    picture, objects, inclusions = _draw_objects(rng, recipe, ground)
    _label_only_visible(picture, ground, objects, inclusions)
    _scatter_debris(rng, picture, recipe)
    if rng.random() < recipe.captions:
        for _ in range(int(rng.integers(1, 4))):
            _annotate(rng, picture, objects, inclusions)
    if rng.random() < 0.2 * recipe.captions:
        _info_bar(rng, picture, objects, inclusions)
    return Scene(expose(rng, picture), objects, inclusions, chosen)


def _ground(rng: Generator, recipe: Recipe, size: int) -> FloatImage:
    ground = np.full((size, size), recipe.ground, np.float32)
    amplitude, cell = recipe.grain
    if amplitude > 0:
        texture = smooth_noise(rng, size, cell, int(rng.integers(1, 4)))
        if recipe.ridges:
            texture = 1 - 2 * np.abs(texture)
        ground *= (1 + np.float32(amplitude) * texture).clip(0)
    if rng.random() < 0.7:  # uneven light
        ground *= 1 + np.float32(rng.uniform(0.02, 0.2)) * smooth_noise(rng, size, rng.uniform(80, 300))
    if rng.random() < 0.5:
        angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.35)
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
        ground *= 1 + np.float32(strength) * (
            x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
        )
    for _ in range(recipe.fibres):
        start, along = rng.uniform(0, size, 2), rng.uniform(-size / 2, size / 2, 2)
        grey = recipe.ground * rng.uniform(0.5, 1.5)
        cv2.line(ground, _pixel(start), _pixel(start + along), grey, int(rng.integers(1, 4)), cv2.LINE_AA)
    for _ in range(recipe.channels):
        ground = _with_channel(rng, ground, recipe)
    return ground


def _with_channel(rng: Generator, ground: FloatImage, recipe: Recipe) -> FloatImage:
    """Two parallel walls, or a row of posts."""
    size = len(ground)
    if rng.random() < 0.12:
        for _ in range(int(rng.integers(2, 12))):
            centre, half = rng.uniform(0, size, 2), rng.uniform(6, 40)
            grey = recipe.ground * rng.uniform(0.5, 1.3)
            thickness = int(rng.choice([-1, 1, 2, 3]))
            cv2.rectangle(ground, _pixel(centre - half), _pixel(centre + half), grey, thickness)
        return ground
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    across, along = (y, x) if rng.random() < 0.5 else (x, y)
    if rng.random() < 0.3:
        across = across + np.float32(rng.uniform(-0.3, 0.3)) * along
    half = rng.uniform(0.05, 0.35) * size
    wall = np.abs(across - np.float32(rng.uniform(0, size))) - np.float32(half)
    line = rng.uniform(0.8, 4)
    factor = 1 - np.float32(rng.uniform(0.1, 0.8)) * gaussian(wall, line)
    if rng.random() < 0.5:
        factor = factor * (1 + np.float32(rng.uniform(0.05, 0.3)) * gaussian(wall - 2 * line, line))
    if rng.random() < 0.4:
        factor = np.where(wall > 0, factor * np.float32(rng.uniform(0.6, 1.25)), factor)
    return ground * factor


def _draw_objects(
    rng: Generator, recipe: Recipe, ground: FloatImage
) -> tuple[FloatImage, NDArray[np.uint16], NDArray[np.uint16]]:
    size = len(ground)
    picture = ground.copy()
    circles = recipe.circles[recipe.circles[:, 2] >= SMALLEST_RADIUS_PX][:MOST_DRAWN]
    recipe = replace(recipe, circles=circles)
    texture = smooth_noise(rng, size, rng.uniform(2, 14), 2)
    if recipe.ghosts:
        _draw_ghosts(rng, recipe, picture, texture)
    objects, inclusions = np.zeros((size, size), np.uint16), np.zeros((size, size), np.uint16)
    packing = None
    if recipe.walls is not None and len(circles):
        packing = Packing.of(circles, size, recipe.walls, recipe.swell)
    for label, i in enumerate(rng.permutation(len(circles)), start=1):
        x, y, radius = circles[i]
        reach = radius * max(recipe.form.reach, recipe.swell) + recipe.form.plug_px
        window = window_around(x, y, reach + recipe.look.reach_px(radius), size)
        if window is None:
            continue
        if packing is None:
            signed, rho = freeform(rng, window, radius, recipe.form)
        else:
            signed, rho = packing.cell(int(i), window)
        inside = signed < 0
        if np.count_nonzero(inside) < SMALLEST_VISIBLE_PX:
            continue
        at = window.index
        picture[at] = paint(rng, picture[at], window, signed, rho, radius, recipe.look, texture)
        objects[at][inside] = label
        inclusions[at][inside] = 0
        if recipe.inclusions is not None and rng.random() < recipe.inclusions.share:
            _draw_inclusions(rng, recipe.inclusions, picture, inclusions, (x, y, radius), window, signed)
    return picture, objects, inclusions


def _draw_ghosts(rng: Generator, recipe: Recipe, picture: FloatImage, texture: FloatImage) -> None:
    """Objects so far out of focus that nobody would count them."""
    size = len(picture)
    count = min(200, int(recipe.ghosts * len(recipe.circles)) + 1)
    blur = rng.uniform(4, 10)
    look = replace(recipe.look, softness_px=blur, defocus_px=blur, spots=(), variation=0.0, faint_share=1.0)
    for _ in range(count):
        radius = float(recipe.circles[rng.integers(len(recipe.circles)), 2]) if len(recipe.circles) else 20.0
        x, y = rng.uniform(0, size, 2)
        window = window_around(x, y, radius + look.reach_px(radius), size)
        if window is not None:
            signed, rho = freeform(rng, window, radius, Form())
            painted = paint(rng, picture[window.index], window, signed, rho, radius, look, texture)
            picture[window.index] = painted


def _draw_inclusions(
    rng: Generator,
    plan: Inclusions,
    picture: FloatImage,
    labels: NDArray[np.uint16],
    parent: tuple[float, float, float],
    window: Window,
    parent_signed: FloatImage,
) -> None:
    x, y, radius = parent
    count = int(rng.integers(1, plan.most + 1))
    for k in range(count):
        small = min(radius * rng.uniform(*plan.size), 0.92 * radius)
        if small < SMALLEST_RADIUS_PX * 0.8:
            continue
        room = max(0.0, radius - small - 1.5)
        distance, angle = room * math.sqrt(rng.uniform(0, 1)), 2 * math.pi * (k + rng.uniform(0, 1)) / count
        at_x, at_y = x + distance * math.cos(angle), y + distance * math.sin(angle)
        inner = window_around(at_x, at_y, small + plan.look.reach_px(small), len(picture))
        if inner is None:
            continue
        signed, rho = freeform(rng, inner, small, Form())
        edge = _of_window(parent_signed, window, inner)
        if edge is None:
            continue
        inner, part = edge
        signed, rho = (values[part] for values in (signed, rho))
        signed = np.maximum(signed, parent_signed[_within(window, inner)] + 1)
        inside = signed < 0
        if np.count_nonzero(inside) < SMALLEST_VISIBLE_PX:
            continue
        blank = np.zeros_like(picture)
        at = inner.index
        picture[at] = paint(rng, picture[at], inner, signed, rho, small, plan.look, blank)
        if plan.labelled:
            labels[at][inside] = labels.max() + 1


def _of_window(values: FloatImage, outer: Window, inner: Window) -> tuple[Window, tuple[slice, slice]] | None:
    """The part of `inner` that lies in `outer`, and where that is in arrays of `inner`'s size."""
    rows = slice(max(outer.rows.start, inner.rows.start), min(outer.rows.stop, inner.rows.stop))
    columns = slice(
        max(outer.columns.start, inner.columns.start), min(outer.columns.stop, inner.columns.stop)
    )
    if rows.stop - rows.start < 3 or columns.stop - columns.start < 3:
        return None
    part = (
        slice(rows.start - inner.rows.start, rows.stop - inner.rows.start),
        slice(columns.start - inner.columns.start, columns.stop - inner.columns.start),
    )
    return Window(rows, columns, inner.x[part], inner.y[part]), part


def _within(outer: Window, inner: Window) -> tuple[slice, slice]:
    return (
        slice(inner.rows.start - outer.rows.start, inner.rows.stop - outer.rows.start),
        slice(inner.columns.start - outer.columns.start, inner.columns.stop - outer.columns.start),
    )


def _label_only_visible(
    picture: FloatImage, ground: FloatImage, objects: NDArray[np.uint16], inclusions: NDArray[np.uint16]
) -> None:
    """Take back the labels of objects that nearly equal the ground, and of slivers behind others."""
    count = int(objects.max()) + 1
    area = np.bincount(objects.ravel(), minlength=count)
    strongest = np.zeros(count, np.float32)
    np.maximum.at(strongest, objects.ravel(), np.abs(picture - ground).ravel())
    unseen = (strongest < LEAST_CONTRAST) | (area < SMALLEST_VISIBLE_PX)
    unseen[0] = False
    inclusions[unseen[objects]] = 0
    objects[unseen[objects]] = 0


def _scatter_debris(rng: Generator, picture: FloatImage, recipe: Recipe) -> None:
    """Dust, specks and jagged pieces: not round, not to be found."""
    size = len(picture)
    for _ in range(recipe.debris):
        centre = rng.uniform(0, size, 2)
        grey = float(np.clip(recipe.ground * rng.uniform(0.2, 1.6), 0, 255))
        if rng.random() < 0.5:
            cv2.circle(picture, _pixel(centre), int(rng.integers(1, 3)), grey, -1, cv2.LINE_AA)
            continue
        corners = int(rng.integers(3, 8))
        angle = np.sort(rng.uniform(0, 2 * math.pi, corners))
        reach = rng.uniform(3, 18) * rng.uniform(0.2, 1, corners)
        outline = centre + reach[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        cv2.fillPoly(picture, [outline.astype(np.int32)], grey, cv2.LINE_AA)


def _annotate(
    rng: Generator, picture: FloatImage, objects: NDArray[np.uint16], inclusions: NDArray[np.uint16]
) -> None:
    """A caption or a scale bar or both, on the picture or in a box under which nothing is seen."""
    size = len(picture)
    scale = log_uniform(rng, 0.35, 2.2)
    font = int(rng.choice(FONTS))
    text = str(rng.choice(CAPTIONS))
    weight = int(rng.integers(1, 4))
    (width, height), _ = cv2.getTextSize(text, font, scale, weight)
    bar = int(rng.uniform(20, 140) * scale)
    x = int(rng.uniform(0, max(1, size - max(width, bar) - 4)))
    y = int(rng.choice([rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.95), rng.uniform(0.88, 0.97)]) * size)
    ink = float(rng.choice([0, 255]))
    thickness = 2 + int(rng.uniform(1, 7) * scale)
    box = (slice(max(0, y - height - 4), y + thickness + 8), slice(max(0, x - 4), x + max(width, bar) + 4))
    boxed = rng.random() < 0.35
    if boxed:
        picture[box] = 255 - ink
    layer = np.zeros_like(picture, np.uint8)
    cv2.putText(layer, text, (x, y), font, scale, 255, weight, cv2.LINE_AA)
    if rng.random() < 0.6:
        cv2.rectangle(layer, (x, y + 4), (x + bar, y + 4 + thickness), 255, -1)
    picture += (ink - picture) * (layer / np.float32(255))
    if boxed:
        objects[box] = 0
        inclusions[box] = 0


def _info_bar(
    rng: Generator, picture: FloatImage, objects: NDArray[np.uint16], inclusions: NDArray[np.uint16]
) -> None:
    """The strip that electron microscopes write below a picture."""
    size = len(picture)
    top = size - int(rng.uniform(0.04, 0.1) * size)
    paper = int(rng.choice([0, 20, 255]))
    strip = np.full((size - top, size), paper, np.uint8)
    scale = (size - top) / 40
    for x in range(4, size, max(24, int(120 * scale))):
        at = (x, int(0.75 * len(strip)))
        text, font = str(rng.choice(CAPTIONS)), int(rng.choice(FONTS))
        cv2.putText(strip, text, at, font, scale, 255 - paper, 1, cv2.LINE_AA)
    picture[top:] = strip
    objects[top:] = 0
    inclusions[top:] = 0


def _pixel(place: NDArray[np.float64]) -> tuple[int, int]:
    return int(place[0]), int(place[1])
