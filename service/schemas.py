"""Requests: one model validates, documents and gives the defaults of each."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

MAX_POINTS = 1000
MAX_PROMPTS = 1000
MIN_RESAMPLES, MAX_RESAMPLES = 200, 10_000

MaskForm = Literal["png", "rle", "polygon", "none"]
OutputFormat = Literal[
    "json", "coco", "yolo", "geojson", "csv", "labels", "overlay", "zip", "html", "svg", "plot"
]
SequenceFormat = Literal["json", "csv", "zip"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class RequestModel(BaseModel):
    """Unknown fields are errors: a misspelt one must not silently mean its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PointInput(RequestModel):
    """A point in pixels (`x`, `y`), or normalised: pixel = round(x_norm * (width - 1))."""

    x: float | None = None
    y: float | None = None
    x_norm: Share | None = None
    y_norm: Share | None = None
    positive: bool = Field(True, description="on the object, or off it")

    @model_validator(mode="after")
    def _one_pair(self) -> "PointInput":
        given = [name for name in ("x", "y", "x_norm", "y_norm") if getattr(self, name) is not None]
        if given not in (["x", "y"], ["x_norm", "y_norm"]):
            raise ValueError(
                f"needs either x and y or x_norm and y_norm, got {', '.join(given) or 'neither'}"
            )
        return self


class RleInput(RequestModel):
    """COCO's compressed run-length encoding of a mask of the picture's size."""

    size: tuple[int, int] = Field(description="[height, width]")
    counts: str


class PromptInput(RequestModel):
    """What one object is asked for with: points, a box, an earlier mask, or several of these."""

    points: list[PointInput] = Field(default_factory=list, max_length=MAX_POINTS)
    box: tuple[float, float, float, float] | None = Field(None, description="[x1, y1, x2, y2] in pixels")
    mask_input: str | RleInput | None = Field(
        None, description="`mask_input_id` of an earlier answer, or the RLE of a mask"
    )
    multimask: bool = Field(True, description="three candidates instead of one")


class AutomaticInput(RequestModel):
    """How everything is segmented. `null` thresholds are the active checkpoint's own (`/defaults`)."""

    mode: Literal["instances", "fast", "exact"] | None = Field(
        None,
        description="`instances`: the dense head, the default where the checkpoint has one; `exact`: prompt "
        "every point of a grid, the default elsewhere; `fast`: prompt points that no mask covers yet",
    )
    points_per_side: int = Field(32, ge=1, le=128)
    pred_iou_thresh: Share | None = Field(
        None, description="least `predicted_iou`; of grid modes and, where it is given, of `instances`"
    )
    stability_score_thresh: Share | None = Field(None, description="`fast` and `exact` only")
    box_nms_thresh: Share = 0.7
    crop_n_layers: int = Field(0, ge=0, le=3)
    crop_n_points_downscale_factor: int = Field(1, ge=1, le=8)
    min_mask_region_area: int = Field(0, ge=0, le=1_000_000_000)
    max_mask_area: int | None = Field(None, ge=1)
    tiling: Literal["auto", "off", "full"] = Field(
        "auto",
        description="`instances`: whether tiles of the picture are looked at as well; `full` at its own "
        "resolution, `auto` as far as the objects are small",
    )
    refine: bool = Field(
        False, description="`instances`: the mask decoder of the active checkpoint draws each mask again"
    )
    inclusions: bool = Field(
        False,
        description="`instances`: also find objects inside objects; on wherever `analysis.inclusions` is",
    )


class CleanInput(RequestModel):
    """The cleaning step of the service that this one replaces; skipped under 3 masks."""

    enabled: bool = True
    max_area_factor: Positive = Field(1.5, description="times the median area of the masks; larger ones go")
    exclude_edge_touching: bool = True
    min_circularity: Share = 0.6


class FiltersInput(RequestModel):
    """Which masks stay. Lengths in pixels, areas in pixels, intensities in the picture's own values."""

    area_min: NotNegative = 20
    area_max: Positive | None = None
    diameter_min: NotNegative | None = Field(None, description="of the equivalent diameter")
    diameter_max: Positive | None = None
    circularity_min: Share | None = None
    mean_min: float | None = None
    mean_max: float | None = None
    median_min: float | None = None
    median_max: float | None = None
    std_min: NotNegative | None = None
    std_max: NotNegative | None = None
    min_threshold: float | None = Field(None, description="the darkest pixel is at least this")
    max_threshold: float | None = Field(None, description="the brightest pixel is at most this")
    min_edge_distance: NotNegative | None = Field(None, description="from each edge of the picture")
    exclude_edge_touching: bool = False
    enable_intensity_coloring: bool = Field(False, description="classify by `intensity_threshold`")
    intensity_threshold: float | None = Field(
        None,
        description="mean intensity from which a mask is `high`; Otsu's threshold of the means without it",
    )
    clean: CleanInput | None = None

    @model_validator(mode="after")
    def _ranges_not_inverted(self) -> "FiltersInput":
        for low, high in (
            ("area_min", "area_max"),
            ("diameter_min", "diameter_max"),
            ("mean_min", "mean_max"),
            ("median_min", "median_max"),
            ("std_min", "std_max"),
            ("min_threshold", "max_threshold"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                unsaid = "" if low in self.model_fields_set else " (its default)"
                raise ValueError(f"{low}={least:g}{unsaid} is above {high}={most:g}")
        return self


class BlurInput(RequestModel):
    """Gaussian blur."""

    enabled: bool = True
    kernel_size: int = Field(3, ge=1, le=99, description="odd")
    sigma: float = Field(1.0, ge=0, le=50)

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value


class ClaheInput(RequestModel):
    """Contrast-limited adaptive histogram equalisation of the lightness."""

    enabled: bool = True
    clip_limit: float = Field(2.0, gt=0, le=100)
    grid_size: int = Field(8, ge=1, le=64)


class Preprocessing(RequestModel):
    """Changes to what the network sees; intensities are always measured on the original pixels."""

    blur: BlurInput | None = None
    clahe: ClaheInput | None = None


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class OutputInput(RequestModel):
    """What comes back."""

    masks: Annotated[list[MaskForm], BeforeValidator(_as_list)] = Field(
        default=["png"],
        description="one form or several; `png` is a data URL of the picture's size in `image`",
        max_length=4,
    )
    format: OutputFormat | None = Field(None, description="`json` without it, or what `Accept` asks for")
    unfiltered: bool = Field(
        False, description="also return the masks that a filter removed, each with `removed_by`"
    )


class DigitalPcrInput(RequestModel):
    """Droplet digital PCR: objects of the class `high` are the positive partitions."""

    droplet_volume_nl: float | None = Field(
        None, gt=0, le=1e6, description="nanolitres a droplet; adds copies per microlitre"
    )


class AnalysisInput(RequestModel):
    """Statistics with their uncertainty, over the objects that no filter removed."""

    confidence: float = Field(0.95, ge=0.5, le=0.999, description="level of every interval")
    resamples: int = Field(
        1000,
        ge=0,
        le=MAX_RESAMPLES,
        description="of the bootstrap, at least 200; 0 leaves out the intervals of sizes",
    )
    border_correction: bool = Field(
        False,
        description="leave out objects that touch an edge of the picture, and weight each of the others by "
        "the inverse of its chance not to (Miles and Lantuejoul, ISO 13322-1)",
    )
    fit: Literal["circle", "ellipse"] | None = Field(
        None, description="fit one to the sub-pixel boundary of each object; `fit` of a mask"
    )
    digital_pcr: DigitalPcrInput | None = Field(
        None, description="needs the classes of `filters.enable_intensity_coloring`"
    )
    inclusions: bool = Field(
        False,
        description="objects inside objects: `parent_id` and `children` of a mask; sizes are those of the "
        "outermost objects",
    )

    @field_validator("resamples")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < MIN_RESAMPLES:
            raise ValueError(f"must be 0 or at least {MIN_RESAMPLES}")
        return value


class PictureOptions(RequestModel):
    """What is done with a picture, or with each of a sequence."""

    automatic: AutomaticInput = Field(
        default_factory=AutomaticInput, description="how everything is segmented"
    )
    filters: FiltersInput = Field(
        default_factory=FiltersInput,
        description="which masks stay; of prompted masks only filters that the request names remove any",
    )
    preprocessing: Preprocessing = Field(
        default_factory=Preprocessing, description="changes to what the network sees; none by default"
    )
    um_per_px: float | None = Field(None, gt=0, le=1e6, description="micrometres a pixel")
    scale_bar_um: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="length of the scale bar in the picture, from which `um_per_px` follows",
    )

    @field_validator("scale_bar_um")
    @classmethod
    def _one_calibration(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("um_per_px") is not None:
            raise ValueError("um_per_px is given too; give one of them")
        return value


class SegmentOptions(PictureOptions):
    """What to do with a picture; multipart requests send each field as JSON text."""

    prompts: list[PromptInput] | None = Field(
        None, min_length=1, max_length=MAX_PROMPTS, description="segment these; without them, everything"
    )
    analysis: AnalysisInput | None = Field(None, description="size distribution with intervals, and more")
    output: OutputInput = Field(default_factory=OutputInput, description="what comes back")
    page: int = Field(0, ge=0, le=1_000_000, description="of a multipage TIFF or animated WebP, from 0")

    @field_validator("analysis")
    @classmethod
    def _classes_to_count(cls, value: AnalysisInput | None, info: ValidationInfo) -> AnalysisInput | None:
        filters: FiltersInput | None = info.data.get("filters")
        counted = value is not None and value.digital_pcr is not None
        if counted and filters is not None and not filters.enable_intensity_coloring:
            raise ValueError(
                "digital_pcr counts the class `high`: set filters.enable_intensity_coloring to true, with an "
                "intensity_threshold or without it for Otsu's"
            )
        return value


class SegmentRequest(SegmentOptions):
    """A picture in JSON."""

    image: str = Field(description="base64, or a data URL")


class TrackingInput(RequestModel):
    """How far an object may move and change from frame to frame."""

    max_displacement: float = Field(
        1.0, gt=0, le=1000, description="from where it is expected, in units of the larger of its diameters"
    )
    max_size_change: float = Field(0.4, gt=0, le=10, description="of the logarithm of its diameter")
    max_gap: int = Field(2, ge=0, le=1000, description="frames in which it may be missing")
    event_tolerance: float = Field(
        0.06, gt=0, lt=0.5, description="of the diameter that a merge or split conserves"
    )
    drift: tuple[float, float] = Field((0.0, 0.0), description="[x, y] in pixels a frame, expected at first")


class SequenceOutput(RequestModel):
    """What comes back."""

    format: SequenceFormat | None = Field(None, description="`json` without it, or what `Accept` asks for")


class SequenceOptions(PictureOptions):
    """What to do with a sequence; each field is JSON text. A scale bar is sought in the first frame."""

    tracking: TrackingInput = Field(default_factory=TrackingInput, description="how objects are followed")
    frame_interval_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="seconds from frame to frame; growth and speeds are per frame without it",
    )
    output: SequenceOutput = Field(default_factory=SequenceOutput, description="what comes back")
