"""Faces in a picture: found, cut out with a margin, each classified on its own.

What finds them is OpenCV: its Haar cascades (Viola and Jones, 2001), which come with the package,
or YuNet (Wu et al., 2023, doi:10.1007/s11633-023-1423-y), where its file is given.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.decode import to_image
from distill.errors import UserError, first_line, install_command
from distill.runtime.predict import Prediction, Predictor
from distill.scoring.cascades import FRONT, FRONT_ALT, Box, cascade, has_cascades

MARGIN = 0.1  # of a box's size, added on each side: 0.3 cost masks 3 points (LOG)
SIDE = 640  # pixels of the longer side that are searched: more is scaled down to it
LEAST = 24  # pixels of the smallest face in what is searched: the cascades' own window
STEP, NEIGHBOURS = 1.1, 4  # between sizes that are tried; hits that make a face, of those nearby
YUNET_SCORE = 0.6  # that YuNet has to be sure of a face
OVERLAP = 0.4  # share of the smaller of two boxes from which on they are the same face
QUIET = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}  # its errors are ours to say


class Found(NamedTuple):
    """A box that a detector is so sure of, in pixels of what it searched."""

    x: float
    y: float
    width: float
    height: float
    score: float


def load_opencv() -> Any:
    """OpenCV, which prints nothing of its own unless the environment asks it to.

    Raises:
        UserError: It is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import cv2
    except ImportError:
        raise UserError(
            "faces and video need OpenCV, which is missing", hint=install_command("faces")
        ) from None
    return cv2


class FaceFinder:
    """Where the faces of a picture are. Threads may share one: each has detectors of its own.

    Args:
        model: A file of YuNet, such as `face_detection_yunet_2023mar.onnx`; None for cascades.
        side: Pixels of the longer side that are searched; a larger picture is scaled down to it.
        least: Pixels of the smallest face, in what is searched; from 24 on.

    Raises:
        UserError: OpenCV is missing, or has no cascades any more (5); the file is none of YuNet.
    """

    def __init__(self, model: Path | None = None, side: int = SIDE, least: int = LEAST) -> None:
        self._cv2 = load_opencv()
        if model is None and not has_cascades():
            what = f"OpenCV {self._cv2.__version__} has no Haar cascades"
            raise UserError(what, hint=f"{install_command('faces')}, or name a file of YuNet")
        self.model, self.side, self.least = model, side, max(least, LEAST)
        self._own = threading.local()
        self._detector()  # what is wrong with a file is said now

    def __reduce__(self) -> tuple[type[FaceFinder], tuple[Path | None, int, int]]:
        """How it travels to other processes: each makes its own detectors."""
        return type(self), (self.model, self.side, self.least)

    def find(self, image: Image.Image) -> list[Box]:
        """Boxes of the faces, all within the picture and the largest first; of none, no boxes.

        Args:
            image: RGB, upright.
        """
        scale = min(1.0, self.side / max(image.size))
        if scale < 1.0:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            small = image.resize(size, Image.Resampling.BILINEAR)
        else:
            small = image
        if min(small.size) < self.least:
            return []
        found = _distinct(self._detector().detect(np.asarray(small.convert("RGB")), self.least))
        boxes = [Box.within(image.size, *(value / scale for value in face[:4])) for face in found]
        kept = [box for box in boxes if box.width and box.height]
        return sorted(kept, key=lambda box: (-box.width * box.height, box.x, box.y))

    def _detector(self) -> _Cascades | _YuNet:
        if not hasattr(self._own, "detector"):
            detector = _Cascades(self._cv2) if self.model is None else _YuNet(self._cv2, self.model)
            self._own.detector = detector
        detector_: _Cascades | _YuNet = self._own.detector
        return detector_


class _Cascades:
    """Faces from the front, by two cascades: each finds some that the other does not."""

    def __init__(self, cv2: Any) -> None:
        self._cv2, self._cascades = cv2, [cascade(name) for name in (FRONT, FRONT_ALT)]

    def detect(self, rgb: NDArray[np.uint8], least: int) -> list[Found]:
        grey = self._cv2.cvtColor(rgb, self._cv2.COLOR_RGB2GRAY)
        found = []
        for known in self._cascades:
            boxes, hits = known.detectMultiScale2(grey, STEP, NEIGHBOURS, minSize=(least, least))
            found += [_found(box, count) for box, count in zip(boxes, hits, strict=True)]
        return found


class _YuNet:
    """Faces by a small network, of which only the boxes are used."""

    def __init__(self, cv2: Any, model: Path) -> None:
        if not model.is_file():
            raise UserError("no such file", str(model), "name a file of YuNet")
        self._cv2, self._model = cv2, model
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (LEAST, LEAST), YUNET_SCORE)
            self.detect(np.zeros((64, 64, 3), np.uint8), LEAST)
        except cv2.error as error:
            what = f"no face detector of the kind of YuNet ({_reason(error)})"
            hint = "name such as face_detection_yunet_2023mar.onnx of OpenCV's model zoo"
            raise UserError(what, str(model), hint) from None

    def detect(self, rgb: NDArray[np.uint8], least: int) -> list[Found]:
        self._net.setInputSize(rgb.shape[1::-1])
        _, rows = self._net.detect(np.ascontiguousarray(rgb[..., ::-1]))  # it takes BGR
        found = [_found(row[:4], row[-1]) for row in (() if rows is None else rows)]
        return [face for face in found if min(face.width, face.height) >= least]


def _reason(error: Exception) -> str:
    return first_line(error).rpartition("error: ")[2]


def _found(box: Any, score: Any) -> Found:
    x, y, width, height = map(float, box)
    return Found(x, y, width, height, float(score))


def _distinct(found: list[Found]) -> list[Found]:
    """The surest of boxes that overlap; one that lies in another is the same face, too."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: (-face.score, face)):
        if all(_shared(face, other) < OVERLAP for other in kept):
            kept.append(face)
    return kept


def _shared(one: Found, other: Found) -> float:
    """Share of the smaller box that lies in the larger."""
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    smaller = min(one.width * one.height, other.width * other.height)
    return max(0.0, across) * max(0.0, down) / max(smaller, 1e-9)


def crop(image: Image.Image, box: Box, margin: float = MARGIN) -> Image.Image:
    """A face with what is around it; at the border less is, as nothing is made up.

    Args:
        margin: Of the box's size, added on each side.
    """
    across, down = margin * box.width, margin * box.height
    size = (box.width + 2 * across, box.height + 2 * down)
    x, y, width, height = Box.within(image.size, box.x - across, box.y - down, *size)
    return image.crop((x, y, x + width, y + height))


@dataclass(frozen=True)
class Face:
    """A face of a picture.

    Attributes:
        box: Where it is, in pixels of the upright picture; without the margin.
        prediction: What the model says of it; its path is None.
    """

    box: Box
    prediction: Prediction

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it."""
        answer = self.prediction.to_json()
        del answer["path"]
        return {"box": list(self.box), **answer}

    def __str__(self) -> str:
        return (
            f"{self.box.width} x {self.box.height} at {self.box.x}, {self.box.y}: {self.prediction}"
        )


@dataclass(frozen=True)
class Faces:
    """What is in a picture: faces, the largest first.

    Attributes:
        path: Where the picture came from, or None.
        size: Its width and height, upright.
    """

    path: str | None
    size: tuple[int, int]
    faces: tuple[Face, ...]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it."""
        faces = [face.to_json() for face in self.faces]
        return {"path": self.path, "size": list(self.size), "faces": faces}

    def __str__(self) -> str:
        """A line that says how many there are, and one for each of them."""
        count = len(self.faces)
        heading = f"{count} face{'s' if count > 1 else ''}" if count else "no face found"
        return "\n".join([heading, *(f"  {face}" for face in self.faces)])


def label_faces(
    image: Any,
    predictor: Predictor,
    finder: FaceFinder,
    margin: float = MARGIN,
    explain: bool = False,
) -> Faces:
    """Finds the faces of a picture and classifies each.

    Args:
        image: One picture, as `Predictor.predict` takes it.
        margin: What of a box's size is added on each side.
        explain: With the activation map of each face, if the file has one.

    Raises:
        UnreadableImageError: It is no picture.
        OSError: Its file cannot be read now.
    """
    picture = to_image(image)
    boxes = finder.find(picture)
    answers = predictor.predict([crop(picture, box, margin) for box in boxes], explain=explain)
    faces = tuple(Face(box, answer) for box, answer in zip(boxes, answers, strict=True))
    path = str(image) if isinstance(image, str | Path) else None
    return Faces(path, picture.size, faces)
