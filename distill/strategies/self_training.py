"""A student taught by an earlier run of itself: Yuan et al., 2020, arXiv:1909.11723, section 4.

The earlier run is a supervised one with the same training options, its best epoch by validation.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from distill.config import Fraction
from distill.strategies.vanilla import Strategy as Vanilla


class Strategy(Vanilla):
    """The loss of `vanilla`, the teacher being the student itself (Tf-KD_self in the paper)."""

    taught_by: ClassVar[Literal["nobody", "teachers", "self"]] = "self"
    kd_weight: Fraction = 0.5
    """Share of the self-teacher's term."""
