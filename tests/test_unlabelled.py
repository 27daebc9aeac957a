"""Unlabelled images: found, kept apart from labelled ones, seen by the teachers' term only."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config import DataConfig, ModelConfig, RunConfig, StrategyConfig, TrainConfig
from distill.config import ViewsConfig as Views
from distill.data.audit.listing import list_data
from distill.data.prepare import prepare_data
from distill.data.sources import open_source, open_unlabelled
from distill.data.unlabelled import prepare_unlabelled
from distill.data.views.images import UNLABELLED
from distill.data.workspace import Workspace
from distill.errors import UserError
from distill.models.classifier import build_classifier
from distill.progress import Progress
from distill.strategies.losses import cross_entropy, mix_labels
from distill.teaching.teachers import LiveTeachers
from distill.training.job import Job
from distill.training.trainer import Trainer
from distill.training.world import World

CPU = torch.device("cpu")
QUIET = Progress(quiet=True)
SMALL = DataConfig(size=16)
TINY = ModelConfig(
    name="compact", options={"width": [8], "depth": [1], "head_width": 0, "dropout": 0.0}
)


@pytest.fixture
def labelled(image_folder, tmp_path):
    return prepare_data(
        str(image_folder), SMALL, Views(), 0, Workspace(tmp_path / "cache", 1, QUIET)
    )


def picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="JPEG")


def prepare(folder: Path, labelled, tmp_path: Path, config: DataConfig = SMALL):
    source, cache = open_source(labelled.location, config.task), tmp_path / "cache"
    listing = list_data(source, config, 0, Workspace(cache, 1, QUIET))
    return prepare_unlabelled(str(folder), listing, config, Views(), Workspace(cache, 1, QUIET))


@pytest.fixture
def extra(tmp_path, labelled):
    """Five images in no order; three more are copies: of each other and of a labelled one."""
    folder = tmp_path / "more"
    for seed in range(5):
        picture(folder / ("deep/er" if seed % 2 else ".") / f"{seed}.jpg", 100 + seed)
    shutil.copy(folder / "0.jpg", folder / "again.jpg")
    shutil.copy(tmp_path / "images" / labelled.test.names[0], folder / "known.jpg")
    shutil.copy(tmp_path / "images" / labelled.train.names[0], folder / "known too.jpg")
    return folder


def test_any_folder_will_do_and_copies_are_left_out(extra, labelled, tmp_path):
    split, described = prepare(extra, labelled, tmp_path)
    assert set(split.names) == {"0.jpg", "2.jpg", "4.jpg", "deep/er/1.jpg", "deep/er/3.jpg"}
    assert described["count"] == 5
    assert described["left_out_as_known"] == 3
    assert set(split.labels.tolist()) == {UNLABELLED}


@pytest.mark.usefixtures("no_heif")
def test_heic_that_nothing_decodes_is_said(extra, labelled, tmp_path, capsys):
    (extra / "9.heic").write_bytes(b"x")
    source, cache = open_source(labelled.location), tmp_path / "cache"
    work = Workspace(cache, 1, Progress())
    listing = list_data(source, SMALL, 0, work)
    prepare_unlabelled(str(extra), listing, SMALL, Views(), work)
    assert capsys.readouterr().err.count("warning: 1 .heic files are left out") == 1


def test_pixels_are_those_of_their_names(extra, labelled, tmp_path):
    split, _ = prepare(extra, labelled, tmp_path)
    for pixels, name in zip(split.pixels, split.names, strict=True):
        image = Image.open(extra / name).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
        assert np.array_equal(pixels, np.asarray(image))


def scene(seed: int) -> Image.Image:
    """A picture with something to recognise: soft patches of colour, 96 x 72."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)


def test_copies_that_are_not_the_same_file_are_left_out(tmp_path):
    """Only equal bytes were: a resaved, smaller or mirrored test image taught the student."""
    for number in range(24):
        file = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        scene(number).save(file)
    labelled = prepare_data(
        str(tmp_path / "images"), SMALL, Views(), 0, Workspace(tmp_path / "cache", 1, QUIET)
    )
    more = tmp_path / "more"
    more.mkdir()
    changes = {
        "resaved": lambda image: image,
        "smaller": lambda image: image.resize((48, 36)),
        "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    for split in ("train", "val", "test"):
        original = Image.open(tmp_path / "images" / labelled.splits[split].names[0])
        for name, change in changes.items():
            change(original).save(more / f"{split} {name}.jpg", quality=80)
    for number in range(3):
        scene(100 + number).save(more / f"new {number}.jpg")
    split, described = prepare(more, labelled, tmp_path)
    assert sorted(split.names) == [f"new {number}.jpg" for number in range(3)]
    assert described["left_out"] == {"test": 3, "val": 3, "train": 3}


def test_labels_of_a_labelled_source_are_not_looked_at(extra):
    assert {item.label for item in open_unlabelled("demo:30").items} == {UNLABELLED}
    assert {item.label for item in open_unlabelled(str(extra)).items} == {UNLABELLED}


def test_nothing_new_is_an_error(labelled, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    shutil.copy(tmp_path / "images" / labelled.val.names[0], folder / "copy.jpg")
    with pytest.raises(UserError, match="none of its 1 images is new"):
        prepare(folder, labelled, tmp_path)


def test_nothing_readable_is_called_so(labelled, tmp_path):
    """Files that are no images were said to be in the labelled data."""
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 cannot be read"):
        prepare(tmp_path / "odd", labelled, tmp_path)


def test_a_folder_that_is_not_there_is_an_error(labelled, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        prepare(tmp_path / "nowhere", labelled, tmp_path)


def trainer_of(labelled, extra_split, tmp_path, **train) -> Trainer:
    config = RunConfig(
        name="tiny",
        model=TINY,
        strategy=StrategyConfig(name="vanilla", kd_weight=0.5),
        train=TrainConfig(epochs=1, batch_size=4, **train),
    )
    teacher = build_classifier(TINY, labelled.classes, labelled.spec)
    job = Job(config, labelled, Views(), 0, tmp_path / "run", [teacher], unlabelled=extra_split)
    student = build_classifier(TINY, labelled.classes, labelled.spec)
    return Trainer(student, job, World(CPU), LiveTeachers([teacher], CPU))


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_an_unlabelled_image_weighs_nothing_with_the_labels(
    extra, labelled, tmp_path, class_weights
):
    split, _ = prepare(extra, labelled, tmp_path)
    trainer = trainer_of(labelled, split, tmp_path, class_weights=class_weights)
    trainer.begin_epoch(0)
    count, seen = len(labelled.train.labels), 0
    for batch in trainer.batches(0):
        is_extra = torch.from_numpy(batch.ids >= count)
        assert torch.equal(batch.weights == 0, is_extra)
        seen += int(is_extra.sum())
        assert batch.images.shape == (4, 3, 16, 16)
    assert seen >= 3  # of five; the last images of an epoch may not fill a batch


def test_the_labels_term_is_that_of_the_labelled_images(extra, labelled, tmp_path):
    split, _ = prepare(extra, labelled, tmp_path)
    trainer = trainer_of(labelled, split, tmp_path)
    trainer.begin_epoch(0)
    for batch in trainer.batches(0):
        known = batch.ids < len(labelled.train.labels)
        trainer.classifier.train()
        with torch.no_grad():
            logits = trainer.classifier(batch.images).logits
        truth = torch.from_numpy(labelled.train.labels[batch.ids[known]])
        expected = cross_entropy(logits[torch.from_numpy(known)], truth)
        found = trainer.step(batch, 0)["ce"]
        torch.testing.assert_close(found, expected)


def test_a_batch_without_labels_still_trains(extra, labelled, tmp_path):
    split, _ = prepare(extra, labelled, tmp_path)
    trainer = trainer_of(labelled, split, tmp_path)
    trainer.begin_epoch(0)
    (batch, *_) = trainer.batches(0)
    terms = trainer.step(batch._replace(weights=torch.zeros(4)), 0)
    assert float(terms["ce"]) == 0.0
    assert torch.isfinite(terms["loss"])


def test_mixed_labels_by_hand():
    """0.25 of the first and 0.75 of the last, which has no label: what is left is the first's."""
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    weights = torch.tensor([1.0, 2.0, 0.0])
    mixed, total = mix_labels(labels, weights, 0.25)
    # Neighbours: 0 with 2, 1 with 0, 2 with 1.
    assert torch.allclose(total, torch.tensor([0.25, 0.5 + 0.75, 1.5]))
    expected = torch.tensor([[1.0, 0.0], [0.75 / 1.25, 0.5 / 1.25], [0.0, 1.0]])
    torch.testing.assert_close(mixed, expected)
    plain, none = mix_labels(labels, None, 0.25)
    assert none is None
    torch.testing.assert_close(plain[1], torch.tensor([0.75, 0.25]))


def test_the_unlabelled_images_are_among_what_a_run_depends_on(extra, labelled, tmp_path):
    split, _ = prepare(extra, labelled, tmp_path)
    job = trainer_of(labelled, split, tmp_path).job
    assert "unlabelled_sha256" in job.describe()["inputs"]
    assert "unlabelled_sha256" not in replace(job, unlabelled=None).describe()["inputs"]


def test_among_images_of_several_labels(extra, image_folder, tmp_path):
    config = DataConfig(size=16, task="multi")
    several = prepare_data(
        str(image_folder), config, Views(), 0, Workspace(tmp_path / "cache", 1, QUIET)
    )
    split, _ = prepare(extra, several, tmp_path, config)
    assert split.labels.tolist() == [[-1, -1]] * 5
    trainer = trainer_of(several, split, tmp_path)
    known = len(several.train.labels)
    weights = {
        image: weight
        for batch in trainer.batches(0)
        for image, weight in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True)
    }
    assert {*weights.values()} == {0.0, 1.0}
    assert all(weight == float(image < known) for image, weight in weights.items())


def test_a_plan_looks_for_unlabelled_images(distill, tmp_path):
    command = ("run", "students/compact_demo.toml", "--data", "demo:60", "--dry-run")
    status, _, err = distill(*command, "--unlabelled", tmp_path / "nowhere")
    assert status == 2
    assert "no such folder of unlabelled images" in err
