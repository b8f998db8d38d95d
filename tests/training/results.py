"""Results of `training.evaluate` made up from a few numbers."""

from dataclasses import asdict
from typing import Any

import numpy as np

from training.metrics import PictureScore, Ranking, summarise
from training.prompted import PromptScore, summarise_prompts

OBJECTS = 10


def picture(name: str, objects: int, matched: int, false: int) -> PictureScore:
    error = 100.0 * (matched + false - objects) / objects if objects else None
    return PictureScore(
        name, objects, matched + false, matched, false, matched, false, 0.8 * matched,
        (0, objects, 0), (0, matched, 0), error, error, None, error,
    )  # fmt: skip


def method(scores: list[PictureScore], *, baseline: bool = False) -> dict[str, Any]:
    ranked = [Ranking(np.ones(s.matched), np.ones(s.matched, dtype=bool), s.objects) for s in scores]
    summary = asdict(summarise(scores, None if baseline else ranked))
    pictures = [asdict(score) for score in scores]
    return {"baseline": baseline, "milliseconds": 12.0, "summary": summary, "pictures": pictures}


def group(
    *, objects: int = OBJECTS, matched: int | list[int] = 5, false: int = 0, click: float = 0.5, box: float = 0.6,
    pictures: int = 10, baseline: int | None = None, prompts: bool = True,
) -> dict[str, Any]:  # fmt: skip
    found = matched if isinstance(matched, list) else [matched] * pictures
    methods = {"instances": method([picture(str(i), objects, m, false) for i, m in enumerate(found)])}
    if baseline is not None:
        classical = [picture(str(i), objects, baseline, 1) for i in range(len(found))]
        methods["Hough circles"] = method(classical, baseline=True)
    asked = [
        PromptScore(str(i), 4, 4 * click, 4 * click + 0.4, 0.4, 4 * box, 80.0, 60.0)
        for i in range(len(found))
    ]
    prompted = {"summary": asdict(summarise_prompts(asked)), "pictures": [asdict(score) for score in asked]}
    return {
        "available": 50,
        "pictures": [str(i) for i in range(len(found))],
        "embed_ms": 200.0,
        "methods": methods,
        "prompts": prompted if prompts else None,
    }


def result(split: str = "validation", sha256: str = "0" * 64, **groups: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "checkpoint": {
            "name": "droplet", "file": "droplet.safetensors", "sha256": sha256, "model_type": "vit_t",
            "defaults": {"pred_iou_thresh": 0.55, "stability_score_thresh": 0.95},
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "runtime": {"device": "cpu", "precision": "bfloat16", "threads": 2},
        "settings": {"split": split, "modes": ["instances"], "prompts": 40},
        "groups": groups,
    }  # fmt: skip
