"""Paints 128x128 pictures of faces in three classes that differ by what a mask covers.

The label decides where the mask sits; skin, hair, clothes, light and backdrop are drawn alike
for every class, and scarves, hands and beards borrow the mask's colours and place.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from distill.data.demo import covers, face
from distill.data.demo.brush import OVERSAMPLING, SIZE, Brush, Pose, Skull, Stroke, draw, ellipse
from distill.data.demo.looks import CLASSES, Look, Setting, sample_look

__all__ = ["CLASSES", "SIZE", "describe", "label_of", "paint", "render"]

_LABELS, _FACES = range(2)  # streams of random numbers that must not overlap
_BYTE_STD = 73.9  # standard deviation of a uniform byte


def paint(index: int, seed: int = 0) -> tuple[NDArray[np.uint8], int]:
    """Paints one picture of the endless data set that `seed` names.

    Args:
        index: position in the data set, from 0; pictures do not depend on one another.
        seed: from 0; names the data set, different seeds give unrelated ones.

    Returns:
        The picture, RGB of shape (128, 128, 3), and its label, an index into `CLASSES`. Each
        run of three labels that starts at a multiple of three holds every class once.

    Raises:
        ValueError: if index or seed is negative.
    """
    look, label, rng = describe(index, seed)
    return render(look, rng), label


def label_of(index: int, seed: int = 0) -> int:
    """The label of picture `index`, without painting it."""
    num_classes = len(CLASSES)
    order = _generator(seed, _LABELS, index // num_classes).permutation(num_classes)
    return int(order[index % num_classes])


def describe(index: int, seed: int = 0) -> tuple[Look, int, np.random.Generator]:
    """Decides what picture `index` shows: its look, its label, and the source of its noise."""
    label = label_of(index, seed)
    rng = _generator(seed, _FACES, index)
    return sample_look(rng, label), label, rng


def render(look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a look; `rng` supplies the sensor's noise only."""
    strokes: list[Stroke] = []
    _add_ornaments(strokes, look.setting)
    _add_person(strokes, look)
    picture = _backdrop(look.setting)
    draw(strokes, picture)
    small = picture.reduce(OVERSAMPLING)
    if look.setting.blur:
        small = small.filter(ImageFilter.BoxBlur(look.setting.blur))
    return _expose(small, look, rng)


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, stream, index))))


def _backdrop(setting: Setting) -> Image.Image:
    """An oversampled canvas: a mosaic of colours that run into one another."""
    side = SIZE * OVERSAMPLING
    tiles = np.array(setting.colours[: setting.grid**2], dtype=np.uint8)
    mosaic = Image.fromarray(tiles.reshape(setting.grid, setting.grid, 3))
    # Enlarged smoothly to half size only, then bluntly: four times cheaper, and it looks the same.
    smooth = mosaic.resize((SIZE // 2, SIZE // 2), Image.Resampling.BILINEAR)
    return smooth.resize((side, side), Image.Resampling.NEAREST)


def _add_ornaments(strokes: list[Stroke], setting: Setting) -> None:
    """Adds stripes, panels or lights to the backdrop."""
    pose = Pose(SIZE / 2, SIZE / 2, SIZE / 2, setting.light_angle, 0, 0)
    brush = Brush(strokes, pose, Skull(1, 2))
    for k, colour in enumerate(setting.colours[setting.grid**2 :]):
        x = 0.55 * k - 0.8
        if setting.backdrop == "stripes":
            brush.fill(np.array([(x, -2), (x + 0.25, -2), (x + 0.25, 2), (x, 2)]), colour)
        elif setting.backdrop == "bokeh":
            brush.fill(ellipse(x, 0.9 * (-1) ** k * (0.4 + x * x), 0.22, 0.22), (*colour, 150))
        elif setting.backdrop == "panels":
            brush.fill(np.array([(x, x - 1), (x + 0.8, x - 1), (x + 0.8, x), (x, x)]), colour)


def _add_person(strokes: list[Stroke], look: Look) -> None:
    """Adds the person from back to front; the body tilts less, and only the face turns."""
    features, outfit, pose = look.features, look.outfit, look.pose
    front = Brush(strokes, pose, look.skull)
    head = Brush(strokes, replace(pose, yaw=0, pitch=0), look.skull)
    body = Brush(strokes, replace(pose, tilt=0.4 * pose.tilt, yaw=0, pitch=0), look.skull)
    face.draw_hood_back(head, outfit)
    face.draw_back_hair(head, features)
    face.draw_body(body, features, outfit)
    scarf_over_chin = outfit.scarf is not None and outfit.scarf < 0.95
    if not scarf_over_chin:
        covers.draw_scarf(head, outfit)
    face.draw_head(head, features)
    face.draw_features(front, features)
    face.draw_hair(head, features)
    if scarf_over_chin:
        covers.draw_scarf(head, outfit)
    if outfit.mask is not None:
        covers.draw_mask(front, outfit.mask)
    face.draw_glasses(front, outfit)
    face.draw_hat(head, outfit)
    if outfit.hand is not None:
        covers.draw_hand(head, outfit.hand, features, outfit)


def _expose(picture: Image.Image, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Applies light from one side, exposure, a colour cast and the sensor's noise."""
    setting, pose = look.setting, look.pose
    axis = np.arange(SIZE, dtype=np.float32)
    ramp = math.cos(setting.light_angle) * axis + math.sin(setting.light_angle) * axis[:, None]
    across, down = (axis - pose.x) / pose.scale, (axis[:, None] - pose.y) / pose.scale
    roundness = np.maximum(1.05 - 0.07 * (across**2 + down**2), 0.9)
    slope = setting.light_contrast / SIZE
    light = roundness * (1 + slope * (ramp - ramp.mean()))
    gain = np.array(setting.cast, dtype=np.float32) * setting.exposure
    # Rows of 3 * SIZE numbers: numpy broadcasts over a last axis of three slowly.
    pixels = np.repeat(light.astype(np.float32), 3, axis=1)
    pixels *= np.tile(gain, SIZE).astype(np.float32)
    pixels *= np.asarray(picture).reshape(SIZE, 3 * SIZE)
    noise = rng.bit_generator.random_raw(pixels.size // 8).view(np.int8).reshape(pixels.shape)
    pixels += noise * np.float32(setting.noise / _BYTE_STD)
    return pixels.clip(0, 255, out=pixels).astype(np.uint8).reshape(SIZE, SIZE, 3)
