"""The page of a data check: what it shows, and that nothing in a name can break it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from distill.config import DataConfig
from distill.data.audit.findings import KINDS, Finding
from distill.data.audit.listing import Listing, list_data
from distill.data.demo import paint
from distill.data.sources import Item, open_source
from distill.data.workspace import Workspace
from distill.progress import Progress
from distill.report import data_page
from distill.report.data_page import write_page

VOID = {"meta", "img", "br"}
ODD_NAME = "<script>alert(1)</script>&'\""


class Page(HTMLParser):
    """A page as a browser would see it: text, pictures, links; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def face(number: int) -> Image.Image:
    return Image.fromarray(paint(number)[0])


def save(image: Image.Image, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    image.save(place)


def listed(folder: Path, **options: object) -> Listing:
    config = DataConfig(size=32, **options)
    source = open_source(str(folder), config.task)
    return list_data(
        source, config, 0, Workspace(folder.parent / "kept", 1, Progress(quiet=True)), always=True
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, one with a name that is no good in HTML, and something odd of many kinds."""
    root = tmp_path_factory.mktemp("page") / "photos"
    for split, start, count in (("train", 0, 14), ("val", 40, 4), ("test", 80, 4)):
        for number in range(start, start + count):
            save(face(number), root / split / "cat" / f"{number}.png")
            save(face(number + 500), root / split / "<b>dog & co" / f"{number}.png")
    save(face(0), root / "test" / "cat" / "leak.png")
    save(face(1), root / "train" / "<b>dog & co" / 'conflict".png')
    save(face(2).resize((64, 64)), root / "train" / "cat" / "near.png")
    save(face(3).resize((400, 100)), root / "train" / "cat" / "long.png")
    save(face(4).point(lambda value: value // 12), root / "train" / "cat" / "dark.png")
    (root / "train" / "cat" / f"{ODD_NAME.replace('/', '')}.jpg").write_bytes(b"no picture")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    return root


@pytest.fixture(scope="module")
def listing(photos: Path) -> Listing:
    return listed(photos)


@pytest.fixture(scope="module")
def page(listing: Listing, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(listing, tmp_path_factory.mktemp("page") / "data.html")


def page_of(listing: Listing, path: Path) -> Page:
    write_page(path, listing)
    return Page(path.read_text("utf-8"))


def test_every_finding_has_its_section(listing: Listing, page: Page) -> None:
    found = {finding.kind for finding in listing.findings}
    expected = {"unreadable", "ignored", "leak", "label_conflict", "exact_duplicate"}
    assert expected | {"near_duplicate", "dark", "odd_shape"} <= found
    ids = [attributes["id"] for attributes in page.all("section") if "id" in attributes]
    assert ids == [kind for kind in KINDS if kind in found]
    assert {attributes["href"] for attributes in page.all("a")} == {f"#{kind}" for kind in found}
    for finding in listing.findings:
        assert finding.detail in page.text
        for path in finding.paths:
            assert path in page.text
    for name in listing.classes:
        assert name in page.text


def test_nothing_is_fetched_or_run(page: Page) -> None:
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert page.all("b") == [{}] * len(page.all("figure"))  # ours, not the class named <b>dog
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert tag in ("img", "a") or not {"src", "href"} & set(attributes)
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_small_and_inside(page: Page) -> None:
    images = page.all("img")
    assert len(images) >= 10
    for attributes in images:
        kind, _, encoded = str(attributes["src"]).partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert picture.format == "JPEG"
        assert (str(picture.width), str(picture.height)) == (
            attributes["width"],
            attributes["height"],
        )
        assert max(picture.size) <= 112


def test_a_leaked_image_is_shown_beside_its_copy(listing: Listing, tmp_path: Path) -> None:
    (leak,) = [finding for finding in listing.findings if finding.kind == "leak"]
    page = page_of(replace(listing, findings=(leak,)), tmp_path / "data.html")
    assert len(page.all("img")) == 2
    assert "train/cat/0.png" in page.text
    assert "test/cat/leak.png" in page.text


def test_a_leak_is_shown_beside_its_copy_not_beside_any_of_its_group(
    listing: Listing, tmp_path: Path
) -> None:
    """A source may say that all are one group, such as photographs of one place."""
    (leak,) = [finding for finding in listing.findings if finding.kind == "leak"]
    first, *others = listing.items
    assert first.name != "train/cat/0.png"
    one = replace(listing, findings=(leak,), groups=("place",) * (1 + len(others)))
    page = page_of(one, tmp_path / "data.html")
    assert "train/cat/0.png" in page.text
    assert len(page.all("img")) == 2


def test_only_the_first_groups_are_shown(listing: Listing, tmp_path: Path) -> None:
    names = sorted(
        i.name for i in listing.items if i.name.startswith(("train/cat/1", "test/cat/8"))
    )
    same = Finding(kind="near_duplicate", severity="info", paths=tuple(names), detail="the same")
    many = replace(listing, findings=(same,) * 30)
    page = page_of(many, tmp_path / "data.html")
    assert len(names) > data_page.MOST_PICTURES
    assert len(page.all("img")) == data_page.MOST_BOXES * data_page.MOST_PICTURES
    assert "and 6 more" in page.text  # of 30 groups
    assert f"and {len(names) - data_page.MOST_PICTURES} more" in page.text


def test_counts_are_those_of_the_splits(page: Page) -> None:
    cells = [text.strip() for text in page.texts if text.strip()]
    at = cells.index("cat")
    # 14 + near, long, dark in train; test has the leak, too.
    assert cells[at : at + 4] == ["cat", "17", "4", "5"]
    at = cells.index("all")
    assert cells[at : at + 4] == ["all", "32", "8", "9"]


def test_a_data_set_without_anything_odd(tmp_path: Path) -> None:
    for number in range(8):
        save(face(number), tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png")
    page = page_of(listed(tmp_path / "photos"), tmp_path / "data.html")
    assert page.all("section") == [{}] * len(page.all("section"))  # none of a finding
    assert page.all("img") == page.all("a") == []


def test_images_of_several_labels(photos: Path, tmp_path: Path) -> None:
    listing = listed(photos, task="multi")
    items = tuple(
        replace(item, label=(0, 1) if item.name == "train/cat/5.png" else ())
        if item.name in ("train/cat/5.png", "train/cat/6.png")
        else item
        for item in listing.items
    )
    doubted = [(f"train/cat/{number}.png",) for number in (5, 6)]
    findings = tuple(
        Finding(kind="label_error", severity="warning", paths=paths, detail="doubt")
        for paths in doubted
    )
    page = page_of(replace(listing, items=items, findings=findings), tmp_path / "data.html")
    captions = [text.strip() for text in page.texts]
    assert "cat + <b>dog & co" in captions or "<b>dog & co + cat" in captions
    assert "no label" in captions


def test_a_picture_that_vanished_leaves_its_name(
    listing: Listing, page: Page, tmp_path: Path
) -> None:
    def read(item: Item) -> bytes:
        if item.name == "test/cat/leak.png":
            raise FileNotFoundError(item.name)
        return listing.source.read(item)

    lost = replace(listing, source=replace(listing.source, read=read))
    text = page_of(lost, tmp_path / "data.html").text
    assert text.count("no picture") > page.text.count("no picture")
    assert text.count("test/cat/leak.png") == page.text.count("test/cat/leak.png")


def test_the_page_is_whole_or_absent(listing: Listing, tmp_path: Path) -> None:
    unknown = Finding(kind="dark", severity="info", paths=("?",), detail="")
    broken = replace(listing, findings=(unknown,))
    with pytest.raises(KeyError):
        write_page(tmp_path / "data.html", broken)
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_finding_has_a_title():
    assert list(data_page.TITLES) == list(KINDS)
