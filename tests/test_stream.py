"""Images that are decoded when they are read are those that a store would have."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_recipe import RECIPE

from distill.config import DataConfig, ViewsConfig
from distill.data.audit.listing import list_data
from distill.data.prepare import ImageData, prepare_data
from distill.data.sources import open_source
from distill.data.sources import parquet as parquet_source
from distill.data.store import Split
from distill.data.unlabelled import prepare_unlabelled
from distill.data.views import images as view_images
from distill.data.views.images import TrainingImages, epoch_batches
from distill.data.workspace import Workspace
from distill.errors import RunStopped
from distill.files import read_json
from distill.progress import Progress

VIEWS = ViewsConfig()
CPU = torch.device("cpu")


def prepared(location: Path, folder: Path, store: str) -> ImageData:
    work = Workspace(folder / store, 2, Progress(quiet=True))
    return prepare_data(str(location), DataConfig(size=24, store=store), VIEWS, 0, work)


def seen(data: ImageData, *more: Split) -> TrainingImages:
    return TrainingImages((data.train, *more), data.classes, VIEWS, 3, 24)


@pytest.fixture
def parquet(image_folder, tmp_path) -> Path:
    """The image folder as Parquet with a few rows in each row group."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": file.read_bytes(), "path": None}, "label": file.parent.name}
        for file in sorted(image_folder.rglob("*.jpg"))
    ]
    file = tmp_path / "parquet" / "train.parquet"
    file.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=3)
    return file.parent


@pytest.fixture(params=["folder", "parquet"])
def location(request, image_folder) -> Path:
    """Data of each kind, with one picture that cannot be read."""
    if request.param == "folder":
        (image_folder / "cat" / "8.jpg").write_bytes(b"\xff\xd8 no picture")
        return image_folder
    return request.getfixturevalue("parquet")


def test_pixels_views_and_hashes_are_those_of_a_store(location, tmp_path) -> None:
    disk, stream = (prepared(location, tmp_path, store) for store in ("disk", "stream"))
    assert not isinstance(stream.train.stored, np.ndarray)
    assert isinstance(stream.val.stored, np.ndarray)
    assert (stream.sha256, stream.splits_sha256) == (disk.sha256, disk.splits_sha256)
    assert stream.describe() == disk.describe()
    ids = np.arange(len(disk.train.labels))[::-1].copy()
    assert (seen(stream).pixels(ids) == seen(disk).pixels(ids)).all()
    assert seen(stream).describe() == seen(disk).describe()
    assert torch.equal(seen(stream).view(ids, 5, CPU), seen(disk).view(ids, 5, CPU))
    assert sum(file.stat().st_size for file in (tmp_path / "stream").rglob("train.npy")) < 200


def test_unlabelled_images_are_streamed_too(image_folder, tmp_path, write_images) -> None:
    others = write_images(tmp_path / "others", [f"{n}.jpg" for n in range(3)], (30, 30))
    found = []
    for store in ("disk", "stream"):
        config = DataConfig(size=24, store=store)
        work = Workspace(tmp_path / store, 2, Progress(quiet=True))
        listing = list_data(open_source(str(image_folder)), config, 0, work)
        found.append(prepare_unlabelled(str(others), listing, config, VIEWS, work))
    (disk, told), (stream, told_too) = found
    assert told == told_too
    assert not isinstance(stream.stored, np.ndarray)
    assert stream.digests == disk.digests
    assert (stream.pixels == disk.pixels).all()


def test_a_picture_that_is_lost_later_ends_the_run(image_folder, tmp_path) -> None:
    data = prepared(image_folder, tmp_path, "stream")
    (image_folder / data.train.names[0]).write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(RunStopped, match=r"could be read before.*put it back"):
        data.train.take([0])


@pytest.mark.parametrize("world", [1, 2])
def test_of_many_files_few_are_read_at_a_time(world, monkeypatch) -> None:
    monkeypatch.setattr(view_images, "WINDOW", 2)
    shards = np.repeat(np.arange(12), 40)
    epochs = []
    for epoch in (0, 0, 1):
        ranks = [
            list(epoch_batches(480, 10, 7, epoch, rank, world, shards)) for rank in range(world)
        ]
        epochs.append(np.array(ranks))
        assert sorted(np.concatenate(epochs[-1]).ravel()) == list(range(480))
        for batches in ranks:
            files = [set(shards[np.concatenate(batches[n : n + 8])]) for n in range(0, 24, 8)]
            assert all(len(few) == 2 for few in files)
            assert np.mean([len(set(shards[batch])) == 2 for batch in batches]) > 0.9
        if world == 2:
            first, second = (set(shards[np.concatenate(batches)]) for batches in ranks)
            assert not first & second
    assert (epochs[0] == epochs[1]).all()
    assert (epochs[0] != epochs[2]).any()


def test_of_few_files_the_order_is_that_of_a_store() -> None:
    shards = np.repeat(np.arange(view_images.WINDOW), 5)
    count = len(shards)
    for one, other in zip(
        epoch_batches(count, 8, 1, 2, shards=shards), epoch_batches(count, 8, 1, 2), strict=True
    ):
        assert (one == other).all()


def test_row_groups_that_are_read_again_are_kept(parquet) -> None:
    source = parquet_source.open_source(str(parquet))
    reader = source.read
    reader.most = 1
    first, last = source.items[0], source.items[-1]
    for _ in range(4):
        source.read(first), source.read(last), source.read(source.items[7])
    assert len(reader.kept) == 3


def test_a_run_is_the_same(image_folder, tmp_path, distill) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    for store in ("disk", "stream"):
        out = ["--out", tmp_path / store, "--data", image_folder, f"data.store={store}"]
        for stage in ("teacher", "student"):
            assert distill(stage, recipe, *out)[0] == 0
    for name in ("teachers/one", "students/small"):
        disk, stream = (
            load_file(tmp_path / store / name / "best.safetensors") for store in ("disk", "stream")
        )
        assert all(torch.equal(disk[key], stream[key]) for key in disk)
    caches = [
        sorted(p.name for p in (tmp_path / s / "cache").glob("logits-*"))
        for s in ("disk", "stream")
    ]
    assert caches[0] == caches[1]
    assert read_json(tmp_path / "disk" / "students" / "small" / "config.json") == read_json(
        tmp_path / "stream" / "students" / "small" / "config.json"
    )


def test_balanced_sampling_wants_a_store(parquet, tmp_path, monkeypatch, distill) -> None:
    monkeypatch.setattr(view_images, "WINDOW", 2)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    args = ("--out", tmp_path / "out", "--data", parquet, "data.store=stream")
    status, _, err = distill("teacher", recipe, *args, "teachers.one.train.sampling=balanced")
    assert status == 2
    assert re.search(r"balanced sampling.*data\.store=disk", err)
