"""What a picture shows: frozen descriptions of a face and what it wears, and their sampling.

All chance except the sensor's noise is spent here, so drawing is a pure function of a `Look`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from distill.data.demo.brush import SIZE, Colour, Pose, Skull, shade

CLASSES: tuple[str, ...] = ("mask_correct", "mask_incorrect", "no_mask")
CORRECT, INCORRECT, NO_MASK = range(3)
NUM_ORNAMENTS = 4  # on a backdrop

_CONTRAST = 110  # wanted between a mask and what it lies on, summed over RGB

Option = TypeVar("Option")

_SKINS: tuple[Colour, ...] = (
    (252, 222, 198), (241, 200, 168), (226, 178, 138), (202, 148, 106),
    (166, 112, 76), (126, 82, 54), (92, 60, 42),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (24, 20, 20), (48, 32, 24), (84, 54, 34), (122, 62, 34), (196, 152, 88), (226, 196, 140),
    (150, 150, 152), (228, 228, 226), (168, 70, 40), (90, 120, 170), (200, 110, 150),
)  # fmt: skip
_FABRICS: tuple[Colour, ...] = (
    (160, 205, 230), (170, 220, 205), (240, 240, 240), (245, 190, 205), (34, 34, 40),
    (120, 125, 135), (222, 184, 150), (150, 105, 75), (180, 50, 55), (40, 70, 130),
    (60, 120, 80), (225, 180, 60), (120, 80, 150),
)  # fmt: skip
_PALETTES: dict[str, tuple[Colour, ...]] = {
    "surgical": (*_FABRICS[:1] * 3, *_FABRICS[1:5], _FABRICS[9]),
    "cup": (*_FABRICS[2:3] * 3, _FABRICS[0], *_FABRICS[4:6]),
    "cloth": _FABRICS,
}


class Hair(NamedTuple):
    """A hair style: how far it stands off, how long it hangs (y), and where it starts (y)."""

    volume: float
    length: float
    hairline: float
    bun: bool = False
    curls: bool = False


_STYLES: tuple[Hair | None, ...] = (
    None,  # bald
    Hair(0.02, -0.15, -0.62),
    Hair(0.09, -0.05, -0.58),
    Hair(0.16, 0.00, -0.52),
    Hair(0.13, 0.70, -0.50),
    Hair(0.14, 1.45, -0.55),
    Hair(0.10, 1.15, -0.34),
    Hair(0.06, -0.05, -0.60, bun=True),
    Hair(0.28, 0.15, -0.52, curls=True),
    Hair(0.20, 0.95, -0.48, curls=True),
)


@dataclass(frozen=True)
class Features:
    """Everything that grows on a head, and its expression."""

    skin: Colour
    hair_colour: Colour
    hair: Hair | None
    parting: float  # x of the hair's parting
    beard: str
    beard_colour: Colour
    iris: Colour
    openness: float  # of the eyes, 0 shut to 1 wide
    gaze: float
    brow: float  # its inner end's drop, negative looks worried
    smile: float
    mouth_open: float
    nose: float  # width


@dataclass(frozen=True)
class Mask:
    """A mask as a surface between an upper and a lower edge, both given on the midline."""

    kind: str
    top: float
    bottom: float
    sag: float  # how much lower the upper edge's ends are than its middle
    colour: Colour
    accent: Colour
    pattern: str


@dataclass(frozen=True)
class Hand:
    """A raised hand; its palm's centre, and the radians its fingers lean to the right."""

    x: float
    y: float
    lean: float


@dataclass(frozen=True)
class Outfit:
    """Everything that is worn, the mask included; None or an empty name where it is absent."""

    clothes: Colour
    fabric: Colour  # of hat and scarf
    accent: Colour
    hat: str
    glasses: str
    scarf: float | None  # height of its upper edge in front
    mask: Mask | None
    hand: Hand | None


@dataclass(frozen=True)
class Setting:
    """Backdrop, light and camera."""

    backdrop: str
    grid: int
    colours: tuple[Colour, ...]  # a grid x grid mosaic to be smoothed, then NUM_ORNAMENTS more
    light_angle: float
    light_contrast: float
    exposure: float
    cast: tuple[float, float, float]
    blur: float  # px
    noise: float  # grey levels


@dataclass(frozen=True)
class Look:
    """One picture's complete description."""

    pose: Pose
    skull: Skull
    features: Features
    outfit: Outfit
    setting: Setting


def sample_look(rng: np.random.Generator, label: int) -> Look:
    """Draws a look; only mask, scarf and hand depend on the label."""
    features = _features(rng)
    return Look(
        pose=Pose(
            x=SIZE / 2 + rng.uniform(-9, 9),
            y=SIZE / 2 - 2 + rng.uniform(-7, 7),
            scale=rng.uniform(35, 46),
            tilt=rng.uniform(-0.25, 0.25),
            yaw=rng.uniform(-0.38, 0.38),
            pitch=rng.uniform(-0.08, 0.10),
        ),
        skull=Skull(width=rng.uniform(0.68, 0.8), power=rng.uniform(2.1, 2.6)),
        features=features,
        outfit=_outfit(rng, label, features),
        setting=_setting(rng),
    )


def _features(rng: np.random.Generator) -> Features:
    hair_colour = _near(rng, _pick(rng, _HAIRS), 10)
    return Features(
        skin=_near(rng, _pick(rng, _SKINS), 7),
        hair_colour=hair_colour,
        hair=_pick(rng, _STYLES),
        parting=rng.uniform(-0.4, 0.4),
        beard=_pick(rng, ("", "", "", "", "full", "long", "goatee", "stubble", "moustache")),
        beard_colour=hair_colour if _chance(rng, 0.7) else _pick(rng, _HAIRS),
        iris=_pick(rng, ((70, 45, 30), (60, 90, 130), (80, 110, 70), (40, 28, 22))),
        openness=rng.uniform(0.35, 1.0) if _chance(rng, 0.92) else 0.0,
        gaze=rng.uniform(-0.04, 0.04),
        brow=rng.uniform(-0.05, 0.06),
        smile=rng.uniform(-0.05, 0.09),
        mouth_open=rng.uniform(0.03, 0.1) if _chance(rng, 0.35) else 0.0,
        nose=rng.uniform(0.1, 0.16),
    )


def _outfit(rng: np.random.Generator, label: int, features: Features) -> Outfit:
    scarf = rng.uniform(0.95, 1.1) if _chance(rng, 0.3) else None
    if label == NO_MASK and _chance(rng, 0.15):
        scarf = rng.uniform(0.76, 0.9)  # drawn up over the chin, where a slipped mask would sit
    return Outfit(
        clothes=_near(rng, _pick(rng, _FABRICS), 20),
        fabric=_near(rng, _pick(rng, _FABRICS), 16),
        accent=_near(rng, _pick(rng, _FABRICS), 16),
        hat=_pick(rng, ("", "", "", "", "beanie", "cap", "brim", "hood")),
        glasses=_pick(rng, ("", "", "", "round", "square", "sun")),
        scarf=scarf,
        mask=None if label == NO_MASK else _mask(rng, label, features),
        hand=_hand(rng, label),
    )


def _mask(rng: np.random.Generator, label: int, features: Features) -> Mask:
    """A mask that covers what the label says, in a colour that skin and beard cannot hide."""
    top, bottom, sag = rng.uniform(0.0, 0.13), rng.uniform(1.04, 1.1), rng.uniform(0.1, 0.2)
    if label == INCORRECT:
        exposed = _pick(rng, ("nose", "mouth", "chin"))
        if exposed == "nose":
            top, sag = rng.uniform(0.42, 0.47), rng.uniform(-0.06, 0.02)
        elif exposed == "mouth":
            top, sag = rng.uniform(0.73, 0.8), rng.uniform(-0.36, -0.26)
        else:
            bottom = rng.uniform(0.67, 0.72)
    kind = _pick(rng, ("surgical", "surgical", "cloth", "cup"))
    palette = _PALETTES[kind]
    contrasts = [_contrast(colour, features) for colour in palette]
    enough = min(_CONTRAST, max(contrasts))
    distinct = [c for c, contrast in zip(palette, contrasts, strict=True) if contrast >= enough]
    return Mask(
        kind=kind,
        top=top,
        bottom=bottom,
        sag=sag,
        colour=_near(rng, _pick(rng, distinct), 8),
        accent=_near(rng, _pick(rng, _FABRICS), 20),
        pattern=_pick(rng, ("", "", "dots", "stripes")),
    )


def _hand(rng: np.random.Generator, label: int) -> Hand | None:
    """A hand over the mouth without a mask, beside the face otherwise: never hides the answer."""
    side = 1 if _chance(rng, 0.5) else -1
    if label == NO_MASK and _chance(rng, 0.18):
        lean = rng.uniform(0.5, 1.1)
        return Hand(side * rng.uniform(0.2, 0.4), rng.uniform(0.72, 0.85), -side * lean)
    if _chance(rng, 0.15):
        return Hand(side * rng.uniform(0.85, 1.0), rng.uniform(0.6, 1.0), -side * 0.15)
    return None


def _setting(rng: np.random.Generator) -> Setting:
    grid = _pick(rng, (1, 2, 2, 4, 6))
    base = rng.uniform(50, 215) + rng.normal(0, 25, 3)
    num_colours = grid * grid + NUM_ORNAMENTS
    variety = rng.normal(size=(num_colours, 1)) + 0.5 * rng.normal(size=(num_colours, 3))
    colours = base + rng.uniform(8, 45) * variety
    return Setting(
        backdrop=_pick(rng, ("", "", "stripes", "bokeh", "panels")),
        grid=grid,
        colours=tuple((r, g, b) for r, g, b in colours.clip(0, 255).astype(int).tolist()),
        light_angle=rng.uniform(0, 2 * np.pi),
        light_contrast=rng.uniform(0.0, 0.4),
        exposure=rng.uniform(0.75, 1.2),
        cast=(rng.uniform(0.85, 1.1), rng.uniform(0.92, 1.04), rng.uniform(0.82, 1.12)),
        blur=rng.uniform(0.3, 1.1) if _chance(rng, 0.5) else 0.0,
        noise=rng.uniform(1, 9),
    )


def _pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _contrast(colour: Colour, features: Features) -> int:
    """Summed channel differences to the skin or to the beard, whichever is nearer."""
    around = (features.skin, features.beard_colour if features.beard else features.skin)
    return min(sum(abs(a - b) for a, b in zip(colour, other, strict=True)) for other in around)


def _near(rng: np.random.Generator, colour: Sequence[float], spread: float) -> Colour:
    """A random colour around the given one: lightness varies most, hue a little."""
    lightness, *hue = rng.normal(0, spread, 4).tolist()
    return shade([c + lightness + 0.5 * h for c, h in zip(colour, hue, strict=True)], 1.0)
