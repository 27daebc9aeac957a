"""Seconds that each stage of an experiment will take, from how fast its networks are here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill.config import Recipe, RunConfig
from distill.pipeline.runs import student_runs
from distill.planner.facts import Facts
from distill.planner.pace import Pace, alike
from distill.progress import span
from distill.strategies import make_strategy

REPORT_S = 3.0  # of the random forest, and of sessions that open
EXPORT_S, EXPORT_VAL = 15.0, 30  # of the files, and answers on the validation split that judge them
ONNX_S, TORCH_S = 4.0, 12.0  # of a process that times a file, or a run, beside what it measures for
UNSURE, MOST_UNSURE = 0.15, 0.5  # of any forecast, as a share: machines change their speed


@dataclass(frozen=True)
class Forecast:
    """Seconds of the stages.

    Attributes:
        spread: Share by which the whole may be off to either side.
    """

    seconds: dict[str, float]
    spread: float

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @property
    def range_s(self) -> tuple[float, float]:
        """Seconds that the whole takes at least and at most, about."""
        return self.total * (1 - self.spread), self.total * (1 + self.spread)

    def of(self, stages: Collection[str]) -> Forecast:
        """That of some stages."""
        return replace(self, seconds={name: self.seconds[name] for name in stages})

    def told(self) -> str:
        """The whole and its stages, in a line."""
        low, high = self.range_s
        stages = ", ".join(f"{name} {span(s)}" for name, s in self.seconds.items())
        return f"about {span(self.total)} ({span(low)} to {span(high)}): {stages}"

    def describe(self) -> dict[str, Any]:
        """What `plan.json` has of it."""
        return {
            "predicted_s": {stage: round(seconds, 1) for stage, seconds in self.seconds.items()},
            "predicted_range_s": [round(end, 1) for end in self.range_s],
        }


def forecast(
    recipe: Recipe, facts: Facts, paces: Mapping[str, Pace], unlabelled: int = 0
) -> Forecast:
    """What a recipe will take.

    Args:
        paces: Of each run of the recipe, by its name.
        unlabelled: Images that students learn from beside the labelled ones.
    """
    train, val, test = (facts.counts[split] for split in ("train", "val", "test"))
    asked = [paces[teacher.name].answer for teacher in recipe.teachers]
    answer = sum(asked) / max(1, len(asked))
    more = unlabelled if any(s.unlabelled for s in recipe.students) else 0
    views = max((s.cached_views for s in recipe.students if s.cache.use), default=0)
    cache = max(1, recipe.seeds) * views * (train + more) * answer
    students = 0.0
    scored = sum(paces[teacher.name].validate for teacher in recipe.teachers)
    for run in student_runs(recipe):  # with their controls, and further seeds of both
        pace = next(paces[s.name] for s in recipe.students if alike(s, run))
        scored += pace.validate
        taught = make_strategy(run.strategy).taught_by == "teachers"
        images = train + (unlabelled if taught and run.unlabelled else 0)
        if taught and not run.cache.use:
            pace = pace._replace(train=pace.train + answer, frozen=pace.frozen + answer)
        students += run_s(run, pace, images, val)
    seconds = {
        "check": facts.images * facts.look_s,
        "teacher": sum(run_s(t, paces[t.name], train, val) for t in recipe.teachers),
        "student": cache + students,
        "export": EXPORT_S + EXPORT_VAL * val * paces[recipe.students[0].name].validate,
        "report": REPORT_S + test * scored,
    }
    seconds["bench"] = bench_s(recipe, seconds["teacher"] + seconds["student"] - cache)
    spread = max((pace.spread for pace in paces.values()), default=0.0)
    return Forecast(seconds, min(MOST_UNSURE, UNSURE + spread))


def bench_s(recipe: Recipe, training_s: float) -> float:
    """Seconds of the timings: as many rounds as there is room for, one at least."""
    config = recipe.bench
    onnx = len(recipe.export.targets) + len(config.opponents) + 1
    torch = len(recipe.teachers) + 1
    series = len(config.batch_sizes) + len(config.scenarios) - 1
    each = 2 * series * config.seconds / config.rounds
    round_s = onnx * (ONNX_S + each) + torch * (TORCH_S + each)
    rounds = int(config.max_share * training_s / round_s)
    return round_s * min(config.rounds, max(1, rounds))


def run_s(config: RunConfig, pace: Pace, train: int, val: int) -> float:
    """Seconds of a training run: steps, validations, and what an epoch writes."""
    epochs = config.train.epochs
    frozen = min(epochs, config.transfer.freeze_epochs)
    steps = train * (frozen * pace.frozen + (epochs - frozen) * pace.train)
    return steps + epochs * val * pace.validate
