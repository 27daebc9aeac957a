"""`distill sweep`: a recipe's last student with several options changed at once, trial by trial.

Trials are runs of one experiment: they share its teachers and what these answered, are named by
what is changed, and none is trained twice. They are judged on validation; the test split is read
when the best of them, `best.toml`, is run as a recipe of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import Field, ValidationError

from distill.config import Recipe, RunConfig
from distill.errors import NotFinite, UserError
from distill.files import JsonModel, amend_manifest, read_json, write_json, write_text
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import has_self_teacher, needed, self_teacher, students_by_seed
from distill.pipeline.train import begin, train_run
from distill.pipeline.variants import answers_by_seed, changed_run, effect_of, variant_name
from distill.recipe import write_toml
from distill.scoring.comparison import Difference, Verdict, check_groups, judge
from distill.scoring.tasks import task_of
from distill.search.trials import Axis, Method, Optuna, Settings, grid, random_trials
from distill.training.run_directory import ROWS

Answers = Callable[[str], tuple[NDArray[Any], list[float]]]  # of a student, see answers_by_seed
FILE, BEST = "sweep.json", "best.toml"
TRIALS = 10  # of a random sweep, and of one by Optuna, where nobody says how many
MOST = 1000  # trials of a grid


class Trial(JsonModel):
    """A student that was tried.

    Attributes:
        settings: What it differs in.
        state: `pruned`: it was below the median of others at some epoch; `failed`: its loss
            stopped being finite.
        scores: On validation in percent, of each seed; () where it did not finish.
        by_epoch: The first seed's, of each epoch that was validated; by Optuna alone.
        verdict: On it over the student of the recipe.
    """

    settings: dict[str, str]
    run: str
    state: Literal["done", "pruned", "failed"]
    scores: tuple[float, ...] = ()
    by_epoch: dict[int, float] = Field(default_factory=dict)
    verdict: Verdict | None = None

    @property
    def score(self) -> float | None:
        """Mean over the seeds; None where it did not finish."""
        return sum(self.scores) / len(self.scores) if self.scores else None


class SweepFile(JsonModel):
    """What `sweep.json` holds."""

    identity: dict[str, Any]
    base: str
    split: Literal["val"] = "val"
    score: str
    base_scores: tuple[float, ...] = ()
    rows: tuple[Trial, ...] = ()
    best: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A recipe whose last student is varied.

    Attributes:
        method: `grid`, `random` or `optuna`.
        trials: Most of them; None for all of a grid, or ten.
    """

    recipe: Recipe
    axes: tuple[Axis, ...]
    method: Method
    trials: int | None
    seeds: int

    @property
    def base(self) -> RunConfig:
        """The student as it is."""
        return self.recipe.students[-1]

    @property
    def identity(self) -> dict[str, Any]:
        """What the trials of Optuna follow from, beside what they gave."""
        axes = [vars(axis) | {"values": list(axis.values)} for axis in self.axes]
        base = self.base.model_dump(mode="json")
        return {"axes": axes, "base": base, "seed": self.recipe.seed, "seeds": self.seeds}

    def drawn(self) -> Iterator[Settings]:
        """Trials that are known before any is trained."""
        if self.method == "grid":
            return islice(grid(self.axes), self.trials)
        return islice(random_trials(self.axes, self.recipe.seed), self.trials or TRIALS)

    def student(self, settings: Settings) -> RunConfig:
        """The student of a trial."""
        words = [f"{key}-{value}" for key, value in settings.items()]
        pairs = [f"{key}={value}" for key, value in settings.items()]
        return changed_run(self.base, pairs, variant_name(self.base, *words))

    def with_students(self, students: Sequence[RunConfig]) -> Recipe:
        """The recipe with these in place of the student, one of each seed, and what they need."""
        runs = [run for of_seed in self.by_seed(students) for run in of_seed]
        return self.recipe.model_copy(update={"students": tuple(runs), "seeds": 0})

    def by_seed(self, students: Sequence[RunConfig]) -> list[list[RunConfig]]:
        """Of each seed these students, and before them those of the recipe that they need."""
        earlier = self.recipe.students[:-1]
        update = {"students": (*earlier, *students), "seeds": self.seeds}
        every = students_by_seed(self.recipe.model_copy(update=update))
        return [needed(of, [run.name for run in of[len(earlier) :]]) for of in every]


def plan_sweep(sweep: Sweep) -> Recipe:
    """The recipe of all trials that are known beforehand, each checked; of Optuna, of the base.

    Raises:
        UserError: No student, too many trials, a value that does not fit, or nothing that differs.
    """
    if not sweep.recipe.students:
        raise UserError("the recipe has no student", "distill sweep", "add one")
    if sweep.method == "optuna":
        Optuna(sweep.axes, sweep.recipe.seed)
        for axis in sweep.axes:
            for share in (0.0, 0.5, 0.999):
                sweep.student({axis.key: axis.at(share)})
        return sweep.with_students([sweep.base])
    found = list(islice(sweep.drawn(), MOST + 1))
    if len(found) > MOST:
        what = f"a grid of more than {MOST:,} trials"
        raise UserError(what, "distill sweep", "sweep less, or say --trials N for some at random")
    known, students = [effect_of(sweep.base)], [sweep.base]
    for settings in found:
        student = sweep.student(settings)
        if (effect := effect_of(student)) not in known:
            known.append(effect)
            students.append(student)
    if len(students) == 1:
        raise UserError("every trial is the recipe's student", "distill sweep", "name other values")
    return sweep.with_students(students)


class _Pruned(Exception):
    """A trial that is not worth its remaining epochs."""


def run_sweep(experiment: Experiment, sweep: Sweep) -> SweepFile:
    """Trains what is not trained yet, and judges; `sweep.json` and `best.toml` keep it.

    Args:
        experiment: Of `plan_sweep`'s recipe, its teachers trained.
    """
    begin(experiment)
    check_groups(experiment.data.groups_of("val"), "val")
    main = task_of(experiment.data.task).main_score
    record = SweepFile(identity=sweep.identity, base=sweep.base.name, score=main)
    _train_seeds(experiment, sweep, sweep.base)
    answers: Answers = cache(lambda run: answers_by_seed(experiment, run, sweep.seeds))
    rows = _by_optuna if sweep.method == "optuna" else _as_drawn
    for row in rows(experiment, sweep, record, answers):
        record = record.model_copy(update={"rows": (*record.rows, row)})
        _keep(experiment, record)
    return _judge(experiment, sweep, record, answers)


def _as_drawn(
    experiment: Experiment, sweep: Sweep, record: SweepFile, answers: Answers
) -> Iterator[Trial]:
    by_name = {student.name: student for student in experiment.recipe.students}
    drawn = list(sweep.drawn())
    for number, settings in enumerate(drawn):
        student = sweep.student(settings)
        if student.name in by_name:  # the others come to the same as one before
            experiment.progress.say(f"trial {number + 1} of {len(drawn)}: {student.name}")
            yield _trial(experiment, sweep, settings, student, answers)


def _by_optuna(
    experiment: Experiment, sweep: Sweep, record: SweepFile, answers: Answers
) -> Iterator[Trial]:
    study = Optuna(sweep.axes, sweep.recipe.seed)
    place, known = experiment.out / FILE, tuple[Trial, ...]()
    if place.is_file():
        before = _read(place)
        known = before.rows if before.identity == record.identity else ()
    count = sweep.trials or TRIALS
    for number in range(count):
        if number < len(known):
            row = known[number].model_copy(update={"verdict": None})
            study.remember(row.settings, row.by_epoch, row.score, row.state == "pruned")
            yield row
            continue
        settings = study.ask()
        student = sweep.student(settings)
        experiment.progress.say(f"trial {number + 1} of {count}: {student.name}")
        for epoch, score in _by_epoch(experiment, student.name, record.score).items():
            study.is_hopeless(epoch, score)  # of a trial that was stopped: then it was not

        def judge_epoch(row: Mapping[str, Any]) -> None:
            score = row.get(f"val/{record.score}")
            if score is not None and study.is_hopeless(row["epoch"], score):
                raise _Pruned

        row = _trial(experiment, sweep, settings, student, answers, judge_epoch)
        by_epoch = _by_epoch(experiment, student.name, record.score)
        study.tell(row.score, row.state == "pruned")
        yield row.model_copy(update={"by_epoch": by_epoch})


def _by_epoch(experiment: Experiment, name: str, score: str) -> dict[int, float]:
    """Scores on validation by epoch, of a run as far as it has come."""
    log = experiment.folder(name) / ROWS
    rows = (
        [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    )
    return {row["epoch"]: row[f"val/{score}"] for row in rows if f"val/{score}" in row}


def _trial(
    experiment: Experiment,
    sweep: Sweep,
    settings: Settings,
    student: RunConfig,
    answers: Answers,
    after_epoch: Any = None,
) -> Trial:
    row = Trial(settings=settings, run=student.name, state="done")
    try:
        _train_seeds(experiment, sweep, student, after_epoch)
    except _Pruned:
        experiment.progress.say(f"{student.name}: below the median of earlier trials, given up")
        return row.model_copy(update={"state": "pruned"})
    except NotFinite as error:
        experiment.progress.say(f"{student.name}: {error.what}, given up")
        return row.model_copy(update={"state": "failed"})
    scores = answers(student.name)[1]
    return row.model_copy(update={"scores": tuple(scores)})


def _train_seeds(
    experiment: Experiment, sweep: Sweep, student: RunConfig, after_epoch: Any = None
) -> None:
    """Trains a student of every seed; the first decides whether the others are."""
    for number, (*earlier, run) in enumerate(sweep.by_seed([student])):
        for other in earlier:
            _train(experiment, other)
        _train(experiment, run, after_epoch if number == 0 else None)


def _train(experiment: Experiment, config: RunConfig, after_epoch: Any = None) -> None:
    if has_self_teacher(config):
        train_run(experiment, self_teacher(config))
    train_run(experiment, config, after_epoch)


def _judge(experiment: Experiment, sweep: Sweep, record: SweepFile, answers: Answers) -> SweepFile:
    """The record with verdicts, those who finished by their scores, the best first."""
    groups = experiment.data.groups_of("val")
    base, scores = answers(sweep.base.name)
    done = [row for row in record.rows if row.state == "done"]
    asked = [
        (
            f"{row.run} over {sweep.base.name}",
            Difference(answers(row.run)[0], base, groups),
        )
        for row in done
    ]
    verdicts = dict(zip((row.run for row in done), judge(asked), strict=True))
    rows = [row.model_copy(update={"verdict": verdicts.get(row.run)}) for row in record.rows]
    best = max(done, key=lambda row: row.score or 0.0, default=None)
    chosen = best if best and (best.score or 0.0) > sum(scores) / len(scores) else None
    update = {
        "rows": tuple(rows),
        "base_scores": tuple(scores),
        "best": chosen.run if chosen else sweep.base.name,
    }
    record = record.model_copy(update=update)
    _keep(experiment, record)
    student = sweep.student(chosen.settings) if chosen else sweep.base
    students = (*sweep.recipe.students[:-1], student)
    export = sweep.recipe.export
    if export.student == sweep.base.name:
        export = export.model_copy(update={"student": student.name})
    recipe = sweep.recipe.model_copy(update={"students": students, "export": export})
    write_text(experiment.out / BEST, write_toml(recipe, whole=False))
    amend_manifest(experiment.out, experiment.out / FILE, experiment.out / BEST)
    return record


def _read(place: Path) -> SweepFile:
    try:
        return SweepFile.model_validate(read_json(place))
    except ValidationError:
        raise UserError("not what is written here", str(place), "remove it, then repeat") from None


def _keep(experiment: Experiment, record: SweepFile) -> None:
    place: Path = experiment.out / FILE
    write_json(place, record.to_json())
