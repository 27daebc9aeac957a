"""What a shipped file was made from, and under which licences: images, and weights of others."""

from __future__ import annotations

from distill.config import RunConfig
from distill.data.sources import license_of
from distill.data.sources.hf import repository_of
from distill.export.licences import IMAGES, Material
from distill.models.origin import origin_of
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import all_runs, taught_by


def materials(experiment: Experiment, student: str) -> tuple[Material, ...]:
    """The images, and the weights that a student and those who taught it started from."""
    found = [_images(experiment, IMAGES, experiment.location)]
    if experiment.unlabelled:
        found.append(_images(experiment, "images without labels", experiment.unlabelled))
    runs = {config.name: config for config in all_runs(experiment.recipe)}
    made_of = _ancestry(experiment, runs, student)
    base = _starts(runs, student)
    for name in made_of:
        pretrained = runs[name].model.pretrained
        if runs[name].start is None and pretrained:
            origin, what = origin_of(runs[name].model), f"weights that {name} started from"
            if origin is not None:
                where = (origin.name, origin.license, origin.repository)
                found.append(Material(what, *where, is_base=name == base))
            else:
                found.append(Material(what, _named(runs[name]), is_base=name == base))
    return tuple(found)


def _images(experiment: Experiment, what: str, location: str) -> Material:
    stated = experiment.recipe.export.data_license if location == experiment.location else ""
    return Material(what, location, stated or license_of(location), repository_of(location))


def _named(config: RunConfig) -> str:
    pretrained = config.model.pretrained
    return f"{config.model.name}'s own" if pretrained is True else str(pretrained)


def _starts(runs: dict[str, RunConfig], name: str) -> str:
    """The first of the runs that a run continues."""
    start = runs[name].start
    return name if start is None else _starts(runs, start)


def _ancestry(experiment: Experiment, runs: dict[str, RunConfig], name: str) -> list[str]:
    """A run and all that it goes back to, by start or by teaching, the run itself first."""
    found, left = list[str](), [name]
    while left:
        run = left.pop(0)
        if run not in found:
            found.append(run)
            start = runs[run].start
            left += [*([start] if start else []), *taught_by(experiment, runs[run])]
    return found
