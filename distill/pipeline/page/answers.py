"""What the file that ships answers on the test images, as pictures show it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.prepare import ImageData
from distill.report.page import Pictures, picture_of
from distill.runtime.explain import with_map
from distill.runtime.predict import Predictor
from distill.scoring.tasks import SINGLE, Task, task_of

Ids = NDArray[np.int64]
MOST_NAMED = 6  # labels of an image


@dataclass(frozen=True)
class Answers:
    """A shipped file and its answers.

    Attributes:
        probs: Of the test images, `(images, classes)`.
    """

    file: Path
    data: ImageData
    probs: NDArray[Any]

    @property
    def task(self) -> Task:
        """What the labels are."""
        return task_of(self.data.task)

    @cached_property
    def predictor(self) -> Predictor:
        """The file, opened."""
        return Predictor(self.file)

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which labels the images have, `(images, classes)`."""
        return self.task.truth(self.data.test.labels, len(self.data.classes))

    @cached_property
    def given(self) -> NDArray[np.bool_]:
        """Which labels they are given, by the thresholds that the file carries."""
        return self.task.answers(self.probs, self.predictor.tuned)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Of which images all labels are right."""
        flags: NDArray[np.bool_] = (self.truth == self.given).all(axis=1)
        return flags

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy of each image, in nats."""
        return self.task.losses(self.probs, self.truth)

    @cached_property
    def has_maps(self) -> bool:
        """Whether the file gives activation maps."""
        return "cam" in self.predictor.outputs

    def pictures(self, ids: Ids, with_maps: bool = True) -> list[Pictures]:
        """Test images with what they are and what they were taken for, in the order of `ids`.

        Args:
            with_maps: Beside each, what made the answer so, where the file can tell: of the class
                that was answered or, of several labels, of the one that costs the most.
        """
        maps = self._maps(ids) if with_maps and self.has_maps and len(ids) else None
        shown = []
        for place, index in enumerate(ids.tolist()):
            pixels = np.asarray(self.data.test.pixels[index])
            sources = [picture_of(pixels)]
            if maps is not None:
                whole = (0, 0, pixels.shape[1], pixels.shape[0])
                heated = with_map(Image.fromarray(pixels), maps[place], whole)
                sources.append(picture_of(np.asarray(heated)))
            alt, tone = self.words(index), "good" if self.right[index] else "bad"
            name = self.data.test.names[index]
            caption = f"{'right' if self.right[index] else 'wrong'}: {alt}; {name}"
            shown.append(Pictures(sources, alt, caption, tone))
        return shown

    def words(self, index: int) -> str:
        """What an image is and what it was taken for, with the probabilities."""
        if self.task is SINGLE:
            answer, label = int(self.probs[index].argmax()), int(self.data.test.labels[index])
            said = self._share(index, answer)
            if self.probs[index, answer] < self.predictor.thresholds[answer]:
                said += ", too unsure to be given"
            is_same = answer == label
            return f"{said}" if is_same else f"{self._share(index, label)}, taken for {said}"
        has, given = (self._named(index, flags[index]) for flags in (self.truth, self.given))
        worst = self._share(index, int(self._costs(index).argmax()))
        return f"has {has}; given {given}; worst {worst}"

    def _share(self, index: int, label: int) -> str:
        return f"{self.data.classes[label]} ({100.0 * self.probs[index, label]:.0f} %)"

    def _named(self, index: int, flags: NDArray[np.bool_]) -> str:
        names = [self.data.classes[i] for i in np.flatnonzero(flags)]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return f"{', '.join(names[:MOST_NAMED])}{more}" or "nothing"

    def _costs(self, index: int) -> NDArray[np.float64]:
        """How far each label's probability is from what it should be."""
        costs: NDArray[np.float64] = np.abs(self.probs[index] - self.truth[index])
        return costs

    def _maps(self, ids: Ids) -> NDArray[np.float32]:
        """Activation maps `(ids, h, w)`."""
        pixels = np.ascontiguousarray(self.data.test.pixels[ids])
        cams = self.predictor.answers(pixels, "cam").cams
        assert cams is not None
        if self.task is SINGLE:
            of = self.probs[ids].argmax(axis=1)
        else:
            of = np.array([self._costs(index).argmax() for index in ids])
        kept: NDArray[np.float32] = cams[np.arange(len(ids)), of]
        return kept
