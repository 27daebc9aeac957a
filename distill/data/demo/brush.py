"""Drawing in face coordinates: the head's shape and pose, and a brush that follows them.

Face coordinates put the origin between the cheekbones, y pointing down, the crown at -1 and
the chin at +1. What is drawn, and in which order, is left to the modules that hold the brush.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

SIZE = 128  # px, the side of a finished picture
OVERSAMPLING = 2  # shapes are drawn this much larger, then averaged down: cheap antialiasing

Colour: TypeAlias = tuple[int, ...]  # RGB, or RGBA for a translucent coat
Points: TypeAlias = NDArray[np.float64]  # (num_points, 2)

_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE: Points = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_STEPS = np.arange(4)[:, None] / 4
_CATMULL_ROM = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
_SPLINE = _STEPS ** np.arange(4) @ _CATMULL_ROM  # (samples per segment, 4 knots)
_BULGE = 0.7  # how fast the face recedes from its midpoint towards crown and chin


@dataclass(frozen=True)
class Skull:
    """A superellipse |x / width|^power + |y|^power = 1; a higher power is a squarer jaw."""

    width: float
    power: float

    def half_width(self, y: float) -> float:
        """Distance from the midline to the outline at height y in (-1, 1)."""
        return float(self.width * (1 - abs(y) ** self.power) ** (1 / self.power))

    def jaw(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height of the lower outline at x; 0 beyond the head's sides."""
        inside = np.clip(1 - np.abs(x / self.width) ** self.power, 0, 1)
        return np.asarray(inside ** (1 / self.power))

    def outline(self, scale: float = 1.0) -> Points:
        """The closed outline, scaled about the origin."""
        return scale * np.sign(_CIRCLE) * np.abs(_CIRCLE) ** (2 / self.power) * (self.width, 1)


@dataclass(frozen=True)
class Pose:
    """Where the head is in the picture and which way it faces; lengths in finished pixels."""

    x: float
    y: float
    scale: float  # px per face unit, half the head's height
    tilt: float  # radians, in the picture's plane
    yaw: float  # radians, positive turns the nose to the right of the picture
    pitch: float  # radians, positive looks down


class Brush:
    """Collects shapes in face coordinates onto a list of strokes; `draw` paints them later."""

    def __init__(self, strokes: "list[Stroke]", pose: Pose, skull: Skull) -> None:
        self.skull = skull
        self.scale = pose.scale * OVERSAMPLING
        self._strokes = strokes
        self._pose = pose

    def fill(self, points: Points, colour: Colour) -> None:
        """Fills the closed polygon through points."""
        self._strokes.append(Stroke(self, points, colour, 0))

    def line(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """Draws an open line; width in face units, never thinner than a finished pixel's half."""
        thickness = max(1, round(width * self.scale))
        self._strokes.append(Stroke(self, np.asarray(points, np.float64), colour, thickness))

    def place(self, points: Points) -> Points:
        """Oversampled pixel coordinates of points on the face, shape (num_points, 2)."""
        pose, width = self._pose, self.skull.width
        x, y = points[:, 0], points[:, 1]
        depth = width * np.sqrt(np.maximum(1 - (x / width) ** 2 - _BULGE * y * y, 0))
        x = x * math.cos(pose.yaw) + depth * math.sin(pose.yaw)
        y = y + depth * math.sin(pose.pitch)
        cos, sin = self.scale * math.cos(pose.tilt), self.scale * math.sin(pose.tilt)
        origin_x, origin_y = pose.x * OVERSAMPLING, pose.y * OVERSAMPLING
        return np.stack([origin_x + cos * x - sin * y, origin_y + sin * x + cos * y], axis=1)


class Stroke(NamedTuple):
    """One shape: a filled polygon where thickness is 0, else a line this many pixels thick."""

    brush: Brush
    points: Points
    colour: Colour
    thickness: int


def draw(strokes: Sequence[Stroke], picture: Image.Image) -> None:
    """Paints strokes in order onto an oversampled picture.

    Points are placed brush by brush, not stroke by stroke: numpy's cost per call would otherwise
    be a sixth of a picture's time.
    """
    outlines: dict[int, list[float]] = {}
    for brush in {stroke.brush: None for stroke in strokes}:
        own = [k for k, stroke in enumerate(strokes) if stroke.brush is brush]
        flat = brush.place(np.concatenate([strokes[k].points for k in own])).ravel().tolist()
        end = 0
        for k in own:
            start, end = end, end + strokes[k].points.size
            outlines[k] = flat[start:end]
    opaque = ImageDraw.Draw(picture)
    glaze = ImageDraw.Draw(picture, "RGBA")  # blends, at six times the cost
    for k, (_, _, colour, thickness) in enumerate(strokes):
        layer = opaque if len(colour) == 3 else glaze
        if thickness:
            layer.line(outlines[k], fill=colour, width=thickness)
        else:
            layer.polygon(outlines[k], fill=colour)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """A closed ellipse around (x, y)."""
    return _CIRCLE * (radius_x, radius_y) + (x, y)


def capsule(start: ArrayLike, end: ArrayLike, radius: float) -> Points:
    """A thick line with round ends: fingers, arms, frames."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    along = _CIRCLE @ (b - a)
    return _CIRCLE * radius + np.where(along[:, None] > 0, b, a)


def curve(points: ArrayLike, closed: bool = True) -> Points:
    """A Catmull-Rom spline through the points, four samples per segment."""
    knots = np.asarray(points, dtype=np.float64)
    samples: Points = _spline(len(knots), closed) @ knots
    return samples


@functools.cache
def _spline(num_knots: int, closed: bool) -> NDArray[np.float64]:
    """The weights of the knots in every sample of `curve`, shape (num_samples, num_knots)."""
    num_segments = num_knots if closed else num_knots - 1
    weights = np.zeros((num_segments, len(_STEPS), num_knots))
    for segment in range(num_segments):
        for k in range(4):
            knot = segment + k - 1
            knot = knot % num_knots if closed else min(max(knot, 0), num_knots - 1)
            weights[segment, :, knot] += _SPLINE[:, k]
    samples = weights.reshape(-1, num_knots)
    return samples if closed else np.concatenate([samples, np.eye(num_knots)[-1:]])


def shade(colour: Sequence[float], factor: float, alpha: int | None = None) -> Colour:
    """The colour made darker (factor < 1) or lighter (> 1), optionally translucent."""
    rgb = tuple([min(255, max(0, round(channel * factor))) for channel in colour[:3]])
    return rgb if alpha is None else (*rgb, alpha)
