"""The baseline of early mask detectors: what OpenCV's Haar cascades find decides on the class.

Viola and Jones, 2001, doi:10.1109/CVPR.2001.990517: a face from the front or the side, eyes, a
mouth. Which class goes with what was found is read off the training split, whatever the classes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.data.prepare import ImageData
from distill.data.store import Split, spread
from distill.scoring.cascades import EYE, FRONT, MOUTH, PROFILE, Box, cascade, has_cascades
from distill.scoring.tasks import task_of

SIDE = 96  # pixels that images are scaled to; the cascades' own windows have 18 to 36
EYES = 2  # more found in a face than this are as many
MOST_TRAIN = 1000  # training images that the table is filled from, spread over the split
SAMPLE = 64  # training images that are asked whether the data are faces
FACES = 0.2  # share of them with one; photographs of masks have 0.31 and more, of things 0.05
Seen = NDArray[np.int64]


def is_wanted(data: ImageData, use: Literal["auto", "on", "off"]) -> bool:
    """Whether the baseline is to be had; `auto` asks whether it can be, and for faces."""
    return use == "on" or (use == "auto" and has_cascades() and shows_faces(data.train))


def shows_faces(split: Split) -> bool:
    """Whether the frontal cascade finds a face in enough of a sample of the images."""
    cascades, ids = Cascades(), spread(split, SAMPLE)
    found = [len(cascades.find(FRONT, cascades.grey(split.take([i])[0]))) > 0 for i in ids]
    return float(np.mean(found)) >= FACES


def haar_probs(data: ImageData) -> NDArray[np.float64]:
    """Probabilities `(n, classes)` on the test split: the shares of each class among those
    training images in which the same was found, and one more image of the usual shares.
    """
    truth = task_of(data.task).truth(data.train.labels, len(data.classes)).astype(np.float64)
    cascades, ids = Cascades(), spread(data.train, MOST_TRAIN)
    usual, table = truth.mean(axis=0), dict[bytes, tuple[NDArray[np.float64], int]]()
    for seen, labels in zip(cascades.seen(data.train, ids), truth[ids], strict=True):
        total, count = table.get(seen.tobytes(), (usual, 1))
        table[seen.tobytes()] = (total + labels, count + 1)
    every = np.arange(len(data.test.labels))
    cells = [table.get(s.tobytes(), (usual, 1)) for s in cascades.seen(data.test, every)]
    return np.stack([total / count for total, count in cells])


class Cascades:
    """OpenCV's cascades, each searching as OpenCV does by default."""

    def __init__(self) -> None:
        import cv2

        self.cv2: Any = cv2
        self.known = {name: cascade(name) for name in (FRONT, PROFILE, EYE, MOUTH)}

    def seen(self, split: Split, ids: NDArray[np.int64]) -> Seen:
        """Whether there is a face from the front, from the side, how many eyes, and a mouth.

        `(images, 4)`. Eyes are looked for in the upper part of the largest face from the front, a
        mouth in its lower half; of the image, where there is no such face.
        """
        rows = [self.seen_in(self.grey(split.take([index])[0])) for index in ids]
        return np.array(rows, np.int64).reshape(len(rows), 4)

    def seen_in(self, grey: NDArray[np.uint8]) -> tuple[int, ...]:
        """The same of one grey image."""
        faces = self.find(FRONT, grey)
        box = max(faces, key=lambda face: face.width, default=Box(0, 0, SIDE, SIDE))
        face = grey[box.y : box.y + box.height, box.x : box.x + box.width]
        eyes = self.find(EYE, face[: box.height * 3 // 5])
        mouths = self.find(MOUTH, face[box.height // 2 :])
        profiles = self.find(PROFILE, grey)
        return int(len(faces) > 0), int(len(profiles) > 0), min(len(eyes), EYES), len(mouths) > 0

    def find(self, name: str, grey: NDArray[np.uint8]) -> list[Box]:
        """Boxes of a cascade."""
        return [Box(*map(int, box)) for box in self.known[name].detectMultiScale(grey)]

    def grey(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image as cascades take it: grey, `SIDE` pixels across, its histogram even."""
        from PIL import Image

        small = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        even: NDArray[np.uint8] = self.cv2.equalizeHist(np.asarray(small))
        return even
