"""Methods of training, one file each, found by name.

A strategy is a frozen model whose fields are its options and whose call turns tensors into named
scalar terms, `loss` among them. It knows neither models nor loops.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from distill.config import Options, StrategyConfig, TaskName
from distill.registry import check_options, find_module
from distill.strategies.lesson import Lesson

__all__ = ["Lesson", "Strategy", "make_strategy"]


class Strategy(Options):
    """Base of all strategies.

    Attributes:
        taught_by: `nobody`; `teachers`, the ones the recipe names; or `self`, an earlier supervised
            run of the same student.
        tasks: The tasks that it makes sense for.
        needs_all_logits: It looks at the logits themselves, so that a cache may not leave any out.
        needs_features: It compares pooled features, `Lesson.features`.
        min_classes: Fewer tell it nothing.
    """

    taught_by: ClassVar[Literal["nobody", "teachers", "self"]] = "teachers"
    tasks: ClassVar[tuple[TaskName, ...]] = ("single", "multi")
    needs_all_logits: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False
    min_classes: ClassVar[int] = 2

    def __call__(self, lesson: Lesson) -> dict[str, Tensor]:
        """The terms of a batch's loss.

        Returns:
            Scalars in nats: `loss`, and the parts it is made of.
        """
        raise NotImplementedError


def make_strategy(config: StrategyConfig) -> Strategy:
    """The strategy of a recipe, its options checked.

    Raises:
        UserError: No such strategy, or an option that it does not have.
    """
    module = find_module("strategies", config.name, "strategy.name", "Strategy")
    declared: type[Strategy] = module.Strategy
    return check_options(declared, config.options, f"strategy {config.name!r}")
