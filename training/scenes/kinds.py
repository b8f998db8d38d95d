"""The kinds of scene that labs photograph, each a prior over layouts, forms and appearances."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from training.scenes import layout
from training.scenes.appearance import Appearance, Bump, Spot, random_rim, random_spots
from training.scenes.layout import Circles, Generator, log_uniform
from training.scenes.outline import Form


@dataclass(frozen=True, slots=True)
class Inclusions:
    """What lies inside objects.

    Attributes:
        share: of the objects that hold any.
        most: inclusions in one object.
        size: smallest and largest radius as a share of the object's.
        look: of the inclusions.
        labelled: False for specks too small to be asked for.
    """

    share: float
    most: int
    size: tuple[float, float]
    look: Appearance
    labelled: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """A scene before it is drawn.

    Attributes:
        ground: brightness 0..255.
        walls: for packings: thickness of the wall between cells in pixels, None for separate objects.
        ghosts: out-of-focus objects behind, as a share of the objects; they are not labelled.
        channels: number of channel walls or posts.
        grain: amplitude and width in pixels of the ground's texture.
        ridges: the ground's texture is a network of ridges, as of porous films and rough metal.
        debris: number of jagged pieces and dust specks.
        captions: chance of letters, scale bars and info bars.
    """

    circles: Circles
    look: Appearance
    form: Form = field(default_factory=Form)
    ground: float = 150.0
    walls: float | None = None
    swell: float = 1.0
    inclusions: Inclusions | None = None
    ghosts: float = 0.0
    channels: int = 0
    grain: tuple[float, float] = (0.0, 8.0)
    ridges: bool = False
    debris: int = 0
    fibres: int = 0
    captions: float = 0.2


def _any_layout(rng: Generator, size: int) -> Circles:
    base = log_uniform(rng, 4.5, 80)
    spread = rng.choice([0.02, 0.08, 0.25, 0.5], p=[0.3, 0.25, 0.25, 0.2])
    gap = rng.choice([0.0, 1.0, 2.0, 4.0, 0.3 * base])
    match rng.integers(0, 5):
        case 0:
            return layout.scattered(rng, size, base, spread, rng.uniform(0.02, 0.25), gap)
        case 1:
            return layout.scattered(rng, size, base, spread, rng.uniform(0.3, 0.6), -0.5, cling=0.7)
        case 2:
            return layout.overlapping(rng, size, base, spread, rng.uniform(0.1, 0.6))
        case 3:
            few = rng.uniform(min(50, 0.2 * size), 0.34 * size)
            return layout.scattered(rng, size, few, 0.3, rng.uniform(0.1, 0.5), gap)
        case _:
            circles = layout.scattered(rng, size, base, spread, rng.uniform(0.15, 0.4), gap)
            return layout.with_satellites(rng, circles, size, rng.uniform(0.3, 2.0))


def _dense_layout(rng: Generator, size: int, low: float = 7, high: float = 60) -> Circles:
    base = log_uniform(rng, low, high)
    if rng.random() < 0.5:
        vacancies = rng.choice([0.0, 0.05, 0.15, 0.4], p=[0.4, 0.3, 0.2, 0.1])
        circles = layout.hexagonal(rng, size, base, rng.choice([0.01, 0.04, 0.1]), vacancies)
    else:
        spread = rng.choice([0.02, 0.1, 0.3, 0.5])
        circles = layout.packed(rng, size, base, spread, rng.uniform(0.7, 1.0))
    return layout.holed(rng, circles, size) if rng.random() < 0.35 else circles


def _bright_rimmed(rng: Generator, strength: tuple[float, float] = (0.2, 0.9)) -> Appearance:
    light = rng.uniform(0, 2 * math.pi)
    sided = rng.random() < 0.3
    return Appearance(
        additive=False,
        line_px=rng.uniform(0.8, 4.0),
        line_share=rng.uniform(0.05, 0.16) if rng.random() < 0.5 else None,
        rim=random_rim(rng, rng.uniform(*strength), int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))),
        level=rng.choice([0.0, rng.uniform(-0.12, 0.12), rng.uniform(-0.35, 0.35)]),
        opacity=rng.choice([0.0, 0.5]),
        dome=rng.choice([0.0, rng.uniform(-0.3, 0.4)]),
        dome_power=rng.choice([0.5, 1.0, 3.0]),
        side=rng.uniform(0.1, 0.7) if sided else 0.0,
        slope=rng.uniform(-0.3, 0.3) if sided else 0.0,
        light=light,
        spots=random_spots(rng, rng.uniform(0.2, 0.8), 2, light) if rng.random() < 0.4 else (),
        softness_px=rng.uniform(0.3, 1.5),
        variation=rng.choice([0.03, 0.15]),
    )


def _common_tilt(rng: Generator) -> float | None:
    """Objects that a flow has aligned, or that lie in all directions."""
    return rng.uniform(0, math.pi) if rng.random() < 0.5 else None


def _beads(rng: Generator) -> Appearance:
    dark = rng.random() < 0.7
    return Appearance(
        additive=False,
        line_share=rng.uniform(0.1, 0.35),
        rim=(Bump(-0.8, 1.0, rng.uniform(0.2, 0.8) * (-1 if dark else 1)),),
        level=rng.uniform(-0.5, 0.3) if dark else rng.uniform(0.0, 0.6),
        softness_px=0.6,
        variation=0.2,
        defocus_px=rng.choice([0.0, 1.0]),
    )


def _emulsion(rng: Generator, size: int) -> Recipe:
    base = log_uniform(rng, 5, 45)
    spread = rng.choice([0.15, 0.35, 0.55, 0.8])
    match rng.integers(0, 3):
        case 0:
            circles = layout.overlapping(rng, size, base, spread, rng.uniform(0.2, 1.0))
        case 1:
            circles = layout.scattered(rng, size, base, spread, rng.uniform(0.2, 0.6), -0.5, cling=0.5)
        case _:
            circles = layout.packed(rng, size, base, min(spread, 0.55), rng.uniform(0.6, 0.95))
    if rng.random() < 0.5:
        circles = layout.with_satellites(rng, circles, size, rng.uniform(0.5, 3.0))
    look = replace(_bright_rimmed(rng), defocus_px=rng.choice([0.0, 0.8, 2.0]), variation=0.15)
    return Recipe(
        circles,
        look,
        Form(irregularity=rng.choice([0.0, 0.015]), elongation=rng.choice([0.0, 0.05])),
        ground=rng.uniform(90, 225),
        ghosts=rng.choice([0.0, 0.2, 0.6]),
        grain=(rng.uniform(0, 0.04), log_uniform(rng, 2, 30)),
        debris=int(rng.choice([0, 6])),
    )


def _microfluidics(rng: Generator, size: int) -> Recipe:
    base = log_uniform(rng, 10, 0.2 * size)
    if rng.random() < 0.6:
        rows = int(rng.integers(1, 4))
        circles = layout.lines(rng, size, base, rows, rng.uniform(1.02, 3.0))
    else:
        circles = layout.scattered(rng, size, base, 0.05, rng.uniform(0.05, 0.5), rng.choice([0.0, 2.0]))
    recipe = Recipe(
        circles,
        _bright_rimmed(rng),
        ground=rng.uniform(90, 240),
        channels=int(rng.integers(1, 4)),
        grain=(rng.uniform(0, 0.05), log_uniform(rng, 2, 40)),
        debris=int(rng.choice([0, 4])),
    )
    return _drawn_out(rng, recipe, base) if rng.random() < 0.35 else recipe


def _drawn_out(rng: Generator, recipe: Recipe, base: float) -> Recipe:
    """Plugs that fill their channel."""
    circles = recipe.circles
    along_x = bool(np.std(circles[:, 0]) >= np.std(circles[:, 1])) if len(circles) > 1 else True
    half = rng.uniform(0.2, 1.6) * base
    along, across = (0, 1) if along_x else (1, 0)
    kept: list[int] = []
    for i in np.argsort(circles[:, along]):
        others = circles[kept]
        reach = others[:, 2] + circles[i, 2]
        clear = (np.abs(others[:, along] - circles[i, along]) > reach + 2 * half + 1) | (
            np.abs(others[:, across] - circles[i, across]) > reach
        )
        if clear.all():
            kept.append(int(i))
    return replace(recipe, circles=circles[kept], form=Form(plug_px=half, plug_along_x=along_x))


def _double_emulsion(rng: Generator, size: int) -> Recipe:
    base = log_uniform(rng, 16, 90)
    if rng.random() < 0.5:
        circles = layout.scattered(rng, size, base, 0.06, rng.uniform(0.1, 0.6), 1.0)
    else:
        circles = _dense_layout(rng, size, 16, 60)
    outer = _bright_rimmed(rng)
    inner = replace(_bright_rimmed(rng), line_share=rng.uniform(0.05, 0.2))
    many = rng.random() < 0.3
    size_range = (0.15, 0.35) if many else (0.35, 0.85)
    return Recipe(
        circles,
        outer,
        ground=rng.uniform(90, 225),
        inclusions=Inclusions(
            rng.uniform(0.6, 1.0), int(rng.integers(2, 7)) if many else 1, size_range, inner
        ),
        channels=int(rng.random() < 0.3),
        grain=(rng.uniform(0, 0.03), log_uniform(rng, 2, 30)),
    )


def _encapsulation(rng: Generator, size: int) -> Recipe:
    base = log_uniform(rng, 22, 0.3 * size)
    circles = layout.scattered(rng, size, base, 0.05, rng.uniform(0.15, 0.6), 2.0)
    low = max(0.05, 3.0 / base)
    inclusions = Inclusions(
        rng.uniform(0.3, 0.9), int(rng.integers(1, 12)), (low, max(low + 0.02, 0.14)), _beads(rng)
    )
    return Recipe(
        circles,
        _bright_rimmed(rng),
        ground=rng.uniform(110, 240),
        inclusions=inclusions,
        channels=int(rng.integers(0, 3)),
        grain=(rng.uniform(0, 0.03), log_uniform(rng, 2, 30)),
    )


def _ddpcr(rng: Generator, size: int) -> Recipe:
    base = log_uniform(rng, 9, 40)
    circles = layout.hexagonal(rng, size, base, rng.choice([0.02, 0.06, 0.12]), rng.choice([0.0, 0.03, 0.12]))
    if rng.random() < 0.5:
        circles = layout.holed(rng, circles, size)
    if rng.random() < 0.4:  # read in fluorescence: few positives, many dim
        look = Appearance(
            additive=True,
            level=rng.uniform(60, 220),
            dome=rng.uniform(0, 40),
            softness_px=rng.uniform(0.7, 3.5),
            variation=0.12,
            faint_share=rng.uniform(0.2, 0.9),
        )
        return Recipe(circles, look, ground=rng.uniform(2, 35), ghosts=rng.choice([0.0, 0.3]))
    look = replace(
        _bright_rimmed(rng, (0.3, 0.8)),
        side=rng.uniform(0.0, 0.5),
        slope=rng.uniform(-0.25, 0.25),
        line_share=rng.uniform(0.06, 0.16),
        variation=0.04,
    )
    return Recipe(
        circles,
        look,
        ground=rng.uniform(60, 200),
        ghosts=rng.choice([0.0, 0.1, 0.4]),
        grain=(rng.uniform(0, 0.03), log_uniform(rng, 2, 20)),
        debris=int(rng.integers(0, 14)),
    )


def _foam(rng: Generator, size: int) -> Recipe:
    """Dry foam: polygons behind thin films, dark or bright."""
    base = log_uniform(rng, 9, 75)
    circles = layout.packed(rng, size, base, rng.choice([0.1, 0.3, 0.5, 0.7]), rng.uniform(0.85, 1.1))
    dark = rng.random() < 0.65
    look = replace(
        _bright_rimmed(rng),
        line_px=rng.uniform(0.8, 3.0),
        line_share=None,
        rim=(
            Bump(
                rng.uniform(-0.4, 0.6), rng.uniform(0.6, 1.4), rng.uniform(0.25, 0.9) * (-1 if dark else 1.6)
            ),
        ),
        dome=rng.choice([0.0, rng.uniform(-0.4, 0.5)]),
        variation=rng.choice([0.05, 0.3]),
    )
    return Recipe(
        circles,
        look,
        ground=rng.uniform(60, 220) if dark else rng.uniform(20, 110),
        walls=rng.choice([0.0, 1.0, 2.0, 4.0]),
        swell=rng.uniform(1.02, 1.3),
        grain=(rng.uniform(0, 0.05), log_uniform(rng, 2, 20)),
    )


def _bubbles(rng: Generator, size: int) -> Recipe:
    """Wet foam and froth: bubbles of all sizes side by side, with caustics and highlights."""
    base = log_uniform(rng, 5, 50)
    if rng.random() < 0.6:
        circles = layout.packed(rng, size, base, rng.choice([0.2, 0.4, 0.6]), rng.uniform(0.6, 0.95))
    else:
        circles = layout.scattered(rng, size, base, 0.6, rng.uniform(0.2, 0.65), 0.0, cling=0.7)
    if rng.random() < 0.6:
        circles = layout.with_satellites(rng, circles, size, rng.uniform(0.5, 3.0))
    light = rng.uniform(0, 2 * math.pi)
    look = replace(
        _bright_rimmed(rng),
        dome=rng.uniform(-0.7, 0.5),
        dome_power=rng.choice([0.4, 1.0, 3.0]),
        light=light,
        spots=random_spots(rng, rng.uniform(0.3, 1.5), 3, light),
        variation=0.2,
    )
    return Recipe(
        circles,
        look,
        Form(irregularity=rng.choice([0.0, 0.02]), elongation=rng.choice([0.0, 0.08])),
        ground=rng.uniform(25, 200),
        grain=(rng.uniform(0, 0.12), log_uniform(rng, 2, 20)),
        ghosts=rng.choice([0.0, 0.2]),
    )


def _fluorescence(rng: Generator, size: int) -> Recipe:
    circles = _any_layout(rng, size) if rng.random() < 0.6 else _dense_layout(rng, size)
    ring = rng.random() < 0.3
    brightness = rng.uniform(30, 210)
    look = Appearance(
        additive=True,
        line_px=rng.uniform(0.8, 3.0),
        line_share=rng.uniform(0.06, 0.16) if rng.random() < 0.5 else None,
        rim=(Bump(-0.8, rng.uniform(0.6, 1.2), brightness),) if ring else (),
        level=brightness * (rng.uniform(0.0, 0.4) if ring else rng.uniform(0.6, 1.0)),
        dome=0.0 if ring else brightness * rng.uniform(0, 0.5),
        texture=rng.choice([0.0, 0.3]) * brightness,
        softness_px=rng.uniform(0.5, 3.0),
        variation=rng.choice([0.05, 0.3, 0.5]),
        faint_share=rng.choice([0.0, 0.3]),
        defocus_px=rng.choice([0.0, 2.0]),
    )
    return Recipe(circles, look, ground=rng.uniform(3, 50), ghosts=rng.choice([0.0, 0.3]))


def _shadowgraph(rng: Generator, size: int) -> Recipe:
    """Back-lit bubbles and drops: dark, with a bright centre where light passes straight through."""
    base = log_uniform(rng, 5, 80)
    spread = rng.choice([0.1, 0.35, 0.6])
    if rng.random() < 0.6:
        circles = layout.scattered(rng, size, base, spread, rng.uniform(0.03, 0.35), 1.0)
    else:
        circles = layout.overlapping(rng, size, base, spread, rng.uniform(0.05, 0.4))
    solid = rng.random() < 0.4
    window = Spot(rng.uniform(0, 0.2), rng.uniform(0, 6.3), rng.uniform(0.15, 0.35), rng.uniform(0.3, 1.0))
    look = Appearance(
        additive=False,
        line_share=rng.uniform(0.12, 0.3),
        rim=() if solid else (Bump(-1.0, 1.0, -rng.uniform(0.6, 0.95)),),
        level=-rng.uniform(0.5, 0.95) if solid else rng.uniform(-0.3, 0.0),
        opacity=0.5,
        spots=(window,) if solid and rng.random() < 0.6 else (),
        softness_px=rng.uniform(0.4, 2.0),
        variation=0.1,
        defocus_px=rng.choice([0.0, 2.0, 4.0]),
    )
    form = Form(
        irregularity=rng.choice([0.0, 0.03, 0.07]),
        elongation=rng.choice([0.05, 0.3, 0.5]),
        tilt=_common_tilt(rng),
    )
    return Recipe(
        circles, look, form, ground=rng.uniform(130, 245), channels=int(rng.choice([0, 0, 2])), debris=2
    )


def _spheres(rng: Generator, size: int) -> Recipe:
    """Opaque balls in front of each other: metal powder, colloids, beads."""
    base = log_uniform(rng, 6, 70)
    spread = rng.choice([0.03, 0.2, 0.45])
    match rng.integers(0, 3):
        case 0:
            circles = layout.overlapping(rng, size, base, spread, rng.uniform(0.3, 1.3))
        case 1:
            circles = layout.packed(rng, size, base, spread, rng.uniform(0.6, 1.0))
        case _:
            circles = layout.scattered(rng, size, base, spread, rng.uniform(0.1, 0.5), -1.0, cling=0.7)
    electron = rng.random() < 0.6
    light = rng.uniform(0, 2 * math.pi)
    brightness = rng.uniform(60, 180)
    transmission = electron and rng.random() < 0.3
    look = Appearance(
        additive=True,
        line_px=rng.uniform(0.8, 2.5),
        rim=(Bump(-1.0, 1.0, rng.uniform(10, 60)),) if electron and not transmission else (),
        level=-brightness * 0.8 if transmission else brightness,
        opacity=0.0 if transmission else 1.0,
        dome=0.0 if electron else rng.uniform(0, 50),
        edge_glow=rng.uniform(10, 80) if electron and not transmission else 0.0,
        slope=0.0 if transmission else rng.uniform(0, 0.45) * brightness,
        light=light,
        spots=random_spots(rng, rng.uniform(50, 160), 1, light) if not electron else (),
        texture=rng.choice([0.0, 8.0, 25.0]),
        softness_px=rng.uniform(0.3, 1.2),
        variation=rng.choice([0.05, 0.2]),
    )
    return Recipe(
        circles,
        look,
        Form(irregularity=rng.choice([0.0, 0.01, 0.03]), elongation=rng.choice([0.0, 0.03, 0.12])),
        ground=rng.uniform(120, 220) if transmission else rng.uniform(8, 90),
        grain=(rng.uniform(0.02, 0.3), log_uniform(rng, 2, 25)),
        debris=int(rng.integers(0, 10)),
    )


def _particle_layout(rng: Generator, size: int) -> Circles:
    """Heaps, crowds, a few large ones, or particles apart."""
    match rng.integers(0, 4):
        case 0:
            base = log_uniform(rng, 5, 60)
            return layout.overlapping(rng, size, base, rng.choice([0.1, 0.3]), rng.uniform(0.05, 0.5))
        case 1:
            base = log_uniform(rng, 6, 70)
            return layout.packed(rng, size, base, rng.choice([0.05, 0.2]), rng.uniform(0.4, 0.9))
        case 2:
            base = rng.uniform(0.08, 0.35) * size
            return layout.scattered(rng, size, base, 0.2, rng.uniform(0.1, 0.5), -2.0, cling=0.7)
        case _:
            base = log_uniform(rng, 5, 70)
            spread = rng.choice([0.1, 0.4])
            return layout.scattered(rng, size, base, spread, rng.uniform(0.03, 0.4), -1.0, cling=0.5)


def _particle_form(rng: Generator) -> Form:
    forms = (
        Form(irregularity=rng.uniform(0, 0.03), elongation=rng.choice([0.05, 0.25])),
        Form(irregularity=rng.uniform(0.04, 0.14), elongation=rng.choice([0.1, 0.4])),
        Form(corners=(3, 8), elongation=0.1),
        Form(corners=(4, 4), elongation=rng.choice([0.03, 0.3, 1.5]), longest=4.0),
        Form(rod=rng.uniform(0.5, 4.0), irregularity=rng.choice([0.0, 0.02])),
    )
    return forms[rng.choice(5, p=[0.3, 0.2, 0.15, 0.2, 0.15])]


def _particles(rng: Generator, size: int) -> Recipe:
    """Particles of any convex form, as electrons see them through or from above."""
    circles, form = _particle_layout(rng, size), _particle_form(rng)
    if rng.random() < 0.5:  # through
        ground = rng.uniform(110, 235)
        look = Appearance(
            additive=False,
            rim=(Bump(rng.uniform(-0.5, 1.0), 1.0, rng.uniform(-0.3, 0.25)),) if rng.random() < 0.4 else (),
            level=-rng.uniform(0.25, 0.92),
            opacity=rng.uniform(0, 0.8),
            dome=-rng.choice([0.0, 0.3]),
            slope=rng.choice([0.0, 0.15]),
            texture=rng.choice([0.0, 0.08, 0.25]),
            softness_px=rng.uniform(0.4, 1.5),
            variation=rng.choice([0.05, 0.25]),
        )
        return Recipe(circles, look, form, ground=ground, grain=(rng.uniform(0.01, 0.15), rng.uniform(2, 30)),
                      debris=int(rng.choice([0, 5])), captions=0.8)  # fmt: skip
    brightness = rng.uniform(40, 170)
    look = Appearance(
        additive=True,
        line_px=rng.uniform(0.8, 2.5),
        rim=(Bump(-1.0, 1.0, rng.uniform(5, 70)),) if rng.random() < 0.6 else (),
        level=brightness,
        opacity=1.0,
        edge_glow=rng.choice([0.0, rng.uniform(10, 90)]),
        slope=rng.uniform(0, 0.3) * brightness,
        light=rng.uniform(0, 2 * math.pi),
        texture=rng.choice([0.0, 8.0, 25.0, 40.0]),
        softness_px=rng.uniform(0.3, 1.2),
        variation=rng.choice([0.05, 0.25]),
    )
    return Recipe(
        circles,
        look,
        form,
        ground=rng.uniform(8, 110),
        grain=(rng.uniform(0.02, 0.5), log_uniform(rng, 2, 25)),
        ridges=rng.random() < 0.3,
        captions=0.8,
    )


def _drops_on_surface(rng: Generator, size: int) -> Recipe:
    """Water on leaves, glass and metal: the ground shows through, with a caustic and a highlight."""
    base = log_uniform(rng, 6, 80)
    circles = layout.scattered(rng, size, base, rng.choice([0.3, 0.6]), rng.uniform(0.08, 0.5), 1.0)
    circles = layout.with_satellites(rng, circles, size, rng.uniform(0.2, 2.0))
    light = rng.uniform(0, 2 * math.pi)
    caustic = Spot(rng.uniform(0.3, 0.7), light + math.pi, rng.uniform(0.2, 0.45), rng.uniform(0.2, 1.0))
    glint = Spot(rng.uniform(0.3, 0.7), light, rng.uniform(0.05, 0.16), rng.uniform(0.5, 3.0))
    look = Appearance(
        additive=False,
        line_px=rng.uniform(0.8, 3.0),
        rim=random_rim(rng, rng.uniform(0.1, 0.6), int(rng.integers(1, 3))),
        level=rng.uniform(-0.25, 0.2),
        slope=rng.uniform(-0.4, 0.0),
        side=rng.uniform(-0.4, 0.4),
        light=light,
        spots=(caustic, glint) if rng.random() < 0.8 else (caustic,),
        softness_px=rng.uniform(0.4, 1.5),
        variation=0.1,
    )
    return Recipe(
        circles,
        look,
        Form(irregularity=rng.choice([0.0, 0.02, 0.06]), elongation=rng.choice([0.0, 0.1, 0.25])),
        ground=rng.uniform(40, 170),
        grain=(rng.uniform(0.05, 0.35), log_uniform(rng, 2, 40)),
        fibres=int(rng.choice([0, 5, 20])),
    )


def _cells(rng: Generator, size: int) -> Recipe:
    """Stained or fluorescent nuclei and cells: soft, irregular, clustered, of uneven brightness."""
    base = log_uniform(rng, 5, 40)
    circles = layout.scattered(rng, size, base, 0.25, rng.uniform(0.05, 0.5), -1.0, cling=0.4)
    dark_ground = rng.random() < 0.6
    brightness = rng.uniform(25, 170)
    look = Appearance(
        additive=True,
        level=brightness if dark_ground else -brightness,
        dome=rng.uniform(0, 0.4) * (brightness if dark_ground else -brightness),
        opacity=0.5,
        texture=rng.uniform(0, 0.35) * brightness,
        softness_px=rng.uniform(0.6, 2.5),
        variation=rng.choice([0.1, 0.4]),
        defocus_px=rng.choice([0.0, 2.0]),
    )
    return Recipe(
        circles,
        look,
        Form(irregularity=rng.uniform(0.03, 0.12), elongation=rng.uniform(0.1, 0.5)),
        ground=rng.uniform(4, 45) if dark_ground else rng.uniform(150, 240),
        grain=(rng.uniform(0, 0.1), log_uniform(rng, 3, 60)),
        ghosts=rng.choice([0.0, 0.2]),
    )


def _mixture(rng: Generator, size: int) -> Recipe:
    """Any layout with any appearance: what no other kind covers."""
    recipe = Recipe(
        _any_layout(rng, size) if rng.random() < 0.6 else _dense_layout(rng, size),
        replace(_bright_rimmed(rng), line_px=rng.uniform(0.8, 6.0), texture=rng.choice([0.0, 0.15])),
        Form(
            irregularity=rng.choice([0.0, 0.02, 0.08]), elongation=rng.choice([0.0, 0.1, 0.4]),
            tilt=_common_tilt(rng),
        ),
        ground=rng.uniform(40, 225),
        ghosts=rng.choice([0.0, 0.0, 0.3]),
        channels=int(rng.choice([0, 0, 0, 2])),
        grain=(rng.uniform(0, 0.2), log_uniform(rng, 2, 40)),
        debris=int(rng.integers(0, 8)),
        fibres=int(rng.choice([0, 0, 0, 8])),
    )  # fmt: skip
    if rng.random() < 0.3:  # filled and unrimmed
        level = rng.uniform(0.15, 0.7) * rng.choice([-1, 1])
        recipe = replace(recipe, look=replace(recipe.look, rim=(), level=level, opacity=0.8))
    return recipe


def _background(rng: Generator, size: int) -> Recipe:
    """Nothing to find, but plenty that could be taken for it."""
    circles = np.zeros((0, 3))
    return Recipe(
        circles,
        _bright_rimmed(rng),
        ground=rng.uniform(10, 235),
        channels=int(rng.integers(0, 4)),
        grain=(rng.uniform(0, 0.4), log_uniform(rng, 2, 60)),
        ridges=rng.random() < 0.3,
        debris=int(rng.integers(0, 25)),
        fibres=int(rng.choice([0, 0, 10, 40])),
        captions=0.5,
    )


RECIPES: dict[str, tuple[float, Callable[[Generator, int], Recipe]]] = {
    "emulsion": (0.15, _emulsion),
    "microfluidics": (0.09, _microfluidics),
    "double_emulsion": (0.06, _double_emulsion),
    "encapsulation": (0.06, _encapsulation),
    "ddpcr": (0.10, _ddpcr),
    "foam": (0.10, _foam),
    "bubbles": (0.11, _bubbles),
    "fluorescence": (0.07, _fluorescence),
    "shadowgraph": (0.06, _shadowgraph),
    "spheres": (0.07, _spheres),
    "particles": (0.12, _particles),
    "drops_on_surface": (0.04, _drops_on_surface),
    "cells": (0.03, _cells),
    "mixture": (0.04, _mixture),
    "background": (0.03, _background),
}
"""Share of each kind among the training scenes, and how one is planned."""
