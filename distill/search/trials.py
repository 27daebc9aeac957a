"""What a sweep tries: values and ranges of a student's options, and how trials are drawn of them.

A trial is a function of the axes, the seed and its number (and, where it is chosen by what earlier
ones gave, of these): so a sweep that was stopped goes on with the trials that it would have had.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distill.config import Recipe, RunConfig
from distill.errors import UserError, install_command

Method = Literal["auto", "grid", "random", "optuna"]
Settings = dict[str, str]  # value of each axis, as TOML
RANGE = re.compile(r"([-+]?[\d._]+(?:[eE][-+]?\d+)?)\.\.([-+]?[\d._]+(?:[eE][-+]?\d+)?)")
DECADE = 10.0  # from this ratio of its ends on, a range of positive numbers is logarithmic
DRAWS = 1000  # in a row without a new trial, after which there is none


@dataclass(frozen=True)
class Axis:
    """An option of the student, and what is tried of it.

    Attributes:
        values: In TOML; () for a range.
        low, high: The ends of a range, both in it.
        is_integer: Whether a range is of whole numbers.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_integer: bool = False

    @property
    def is_logarithmic(self) -> bool:
        """Whether a range's numbers are drawn by their logarithms."""
        return self.low > 0.0 and self.high / self.low >= DECADE

    def at(self, share: float) -> str:
        """The value at a share in [0, 1) of the way; three digits of a number that is not whole."""
        if self.values:
            return self.values[int(share * len(self.values))]
        if self.is_integer and not self.is_logarithmic:
            return str(int(self.low + share * (self.high - self.low + 1.0)))
        if self.is_logarithmic:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return self.written(value)

    def written(self, value: float) -> str:
        """A number of a range in TOML."""
        rounded = min(max(float(f"{value:.3g}"), self.low), self.high)
        return str(round(value)) if self.is_integer else repr(rounded)


def read_axes(wishes: Sequence[str]) -> tuple[tuple[Axis, ...], list[str]]:
    """Axes, and overrides of the whole recipe: those with one value.

    Args:
        wishes: `key=a,b,c`, `key=1e-4..1e-2`, or `key=value`.

    Raises:
        UserError: One cannot be read, is not of the student, or is there twice.
    """
    axes, overrides = dict[str, Axis](), list[str]()
    for wish in wishes:
        key, equals, text = wish.partition("=")
        key, texts = key.strip(), split_values(text)
        if not equals or not key or not texts:
            raise UserError(f"cannot read {wish!r}", hint="write key=a,b,c or key=1e-4..1e-2")
        limits = RANGE.fullmatch(text.strip())
        if len(texts) == 1 and limits is None:
            overrides.append(wish)
            continue
        name = _student_key(key)
        if name in axes:
            raise UserError(f"{name} is swept twice", wish, "name all its values at once")
        axes[name] = Axis(name, tuple(texts)) if limits is None else _range(name, wish, limits)
    if not axes:
        raise UserError("nothing is swept", "distill sweep", "write key=a,b,c or key=1e-4..1e-2")
    return tuple(axes.values()), overrides


def split_values(text: str) -> list[str]:
    """The parts between commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _student_key(key: str) -> str:
    name = key.removeprefix("student.")
    top = name.partition(".")[0]
    if top in RunConfig.model_fields and (top not in Recipe.model_fields or name != key):
        return name
    if top in RunConfig.model_fields:
        raise UserError(f"{key} is of the whole recipe", key, f"write student.{key}")
    if top in (*Recipe.model_fields, "teacher"):
        what = "a sweep is of the student, whose teachers' answers are kept for all trials"
        raise UserError(what, key, "make a recipe for each value, and distill compare their runs")
    raise UserError(f"no option {key!r}", key, "see distill options; such as student.train.lr")


def _range(name: str, wish: str, limits: re.Match[str]) -> Axis:
    try:
        low, high = (float(end) for end in limits.groups())
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError("a range is of two numbers, the lower first", wish, "such as 1e-4..1e-2")
    is_integer = all(re.fullmatch(r"[-+]?\d+", end) for end in limits.groups())
    return Axis(name, low=low, high=high, is_integer=is_integer)


def chosen_method(method: Method, axes: Sequence[Axis], trials: int | None) -> Method:
    """How trials are drawn: a grid where values are listed and it is to be whole, else at random.

    Raises:
        UserError: A grid of a range.
    """
    ranges = [axis.key for axis in axes if not axis.values]
    if method == "grid" and ranges:
        hint = "list values, or choose --search random"
        raise UserError(f"{ranges[0]} has no end of values for a grid", "--search", hint)
    if method != "auto":
        return method
    return "random" if ranges or trials is not None else "grid"


def grid(axes: Sequence[Axis]) -> Iterator[Settings]:
    """Every combination of the listed values, the last axis fastest."""
    keys = [axis.key for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(keys, values, strict=True))


def random_trials(axes: Sequence[Axis], seed: int) -> Iterator[Settings]:
    """Combinations at random, none twice; it ends where hardly any are left."""
    known: list[Settings] = []
    numbers = itertools.count()
    while True:
        for number in itertools.islice(numbers, DRAWS):
            shares = np.random.default_rng([seed, number]).random(len(axes))
            drawn = {axis.key: axis.at(share) for axis, share in zip(axes, shares, strict=True)}
            if drawn not in known:
                known.append(drawn)
                yield drawn
                break
        else:
            return


class Optuna:
    """Optuna's tree-structured Parzen estimator and its median pruner.

    Bergstra et al., 2011; the study is made anew of the trials that there were, with the numbers
    that they were trained with, so it needs no storage of its own and does not know whether it was
    stopped. Seeded by the number of the trial.

    Args:
        axes: What is varied.
        seed: Of all that is random.
    """

    def __init__(self, axes: Sequence[Axis], seed: int) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            hint = f"{install_command('sweep')}, or choose --search random"
            raise UserError("Optuna is not installed", "--search optuna", hint) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._axes, self._seed = axes, seed
        self._space = {axis.key: self._distribution(axis) for axis in axes}
        self._pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        self._ended: list[Any] = []
        self._trial: Any = None
        self._asked: Settings = {}
        self._by_epoch: dict[int, float] = {}

    def _distribution(self, axis: Axis) -> Any:
        kinds = self._optuna.distributions
        if axis.values:
            return kinds.CategoricalDistribution(axis.values)
        if axis.is_integer:
            low, high = int(axis.low), int(axis.high)
            return kinds.IntDistribution(low, high, log=axis.is_logarithmic)
        return kinds.FloatDistribution(axis.low, axis.high, log=axis.is_logarithmic)

    def ask(self) -> Settings:
        """The next trial."""
        seed = int(np.random.default_rng([self._seed, len(self._ended)]).integers(2**31))
        sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
        ways = {"sampler": sampler, "pruner": self._pruner, "direction": "maximize"}
        study = self._optuna.create_study(**ways)
        study.add_trials(self._ended)
        self._trial, self._by_epoch = study.ask(self._space), {}
        given = self._trial.params
        self._asked = {
            axis.key: given[axis.key] if axis.values else axis.written(given[axis.key])
            for axis in self._axes
        }
        return dict(self._asked)

    def is_hopeless(self, epoch: int, score: float) -> bool:
        """Whether the trial that was asked for last is below the median of earlier ones."""
        self._by_epoch[epoch] = score
        self._trial.report(score, epoch)
        return bool(self._trial.should_prune())

    def tell(self, score: float | None, is_pruned: bool) -> None:
        """What came of the trial that was asked for last.

        Args:
            score: On validation, in percent; None where it failed.
        """
        self.remember(self._asked, self._by_epoch, score, is_pruned)

    def remember(
        self, settings: Settings, by_epoch: Mapping[int, float], score: float | None, pruned: bool
    ) -> None:
        """Tells it of a trial that has ended, maybe of an earlier command."""
        states = self._optuna.trial.TrialState
        ended = states.PRUNED if pruned else states.COMPLETE if score is not None else states.FAIL
        params = {
            axis.key: settings[axis.key]
            if axis.values
            else (int if axis.is_integer else float)(settings[axis.key])
            for axis in self._axes
        }
        self._ended.append(
            self._optuna.trial.create_trial(
                state=ended,
                value=score if ended == states.COMPLETE else None,
                params=params,
                distributions=self._space,
                intermediate_values=dict(by_epoch),
            )
        )
