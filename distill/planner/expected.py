"""How long a recipe that somebody wrote will take: told before it starts, as of a plan."""

from __future__ import annotations

import hashlib

from distill.data.sources import open_unlabelled
from distill.files import read_json
from distill.pipeline.experiment import PLAN, Experiment
from distill.pipeline.plan import check_weights
from distill.pipeline.stored import PlanFile
from distill.planner.facts import look
from distill.planner.forecast import forecast
from distill.planner.pace import take_paces
from distill.recipe import write_toml


def with_forecast(experiment: Experiment, stages: tuple[str, ...]) -> Experiment:
    """The experiment with the seconds of these stages; those it began with, if it is the same.

    Raises:
        UserError: The data cannot be used, or weights cannot be had.
    """
    source, extra, place = experiment.source, experiment.unlabelled, experiment.out / PLAN
    recipe = experiment.recipe.model_copy(update={"track": (), "also": ()})  # which take no time
    asked = {
        "recipe": hashlib.sha256(write_toml(recipe).encode()).hexdigest(),
        "data": source.fingerprint,
        "unlabelled": extra,
        "stages": list(stages),
    }
    if place.is_file():
        known = read_json(place, PlanFile)
        if known["asked"] == asked:
            return experiment.with_plan(dict(known))
    check_weights(experiment, stages, load=False)  # networks are timed without
    facts = look(source, recipe.data, experiment.workers)
    device, progress = experiment.device, experiment.progress
    paces = take_paces(recipe, source.classes, device, progress, brief=True)
    unlabelled = len(open_unlabelled(extra).items) if extra else 0
    expected = forecast(recipe, facts, paces, unlabelled).of(stages)
    progress.say(expected.told())
    return experiment.with_plan({"asked": asked, **expected.describe()})
