"""Whether a picture is unlike those that a model was trained on, by its pooled features.

A model is as sure of a cat as of a face when all it knows are masks. Features of training images
fill few directions, and most others leave those: the distance is that of a Gaussian with a few
variances of its own and one for all the rest (Tipping and Bishop, 1999, "Probabilistic principal
component analysis"), which fits into 3 kB where a whole matrix takes 64.

Claim: where 99 % of validation images are kept, four students of masks tell 50 % of photographs of
other things (Tiny ImageNet, CIFAR-10; 29 to 90 by student) and all noise. Low confidence tells 7 %,
cosine distance to the nearest class mean 35 %, a Mahalanobis distance by the whole matrix 42 %.
Conditions: benchmarks/LOG.md. It is no guard against what somebody makes up to pass.
"""

from __future__ import annotations

import base64
import math
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from distill.files import JsonModel

Embeddings = NDArray[np.floating[Any]]
DIRECTIONS = 8
MOST_NUMBERS = 2**14  # of mean and directions: wide features get fewer directions
FEWEST = 30  # images of either kind: of fewer, no threshold keeps enough
KEPT = 99.0  # percent of validation images
# Of the training images are no longer than this. Shorter features are stretched to that length, as
# those of faint pictures say less of anything; longer ones are as odd as they look.
USUAL = 90.0
LEAST = 1e-6  # variance in a direction that features do not use, where the length is 1
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Packed = Annotated[str, Field(max_length=4 * MOST_NUMBERS)]  # float16, base64


class Outliers(JsonModel):
    """What a file knows of its training images; its metadata has it as JSON.

    Attributes:
        length: Shorter embeddings are stretched to it.
        mean: Of embeddings as shares of `length`, `(d,)`.
        directions: Of most variance, orthonormal, `(k, d)`.
        variances: Along each.
        rest: The variance in every other direction.
        threshold: Distances beyond it are told.
        kept: Percent of pictures like those of validation that are within, as expected.
        train, val: Numbers of images behind it.
    """

    model_config = ConfigDict(strict=True, extra="ignore")  # what a later version adds

    length: Positive
    mean: Packed
    directions: Packed
    variances: tuple[Positive, ...]
    rest: Positive
    threshold: Positive
    kept: float
    train: int
    val: int

    @classmethod
    def fit(cls, train: Embeddings, val: Embeddings) -> Self | None:
        """From embeddings of training and validation images, `(n, d)` and `(m, d)`.

        None where images are few, or embeddings are all zero, not finite or very wide.
        """
        width = train.shape[1]
        if min(len(train), len(val)) < FEWEST or width > MOST_NUMBERS:
            return None
        length = float(np.percentile(np.linalg.norm(train, axis=1), USUAL))
        if not (length > 0 and np.isfinite(train).all() and np.isfinite(val).all()):
            return None
        stretched = stretch(train, length)
        mean = stretched.mean(axis=0)
        _, singular, vectors = np.linalg.svd(stretched - mean, full_matrices=False)
        variances = singular**2 / (len(train) - 1)
        count = min(DIRECTIONS, MOST_NUMBERS // width - 1, width - 1)
        largest = variances[:count]
        draft = cls(
            length=length,
            mean=pack(mean),
            directions=pack(vectors[:count]),
            variances=tuple(_brief(value) for value in largest),
            rest=_brief((variances.sum() - largest.sum()) / (width - count)),
            threshold=1.0,
            kept=min(KEPT, 100.0 * len(val) / (len(val) + 1)),
            train=len(train),
            val=len(val),
        )
        # Of m exchangeable pictures and one more, the last is among the lowest r with r / (m + 1).
        rank = min(math.ceil((len(val) + 1) * KEPT / 100.0), len(val))
        return draft.model_copy(
            update={"threshold": float(np.sort(draft.distances(val))[rank - 1])}
        )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        width, count = len(self._mean), len(self.variances)
        if not width or len(unpack(self.directions)) != width * count:
            raise ValueError("mean, directions and variances are of different sizes")
        if not (np.isfinite(self._mean).all() and np.isfinite(self._directions).all()):
            raise ValueError("mean or directions are not finite")
        return self

    @cached_property
    def _mean(self) -> NDArray[np.float64]:
        return unpack(self.mean)

    @cached_property
    def _directions(self) -> NDArray[np.float64]:
        return unpack(self.directions).reshape(len(self.variances), -1)

    @property
    def width(self) -> int:
        """Of the embeddings that it is of."""
        return len(self._mean)

    def distances(self, embeddings: Embeddings) -> NDArray[np.float64]:
        """Squared distance `(n,)` of embeddings `(n, d)` from the training images."""
        offsets = stretch(embeddings, self.length) - self._mean
        along = offsets @ self._directions.T  # (n, k)
        within = (along**2 / np.asarray(self.variances)).sum(axis=1)
        beyond = ((offsets - along @ self._directions) ** 2).sum(axis=1)
        result: NDArray[np.float64] = within + beyond / self.rest
        return result

    def told(self, embeddings: Embeddings) -> NDArray[np.bool_]:
        """Which of embeddings `(n, d)` are outliers, `(n,)`; what is not finite is one."""
        with np.errstate(invalid="ignore"):
            flags: NDArray[np.bool_] = ~(self.distances(embeddings) <= self.threshold)
        return flags


def stretch(embeddings: Embeddings, length: float) -> NDArray[np.float64]:
    """Embeddings as shares of a length, those that are shorter being stretched to it."""
    values = embeddings.astype(np.float64)
    own = np.linalg.norm(values, axis=1, keepdims=True)
    shares: NDArray[np.float64] = values / np.clip(own, np.finfo(np.float64).tiny, length)
    return shares


def pack(values: Embeddings) -> str:
    """Numbers of any shape as text: float16, little-endian, base64."""
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def unpack(text: str) -> NDArray[np.float64]:
    """The numbers of `pack`, in one row.

    Raises:
        ValueError: It is no such text.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float64)


def _brief(variance: float) -> float:
    return float(f"{max(variance, LEAST):.6g}")
