"""The evaluation on answers that are made up, whose scores are known, and once on the shipped checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sam_engine.checkpoints import MODEL_DIR, SHIPPED_FILE, Defaults
from sam_engine.engine import Prediction
from sam_engine.errors import InvalidInput
from sam_engine.types import Mask, Prompt
from tests.drawn import Disc, draw, spaced_discs
from training import evaluate
from training.baselines import BASELINES
from training.datasets import find_samples, split
from training.evaluate import Options, default_parameters, evaluate_group, main
from training.groups import FIRST_SEED, Case, Group, choose, drawn_groups, real_groups
from training.metrics import Truth, masks_of_labels
from training.prompted import deepest_pixel, score_prompts, summarise_prompts
from training.scenes import KINDS
from training.stream import FIRST_TEST_SEED

SIZE = (120, 160)
LOGITS = np.zeros((3, 256, 256), dtype=np.float32)


def labels_of(discs: list[Disc], size: tuple[int, int] = SIZE) -> np.ndarray:
    labels = np.zeros(size, dtype=np.int32)
    for number, disc in enumerate(discs, start=1):
        labels[disc.pixels(size)] = 3 * number
    return labels


def left_half(mask: Mask) -> Mask:
    return replace(mask, pixels=mask.pixels[:, : mask.pixels.shape[1] // 2])


class MadeUpEngine:
    """Knows the truth. A click is answered with half of the object ranked above all of it, a box with all."""

    def __init__(self, labels: np.ndarray, ranked_first: float = 0.8) -> None:
        self.objects = masks_of_labels(labels)
        self.ranked_first = ranked_first
        self.asked: list[Prompt] = []

    def load(self):
        return SimpleNamespace(defaults=Defaults(0.3, 0.6), head=object())

    def embed(self, picture: np.ndarray) -> np.ndarray:
        return picture

    def predict(self, embedding: np.ndarray, prompts: Sequence[Prompt]) -> list[Prediction]:
        self.asked.extend(prompts)
        return [self.answer(prompt) for prompt in prompts]

    def answer(self, prompt: Prompt) -> Prediction:
        if prompt.box is not None:
            x1, y1, x2, y2 = prompt.box
            boxed = [m for m in self.objects if m.bbox_xywh == (x1, y1, x2 - x1, y2 - y1)]
            return Prediction(tuple(boxed), LOGITS[:1])
        ((x, y, _),) = prompt.points
        clicked = [m for m in self.objects if m.full()[int(y), int(x)]]
        if not clicked:
            return Prediction((), LOGITS)
        (whole,) = clicked
        half = replace(left_half(whole), predicted_iou=self.ranked_first)
        return Prediction((replace(whole, predicted_iou=0.5), half), LOGITS)


DISCS = [Disc(30, 40, 20), Disc(90, 60, 30), Disc(140, 100, 12)]


def test_click_box_and_oracle_by_hand():
    labels = labels_of(DISCS)
    engine = MadeUpEngine(labels)
    summary = summarise_prompts([score_prompts(engine, labels, "a", labels, limit=10)])
    assert (summary.objects, summary.box, summary.click_oracle) == (3, 1, 1)
    assert summary.click == pytest.approx(0.5, abs=0.02)
    assert summary.click_misjudged == pytest.approx(0.3, abs=0.02)


def test_the_network_ranks_its_candidates_itself():
    labels = labels_of(DISCS)
    score = score_prompts(MadeUpEngine(labels, ranked_first=0.4), labels, "a", labels, limit=10)
    assert (score.click, score.click_misjudged) == (3, pytest.approx(1.5))


def test_a_prompt_without_an_answer_scores_zero():
    labels = labels_of(DISCS)
    engine = MadeUpEngine(labels_of(DISCS[:1]))
    score = score_prompts(engine, labels, "a", labels, limit=10)
    assert (score.objects, score.box, score.click_oracle) == (3, 1, 1)


def test_prompts_lie_on_their_objects_and_clicks_ask_for_candidates():
    labels = labels_of(DISCS)
    engine = MadeUpEngine(labels)
    score_prompts(engine, labels, "a", labels, limit=10)
    clicks, boxes = engine.asked[:3], engine.asked[3:]
    assert [labels[int(p.points[0][1]), int(p.points[0][0])] for p in clicks] == [3, 6, 9]
    assert all(p.multimask and p.points[0][2] == 1 for p in clicks)
    assert not any(p.multimask or p.points for p in boxes)
    assert boxes[0].box == (10, 20, 50, 60)


def test_tiny_objects_are_not_prompted():
    labels = labels_of(DISCS)
    labels[0, :3] = 99
    assert score_prompts(MadeUpEngine(labels), labels, "a", labels, limit=10).objects == 3


def test_the_objects_prompted_are_drawn_by_the_name_of_the_picture():
    discs = spaced_discs(SIZE, pitch=20, radius=8)
    labels = labels_of(discs)

    def places(name: str) -> set:
        engine = MadeUpEngine(labels)
        assert score_prompts(engine, labels, name, labels, limit=10).objects == 10
        return {p.points for p in engine.asked if p.points}

    assert places("a") == places("a")
    assert places("a") != places("b")


def test_nothing_to_prompt():
    empty = np.zeros(SIZE, np.int32)
    summary = summarise_prompts([score_prompts(MadeUpEngine(empty), empty, "a", empty, limit=10)])
    assert (summary.objects, summary.click, summary.box, summary.click_ms) == (0, None, None, None)


def test_the_deepest_pixel_of_a_disc_and_of_a_ring():
    x, y = deepest_pixel(Disc(20.5, 25.5, 15).pixels((50, 50)), (100, 200))
    assert (x, y) == (120, 225)
    ring = Disc(25, 25, 20).pixels((50, 50)) & ~Disc(25, 25, 10).pixels((50, 50))
    x, y = deepest_pixel(ring)
    assert np.hypot(x + 0.5 - 25, y + 0.5 - 25) == pytest.approx(15, abs=1)
    assert deepest_pixel(np.ones((1, 1), bool), (4, 5)) == (4, 5)


def test_the_edge_of_the_picture_is_outside():
    """Otherwise the click on a cut object would lie on the picture's edge."""
    assert deepest_pixel(np.ones((11, 41), bool)) == (pytest.approx(20, abs=15), 5)


def group_of(discs: list[Disc], name: str = "drawn/emulsion", copies: int = 2) -> Group:
    def load():
        return draw(discs, SIZE), Truth(labels_of(discs))

    return Group(name, tuple(Case(str(i), load) for i in range(copies)), copies)


def test_a_group_is_scored_by_every_method(monkeypatch):
    labels = labels_of(DISCS)
    found = {"instances": masks_of_labels(labels), "exact": masks_of_labels(labels)[:1]}
    monkeypatch.setattr(
        evaluate,
        "segment_everything",
        lambda engine, image, embedding, parameters: SimpleNamespace(masks=found[parameters.mode]),
    )
    seen: list[str] = []
    result = evaluate_group(
        MadeUpEngine(labels), group_of(DISCS), Options(("instances", "exact"), 5, True), seen.append
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result | {
        "methods": json.loads(json.dumps(result["methods"]))
    }
    assert seen == result["pictures"] == ["0", "1"]
    assert list(result["methods"]) == ["instances", "exact", *(b.name for b in BASELINES)]
    summaries = {name: method["summary"] for name, method in result["methods"].items()}
    assert (summaries["instances"]["f1"], summaries["instances"]["average_precision"]) == (1, 1)
    assert (summaries["exact"]["recall"], summaries["exact"]["precision"]) == (1 / 3, 1)
    assert all(summaries[b.name]["average_precision"] is None for b in BASELINES)
    assert [m["baseline"] for m in result["methods"].values()] == [False, False, True, True, True]
    assert result["prompts"]["summary"]["objects"] == 6


def test_prompts_can_be_left_out(monkeypatch):
    monkeypatch.setattr(evaluate, "segment_everything", lambda *_: SimpleNamespace(masks=[]))
    labels = labels_of(DISCS)
    assert (
        evaluate_group(MadeUpEngine(labels), group_of(DISCS), Options(("instances",), 0))["prompts"] is None
    )


def test_parameters_are_those_of_the_checkpoint():
    parameters = default_parameters(MadeUpEngine(np.zeros(SIZE, np.int32)).load(), "exact")
    assert (parameters.mode, parameters.pred_iou_thresh, parameters.stability_score_thresh) == (
        "exact",
        0.3,
        0.6,
    )


def test_scenes_are_the_same_every_time_and_differ_from_each_other():
    first, again = (drawn_groups("test", 2) for _ in range(2))
    assert [g.name for g in first] == [f"drawn/{kind}" for kind in KINDS]
    (a, truth), (b, _), (c, _) = (g.cases[i].load() for g, i in ((first[0], 0), (again[0], 0), (first[0], 1)))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.shape[:2] == truth.labels.shape
    assert truth.inclusions.shape == truth.labels.shape


def test_seeds_of_the_parts_are_apart_and_above_those_of_training():
    seeds_of = {part: {int(c.name) for g in drawn_groups(part, 500) for c in g.cases} for part in FIRST_SEED}
    assert max(seeds_of["train"]) < FIRST_TEST_SEED
    names = {part: seeds_of[part] for part in ("validation", "test")}
    assert not names["test"] & names["validation"]
    assert min(min(seeds) for seeds in names.values()) >= 10_000_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets of twenty equal pictures: nuclei, of which there are three parts, and one that nobody knows."""
    discs = spaced_discs(SIZE, pitch=40, radius=16)
    for part, content in (("images", draw(discs, SIZE)), ("masks", labels_of(discs).astype(np.uint8))):
        original = tmp_path / f"{part}.png"
        Image.fromarray(content).save(original)
        for dataset in ("nuclei_dsb2018", "rain"):
            (tmp_path / dataset / part).mkdir(parents=True)
            for i in range(20):
                (tmp_path / dataset / part / f"{i}.png").hardlink_to(original)
    return tmp_path


def test_groups_hold_pictures_of_their_part_only(data):
    groups = {g.name: g for g in real_groups(data, "test", 100)}
    samples = split(find_samples(data), "test")
    for name, group in groups.items():
        assert {c.name for c in group.cases} == {s.name for s in samples if s.dataset == name}
    assert len(groups["rain"].cases) == 20
    assert [g.name for g in real_groups(data, "validation", 100)] == ["nuclei_dsb2018"]


def test_a_limit_takes_the_same_pictures_from_all_over(data):
    (few,), (all_of_them,) = ([g for g in real_groups(data, "test", n) if g.name == "rain"] for n in (5, 100))
    assert few.cases == all_of_them.cases[:5] or [c.name for c in few.cases] == [
        c.name for c in all_of_them.cases[:5]
    ]
    assert [c.name for c in few.cases] != ["0", "1", "10", "11", "12"]
    assert (len(few.cases), few.available) == (5, 20)


def test_groups_are_chosen_by_name_or_family(data):
    groups = [*real_groups(data, "test", 5), *drawn_groups("test", 1)]
    assert choose(groups, None) == groups
    assert [g.name for g in choose(groups, ["rain", "drawn/foam"])] == ["rain", "drawn/foam"]
    assert len(choose(groups, ["drawn"])) == len(KINDS)
    with pytest.raises(InvalidInput, match="has no emps_particles"):
        choose(groups, ["emps_particles"])


def test_the_shipped_checkpoint_is_measured(data, tmp_path, capsys):
    out = tmp_path / "result.json"
    arguments = ["--data", str(data), "--split", "test", "--groups", "rain", "--limit", "1", "--prompts", "3"]
    assert main([*arguments, "--baselines", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["checkpoint"]["file"] == SHIPPED_FILE
    assert result["checkpoint"]["sha256"] in (MODEL_DIR / "SHA256SUMS").read_text()
    assert result["settings"] == {"split": "test", "modes": ["instances"], "prompts": 3}
    group = result["groups"]["rain"]
    assert group["methods"]["instances"]["summary"]["objects"] == 12
    assert group["methods"]["instances"]["summary"]["f1"] > 0.5
    assert group["prompts"]["summary"]["box"] > 0.5
    assert "rain" in capsys.readouterr().out
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "nowhere has no data set"),
        (["--groups", "foam"], "groups has no foam"),
        (["--checkpoint", "nowhere.safetensors", "--limit", "1"], "no checkpoint at nowhere.safetensors"),
        (["--compare", "a.json", "b.json"], "a.json"),
        (["--json", "nowhere/result.json"], "json=nowhere/result.json lies in a folder that does not exist"),
        (["--modes", "all", "--limit", "1"], "modes has 'all', must be of instances, exact, fast"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, said, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--limit", "0"], ["--limit", "x"], ["--prompts", "-1"], ["--split", "train"]]
)
def test_wrong_numbers_are_refused(arguments):
    with pytest.raises(SystemExit):
        main(arguments)
