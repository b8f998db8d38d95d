"""Tables, documents and contact sheets from results that are made up."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sam_engine.checkpoints import Defaults
from sam_engine.errors import InvalidInput
from sam_engine.types import Mask
from tests.drawn import Disc, draw
from tests.training.results import group, result
from training import sheets, tables
from training.compare import SEEN
from training.groups import Case, Group
from training.metrics import Truth, masks_of_labels
from training.report import BEGIN, END, accuracy_document, card_tables, main, with_evaluation

SIZE = (60, 90)


def cells(table: str, row: str) -> dict[str, str]:
    """The row of a table that begins with `row`, by its header."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    (found,) = [line for line in lines if line[0] == row]
    return dict(zip(lines[0], found, strict=True))


def test_headline_figures_stand_in_their_columns():
    table = tables.headline([result(drops=group(click=0.5, box=0.61, matched=5, false=2, baseline=3))])
    row = cells(table, "drops")
    assert (row["pictures"], row["click"], row["best of 3"], row["box"]) == (
        "10 of 50",
        "0.50",
        "0.60",
        "0.61",
    )
    assert row["instances F1"] == f"{2 * 5 / (7 + 10):.2f}"
    assert row["Hough circles F1"] == f"{2 * 3 / (4 + 10):.2f}"


def test_before_and_after_stand_in_one_cell_where_they_differ():
    results = [result(drops=group(click=c, box=0.6)) for c in (0.5, 0.75)]
    row = cells(tables.headline(results), "drops")
    assert (row["click"], row["box"]) == ("0.50 → 0.75", "0.60")


def test_a_group_that_one_result_lacks():
    results = [result(drops=group()), result(drops=group(), foam=group(click=0.4))]
    assert cells(tables.headline(results), "foam")["click"] == "- → 0.40"


def test_data_sets_come_before_scenes():
    assert tables.group_names([result(**{"drawn/foam": group(), "drops": group()})]) == [
        "drops",
        "drawn/foam",
    ]


def test_what_was_found_and_what_was_not():
    row = cells(tables.everything([result(drops=group(matched=4, false=4))]), "drops")
    assert (row["precision"], row["recall"], row["matched IoU"], row["false a picture"]) == (
        "0.50",
        "0.40",
        "0.80",
        "4.00",
    )
    assert (row["recall below 15 px"], row["recall 15 to 40 px"]) == ("-", "0.40")


def test_errors_have_a_sign_and_a_size():
    table = tables.measurements([result(drops=group(matched=[4, 4, 13, 4, 4]))])
    row = cells(table, "drops")
    assert (row["count, %"], row["CV, points"]) == ("-60.0 (60.0)", "-")


def test_a_group_without_objects_has_no_errors():
    blank = group(objects=0, matched=0, false=2, prompts=False)
    assert "blank" not in tables.measurements([result(blank=blank)])
    assert cells(tables.everything([result(blank=blank)]), "blank")["false a picture"] == "2.00"
    assert cells(tables.headline([result(blank=blank)]), "blank")["click"] == "-"


def test_tables_are_rectangular():
    results = [result(drops=group(baseline=2), **{"drawn/foam": group()}), result(drops=group(click=0.7))]
    for table in (tables.headline, tables.everything, tables.measurements):
        assert len({line.count("|") for line in table(results).splitlines()}) == 1


def test_the_document_has_a_section_for_each_part():
    document = accuracy_document([result(drops=group()), result(split="test", foam=group(baseline=1))])
    assert document.index("## Test pictures") < document.index("## Validation pictures")
    assert "$" not in document
    assert "--split validation --baselines --json validation.json" in document
    assert "| drops |" in document.split("## Validation pictures")[1]
    assert "## Test pictures" not in accuracy_document([result(drops=group())])


def test_the_document_says_what_flatters_a_checkpoint():
    (sha256,) = SEEN
    assert "saw pictures of nuclei_dsb2018" in accuracy_document([result(sha256=sha256, drops=group())])
    assert "saw pictures" not in accuracy_document([result(drops=group())])
    assert "saw pictures of nuclei_dsb2018" in card_tables(result(sha256=sha256, drops=group()))


def test_the_document_names_both_checkpoints():
    document = accuracy_document([result(sha256=digit * 64, drops=group()) for digit in "ab"])
    assert document.index("a" * 16) < document.index("b" * 16)
    assert "the first is of the earlier checkpoint" in document


def test_only_what_stands_between_the_markers_changes():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    changed = with_evaluation(text, "new", "card")
    assert changed == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert with_evaluation(changed, "new", "card") == changed


@pytest.mark.parametrize(
    "text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"]
)
def test_a_card_without_its_markers_is_left_alone(text):
    with pytest.raises(InvalidInput, match=r"card must have one"):
        with_evaluation(text, "new", "card")


def test_documents_are_written(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(result(split="test", drops=group(click=0.43))))
    (tmp_path / "card.md").write_text(f"# Card\n{BEGIN}\n{END}\n")
    assert main(["docs", str(tmp_path / "r.json"), "--out", str(tmp_path / "docs.md")]) == 0
    assert main(["card", str(tmp_path / "r.json"), "--card", str(tmp_path / "card.md")]) == 0
    for name in ("docs.md", "card.md"):
        assert "0.43" in (tmp_path / name).read_text()


@pytest.mark.parametrize("content", [None, "", "[]", '{"groups": {}}', '{"format": 2}'])
def test_what_is_no_result_is_said_in_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    assert main(["docs", str(tmp_path / "r.json"), "--out", str(tmp_path / "docs.md")]) == 2
    error = capsys.readouterr().err
    assert "r.json" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "docs.md").exists()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ("a", "", "")),
        (3, ("ab", "c", "")),
        (5, ("ab", "cd", "e")),
        (6, ("ab", "cd", "ef")),
        (10, ("ab", "ef", "ij")),
    ],
)
def test_the_best_the_typical_and_the_worst(count, expected):
    rows = sheets.pick("abcdefghij"[:count], 2)
    assert tuple(rows) == expected


def drawn_with(masks: list[Mask], disc: Disc) -> sheets.Drawn:
    case = Case("a", lambda: (draw([disc], SIZE), truth_of(disc)))
    return sheets_of(case, masks)


def truth_of(disc: Disc) -> Truth:
    return Truth(disc.pixels(SIZE).astype(np.int32))


def sheets_of(case: Case, masks: list[Mask]) -> sheets.Drawn:
    picture, truth = case.load()
    return sheets.Drawn(picture, truth.labels, masks, sheets.score_picture(case.name, truth, masks)[0])


@pytest.mark.parametrize("side", [90, 180, 45])
def test_outlines_lie_on_the_objects(side):
    disc, other = Disc(30, 30, 20), Disc(70, 30, 15)
    drawn = drawn_with(masks_of_labels(truth_of(other).labels), disc)
    out = sheets.outlined(drawn, side)
    assert out.shape == (side * 60 // 90, side, 3)
    for colour, where in ((sheets.TRUTH, disc), (sheets.FOUND, other)):
        rows, columns = np.nonzero((out == colour).all(axis=2))
        distance = np.hypot((columns + 0.5) * 90 / side - where.x, (rows + 0.5) * 90 / side - where.y)
        assert len(distance) > side / 2
        assert np.abs(distance - where.radius).max() < 3


def test_equal_outlines_are_white():
    disc = Disc(30, 30, 20)
    out = sheets.outlined(drawn_with(masks_of_labels(truth_of(disc).labels), disc), 90)
    assert (out == sheets.BOTH).all(axis=2).any()
    assert not (out == sheets.FOUND).all(axis=2).any()


def test_a_sheet_begins_with_the_best_picture(monkeypatch):
    disc = Disc(30, 30, 20)
    right = masks_of_labels(truth_of(disc).labels)
    answers = iter([[], right, [], right])
    monkeypatch.setattr(sheets, "segment_everything", lambda *_: SimpleNamespace(masks=next(answers)))
    composed = []
    monkeypatch.setattr(sheets, "compose", lambda heading, rows: composed.append((heading, rows)))
    engine = SimpleNamespace(load=lambda: SimpleNamespace(defaults=Defaults()), embed=lambda picture: picture)
    cases = tuple(Case(name, lambda: (draw([disc], SIZE), truth_of(disc))) for name in "abcd")
    sheets.contact_sheet(engine, Group("drops", cases, 4), "instances", columns=2)
    ((heading, rows),) = composed
    assert heading.startswith("drops")
    assert [(title, [d.score.name for d in row]) for title, row in rows] == [
        ("best", ["b", "d"]),
        ("typical", ["a", "c"]),
    ]


def test_a_sheet_has_a_cell_for_each_picture():
    drawn = drawn_with([], Disc(30, 30, 20))
    sheet = sheets.compose("heading", [("best", [drawn, drawn]), ("worst", [drawn])])
    assert sheet.size == (
        sheets.GAP + 2 * (sheets.CELL + sheets.GAP),
        sheets.STRIP + 2 * (sheets.CELL + sheets.STRIP + sheets.GAP),
    )
    corner = sheet.getpixel((sheets.GAP + 3, sheets.STRIP * 2 + 3))
    assert corner != sheet.getpixel((sheet.width - 3, sheet.height - 3))
