"""The size distribution as a figure: histogram by number, cumulative curves by number and volume.

The same analysis gives the same bytes. SVG keeps text as text and has no style sheet, so that it may stand in
any page.
"""

import io
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from service import __version__
from service.analysis import Sizes
from service.segmentation import Segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Part = Callable[["Axes", Sizes], None]

PART_INCHES = (4.6, 3.6)
PNG_DPI = 200
NUMBER, VOLUME, BARS = "#0072b2", "#b5490a", "#9cc3dd"  # dark enough on white; apart for colour-blind eyes
LEVELS = (("d10", 0.1), ("d50", 0.5), ("d90", 0.9))
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
}
ONE_AT_A_TIME = threading.Lock()  # the library has caches that threads must not share


def write_svg(segmentation: Segmentation, _picture_name: str = "") -> bytes:
    """A document of its own."""
    svg = _svg(
        _sizes(segmentation), (_histogram, _curves), "Size distribution: histogram and cumulative curves"
    )
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + svg.encode()


def write_png(segmentation: Segmentation, _picture_name: str = "") -> bytes:
    """At 200 dots an inch."""
    how = {"dpi": PNG_DPI, "metadata": {"Software": f"SAM Droplet {__version__}"}}
    return _rendered(_sizes(segmentation), (_histogram, _curves), "png", **how)


def svg_elements(segmentation: Segmentation) -> tuple[str, str]:
    """Histogram and curves, each as an `<svg>` to stand in a page.

    Their styles are attributes, which strict policies allow, and they have no id in common.
    """
    sizes = _sizes(segmentation)
    return _svg(sizes, (_histogram,), "Histogram of diameters"), _svg(sizes, (_curves,), "Cumulative curves")


def _svg(sizes: Sizes, parts: Sequence[Part], label: str) -> str:
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    text = _rendered(sizes, parts, "svg", metadata=metadata).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), text)
    named = f'<svg role="img" aria-label="{label}" stroke-linejoin="round" stroke-linecap="butt"'
    return text.replace("<svg", named, 1)


def pretty(unit: str) -> str:
    """A unit as people write it: `um` to µm, `um2` to µm²."""
    return re.sub(r"\bu(?=[ml])", "µ", unit).replace("2", "²")


def _attributes(style: str) -> str:
    """`fill: none; stroke-width: 2` to `fill="none" stroke-width="2"`."""
    pairs = (part.split(":", 1) for part in style.split(";") if part.strip())
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)


def _sizes(segmentation: Segmentation) -> Sizes:
    """In micrometres where there is a calibration."""
    if segmentation.analysis is None:
        raise ValueError("a segmentation without analysis has no plot")
    return segmentation.analysis.sizes_in(segmentation.calibration)


def _rendered(sizes: Sizes, parts: Sequence[Part], form: str, **how: Any) -> bytes:
    import matplotlib  # noqa: PLC0415 - half a second that a service without plots need not wait for
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: Any = {**STYLE, "svg.hashsalt": " ".join(part.__name__ for part in parts)}
    with ONE_AT_A_TIME, matplotlib.rc_context(style):
        figure = Figure(figsize=(PART_INCHES[0] * len(parts), PART_INCHES[1]), layout="constrained")
        for part, axes in zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True):
            axes.set_xlabel(f"equivalent diameter / {pretty(sizes.unit)}")
            axes.tick_params(labelsize=9)
            if sizes.distribution.count:
                part(axes, sizes)
            else:
                _nothing(axes)
        file = io.BytesIO()
        figure.savefig(file, format=form, **how)
    return file.getvalue()


def _nothing(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no object", ha="center", va="center", transform=axes.transAxes)


def _histogram(axes: "Axes", sizes: Sizes) -> None:
    edges = sizes.histogram.edges
    widths = [after - before for before, after in pairwise(edges)]
    axes.bar(edges[:-1], [100 * share for share in sizes.histogram.number], widths, align="edge",
             color=BARS, edgecolor="white", linewidth=0.6)  # fmt: skip
    axes.set_ylabel("share of the objects / %")
    mean = sizes.distribution.mean.value
    if mean is not None:
        axes.axvline(mean, color=NUMBER, linewidth=1.2)
        axes.annotate("mean", (mean, 1), (3, -2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color=NUMBER, fontsize=8, va="top")  # fmt: skip
    axes.set_title(f"by number, n = {sizes.distribution.count}", fontsize=10, loc="left")


def _curves(axes: "Axes", sizes: Sizes) -> None:
    percent = [100 * share for share in sizes.curves.fraction]
    axes.plot(sizes.curves.number, percent, color=NUMBER, label="number")
    axes.plot(sizes.curves.volume, percent, color=VOLUME, linestyle="--", label="volume")
    for name, level in LEVELS:
        for field, colour in ((name, NUMBER), (f"volume_{name}", VOLUME)):
            value = getattr(sizes.distribution, field).value
            axes.plot([value], [100 * level], "o", color=colour, markersize=4)
        axes.axhline(100 * level, color="#c9d0d6", linewidth=0.7, zorder=0)
        axes.annotate(name.upper(), (0, 100 * level), (4, 1), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color="#5b6672", fontsize=8, va="bottom")  # fmt: skip
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("objects or volume below / %")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.set_title("cumulative", fontsize=10, loc="left")
