"""`report.html` in Chromium, light and dark, wide and narrow; `make browser` installs it all."""

import re
from pathlib import Path
from typing import Any

import pytest

from distill.files import write_json
from distill.pipeline.export import export_student
from distill.pipeline.report import report_experiment, score_experiment
from distill.recipe import write_toml

pytestmark = pytest.mark.browser
SIZES = {"wide": (1200, 900), "phone": (400, 800)}
# What a text is painted with, over all that lies behind it, and the ratio of WCAG 2.1, 1.4.3.
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], back) => [r, g, b].map((c, i) => a * c + (1 - a) * back[i]);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => {
      c /= 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    if (!text || walker.currentNode.parentElement.closest("style, script")) continue;
    const chain = [];
    for (let e = walker.currentNode.parentElement; e; e = e.parentElement) chain.unshift(e);
    let back = [255, 255, 255], opacity = 1;
    for (const element of chain) {
      const style = getComputedStyle(element);
      back = over(parse(style.backgroundColor), back);
      opacity *= Number(style.opacity);
    }
    const ink = parse(getComputedStyle(chain.at(-1)).color);
    const painted = over([ink[0], ink[1], ink[2], (ink[3] ?? 1) * opacity], back);
    const [a, b] = [light(painted), light(back)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 60)]);
  }
  return found;
}"""
FOCUS = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const outline = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
  return [element.tagName, element.getAttribute("aria-label") || element.textContent, outline];
}"""


@pytest.fixture(scope="module", params=["single", "multi"])
def report(request, make_experiment, tmp_path_factory) -> Path:
    """The page of an experiment with everything that it can have."""
    out = tmp_path_factory.mktemp(request.param) / "mine"
    experiment = make_experiment(out, request.param, targets=("onnx_int8",), int8_max_drop=100.0)
    steps = {"lr": [1e-4, 1e-3, 1e-2], "loss": [1.0, 0.5, 2.0]}
    write_json(experiment.folder("teacher") / "lr_find.json", {"suggested_lr": 1e-3, **steps})
    (out / "recipe.toml").write_text(write_toml(experiment.recipe), "utf-8")
    export_student(experiment)
    probs: dict[str, Any] = {}
    report_experiment(experiment, score_experiment(experiment, probs), probs)
    return out / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_loads_whole_and_asks_nobody(size, scheme, report, page) -> None:
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    page.goto(report.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    pictures = page.evaluate("[...document.images].map(i => [i.alt, i.complete, i.naturalWidth])")
    assert len(pictures) > 20
    assert [one for one in pictures if not (one[0] and one[1] and one[2] > 0)] == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= SIZES[size][0]
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert min(contrasts)[0] >= 4.5, min(contrasts)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 384) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme, report, page, packages) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    page.evaluate((packages / "axe-core" / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    broken = [
        (rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]
    ]
    assert broken == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(report, page) -> None:
    page.goto(report.as_uri())
    count = page.locator("a[href], summary, [tabindex='0']").count()
    hidden = page.locator("details:not([open]) [tabindex='0']").count()
    reached = []
    for _ in range(count - hidden):
        page.keyboard.press("Tab")
        reached.append(tuple(page.evaluate(FOCUS)))
    assert len({(tag, name) for tag, name, _ in reached}) == count - hidden  # each once
    assert [one for one in reached if one[2] < 2] == []
    assert {tag for tag, _, _ in reached} == {"A", "SUMMARY", "DIV", "PRE"}
    page.locator("nav a").last.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#repeat")
    assert page.locator("#repeat").is_visible()


def test_what_is_folded_opens_by_a_key(report, page) -> None:
    page.goto(report.as_uri())
    assert not page.locator("details pre").is_visible()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("details pre").is_visible()
    assert "[[students]]" in page.locator("details pre").inner_text()


def test_on_paper_nothing_is_cut_off_or_folded(report, page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 700, "height": 1000})
    page.goto(report.as_uri())
    assert not page.locator("nav").is_visible()
    assert page.locator("details pre").bounding_box()["height"] > 200
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == "rgb(255, 255, 255)"
    assert min(page.evaluate(CONTRASTS))[0] >= 4.5
    wide = page.evaluate(
        "[...document.querySelectorAll('table, img, pre')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    assert [html[:200] for html in wide] == []
    assert page.pdf(format="A4").startswith(b"%PDF")
