"""Which runs a recipe has, which of them depends on which, and which is the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distill.config import CacheConfig, Recipe, RunConfig, StrategyConfig
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


def students_by_seed(recipe: Recipe) -> list[tuple[RunConfig, ...]]:
    """The recipe's students, and the same of each further seed of `recipe.seeds`.

    Raises:
        UserError: One of them has a seed of its own, which a further one might be.
    """
    own = next((s for s in recipe.students if s.seed is not None), None)
    if own is not None and recipe.seeds > 1:
        what = f"{own.name} has a seed of its own, and is to be trained with {recipe.seeds}"
        raise UserError(what, f"{recipe.key(own)}.seed", "leave it out, or train with one seed")
    names = {student.name for student in recipe.students}

    def of_seed(config: RunConfig, seed: int) -> RunConfig:
        def renamed(name: str | None) -> str | None:
            return f"{name}-seed{seed}" if name in names else name

        teachers = tuple(map(renamed, config.teachers))
        update = {"name": renamed(config.name), "start": renamed(config.start)}
        return config.model_copy(update={**update, "teachers": teachers, "seed": seed})

    further = range(recipe.seed + 1, recipe.seed + recipe.seeds)
    return [recipe.students, *(tuple(of_seed(s, n) for s in recipe.students) for n in further)]


def needed(students: Sequence[RunConfig], names: Iterable[str]) -> list[RunConfig]:
    """The students of these names and, before each, those that it starts from or is taught by."""
    wanted = set(names)
    for student in reversed(students):
        if student.name in wanted:
            wanted |= {student.start or student.name, *student.teachers}
    return [student for student in students if student.name in wanted]


def controls(students: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """The same student alone, by the name of each that is taught: all is alike but the teacher.

    Students that differ in their teaching only share one. Those of KD_Lib have none: its loops are
    others.
    """
    made: dict[str, RunConfig] = {}
    for student in students:
        taught = make_strategy(student.strategy).taught_by != "nobody"
        if not taught or student.engine == "kd_lib":
            continue
        views = student.cached_views if student.cache.use else student.train.views
        ending = "" if student.seed is None else f"-seed{student.seed}"
        update = {
            "name": f"{student.name.removesuffix(ending)}-alone{ending}",
            "strategy": StrategyConfig(),
            "train": student.train.model_copy(update={"views": views}),
            "cache": CacheConfig(),
            "teachers": ("best",),
            "start": made[student.start].name if student.start in made else student.start,
        }
        alone = student.model_copy(update=update)
        same = (m for m in made.values() if m.model_copy(update={"name": alone.name}) == alone)
        made[student.name] = next(same, alone)
    return made


def student_runs(recipe: Recipe) -> list[RunConfig]:
    """Every student of every seed in order, before it its control and its self-teacher."""
    runs: list[RunConfig] = []
    for students in students_by_seed(recipe):
        alone = controls(students) if recipe.seeds else {}
        for student in students:
            if (control := alone.get(student.name)) and control not in runs:
                runs.append(control)
            if has_self_teacher(student):
                runs.append(self_teacher(student))
            runs.append(student)
    return runs


def pairs(recipe: Recipe) -> dict[str, list[tuple[str, str]]]:
    """By the name of each student that is taught: its run and its control's, seed by seed."""
    if not recipe.seeds:
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for students in students_by_seed(recipe):
        alone = controls(students)
        for first, student in zip(recipe.students, students, strict=True):
            if student.name in alone:
                found.setdefault(first.name, []).append((student.name, alone[student.name].name))
    return found


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
    """The student that the recipe names, or the best on validation of those that teach no other.

    Of equals it is the last.

    Raises:
        UserError: There is none.
    """
    recipe = experiment.recipe
    if not recipe.students:
        raise UserError("the recipe has no student", str(experiment.out), "add one")
    if recipe.export.student != "best":
        return recipe.export.student
    assistants = {name for student in recipe.students for name in student.teachers}
    names = [s.name for s in reversed(recipe.students) if s.name not in assistants]
    return best_run(experiment, names)
