"""Training views: a batch of stored images to augmented images in [0, 1], in one kernel per batch.

The view of an image is a pure function of (seed, image, view number), so that a resumed epoch
replays, every student of every strategy sees the same views, and a teacher's logits can be stored
per view (consistent teaching: Beyer et al., 2021, arXiv:2106.05237).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distill.config import ViewsConfig
from distill.data.draws import Draws

# RGB -> YIQ, in which a rotation of hue is a rotation of (I, Q).
_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64
)
_LUMA = torch.tensor([0.299, 0.587, 0.114])


def to_unit(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 `(batch, h, w, 3)` as float32 `(batch, 3, h, w)` in [0, 1]."""
    images = torch.tensor(pixels, device=device).permute(0, 3, 1, 2)
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def make_views(
    pixels: NDArray[np.uint8], draws: Draws, config: ViewsConfig, size: int, device: torch.device
) -> Tensor:
    """Augmented views of a batch.

    Args:
        pixels: Stored images, uint8 `(batch, h, w, 3)`.
        draws: Their random numbers; `draws.step` is the view number.
        size: Height and width of a view.

    Returns:
        float32 `(batch, 3, size, size)` in [0, 1].
    """
    images = to_unit(pixels, device)
    theta = torch.from_numpy(crop_matrices(draws, config)).to(device, torch.float32)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    matrix, offset = _colour_maps(draws, config, views)
    flat = torch.baddbmm(offset[:, :, None], matrix, views.flatten(2))
    views = flat.clamp_(0.0, 1.0).view_as(views)
    return _erase(views, draws, config) if config.erase > 0 else views


def crop_matrices(draws: Draws, config: ViewsConfig) -> NDArray[np.float64]:
    """Crop, rotation and flip as affine maps from output to input coordinates in [-1, 1].

    Area and aspect ratio of the crop are drawn as in Szegedy et al., 2014 (arXiv:1409.4842),
    except that a crop larger than the image is cut back to it instead of being drawn again.

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
    centre_x = (2.0 * u[:, 2] - 1.0) * (1.0 - width)
    centre_y = (2.0 * u[:, 3] - 1.0) * (1.0 - height)
    angle = np.radians(config.rotate_degrees) * (2.0 * u[:, 4] - 1.0)
    mirror = np.where(u[:, 5] < config.flip, -1.0, 1.0)
    theta = np.empty((len(u), 2, 3))
    theta[:, 0, 0] = mirror * width * np.cos(angle)
    theta[:, 0, 1] = -width * np.sin(angle)
    theta[:, 1, 0] = mirror * height * np.sin(angle)
    theta[:, 1, 1] = height * np.cos(angle)
    theta[:, 0, 2], theta[:, 1, 2] = centre_x, centre_y
    return theta


def _colour_maps(draws: Draws, config: ViewsConfig, views: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, contrast, saturation and hue as one affine map of RGB per image.

    Contrast keeps the mean brightness of the view.

    Returns:
        Matrices `(batch, 3, 3)` and offsets `(batch, 3)`.
    """
    u = 2.0 * torch.from_numpy(draws.uniform("colour", 4)) - 1.0
    brightness = (1.0 + config.brightness * u[:, 0])[:, None, None]
    contrast = (1.0 + config.contrast * u[:, 1])[:, None, None]
    saturation = (1.0 + config.saturation * u[:, 2])[:, None, None]
    angle = 2.0 * math.pi * config.hue * u[:, 3]
    rotation = torch.zeros(len(u), 3, 3, dtype=torch.float64)
    rotation[:, 0, 0] = 1.0
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -angle.sin(), angle.sin()
    hue = torch.linalg.inv(_YIQ) @ rotation @ _YIQ
    grey = _LUMA.double().expand(3, 3)
    colour = (saturation * torch.eye(3) + (1.0 - saturation) * grey) @ hue
    matrix = (contrast * brightness * colour).to(views.device, torch.float32)
    mean = torch.einsum("bc,c->b", views.mean(dim=(2, 3)), _LUMA.to(views.device))
    shift = ((1.0 - contrast) * brightness)[:, 0, 0].to(views.device, torch.float32)
    return matrix, (shift * mean)[:, None].expand(-1, 3)


def _erase(views: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    """Random erasing (Zhong et al., 2017, arXiv:1708.04896) with mid-grey."""
    u = torch.from_numpy(draws.uniform("erase", 5)).to(views.device, torch.float32)
    area = 0.02 + 0.18 * u[:, 1]
    log_ratio = math.log(3.0) * (2.0 * u[:, 2] - 1.0)
    height, width = (area * log_ratio.exp()).sqrt(), (area / log_ratio.exp()).sqrt()
    axis = torch.linspace(0.0, 1.0, views.shape[-1], device=views.device)

    def inside(start: Tensor, length: Tensor) -> Tensor:
        begin = (start * (1.0 - length))[:, None]
        return (axis >= begin) & (axis <= begin + length[:, None])

    box = inside(u[:, 3], height)[:, :, None] & inside(u[:, 4], width)[:, None, :]
    hit = box & (u[:, 0] < config.erase)[:, None, None]
    return views.masked_fill(hit[:, None], 0.5)
