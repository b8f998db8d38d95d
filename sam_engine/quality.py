"""How well an instance fits its object: the IoU to expect from what the dense head says of it.

The head has no score of its own as the mask decoder has. A logistic model of a few things that can be seen in
its field takes that place; its weights are fitted by `training.quality` and travel with the checkpoint.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit


class Evidence(NamedTuple):
    """What is known of an instance.

    Attributes:
        foreground: mean probability, inside, of belonging to any object.
        edge: mean probability, along the outline, of being the edge of an object; 0 for inclusions, of whose
            edges the head says nothing.
        peak: largest normalised distance inside; 1 for a whole object.
        stability: IoU of the masks at a foreground logit one above and one below the threshold.
        roundness: IoU with the ellipse of the same second moments.
        size: natural logarithm of the area in cells of the field.
    """

    foreground: float
    edge: float
    peak: float
    stability: float
    roundness: float
    size: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Logistic model of the IoU of an instance with its object.

    Attributes:
        least: expected IoU under which an instance is more often wrong than right to report.
    """

    intercept: float
    weights: Evidence
    least: float = 0.0

    def expected_iou(self, evidence: Evidence) -> float:
        """Between 0 and 1."""
        return float(expit(self.intercept + np.dot(self.weights, evidence)))
