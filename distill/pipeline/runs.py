"""Which runs a recipe has, which of them depends on which, and which is the best."""

from __future__ import annotations

from distill.config import Recipe, RunConfig, StrategyConfig
from distill.errors import UserError
from distill.pipeline.experiment import Experiment
from distill.strategies import make_strategy


def self_teacher(config: RunConfig) -> RunConfig:
    """The supervised run of a student that is then taught by it."""
    supervised = StrategyConfig(name="supervised")
    return config.model_copy(update={"name": f"{config.name}-self", "strategy": supervised})


def has_self_teacher(config: RunConfig) -> bool:
    """Whether a supervised run of the same student must come first; KD_Lib makes its own."""
    kind = make_strategy(config.strategy).taught_by
    return kind == "self" and config.teachers == ("best",) and config.engine == "distill"


def student_runs(recipe: Recipe) -> list[RunConfig]:
    """Every student in order, each self-teacher before the one it teaches."""
    return [
        config
        for student in recipe.students
        for config in ((self_teacher(student),) if has_self_teacher(student) else ()) + (student,)
    ]


def all_runs(recipe: Recipe) -> list[RunConfig]:
    """Every run of a recipe, in order."""
    return [*recipe.teachers, *student_runs(recipe)]


def taught_by(experiment: Experiment, config: RunConfig) -> tuple[str, ...]:
    """Names of the runs that teach this one."""
    kind = make_strategy(config.strategy).taught_by
    if has_self_teacher(config):
        return (self_teacher(config).name,)
    if kind == "nobody" or (kind == "self" and config.teachers == ("best",)):
        return ()
    names = [
        best_run(experiment, [t.name for t in experiment.recipe.teachers]) if n == "best" else n
        for n in config.teachers
    ]
    return tuple(dict.fromkeys(names))


def best_run(experiment: Experiment, names: list[str]) -> str:
    """The run of the highest main score on validation, the first of equals."""
    return max(names, key=lambda name: experiment.finished(name).best_score)


def chosen_student(experiment: Experiment) -> str:
    """The student that the recipe names, or the best on validation, the last of equals.

    Raises:
        UserError: There is none.
    """
    recipe = experiment.recipe
    if not recipe.students:
        raise UserError("the recipe has no student", str(experiment.out), "add one")
    if recipe.export.student != "best":
        return recipe.export.student
    return best_run(experiment, [config.name for config in reversed(recipe.students)])
