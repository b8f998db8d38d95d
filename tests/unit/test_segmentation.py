"""The use case's own decisions: defaults of the checkpoint, classes by intensity, ids."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_engine.engine import SamEngine
from service.images import Picture
from service.schemas import AutomaticInput, SegmentOptions
from service.segmentation import Segmenter, Stopwatch, otsu_threshold, resolve_automatic


def within(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0


@given(st.lists(st.integers(0, 255), min_size=2, max_size=30).filter(lambda v: len(set(v)) > 1))
def test_otsu_parts_with_least_variance(values: list[int]) -> None:
    threshold = otsu_threshold(values)
    sample = np.array(values, dtype=float)

    def cost(at: float) -> float:
        return within(sample[sample < at]) + within(sample[sample >= at])

    candidates = np.unique(sample)[1:]
    assert threshold is not None
    assert cost(threshold) == pytest.approx(min(cost(at) for at in candidates), abs=1e-6)


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0, 5.0]])
def test_otsu_of_one_value(values: list[float]) -> None:
    assert otsu_threshold(values) is None


def test_open_parameters_are_the_checkpoints(engine: SamEngine) -> None:
    model = engine.load()
    chosen = resolve_automatic(model, AutomaticInput())
    assert (chosen.mode, chosen.pred_iou_thresh, chosen.stability_score_thresh) == ("instances", 0.55, 0.95)
    asked = resolve_automatic(model, AutomaticInput(mode="exact", pred_iou_thresh=0.0))
    assert (asked.mode, asked.pred_iou_thresh) == ("exact", 0.0)
    headless = dataclasses.replace(model, head=None)
    assert resolve_automatic(headless, AutomaticInput()).mode == "exact"


def test_a_blank_picture(engine: SamEngine) -> None:
    blank = np.full((60, 90, 3), 200, dtype=np.uint8)
    picture = Picture(blank, blank[..., 0], 3, 8, 0, 1)
    found = Segmenter(engine).run(picture, SegmentOptions(), Stopwatch())
    assert found.original_count == len(found.objects)
    assert found.summary.diameter_stats.count == len(found.kept)


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.stage("a"):
            pass
    with pytest.raises(ZeroDivisionError), watch.stage("b"):
        _ = 1 / 0
    assert set(watch.read()) == {"a", "b", "total"}
