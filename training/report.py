"""What `training.evaluate` measured, for people: docs/accuracy.md, the model card's tables, contact sheets.

python -m training.report docs VALIDATION.json TEST.json
python -m training.report card TEST.json
python -m training.report sheet --data DIR --group emps_particles --out SHEET.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import cast

from sam_engine.automatic import Mode
from sam_engine.checkpoints import MODEL_DIR, SHIPPED_FILE
from sam_engine.engine import SamEngine
from sam_engine.errors import EngineError, InvalidInput
from training import tables
from training.baselines import BASELINES, settings_of
from training.compare import SEEN, Result, read_result
from training.datasets import POLICIES
from training.evaluate import MODES
from training.groups import HeldOut, choose, drawn_groups, family_of, real_groups
from training.sheets import contact_sheet

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_name("accuracy.template.md")
ACCURACY = PROJECT / "docs" / "accuracy.md"
CARD = MODEL_DIR / "README.md"
BEGIN, END = "<!-- evaluation:begin -->", "<!-- evaluation:end -->"
PARTS = {"test": " Test pictures", "validation": " Validation pictures"}


def accuracy_document(results: Sequence[Result]) -> str:
    """docs/accuracy.md.

    Args:
        results: of `training.evaluate`, at least one; those of one part in the order in which they are shown.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        checkpoints=_checkpoints(results),
        parts="\n\n".join(_part(part, results) for part in PARTS if _of_part(part, results)),
        prompts=max(result["settings"]["prompts"] for result in results),
        policies=_policies(),
        baselines=_baselines(results),
        commands=_commands(results),
        versions=", ".join(f"{name} {number}" for name, number in results[-1]["versions"].items()),
    )


def card_tables(result: Result) -> str:
    """The tables of the model card: the headline figures and the errors of measurement."""
    part = result["settings"]["split"]
    said = (
        f"Measured on {part} pictures with this checkpoint's own thresholds. Click and box: mean IoU; F1 at "
        "IoU 0.5. What they mean, more of them, how to repeat them: [docs/accuracy.md](../docs/accuracy.md)."
    )
    errors = "Errors of one picture's result: the median, and in brackets the median of the absolute errors."
    parts = [said, _seen(result), tables.headline([result]), errors, tables.measurements([result])]
    return "\n\n".join(part for part in parts if part)


def with_evaluation(text: str, evaluation: str, file: str) -> str:
    """The text with what stands between its two markers replaced.

    Raises:
        InvalidInput: the markers are not there once each, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise InvalidInput(file, f"must have one {BEGIN} and after it one {END}")
    return f"{before}{BEGIN}\n{evaluation}\n{END}{after}"


def _checkpoints(results: Sequence[Result]) -> str:
    unique = {result["checkpoint"]["sha256"]: result for result in results}
    rows = [
        [
            f"`{result['checkpoint']['file']}` ({result['checkpoint']['name']})",
            f"`{sha256[:16]}`",
            f"{result['runtime']['precision']} on {result['runtime']['device']}",
            f"{result['checkpoint']['defaults']['pred_iou_thresh']:g}",
        ]
        for sha256, result in unique.items()
    ]
    parts = [tables.markdown(["checkpoint", "SHA-256", "precision", "`pred_iou_thresh`"], rows)]
    if len(unique) > 1:
        parts.append(
            "Where two figures stand in a cell, the first is of the earlier checkpoint of this list."
        )
    parts += [_seen(result) for result in unique.values()]
    return "\n\n".join(part for part in parts if part)


def _seen(result: Result) -> str:
    """What flatters a checkpoint; empty if nothing is known to."""
    seen = SEEN.get(result["checkpoint"]["sha256"], ())
    if not seen:
        return ""
    return (
        f"**Checkpoint {result['checkpoint']['sha256'][:16]} saw pictures of {' and '.join(seen)} in training"
        "**, and which ones is not recorded: its figures on these sets flatter it, on test pictures too."
    )


def _of_part(part: str, results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result["settings"]["split"] == part]


def _part(part: str, results: Sequence[Result]) -> str:
    own = _of_part(part, results)
    sections = [
        (PARTS[part], tables.headline(own)),
        ("# Everything in a picture", tables.everything(own)),
        ("# Errors of measurement", tables.measurements(own)),
    ]
    return "\n\n".join(f"##{title}\n\n{text}" for title, text in sections)


def _policies() -> str:
    rows = [
        [name, *(("by name", "-") if p.train_stems else (f"{p.train:.0%}", f"{p.validation:.0%}")), p.reason]
        for name, p in POLICIES.items()
    ]
    return tables.markdown(["data set", "train", "validation", "why"], rows)


def _baselines(results: Sequence[Result]) -> str:
    families = dict.fromkeys(family_of(name) for name in tables.group_names(results))
    rows = [
        [family, baseline.name, ", ".join(f"{k} {v}" for k, v in settings_of(baseline, family).items())]
        for family in families
        for baseline in BASELINES
    ]
    return tables.markdown(["", "method", "parameters"], rows)


def _commands(results: Sequence[Result]) -> str:
    parts = list(dict.fromkeys(result["settings"]["split"] for result in results))
    lines = [
        f"python -m training.evaluate --data DIR --split {part} --baselines --json {part}.json"
        for part in parts
    ]
    return "\n".join([*lines, f"python -m training.report docs {' '.join(f'{p}.json' for p in parts)}"])


def _write_docs(options: argparse.Namespace) -> None:
    options.out.write_text(
        accuracy_document([read_result(path) for path in options.results]), encoding="utf-8"
    )


def _write_card(options: argparse.Namespace) -> None:
    text = options.card.read_text(encoding="utf-8")
    evaluation = card_tables(read_result(options.result))
    options.card.write_text(with_evaluation(text, evaluation, str(options.card)), encoding="utf-8")


def _write_sheet(options: argparse.Namespace) -> None:
    part = cast(HeldOut, options.split)
    real = [] if options.data is None else real_groups(options.data, part, options.limit)
    (group, *more) = choose([*real, *drawn_groups(part, options.limit)], [options.group])
    if more:
        raise InvalidInput("group", f"={options.group} names {1 + len(more)} groups, must name one")
    engine = SamEngine(options.checkpoint.parent, options.checkpoint)
    contact_sheet(engine, group, cast(Mode, options.mode), options.columns).save(options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.report", description="Results for people.")
    commands = parser.add_subparsers(required=True)
    docs = commands.add_parser("docs", help="write docs/accuracy.md")
    docs.add_argument("results", type=Path, nargs="+", help="JSON of training.evaluate")
    docs.add_argument("--out", type=Path, default=ACCURACY)
    docs.set_defaults(run=_write_docs)
    card = commands.add_parser("card", help="fill in the tables of the model card")
    card.add_argument("result", type=Path, help="JSON of training.evaluate")
    card.add_argument("--card", type=Path, default=CARD)
    card.set_defaults(run=_write_card)
    sheet = commands.add_parser("sheet", help="draw the best, typical and worst pictures of a group")
    sheet.add_argument("--data", type=Path)
    sheet.add_argument("--group", required=True)
    sheet.add_argument("--split", choices=tuple(PARTS), default="validation")
    sheet.add_argument("--checkpoint", type=Path, default=MODEL_DIR / SHIPPED_FILE)
    sheet.add_argument("--mode", choices=MODES, default="instances")
    sheet.add_argument("--limit", type=int, default=40, help="pictures looked at")
    sheet.add_argument("--columns", type=int, default=3, help="pictures in a row")
    sheet.add_argument("--out", type=Path, required=True)
    sheet.set_defaults(run=_write_sheet)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 with one line that says what is wrong with the input."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (EngineError, OSError) as error:
        print(f"training.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
