"""What is seen in each frame: faces with a number and a label, or a label of the whole frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.runtime.faces import SIDE, Face, FaceFinder, crop, load_opencv
from distill.runtime.predict import Prediction, Predictor
from distill.runtime.video.source import Frame
from distill.runtime.video.tracking import Tracker
from distill.scoring.cascades import Box

EVERY = 5  # frames from one search to the next
LEAST = 48  # pixels of the smallest face for cascades, to which those of 24 cost twice the time
NEW = 0.2  # share of a frame's own answer in the one that is given: half of it is of 3 frames


@dataclass(frozen=True)
class Person:
    """A face of a frame, with the number that it has had since it appeared."""

    number: int
    face: Face

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return {"id": self.number, **self.face.to_json()}


@dataclass(frozen=True)
class Seen:
    """What there is in a frame.

    Attributes:
        people: Faces by number; None where the frame was classified as a whole.
        whole: What the model says of the whole frame; None where faces were looked for.
    """

    frame: Frame
    people: tuple[Person, ...] | None
    whole: Prediction | None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it: `frame`, `time_s` and `faces`, or the answer itself."""
        record: dict[str, Any] = {"frame": self.frame.index, "time_s": round(self.frame.time_s, 3)}
        if self.whole:
            record |= self.whole.to_json()
            del record["path"]
            return record
        return {**record, "faces": [person.to_json() for person in self.people or ()]}


def finder_of(model: Path | None) -> FaceFinder:
    """What finds the faces of frames: YuNet, or cascades that look for larger ones than usual."""
    return FaceFinder(model) if model else FaceFinder(least=LEAST)


class Watcher:
    """Looks at the frames of one video, in order.

    Faces are searched for every few frames, and followed in between; each is classified in every
    frame. Its probabilities are smoothed over time, as one blurred frame is no news.

    Args:
        finder: None classifies whole frames.
        every: Frames from one search to the next.
    """

    def __init__(self, predictor: Predictor, finder: FaceFinder | None, every: int = EVERY) -> None:
        self._predictor, self._finder, self._every = predictor, finder, every
        self._cv2 = load_opencv()
        self._tracker, self._looked = Tracker(), 0
        self._smooth: dict[int, NDArray[np.float32]] = {}

    def see(self, frame: Frame) -> Seen:
        """What is in the next frame."""
        if self._finder is None:
            (answer,) = self._label({0: Image.fromarray(frame.pixels)}).values()
            return Seen(frame, None, answer)
        boxes = self._follow(frame.pixels, self._finder)
        image = Image.fromarray(frame.pixels)
        answers = self._label({number: crop(image, box) for number, box in boxes.items()})
        people = (Person(number, Face(box, answers[number])) for number, box in boxes.items())
        return Seen(frame, tuple(people), None)

    def _follow(self, pixels: NDArray[np.uint8], finder: FaceFinder) -> dict[int, Box]:
        """Where whom is, in pixels of the frame; searched and followed in `SIDE` pixels of it."""
        height, width = pixels.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = self._cv2.resize(pixels, size, interpolation=self._cv2.INTER_AREA)
        self._tracker.move(self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2GRAY))
        if self._looked % self._every == 0:
            self._tracker.update(finder.find(Image.fromarray(pixels)))
        self._looked += 1
        tracks = self._tracker.tracks
        boxes = {t.number: Box.within((width, height), *(t.place / scale)) for t in tracks}
        return {number: box for number, box in boxes.items() if box.width and box.height}

    def _label(self, images: dict[int, Image.Image]) -> dict[int, Prediction]:
        """The answers to pictures by number, each with what was said of that number before."""
        if not images:
            self._smooth = {}
            return {}
        pixels = np.stack([self._predictor.pixels(image) for image in images.values()])
        own = dict(zip(images, self._predictor.examine(pixels), strict=True))
        before, self._smooth = self._smooth, {}
        for number, answer in own.items():
            probs = np.fromiter(answer.probs.values(), np.float32)
            if number in before:
                probs = before[number] + NEW * (probs - before[number])
            self._smooth[number] = probs
        return {
            number: self._predictor.decide(probs, outlier=own[number].outlier)
            for number, probs in self._smooth.items()
        }
