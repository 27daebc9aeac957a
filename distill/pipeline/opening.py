"""Opening an experiment, new or begun: what commands give it, and where its data are by now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.environment import is_main_process
from distill.errors import UserError
from distill.progress import Progress

if TYPE_CHECKING:
    from distill.config import Recipe
    from distill.pipeline.experiment import Experiment
    from distill.pipeline.stored import DataFile


@dataclass(frozen=True)
class Settings:
    """Options that mean the same for every command.

    Attributes:
        out: Experiment directory; None for `runs/` and the recipe's name.
        seed: Instead of the recipe's.
        unlabelled: Images for the teachers' term alone.
        also: Labelled images from elsewhere, beside those of the recipe.
        data: Where the images of an experiment are by now; None for where they were.
        trust: A directory that is opened may name modules, which are run.
        dry_run: Say what would be done, and stop.
        as_json: End stdout with one JSON document.
    """

    out: Path | None = None
    device: str = "auto"
    seed: int | None = None
    workers: int = 2
    overwrite: bool = False
    smoke: bool = False
    unlabelled: str | None = None
    also: list[str] | None = None
    data: str | None = None
    trust: bool = False
    dry_run: bool = False
    as_json: bool = False


def open_experiment(
    recipe: str, overrides: list[str] | None, data: str, settings: Settings
) -> Experiment:
    """The experiment of a recipe, see `experiment_of`."""
    from distill.recipe import load_recipe

    loaded = load_recipe(recipe, with_seed(overrides, settings.seed), settings.smoke)
    return experiment_of(loaded, data, settings.out or Path("runs") / Path(recipe).stem, settings)


def experiment_of(recipe: Recipe, data: str, out: Path, settings: Settings) -> Experiment:
    """Checks everything that can be checked before any work starts."""
    from distill.device import resolve_device
    from distill.pipeline.experiment import Experiment
    from distill.pipeline.plan import check_plugins, check_processes

    if settings.also:
        places = (str(Path(w).resolve()) if Path(w).exists() else w for w in settings.also)
        recipe = recipe.model_copy(update={"also": tuple(dict.fromkeys((*recipe.also, *places)))})
    check_plugins(recipe)
    device = resolve_device(settings.device)
    check_processes(recipe, device)
    return Experiment(
        recipe=recipe,
        location=data,
        out=out,
        device=device,
        workers=settings.workers,
        overwrite=settings.overwrite,
        smoke=settings.smoke,
        unlabelled=settings.unlabelled,
        progress=Progress(quiet=not is_main_process()),
    )


def with_seed(overrides: list[str] | None, seed: int | None) -> list[str]:
    """Overrides with the one that `--seed` stands for."""
    return [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]


def reopen_experiment(folder: Path, overrides: list[str] | None, settings: Settings) -> Experiment:
    """The experiment that `distill run` or a training stage began in a directory.

    Raises:
        UserError: It is none, or its recipe names a module, without `trust`.
    """
    from distill.files import read_json
    from distill.pipeline.experiment import PLAN, RECIPE
    from distill.pipeline.stored import DATA, DataFile, PlanFile
    from distill.recipe import load_recipe, look_in, modules_of

    recipe = folder / RECIPE
    if not recipe.is_file():
        raise UserError("not an experiment directory", str(folder), "name one with a recipe.toml")
    known = read_json(folder / DATA, DataFile)
    if settings.trust:
        for place in known.get("modules", ()):
            look_in(Path(place))
    elif names := modules_of(load_recipe(recipe)):
        what = f"its recipe names the module {names[0]}, which opening it would run"
        raise UserError(what, str(folder), "add --trust if you know whose it is")
    more = known.get("unlabelled")
    unlabelled = place_of(more["location"], more.get("absolute")) if more else None
    settings = replace(settings, out=folder, unlabelled=unlabelled)
    location = settings.data or _data_of(known)
    opened = open_experiment(str(recipe), overrides, location, settings)
    plan = read_json(folder / PLAN, PlanFile) if (folder / PLAN).is_file() else None
    return replace(opened, smoke=known["smoke"], plan=plan)


def _data_of(known: DataFile) -> str:
    """Where an experiment's data are, from whatever folder a command is started in."""
    place = place_of(known["location"], known.get("absolute"))
    if "absolute" in known and not Path(place).exists():
        what = "its images are no longer where they were"
        raise UserError(what, place, "say where they are now: add --data FOLDER")
    return place


def place_of(location: str, absolute: str | None) -> str:
    """A place as it was named, or where that was if the name means another one here."""
    if absolute is None or not Path(absolute).exists():
        return location
    return location if Path(location).resolve() == Path(absolute) else absolute


def with_targets(experiment: Experiment, names: list[str]) -> Experiment:
    """The experiment with export targets beside those of its recipe."""
    from distill.config import PluginConfig
    from distill.export import make_targets

    recipe = experiment.recipe
    known = recipe.export.targets
    new = dict.fromkeys(name for name in names if name not in {target.name for target in known})
    targets = (*known, *(PluginConfig(name=name) for name in new))
    export = recipe.export.model_copy(update={"targets": targets})
    make_targets(export)
    return replace(experiment, recipe=recipe.model_copy(update={"export": export}))
