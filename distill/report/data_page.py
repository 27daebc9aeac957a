"""A page with pictures of what `distill check` found: one HTML file, no scripts, nothing fetched.

Names of files and classes are not ours: whatever is shown goes through `html.escape`.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain
from pathlib import Path

from distill.data.audit.findings import KINDS, Finding
from distill.data.audit.listing import Listing
from distill.data.decode import UnreadableImageError, read_image
from distill.data.sources import SPLITS, Item
from distill.errors import RunStopped
from distill.files import atomic

Findings = Sequence[Finding]

MOST_BOXES = 24  # groups of pictures of a kind, or names in a list
MOST_PICTURES = 6  # of a group; 24 where a kind is one group
SIDE = 112  # of a picture, in pixels
QUALITY = 75

TITLES = {
    "listing": ("Layout", "How the data were understood, and what was left out."),
    "unreadable": ("Unreadable", "Left out everywhere."),
    "ignored": ("Not images", "Ignored, by the ending of their names."),
    "leak": ("Leaks", "Images that have a copy in another split: scores on them flatter."),
    "label_conflict": ("One picture, several labels", "At most one of them is right."),
    "label_error": ("Doubtful labels", "A teacher that had not seen the label disagrees."),
    "exact_duplicate": ("Equal files", "The same bytes more than once."),
    "near_duplicate": ("Near-duplicates", "The same picture: resized, recoloured, mirrored."),
    "imbalance": ("Imbalance", "Rare classes are recognised worst."),
    "tiny": ("Tiny", "Enlarged, they show little but blur."),
    "huge": ("Huge", "They cost time and show no more than a smaller one would."),
    "dark": ("Dark", "Little can be seen in them."),
    "blank": ("Blank", "They show one colour only."),
    "blurred": ("Blurred", "Far less sharp than the other images."),
    "odd_shape": ("Odd shapes", "Much is cut off or squeezed when they are made square."),
}
TEXT_ONLY = ("listing", "unreadable", "ignored", "imbalance")
GROUPS = ("label_conflict", "exact_duplicate", "near_duplicate")

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --line: #8885; --box: #8881; --error: #b3261e; --link: #0b57d0 }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --link: #8ab4f8 } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 72rem }
h1, h2, li, p, th, figcaption { overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0; border-top: 1px solid var(--line); padding-top: 1rem }
small, .note { opacity: .75; font-weight: normal }
a { color: var(--link) }
a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem }
.error { color: var(--error) }
code { background: var(--box); border-radius: 4px; padding: .1em .3em }
table { border-collapse: collapse; width: 100%; max-width: 40rem }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line) }
tr > :first-child { text-align: left }
tbody th { font-weight: normal }
.boxes { display: flex; flex-wrap: wrap; gap: .75rem }
.box { border: 1px solid var(--line); background: var(--box); border-radius: 8px; padding: .5rem }
.box p { margin: 0 0 .5rem; font-size: .85rem; width: 0; min-width: 100% }
.row { display: flex; flex-wrap: wrap; gap: .5rem }
figure { margin: 0; width: 7rem; font-size: .75rem; line-height: 1.3 }
img { display: block; max-width: 100%; height: auto }
@media (max-width: 30rem) { figure { width: 5.2rem } .box { width: 100% } }
</style></head><body><main>
"""


def _members(groups: Sequence[str]) -> list[list[int]]:
    """By image, the numbers of all that are in its group."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    return [members[group] for group in groups]


class _Pictures:
    """Small pictures of a listing's images, each read and encoded once."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._index = {item.name: i for i, item in enumerate(listing.items)}
        # Of copies first: what a source groups need not look alike.
        self._groups = [_members(names) for names in (listing.copies, listing.groups)]
        self._made: dict[str, str] = {}

    def figure(self, name: str) -> str:
        """A picture with its split, label and name below."""
        index = self._index[name]
        item, split = self._listing.items[index], self._listing.splits[index]
        if name not in self._made:
            self._made[name] = self._picture(item)
        label = escape(_label(item, self._listing.classes))
        caption = f"<figcaption><b>{escape(split)}</b> {label}<br>{escape(name)}</figcaption>"
        return f"<figure>{self._made[name]}{caption}</figure>"

    def with_partner(self, name: str) -> list[str]:
        """An image, and after it a copy in another split, or one of its group, if there is one."""
        items, splits = self._listing.items, self._listing.splits
        index = self._index[name]
        near = chain.from_iterable(groups[index] for groups in self._groups)
        return [name, *[items[i].name for i in near if splits[i] != splits[index]][:1]]

    def _picture(self, item: Item) -> str:
        try:
            image = read_image(self._listing.source.read(item))
        except (UnreadableImageError, OSError, RunStopped):
            return "no picture"
        image.thumbnail((SIDE, SIDE))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=QUALITY)
        encoded = base64.b64encode(content.getvalue()).decode()
        size = f'width="{image.width}" height="{image.height}"'
        return f'<img {size} alt="" src="data:image/jpeg;base64,{encoded}">'


def write_page(path: Path, listing: Listing) -> None:
    """Writes a page on a listing: its counts, its findings with pictures, and what to do.

    Of a kind of findings the first few are shown; all are in `data.json`.

    Raises:
        RunStopped: The disk is full.
    """
    by_kind: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in listing.findings:
        by_kind[finding.kind].append(finding)
    sections = {kind: findings for kind, findings in by_kind.items() if findings}
    pictures = _Pictures(listing)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(HEAD.replace("{title}", escape(listing.location)))
        file.writelines(_summary(listing, sections))
        file.writelines(_counts(listing))
        for kind, findings in sections.items():
            title, meaning = TITLES[kind]
            file.write(f'<section id="{kind}"><h2>{title} <small>{_amount(findings)}</small></h2>')
            file.write(f"<p>{meaning}</p>\n")
            file.writelines(_section(kind, findings, pictures))
            file.write("</section>\n")
        file.write("</main></body></html>\n")


def _summary(listing: Listing, sections: dict[str, list[Finding]]) -> Iterator[str]:
    yield f"<h1>{escape(listing.location)}</h1>\n"
    yield f"<p>{len(listing.items):,} images, {len(listing.classes):,} classes</p>\n"
    if not sections:
        yield "<p>Nothing odd was found.</p>\n"
        return
    yield '<nav aria-label="Findings"><ul>\n'
    for kind, findings in sections.items():
        mark = ' class="error"' if any(f.severity == "error" for f in findings) else ""
        link = f'<a{mark} href="#{kind}">{TITLES[kind][0]}</a>'
        yield f"<li>{link} <small>{_amount(findings)}</small></li>\n"
    yield "</ul></nav>\n<section><h2>What to do</h2><ul>\n"
    for line in listing.advice():
        before, command, after = line.partition("distill ")
        code = f"<code>{escape(command + after)}</code>" if command else ""
        yield f"<li>{escape(before)}{code}</li>\n"
    yield "</ul></section>\n"


def _counts(listing: Listing) -> Iterator[str]:
    """Images per class and split."""
    counts = [listing.class_counts(split) for split in SPLITS]
    rows = [
        (name, [count[number] for count in counts]) for number, name in enumerate(listing.classes)
    ]
    heads = "".join(f'<th scope="col">{split}</th>' for split in SPLITS)
    yield f'<section><h2>Images</h2><table><thead><tr><th scope="col">class</th>{heads}</tr>'
    yield "</thead><tbody>\n"
    for name, numbers in [*rows, ("all", [listing.num_images(split) for split in SPLITS])]:
        cells = "".join(f"<td>{number:,}</td>" for number in numbers)
        yield f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'
    yield "</tbody></table></section>\n"


def _section(kind: str, findings: Findings, pictures: _Pictures) -> Iterator[str]:
    """The first findings of a kind."""
    if kind in TEXT_ONLY:
        lines = [
            f"{path}: {f.detail}" if path else f.detail
            for f in findings
            for path in (f.paths or [""])
        ]
        listed = "".join(f"<li>{escape(line)}</li>\n" for line in lines[:MOST_BOXES])
        yield f"<ul>{listed}</ul>{_more(len(lines) - MOST_BOXES)}\n"
    elif kind == "leak":
        for finding in findings:
            paths = finding.paths
            yield f'<p class="error">{escape(finding.detail)}</p>\n<div class="boxes">\n'
            for path in paths[:MOST_BOXES]:
                yield _box("", pictures.with_partner(path), pictures)
            yield f"</div>{_more(len(paths) - MOST_BOXES)}\n"
    else:
        yield '<div class="boxes">\n'
        most = MOST_PICTURES if kind in GROUPS else MOST_BOXES
        for finding in findings[:MOST_BOXES]:
            yield _box(finding.detail, finding.paths, pictures, most)
        yield f"</div>{_more(len(findings) - MOST_BOXES)}\n"


def _box(detail: str, paths: Sequence[str], pictures: _Pictures, most: int = MOST_BOXES) -> str:
    figures = "".join(pictures.figure(path) for path in paths[:most])
    said = f"<p>{escape(detail)}</p>" if detail else ""
    more = _more(len(paths) - most)
    return f'<div class="box">{said}<div class="row">{figures}</div>{more}</div>\n'


def _more(count: int) -> str:
    if count <= 0:
        return ""
    return f'<p class="note">and {count:,} more, see <code>data.json</code></p>'


def _amount(findings: Findings) -> str:
    """How many files, or, of a finding about none, how many findings."""
    return f"{len({path for f in findings for path in f.paths}) or len(findings):,}"


def _label(item: Item, classes: Sequence[str]) -> str:
    several = item.label if isinstance(item.label, tuple) else (item.label,)
    return " + ".join(classes[label] for label in several if label >= 0) or "no label"
