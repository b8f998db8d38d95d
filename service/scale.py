"""How many micrometres a pixel has, and how that is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sam_engine.calibration import Calibration, calibrate
from sam_engine.scale_bar import ScaleBar, calibrate_by_bar, overlaps_bar
from sam_engine.types import Mask
from service.images import Picture
from service.schemas import PictureOptions


@dataclass(frozen=True, slots=True)
class Scale:
    """A calibration and its source; `bar` where that is a scale bar in the picture."""

    calibration: Calibration
    source: Literal["request", "scale_bar"]
    bar: ScaleBar | None = None

    @property
    def um_per_px(self) -> float:
        """Micrometres a pixel."""
        return self.calibration.um_per_px


def scale_of(picture: Picture, options: PictureOptions) -> Scale | None:
    """What the request says of the scale; None if nothing.

    Raises:
        InvalidInput: the scale bar has a length, and the picture shows none or several that may be it.
    """
    if options.um_per_px is not None:
        return Scale(calibrate(options.um_per_px), "request")
    if options.scale_bar_um is not None:
        calibration, bar = calibrate_by_bar(picture.rgb, options.scale_bar_um)
        return Scale(calibration, "scale_bar", bar)
    return None


def on_scale_bar(masks: Sequence[Mask], scale: Scale | None) -> list[bool]:
    """Which masks are the bar, its text or its box, and no objects."""
    if scale is None or scale.bar is None or not masks:
        return [False] * len(masks)
    return [overlaps_bar(mask.bbox_xywh, scale.bar) for mask in masks]
