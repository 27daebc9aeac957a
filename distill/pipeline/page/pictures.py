"""The parts of the page that show pictures: mistakes, losses, samples, and training views."""

from __future__ import annotations

import numpy as np

from distill.pipeline.page.answers import Answers, Ids
from distill.pipeline.page.content import Content
from distill.report.page import Section, plot_of
from distill.scoring.tasks import SINGLE

MOST = 18  # pictures in a part
SAMPLES = 24
MAPS = ", beside what made it so (the class activation map of the file that ships)"


def surest_mistakes(answers: Answers) -> Ids:
    """The images that the file is most sure of and wrong about, where each has one label."""
    wrong = np.flatnonzero(~answers.right)
    order: Ids = wrong[np.argsort(-answers.probs[wrong].max(axis=1), kind="stable")]
    return order if answers.task is SINGLE else order[:0]


def mistakes(answers: Answers) -> Section | None:
    """The most confident ones; where labels are many, losses tell."""
    if answers.task is not SINGLE:
        return None
    order, count = surest_mistakes(answers), len(answers.right)
    if not len(order):
        return Section("mistakes", "Mistakes", f"None on the {count:,} test images.")
    text = f"{len(order):,} of {count:,} test images are taken for something else by "
    text += f"{answers.file.name}. Those that it is surest of{MAPS if answers.has_maps else ''}."
    shown = answers.pictures(order[:MOST])
    return Section("mistakes", "Most confident mistakes", text, figures=shown)


def losses(answers: Answers) -> Section | None:
    """The images that cost the most, but for the mistakes that are shown already."""
    order = np.argsort(-answers.losses, kind="stable")
    shown = surest_mistakes(answers)[:MOST]
    order = order[~np.isin(order, shown)][:MOST]
    if not len(order):
        return None
    text = f"The test images of the highest loss{MAPS if answers.has_maps else ''}"
    text += ", but for the mistakes above. " if len(shown) else ". "
    text += f"The mean is {answers.losses.mean():.3f} nats, "
    text += f"these have {answers.losses[order[-1]]:.3f} to {answers.losses[order[0]]:.3f}."
    return Section("losses", "Top losses", text, figures=answers.pictures(order))


def samples(answers: Answers, seed: int) -> Section:
    """Some test images, whatever their answers."""
    count = len(answers.right)
    chosen = np.random.default_rng(seed).permutation(count)[:SAMPLES]
    text = f"{len(chosen)} of {count:,} test images, drawn at random, and what "
    text += f"{answers.file.name} takes them for."
    return Section(
        "samples", "A sample", text, figures=answers.pictures(np.sort(chosen), with_maps=False)
    )


def views(content: Content) -> Section:
    """What the networks saw in training."""
    from distill.report.contact_sheet import contact_sheet

    file = content.experiment.out / "plots" / "views.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    recipe = content.experiment.recipe
    contact_sheet(content.data, recipe.views, recipe.seed).save(file, format="PNG")
    alt = "Training images of each class, as stored and as networks see them."
    text = "Training images of each class: as they are stored, then as networks saw them."
    return Section("views", "What the networks saw", text, [plot_of(file, alt)])
