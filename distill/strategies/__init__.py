"""Methods of training, one file each, found by name.

A strategy is a frozen model whose fields are its options and whose call turns tensors into named
scalar terms, `loss` among them. It knows neither models nor loops.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from distill.config import Options, StrategyConfig
from distill.data.views.draws import Draws
from distill.registry import check_options, find_module
from distill.strategies.objective import SOFTMAX, Objective


class Strategy(Options):
    """Base of all strategies.

    Attributes:
        taught_by: `nobody`; `teachers`, the ones the recipe names; or `self`, an earlier
            supervised run of the same student.
        tasks: The tasks that it makes sense for.
    """

    taught_by: ClassVar[Literal["nobody", "teachers", "self"]] = "teachers"
    tasks: ClassVar[tuple[Literal["single", "multi"], ...]] = ("single", "multi")

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        draws: Draws,
        objective: Objective = SOFTMAX,
    ) -> dict[str, Tensor]:
        """The terms of a batch's loss.

        Args:
            student_logits: `(batch, num_classes)`.
            teacher_logits: `(teachers, batch, num_classes)`, None where nobody teaches.
            labels: Class indices `(batch,)` or probabilities `(batch, num_classes)`.
            weights: Weights of the samples, `(batch,)`, or, where images may have several labels,
                of cells `(batch, num_classes)`; None for all 1. They apply to labels, not to what
                a teacher says.
            draws: Random numbers of these samples in this epoch, the only source of randomness.
            objective: What logits mean: a class, or any number of labels.

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
