"""The loop: modes, numbers, resume, failure; on painted images of 32 px."""

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill.config import (
    ModelConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
    TransferConfig,
    ViewsConfig,
)
from distill.data.store import subset
from distill.data.views.draws import Draws
from distill.data.views.images import Batch, epoch_batches, num_batches
from distill.data.views.pixels import make_views
from distill.errors import RunStopped, UserError
from distill.files import is_complete, sha256_of, verify_manifest
from distill.models.classifier import Classifier, build_classifier
from distill.models.deployed import frozen
from distill.models.inference import predict_logits
from distill.progress import Progress
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.teaching.teachers import LiveTeachers
from distill.training.averaging import warm_decay
from distill.training.fit import fit
from distill.training.imbalance import class_weights
from distill.training.job import Job
from distill.training.precision import memory_format
from distill.training.run_directory import open_run
from distill.training.selection import worth
from distill.training.trainer import Trainer
from distill.training.world import World

CPU = torch.device("cpu")
VIEWS = ViewsConfig()
TINY = ModelConfig(
    name="compact", options={"width": [8, 16], "depth": [1, 1], "head_width": 0, "dropout": 0.2}
)


def make_job(data, folder: Path, strategy="supervised", teachers=(), **train) -> Job:
    options = {"epochs": 3, "batch_size": 16, "lr": 2e-3, **train}
    config = RunConfig(
        name="tiny",
        model=TINY,
        strategy=StrategyConfig(name=strategy),
        train=TrainConfig(**options),
    )
    return Job(config, data, VIEWS, 0, folder, teachers)


def tiny(data, seed=0):
    torch.manual_seed(seed)
    return build_classifier(TINY, data.classes, data.spec, task=data.task)


def train(data, folder: Path, **options) -> dict[str, torch.Tensor]:
    fit(tiny(data), make_job(data, folder, **options), CPU, Progress(quiet=True))
    return load_file(folder / "best.safetensors")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_directory_is_exactly_what_the_contract_says(data, tmp_path):
    train(data, tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "metrics.csv",
        "last/state.pt",
        "best.safetensors",
        "contract.json",
        "manifest.json",
    }
    verify_manifest(tmp_path)
    keys = {"epoch", "lr", "seconds", "images_per_s", "train/loss", "train/ce", "val/loss"}
    recalls = {"val/macro_recall", "val/worst_recall"}
    assert set(rows(tmp_path)[0]) == keys | recalls | {"val/top1", "val/macro_f1"}


def test_training_lowers_the_loss(data, tmp_path):
    train(data, tmp_path, epochs=6)
    first, *_, last = rows(tmp_path)
    assert last["train/loss"] < first["train/loss"]


def test_validation_may_be_rarer_than_epochs(data, tmp_path):
    train(data, tmp_path / "every")
    train(data, tmp_path / "rare", epochs=3, validate_every=2)
    every, rare = rows(tmp_path / "every"), rows(tmp_path / "rare")
    assert ["val/top1" in row for row in rare] == [False, True, True]
    assert [row.get("val/loss") for row in rare[1:]] == [row["val/loss"] for row in every[1:]]


class Crash(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("data", {}),
        ("data", {"optimizer": "sgd", "schedule": "plateau", "plateau_epochs": 1}),
        ("data", {"ema_decay": 0.9, "mixup": 0.2, "clip_norm": 1.0, "label_smoothing": 0.1}),
        ("data", {"accumulate": 3, "ema_decay": 0.9}),
        ("data", {"optimizer": "muon"}),
        ("skewed", {"sampling": "balanced", "focal_gamma": 2.0, "logit_adjustment": 1.0}),
        ("multi_data", {"sampling": "balanced", "class_weights": "effective", "mixup": 0.2}),
    ],
)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    request, tmp_path, monkeypatch, name, options
):
    data = request.getfixturevalue(name)
    whole = train(data, tmp_path / "whole", epochs=4, **options)
    job = make_job(data, tmp_path / "cut", epochs=4, **options)
    import distill.training.fit as module

    steps = {"left": 2 * num_batches(len(data.train.labels), 16) + 1}
    step = module.Trainer.step

    def dying(self, *arguments):
        steps["left"] -= 1
        if steps["left"] < 0:
            raise Crash
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module.Trainer, "step", dying)
        with pytest.raises(Crash):
            fit(tiny(data), job, CPU, Progress(quiet=True))
    assert not is_complete(job.folder)
    fit(tiny(data, seed=99), job, CPU, Progress(quiet=True))
    resumed = load_file(job.folder / "best.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    deterministic = [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_s")}
        for row in rows(job.folder)
    ]
    assert deterministic == [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_s")}
        for row in rows(tmp_path / "whole")
    ]
    assert [row["epoch"] for row in rows(job.folder)] == [0, 1, 2, 3]


@pytest.mark.parametrize("written", ["best-", "state.pt"])
def test_a_disk_that_fills_up_stops_resumably(data, tmp_path, monkeypatch, written):
    """The libraries' own writing ended in a traceback: their errors are not an OSError."""
    write = Path.write_bytes

    def full(self, content):
        if self.name.startswith(written):
            write(self, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunStopped, match="make room"):
            train(data, tmp_path / "cut")
    assert not list(tmp_path.rglob("*.tmp"))
    whole, resumed = train(data, tmp_path / "whole"), train(data, tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_line_of_the_log_that_was_cut_short_is_written_again(data, tmp_path):
    """A resume ended in a traceback over the half line that a kill had left."""
    train(data, tmp_path, epochs=2)
    (tmp_path / "manifest.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lr"')
    train(data, tmp_path, epochs=3)
    assert [row["epoch"] for row in rows(tmp_path)] == [0, 1, 2]


def test_student_trains_and_teacher_does_not_in_the_second_epoch(data, tmp_path):
    """KD_Lib leaves the student in evaluation mode after its first validation."""
    student, teacher = tiny(data), tiny(data, seed=1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes: list[tuple[bool, bool]] = []
    student.network.register_forward_hook(
        lambda module, *_: modes.append((module.training, torch.is_grad_enabled()))
    )
    graphs: list[bool] = []
    teacher.network.register_forward_hook(
        lambda module, _, out: graphs.append(module.training or out.requires_grad)
    )
    job = make_job(data, tmp_path, "vanilla", [teacher], epochs=2)
    fit(student, job, CPU, Progress(quiet=True))
    steps = num_batches(len(data.train.labels), 16)
    training = [training for training, grad in modes if grad]
    assert training == [True] * (2 * steps)
    assert graphs == [False] * (2 * steps + 1)  # once before, as its BatchNorm is folded
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_teacher_and_student_see_the_same_view(data, tmp_path):
    seen: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    student, teacher = tiny(data), tiny(data, seed=1)
    for name, model in (("student", student), ("teacher", teacher)):
        model.register_forward_pre_hook(
            lambda module, args, name=name: (
                seen[name].append(args[0].clone()) if module.training or name == "teacher" else None
            )
        )
    job = make_job(data, tmp_path, "vanilla", [teacher], epochs=1, mixup=0.4)
    fit(student, job, CPU, Progress(quiet=True))
    _, *by_teacher = seen["teacher"]  # first the noise with which its BatchNorm is folded
    assert len(by_teacher) == len(seen["student"]) > 0
    pairs = zip(by_teacher, seen["student"], strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_with_a_shift_a_view_that_comes_again_is_moved_and_otherwise_it_is_not(data, tmp_path):
    """Of two views, epochs 0 and 2 show the first."""

    def shown(epoch: int, **options) -> dict[int, torch.Tensor]:
        job = make_job(data, tmp_path, epochs=4, views=2, **options)
        batches = Trainer(tiny(data), job, World(CPU), None).batches(epoch)
        return {
            number: image for b in batches for number, image in zip(b.ids, b.images, strict=True)
        }

    plain, again = shown(0), shown(2)
    moved, moved_again = shown(0, shift=0.1), shown(2, shift=0.1)
    both = sorted({*plain} & {*again})
    assert len(both) > 20
    assert all(torch.equal(plain[n], again[n]) for n in both)
    assert sum(torch.equal(moved[n], moved_again[n]) for n in both) < len(both) / 10
    assert all(torch.equal(image, moved[n]) for n, image in shown(0, shift=0.1).items())
    # Mirrored or not, it is of the same picture: its mean colour stays about what it was.
    assert all((moved[n] - plain[n]).mean(dim=(1, 2)).abs().max() < 0.1 for n in both)


def test_a_loss_that_is_not_finite_stops_with_advice_and_keeps_the_last_epoch(data, tmp_path):
    with pytest.raises(RunStopped, match=r"train\.lr"):
        train(data, tmp_path, optimizer="sgd", lr=1e30, epochs=3, warmup_epochs=1.0)
    assert not is_complete(tmp_path)


def test_early_stopping_ends_a_run_that_is_complete(data, tmp_path):
    train(data, tmp_path, epochs=50, lr=1e-12, patience=2)
    assert len(rows(tmp_path)) < 50
    assert is_complete(tmp_path)


def test_patience_counts_validations(data, tmp_path):
    """It counted epochs: shorter than the first validation, it ended a run without any weights."""
    train(data, tmp_path, epochs=40, lr=1e-12, patience=1, validate_every=3)
    validated = [number for number, row in enumerate(rows(tmp_path), 1) if "val/loss" in row]
    assert len(validated) >= 2
    assert validated == list(range(3, len(rows(tmp_path)) + 1, 3))
    assert len(rows(tmp_path)) < 40
    assert open_run(tmp_path).best_score > 0


def test_a_killed_epoch_leaves_no_weights_that_no_row_describes(data, tmp_path, monkeypatch):
    """They stayed where that epoch, trained again, was no longer the best."""
    import distill.training.fit as module

    save, hashes, best = torch.save, [], tmp_path / "best.safetensors"

    def dying(*arguments):
        hashes.append(sha256_of(best) if best.is_file() else None)
        if len(hashes) == 3:
            raise Crash
        save(*arguments)

    monkeypatch.setattr(module, "worth", lambda row, *_: row["epoch"])  # each one is the best
    job = make_job(data, tmp_path, epochs=3)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying)
        with pytest.raises(Crash):
            fit(tiny(data), job, CPU, Progress(quiet=True))
    kept = sha256_of(best)
    assert kept not in (None, hashes[1])  # that of the second epoch, which is on disk
    monkeypatch.setattr(module, "worth", lambda row, *_: -row["epoch"])
    fit(tiny(data), job, CPU, Progress(quiet=True))
    assert sha256_of(best) == kept
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["state.pt"]


def test_weights_whose_epoch_is_on_disk_are_kept_by_the_resume(data, tmp_path, monkeypatch):
    import distill.training.fit as module

    monkeypatch.setattr(module, "worth", lambda row, *_: row["epoch"])
    train(data, tmp_path / "whole", epochs=2)
    replace_ = Path.replace

    def dying(self, target):
        if self.name == "best-1.safetensors":
            raise Crash
        return replace_(self, target)

    job = make_job(data, tmp_path / "cut", epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Crash):
            fit(tiny(data), job, CPU, Progress(quiet=True))
    fit(tiny(data), job, CPU, Progress(quiet=True))
    found = [sha256_of(tmp_path / name / "best.safetensors") for name in ("whole", "cut")]
    assert found[0] == found[1]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_what_is_kept_is_what_was_validated(data, tmp_path, ema_decay):
    """In bf16, scores were those of a network that is loaded in fp32 later on."""
    train(data, tmp_path, precision="bf16", ema_decay=ema_decay, epochs=2)
    run = open_run(tmp_path)
    logits = predict_logits(run.load(), data.val, CPU)
    found = score(task_of("single").probabilities(logits), data.val.labels, data.classes)
    assert found["nll"] in [pytest.approx(row["val/loss"], rel=1e-5) for row in run.rows]


def test_live_teachers_answer_in_the_precision_of_cached_ones(data, tmp_path):
    """They answered in bf16 where the student trains in it, and in fp32 for the cache."""
    teacher, seen = tiny(data, seed=1), []
    job = make_job(data, tmp_path, "vanilla", [teacher], precision="bf16")
    trainer = Trainer(tiny(data), job, World(CPU), LiveTeachers([teacher], CPU))
    strategy = trainer.strategy
    trainer.strategy = lambda lesson: seen.append(lesson) or strategy(lesson)
    trainer.begin_epoch(0)
    batch = next(iter(trainer.batches(0)))
    trainer.step(batch, 0)
    with torch.no_grad():
        images = batch.images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(seen[0].teachers[0], frozen(teacher, CPU)(images).logits)


def test_depthwise_networks_train_channels_last_on_a_cpu():
    """1.7 times as fast; a 1x1 convolution on the image itself corrupts memory in that layout."""
    from torch.nn import Conv2d, Sequential

    depthwise = Sequential(Conv2d(3, 8, 3), Conv2d(8, 8, 3, groups=8))
    assert memory_format(depthwise, CPU) == torch.channels_last
    assert memory_format(Sequential(Conv2d(3, 8, 3), Conv2d(8, 8, 3)), CPU) == torch.channels_last
    on_image = Sequential(Conv2d(3, 8, 1, stride=2), Conv2d(8, 8, 3, groups=8))
    assert memory_format(on_image, CPU) == torch.contiguous_format
    assert memory_format(on_image, torch.device("cuda")) == torch.channels_last


def test_of_equal_scores_the_lower_loss_is_kept():
    """Of 48 images most epochs score alike, and the first one, which had learned least, shipped."""
    first, later = ({"val/top1": 97.5, "val/loss": loss} for loss in (0.4, 0.2))
    better = {"val/top1": 98.0, "val/loss": 0.5}
    ranked = sorted([better, first, later], key=lambda row: worth(row, "auto", "single"))
    assert ranked == [first, later, better]
    assert max([better, later], key=lambda row: worth(row, "loss", "single")) == later


def test_an_average_arrives_within_a_short_run(data, tmp_path):
    """60 steps with a decay of 0.99 shipped the random start: 51 % beside a teacher of 94."""
    assert [warm_decay(0.99, n) for n in (1, 8, 10_000)] == [2 / 11, 0.5, 0.99]
    plain = train(data, tmp_path / "plain", epochs=15, lr=5e-3)
    averaged = train(data, tmp_path / "averaged", epochs=15, lr=5e-3, ema_decay=0.999)
    assert len(plain) == len(averaged)
    losses = [rows(tmp_path / name)[-1]["val/loss"] for name in ("plain", "averaged")]
    assert losses[1] < losses[0] + 0.1


class TwoHeads(torch.nn.Module):
    """A network with an auxiliary head, which is there in training only."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 4, 3, stride=4)
        self.aux = torch.nn.Linear(4, 3)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        pooled = self.body(x).relu().mean(dim=(2, 3))
        return (self.head(pooled), self.aux(pooled)) if self.training else self.head(pooled)


def test_the_logged_loss_has_the_auxiliary_head(data, tmp_path):
    contract = tiny(data).contract
    job = make_job(data, tmp_path, "vanilla", [tiny(data, seed=1)], epochs=1)
    fit(Classifier(TwoHeads(), contract), job, CPU, Progress(quiet=True))
    (row,) = rows(tmp_path)
    blended = 0.9 * row["train/kd"] + 0.1 * row["train/ce"]
    assert row["train/loss"] == pytest.approx(blended + row["train/aux"])
    assert row["train/aux"] > 0.1


def test_best_is_the_epoch_of_the_best_validation_score(data, tmp_path):
    train(data, tmp_path, epochs=5, lr=5e-3)
    classifier = tiny(data)
    classifier.network.load_state_dict(load_file(tmp_path / "best.safetensors"))
    logits = predict_logits(classifier, data.val, CPU)
    top1 = 100 * float((logits.argmax(1) == data.val.labels).mean())
    assert top1 == pytest.approx(max(row["val/top1"] for row in rows(tmp_path)))


MULTI_LABEL = [
    {},
    {"mixup": 0.2, "label_smoothing": 0.1, "class_weights": "balanced"},
    {"sampling": "balanced", "focal_gamma": 2.0, "logit_adjustment": 1.0},
]


@pytest.mark.parametrize("options", MULTI_LABEL)
def test_several_labels_are_learned(multi_data, tmp_path, options):
    train(multi_data, tmp_path, epochs=6, lr=5e-3, **options)
    first, *_, last = rows(tmp_path)
    assert last["train/loss"] < first["train/loss"]
    assert {k for k in last if k.startswith("val/")} == {
        *("val/map", "val/macro_f1", "val/micro_f1", "val/exact_match", "val/loss")
    }
    assert json.loads((tmp_path / "contract.json").read_text())["task"] == "multi"


def test_a_student_of_several_labels_learns_from_its_teacher(multi_data, tmp_path):
    teacher = tiny(multi_data, seed=1)
    with torch.no_grad():
        teacher.network.classifier.weight.mul_(20.0)
    job = make_job(multi_data, tmp_path, "vanilla", [teacher], epochs=8, lr=5e-3, mixup=0.2)
    fit(tiny(multi_data), job, CPU, Progress(quiet=True))
    first, *_, last = rows(tmp_path)
    assert last["train/kd"] < 0.8 * first["train/kd"]


@pytest.mark.parametrize(
    ("name", "select", "main"),
    [("skewed", "worst_recall", "top1"), ("skewed", "loss", "top1"), ("multi_data", "auto", "map")],
)
def test_the_recipes_score_chooses_the_best_epoch(request, tmp_path, name, select, main):
    data = request.getfixturevalue(name)
    weights = train(data, tmp_path, epochs=5, lr=2e-2, select=select)
    classifier = tiny(data)
    classifier.network.load_state_dict(weights)
    probs = task_of(data.task).probabilities(predict_logits(classifier, data.val, CPU))
    scores = score(probs, data.val.labels, data.classes)
    kept = max(rows(tmp_path), key=lambda row: worth(row, select, data.task))
    assert kept["val/loss"] == pytest.approx(scores["nll"])
    assert kept[f"val/{main}"] == pytest.approx(scores[main])
    assert open_run(tmp_path).best_score == kept[f"val/{main}"]


def test_a_score_that_the_task_has_not_is_refused_before_training(data, multi_data, tmp_path):
    for given, select in ((data, "map"), (multi_data, "top1"), (multi_data, "worst_recall")):
        with pytest.raises(UserError, match=f"has no {select}"):
            train(given, tmp_path / select, select=select)
        assert not (tmp_path / select).exists()


def test_weights_of_other_classes_are_refused_before_training(data, tmp_path):
    with pytest.raises(UserError, match="no class named"):
        train(data, tmp_path / "run", class_weights={"cat": 1.0})
    assert not (tmp_path / "run").exists()


def test_a_validation_split_without_any_label_is_refused(multi_data, tmp_path):
    nothing = np.flatnonzero(multi_data.val.labels.sum(axis=1) == 0)
    splits = {**multi_data.splits, "val": subset(multi_data.val, nothing)}
    with pytest.raises(UserError, match="no image has a label"):
        train(replace(multi_data, splits=splits), tmp_path)


def test_plain_logits_are_validated(skewed, tmp_path):
    """Adjustment is for training alone: the scores in the log are those of the kept weights."""
    weights = train(skewed, tmp_path, epochs=2, logit_adjustment=2.0)
    classifier = tiny(skewed)
    classifier.network.load_state_dict(weights)
    probs = task_of("single").probabilities(predict_logits(classifier, skewed.val, CPU))
    found = score(probs, skewed.val.labels, skewed.classes)
    assert found["nll"] in [pytest.approx(row["val/loss"]) for row in rows(tmp_path)]


def test_frozen_backbone_keeps_weights_and_batchnorm_statistics(data, tmp_path):
    job = make_job(data, tmp_path, epochs=2)
    job = replace(
        job, config=job.config.model_copy(update={"transfer": TransferConfig(mode="head")})
    )
    model = tiny(data)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    fit(model, job, CPU, Progress(quiet=True))
    after = model.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_unfreezing_after_a_frozen_phase_trains_the_backbone(data, tmp_path):
    job = make_job(data, tmp_path, epochs=3)
    transfer = TransferConfig(freeze_epochs=2)
    job = replace(job, config=job.config.model_copy(update={"transfer": transfer}))
    model, stem = tiny(data), []
    model.network.register_forward_hook(
        lambda module, *_: (
            stem.append(module.blocks[0].wide[0].weight.detach().clone())
            if torch.is_grad_enabled()
            else None
        )
    )
    fit(model, job, CPU, Progress(quiet=True))
    steps = num_batches(len(data.train.labels), 16)
    assert all(torch.equal(weight, stem[0]) for weight in stem[: 2 * steps + 1])
    assert not torch.equal(stem[-1], stem[0])


def test_balanced_class_weights_weigh_classes_equally(data):
    weights = torch.from_numpy(class_weights(TrainConfig(class_weights="balanced"), data))
    counts = torch.tensor(data.class_counts("train"), dtype=torch.float32)
    # Each class contributes the same total, and the average image has weight 1.
    assert torch.allclose(weights * counts, (weights * counts).mean().expand(3))
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)


def test_batches_of_all_ranks_cover_an_epoch_once():
    seen = [np.concatenate(list(epoch_batches(103, 8, 0, 5, rank, 2))) for rank in (0, 1)]
    together = np.concatenate(seen)
    assert len(seen[0]) == len(seen[1]) == 8 * num_batches(103, 8, 2)
    assert len(set(together.tolist())) == len(together) == 96


def test_several_teachers_give_one_row_of_logits_each(data):
    teachers = LiveTeachers([tiny(data, 1), tiny(data, 2)], CPU)
    ids = np.arange(4)
    images = make_views(data.train.pixels[ids], Draws(0, ids, 0), VIEWS, 32, CPU)
    logits = teachers(Batch(ids, 0, images, torch.from_numpy(data.train.labels[ids]))).logits
    assert logits.shape == (2, 4, 3)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_training(data, tmp_path):
    """Without dropout, whose random numbers a compiled graph draws in another way."""
    model = TINY.model_copy(update={"options": {**TINY.options, "dropout": 0.0}})
    losses = []
    for compiles in (False, True):
        job = make_job(data, tmp_path / str(compiles), epochs=2, compile=compiles)
        job = replace(job, config=job.config.model_copy(update={"model": model}))
        torch.manual_seed(0)
        fit(build_classifier(model, data.classes, data.spec), job, CPU, Progress(quiet=True))
        assert not [k for k in load_file(job.folder / "best.safetensors") if "_orig_mod" in k]
        losses.append([row["train/loss"] for row in rows(job.folder)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("compiles", [False, True])
def test_fit_on_a_gpu_in_bf16(data, tmp_path, compiles):
    job = make_job(data, tmp_path, compile=compiles)
    fit(tiny(data), job, torch.device("cuda"), Progress(quiet=True))
    assert all(math.isfinite(row["train/loss"]) for row in rows(tmp_path))
