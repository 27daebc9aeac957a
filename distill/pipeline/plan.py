"""What an experiment would do, and whether it can be done, before anything is decoded."""

from __future__ import annotations

import torch

from distill.benchmarks.engines import find_engines
from distill.config import ModelConfig, Recipe, RunConfig
from distill.data.prepare import input_spec
from distill.environment import num_processes
from distill.errors import UserError, first_line, install_command
from distill.export import make_targets
from distill.files import is_complete
from distill.models.classifier import Classifier, build_classifier
from distill.models.origin import can_load
from distill.models.weights import check_weights_file
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import all_runs
from distill.scoring.cascades import has_cascades
from distill.strategies import make_strategy
from distill.training.batchnorm import check_sync_batchnorm
from distill.training.optim import check_optimizer
from distill.training.selection import check_task
from distill.training.trackers import find_tracker

NAMES = ("first", "second")  # of classes, where any will do


def check_plugins(recipe: Recipe) -> None:
    """Builds every model, strategy and target of a recipe once, so that nothing is wrong later.

    Raises:
        UserError: An unknown name, an option that does not exist or fit, an input size that a
            network cannot work at, a weights file that is not there, nobody to teach a student, or
            a target or a baseline that cannot be made here.
    """
    for config in (*recipe.teachers, *recipe.students):
        try:
            _check_run(config, recipe)
        except UserError as error:
            raise of_run(error, recipe.key(config)) from None
    names = [run.name for run in all_runs(recipe)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two runs are called {twice[0]!r}", "students", "rename that student")
    if recipe.haar == "on" and not has_cascades():
        hint = f"{install_command('haar')}, or set haar=off"
        raise UserError("OpenCV is not installed, or is one without Haar cascades", "haar", hint)
    make_targets(recipe.export)
    find_engines(recipe.bench.engines)
    for name in recipe.track:
        find_tracker(name)


def check_opponents(recipe: Recipe) -> None:
    """Raises `UserError` where there is no network of an opponent's name, or not at this size."""
    for name in recipe.bench.opponents:
        try:
            build_classifier(ModelConfig(name=name), NAMES, input_spec(recipe.data), load=False)
        except UserError as error:
            raise UserError(error.what, "bench.opponents", error.hint) from None


def _check_run(config: RunConfig, recipe: Recipe) -> None:
    strategy = make_strategy(config.strategy)
    if strategy.taught_by == "teachers":
        where = f"{recipe.key(config)}.teachers"
        if "best" in config.teachers and not recipe.teachers:
            raise UserError("nobody to teach it: the recipe has no teachers", where, "add one")
        if not config.teachers:
            raise UserError("nobody to teach it", where, "name one, or leave it out for the best")
    check_task(config, recipe.data.task)
    check_optimizer(config.train)
    if config.engine == "kd_lib":
        from distill.training.kd_lib import check_kd_lib

        check_kd_lib(config, recipe.data.task)
    classifier = build_classifier(config.model, NAMES, input_spec(recipe.data), load=False)
    if config.train.batch_size == 1:
        check_single_images(classifier, strategy.needs_features)
    if config.start:
        check_start(classifier, config.start, recipe)
    if isinstance(config.model.pretrained, str):
        check_weights_file(config.model.pretrained)


def check_processes(recipe: Recipe, device: torch.device) -> None:
    """Raises `UserError` where the processes of this launcher cannot train a run as it asks."""
    for config in (*recipe.teachers, *recipe.students):
        try:
            check_sync_batchnorm(config.train, device, num_processes())
        except UserError as error:
            raise of_run(error, recipe.key(config)) from None


def check_start(classifier: Classifier, start: str, recipe: Recipe) -> None:
    """Raises `UserError` where a network cannot start from the weights of that run."""
    (source,) = (run for run in (*recipe.teachers, *recipe.students) if run.name == start)
    first = build_classifier(source.model, NAMES, input_spec(recipe.data), load=False)
    shapes, others = (
        {name: tuple(tensor.shape) for name, tensor in built.network.state_dict().items()}
        for built in (classifier, first)
    )
    if odd := sorted(dict(shapes.items() ^ others.items())):
        what = f"{start!r} is another network: {odd[0]!r} does not fit ({len(odd)} in all)"
        raise UserError(what, "start", "give both the same model")


def check_single_images(classifier: Classifier, needs_features: bool) -> None:
    """Raises `UserError` where a network cannot be trained on one image at a time."""
    if needs_features:
        what = "one image at a time is too few to train on: its features have no variance"
        raise UserError(what, "train.batch_size", "take two at least")
    size = classifier.contract.input_size
    try:
        with torch.no_grad():
            classifier.train()(torch.zeros(1, 3, size, size))
    except ValueError as error:
        what = f"one image at a time is too few to train on: {first_line(error)}"
        raise UserError(what, "train.batch_size", "take two at least") from None


def of_run(error: UserError, key: str) -> UserError:
    """An error about a model or a strategy, as one about that of a run: keys as they are typed."""
    where, hint = error.where, error.hint
    if where and where.startswith(("model.", "strategy.", "train.")):
        where = f"{key}.{where}"
    if hint:
        hint = hint.replace("model.pretrained", f"{key}.model.pretrained")
    return UserError(error.what, where, hint)


def check_weights(experiment: Experiment, stages: tuple[str, ...], load: bool = True) -> None:
    """Loads the weights that runs start from once, so that nobody decodes for hours in vain.

    Runs that have begun need none.

    Args:
        load: Also fetches them into the library's cache, as training would; False asks only
            whether they can be had.

    Raises:
        UserError: They cannot be had, or do not fit.
    """
    recipe, seen = experiment.recipe, list[ModelConfig]()
    for config in (*recipe.teachers, *recipe.students):
        folder, model = experiment.folder(config.name), config.model
        begun = is_complete(folder) or (folder / "last").is_dir()
        starts = model.pretrained and not config.start and (experiment.overwrite or not begun)
        if folder.parent.name.removesuffix("s") in stages and starts and model not in seen:
            seen.append(model)
            try:
                if problem := can_load(model):
                    raise problem
                if load:
                    build_classifier(model, NAMES, input_spec(recipe.data))
            except UserError as error:
                raise of_run(error, recipe.key(config)) from None


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
