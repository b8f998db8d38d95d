"""Pictures in groups: drawn scenes by kind, data sets by part. Training never sees what is held out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from sam_engine.errors import InvalidInput
from sam_engine.types import ByteArray
from training.datasets import Part, Sample, find_samples, split
from training.metrics import Truth
from training.scenes import KINDS, draw_scene

FIRST_SEED = {"train": 5_000_000, "validation": 10_000_000, "test": 20_000_000}  # training draws lower ones
SCENE_SIZES = (512, 1024)
DRAWN = "drawn"

HeldOut = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Case:
    """One picture with its truth, made or read when asked for."""

    name: str
    load: Callable[[], tuple[ByteArray, Truth]]


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that are reported together.

    Attributes:
        name: of the data set, or `drawn/KIND`.
        available: how many pictures the part has; `cases` may be fewer.
    """

    name: str
    cases: tuple[Case, ...]
    available: int

    @property
    def family(self) -> str:
        """`drawn` for every kind of scene, else the name."""
        return family_of(self.name)


def family_of(group: str) -> str:
    """`drawn` for every kind of scene, else the name of the group."""
    return DRAWN if group.startswith(f"{DRAWN}/") else group


def drawn_groups(part: Part, scenes: int) -> list[Group]:
    """As many scenes of each kind, by fixed seeds."""
    first = FIRST_SEED[part]
    return [
        Group(
            f"{DRAWN}/{kind}",
            tuple(Case(str(seed), partial(_draw, seed, kind)) for seed in range(first, first + scenes)),
            scenes,
        )
        for kind in KINDS
    ]


def real_groups(data: Path, part: Part, limit: int) -> list[Group]:
    """Each data set's part, where it has one: the first `limit` pictures by a hash of their names.

    Raises:
        InvalidInput: see `find_samples`.
    """
    samples = split(find_samples(data), part)
    groups = []
    for name in sorted({sample.dataset for sample in samples}):
        own = sorted((s for s in samples if s.dataset == name), key=_shuffled)
        cases = tuple(case_of(sample) for sample in own[:limit])
        groups.append(Group(name, cases, len(own)))
    return groups


def case_of(sample: Sample) -> Case:
    """A picture of a data set."""
    return Case(sample.name, partial(_read, sample))


def choose(groups: Sequence[Group], wanted: Sequence[str] | None) -> list[Group]:
    """The groups named; `drawn` names all kinds of scenes; None keeps all.

    Raises:
        InvalidInput: a name fits no group.
    """
    if wanted is None:
        return list(groups)
    for name in wanted:
        if not any(name in (group.name, group.family) for group in groups):
            known = ", ".join(group.name for group in groups) or "none"
            raise InvalidInput("groups", f"has no {name}; there are {known}")
    return [group for group in groups if group.name in wanted or group.family in wanted]


def _draw(seed: int, kind: str) -> tuple[ByteArray, Truth]:
    """A scene and its truth; even seeds give small pictures, whose objects are magnified to the frame."""
    scene = draw_scene(np.random.default_rng(seed), SCENE_SIZES[seed % 2], kind)
    return scene.picture, Truth(scene.objects.astype(np.int32), scene.inclusions.astype(np.int32))


def _read(sample: Sample) -> tuple[ByteArray, Truth]:
    picture, labels = sample.load()
    return picture, Truth(labels)


def _shuffled(sample: Sample) -> bytes:
    """Sorts pictures in an order that has nothing to do with what they show."""
    return hashlib.sha256(f"order {sample.name}".encode()).digest()
