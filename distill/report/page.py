"""`report.html`: one file that needs no network and no script, made by a template."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.files import write_text

TEMPLATE = "report.html.j2"
QUALITY = 80


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the first of a row names it.

    Attributes:
        marked: Name of the row that stands out.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: str | None = None


@dataclass(frozen=True)
class Plot:
    """A picture in the page, as a data URI."""

    source: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side with a caption, which is `good`, `bad` or neither."""

    sources: Sequence[str]
    alt: str
    caption: str
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page, whatever it consists of.

    Attributes:
        folded: Texts that unfold, by their titles.
    """

    id: str
    title: str
    text: str = ""
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    figures: Sequence[Pictures] = ()
    code: str = ""
    folded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What the page says, the verdict and one table first.

    Attributes:
        verdict: Lines, each with `good`, `bad` or nothing.
    """

    title: str
    subtitle: str
    verdict: Sequence[tuple[str, str]]
    warnings: Sequence[Any]
    results: Table
    teacher: str | None
    sections: Sequence[Section]


def write_page(path: Path, page: Page) -> None:
    """Writes the page; names of files and classes are escaped by the template's engine."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("distill.report")
    engine = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = engine.get_template(TEMPLATE)
    write_text(path, template.render(vars(page)))


def plot_of(file: Path, alt: str) -> Plot:
    """A PNG file as part of the page, at half its pixels, for dense displays."""
    content = file.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Plot(source, round(width * 0.75), round(height * 0.75), alt)


def picture_of(pixels: NDArray[np.uint8]) -> str:
    """Pixels as a data URI."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
