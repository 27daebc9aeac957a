"""Draws the person: body, head, hair, beard, features, glasses and hat, from back to front."""

import numpy as np

from distill.data.demo.brush import Brush, Colour, Points, capsule, curve, ellipse, shade
from distill.data.demo.looks import Features, Hair, Outfit

EYE = (0.32, -0.1)  # of the right eye; the left mirrors it
NOSE_TIP = (0.0, 0.28)
MOUTH = (0.0, 0.56)
CHIN = (0.0, 0.88)

_DARK: Colour = (30, 24, 26)
_CURLS = 0.07  # amplitude of curly hair's outline


def draw_body(brush: Brush, features: Features, outfit: Outfit) -> None:
    """Draws shoulders, collar and neck, with the jaw's shadow on it."""
    shoulders = curve(
        [(-0.3, 1.15), (-0.95, 1.38), (-1.45, 1.75), (-1.6, 4), (1.6, 4), (1.45, 1.75),
         (0.95, 1.38), (0.3, 1.15)]
    )  # fmt: skip
    brush.fill(shoulders, outfit.clothes)
    brush.fill(ellipse(0, 1.3, 0.46, 0.24), shade(outfit.clothes, 0.75))
    brush.fill(capsule((0, 0.6), (0, 1.3), 0.36), shade(features.skin, 0.82))
    brush.fill(ellipse(0, 0.9, 0.36, 0.24), shade(features.skin, 0.68))


def draw_back_hair(brush: Brush, features: Features) -> None:
    """Draws what hangs behind the head: long hair, an afro's ball, a bun."""
    hair = features.hair
    if hair is None:
        return
    colour = shade(features.hair_colour, 0.75)
    width = brush.skull.width
    if hair.bun:
        brush.fill(ellipse(features.parting * 0.4, -1.16, 0.3, 0.26), colour)
    if hair.length > 0.1:
        side = width + hair.volume
        tail = [(side * 1.05, 0.3), (side * 0.95, hair.length), (-side * 0.95, hair.length),
                (-side * 1.05, 0.3), (-side, -0.4), (0, -1), (side, -0.4)]  # fmt: skip
        brush.fill(_curl(curve(tail), hair), colour)


def draw_head(brush: Brush, features: Features) -> None:
    """Draws ears and the bare head."""
    width = brush.skull.width
    for side in (-1, 1):
        brush.fill(ellipse(side * width, 0.08, 0.13, 0.21), shade(features.skin, 0.9))
        brush.fill(ellipse(side * (width + 0.02), 0.08, 0.06, 0.12), shade(features.skin, 0.7))
    brush.fill(brush.skull.outline(), features.skin)


def draw_features(brush: Brush, features: Features) -> None:
    """Draws eyes, brows, nose, beard and mouth."""
    skin = features.skin
    for side in (-1, 1):
        brush.fill(ellipse(side * 0.4, 0.3, 0.17, 0.12), _tint(skin, (10, -6, -4)))
        _draw_eye(brush, features, side)
    wing = features.nose
    tip = NOSE_TIP[1]
    bridge = [(0.02, -0.05), (wing * 0.6, tip - 0.12), (wing, tip), (0.03, tip + 0.06)]
    brush.fill(curve(bridge), shade(skin, 0.86))
    brush.fill(ellipse(0, tip - 0.04, wing * 0.75, 0.075), shade(skin, 1.06))
    for side in (-1, 1):
        brush.fill(ellipse(side * wing * 0.5, tip + 0.035, 0.036, 0.024), shade(skin, 0.5))
    _draw_beard(brush, features)
    _draw_mouth(brush, features)


def _draw_eye(brush: Brush, features: Features, side: int) -> None:
    x, y = side * EYE[0], EYE[1]
    opening = 0.085 * features.openness
    brush.fill(ellipse(x, y, 0.17, 0.11), shade(features.skin, 0.88))
    if opening:
        brush.fill(ellipse(x, y, 0.14, opening), (244, 242, 238))
        brush.fill(ellipse(x + features.gaze, y, 0.065, min(0.065, opening)), features.iris)
        brush.fill(ellipse(x + features.gaze, y, 0.03, min(0.03, opening)), (12, 10, 10))
    lid = [(x - 0.15, y), (x, y - opening * 1.1), (x + 0.15, y)]
    brush.line(curve(lid, closed=False), _DARK, 0.03)
    inner, outer = x - side * 0.15, x + side * 0.19
    brow = [(inner, -0.28 + features.brow), (x, -0.34), (outer, -0.27)]
    brush.line(curve(brow, closed=False), shade(features.hair_colour, 0.7), 0.06)


def _draw_mouth(brush: Brush, features: Features) -> None:
    x, y = MOUTH
    gap, corner = features.mouth_open, y - features.smile
    lip = _tint(features.skin, (-16, -48, -34))
    brush.fill(
        curve([(x - 0.24, corner), (x - 0.07, y - 0.06 - gap / 2), (x, y - 0.04 - gap / 2),
               (x + 0.07, y - 0.06 - gap / 2), (x + 0.24, corner), (x, y + 0.07 + gap)]),
        lip,
    )  # fmt: skip
    if gap:
        brush.fill(ellipse(x, y + gap * 0.2, 0.15, gap * 0.75), (70, 22, 26))
        brush.fill(ellipse(x, y - gap * 0.1, 0.13, gap * 0.4), (240, 236, 228))
    else:
        seam = [(x - 0.23, corner), (x, y + 0.01), (x + 0.23, corner)]
        brush.line(curve(seam, closed=False), shade(lip, 0.6), 0.03)


def _draw_beard(brush: Brush, features: Features) -> None:
    colour, width = features.beard_colour, brush.skull.width
    if features.beard in ("full", "long", "stubble"):
        x = np.linspace(-1, 1, 15) * width
        upper = 0.42 - 0.4 * (x / width) ** 4
        stretch = 1.16 if features.beard == "long" else 1.05
        lower = np.maximum(brush.skull.jaw(x) * stretch, upper)
        if features.beard == "stubble":
            colour = (*colour, 70)
        brush.fill(_band(x, upper, lower), colour)
        for k in range(2, 13):
            strand = [(x[k], upper[k] + 0.1), (x[k] * 0.95, lower[k] - 0.03)]
            brush.line(strand, shade(colour, 0.7, 90), 0.025)
    elif features.beard == "goatee":
        brush.fill(
            curve([(-0.27, 0.45), (0.27, 0.45), (0.25, 0.9), (0, 1.04), (-0.25, 0.9)]), colour
        )
    elif features.beard == "moustache":
        brush.fill(
            curve([(-0.34, 0.54), (-0.1, 0.38), (0.1, 0.38), (0.34, 0.54), (0, 0.48)]), colour
        )


def draw_hair(brush: Brush, features: Features) -> None:
    """Draws the cap of hair between crown and hairline."""
    hair = features.hair
    if hair is None:
        return
    skull = brush.skull
    angle = np.linspace(-1.75, 1.75, 22)
    reach = 1 + hair.volume
    outer = np.stack(
        [np.sin(angle) * (skull.width + hair.volume), -np.cos(angle) * reach - 0.02], axis=1
    )
    outer[:, 1] = np.minimum(outer[:, 1], max(hair.length, -0.1) if hair.length < 0.2 else 0.35)
    inner = [
        (skull.width * 0.98, outer[-1, 1]),
        (skull.width * 0.84, -0.35),
        (0.4, hair.hairline + 0.02),
        (features.parting, hair.hairline - 0.12),
        (-0.4, hair.hairline + 0.02),
        (-skull.width * 0.84, -0.35),
        (-skull.width * 0.98, outer[0, 1]),
    ]
    fringe = curve(inner, closed=False)
    brush.fill(np.concatenate([_curl(outer, hair), fringe]), features.hair_colour)
    sheen = np.stack([np.sin(angle[6:13]) * 0.62, -np.cos(angle[6:13]) * 0.86], axis=1)
    brush.line(sheen, shade(features.hair_colour, 1.5, 90), 0.07)


def draw_glasses(brush: Brush, outfit: Outfit) -> None:
    """Draws spectacles or sunglasses with their bridge and temples."""
    if not outfit.glasses:
        return
    frame = shade(outfit.accent, 0.45)
    for side in (-1, 1):
        lens = ellipse(side * EYE[0], EYE[1] + 0.02, 0.235, 0.2)
        if outfit.glasses == "square":
            lens = curve(
                [(side * (EYE[0] + dx), EYE[1] + dy)
                 for dx, dy in ((-0.23, -0.14), (0.25, -0.15), (0.23, 0.17), (-0.19, 0.17))]
            )  # fmt: skip
        brush.fill(lens, (20, 20, 26) if outfit.glasses == "sun" else (210, 225, 235, 50))
        brush.line(np.concatenate([lens, lens[:1]]), frame, 0.04)
        temple = [(side * 0.53, EYE[1] - 0.04), (side * brush.skull.width, EYE[1] - 0.02)]
        brush.line(temple, frame, 0.045)
    brush.line([(-0.1, EYE[1]), (0, EYE[1] - 0.03), (0.1, EYE[1])], frame, 0.045)


def draw_hat(brush: Brush, outfit: Outfit) -> None:
    """Draws a beanie, a cap, a brimmed hat or a hood's front edge."""
    colour, width = outfit.fabric, brush.skull.width
    if outfit.hat == "hood":
        inside = brush.skull.outline(0.97) * (0.97, 1.0) + (0, 0.06)
        ring = np.concatenate([brush.skull.outline(1.17), brush.skull.outline(1.17)[:1],
                               inside[:1], inside[::-1]])  # fmt: skip
        brush.fill(ring, colour)
        return
    if not outfit.hat:
        return
    tall = -1.3 if outfit.hat != "cap" else -1.18
    side = width * 1.07
    dome = [(-side, -0.42), (-side * 0.88, -0.95), (0, tall), (side * 0.88, -0.95), (side, -0.42),
            (0, -0.56)]  # fmt: skip
    brush.fill(curve(dome), colour)
    if outfit.hat == "beanie":
        band = [(-side, -0.36), (-side, -0.62), (0, -0.8), (side, -0.62), (side, -0.36), (0, -0.5)]
        brush.fill(curve(band), outfit.accent)
    else:
        reach = 1.55 if outfit.hat == "brim" else 1.0
        visor = [(-side * reach, -0.42), (0, -0.66), (side * reach, -0.42), (0, -0.36)]
        brush.fill(curve(visor), shade(colour, 0.7))


def draw_hood_back(brush: Brush, outfit: Outfit) -> None:
    """Draws the part of a hood that lies behind head and neck."""
    if outfit.hat == "hood":
        drape = [(0, -1.2), (0.95, -0.5), (0.95, 0.5), (1.1, 1.5), (-1.1, 1.5), (-0.95, 0.5),
                 (-0.95, -0.5)]  # fmt: skip
        brush.fill(curve(drape), shade(outfit.fabric, 0.7))


def _tint(colour: Colour, shift: Colour) -> Colour:
    return shade([a + b for a, b in zip(colour, shift, strict=True)], 1)


def _band(x: Points, upper: Points, lower: Points) -> Points:
    """The closed region between two edges over the same x."""
    return np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])


def _curl(outline: Points, hair: Hair) -> Points:
    """The outline, scalloped where the hair is curly."""
    if not hair.curls:
        return outline
    return outline * (1 + _CURLS * (np.arange(len(outline)) % 3 - 1)[:, None])
