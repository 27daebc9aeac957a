"""`report.html`: whole, closed in itself, and of names that are not ours."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from distill.errors import install_command
from distill.files import files_below, write_json, write_manifest
from distill.pipeline import page as page_module
from distill.pipeline.export import export_student
from distill.pipeline.int8_training import int8_run
from distill.pipeline.page import beyond, figures, pictures, records
from distill.pipeline.page.content import Content
from distill.pipeline.report import report_experiment, score_experiment
from distill.report import plots
from distill.report.page import Page, Pictures, Section, Table, write_page
from distill.report.results import ResultRow

NASTY = '<script>alert("1")</script> & "x"'


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data):
        self.text += data


def read(file) -> Reader:
    reader = Reader()
    reader.feed(file.read_text("utf-8"))
    return reader


@pytest.fixture(scope="module", params=["single", "multi"])
def reported(request, make_experiment, tmp_path_factory):
    """An experiment that was reported."""
    experiment = make_experiment(tmp_path_factory.mktemp(request.param) / "mine", request.param)
    export_student(experiment)
    probs = {}
    report_experiment(experiment, score_experiment(experiment, probs), probs)
    return experiment


def test_the_page_needs_nothing_and_runs_nothing(reported):
    reader = read(reported.out / "report.html")
    tags = [tag for tag, _ in reader.tags]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    for tag, attributes in reader.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href"):
                assert value.startswith(("data:image/", "#")), (tag, value)
    text = (reported.out / "report.html").read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_the_page_is_told_to_whoever_does_not_see_it(reported):
    reader = read(reported.out / "report.html")
    assert all(attributes["alt"] for tag, attributes in reader.tags if tag == "img")
    assert [tag for tag, _ in reader.tags].count("h1") == 1
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in reader.tags if tag == "a"}
    assert links == {f"#{name}" for name in ids}
    assert ("html", {"lang": "en"}) in reader.tags


def test_the_verdict_and_one_table_come_first(reported):
    text = (reported.out / "report.html").read_text("utf-8")
    places = [text.index(part) for part in ('class="verdict"', "<table>", "<nav", "<h2>")]
    assert places == sorted(places)
    said = read(reported.out / "report.html").text
    assert "student.fp32.onnx over teacher" in said
    for name in ("red", "green", "blue", "random_forest", "To repeat it"):
        assert name in said


def test_differences_are_of_the_score_that_the_task_has(reported):
    score = "mean average precision" if reported.data.task == "multi" else "accuracy"
    assert f"Differences of {score} on the test split" in read(reported.out / "report.html").text
    assert f"Differences are of {score} on" in (reported.out / "README.md").read_text("utf-8")


def test_names_of_classes_are_no_mathematics(tmp_path):
    """`$1_$5` is none that matplotlib can set."""
    names = ("$1_$5", "A&$^$")
    figure = plots.confusion({"student": np.eye(2)}, np.array([0, 1]), names)
    figure.savefig(tmp_path / "confusion.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(names)


def test_every_plot_is_a_file_too(reported):
    made = {file.stem for file in (reported.out / "plots").glob("*.png")}
    single = {"confusion", "coverage"} if reported.data.task == "single" else set()
    assert made - {"thresholds"} == {"results", "curves", "reliability", "views", *single}
    for file in (reported.out / "plots").glob("*.png"):
        with Image.open(file) as image:
            assert np.asarray(image.convert("L")).std() > 1


def test_names_are_text_and_nothing_else(tmp_path):
    table = Table(NASTY, [NASTY], [[NASTY]], NASTY)
    figure = Pictures(["data:image/png;base64,"], NASTY, NASTY)
    section = Section("s", NASTY, NASTY, (), [table], [NASTY], [figure], NASTY, {NASTY: NASTY})
    page = Page(NASTY, NASTY, [(NASTY, "")], (), table, NASTY, [section])
    write_page(tmp_path / "page.html", page)
    reader = read(tmp_path / "page.html")
    assert "script" not in [tag for tag, _ in reader.tags]
    assert reader.text.count(NASTY) >= 11


def test_without_the_libraries_the_rest_is_written(reported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page_module, "NEEDS", ("matplotlib", "no_such_engine"))
    said = []
    monkeypatch.setattr(type(reported.progress), "say", lambda self, line: said.append(line))
    before = (reported.out / "report.html").stat().st_mtime_ns
    probs = {}
    report_experiment(reported, score_experiment(reported, probs), probs)
    how = install_command("report")
    assert said[-1] == f"report.html is left out, it needs no_such_engine: {how}"
    assert (reported.out / "report.html").stat().st_mtime_ns == before


@pytest.fixture
def content(reported) -> Content:
    probs: dict = {}
    results = score_experiment(reported, probs)
    return Content(reported, results, probs)


def test_mistakes_are_the_surest_wrong_answers_first(content):
    answers = content.answers
    section = pictures.mistakes(answers)
    if content.data.task == "multi":
        assert section is None
        return
    wrong = answers.probs.argmax(axis=1) != content.data.test.labels
    assert section.text.startswith(f"{wrong.sum()} of {len(wrong)} test images")
    sure = [float(re.search(r"taken for \w+ \((\d+) %\)", f.caption)[1]) for f in section.figures]
    assert sure == sorted(sure, reverse=True)
    assert len(sure) == min(wrong.sum(), pictures.MOST)
    assert all(len(figure.sources) == 2 for figure in section.figures)  # the map beside it
    assert {figure.tone for figure in section.figures} == {"bad"}


def test_top_losses_are_the_highest_that_are_not_shown_above(content):
    answers, test = content.answers, content.data.test
    section = pictures.losses(answers)
    mean = content.results.rows[-1].test["nll"]
    assert answers.losses.mean() == pytest.approx(mean)
    above = pictures.mistakes(answers)
    shown = {f.caption.rpartition("; ")[2] for f in above.figures} if above else set()
    names = [figure.caption.rpartition("; ")[2] for figure in section.figures]
    ranked = [test.names[i] for i in np.argsort(-answers.losses, kind="stable")]
    assert names == [name for name in ranked if name not in shown][: pictures.MOST]


def test_a_sample_is_random_and_says_what_is_right(content):
    section = pictures.samples(content.answers, 3)
    assert len(section.figures) == pictures.SAMPLES
    test, names = content.data.test, [f.caption.rpartition("; ")[2] for f in section.figures]
    assert names != list(test.names[: pictures.SAMPLES])
    assert names == [
        f.caption.rpartition("; ")[2] for f in pictures.samples(content.answers, 3).figures
    ]
    right = content.answers.right
    for name, figure in zip(names, section.figures, strict=True):
        is_right = right[test.names.index(name)]
        assert figure.caption.startswith("right: " if is_right else "wrong: ")
        assert figure.tone == ("good" if is_right else "bad")


def test_precision_and_what_is_taken_for_what(content):
    (table,) = figures.classes(content).tables
    scores = content.results.rows[-1].test
    for row in table.rows:
        cells = dict(zip(table.heads, row, strict=True))
        own = f"recall of {content.answers.file.name}, %"
        assert cells[own] == f"{scores['per_class_recall'][row[0]]:.1f}"
        if content.data.task == "multi":
            assert cells["precision, %"] == f"{scores['per_class_precision'][row[0]]:.1f}"
            assert cells["threshold"]
    f1 = [float(dict(zip(table.heads, row, strict=True))["F1, %"]) for row in table.rows]
    assert np.mean(f1) == pytest.approx(scores["macro_f1"], abs=0.06)


def test_curves_of_all_runs_have_rows_of_panels():
    rows = [{"train/loss": 1.0, "val/top1": 50.0}, {"train/loss": 0.5, "val/top1": 60.0}]
    for count, panels in ((1, 2), (7, 2), (8, 4), (15, 6)):
        figure = plots.curves({f"run{n}": rows for n in range(count)}, "top1")
        assert len(figure.axes) == panels
        assert sum(len(panel.lines) for panel in figure.axes) == 2 * count


def test_latencies_are_of_one_engine_and_opponents_are_lines():
    """A teacher is where the file lies that was timed for it, not where torch puts it."""
    rows = [
        ResultRow(name="t", kind="teacher", test={"top1": 90.0}, latency_p50_ms=50.0, size_bytes=9),
        ResultRow(name="s", kind="student", test={"top1": 80.0}, latency_p50_ms=20.0, size_bytes=3),
        ResultRow(name="student.fp32.onnx", kind="onnx", test={"top1": 80.0}, latency_p50_ms=1.0),
        ResultRow(name="t.onnx", kind="onnx", latency_p50_ms=5.0, size_bytes=8),
        ResultRow(name="rival.onnx", kind="onnx", latency_p50_ms=3.0, size_bytes=4),
    ]
    latency, size = plots.results(rows, "top1").axes
    assert [float(line.get_xdata()[0]) for line in latency.lines] == [5.0, 1.0, 3.0]
    named = {text.get_text() for text in latency.texts}
    assert named == {"t", "student.fp32.onnx", "rival.onnx"}
    assert [1e6 * float(line.get_xdata()[0]) for line in size.lines] == pytest.approx([8, 3, 4])


def test_images_by_distance_and_from_elsewhere_have_tables(content):
    main = content.task.main_score
    quarter = {"n": 8, "distance": 0.1, "accuracy": 90.0, "low": 80.0, "high": 95.0, "ece": 3.0}
    row = {"name": "student.fp32.onnx", "test": {main: 75.0, "ece": 9.0}}
    update = {
        "distance": {"file": "student.fp32.onnx", "quarters": [quarter] * 4},
        "elsewhere": ({"location": "phones", "n": 7, "rows": [row], "farther_percent": 60.0},),
    }
    found = replace(content, results=content.results.model_copy(update=update))
    section = beyond.elsewhere(found)
    near, phones = section.tables
    assert near.rows[3] == ["farthest", "8", "90.00", "80.00 to 95.00", "3.00"]
    assert phones.title == "phones, 7 images"
    assert phones.rows == [["student.fp32.onnx", "75.00", "", "9.00"]]
    assert section.lines[0].startswith("phones: 60 % of the images are farther away")
    update = {"distance": None, "elsewhere": ()}
    nothing = replace(content, results=content.results.model_copy(update=update))
    assert beyond.elsewhere(nothing) is None


def test_the_run_of_an_int8_file_has_its_curve(reported, content):
    """Its network is a module of ours, which was taken for somebody else's: there was no report."""
    student = reported.recipe.students[0].name
    folder = shutil.copytree(reported.folder(student), reported.folder(int8_run(student)))
    try:
        known = json.loads((folder / "config.json").read_text())
        known["run"]["model"]["name"] = "distill.pipeline.int8_training"
        write_json(folder / "config.json", known)
        write_manifest(folder, files_below(folder))
        assert records.training(content).plots
    finally:
        shutil.rmtree(folder)


def test_a_rate_test_is_shown_with_what_it_was_made_with(reported, content):
    teacher = reported.recipe.teachers[0]
    folder = reported.folder(teacher.name)
    before = records.learning_rates(content)
    hotter = teacher.train.model_copy(update={"lr": 0.5, "epochs": 3, "batch_size": 8})
    run = teacher.model_copy(update={"train": hotter}).model_dump(mode="json")
    steps = {"lr": [1e-4, 1e-3, 1e-2], "loss": [1.0, 0.5, 2.0], "suggested_lr": 1e-3}
    write_json(folder / "lr_find.json", {**steps, "run": run})
    section = records.learning_rates(content)
    (folder / "lr_find.json").unlink()
    assert before is None
    (line,) = section.lines
    assert line.startswith("teacher: 1.0e-03 was suggested, 1.0e-03 was taken; ")
    assert line.endswith("with another train.batch_size")
    assert len(section.plots) == 1
