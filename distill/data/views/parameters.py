"""What is drawn for training views: crops, colours, blurs and boxes as small arrays, no pixels.

Every feature draws from a stream of its own, so a new one leaves the draws of the others alone.
All of it is float64 numpy: the device sees finished parameters, the same ones on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill.config import ClassViews, ViewsConfig
from distill.data.views.draws import Draws, Floats, Ints
from distill.errors import UserError, alike, did_you_mean

LUMA = np.array([0.299, 0.587, 0.114])
# RGB -> YIQ, in which a rotation of hue is a rotation of (I, Q).
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
Bools = NDArray[np.bool_]
Strengths = dict[str, Floats]


def check_views(config: ViewsConfig, classes: Sequence[str], task: str = "single") -> None:
    """Raises UserError where `per_class` names a class that the data does not have.

    Also where images may have several labels: it would not say whose strengths an image gets.
    """
    if config.per_class and task == "multi":
        what = "an image with several labels has no class of its own"
        raise UserError(what, "views.per_class", "leave it out")
    unknown = sorted({*config.per_class} - {*classes})
    if unknown:
        hint = did_you_mean(alike(unknown[0], classes)) or f"name one of {', '.join(classes)}"
        raise UserError(f"no class named {unknown[0]!r}", "views.per_class", hint)


def strengths(config: ViewsConfig, labels: Ints | None, classes: Sequence[str]) -> Strengths:
    """The options that a class may have of its own, per sample: `(batch, ...)` by name.

    Where no class has any, there is one row for all samples.

    Args:
        labels: Class indices `(batch,)`, -1 for an image without a label.
    """
    keys = list(ClassViews.model_fields)
    if not config.per_class:
        return {key: np.asarray([getattr(config, key)], dtype=np.float64) for key in keys}
    assert labels is not None, "views.per_class needs the labels of the batch"
    own = [config.per_class.get(name, ClassViews()) for name in classes]

    def table(key: str) -> Floats:
        rows = [getattr(views, key) for views in [*own, ClassViews()]]  # the last is found by -1
        common = getattr(config, key)
        return np.asarray([common if row is None else row for row in rows], dtype=np.float64)

    return {key: table(key)[labels] for key in keys}


def crop_matrices(draws: Draws, config: ViewsConfig, size: int) -> Floats:
    """Crop, rotation, shear, flip and shift as affine maps from output to input in [-1, 1].

    Area and aspect ratio of the crop are drawn as in Szegedy et al., 2014 (arXiv:1409.4842),
    except that a crop larger than the image is cut back to it instead of being drawn again. What
    is cut out is then mirrored, sheared, turned and shifted within the frame of the view: by whole
    pixels, as between them a shift would blur.

    Args:
        size: Height and width of the views, in pixels.

    Returns:
        `(batch, 2, 3)`, as `torch.nn.functional.affine_grid` takes it.
    """
    u = draws.uniform("crop", 6)
    low, high = config.crop_scale
    area = low + (high - low) * u[:, 0]
    log_ratio = np.log(config.crop_ratio[0]) + u[:, 1] * np.log(
        config.crop_ratio[1] / config.crop_ratio[0]
    )
    width = np.minimum(np.sqrt(area * np.exp(log_ratio)), 1.0)
    height = np.minimum(np.sqrt(area * np.exp(-log_ratio)), 1.0)
    angle = np.radians(config.rotate_degrees) * (2.0 * u[:, 4] - 1.0)
    mirror = np.where(u[:, 5] < config.flip, -1.0, 1.0)
    moved = 2.0 * draws.uniform("affine", 3) - 1.0
    slope = np.tan(np.radians(config.shear_degrees) * moved[:, 2])
    theta = np.empty((len(u), 2, 3))
    theta[:, 0, 0] = mirror * width * np.cos(angle)
    theta[:, 0, 1] = width * (slope * np.cos(angle) - np.sin(angle))
    theta[:, 1, 0] = mirror * height * np.sin(angle)
    theta[:, 1, 1] = height * (slope * np.sin(angle) + np.cos(angle))
    pixels = np.rint(config.translate * size * moved[:, :2])
    shift = 2.0 * pixels / size  # a view is 2 wide in these coordinates
    theta[:, 0, 2] = (2.0 * u[:, 2] - 1.0) * (1.0 - width)
    theta[:, 1, 2] = (2.0 * u[:, 3] - 1.0) * (1.0 - height)
    theta[:, :, 2] -= np.einsum("nij,nj->ni", theta[:, :, :2], shift)
    return theta


def moves(draws: Draws, flip: float, shift: float, size: int) -> Floats:
    """Mirror images and shifts by whole pixels, as maps from output to input in [-1, 1].

    Args:
        flip: Probability of a mirror image.
        shift: Largest shift in each direction, as a share of `size`, a view's height and width.

    Returns:
        `(batch, 2, 3)`.
    """
    u = draws.uniform("motion", 3)
    theta = np.zeros((len(u), 2, 3))
    theta[:, 0, 0] = np.where(u[:, 2] < flip, -1.0, 1.0)
    theta[:, 1, 1] = 1.0
    theta[:, :, 2] = 2.0 * np.rint(shift * size * (2.0 * u[:, :2] - 1.0)) / size
    return theta


def composed(first: Floats, then: Floats) -> Floats:
    """The affine map `(batch, 2, 3)` that reads what `first` gives through `then`."""
    result = first[:, :, :2] @ then
    result[:, :, 2] += first[:, :, 2]
    return result


def colour_maps(draws: Draws, strength: Strengths) -> tuple[Floats, Floats]:
    """Brightness, contrast, saturation and hue as one affine map of RGB per image.

    Returns:
        Matrices `(batch, 3, 3)`, and factors `(batch,)` on the view's mean brightness that are
        added to every channel, as contrast keeps that mean.
    """
    u = 2.0 * draws.uniform("colour", 4) - 1.0
    brightness = 1.0 + strength["brightness"] * u[:, 0]
    contrast = 1.0 + strength["contrast"] * u[:, 1]
    saturation = (1.0 + strength["saturation"] * u[:, 2])[:, None, None]
    angle = 2.0 * math.pi * strength["hue"] * u[:, 3]
    rotation = np.zeros((len(u), 3, 3))
    rotation[:, 0, 0] = 1.0
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 1, 2], rotation[:, 2, 1] = -np.sin(angle), np.sin(angle)
    hue = np.linalg.inv(_YIQ) @ rotation @ _YIQ
    colour = (saturation * np.eye(3) + (1.0 - saturation) * LUMA) @ hue
    return (contrast * brightness)[:, None, None] * colour, (1.0 - contrast) * brightness


def blurred(draws: Draws, strength: Strengths) -> tuple[Ints, Floats]:
    """Which rows of the batch are blurred, `(hit,)`, and their standard deviations in pixels."""
    u = draws.uniform("blur", 2)
    low, high = strength["blur_sigma"].T
    sigma = low + (high - low) * u[:, 1]
    rows = np.flatnonzero(u[:, 0] < strength["blur"])
    return rows, sigma[rows]


def blur_radius(config: ViewsConfig, size: int) -> int:
    """Pixels to either side of a blur's centre; one for all images, whoever is in the batch."""
    if config.blur_size is not None:
        return min(config.blur_size // 2, size - 1)
    own = [views.blur_sigma for views in config.per_class.values() if views.blur_sigma]
    largest = max(high for _, high in (config.blur_sigma, *own))
    return min(math.ceil(3.0 * largest), size - 1)  # a mirror image reaches no further


def blur_kernels(sigma: Floats, radius: int) -> Floats:
    """Gaussian weights that add up to 1, `(len(sigma), 2 * radius + 1)`."""
    distance = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    result: Floats = weights / weights.sum(axis=1, keepdims=True)
    return result


def erase_boxes(draws: Draws, erase: float, size: int) -> tuple[Bools, Bools]:
    """Rows and columns of the box that is erased, both `(batch, size)`; of most images none.

    Random erasing of Zhong et al., 2017 (arXiv:1708.04896).
    """
    u = draws.uniform("erase", 5)
    area = 0.02 + 0.18 * u[:, 1]
    ratio = np.exp(math.log(3.0) * (2.0 * u[:, 2] - 1.0))
    axis = np.linspace(0.0, 1.0, size)

    def inside(start: Floats, length: Floats) -> Bools:
        begin = (start * (1.0 - length))[:, None]
        result: Bools = (axis >= begin) & (axis <= begin + length[:, None])
        return result

    hit = (u[:, 0] < erase)[:, None]
    return inside(u[:, 3], np.sqrt(area * ratio)) & hit, inside(u[:, 4], np.sqrt(area / ratio))
