"""Share of right links and events on simulated sequences: the table of docs/tracking.md, as Markdown.

python -m benchmarks.tracking_accuracy      # the same figures every time
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from sam_engine.tracking import TrackedObject, Tracking, TrackingParameters, track

SEED = 20
FRAMES = 60
SIZE = (1000, 1000)  # rows, columns
NOISE_XY, NOISE_D = 0.2, 0.02  # px, and a share of the diameter
MISSED = 0.02  # share of objects that a frame does not show

Drop = tuple[int, float, float, float]  # identity, x, y, diameter
Link = tuple[tuple[int, int], tuple[int, int]]  # (frame, index) before and after


@dataclass
class Movie:
    """What is seen, and what is true of it."""

    frames: list[list[TrackedObject]] = field(default_factory=list)
    identity: list[list[int]] = field(default_factory=list)
    merges: set[tuple[int, frozenset[int]]] = field(default_factory=set)  # frame, parents
    splits: set[tuple[int, int]] = field(default_factory=set)  # frame, parent

    def show(self, drops: list[Drop], rng: np.random.Generator, missed: float) -> None:
        """Add a frame, in random order, with the errors of a measurement."""
        seen = [d for d in drops if rng.random() >= missed and 0 <= d[1] < SIZE[1] and 0 <= d[2] < SIZE[0]]
        rng.shuffle(seen)
        self.identity.append([d[0] for d in seen])
        self.frames.append([measured(d, rng) for d in seen])

    def links(self) -> set[Link]:
        """True links between the appearances of each object, over gaps of up to two frames."""
        last: dict[int, tuple[int, int]] = {}
        links = set()
        for frame, identities in enumerate(self.identity):
            for index, who in enumerate(identities):
                if who in last and frame - last[who][0] <= 3:
                    links.add((last[who], (frame, index)))
                last[who] = (frame, index)
        return links


def measured(drop: Drop, rng: np.random.Generator) -> TrackedObject:
    """The drop with errors of place and size."""
    _, x, y, d = drop
    dx, dy = rng.normal(0, NOISE_XY, 2)
    d = max(1.0, d * (1 + rng.normal(0, NOISE_D)))
    return TrackedObject((x + dx, y + dy), d, math.pi * d * d / 4)


def apart(count: int, pitch: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Places at least `pitch` apart, by trial."""
    places: list[tuple[float, float]] = []
    while len(places) < count:
        x, y = rng.uniform(0, SIZE[1]), rng.uniform(0, SIZE[0])
        if all((x - a) ** 2 + (y - b) ** 2 >= pitch**2 for a, b in places):
            places.append((x, y))
    return places


def random_walk(
    rng: np.random.Generator, *, step: float, missed: float = MISSED, count: int = 300, pitch: float = 30
) -> Movie:
    """Drops of 20 px that step by `step` px in each direction (standard deviation)."""
    movie, places = Movie(), np.array(apart(count, pitch, rng))
    sizes = rng.normal(20, 2, count)
    for _ in range(FRAMES):
        movie.show(
            [(i, x, y, d) for i, ((x, y), d) in enumerate(zip(places, sizes, strict=True))], rng, missed
        )
        places = places + rng.normal(0, step, places.shape)
    return movie


def channel_flow(rng: np.random.Generator, *, speed: float) -> Movie:
    """Drops of 20 px in a parabolic profile of up to `speed` px per frame; they enter left, leave right."""
    movie = Movie()
    span = SIZE[1] + speed * FRAMES + 200
    places = np.column_stack([rng.uniform(SIZE[1] - span, SIZE[1], 700), rng.uniform(20, 980, 700)])
    keep = [i for i in range(700) if all(np.hypot(*(places[i] - places[j])) > 26 for j in range(i))]
    places = places[keep]
    sizes = rng.normal(20, 1, len(places))
    velocity = speed * (1 - ((places[:, 1] - 500) / 500) ** 2)
    for _ in range(FRAMES):
        movie.show(
            [(i, x, y, d) for i, ((x, y), d) in enumerate(zip(places, sizes, strict=True))], rng, MISSED
        )
        places = places + np.column_stack([velocity, rng.normal(0, 0.3, len(places))])
    return movie


def coalescence(rng: np.random.Generator, *, power: int) -> Movie:
    """Drifting drops, of which pairs touch and merge: d^power is conserved; a few merged ones split later."""
    movie = Movie()
    drops = {i: [x, y, float(rng.uniform(16, 34))] for i, (x, y) in enumerate(apart(260, 48, rng))}
    following = len(drops)
    for frame in range(FRAMES):
        movie.show([(i, x, y, d) for i, (x, y, d) in drops.items()], rng, 0.0)
        for drop in drops.values():
            drop[0] += rng.normal(0, 1.2)
            drop[1] += rng.normal(0, 1.2)
        for a, b in touching(drops):
            (xa, ya, da), (xb, yb, db) = drops.pop(a), drops.pop(b)
            va, vb = da**power, db**power
            share = va / (va + vb)
            drops[following] = [
                xa * share + xb * (1 - share),
                ya * share + yb * (1 - share),
                (va + vb) ** (1 / power),
            ]
            movie.merges.add((frame + 1, frozenset((a, b))))
            following += 1
        for i in [i for i, (_, _, d) in drops.items() if d > 26 and rng.random() < 0.002]:
            x, y, d = drops.pop(i)
            share = rng.uniform(0.3, 0.7)
            parts = [d * share ** (1 / power), d * (1 - share) ** (1 / power)]
            angle, gap = rng.uniform(0, 2 * math.pi), sum(parts) / 2 + 2.0
            for sign, part, weight in ((1, parts[0], 1 - share), (-1, parts[1], share)):
                offset = sign * gap * weight
                drops[following] = [x + offset * math.cos(angle), y + offset * math.sin(angle), part]
                following += 1
            movie.splits.add((frame + 1, i))
    return movie


def touching(drops: dict[int, list[float]]) -> list[tuple[int, int]]:
    """Pairs that touch, each drop once."""
    keys = list(drops)
    values = np.array(list(drops.values()))
    distance = np.hypot(values[:, None, 0] - values[:, 0], values[:, None, 1] - values[:, 1])
    near = np.argwhere(np.triu(distance < (values[:, None, 2] + values[:, 2]) / 2, 1))
    used: set[int] = set()
    pairs = []
    for i, j in near.tolist():
        if not {i, j} & used:
            used |= {i, j}
            pairs.append((keys[i], keys[j]))
    return pairs


def ripening(rng: np.random.Generator) -> Movie:
    """Large drops grow and small ones dissolve, d^3 linear in time; they jitter about their places."""
    movie, places = Movie(), np.array(apart(400, 40, rng))
    cubes = rng.uniform(10, 28, 400) ** 3
    rate = 0.012 * (cubes - np.median(cubes))
    for frame in range(FRAMES):
        now = cubes + rate * frame
        jitter = rng.normal(0, 0.5, places.shape)
        drops = [(i, *(places[i] + jitter[i]), now[i] ** (1 / 3)) for i in range(400) if now[i] > 27]
        movie.show(drops, rng, MISSED)
    return movie


def found_links(result: Tracking) -> set[Link]:
    """Links that the tracks make."""
    places = [list(zip(t.frames, t.objects, strict=True)) for t in result.tracks]
    return {link for steps in places for link in pairwise(steps)}


def who(movie: Movie, result: Tracking, number: int, *, last: bool) -> int:
    """Identity of the object at an end of a track."""
    t = result.tracks[number]
    end = -1 if last else 0
    return movie.identity[t.frames[end]][t.objects[end]]


def share(part: int, whole: int) -> str:
    """Percent, or a dash."""
    return f"{100 * part / whole:.2f}" if whole else "–"


def row(name: str, movie: Movie, parameters: TrackingParameters) -> str:
    """One line of the table."""
    started = time.perf_counter()
    result = track(movie.frames, parameters)
    seconds = time.perf_counter() - started
    true, found = movie.links(), found_links(result)
    merges = {
        (e.frame, frozenset(who(movie, result, p, last=True) for p in e.parents)) for e in result.merges
    }
    splits = {(e.frame, who(movie, result, e.parents[0], last=True)) for e in result.splits}
    events = [
        f"{len(seen & real)} of {len(real)}, {len(seen - real)} false"
        for real, seen in ((movie.merges, merges), (movie.splits, splits))
    ]
    cells = [
        name,
        str(len(true)),
        share(len(true & found), len(true)),
        share(len(found - true), len(found)),
        *events,
    ]
    laws = [event.conserved for event in result.merges]
    print(f"{name}: {seconds:.1f} s, {laws.count('volume')} by volume, {laws.count('area')} by area")
    return "| " + " | ".join(cells) + " |"


Scene = tuple[str, Callable[[np.random.Generator], Movie], TrackingParameters]
PLAIN = TrackingParameters(image_size=SIZE)
SCENES: tuple[Scene, ...] = (
    ("random walk, 2 px a frame", lambda rng: random_walk(rng, step=2), PLAIN),
    ("random walk, 5 px", lambda rng: random_walk(rng, step=5), PLAIN),
    ("random walk, 5 px, 10 % missed", lambda rng: random_walk(rng, step=5, missed=0.1), PLAIN),
    ("random walk, 10 px", lambda rng: random_walk(rng, step=10), PLAIN),
    ("channel flow, up to 8 px a frame", lambda rng: channel_flow(rng, speed=8), PLAIN),
    ("channel flow, up to 20 px", lambda rng: channel_flow(rng, speed=20), PLAIN),
    ("channel flow, up to 20 px, drift given", lambda rng: channel_flow(rng, speed=20),
     TrackingParameters(image_size=SIZE, drift_xy=(13.0, 0.0))),
    ("coalescence of spheres", lambda rng: coalescence(rng, power=3), PLAIN),
    ("coalescence of flat plugs", lambda rng: coalescence(rng, power=2), PLAIN),
    ("ripening", ripening, PLAIN),
    ("random walk, 2 px, 1000 drops", lambda rng: random_walk(rng, step=2, count=1000, pitch=22), PLAIN),
)  # fmt: skip


def main() -> None:
    """Print the table."""
    lines = [
        "| sequence | links | right, % | wrong of those made, % | merges | splits |",
        "|---|---:|---:|---:|---|---|",
    ]
    for number, (name, make, parameters) in enumerate(SCENES):
        lines.append(row(name, make(np.random.default_rng((SEED, number))), parameters))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
