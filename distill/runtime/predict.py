"""The runtime side: a shipped ONNX file and pictures to labels. Never imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.config import TaskName
from distill.data.decode import (
    UnreadableImageError,
    heif_left_out,
    image_endings,
    to_pixels,
    warn_of_heif,
)
from distill.data.walk import files_below
from distill.errors import UserError
from distill.runtime.prediction import ActivationMap, Prediction
from distill.runtime.session import (
    check_probs,
    ends_of,
    open_session,
    read_metadata,
    read_outliers,
    read_spec,
    run,
)
from distill.runtime.shipped import shipped_file
from distill.runtime.threads import faster_session
from distill.scoring.tasks import task_of

Pixels = NDArray[np.uint8]
Probs = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """What a file gives for a batch of pictures.

    Attributes:
        probs: `(n, classes)`.
        cams: Class activation maps `(n, classes, h, w)`; None where they were not asked for, or
            the file has none.
        embeddings: Pooled features `(n, d)`; None likewise.
    """

    probs: Probs
    cams: NDArray[np.float32] | None = None
    embeddings: NDArray[np.float32] | None = None


class Predictor:
    """A shipped ONNX file, ready to use.

    Args:
        path: The file, or an experiment that has one; everything else is in its metadata.
        threads: Threads within an operator; 0: one per core, or only one where that is about as
            fast for one picture, which is measured.
        reject_outliers: Abstain from pictures that are unlike those of training. Without,
            `Prediction.outlier` says it, where the file can tell, and the answer stays.

    Attributes:
        outliers: How the file tells them; None where it cannot.
        task: `single`, one label per picture, or `multi`, any number of them.
        outputs: What the file gives: `prob`, and maybe `cam` and `embedding`.
        thresholds: What each class's probability must reach, `(classes,)`; for a class without
            one 0.5 in `multi`, and 0 in `single`.

    Raises:
        UserError: No such file, not an ONNX file, cut short, or not one of ours; or one that cannot
            tell what to reject.
    """

    def __init__(
        self, path: str | Path, threads: int = 0, *, reject_outliers: bool = False
    ) -> None:
        self.path, self._threads = shipped_file(Path(path)), threads
        self.reject_outliers = reject_outliers
        self.session = open_session(self.path, threads)
        self.metadata = read_metadata(self.session, self.path)
        self.names = tuple(self.metadata["names"])
        self.task: TaskName = self.metadata["task"]
        self.spec = read_spec(self.session, self.metadata, self.path)
        if threads == 0:
            grey = np.full((1, self.spec.height, self.spec.width, 3), 128, np.uint8)
            self.session = faster_session(self.session, self.path, grey)
        self.outputs = tuple(end["name"] for end in ends_of(self.session, self.path)[1])
        self.outliers = read_outliers(self.session, self.metadata, self.path)
        if reject_outliers and self.outliers is None:
            what = "this file cannot tell pictures that are unlike those of training"
            raise UserError(what, str(self.path), "answer without rejecting outliers")
        thresholds, default = self.metadata["thresholds"], task_of(self.task).threshold
        self.thresholds = np.asarray(
            [thresholds.get(name, default) for name in self.names], np.float32
        )

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[Path, int]]:
        """How it travels to other processes: each opens the file for itself."""
        opened = partial(type(self), reject_outliers=self.reject_outliers)
        return opened, (self.path, self._threads)

    @property
    def tuned(self) -> NDArray[np.float32] | None:
        """The thresholds, None where the file has none of its own."""
        return self.thresholds if self.metadata["thresholds"] else None

    def predict(
        self, images: Any, batch_size: int = 32, *, explain: bool = False
    ) -> list[Prediction]:
        """Labels of pictures.

        Args:
            images: One picture or several: paths, encoded bytes, open files, PIL images, uint8
                arrays `(h, w, 3)` or `(h, w)`, or one uint8 batch `(n, h, w, 3)`.
            explain: With a `map` each, where the file has them.

        Raises:
            UnreadableImageError: One of them is no picture; of several it says which.
            OSError: The file of one cannot be read now.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, of pictures at a time", hint="1 or more")
        items = _as_list(images)
        results = []
        for start in range(0, len(items), batch_size):
            chunk = items[start : start + batch_size]
            pixels = np.stack([self._pixels(items, start + i) for i in range(len(chunk))])
            paths = [str(item) if isinstance(item, str | Path) else None for item in chunk]
            results += self.examine(pixels, paths, explain=explain)
        return results

    def examine(
        self, pixels: Pixels, paths: Sequence[str | None] | None = None, *, explain: bool = False
    ) -> list[Prediction]:
        """All that the file says of pixels, uint8 `(batch, height, width, 3)`, in one pass.

        Args:
            paths: Where each came from.
            explain: As `predict`.
        """
        extra = (["embedding"] if self.outliers else []) + (["cam"] if explain else [])
        answers = self.answers(pixels, *extra)
        flags = self._flags(answers).tolist() if self.outliers else None
        found = []
        for index, row in enumerate(answers.probs):
            path = paths[index] if paths else None
            prediction = self.decide(row, path, flags[index] if flags else None)
            if answers.cams is not None:
                values = answers.cams[index, self.names.index(prediction.likeliest)]
                shown = ActivationMap(prediction.likeliest, values.copy())  # not the whole batch
                prediction = replace(prediction, map=shown)
            found.append(prediction)
        return found

    def pixels(self, image: Any) -> Pixels:
        """A picture as the file's input, uint8 `(height, width, 3)`.

        Args:
            image: One picture, as `predict` takes it.

        Raises:
            UnreadableImageError: It is no picture.
            OSError: Its file cannot be read now.
        """
        return to_pixels(image, self.spec)

    def _pixels(self, items: list[Any], index: int) -> NDArray[np.uint8]:
        item = items[index]
        try:
            return self.pixels(item)
        except UnreadableImageError as error:
            if len(items) == 1:
                raise
            name = f" ({item})" if isinstance(item, str | Path) else ""
            raise UnreadableImageError(f"picture {index}{name}: {error}") from None

    def probs(self, pixels: Pixels) -> Probs:
        """Probabilities `(batch, classes)` of pixels, uint8 `(batch, height, width, 3)`."""
        return self.answers(pixels).probs

    def tells_outliers(self, pixels: Pixels) -> NDArray[np.bool_]:
        """Which of pixels, uint8 `(batch, height, width, 3)`, are unlike those of training.

        For files that can tell, see `outliers`.
        """
        return self._flags(self.answers(pixels, "embedding"))

    def _flags(self, answers: Answers) -> NDArray[np.bool_]:
        assert self.outliers is not None
        assert answers.embeddings is not None
        return self.outliers.told(answers.embeddings)

    def answers(self, pixels: Pixels, *extra: str) -> Answers:
        """All that is asked of pixels, uint8 `(batch, height, width, 3)`.

        Args:
            extra: `cam`, `embedding`; what the file does not give is None.
        """
        names = ["prob", *(name for name in extra if name in self.outputs)]
        given = dict(zip(names, run(self.session, names, pixels, self.path), strict=True))
        check_probs(given["prob"], self.names, self.path, len(pixels))
        return Answers(given["prob"], given.get("cam"), given.get("embedding"))

    def decide(
        self, row: Probs, path: str | None = None, outlier: bool | None = None
    ) -> Prediction:
        """What a picture's probabilities `(classes,)` say, by the thresholds."""
        above = (row >= self.thresholds) & ~np.bool_(outlier and self.reject_outliers)
        if self.task == "single":
            chosen = [int(row.argmax())] if above[row.argmax()] else []
        else:
            chosen = sorted(np.flatnonzero(above).tolist(), key=lambda i: -row[i])
        return Prediction(
            path=path,
            labels=tuple(self.names[i] for i in chosen),
            prob=float(row[chosen[0]] if chosen else row.max()),
            probs={name: float(p) for name, p in zip(self.names, row, strict=True)},
            abstained=not chosen,
            outlier=outlier,
        )


def find_images(
    paths: Iterable[str | Path], warn: Callable[[str], None] = warnings.warn
) -> list[Path]:
    """Files as they are, and all images below folders, sorted.

    Args:
        warn: Is told of pictures in a folder that nothing here decodes.

    Raises:
        UserError: A path that does not exist, or a folder without images.
    """
    endings, found = image_endings(), []
    for path in map(Path, paths):
        if path.is_dir():
            below = files_below(path)
            files = [p for p in below if p.suffix.lower() in endings]
            others = set(below) - set(files)
            if not files:
                hint = "name a picture, or a folder of them"
                nothing = UserError("no images in this folder", str(path), hint)
                raise heif_left_out(others, str(path)) or nothing
            warn_of_heif(others, str(path), warn)
            found += files
        elif path.exists():  # what is no file is said of it when it is read
            found.append(path)
        else:
            raise UserError("no such file or folder", str(path), "correct the path")
    return found


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    one = str | Path | bytes | bytearray | memoryview | Image.Image
    if isinstance(images, one) or hasattr(images, "read"):
        return [images]
    try:
        return list(images)
    except TypeError:
        what = f"images: a {type(images).__name__} is no picture, and no list of them"
        raise UnreadableImageError(what) from None


__all__ = [
    "ActivationMap",
    "Answers",
    "Prediction",
    "Predictor",
    "UnreadableImageError",
    "find_images",
]
