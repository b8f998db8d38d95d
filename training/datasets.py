"""Pictures with label maps: NAME/images/STEM.{png,jpg,tif} beside NAME/masks/STEM.png, and who may see them.

0 is background, every other number one object. Which pictures train, which choose between checkpoints
(validation) and which are only ever reported (test) is decided here and nowhere else.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import label as connected_components
from skimage.segmentation import relabel_sequential

from sam_engine.errors import InvalidInput
from sam_engine.types import ByteArray

Labels = NDArray[np.int32]
Part = Literal["train", "validation", "test"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
STRETCH_PERCENTILES = (0.5, 99.5)  # of more than 8 bits, as the service shows them to the network
MAX_LABEL = 2**20  # beyond it numbers are made consecutive
MAX_PIECES = 16
MIN_PIECE_PX = 4  # smaller pieces are crumbs of the annotation tool


@dataclass(frozen=True, slots=True)
class Policy:
    """How one data set is divided.

    Attributes:
        train, validation: shares of the pictures, by a hash of the stem; the rest is test.
        train_stems: the training pictures by name, instead of by share; the rest is test.
        reason: why it is divided so.
    """

    train: float
    validation: float
    reason: str
    train_stems: tuple[str, ...] | None = None

    def part_of(self, stem: str) -> Part:
        """Where a picture belongs; the same on every machine and whatever other pictures there are."""
        if self.train_stems is not None:
            return "train" if stem in self.train_stems else "test"
        place = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big") / 2**64
        if place < self.train:
            return "train"
        return "validation" if place < self.train + self.validation else "test"


POLICIES = {
    "nuclei_dsb2018": Policy(
        0.8, 0.1, "CC0 and large enough for three parts; pictures of one experiment may lie in all of them"
    ),
    "powder_spheres": Policy(
        0.0,
        0.0,
        "MIT, five large pictures; split by sample, so that no tile of a test sample was trained on",
        train_stems=(
            "training_Sc1Tile_001-001",
            "training_Sc1Tile_001-002",
            "training_Sc3Tile_008-007",
        ),
    ),
    "emps_particles": Policy(
        0.0, 0.5, "never trained on: its pictures come from published papers, whose rights lie elsewhere"
    ),
}
UNKNOWN = Policy(0.0, 0.0, "not in the table: measured on, never trained on")


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a data set and its label map, read when asked for."""

    name: str
    dataset: str
    picture_path: Path
    mask_path: Path

    @property
    def part(self) -> Part:
        """Which split the picture belongs to."""
        return POLICIES.get(self.dataset, UNKNOWN).part_of(self.name)

    def load(self) -> tuple[ByteArray, Labels]:
        """(H, W, 3) of uint8 RGB, and (H, W) of int32 labels.

        Raises:
            InvalidInput: a file is damaged, the mask is no label map, or the two differ in size; the field is
                the file.
        """
        picture = _read_picture(self.picture_path)
        labels = _read_labels(self.mask_path)
        if labels.shape != picture.shape[:2]:
            height, width = labels.shape
            wanted = f"{picture.shape[1]}x{picture.shape[0]}"
            raise InvalidInput(str(self.mask_path), f"is {width}x{height}, its picture is {wanted}")
        return picture, labels


def find_samples(data: Path, only: Iterable[str] | None = None) -> list[Sample]:
    """Every picture of every data set in a folder, in the order of their names.

    Args:
        data: each subfolder with a folder `images` is a data set.
        only: names of the data sets wanted; None takes all.

    Raises:
        InvalidInput: there is no data set, one that is wanted is missing, a picture has no mask or a mask no
            picture, or two pictures share a stem.
    """
    found = {path.parent.name: path.parent for path in sorted(data.glob("*/images")) if path.is_dir()}
    if not found:
        raise InvalidInput(str(data), "has no data set: no subfolder with a folder images in it")
    names = sorted(found) if only is None else sorted(set(only))
    for name in names:
        if name not in found:
            raise InvalidInput(str(data), f"has no data set {name}; it has {', '.join(found)}")
    return [sample for name in names for sample in _samples_of(found[name])]


def split(samples: Sequence[Sample], part: Part) -> list[Sample]:
    """The samples that belong to one part, in the same order."""
    return [sample for sample in samples if sample.part == part]


def _samples_of(folder: Path) -> list[Sample]:
    pictures = _by_stem(folder / "images", PICTURE_SUFFIXES)
    masks = _by_stem(folder / "masks", (".png",))
    for stem, path in pictures.items():
        if stem not in masks:
            raise InvalidInput(str(path), f"has no mask masks/{stem}.png")
    for stem, path in masks.items():
        if stem not in pictures:
            raise InvalidInput(str(path), f"has no picture images/{stem}.*")
    return [Sample(stem, folder.name, pictures[stem], masks[stem]) for stem in sorted(pictures)]


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise InvalidInput(str(folder), "is not a folder")
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in paths:
            raise InvalidInput(str(path), f"has the same stem as {paths[path.stem].name}")
        paths[path.stem] = path
    return paths


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            image.load()
    except Exception as error:  # decoders raise what they like on damaged files
        raise InvalidInput(str(path), f"cannot be read: {error}") from error
    if frames != 1:
        raise InvalidInput(str(path), f"has {frames} frames, must have 1")
    return image


def _read_picture(path: Path) -> ByteArray:
    image = _read(path)
    if image.mode in DEEP_MODES:
        grey = _stretch(path, np.asarray(image, dtype=np.float64))
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _stretch(path: Path, values: NDArray[np.float64]) -> ByteArray:
    """More than 8 bits to 8: the percentiles become 0 and 255."""
    if not np.isfinite(values).all():
        raise InvalidInput(str(path), "has pixels that are not finite")
    low, high = np.percentile(values, STRETCH_PERCENTILES)
    scaled = np.rint((values - low) * (255 / max(high - low, 1e-12)))
    stretched: ByteArray = np.clip(scaled, 0, 255).astype(np.uint8)
    return stretched


def _read_labels(path: Path) -> Labels:
    image = _read(path)
    if image.mode not in LABEL_MODES:
        raise InvalidInput(
            str(path), f"is {image.mode}, must be a label map: one channel of 8 or 16 bits (L, P, I;16)"
        )
    labels: Labels = np.asarray(image).astype(np.int32)
    if labels.min() < 0:
        raise InvalidInput(str(path), f"has the label {labels.min()}, must be 0 or more")
    if labels.max() > MAX_LABEL:
        labels = relabel_sequential(labels)[0].astype(np.int32)
    _check_pieces(path, labels)
    return labels


def _check_pieces(path: Path, labels: Labels) -> None:
    """Refuse a map of one class drawn as if it were one object.

    What lies in front may part an object, so several pieces are allowed; not many, nor of the only label.
    """
    components = connected_components(labels, connectivity=2)
    areas = np.bincount(components.ravel())
    owner = np.zeros(len(areas), dtype=np.int64)
    owner[components.ravel()] = labels.ravel()
    pieces = np.bincount(owner[1:][areas[1:] >= MIN_PIECE_PX])
    if not len(pieces):
        return
    allowed = 1 if len(np.unique(owner[1:])) == 1 else MAX_PIECES
    worst = int(pieces.argmax())
    if pieces[worst] > allowed:
        raise InvalidInput(
            str(path),
            f"has label {worst} in {pieces[worst]} separate pieces, at most {allowed} may be one object: "
            "is it a map of classes rather than of objects?",
        )
