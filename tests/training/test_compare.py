"""Two results side by side: what counts as better, what as worse, and what cannot be compared."""

import numpy as np
import pytest

from sam_engine.errors import InvalidInput
from tests.training.results import group, result
from training.compare import SEEN, as_text, compare, interval_of, ships


def verdicts(before: dict, after: dict) -> dict[str, str]:
    (changed,) = compare(before, after)
    return {change.figure: change.verdict for change in changed.changes} | {"": changed.verdict}


def test_nothing_changed():
    one = result(drops=group(click=0.5, box=0.6, matched=6))
    assert set(verdicts(one, one).values()) == {"same"}
    assert not ships(compare(one, one))


def test_everything_became_better():
    before, after = (
        result(drops=group(click=0.5, box=0.6, matched=6)),
        result(drops=group(click=0.6, box=0.7, matched=8)),
    )
    assert set(verdicts(before, after).values()) == {"better"}
    assert set(verdicts(after, before).values()) == {"worse"}
    assert ships(compare(before, after))
    assert not ships(compare(after, before))


def test_one_figure_better_is_enough_and_one_worse_mixes():
    before = result(drops=group(click=0.5, box=0.6, matched=6))
    assert verdicts(before, result(drops=group(click=0.5, box=0.7, matched=6)))[""] == "better"
    assert verdicts(before, result(drops=group(click=0.4, box=0.7, matched=6)))[""] == "mixed"
    assert verdicts(before, result(drops=group(click=0.4, box=0.6, matched=6)))[""] == "worse"


def test_most_groups_must_be_better_and_none_worse():
    before = result(drops=group(matched=5), foam=group(matched=5), cells=group(matched=5))
    for foam, cells, shipped in ((6, 6, True), (6, 5, True), (5, 5, False), (6, 4, False)):
        after = result(drops=group(matched=8), foam=group(matched=foam), cells=group(matched=cells))
        assert ships(compare(before, after)) is shipped, (foam, cells)


def test_what_the_earlier_one_trained_on_does_not_decide():
    (sha256,) = SEEN
    groups = {"drops": group(matched=5), "emps_particles": group(matched=5)}
    after = result(drops=group(matched=8), emps_particles=group(matched=4))
    assert not ships(compare(result(**groups), after))
    changes = compare(result(sha256=sha256, **groups), after)
    assert ships(changes)
    assert "seen in training by the earlier one" in as_text(changes)


def test_what_single_pictures_decide_is_no_change():
    """One of ten pictures became much better, the others a little worse: resampling cannot tell."""
    before = result(drops=group(matched=[5] * 10))
    after = result(drops=group(matched=[10] + [4] * 9))
    assert verdicts(before, after)["instances F1"] == "same"


def test_a_few_pictures_decide_nothing():
    before, after = (result(drops=group(matched=m, pictures=4)) for m in (5, 9))
    assert verdicts(before, after)["instances F1"] == verdicts(before, after)[""] == "undecided"
    assert not ships(compare(before, after))
    assert "too few pictures" in as_text(compare(before, after))


def test_where_nothing_is_to_be_found_fewer_masks_are_better():
    before, after = (result(blank=group(objects=0, matched=0, false=f, prompts=False)) for f in (3, 1))
    assert verdicts(before, after) == {"instances false": "better", "": "better"}
    assert verdicts(after, before)[""] == "worse"


def test_classical_methods_are_no_matter():
    before, after = (result(drops=group(matched=5, baseline=m)) for m in (2, 9))
    assert "Hough F1" not in verdicts(before, after)
    assert verdicts(before, after)[""] == "same"


def test_figures_and_differences_are_shown():
    text = as_text(
        compare(result(drops=group(click=0.5, matched=6)), result(drops=group(click=0.625, matched=6)))
    )
    line = next(line for line in text.splitlines() if "click" in line)
    assert line.split()[:6] == ["drops", "click", "IoU", "0.500", "0.625", "+0.125"]
    assert text.splitlines()[-1] == "replace the shipped checkpoint: yes"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (result(split="test", drops=group()), result(drops=group()), "has test and validation"),
        (result(drops=group()), result(foam=group()), "a group that both results have"),
        (result(drops=group(pictures=8)), result(drops=group(pictures=9)), "groups.drops has other pictures"),
    ],
)
def test_results_that_cannot_be_compared(before, after, said):
    with pytest.raises(InvalidInput, match=said):
        compare(before, after)


def test_the_interval_covers_the_true_difference():
    """Of pictures drawn from known rates 0.5 and 0.6 with objects in common: 95 of 100 intervals hold 0.1."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        objects = rng.integers(5, 30, 40).astype(float)
        hardness = rng.normal(0, 0.1, 40)  # both checkpoints find hard pictures hard
        found = [objects * np.clip(rate + hardness + rng.normal(0, 0.05, 40), 0, 1) for rate in (0.5, 0.6)]
        low, high = interval_of(found, [objects, objects])
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_pictures_are_resampled_in_pairs():
    """A constant gain is certain however much the pictures differ."""
    values = np.linspace(0, 10, 20)
    low, high = interval_of([values, values + 1], [np.full(20, 10.0)] * 2)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
