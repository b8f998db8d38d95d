"""One object of a picture, as every use case and export sees it."""

from dataclasses import dataclass

from sam_engine.measure import Measurement
from sam_engine.types import Mask


@dataclass(frozen=True, eq=False, slots=True)
class SegmentedObject:
    """A mask with its measurements.

    Attributes:
        id: from 1, largest area first; also its value in a label map.
        removed_by: the filter that removed it; None for objects that stay.
        intensity_class: `high` or `low` when classification was asked for.
        mask_input_id: by which a later prompt can refine it; None in everything mode.
    """

    id: int
    mask: Mask
    measurement: Measurement
    removed_by: str | None
    intensity_class: str | None
    mask_input_id: str | None
