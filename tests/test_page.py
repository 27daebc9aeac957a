"""`report.html`: whole, closed in itself, and of names that are not ours."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from distill.pipeline import page as page_module
from distill.pipeline.export import export_student
from distill.pipeline.report import report_experiment, score_experiment
from distill.report import plots
from distill.report.page import Page, Pictures, Section, Table, write_page

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
    section = Section("s", NASTY, NASTY, (), [table], [NASTY], [figure], NASTY)
    page = Page(NASTY, NASTY, [(NASTY, "")], (), table, NASTY, [section])
    write_page(tmp_path / "page.html", page)
    reader = read(tmp_path / "page.html")
    assert "script" not in [tag for tag, _ in reader.tags]
    assert reader.text.count(NASTY) >= 9


def test_without_the_libraries_the_rest_is_written(reported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page_module, "NEEDS", ("matplotlib", "no_such_engine"))
    said = []
    monkeypatch.setattr(type(reported.progress), "say", lambda self, line: said.append(line))
    before = (reported.out / "report.html").stat().st_mtime_ns
    probs = {}
    report_experiment(reported, score_experiment(reported, probs), probs)
    assert said[-1].startswith("report.html is left out, it needs no_such_engine: pip install")
    assert (reported.out / "report.html").stat().st_mtime_ns == before


def test_mistakes_are_the_surest_wrong_answers_first(reported):
    if reported.data.task == "multi":
        return
    probs = {}
    results = score_experiment(reported, probs)
    section = page_module._Content(reported, results, probs)._mistakes()
    shipped = probs[results.verdict["shipped"]]
    wrong = shipped.argmax(axis=1) != reported.data.test.labels
    assert section.text.startswith(f"{wrong.sum()} of {len(wrong)} test images")
    sure = [float(re.search(r"taken for \w+ \((\d+) %\)", f.caption)[1]) for f in section.figures]
    assert sure == sorted(sure, reverse=True)
    assert len(sure) == min(wrong.sum(), page_module.MOST_PICTURES)
    assert all(len(figure.sources) == 2 for figure in section.figures)  # the map beside it


def test_a_map_is_hot_where_its_values_are_high():
    pixels = np.full((32, 32, 3), 128, np.uint8)
    cam = np.zeros((4, 4), np.float32)
    cam[0, 0] = 1.0
    heated = plots.heat(pixels, cam).astype(int)
    assert heated[2, 2].sum() > heated[28, 28].sum() + 100
    assert (plots.heat(pixels, np.ones((4, 4), np.float32)) == plots.heat(pixels, 0 * cam)).all()
