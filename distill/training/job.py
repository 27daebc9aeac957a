"""What a run is made of, before there is an optimiser or a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import RunConfig, ViewsConfig
from distill.data.prepare import ImageData
from distill.data.store import Split
from distill.data.views.images import TrainingImages, is_read_by_file, split_sha256
from distill.models.classifier import Classifier
from distill.strategies import make_strategy
from distill.training.imbalance import log_prior
from distill.training.tracking import Tracking


@dataclass(frozen=True)
class Job:
    """Everything a run is made of.

    Attributes:
        inputs: Hashes of what the run depends on beside its options (data, teachers, start).
        cache: Folder of the teacher caches; None asks the teachers in every step.
        unlabelled: Images that teachers give an opinion on and labels do not; None for none.
        teacher_adjustments: The `train.logit_adjustment` that each teacher was trained with, on
            the same data; () where none was.
        tracking: Who is told of it, which changes nothing in it.
    """

    config: RunConfig
    data: ImageData
    views: ViewsConfig
    seed: int
    folder: Path
    teachers: Sequence[Classifier] = ()
    inputs: dict[str, Any] | None = None
    cache: Path | None = None
    unlabelled: Split | None = None
    teacher_adjustments: Sequence[float] = ()
    tracking: Tracking = field(default_factory=Tracking)

    @cached_property
    def images(self) -> TrainingImages:
        """The training images, as views."""
        splits = (self.data.train, *((self.unlabelled,) if self.unlabelled else ()))
        size = self.data.spec.height
        return TrainingImages(splits, self.data.classes, self.views, self.seed, size)

    @property
    def teacher_names(self) -> list[str]:
        """What the teachers are called in messages."""
        known = list((self.inputs or {}).get("teachers", {}))
        return known or [f"teacher {number}" for number in range(1, len(self.teachers) + 1)]

    @property
    def needs_features(self) -> bool:
        """Whether teachers are asked for their pooled features too."""
        return make_strategy(self.config.strategy).needs_features

    @property
    def is_cached(self) -> bool:
        """Whether the teachers' logits are read from a cache."""
        return bool(self.teachers) and self.config.cache.use and self.cache is not None

    @property
    def num_views(self) -> int:
        """Views per image that the epochs cycle over."""
        if self.is_cached:
            return self.config.cached_views
        views, epochs = self.config.train.views, self.config.train.epochs
        return epochs if views == "all" else min(views, epochs)

    @property
    def offset(self) -> NDArray[np.float32] | None:
        """What turns the student's logits into posteriors of the training split; None for nothing.

        Logit adjustment of Menon et al., 2021, arXiv:2007.07314, eq. 10.
        """
        adjustment = self.config.train.logit_adjustment
        return (adjustment * log_prior(self.data)).astype(np.float32) if adjustment else None

    @property
    def teacher_offsets(self) -> NDArray[np.float32] | None:
        """What turns the teachers' logits into posteriors of the training distribution.

        `(teachers, 1, num_classes)`; None where they are that already.
        """
        if not any(self.teacher_adjustments):
            return None
        prior = log_prior(self.data)
        rows = [adjustment * prior for adjustment in self.teacher_adjustments]
        return np.stack(rows)[:, None].astype(np.float32)

    @property
    def options(self) -> dict[str, Any]:
        """What `describe` says, the run's own options by their names in a recipe."""
        described = self.describe()
        return {**described.pop("run"), **described}

    def describe(self) -> dict[str, Any]:
        """The content of `config.json`."""
        data = {"data_sha256": self.data.sha256, "splits_sha256": self.data.splits_sha256}
        inputs = {**data, **(self.inputs or {})}
        if is_read_by_file(self.images.shards):
            inputs["order"] = "by file"
        if self.unlabelled is not None:
            inputs["unlabelled_sha256"] = split_sha256(self.unlabelled)
        return {
            "seed": self.seed,
            "data": {"location": self.data.location, "input_spec": self.data.spec.model_dump()},
            "views": self.views.model_dump(mode="json"),
            "run": self.config.model_dump(mode="json"),
            "inputs": inputs,
        }
