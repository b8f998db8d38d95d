"""Pixels to micrometres."""

import math
from dataclasses import asdict, dataclass

from sam_engine.distribution import SizeStatistics
from sam_engine.errors import InvalidInput
from sam_engine.shape import Shape


@dataclass(frozen=True, slots=True)
class Calibration:
    """Pixels to micrometres, for square pixels; made by `calibrate`."""

    um_per_px: float

    def shape(self, shape: Shape) -> dict[str, float]:
        """Area in um^2 and lengths in um; what has no unit is left out, and so is the position."""
        return {
            "area_um2": shape.area * self.um_per_px**2,
            "equivalent_diameter_um": shape.equivalent_diameter * self.um_per_px,
            "max_feret_diameter_um": shape.max_feret_diameter * self.um_per_px,
            "perimeter_um": shape.perimeter * self.um_per_px,
        }

    def sizes(self, sizes: SizeStatistics) -> dict[str, float | None]:
        """Every diameter of `sizes` in um; None stays None, and count and cv are left out."""
        lengths = {key: value for key, value in asdict(sizes).items() if key not in ("count", "cv")}
        return {f"{key}_um": None if d is None else d * self.um_per_px for key, d in lengths.items()}


def calibrate(um_per_px: float) -> Calibration:
    """Scale of a picture: lengths are multiplied by `um_per_px` and areas by its square.

    Raises:
        InvalidInput: `um_per_px` is not a finite number above 0.
    """
    if not (math.isfinite(um_per_px) and um_per_px > 0):
        raise InvalidInput("um_per_px", f"{um_per_px} must be finite and > 0")
    return Calibration(float(um_per_px))
