"""What an experiment would do, and whether it can be done, before anything is decoded."""

from __future__ import annotations

from distill.benchmarks.engines import find_engines
from distill.config import Recipe
from distill.data.prepare import input_spec
from distill.errors import UserError
from distill.export import make_targets
from distill.files import is_complete
from distill.models.classifier import build_classifier
from distill.models.weights import check_weights_file
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import all_runs
from distill.strategies import make_strategy
from distill.training.selection import check_task


def check_plugins(recipe: Recipe) -> None:
    """Builds every model, strategy and target of a recipe once, so that nothing is wrong later.

    Raises:
        UserError: An unknown name, an option that does not exist or fit, an input size that a
            network cannot work at, a weights file that is not there, nobody to teach a student, or
            a target that cannot be made here.
    """
    spec = input_spec(recipe.data)
    for config in (*recipe.teachers, *recipe.students):
        taught_by = make_strategy(config.strategy).taught_by
        if taught_by == "teachers" and config.teachers == ("best",) and not recipe.teachers:
            where = f"students.{config.name}.teachers"
            raise UserError("nobody to teach it: the recipe has no teachers", where, "add one")
        check_task(config, recipe.data.task)
        if config.engine == "kd_lib":
            from distill.training.kd_lib import check_kd_lib

            check_kd_lib(config, recipe.data.task)
        build_classifier(config.model, ("first", "second"), spec, load=False)
        if isinstance(config.model.pretrained, str):
            check_weights_file(config.model.pretrained)
    make_targets(recipe.export)
    find_engines(recipe.bench.engines)


def plan(experiment: Experiment, stages: tuple[str, ...]) -> list[str]:
    """What each stage would do, as lines; nothing is decoded or trained."""
    lines = []
    for config in all_runs(experiment.recipe):
        folder = experiment.folder(config.name)
        role = folder.parent.name.removesuffix("s")
        if role not in stages:
            continue
        done = "done before" if is_complete(folder) else f"{config.train.epochs} epochs"
        begun = (folder / "last").is_dir() and not is_complete(folder)
        state = "continue, of " + done if begun else done
        teachers = "" if role == "teacher" else f" by {config.strategy.name}"
        lines.append(f"{role} {config.name}: {config.model.name}{teachers}, {state}")
    if "export" in stages:
        lines.append(f"export: {', '.join(make_targets(experiment.recipe.export))}")
    lines += [stage for stage in ("report", "bench") if stage in stages]
    return [*lines, f"into {experiment.out}"]
