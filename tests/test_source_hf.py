"""The Hub's data sets, from a cache folder as `huggingface_hub` lays it out; no network."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import constants
from PIL import Image
from pyarrow import parquet

from distill.data.decode import read_image
from distill.data.sources import license_of, open_source, open_unlabelled
from distill.data.sources.hf import repository_of
from distill.errors import UserError

COMMIT, OLDER = "1" * 40, "2" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "datasets--owner--name"


def add(
    cache: Path, files: dict[str, Sequence[int]], commit: str = COMMIT, ref: str = "main"
) -> None:
    """A snapshot with these Parquet files, of these labels each."""
    for name, labels in files.items():
        images = []
        for grey in range(len(labels)):
            content = io.BytesIO()
            Image.new("L", (1, 1), grey).save(content, "PNG")
            images.append({"bytes": content.getvalue(), "path": None})
        blob = cache / "blobs" / f"{commit}-{name.replace('/', '-')}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({"image": images, "label": list(labels)}), blob)
        link = cache / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / ref).write_text(commit)


def refused(location: str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(location)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert caught.value.hint


def test_a_cached_data_set(cache: Path) -> None:
    shards = {f"data/train-0000{i}-of-00002.parquet": [0, 1] for i in range(2)}
    add(cache, {**shards, "data/test-00000-of-00001.parquet": [1]})
    (cache / "snapshots" / COMMIT / "classes.txt").write_text("cat\ndog\n")
    source = open_source("hf:owner/name")
    assert source.location == "hf:owner/name"
    assert source.classes == ("cat", "dog")  # named beside the folder of the data
    assert [(item.label, item.split) for item in source.items] == [
        (0, "train"),
        (1, "train"),
        (0, "train"),
        (1, "train"),
        (1, "test"),
    ]
    assert source.items[2].name == "data/train-00001-of-00002/000000"
    assert read_image(source.read(source.items[1])).getpixel((0, 0)) == (1, 1, 1)
    assert {item.label for item in open_unlabelled("hf:owner/name").items} == {-1}


def test_the_card_states_the_licence(cache: Path) -> None:
    add(cache, {"data/train.parquet": [0, 1]})
    assert license_of("hf:owner/name") == ""
    card = cache / "snapshots" / COMMIT / "README.md"
    card.write_text("---\nlicense: cc-by-4.0\n---\n# Name\n")
    assert license_of("hf:owner/name") == "cc-by-4.0"
    assert (repository_of("hf:owner/name@main"), repository_of("owner/name")) == ("owner/name", "")


def test_another_folder(cache: Path) -> None:
    add(cache, {"de/large/train.parquet": [0, 1]})
    for location in ("hf:owner/name", "hf:owner/name/de/large", "hf:owner/name/de/large@main"):
        assert len(open_source(location).items) == 2
    refused("hf:owner/name/other", "de/large", "hf:OWNER/NAME/FOLDER")


def test_several_folders(cache: Path) -> None:
    add(cache, {"small/train.parquet": [0, 1], "large/train.parquet": [0, 1, 1]})
    refused("hf:owner/name", "large, small", "hf:OWNER/NAME/FOLDER")
    assert len(open_source("hf:owner/name/large").items) == 3
    assert len(open_source("hf:owner/name/small").items) == 2


def test_a_revision(cache: Path) -> None:
    add(cache, {"train.parquet": [0, 1]})
    add(cache, {"train.parquet": [0, 1, 1]}, OLDER, "v1")
    (cache / "refs" / "refs" / "convert").mkdir(parents=True)
    (cache / "refs" / "refs" / "convert" / "parquet").write_text(OLDER)
    for revision in (OLDER, "v1", "refs/convert/parquet"):
        assert len(open_source(f"hf:owner/name@{revision}").items) == 3
    assert len(open_source("hf:owner/name").items) == 2


def test_not_cached_and_no_network(cache: Path) -> None:
    words = ("hf:owner/name", "hf download owner/name --repo-type dataset")
    refused("hf:owner/name", *words)
    add(cache, {"data/train-00000-of-00002.parquet": [0, 1]})
    refused("hf:owner/name", *words)
    add(cache, {"data/train-00001-of-00002.parquet": [0, 1]})
    assert len(open_source("hf:owner/name").items) == 4
    refused("hf:owner/name@v2", "hf:owner/name@v2")
    shutil.rmtree(cache / "blobs")
    refused("hf:owner/name", *words)


def test_a_cache_of_one_split_may_be_all_that_somebody_fetched(cache: Path) -> None:
    add(cache, {"data/test-00000-of-00001.parquet": [0, 1]})
    refused("hf:owner/name", "hf download owner/name --repo-type dataset")
    add(cache, {"data/train-00000-of-00001.parquet": [0, 1]})
    assert not open_source("hf:owner/name").notes
    (cache / "snapshots" / COMMIT / "data" / "test-00000-of-00001.parquet").unlink()
    (note,) = open_source("hf:owner/name").notes
    assert "its train split alone" in note


def test_names_of_no_data_set() -> None:
    for name in ("", "mnist", "a//b", "../x", "owner/na me", "owner/..", "o/n@"):
        refused(f"hf:{name}", f"hf:{name}", "OWNER/NAME")


class Hub:
    """The two calls of `huggingface_hub` that use the network; what is fetched lands in a cache."""

    def __init__(self, cache: Path, files: dict[str, Sequence[int]]) -> None:
        self.cache, self.files, self.real = cache, files, huggingface_hub.snapshot_download
        self.patterns: list[str] = []

    def list_repo_files(self, repository: str, revision: str | None, repo_type: str) -> list[str]:
        assert (repository, repo_type) == ("owner/name", "dataset")
        return ["README.md", *self.files]

    def snapshot_download(self, repository: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return self.real(repository, **options)
        self.patterns = options["allow_patterns"]
        add(self.cache, self.files)
        return str(self.cache / "snapshots" / COMMIT)


@pytest.fixture
def serve(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(files: dict[str, Sequence[int]]) -> Hub:
        hub = Hub(cache, files)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        return hub

    return start


def test_what_is_not_cached_is_fetched_once(serve: Any) -> None:
    hub = serve({"small/train.parquet": [0, 1]})
    assert len(open_source("hf:owner/name/small").items) == 2
    assert hub.patterns == ["small/*.parquet", "small/*classes.txt", "README.md"]
    hub.patterns = []
    assert len(open_source("hf:owner/name/small").items) == 2
    assert hub.patterns == []


def test_nothing_is_fetched_that_cannot_be_used(serve: Any) -> None:
    for files, words in (
        ({}, ("owner/name",)),
        ({"a/train.parquet": [0], "b/train.parquet": [0]}, ("a, b",)),
    ):
        hub = serve(files)
        refused("hf:owner/name", *words)
        assert hub.patterns == []


def test_no_such_data_set(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import RepositoryNotFoundError

    class Missing(RepositoryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404 Client Error.\nRepository Not Found")

    def fail(*arguments: Any, **options: Any) -> None:
        raise Missing

    monkeypatch.setattr(serve({}), "list_repo_files", fail)
    refused("hf:owner/name", "404 Client Error", "hf auth login")
