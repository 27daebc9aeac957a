"""Training views: a batch of stored images to augmented images in [0, 1], in one kernel per batch.

The view of an image is a pure function of (seed, image, view number), so that a resumed epoch
replays, every student of every strategy sees the same views, and a teacher's logits can be stored
per view (consistent teaching: Beyer et al., 2021, arXiv:2106.05237). What is drawn is decided in
`distill.data.views.parameters`, on the host: no step waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distill.config import ViewsConfig
from distill.data.views import parameters
from distill.data.views.draws import Draws, Floats, Ints
from distill.data.views.parameters import LUMA, crop_matrices
from distill.device import to_device

# Stored pixels between two samples. A checkerboard of single pixels, shrunk by any factor above
# this one, differs from grey by at most 7 % of full range; with 1.5 it would be 13 %.
COARSEST = 1.25
VIEWS_VERSION = 2  # of what views come out; a change of it makes teacher caches anew


def to_unit(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 `(batch, h, w, 3)` as float32 `(batch, 3, h, w)` in [0, 1]."""
    images = to_device(torch.tensor(pixels), device).permute(0, 3, 1, 2)
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def make_views(
    pixels: NDArray[np.uint8] | Tensor,
    draws: Draws,
    config: ViewsConfig,
    size: int,
    device: torch.device,
    labels: Ints | None = None,
    classes: Sequence[str] = (),
    motion: Floats | None = None,
) -> Tensor:
    """Augmented views of a batch.

    Args:
        pixels: Stored images, uint8 `(batch, h, w, 3)`.
        draws: Their random numbers; `draws.step` is the view number.
        size: Height and width of a view.
        labels: Class indices `(batch,)`, -1 for an image without one; needed where
            `config.per_class` has entries.
        classes: Names of the classes, by index.
        motion: Affine maps `(batch, 2, 3)` that the finished crops are seen through, see `moves`.

    Returns:
        float32 `(batch, 3, size, size)` in [0, 1].
    """
    strength = parameters.strengths(config, labels, classes)
    stored = torch.tensor(pixels) if isinstance(pixels, np.ndarray) else pixels
    theta = crop_matrices(draws, config, size)
    if motion is not None:
        theta = parameters.composed(theta, motion)
    views = _resample(to_device(stored, device), theta, size)
    views = _recolour(views, *parameters.colour_maps(draws, strength))
    hit, sigma = parameters.blurred(draws, strength)
    if len(hit):  # only these pay
        rows = to_device(hit, device)
        kernels = parameters.blur_kernels(sigma, parameters.blur_radius(config, size))
        views.index_copy_(0, rows, blur(views.index_select(0, rows), kernels))
    if config.erase > 0:
        masks = parameters.erase_boxes(draws, config.erase, size)
        down, across = (to_device(mask, device) for mask in masks)
        views.masked_fill_(down[:, None, :, None] & across[:, None, None, :], 0.5)
    return views


def _resample(stored: Tensor, theta: Floats, size: int) -> Tensor:
    """Affine crops, in 0 to 255, of uint8 images `(batch, h, w, 3)`.

    Bilinear samples lie at most `COARSEST` stored pixels apart: a view that shrinks more
    has several samples per pixel and side, as many as its own crop needs, and takes their mean.
    Images are grouped by that number, which is 1 for all of them where the margin is small.
    """
    height, width = stored.shape[1:3]
    apart = np.linalg.norm(theta[:, :, :2] * np.array([[width], [height]]), axis=1) / size
    per_side = np.ceil(apart.max(axis=1) / COARSEST - 1e-6).astype(np.int64).clip(min=1)
    groups = np.unique(per_side)
    if len(groups) == 1:
        return _sample(stored, theta, size, int(groups[0]))
    views = torch.empty(len(stored), 3, size, size, device=stored.device)
    for samples in groups:
        members = np.flatnonzero(per_side == samples)
        rows = to_device(members, stored.device)
        group = _sample(stored.index_select(0, rows), theta[members], size, int(samples))
        views.index_copy_(0, rows, group)
    return views


def _sample(stored: Tensor, theta: Floats, size: int, per_side: int) -> Tensor:
    """The mean of `per_side` x `per_side` samples spread evenly over each pixel of the views."""
    # Channels stay last: a transposed copy costs more than reading across them.
    images = stored.to(torch.float32).permute(0, 3, 1, 2)
    offsets = ((np.arange(per_side) + 0.5) / per_side - 0.5) * 2.0 / size

    def at(right: float, below: float) -> Tensor:
        moved = theta.copy()
        moved[:, :, 2] += right * theta[:, :, 0] + below * theta[:, :, 1]
        grid = affine_grid(to_device(moved.astype(np.float32), stored.device), size)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    views = at(offsets[0], offsets[0])
    for right, below in list(product(offsets, offsets))[1:]:
        views += at(right, below)
    return views.div_(per_side**2) if per_side > 1 else views


def affine_grid(theta: Tensor, size: int) -> Tensor:
    """`torch.nn.functional.affine_grid` of square views without its matrix product.

    x and y lie in planes of their own, which `grid_sample` reads fastest.

    Args:
        theta: `(batch, 2, 3)`.

    Returns:
        `(batch, size, size, 2)`.
    """
    axis = (2.0 * torch.arange(size, device=theta.device) + 1.0) / size - 1.0
    across = theta[:, :, 0, None] * axis  # (batch, 2, width)
    down = theta[:, :, 1, None] * axis + theta[:, :, 2, None]  # (batch, 2, height)
    return (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)


def _recolour(views: Tensor, matrices: Floats, shifts: Floats) -> Tensor:
    """Affine maps of RGB, from 0 to 255 to [0, 1]."""
    matrix, shift, luma = (
        to_device(array.astype(np.float32), views.device)
        for array in (matrices / 255.0, shifts / 255.0, LUMA)
    )
    mean = (views.mean(dim=(2, 3)) * luma).sum(dim=1)  # (batch,)
    offset = (shift * mean)[:, None, None]
    flat = torch.bmm(matrix, views.flatten(2))
    return flat.add_(offset).clamp_(0.0, 1.0).view_as(views)


def blur(images: Tensor, kernels: Floats) -> Tensor:
    """Blurs each image with its own kernel, along one axis and then along the other.

    Args:
        images: `(batch, channels, height, width)`, more than the kernels' radius high and wide;
            beyond its edge an image is its mirror image.
        kernels: `(batch, 2 * radius + 1)`.
    """
    batch, channels, height, width = images.shape
    radius = kernels.shape[1] // 2
    weights = to_device(kernels.astype(np.float32), images.device).to(images.dtype)
    weights = weights.repeat_interleave(channels, dim=0)[:, None]  # (batch * channels, 1, taps)
    planes = F.pad(images, [radius] * 4, mode="reflect")
    planes = planes.view(1, batch * channels, height + 2 * radius, width + 2 * radius)
    planes = F.conv2d(planes, weights[:, :, None, :], groups=batch * channels)
    planes = F.conv2d(planes, weights[:, :, :, None], groups=batch * channels)
    return planes.view_as(images)
