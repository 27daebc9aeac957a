"""One picture of what the networks will see: stored images of every class beside their views.

The views are the very ones that training makes of these images in its first epochs.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distill.config import ViewsConfig
from distill.data.decode import Pixels
from distill.data.prepare import ImageData
from distill.data.views.images import Ids, TrainingImages

VIEWS = 6  # per image
ROWS = 24  # of images in the picture, as far as every class may have one
LARGEST, SMALLEST = 128, 48  # side of an image in the picture, in pixels
GAP = 4
LINE = 22  # height of a line of text
CPU = torch.device("cpu")


def contact_sheet(data: ImageData, config: ViewsConfig, seed: int) -> Image.Image:
    """A row per image: as it is stored, then its views, below the name of its class.

    There are at most three images of a class, spread evenly over the training split; with many
    classes there are fewer and smaller ones, but no class is left out.
    """
    num_classes = len(data.classes)
    per_class = min(3, max(1, ROWS // num_classes))
    side = min(data.spec.height, LARGEST if num_classes <= ROWS else SMALLEST)
    images = TrainingImages((data.train,), data.classes, config, seed, data.spec.height)
    blocks = [_class_block(images, label, per_class) for label in range(num_classes)]
    width = (1 + VIEWS) * (side + GAP) + GAP
    height = sum(LINE + len(block) * (side + GAP) for block in blocks) + LINE + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    heads = ["stored", *(f"view {number}" for number in range(VIEWS))]
    for column, head in enumerate(heads):
        draw.text((GAP + column * (side + GAP), GAP), head, "grey", font)
    top = LINE
    counts = data.class_counts("train")
    for name, count, block in zip(data.classes, counts, blocks, strict=True):
        draw.text((GAP, top + GAP), f"{name}: {count:,} training images", "black", font)
        top += LINE
        for row in block:
            for column, pixels in enumerate(row):
                cell = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
                sheet.paste(cell, (GAP + column * (side + GAP), top))
            top += side + GAP
    return sheet


def _class_block(images: TrainingImages, label: int, most: int) -> list[list[Pixels]]:
    """Rows of images of a class: the stored one, then its views."""
    labels = images.labels
    members = np.flatnonzero(labels[:, label] == 1 if labels.ndim == 2 else labels == label)
    spread = np.linspace(0, len(members) - 1, min(most, len(members)))
    ids: Ids = members[spread.round().astype(np.int64)]
    columns = [_to_pixels(images.view(ids, number, CPU)) for number in range(VIEWS)]
    return [list(row) for row in zip(images.pixels(ids), *columns, strict=True)]


def _to_pixels(views: Tensor) -> Pixels:
    pixels: Pixels = views.mul(255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels
