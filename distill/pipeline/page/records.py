"""The parts of the page that say how it was made: training, data, cost, and how to repeat it."""

from __future__ import annotations

import json
import shlex

from distill.config import RunConfig
from distill.data.sources import SPLITS
from distill.files import is_complete
from distill.pipeline.experiment import RECIPE
from distill.pipeline.int8_training import int8_run
from distill.pipeline.lr_finder import kept_test
from distill.pipeline.page.content import Content, cell
from distill.pipeline.page.figures import MOST_CLASSES, machine_words
from distill.pipeline.runs import all_runs, taught_by
from distill.report import plots
from distill.report.page import Section, Table
from distill.report.table import finding_lines
from distill.training.run_directory import open_run

MOST_FINDINGS = 4  # of a kind


def training(content: Content) -> Section:
    """Curves of every run."""
    experiment = content.experiment
    names = [config.name for config in all_runs(experiment.recipe)]
    runs = {name: experiment.finished(name).rows for name in names}
    for student in experiment.recipe.students:
        folder = experiment.folder(int8_run(student.name))
        if is_complete(folder):
            runs[folder.name] = open_run(folder).rows
    alt = "Training loss and validation score of each run by epoch; metrics.jsonl has them."
    made = content.plot("curves", plots.curves(runs, content.task.main_score), alt)
    return Section("training", "Training", "", made)


def learning_rates(content: Content) -> Section | None:
    """The range tests that were made of runs (`--find-lr`)."""
    experiment, tests, lines = content.experiment, {}, []
    for config in all_runs(experiment.recipe):
        kept = kept_test(experiment.folder(config.name), config)
        if kept is not None:
            test, changed = kept
            tests[config.name] = test
            line = f"{config.name}: {test['suggested_lr']:.1e} was suggested, "
            line += f"{config.train.lr:.1e} was taken"
            line += f"; the test was made with another {', '.join(changed[:4])}" if changed else ""
            lines.append(line)
    if not tests:
        return None
    alt = "Training loss against a learning rate that grows; lr_find.json of each run has it."
    made = content.plot("learning_rates", plots.rates(tests), alt)
    text = "Where the loss falls fastest, before any training."
    return Section("rates", "Learning-rate test", text, made, lines=lines)


def audit(content: Content) -> Section:
    """What the data are, and what is odd about them."""
    data = content.data
    counts = {split: data.class_counts(split) for split in SPLITS}
    rows = [
        [name, *(f"{counts[split][label]:,}" for split in SPLITS)]
        for label, name in enumerate(data.classes[:MOST_CLASSES])
    ]
    rows.append(["all", *(f"{data.num_images(split):,}" for split in SPLITS)])
    left = len(data.classes) - MOST_CLASSES
    lines = list(finding_lines(data.findings, most=MOST_FINDINGS))
    text = f"Images of each class. {'' if lines else 'Nothing odd was found. '}"
    text += f"{left:,} more classes are in data.json." if left > 0 else ""
    more = f"distill check {shlex.quote(content.experiment.location)} --out DIR"
    more += " data.task=multi" if data.task == "multi" else ""
    table = Table("Images", ["class", *SPLITS], rows)
    return Section(
        "data", "The data", text, tables=[table], lines=lines, code=more if lines else ""
    )


def cost(content: Content) -> Section:
    """Time of stages and runs, and energy where the machine tells."""
    plan = content.results.plan or {}
    columns = {
        "seconds": (plan.get("real_s", {}), 1.0),
        "predicted": (plan.get("predicted_s", {}), 1.0),
        "energy, kJ": (plan.get("energy_j", {}), 1e-3),
    }
    kept = {head: of for head, of in columns.items() if of[0] or head == "seconds"}
    rows = [
        [name, *(cell(of[name] * f if name in of else None, 1) for of, f in kept.values())]
        for name in plan.get("real_s", {})
    ]
    stages = Table("Each stage", ["stage", *kept], rows)
    runs = []
    for config in all_runs(content.experiment.recipe):
        epochs = content.experiment.finished(config.name).rows
        spent = sum(row.get("seconds", 0.0) for row in epochs)
        runs.append([config.name, f"{len(epochs):,}", cell(spent, 1)])
    trained = Table("Each run", ["run", "epochs", "seconds"], runs)
    text = "Over all the times that it was run and continued. "
    if plan.get("energy_j"):
        text += "Energy is of the whole machine as its counters have it (processor, memory, GPU), "
        text += "other work on it included."
    else:
        text += "Energy is not known: this machine has no counter that may be read."
    return Section("cost", "What it took", text, tables=[stages, trained])


def made_with(content: Content) -> Section:
    """What was trained with what."""
    rows = [_run_cells(content, config) for config in all_runs(content.experiment.recipe)]
    heads = ["run", "network", "starts from", "strategy", "taught by", "transfer", "optimiser"]
    heads += ["peak rate", "images per step", "epochs", "best epoch", "seed"]
    env = content.results.env
    versions = ", ".join(f"{name} {number}" for name, number in env["versions"].items())
    text = f"Reported on: {machine_words({**env, 'versions': {}})}. With {versions}. "
    text += "The versions that each run was trained with are in its env.json."
    recipe = content.experiment.out / RECIPE
    folded = {"The whole recipe": recipe.read_text("utf-8")} if recipe.is_file() else {}
    table = Table("What was trained with what", heads, rows)
    return Section("made", "What was trained with what", text, tables=[table], folded=folded)


def _run_cells(content: Content, config: RunConfig) -> list[str]:
    experiment, train = content.experiment, config.train
    finished = experiment.finished(config.name)
    options = ", ".join(f"{key} {value}" for key, value in config.strategy.options.items())
    network = ", ".join(f"{k} {json.dumps(v)}" for k, v in config.model.options.items())
    pretrained = config.model.pretrained
    start = "pretrained" if pretrained is True else str(pretrained or "random")
    return [
        config.name,
        f"{config.model.name}{f' ({network})' if network else ''}",
        config.start or start,
        f"{config.strategy.name}{f' ({options})' if options else ''}",
        ", ".join(taught_by(experiment, config)),
        config.transfer.mode,
        train.optimizer,
        f"{train.lr:g}",
        f"{finished.effective_batch:,}",
        f"{len(finished.rows):,} of {train.epochs:,}",
        f"{finished.best_epoch:,}",
        f"{experiment.recipe.seed_of(config)}",
    ]


def repeat(content: Content) -> Section:
    """The commands that do it again."""
    experiment = content.experiment
    out, location = shlex.quote(str(experiment.out)), shlex.quote(experiment.location)
    shipped = content.results.verdict.get("shipped", "student.fp32.onnx")
    run = f"distill run {out}/{RECIPE} --data {location} --out ANOTHER"
    run += f" --unlabelled {shlex.quote(experiment.unlabelled)}" if experiment.unlabelled else ""
    run += " --smoke" if experiment.smoke else ""
    lines = [
        run,
        f"distill report {out}",
        f"distill evaluate {out}/export/{shipped} {location} --split test",
        f"distill predict {out}/export/{shipped} PICTURE",
    ]
    return Section("repeat", "To repeat it", code="\n".join(lines))
