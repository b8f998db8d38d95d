"""Contact sheets: pictures of a group with the true outlines and those found, from the best to the worst."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from sam_engine.automatic import Mode, segment_everything
from sam_engine.engine import SamEngine
from sam_engine.types import BoolArray, ByteArray, Mask
from training.evaluate import default_parameters
from training.groups import Case, Group
from training.metrics import Labels, PictureScore, score_picture, summarise

TRUTH, FOUND, BOTH = (0, 230, 0), (255, 0, 220), (255, 255, 255)
CELL, STRIP, GAP = 512, 22, 6
COLUMNS = 3
ROWS = ("best", "typical", "worst")
LEGEND = "green: true outline, magenta: found, white: both"

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """One picture with its truth and what was found in it."""

    picture: ByteArray
    labels: Labels
    masks: Sequence[Mask]
    score: PictureScore

    @property
    def f1(self) -> float:
        """At IoU 0.5; 1 where there is nothing to find and nothing was found."""
        value = summarise([self.score]).f1
        return 1.0 if value is None else value


def contact_sheet(engine: SamEngine, group: Group, mode: Mode, columns: int = COLUMNS) -> Image.Image:
    """Rows of the best, the typical and the worst pictures by F1, `columns` of each."""
    drawn = [_segment(engine, case, mode) for case in group.cases]
    ranked = sorted(drawn, key=lambda d: (-d.f1, d.score.name))
    rows = zip(ROWS, pick(ranked, columns), strict=True)
    return compose(f"{group.name}, {mode}; {LEGEND}", [(title, row) for title, row in rows if row])


def pick(ranked: Sequence[_T], columns: int) -> tuple[Sequence[_T], Sequence[_T], Sequence[_T]]:
    """First, middle and last of a ranking, at most `columns` of each and none twice."""
    middle = max(columns, (len(ranked) - columns) // 2)
    last = max(middle + columns, len(ranked) - columns)
    return ranked[:columns], ranked[middle : middle + columns], ranked[last:]


def compose(heading: str, rows: Sequence[tuple[str, Sequence[Drawn]]]) -> Image.Image:
    """A grid of cells under a heading."""
    columns = max((len(row) for _, row in rows), default=0)
    width = GAP + max(1, columns) * (CELL + GAP)
    sheet = Image.new("RGB", (width, STRIP + len(rows) * (CELL + STRIP + GAP)), (40, 40, 40))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    pen.text((GAP, 3), heading, BOTH, font)
    for j, (title, row) in enumerate(rows):
        for i, drawn in enumerate(row):
            x, y = GAP + i * (CELL + GAP), STRIP + j * (CELL + STRIP + GAP)
            pen.text((x, y + 3), f"{title}: {_caption(drawn)}", BOTH, font)
            sheet.paste(Image.fromarray(outlined(drawn, CELL)), (x, y + STRIP))
    return sheet


def outlined(drawn: Drawn, side: int) -> ByteArray:
    """(h, w, 3), the longest side `side` pixels: the picture with both sets of outlines."""
    height, width = drawn.picture.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    out = np.array(cv2.resize(drawn.picture, size, interpolation=shrunk), dtype=np.uint8)
    truth, found = _edges(drawn.labels, size), _edges(_painted(drawn.masks, (height, width)), size)
    out[truth] = TRUTH
    out[found] = FOUND
    out[truth & found] = BOTH
    return out


def _segment(engine: SamEngine, case: Case, mode: Mode) -> Drawn:
    picture, truth = case.load()
    parameters = default_parameters(engine.load(), mode)
    masks = segment_everything(engine, picture, engine.embed(picture), parameters).masks
    return Drawn(picture, truth.labels, masks, score_picture(case.name, truth, masks)[0])


def _caption(drawn: Drawn) -> str:
    score = drawn.score
    return f"{score.name[:24]} F1 {drawn.f1:.2f}, {score.objects} true, {score.predictions} found"


def _painted(masks: Sequence[Mask], size: tuple[int, int]) -> Labels:
    """A label map; where masks overlap, that of the smaller one."""
    labels = np.zeros(size, dtype=np.int32)
    for number, mask in enumerate(sorted(masks, key=lambda m: -m.area), start=1):
        labels[mask.window][mask.pixels] = number
    return labels


def _edges(labels: Labels, size: tuple[int, int]) -> BoolArray:
    resized = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    edges: BoolArray = find_boundaries(resized, mode="inner")
    return edges
