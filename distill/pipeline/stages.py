"""Running the stages of an experiment, and telling what came of them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from distill.environment import is_main_process, num_processes
from distill.errors import UserError, printable, unprintable

if TYPE_CHECKING:
    from distill.data.prepare import ImageData
    from distill.pipeline.experiment import Experiment
    from distill.report.results import Results

Expect = Callable[["Experiment", tuple[str, ...]], "Experiment"]
ALL_STAGES = ("check", "teacher", "student", "export", "report", "bench")


def check_first(experiment: Experiment, stages: tuple[str, ...]) -> None:
    """Opens everything that an experiment names: mistakes are told before anything begins.

    Raises:
        UserError: Data cannot be opened, a tracker is not installed, its place is a file, there is
            no student to train or export, or one cannot learn from `--unlabelled`.
    """
    from distill.data.sources import open_unlabelled
    from distill.pipeline.elsewhere import check_also
    from distill.pipeline.plan import check_opponents
    from distill.training.trackers import check_installed

    check_out(experiment.out)
    if "bench" in stages:
        check_opponents(experiment.recipe)
    if {"student", "export"} & {*stages} and not experiment.recipe.students:
        hint = "add one; `distill teacher` trains the teachers of a recipe alone"
        raise UserError("the recipe has no student", str(experiment.out), hint)
    if {"teacher", "student"} & {*stages}:
        check_installed(experiment.recipe.track)
    root, location = experiment.source.root, Path(experiment.location)
    if root and location.is_dir() and experiment.out.resolve().is_relative_to(root.resolve()):
        what = "lies among the pictures, where the next command would take it for some"
        raise UserError(what, str(experiment.out), "name an --out beside them")
    check_also(experiment)
    if experiment.unlabelled:
        open_unlabelled(experiment.unlabelled)
        for student in experiment.recipe.students:
            if student.engine == "kd_lib" and student.unlabelled:
                key = f"{experiment.recipe.key(student)}.unlabelled"
                raise UserError("KD_Lib knows no images without labels", key, "set false")


OURS = ("recipe.toml", "plan.json", "data.json")  # one of which a directory of results has
GLANCE = 50  # files of a folder that are looked at


def check_out(out: Path) -> None:
    """Raises `UserError` where a directory is to be made and there is a file, or are pictures."""
    from distill.data.decode import image_endings

    if out.exists() and not out.is_dir():
        raise UserError("there is a file of this name", str(out), "name another --out")
    if not out.is_dir() or any((out / name).exists() for name in OURS):
        return
    endings, inside = image_endings(), list(islice(out.iterdir(), GLANCE))
    below = (
        path for folder in inside if folder.is_dir() for path in islice(folder.iterdir(), GLANCE)
    )
    if any(path.suffix.lower() in endings for path in chain(inside, below)):
        what = "a folder of pictures, which results would be mixed with"
        raise UserError(what, str(out), "name another --out")


def run_stages(
    experiment: Experiment,
    stages: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    expect: Expect | None = None,
) -> None:
    """Runs stages in order, and prints the table where `report` is among them.

    Several processes train together; the stages after training are the main one's.

    Args:
        expect: Gives an experiment the seconds that its stages will take, before they begin.
    """
    from distill.pipeline.clock import stage
    from distill.pipeline.plan import check_weights
    from distill.pipeline.train import begin, train_students, train_teachers
    from distill.scoring.thresholds import check_accuracy_rule
    from distill.training.world import joined

    check_first(experiment, stages)
    if dry_run:
        if is_main_process():
            check_weights(experiment, stages, load=False)
            show_plan(experiment, stages, as_json)
        return
    if expect is not None:
        experiment = expect(experiment, stages)
    with joined(experiment.device) as world:
        with world.main_first():  # the others find weights fetched, and the images decoded
            check_weights(experiment, stages)
            with stage(experiment, "check", stages) if "check" in stages else nullcontext():
                data, _ = experiment.data, experiment.extra
                if "export" in stages:
                    check_accuracy_rule(experiment.recipe.export, data.task, len(data.val.labels))
        if world.is_main and "check" in stages:
            show_data(data, experiment.out / "data.json")
        begin(experiment)
        for name, train in (("teacher", train_teachers), ("student", train_students)):
            if name in stages:
                with stage(experiment, name, stages):
                    train(experiment)
    if world.is_main:
        ship(experiment, stages, as_json)


def ship(experiment: Experiment, stages: tuple[str, ...], as_json: bool) -> None:
    """The stages after training: what was learned is told before it is timed."""
    from distill.pipeline.bench import bench_experiment
    from distill.pipeline.clock import stage
    from distill.pipeline.export import export_student
    from distill.pipeline.report import report_experiment, score_experiment
    from distill.report.table import show_rows

    summary: dict[str, Any] = {"out": str(experiment.out)}
    if "export" in stages:
        with stage(experiment, "export", stages):
            export_student(experiment)
    if "report" in stages:
        with stage(experiment, "report", stages):
            probs: dict[str, Any] = {}
            scored = score_experiment(experiment, probs)
    if "bench" in stages:
        if "report" in stages:
            show_rows(scored, sys.stderr)
        with stage(experiment, "bench", stages):
            bench_experiment(experiment)
    if "report" in stages:
        results = report_experiment(experiment, scored, probs)
        show_results(results, experiment.out)
        summary |= results.to_json()
    emit(summary, as_json)


def show_results(results: Results, out: Path) -> None:
    """The table, each class's recall, the verdict, what is wrong with it, and what comes next."""
    from distill.report.lines import elsewhere_lines
    from distill.report.table import (
        main_questions,
        question_lines,
        recall_table,
        show,
        show_rows,
        verdict_line,
    )

    show_rows(results)
    if recalls := recall_table(results):
        show(recalls)
    print(verdict_line(results.verdict))
    for line in question_lines(main_questions(results.verdict)):
        print(line)
    for line in elsewhere_lines(results):
        print(line)
    for caution in results.warnings:
        print(caution)
    if shipped := results.verdict.get("shipped"):
        print(f"{out / 'export' / shipped}; try it: distill predict {out} PICTURE")


def find_learning_rates(
    experiment: Experiment, stages: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """A learning-rate range test of each run of these stages, as JSON and as a plot."""
    from distill.pipeline.lr_finder import find_lr
    from distill.pipeline.plan import check_weights

    if num_processes() > 1:
        raise UserError("processes cannot share a range test", "--find-lr", "start it alone")
    check_first(experiment, stages)
    check_weights(experiment, stages, load=not dry_run)
    recipe, by_run = experiment.recipe, {}
    teachers = recipe.teachers if "teacher" in stages else ()
    students = recipe.students if "student" in stages else ()
    if dry_run:
        lines = [f"range test of {config.name}" for config in (*teachers, *students)]
        print(*lines, sep="\n")
        emit({"plan": lines}, as_json)
        return
    for config in (*teachers, *students):
        by_run[config.name] = find_lr(experiment, config)
        suggested, plot = by_run[config.name]["suggested_lr"], by_run[config.name]["plot"]
        print(f"{config.name}: try train.lr={suggested:.1e}, see {plot}")
    emit(by_run, as_json)


def show_plan(experiment: Experiment, stages: tuple[str, ...], as_json: bool) -> None:
    """What the stages would do; nothing is decoded, trained or written."""
    from distill.pipeline.plan import plan

    source = experiment.source
    lines = plan(experiment, stages)
    for line in (f"{len(source.items):,} images, {len(source.classes)} classes", *lines):
        print(line)
    emit({"plan": lines}, as_json)


def show_data(data: ImageData, known: Path) -> None:
    """Class counts and findings, on stderr; one line where an earlier stage wrote the same down."""
    from distill.files import read_json
    from distill.report.table import data_table, finding_lines

    described = json.loads(json.dumps(data.describe()))
    if known.is_file() and described.items() <= read_json(known).items():
        count = len(data.findings)
        again = f"distill check {shlex.quote(data.location)}"
        again += " data.task=multi" if data.task == "multi" else ""
        print(f"data: as before, {count} findings; to see them: {again}", file=sys.stderr)
        return
    Console(stderr=True).print(data_table(data))
    for line in finding_lines(data.findings, most=3):
        print(printable(line), file=sys.stderr)
    unreadable = sum(finding.kind == "unreadable" for finding in data.findings)
    if unreadable:
        print(f"{unreadable} images could not be read and are left out", file=sys.stderr)


def json_line(value: Any) -> str:
    """A JSON document in one line, which is JSON in whatever encoding stdout has."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    text = json.dumps(value, ensure_ascii=not encoding.startswith("utf"))
    return text if not unprintable(text) else json.dumps(value)


def emit(value: dict[str, Any], as_json: bool) -> None:
    """The JSON document that `--json` promises as the last line of stdout."""
    if as_json:
        print(json_line(value))
