"""Prompts as people and programs give them: clicks, corrected clicks, boxes, and clicks beside everything."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_engine.modeling.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, NOT_A_POINT, POSITIVE
from training.augment import Crop, LabelMap

Generator = np.random.Generator

SMALLEST_OBJECT_PX = 16
LARGEST_SHARE = 0.65
CORRECTED_TOKENS = 4
CLICK_SHARE = 0.62
CENTRAL_SHARE = 0.45  # of the clicks: people aim at the middle
INNER_BOX_SHARE = 0.25
BOX_JITTER = (0.0, 0.05, 0.1, 0.15)
MOST_JITTER_PX = 20.0


@dataclass(frozen=True, eq=False, slots=True)
class Prompts:
    """Prompts of one crop with equally many tokens.

    Attributes:
        coords: (P, T, 2) float32 of XY in pixels of the crop.
        labels: (P, T) int64, the constants of the prompt encoder.
        objects, inclusions: (P,) int64: the object that is meant, and an inclusion that is meant as well or
            instead; 0 for none. Both 0: nothing lies under the click.
        ambiguous: (P,) bool: one click, three candidates.
    """

    coords: NDArray[np.float32]
    labels: NDArray[np.int64]
    objects: NDArray[np.int64]
    inclusions: NDArray[np.int64]
    ambiguous: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Drawn:
    tokens: list[tuple[float, float, int]]
    object: int = 0
    inclusion: int = 0
    ambiguous: bool = False


class Regions:
    """Where the labels of a map are, for drawing pixels and boxes of them quickly."""

    def __init__(self, labels: LabelMap) -> None:
        self.width = labels.shape[1]
        self.labels = labels
        flat = labels.ravel()
        self.order = np.argsort(flat, kind="stable")
        self.starts = np.searchsorted(flat[self.order], np.arange(int(flat.max()) + 2))
        self.areas = np.diff(self.starts)

    def usable(self) -> NDArray[np.int64]:
        """Labels of objects that are neither specks nor nearly all of the crop."""
        areas = self.areas[1:]
        fit = (areas >= SMALLEST_OBJECT_PX) & (areas < LARGEST_SHARE * self.labels.size)
        return np.flatnonzero(fit) + 1

    def pixel(self, rng: Generator, label: int) -> tuple[int, int]:
        """(x, y) of a random pixel of an object."""
        at = int(self.order[rng.integers(self.starts[label], self.starts[label + 1])])
        return at % self.width, at // self.width

    def box(self, label: int) -> NDArray[np.float64]:
        """(x1, y1, x2, y2) of its pixels; the last ones lie inside."""
        at = self.order[self.starts[label] : self.starts[label + 1]]
        x, y = at % self.width, at // self.width
        return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)


def draw_prompts(rng: Generator, crop: Crop, clear: int, corrected: int) -> tuple[Prompts, Prompts]:
    """`clear` prompts of two tokens (a click or a box), `corrected` ones of four (several points, boxes)."""
    objects, inclusions = Regions(crop.objects), Regions(crop.inclusions)
    usable = objects.usable()
    usable_inclusions = inclusions.usable()
    ground = int(objects.areas[0])
    if not len(usable) and not ground:  # one object is the whole crop
        usable = np.flatnonzero(objects.areas[1:]) + 1
    beside = int(rng.integers(1, max(2, clear // 5) + 1)) if ground > 50 else 0
    if len(usable):
        odds = objects.areas[usable] ** 0.25
        count = clear + corrected
        chosen = rng.choice(usable, count, replace=len(usable) < count, p=odds / odds.sum())
    else:
        chosen = np.zeros(clear + corrected, np.int64)
        beside = clear
    first = [
        _Drawn([(*objects.pixel(rng, 0), POSITIVE), _nothing()], ambiguous=True)
        if k < beside or not label
        else _clear(rng, int(label), objects, inclusions, usable_inclusions)
        for k, label in enumerate(chosen[:clear])
    ]
    second = [
        _corrected(rng, int(label), objects)
        if label
        else _Drawn([(*objects.pixel(rng, 0), POSITIVE), *[_nothing()] * (CORRECTED_TOKENS - 1)])
        for label in chosen[clear:]
    ]
    return _together(first), _together(second)


def _clear(
    rng: Generator, label: int, objects: Regions, inclusions: Regions, usable_inclusions: NDArray[np.int64]
) -> _Drawn:
    if rng.random() < CLICK_SHARE:
        x, y = _click(rng, objects, label)
        below = int(inclusions.labels[y, x])
        inclusion = below if below in usable_inclusions else 0
        return _Drawn([(x, y, POSITIVE), _nothing()], label, inclusion, ambiguous=True)
    if len(usable_inclusions) and rng.random() < INNER_BOX_SHARE:
        inclusion = int(rng.choice(usable_inclusions))
        return _Drawn(_jittered(rng, inclusions.box(inclusion)), 0, inclusion)
    return _Drawn(_jittered(rng, objects.box(label)), label)


def _corrected(rng: Generator, label: int, objects: Regions) -> _Drawn:
    """A click, more clicks on and off the object, and in some a box."""
    tokens: list[tuple[float, float, int]] = [(*_click(rng, objects, label), POSITIVE)]
    boxed = rng.random() < 0.4
    while len(tokens) < CORRECTED_TOKENS - 2 * boxed:
        off = _beside(rng, objects, label) if rng.random() < 0.55 else None
        tokens.append((*_click(rng, objects, label), POSITIVE) if off is None else (*off, NEGATIVE))
    if boxed:
        tokens += _jittered(rng, objects.box(label))
    elif rng.random() < 0.5:  # SAM pads points without a box by one that is none
        tokens[-1] = _nothing()
    return _Drawn(tokens, label)


def _click(rng: Generator, objects: Regions, label: int) -> tuple[int, int]:
    if rng.random() >= CENTRAL_SHARE:
        return objects.pixel(rng, label)
    x1, y1, x2, y2 = objects.box(label)
    tries = [objects.pixel(rng, label) for _ in range(5)]
    return min(tries, key=lambda p: (p[0] - (x1 + x2) / 2) ** 2 + (p[1] - (y1 + y2) / 2) ** 2)


def _beside(rng: Generator, objects: Regions, label: int) -> tuple[int, int] | None:
    """A pixel near the object but not on it; None if none is found soon."""
    x1, y1, x2, y2 = objects.box(label)
    width, height = max(6, x2 - x1), max(6, y2 - y1)
    side = objects.labels.shape[0] - 1
    for _ in range(8):
        x = int(np.clip(rng.uniform(x1 - 0.6 * width, x2 + 0.6 * width), 0, side))
        y = int(np.clip(rng.uniform(y1 - 0.6 * height, y2 + 0.6 * height), 0, side))
        if objects.labels[y, x] != label:
            return x, y
    return None


def _jittered(rng: Generator, box: NDArray[np.float64]) -> list[tuple[float, float, int]]:
    width, height = box[2] - box[0], box[3] - box[1]
    reach = np.minimum(np.array([width, height] * 2) * rng.choice(BOX_JITTER), MOST_JITTER_PX)
    x1, y1, x2, y2 = box + rng.normal(0, 1, 4) * reach - 0.5
    return [(x1, y1, BOX_TOP_LEFT), (x2, y2, BOX_BOTTOM_RIGHT)]


def _nothing() -> tuple[float, float, int]:
    return 0.0, 0.0, NOT_A_POINT


def _together(drawn: list[_Drawn]) -> Prompts:
    tokens = np.array([d.tokens for d in drawn], np.float64)
    return Prompts(
        coords=tokens[..., :2].astype(np.float32),
        labels=tokens[..., 2].astype(np.int64),
        objects=np.array([d.object for d in drawn], np.int64),
        inclusions=np.array([d.inclusion for d in drawn], np.int64),
        ambiguous=np.array([d.ambiguous for d in drawn], bool),
    )
