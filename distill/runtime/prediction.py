"""What a model says of one picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNLIKE = "unlike the training pictures"


@dataclass(frozen=True)
class ActivationMap:
    """What in a picture speaks for a label.

    Attributes:
        values: `(h, w)` over what the model saw of the picture; their mean is the label's logit,
            but for its bias.
    """

    label: str
    values: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """The map as JSON has it, row by row."""
        shape, values = list(self.values.shape), self.values.ravel().tolist()
        return {"label": self.label, "shape": shape, "values": values}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        path: Where the picture came from, or None.
        labels: The class of a single-label model, the classes above their thresholds of a
            multi-label one; empty where it abstained.
        prob: Probability of the first label, or of the likeliest class where it abstained.
        probs: Probability of every class.
        abstained: No class reached its threshold; or it is an outlier, where those are rejected.
        outlier: It is unlike the pictures that the model was trained on; None where the file
            cannot tell.
        map: Of the first label, or of the likeliest class where it abstained; None where it was not
            asked for, or the file has none.
    """

    path: str | None
    labels: tuple[str, ...]
    prob: float
    probs: dict[str, float]
    abstained: bool
    outlier: bool | None = None
    map: ActivationMap | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON has it; what there is nothing to say of is absent."""
        record = {**vars(self), "map": self.map and self.map.to_json()}
        extra = ("outlier", "map")
        return {k: v for k, v in record.items() if k not in extra or v is not None}

    @property
    def likeliest(self) -> str:
        """The first label, or the likeliest class where it abstained."""
        if self.labels:
            return self.labels[0]
        return max(self.probs, key=lambda name: self.probs[name])

    def __str__(self) -> str:
        """The answer with its probabilities, in one line."""
        if self.abstained:
            why = UNLIKE if self.outlier else "no label is confident"
            return f"{why}, likeliest {self.likeliest} {100 * self.prob:.1f} %"
        given = ", ".join(f"{name} {100 * self.probs[name]:.1f} %" for name in self.labels)
        return f"{given} ({UNLIKE})" if self.outlier else given
