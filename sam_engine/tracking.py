"""Objects of a sequence of pictures followed from frame to frame: tracks, merges, splits, growth.

A pure function of what was measured in each frame; lengths in pixels. docs/tracking.md has the costs, the
measured share of right links and events on simulated sequences, and the limits.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.stats import linregress

from sam_engine.errors import InvalidInput
from sam_engine.types import Mask

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Start = Literal["first_frame", "entered", "appeared", "merge", "split"]
End = Literal["last_frame", "left", "vanished", "merge", "split"]
Law = Literal["volume", "area"]

NO_LINK = 2.0  # cost of leaving a pair apart: more than any pair within both gates costs
MEMORY = 5  # links that a velocity is the mean of
NEIGHBOURS = 8  # tracks around a young one whose velocity it is expected to share
CONTACT = 1.2  # parent and child of an event are at most this times the sum of their radii apart
MIN_CHANGE = 0.03  # smallest relative change of a diameter that is evidence of an event
MIN_OVERLAP = 0.5  # share of a smaller mask on the larger one that is evidence of an event
MAX_PARTNERS = 3  # objects that merge into one or that one splits into
MAX_CANDIDATES = 6  # nearest objects considered for one event

_DIAMETERS, _AREAS = (1e-3, 1e6), (1e-6, 1e12)
_BOUNDS = {
    "max_displacement": (1e-3, 1e3),
    "max_size_change": (1e-3, 10.0),
    "event_tolerance": (1e-3, 0.5),
    "frame_interval": (1e-9, 1e9),
}


@dataclass(frozen=True, slots=True)
class TrackedObject:
    """One object of one frame: centroid (pixel (0, 0) is centred at (0, 0)), diameter in px, area in px^2.

    With `mask`, overlap counts as evidence of merges and splits beside size.
    """

    centroid_xy: tuple[float, float]
    equivalent_diameter: float
    area: float
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class TrackingParameters:
    """How far an object may move and change from one frame to the next.

    Attributes:
        max_displacement: from the predicted place, in units of the larger of the two diameters. It grows
            with the square root of the frames between.
        max_size_change: largest |ln(d2 / d1)|.
        max_gap: frames in which an object may be missing, 0 or more.
        event_tolerance: relative error of the diameter within which volume or area counts as conserved in
            a merge or split.
        drift_xy: displacement in px per frame that is expected before anything has been seen to move.
        image_size: (H, W); without it nothing is known to enter or leave.
        frame_interval: time from frame to frame, in the unit that growth and velocity are wanted in.
    """

    max_displacement: float = 1.0
    max_size_change: float = 0.4
    max_gap: int = 2
    event_tolerance: float = 0.06
    drift_xy: tuple[float, float] = (0.0, 0.0)
    image_size: tuple[int, int] | None = None
    frame_interval: float = 1.0


@dataclass(frozen=True, slots=True)
class Trend:
    """Least-squares line over time; `r_squared` is None where all values are equal."""

    slope: float
    stderr: float
    r_squared: float | None


@dataclass(frozen=True, slots=True)
class Growth:
    """Trends of d, d^2 and d^3 of one track, in px, px^2 and px^3 per unit of time."""

    diameter: Trend
    diameter_squared: Trend
    diameter_cubed: Trend


@dataclass(frozen=True, slots=True)
class Track:
    """One object through the frames; a merge or a split ends tracks and begins others.

    Attributes:
        frames, objects: (frame, index in that frame) of each appearance, in order.
        start, end: what began and what ended it.
        parents, children: ids of the tracks of the merge or split that began or ended it.
        velocity_xy: net displacement over time, px per unit of time; None for a single appearance.
        mean_speed: length of the path over time.
        growth: None for fewer than 3 appearances.
    """

    id: int
    frames: tuple[int, ...]
    objects: tuple[int, ...]
    start: Start
    end: End
    parents: tuple[int, ...]
    children: tuple[int, ...]
    velocity_xy: tuple[float, float] | None
    mean_speed: float | None
    growth: Growth | None


@dataclass(frozen=True, slots=True)
class Event:
    """A merge (several parents, one child) or a split (one parent, several children).

    Attributes:
        frame: the first frame after it.
        parents, children: track ids.
        volume_ratio, area_ratio: sum of d^3, or of area, of the children over that of the parents.
        conserved: which of the two fits better, as equivalent diameters, if it is within the tolerance:
            volume for spheres, area for plugs flattened between walls.
    """

    frame: int
    parents: tuple[int, ...]
    children: tuple[int, ...]
    volume_ratio: float
    area_ratio: float
    conserved: Law | None


@dataclass(frozen=True, slots=True)
class Tracking:
    """All tracks in the order in which they begin; every object belongs to exactly one."""

    tracks: tuple[Track, ...]
    merges: tuple[Event, ...]
    splits: tuple[Event, ...]


def track(
    frames: Sequence[Sequence[TrackedObject]], parameters: TrackingParameters | None = None
) -> Tracking:
    """Follow objects through the frames.

    Links between frames minimise the sum of (displacement / gate)^2 + (size change / gate)^2 over all pairs
    within both gates (linear assignment, solved for each connected group of candidates). Places are predicted
    from the mean velocity of the last links and, for young tracks, of those around.

    Raises:
        InvalidInput: a parameter is out of bounds, or an object has a place that is not finite or a diameter
            or area that is not finite and above 0.
    """
    parameters = parameters or TrackingParameters()
    _check_parameters(parameters)
    for number, frame in enumerate(frames):
        _check_frame(number, frame)
    tracker = _Tracker(parameters)
    for frame in frames:
        tracker.add(frame)
    return tracker.result()


def _check_parameters(p: TrackingParameters) -> None:
    for name, (low, high) in _BOUNDS.items():
        value = getattr(p, name)
        if not low <= value <= high:
            raise InvalidInput(name, f"{value} must be in {low:g}..{high:g}")
    if p.max_gap < 0:
        raise InvalidInput("max_gap", f"{p.max_gap} must be 0 or more")
    if not all(math.isfinite(v) for v in p.drift_xy):
        raise InvalidInput("drift_xy", f"{p.drift_xy} must be finite")
    if p.image_size is not None and min(p.image_size) < 1:
        raise InvalidInput("image_size", f"{p.image_size} must have at least 1 row and 1 column")


def _check_frame(number: int, frame: Sequence[TrackedObject]) -> None:
    for index, found in enumerate(frame):
        where = f"frames[{number}][{index}]"
        if not all(math.isfinite(v) for v in found.centroid_xy):
            raise InvalidInput(f"{where}.centroid_xy", f"{found.centroid_xy} must be finite")
        for name, (low, high) in (("equivalent_diameter", _DIAMETERS), ("area", _AREAS)):
            value = getattr(found, name)
            if not low <= value <= high:
                raise InvalidInput(f"{where}.{name}", f"{value} must be in {low:g}..{high:g}")


# --- while frames are added ---


@dataclass(slots=True)
class _Path:
    """A track that is being built; it never leaves the tracker."""

    frames: list[int]
    indices: list[int]
    objects: list[TrackedObject]
    start: Start | None = None
    end: End | None = None
    parents: tuple[int, ...] = ()
    children: tuple[int, ...] = ()

    def motion(self, *, first: bool = False) -> tuple[int, float, float]:
        """Mean over up to MEMORY links, the last or the first: their number and px per frame in x and y."""
        links = min(MEMORY, len(self.frames) - 1)
        if not links:
            return 0, 0.0, 0.0
        a, b = (0, links) if first else (-1 - links, -1)
        time = self.frames[b] - self.frames[a]
        (x1, y1), (x2, y2) = self.objects[a].centroid_xy, self.objects[b].centroid_xy
        return links, (x2 - x1) / time, (y2 - y1) / time


@dataclass(frozen=True, slots=True)
class _Body:
    """An object where it is, or where it is predicted to be; `key` is a path or an index of the frame."""

    key: int
    place: tuple[float, float]
    found: TrackedObject


@dataclass(frozen=True, slots=True)
class _Evidence:
    """How well one object equals several: smaller `error` is better."""

    error: float
    one: int
    many: tuple[int, ...]
    volume_ratio: float  # of the several over the one
    area_ratio: float
    conserved: Law | None


class _Tracker:
    """Tracks so far; frames are added in order."""

    def __init__(self, parameters: TrackingParameters) -> None:
        self.parameters = parameters
        self.paths: list[_Path] = []
        self.active: list[int] = []
        self.merges: list[Event] = []
        self.splits: list[Event] = []
        self.frame = -1

    def add(self, objects: Sequence[TrackedObject]) -> None:
        """Continue, end and begin tracks with the objects of the next frame."""
        self.frame += 1
        before = len(self.paths)
        predicted = self._predicted()
        owner = self._links(predicted, objects)
        self._events(predicted, objects, owner)
        for index, found in enumerate(objects):
            path = self.paths[owner[index] if index in owner else self._begin()]
            path.frames.append(self.frame)
            path.indices.append(index)
            path.objects.append(found)
        oldest = self.frame - self.parameters.max_gap
        alive = [*self.active, *range(before, len(self.paths))]
        self.active = [i for i in alive if self.paths[i].end is None and self.paths[i].frames[-1] >= oldest]

    def _begin(self, start: Start | None = None, parents: tuple[int, ...] = ()) -> int:
        self.paths.append(_Path([], [], [], start=start, parents=parents))
        return len(self.paths) - 1

    def _predicted(self) -> Float64Array:
        """Where each active track is expected in this frame, (n, 2).

        The velocity of a track of few links is drawn towards the median of its neighbours, with the weight
        of one link.
        """
        if not self.active:
            return np.empty((0, 2))
        paths = [self.paths[i] for i in self.active]
        places = np.array([p.objects[-1].centroid_xy for p in paths])
        motion = np.array([p.motion() for p in paths])
        links, own = motion[:, :1], motion[:, 1:]
        velocity = (links * own + self._around(places, links[:, 0] > 0, own)) / (links + 1.0)
        ages = self.frame - np.array([p.frames[-1] for p in paths])
        return np.asarray(places + velocity * ages[:, None])

    def _around(self, places: Float64Array, moving: NDArray[np.bool_], own: Float64Array) -> Float64Array:
        """Median velocity of the nearest tracks with a link, (n, 2)."""
        known = np.flatnonzero(moving)
        if not len(known):
            return np.broadcast_to(np.array(self.parameters.drift_xy, dtype=np.float64), places.shape)
        nearest = min(NEIGHBOURS, len(known))
        _, indices = cKDTree(places[known]).query(places, k=nearest)
        return np.asarray(np.median(own[known][indices.reshape(len(places), nearest)], axis=1))

    def _links(self, predicted: Float64Array, objects: Sequence[TrackedObject]) -> dict[int, int]:
        """Path of each object that continues one."""
        if not self.active or not objects:
            return {}
        pairs, costs = self._pairs(predicted, objects)
        return {int(o): self.active[a] for a, o in _assign(pairs, costs, len(self.active), len(objects))}

    def _pairs(
        self, predicted: Float64Array, objects: Sequence[TrackedObject]
    ) -> tuple[IntArray, Float64Array]:
        """(n, 2) of active track and object within both gates, and what linking them costs."""
        p = self.parameters
        places = np.array([o.centroid_xy for o in objects])
        sizes = np.array([o.equivalent_diameter for o in objects])
        last = np.array([self.paths[i].objects[-1].equivalent_diameter for i in self.active])
        gates = p.max_displacement * np.sqrt(self.frame - self._seen())
        tree = cKDTree(places)
        near = tree.query_ball_point(predicted, gates * last * math.exp(p.max_size_change))
        tracks = np.repeat(np.arange(len(near)), [len(n) for n in near])
        found = np.array([o for n in near for o in sorted(n)], dtype=np.int64)
        distance = np.hypot(*(places[found] - predicted[tracks]).T)
        moved = distance / (gates[tracks] * np.maximum(last[tracks], sizes[found]))
        changed = np.abs(np.log(sizes[found] / last[tracks])) / p.max_size_change
        allowed = (moved <= 1.0) & (changed <= 1.0)
        return np.stack([tracks, found], axis=1)[allowed], (moved**2 + changed**2)[allowed]

    def _seen(self) -> IntArray:
        """Frame in which each active track was seen last."""
        return np.array([self.paths[i].frames[-1] for i in self.active], dtype=np.int64)

    # --- merges and splits ---

    def _events(
        self, predicted: Float64Array, objects: Sequence[TrackedObject], owner: dict[int, int]
    ) -> None:
        """Find merges, then splits among what is left; `owner` gets the tracks that they begin."""
        seen = [
            _Body(i, (float(x), float(y)), self.paths[i].objects[-1])
            for i, (x, y) in zip(self.active, predicted, strict=True)
            if self.paths[i].frames[-1] == self.frame - 1
        ]
        here = [_Body(index, found.centroid_xy, found) for index, found in enumerate(objects)]
        by_key = {body.key: body for body in seen}
        held = {index: path for index, path in owner.items() if path in by_key}
        orphans = [body for body in here if body.key not in owner]
        linked = set(owner.values())
        lost = [body for body in seen if body.key not in linked]
        children = [body for body in here if body.key in held or body.key not in owner]
        kept = {index: by_key[path] for index, path in held.items()}
        for evidence in _explanations(children, lost, kept, self.parameters.event_tolerance):
            self._merge(evidence, owner)
        orphans = [body for body in orphans if body.key not in owner]
        whole = [body for body in seen if self.paths[body.key].end is None]
        kept = {path: here[index] for index, path in held.items() if owner[index] == path}
        for evidence in _explanations(whole, orphans, kept, self.parameters.event_tolerance):
            self._split(evidence, owner)

    def _merge(self, evidence: _Evidence, owner: dict[int, int]) -> None:
        parents = evidence.many
        child = self._begin("merge", parents)
        owner[evidence.one] = child
        self._end(parents, "merge", (child,))
        ratios = 1.0 / evidence.volume_ratio, 1.0 / evidence.area_ratio
        self.merges.append(Event(self.frame, parents, (child,), *ratios, evidence.conserved))

    def _split(self, evidence: _Evidence, owner: dict[int, int]) -> None:
        parent = evidence.one
        children = tuple(self._begin("split", (parent,)) for _ in evidence.many)
        owner.update(zip(evidence.many, children, strict=True))
        self._end((parent,), "split", children)
        ratios = evidence.volume_ratio, evidence.area_ratio
        self.splits.append(Event(self.frame, (parent,), children, *ratios, evidence.conserved))

    def _end(self, paths: Iterable[int], end: End, children: tuple[int, ...]) -> None:
        for i in paths:
            self.paths[i].end = end
            self.paths[i].children = children

    # --- afterwards ---

    def result(self) -> Tracking:
        """The tracks as records."""
        tracks = tuple(self._record(i, path) for i, path in enumerate(self.paths))
        return Tracking(tracks, tuple(self.merges), tuple(self.splits))

    def _record(self, number: int, path: _Path) -> Track:
        times = np.array(path.frames, dtype=np.float64) * self.parameters.frame_interval
        velocity, speed = _motion(path, times)
        return Track(
            id=number,
            frames=tuple(path.frames),
            objects=tuple(path.indices),
            start=path.start or self._start(path),
            end=path.end or self._last(path),
            parents=path.parents,
            children=path.children,
            velocity_xy=velocity,
            mean_speed=speed,
            growth=_growth(path, times),
        )

    def _start(self, path: _Path) -> Start:
        if path.frames[0] == 0:
            return "first_frame"
        _, vx, vy = path.motion(first=True)
        return "entered" if self._at_border(path.objects[0], (-vx, -vy)) else "appeared"

    def _last(self, path: _Path) -> End:
        if path.frames[-1] == self.frame:
            return "last_frame"
        _, vx, vy = path.motion()
        return "left" if self._at_border(path.objects[-1], (vx, vy)) else "vanished"

    def _at_border(self, found: TrackedObject, step: tuple[float, float]) -> bool:
        """Whether the object, or where it was or will be one frame further, reaches the picture's edge."""
        if self.parameters.image_size is None:
            return False
        height, width = self.parameters.image_size
        reach = found.equivalent_diameter / 2.0 + 1.0
        x, y = found.centroid_xy
        return any(
            min(a + 0.5, width - 0.5 - a, b + 0.5, height - 0.5 - b) <= reach
            for a, b in ((x, y), (x + step[0], y + step[1]))
        )


def _assign(pairs: IntArray, costs: Float64Array, tracks: int, objects: int) -> Iterator[tuple[int, int]]:
    """Links of least cost, where a pair that is left apart costs NO_LINK; each connected group by itself."""
    if not len(pairs):
        return
    nodes = tracks + objects
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], tracks + pairs[:, 1])), shape=(nodes, nodes))
    _, group = connected_components(graph, directed=False)
    order = np.argsort(group[pairs[:, 0]], kind="stable")
    cuts = np.flatnonzero(np.diff(group[pairs[order, 0]])) + 1
    for members in np.split(order, cuts):
        if len(members) == 1:
            yield int(pairs[members[0], 0]), int(pairs[members[0], 1])
            continue
        rows, row = np.unique(pairs[members, 0], return_inverse=True)
        columns, column = np.unique(pairs[members, 1], return_inverse=True)
        gain = np.zeros((len(rows), len(columns)))
        gain[row, column] = costs[members] - NO_LINK - 1e-9  # a pair at both gates is still a link
        for r, c in zip(*linear_sum_assignment(gain), strict=True):
            if gain[r, c] < 0.0:
                yield int(rows[r]), int(columns[c])


def _explanations(
    ones: Sequence[_Body], free: Sequence[_Body], kept: dict[int, _Body], tolerance: float
) -> Iterator[_Evidence]:
    """Events in which one of `ones` equals several bodies, best first, each body in one event only.

    Args:
        free: bodies without a partner, of which every event has at least one.
        kept: by key of `ones`, the body that it is linked with, which is one of its several.
    """
    found = [
        evidence
        for one, candidates in _neighbourhoods(ones, free)
        if (evidence := _best(one, candidates, kept.get(one.key), tolerance)) is not None
    ]
    used_one: set[int] = set()
    used_many: set[int] = set()
    for evidence in sorted(found, key=lambda e: (e.error, e.one)):
        if evidence.one not in used_one and not used_many & set(evidence.many):
            used_one.add(evidence.one)
            used_many |= set(evidence.many)
            yield evidence


def _neighbourhoods(ones: Sequence[_Body], free: Sequence[_Body]) -> Iterator[tuple[_Body, list[_Body]]]:
    """Each of `ones` with the free bodies that may touch it, nearest first."""
    if not ones or not free:
        return
    largest = max(body.found.equivalent_diameter for body in free)
    tree = cKDTree([body.place for body in free])
    sizes = np.array([body.found.equivalent_diameter for body in ones])
    near = tree.query_ball_point([body.place for body in ones], CONTACT * 0.5 * (sizes + largest))
    for one, indices in zip(ones, near, strict=True):
        touching = sorted((_distance(one, free[i]), i) for i in indices if _may_touch(one, free[i]))
        if touching:
            yield one, [free[i] for _, i in touching[:MAX_CANDIDATES]]


def _distance(a: _Body, b: _Body) -> float:
    return math.dist(a.place, b.place)


def _may_touch(a: _Body, b: _Body) -> bool:
    reach = 0.5 * (a.found.equivalent_diameter + b.found.equivalent_diameter)
    return _distance(a, b) <= CONTACT * reach


def _best(one: _Body, candidates: Sequence[_Body], kept: _Body | None, tolerance: float) -> _Evidence | None:
    """The group of bodies that equals `one` best; with `kept` in it, if there is one."""
    always = [kept] if kept is not None else []
    groups = (
        [*always, *chosen]
        for size in range(2 - len(always), MAX_PARTNERS + 1 - len(always))
        for chosen in combinations(candidates, size)
    )
    found = [e for group in groups if (e := _evidence(one, group, tolerance)) is not None]
    return min(found, key=lambda e: e.error, default=None)


def _evidence(one: _Body, many: Sequence[_Body], tolerance: float) -> _Evidence | None:
    """Whether `one` may be `many` together: by place, and by volume, area or overlap."""
    d, largest = one.found.equivalent_diameter, max(body.found.equivalent_diameter for body in many)
    weights = [body.found.equivalent_diameter**3 for body in many]
    middle = tuple(
        sum(w * body.place[axis] for w, body in zip(weights, many, strict=True)) / sum(weights)
        for axis in (0, 1)
    )
    if math.dist(middle, one.place) > 0.5 * d:
        return None
    squares = sum(body.found.equivalent_diameter**2 for body in many)
    expected: dict[Law, float] = {"volume": sum(weights) ** (1.0 / 3.0), "area": math.sqrt(squares)}
    ratios = sum(weights) / d**3, sum(body.found.area for body in many) / one.found.area
    keys = tuple(sorted(body.key for body in many))
    errors = {
        law: abs(d / size - 1.0)
        for law, size in expected.items()
        if d / largest - 1.0 >= max(MIN_CHANGE, 0.5 * (size / largest - 1.0))
    }
    law = min(errors, key=lambda k: errors[k], default=None)
    if law is not None and errors[law] <= tolerance:
        return _Evidence(errors[law], one.key, keys, *ratios, law)
    if d / largest - 1.0 >= MIN_CHANGE and all(_overlap(one.found, body.found) for body in many):
        return _Evidence(
            1.0 + min(abs(d / size - 1.0) for size in expected.values()), one.key, keys, *ratios, None
        )
    return None


def _overlap(large: TrackedObject, small: TrackedObject) -> bool:
    """Whether both have masks and at least MIN_OVERLAP of the smaller one lies on the larger one."""
    if large.mask is None or small.mask is None:
        return False
    (ax, ay, aw, ah), (bx, by, bw, bh) = large.mask.bbox_xywh, small.mask.bbox_xywh
    x1, y1, x2, y2 = max(ax, bx), max(ay, by), min(ax + aw, bx + bw), min(ay + ah, by + bh)
    if x1 >= x2 or y1 >= y2:
        return False
    a = large.mask.pixels[y1 - ay : y2 - ay, x1 - ax : x2 - ax]
    b = small.mask.pixels[y1 - by : y2 - by, x1 - bx : x2 - bx]
    return int(np.count_nonzero(a & b)) >= MIN_OVERLAP * small.mask.area


# --- numbers of one track ---


def _motion(path: _Path, times: Float64Array) -> tuple[tuple[float, float] | None, float | None]:
    """Net velocity and mean speed along the path; None for a single appearance."""
    if len(times) < 2:
        return None, None
    places = np.array([o.centroid_xy for o in path.objects])
    time = float(times[-1] - times[0])
    vx, vy = (places[-1] - places[0]) / time
    steps = np.hypot(*np.diff(places, axis=0).T)
    return (float(vx), float(vy)), float(steps.sum()) / time


def _growth(path: _Path, times: Float64Array) -> Growth | None:
    if len(times) < 3:
        return None
    d = np.array([o.equivalent_diameter for o in path.objects])
    return Growth(*(_trend(times, d**power) for power in (1, 2, 3)))


def _trend(times: Float64Array, values: Float64Array) -> Trend:
    """Ordinary least squares; the standard error takes the deviations as independent."""
    if np.ptp(values) == 0.0:
        return Trend(0.0, 0.0, None)
    line = linregress(times, values)
    return Trend(float(line.slope), float(line.stderr), float(line.rvalue) ** 2)
