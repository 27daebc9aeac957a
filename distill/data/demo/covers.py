"""Draws what may cover a face: masks with their straps, scarves and hands."""

import numpy as np
from numpy.typing import NDArray

from distill.data.demo.brush import Brush, Points, Skull, capsule, curve, ellipse, shade
from distill.data.demo.looks import Features, Hand, Mask, Outfit

_ACROSS = np.linspace(-1, 1, 15)
_REACH = {"surgical": 0.9, "cloth": 0.94, "cup": 0.84}  # how far a mask goes around the face
_LOOSE = 1.05  # a mask's lower edge stands off the jaw by this factor
_FINGER = 0.085  # radius


def mask_surface(mask: Mask, skull: Skull, u: NDArray[np.float64], v: float) -> Points:
    """Points of the mask at u across (-1 left to 1 right) and v down (0 upper, 1 lower edge)."""
    corner = mask.top + mask.sag
    x = u * _REACH[mask.kind] * skull.half_width(corner)
    upper = mask.top + mask.sag * u**2
    lift = 0.1 * u**2
    lower = np.maximum(np.minimum(mask.bottom - lift, _LOOSE * skull.jaw(x)), upper + 0.03)
    return np.stack([x, upper + v * (lower - upper)], axis=1)


def draw_mask(brush: Brush, mask: Mask) -> None:
    """Draws a mask: its shadow, straps, cloth, and the marks of its kind."""
    top = mask_surface(mask, brush.skull, _ACROSS, 0)
    bottom = mask_surface(mask, brush.skull, _ACROSS, 1)
    outline = np.concatenate([top, bottom[::-1]])
    brush.fill(outline + np.array([0, 0.05]), (0, 0, 0, 60))
    _draw_straps(brush, mask, top, bottom)
    brush.fill(outline, mask.colour)
    edge = shade(mask.colour, 0.72)
    _draw_texture(brush, mask)
    brush.line(np.concatenate([outline, outline[:1]]), edge, 0.03)


def _draw_straps(brush: Brush, mask: Mask, top: Points, bottom: Points) -> None:
    colour = (226, 226, 222) if mask.kind == "surgical" else shade(mask.colour, 0.85)
    width = brush.skull.width
    for end, side in ((0, -1), (-1, 1)):
        anchors = (-0.06, 0.24) if mask.kind != "cup" else (-0.4, 0.3)
        for corner, anchor in zip((top[end], bottom[end]), anchors, strict=True):
            brush.line([corner, (side * width, anchor)], colour, 0.035)


def _draw_texture(brush: Brush, mask: Mask) -> None:
    """Draws pleats, seams or a pattern; all follow the surface and stay inside it."""
    dark, light = shade(mask.colour, 0.78), shade(mask.colour, 1.12)

    def along(v: float) -> Points:
        return mask_surface(mask, brush.skull, _ACROSS[1:-1], v)

    if mask.kind == "surgical":
        for v in (0.3, 0.52, 0.74):
            brush.line(along(v), dark, 0.03)
            brush.line(along(v + 0.06), light, 0.03)
        brush.line(along(0.07)[4:-4], light, 0.05)
        return
    if mask.kind == "cup":
        rim = np.concatenate([along(0.16), along(0.86)[::-1]])
        brush.fill(curve(rim[::2]), light)
        brush.line(along(0.5), dark, 0.025)
        if mask.pattern:  # a valve
            x, y = along(0.6)[9]
            brush.fill(ellipse(x, y, 0.1, 0.08), dark)
        return
    if mask.pattern == "stripes":
        for v in (0.15, 0.38, 0.61, 0.84):
            brush.line(along(v), mask.accent, 0.07)
    elif mask.pattern == "dots":
        for v in (0.2, 0.5, 0.8):
            for x, y in along(v)[1::2]:
                brush.fill(ellipse(x, y, 0.045, 0.045), mask.accent)
    seam = [mask_surface(mask, brush.skull, np.zeros(1), v)[0] for v in (0, 1)]
    brush.line(seam, dark, 0.03)


def draw_scarf(brush: Brush, outfit: Outfit) -> None:
    """Draws a scarf wound around the neck, its upper edge at `outfit.scarf` in front."""
    if outfit.scarf is None:
        return
    top = outfit.scarf
    roll = [(-0.78, top - 0.12), (0, top + 0.06), (0.78, top - 0.12), (0.92, top + 0.3),
            (0, top + 0.62), (-0.92, top + 0.3)]  # fmt: skip
    brush.fill(curve(roll), outfit.fabric)
    for k in range(3):
        y = top + 0.06 + 0.15 * k
        fold = [(-0.8, y - 0.02), (0, y + 0.12), (0.8, y - 0.02)]
        colour = outfit.accent if k == 1 else shade(outfit.fabric, 0.75)
        brush.line(curve(fold, closed=False), colour, 0.06)
    brush.fill(curve([(0.2, top + 0.3), (0.6, top + 0.3), (0.7, 2.6), (0.25, 2.6)]),
               shade(outfit.fabric, 0.88))  # fmt: skip


def draw_hand(brush: Brush, hand: Hand, features: Features, outfit: Outfit) -> None:
    """Draws a sleeve, a palm and five fingers, each outlined so that they stay apart."""
    cos, sin = np.cos(hand.lean), np.sin(hand.lean)
    turn = np.array([[cos, sin], [-sin, cos]])
    mirror = -1 if hand.x > 0 else 1  # the thumb points towards the face

    def put(points: Points, inset: float) -> None:
        colour = shade(features.skin, 0.68 if inset == 0 else 0.97)
        brush.fill(points @ turn + (hand.x, hand.y), colour)

    sleeve = capsule((0, 0.75), (0, 3), 0.27) @ turn + (hand.x, hand.y)
    brush.fill(sleeve, shade(outfit.clothes, 0.85))
    for inset in (0.0, 0.022):
        put(capsule((0, 0.2), (0, 0.6), 0.18 - inset), inset)
        put(capsule((0.2 * mirror, 0.15), (0.4 * mirror, -0.12), _FINGER - inset), inset)
        put(ellipse(0, 0, 0.3 - inset, 0.31 - inset), inset)
    for k in range(4):
        x = (k - 1.5) * 0.155
        tip = -0.66 + 0.07 * (k - 1.5) ** 2
        for inset in (0.0, 0.022):
            put(capsule((x, -0.1), (x * 1.1, tip), _FINGER - inset), inset)
