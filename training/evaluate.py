"""Measure a checkpoint with the engine that ships, on pictures that were not trained on.

python -m training.evaluate --data DIR --split test --baselines --json RESULT.json
python -m training.evaluate --compare BEFORE.json AFTER.json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from sam_engine.automatic import AutomaticParameters, Mode, segment_everything
from sam_engine.checkpoints import MODEL_DIR, SHIPPED_FILE
from sam_engine.engine import LoadedModel, SamEngine
from sam_engine.errors import EngineError, InvalidInput
from sam_engine.types import ByteArray, ImageEmbedding, Mask
from service.schemas import AutomaticInput
from service.segmentation import resolve_automatic
from training.baselines import BASELINES, settings_of
from training.compare import FORMAT, as_text, compare, read_result
from training.groups import Case, Group, HeldOut, choose, drawn_groups, real_groups
from training.metrics import PictureScore, Ranking, Truth, score_picture, summarise
from training.prompted import PromptScore, score_prompts, summarise_prompts

MODES = ("instances", "exact", "fast")
LIBRARIES = ("torch", "numpy", "scipy", "opencv-python-headless", "scikit-image", "pillow")
PICTURES, SCENES, PROMPTS = 40, 12, 24  # about ten minutes on two idle cores, baselines included


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Options:
    """What is run on every picture.

    Attributes:
        modes: of `segment_everything`, each with the checkpoint's own thresholds.
        prompts: objects of a picture that are clicked and boxed, at most; 0 prompts none.
        baselines: whether the classical methods run too.
    """

    modes: tuple[Mode, ...]
    prompts: int = PROMPTS
    baselines: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    """One method on one picture."""

    score: PictureScore
    ranking: Ranking
    milliseconds: float


@dataclass(frozen=True, eq=False, slots=True)
class _Picture:
    embed_ms: float
    methods: dict[str, _Found]
    prompts: PromptScore | None


def evaluate_group(
    engine: SamEngine, group: Group, options: Options, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Everything measured on one group, ready for JSON; see docs/accuracy.md for the figures.

    Args:
        progress: called with the name of each picture before it is worked on.

    Raises:
        InvalidInput: a picture cannot be read, or the checkpoint has no head for the mode `instances`.
    """
    pictures = []
    for case in group.cases:
        progress(case.name)
        pictures.append(_evaluate_picture(engine, group.family, case, options))
    methods = {name: [picture.methods[name] for picture in pictures] for name in pictures[0].methods}
    prompts = [picture.prompts for picture in pictures if picture.prompts is not None]
    return {
        "available": group.available,
        "pictures": [case.name for case in group.cases],
        "embed_ms": statistics.median(picture.embed_ms for picture in pictures),
        "methods": {name: _method(name, found) for name, found in methods.items()},
        "prompts": _prompted(prompts) if prompts else None,
    }


def default_parameters(model: LoadedModel, mode: Mode) -> AutomaticParameters:
    """What the service uses when a request leaves everything open but the mode."""
    return resolve_automatic(model, AutomaticInput(mode=mode))


def provenance(model: LoadedModel) -> dict[str, Any]:
    """Which checkpoint, and which software and hardware measured it."""
    return {
        "format": FORMAT,
        "checkpoint": {
            "name": model.name,
            "file": model.path.name,
            "sha256": model.sha256,
            "model_type": model.model_type,
            "defaults": asdict(model.defaults),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "runtime": {
            "device": model.device.type,
            "precision": model.precision,
            "threads": torch.get_num_threads(),
        },
    }


def _evaluate_picture(engine: SamEngine, family: str, case: Case, options: Options) -> _Picture:
    picture, truth = case.load()
    embedding, embed_ms = _timed(lambda: engine.embed(picture))
    finders: dict[str, Callable[[], list[Mask]]] = {
        mode: partial(_automatic, engine, picture, embedding, mode) for mode in options.modes
    }
    if options.baselines:
        finders |= {b.name: partial(b.find, picture, **settings_of(b, family)) for b in BASELINES}
    methods = {name: _score(case.name, truth, find) for name, find in finders.items()}
    prompts = None
    if options.prompts:
        prompts = score_prompts(engine, embedding, case.name, truth.labels, options.prompts)
    return _Picture(embed_ms, methods, prompts)


def _automatic(engine: SamEngine, picture: ByteArray, embedding: ImageEmbedding, mode: Mode) -> list[Mask]:
    return segment_everything(engine, picture, embedding, default_parameters(engine.load(), mode)).masks


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    """The answer, and milliseconds of processor time, which other programs do not lengthen."""
    start = time.process_time()
    return work(), 1000 * (time.process_time() - start)


def _score(name: str, truth: Truth, find: Callable[[], list[Mask]]) -> _Found:
    masks, milliseconds = _timed(find)
    return _Found(*score_picture(name, truth, masks), milliseconds)


def _method(name: str, found: Sequence[_Found]) -> dict[str, Any]:
    """Classical methods have no scores to rank by, hence no average precision."""
    baseline = name in {b.name for b in BASELINES}
    scores = [f.score for f in found]
    summary = summarise(scores, None if baseline else [f.ranking for f in found])
    return {
        "baseline": baseline,
        "milliseconds": statistics.median(f.milliseconds for f in found),
        "summary": asdict(summary),
        "pictures": [asdict(score) for score in scores],
    }


def _prompted(scores: Sequence[PromptScore]) -> dict[str, Any]:
    return {"summary": asdict(summarise_prompts(scores)), "pictures": [asdict(score) for score in scores]}


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    asked = _named_modes(options.modes)
    if options.json is not None and not options.json.parent.is_dir():
        raise InvalidInput("json", f"={options.json} lies in a folder that does not exist")
    part = cast(HeldOut, options.split)
    real = [] if options.data is None else real_groups(options.data, part, options.limit or PICTURES)
    drawn = drawn_groups(part, options.limit or SCENES)
    groups = choose([*real, *drawn], options.groups)
    engine = SamEngine(
        options.checkpoint.parent, options.checkpoint, device=options.device, precision=options.precision
    )
    model = engine.load()
    engine.warm()
    usual: tuple[Mode, ...] = ("exact",) if model.head is None else ("instances",)
    work = Options(asked or usual, options.prompts, options.baselines)
    settings = {"split": part, "modes": work.modes, "prompts": work.prompts}
    results: dict[str, Any] = {}
    for group in groups:
        count = len(group.cases)
        print(f"{group.name}: {count} of {group.available} pictures", file=sys.stderr, flush=True)
        start = time.perf_counter()
        results[group.name] = evaluate_group(engine, group, work, _progress(count))
        seconds = time.perf_counter() - start
        print(f"  {_line(results[group.name])}; {seconds:.0f} s", file=sys.stderr, flush=True)
    return {**provenance(model), "settings": settings, "groups": results}


def _named_modes(asked: str | None) -> tuple[Mode, ...]:
    """Of a list with commas; none where none is asked for."""
    modes = tuple(asked.split(",")) if asked else ()
    for mode in modes:
        if mode not in MODES:
            raise InvalidInput("modes", f"has {mode!r}, must be of {', '.join(MODES)}")
    return cast(tuple[Mode, ...], modes)


def _progress(count: int) -> Callable[[str], None]:
    """Says every tenth picture which one it is."""
    done = 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        if done % 10 == 0:
            print(f"  {done}/{count} {name}", file=sys.stderr, flush=True)

    return progress


def _line(group: dict[str, Any]) -> str:
    """The figures of a group that matter most."""
    figures = {f"{name} F1": m["summary"]["f1"] for name, m in group["methods"].items()}
    if group["prompts"] is not None:
        figures |= {f"{name} IoU": group["prompts"]["summary"][name] for name in ("click", "box")}
    return ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in figures.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Measure a checkpoint, or compare two results."
    )
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="results (JSON)")
    parser.add_argument("--data", type=Path, help="folder of data sets; without it drawn scenes only")
    parser.add_argument("--checkpoint", type=Path, default=MODEL_DIR / SHIPPED_FILE)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--groups", nargs="+", help="data sets, drawn/KIND, or drawn for all kinds")
    parser.add_argument(
        "--limit",
        type=_positive,
        help=f"pictures of a group at most; {PICTURES} of a data set, {SCENES} scenes",
    )
    parser.add_argument(
        "--prompts", type=_not_negative, default=PROMPTS, help="objects prompted in a picture"
    )
    parser.add_argument("--modes", help="instances,exact,fast; the checkpoint's usual one")
    parser.add_argument("--baselines", action="store_true", help="run the classical methods too")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--json", type=Path, help="where the result is written")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} must be at least 0")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 with one line that says what is wrong with the input."""
    options = _parser().parse_args(arguments)
    try:
        if options.compare:
            print(as_text(compare(*(read_result(path) for path in options.compare))))
            return 0
        result = _evaluate(options)
    except (EngineError, OSError) as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    for name, group in result["groups"].items():
        print(f"{name:24} {_line(group)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
