"""What `report.html` and `plots/` show of an experiment: its parts, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from distill.errors import install_command
from distill.pipeline.experiment import Experiment
from distill.pipeline.page import beyond, figures, pictures, records
from distill.pipeline.page.content import Content
from distill.report.page import Page, Section, write_page
from distill.report.results import Results
from distill.report.table import main_questions, question_lines, verdict_line

NEEDS = ("matplotlib", "jinja2")
TONES = {"helps": "good", "hurts": "bad"}


def write_report(experiment: Experiment, results: Results, probs: Mapping[str, Any]) -> None:
    """Writes `report.html`, and its plots as `plots/*.png`.

    Args:
        probs: What each row answers on the test split, `(images, classes)`, by its name.
    """
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        how = install_command("report")
        experiment.progress.say(f"report.html is left out, it needs {missing[0]}: {how}")
        return
    write_page(experiment.out / "report.html", page_of(Content(experiment, results, probs)))


def page_of(content: Content) -> Page:
    """All of it, the verdict first."""
    data, verdict = content.data, content.results.verdict
    counts = ", ".join(f"{data.num_images(s):,} {s}" for s in data.splits)
    asked = main_questions(verdict)
    told = zip(question_lines(asked), asked, strict=True)
    lines = [(verdict_line(verdict), "")]
    lines += [(line, TONES.get(question["word"], "")) for line, question in told]
    return Page(
        title=f"{content.experiment.out.resolve().name}: what was learned",
        subtitle=f"{data.location}: {len(data.classes):,} classes, images: {counts}",
        verdict=lines,
        warnings=content.results.warnings,
        results=figures.results_table(content),
        teacher=verdict.get("teacher"),
        sections=[section for section in sections(content) if section],
    )


def sections(content: Content) -> Iterator[Section | None]:
    """Every part below the table; None for what this experiment has not."""
    yield figures.questions(content)
    yield figures.trade(content)
    yield figures.classes(content)
    if content.answers:
        yield pictures.mistakes(content.answers)
        yield pictures.losses(content.answers)
        yield pictures.samples(content.answers, content.experiment.recipe.seed)
    yield figures.confidence(content)
    yield beyond.stress(content)
    yield beyond.elsewhere(content)
    yield records.training(content)
    yield records.learning_rates(content)
    yield pictures.views(content)
    yield records.audit(content)
    yield figures.speed(content)
    yield records.cost(content)
    yield records.made_with(content)
    yield records.repeat(content)
