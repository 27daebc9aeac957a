"""The engine `kd_lib`: whole runs through KD_Lib, and its defects beside what `fit` does."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill.config import DataConfig, ModelConfig, RunConfig, StrategyConfig, ViewsConfig
from distill.data.prepare import ImageData, input_spec
from distill.data.store import Split
from distill.data.views.draws import Draws
from distill.errors import RunStopped, UserError
from distill.models.classifier import Classifier, build_classifier
from distill.models.inference import predict_logits
from distill.progress import Progress
from distill.strategies import Lesson, make_strategy
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.kd_lib import check_kd_lib, fit_with_kd_lib, import_kd_lib
from distill.training.run_directory import open_run

SIZE, STORED, EPOCHS, BATCH = 16, 18, 2, 8
CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
STRATEGIES = ("vanilla", "noisy_teacher", "self_training", "messy_collaboration")


@pytest.fixture
def kd_lib() -> Any:
    if importlib.util.find_spec("KD_Lib") is None:
        pytest.skip("KD_Lib is not installed: make kd-lib")
    return import_kd_lib()


def tiny_data(num_classes: int) -> ImageData:
    """Noisy images of one grey level per class, 12 of each to train on and 5 to validate."""
    random = np.random.default_rng(0)

    def split(name: str, size: int, each: int) -> Split:
        labels = np.tile(np.arange(num_classes), each)
        levels = 30 + 200 * labels / (num_classes - 1)
        noise = random.normal(0, 10, (len(labels), size, size, 3))
        pixels = np.clip(levels[:, None, None, None] + noise, 0, 255).astype(np.uint8)
        return Split(name, pixels, labels, tuple(f"{name}/{i}.png" for i in range(len(labels))))

    splits = {
        "train": split("train", STORED, 12),
        "val": split("val", SIZE, 5),
        "test": split("test", SIZE, 5),
    }
    names = tuple(f"class{i}" for i in range(num_classes))
    return ImageData("nowhere", names, input_spec(DataConfig(size=SIZE)), splits, (), "0" * 64)


def tiny_job(
    folder: Path,
    strategy: str = "vanilla",
    num_classes: int = 4,
    options: dict[str, Any] | None = None,
    **train: Any,
) -> tuple[Classifier, Job]:
    """An untrained student, and its job with a teacher of random weights."""
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "schedule": "constant", "warmup_epochs": 0.0}
    model = {"name": "compact", "options": {"width": [8, 8], "depth": [1, 1], "head_width": 0}}
    config = RunConfig.model_validate_json(
        json.dumps(
            {
                "name": "tiny",
                "model": model,
                "strategy": {"name": strategy, **(options or {})},
                "train": {**settings, "lr": 0.01, **train},
            }
        )
    )
    data = tiny_data(num_classes)
    torch.manual_seed(0)
    student, teacher = (build_classifier(config.model, data.classes, data.spec) for _ in range(2))
    return student, Job(config, data, ViewsConfig(), 3, folder, [teacher.eval()])


def run_config(**changes: Any) -> RunConfig:
    config = RunConfig(
        name="tiny", model=ModelConfig(name="compact"), strategy=StrategyConfig(name="vanilla")
    )
    return config.model_copy(update=changes)


def test_a_missing_kd_lib_is_the_users_mistake_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "KD_Lib.KD", raising=False)
    monkeypatch.delitem(sys.modules, "KD_Lib.KD.text", raising=False)
    monkeypatch.setitem(sys.modules, "KD_Lib", None)
    student, job = tiny_job(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        fit_with_kd_lib(student, job, CPU, Progress(quiet=True))
    assert caught.value.what == "KD_Lib is not installed"
    assert caught.value.hint == "make kd-lib"
    assert not job.folder.exists()
    assert "KD_Lib.KD.text" not in sys.modules


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("train", "mixup", 0.2),
        ("train", "ema_decay", 0.9),
        ("train", "label_smoothing", 0.1),
        ("train", "clip_norm", 1.0),
        ("train", "class_weights", "balanced"),
        ("train", "patience", 3),
        ("train", "sampling", "balanced"),
        ("train", "focal_gamma", 2.0),
        ("train", "logit_adjustment", 1.0),
        ("train", "accumulate", 2),
        ("train", "precision", "bf16"),
        ("train", "compile", True),
        ("train", "validate_every", 2),
        ("train", "shift", 0.1),
        ("cache", "top_k", 3),
        ("transfer", "mode", "head"),
        ("transfer", "freeze_epochs", 1),
    ],
)
def test_an_option_that_kd_lib_would_ignore_is_refused(group: str, key: str, value: Any) -> None:
    config = run_config()
    changed = getattr(config, group).model_copy(update={key: value})
    check_kd_lib(config)
    with pytest.raises(UserError) as caught:
        check_kd_lib(config.model_copy(update={group: changed}))
    assert caught.value.where == f"tiny.{group}.{key}"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"strategy": StrategyConfig(name="supervised")}, "tiny.engine"),
        ({"teachers": ("one", "two")}, "tiny.teachers"),
        (
            {"strategy": StrategyConfig(name="self_training"), "teachers": ("earlier",)},
            "tiny.teachers",
        ),
    ],
)
def test_a_run_that_kd_lib_has_no_counterpart_of_is_refused(
    changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_kd_lib(run_config(**changes))
    assert caught.value.where == where


def test_several_labels_and_adjusted_teachers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one label per image"):
        check_kd_lib(run_config(), "multi")
    student, job = tiny_job(tmp_path / "run")
    with pytest.raises(UserError, match="one label per image"):
        fit_with_kd_lib(student, replace(job, data=replace(job.data, task="multi")), CPU, QUIET)
    with pytest.raises(UserError, match="adjusted"):
        fit_with_kd_lib(student, replace(job, teacher_adjustments=(1.0,)), CPU, QUIET)
    assert not job.folder.exists()


def test_several_processes_or_another_kind_of_device_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, job = tiny_job(tmp_path / "run")
    with pytest.raises(UserError, match="no device 'mps'"):
        fit_with_kd_lib(student, job, torch.device("mps"), Progress(quiet=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        fit_with_kd_lib(student, job, CPU, Progress(quiet=True))
    assert not job.folder.exists()


@pytest.mark.kd_lib
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_leaves_a_complete_run_directory(
    kd_lib: Any,
    strategy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # Noise that strikes: KD_Lib's int(0.25 * 8) is 2 labels of a batch.
    options = {"label_noise": 0.25} if strategy == "messy_collaboration" else {}
    student, job = tiny_job(tmp_path / "run", strategy, options=options)
    if strategy == "self_training":
        job = replace(job, teachers=[])
    fit_with_kd_lib(student, job, CPU, Progress(quiet=True))

    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # KD_Lib makes ./models if let
    assert sorted(path.name for path in job.folder.iterdir()) == [
        "best.safetensors",
        "config.json",
        "contract.json",
        "env.json",
        "manifest.json",
        "metrics.csv",
        "metrics.jsonl",
    ]
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(EPOCHS))
    best = max(row["val/top1"] for row in rows)
    assert best > 25.0  # better than chance with 4 classes, so that this is about something

    loaded = open_run(job.folder).load()
    logits = predict_logits(loaded, job.data.val, CPU)
    top1 = 100.0 * float((logits.argmax(axis=1) == job.data.val.labels).mean())
    assert top1 == best == open_run(job.folder).best_score
    # What KD_Lib itself holds to be the best, and puts into the student at the end, is as good: of
    # equal epochs it takes the first, we that of the lower loss.
    theirs = predict_logits(student, job.data.val, CPU)
    assert 100.0 * float((theirs.argmax(axis=1) == job.data.val.labels).mean()) == best


@pytest.mark.kd_lib
def test_best_follows_select_where_kd_lib_only_knows_accuracy(kd_lib: Any, tmp_path: Path) -> None:
    student, job = tiny_job(tmp_path, select="loss")
    fit_with_kd_lib(student, job, CPU, Progress(quiet=True))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logits = torch.from_numpy(predict_logits(open_run(tmp_path).load(), job.data.val, CPU))
    loss = nn.functional.cross_entropy(logits.double(), torch.from_numpy(job.data.val.labels))
    assert float(loss) == pytest.approx(min(row["val/loss"] for row in rows), rel=1e-6)


@pytest.mark.kd_lib
def test_an_interrupted_run_starts_anew(kd_lib: Any, tmp_path: Path) -> None:
    student, job = tiny_job(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n')
    fit_with_kd_lib(student, job, CPU, Progress(quiet=True))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == EPOCHS


@pytest.mark.kd_lib
def test_a_loss_that_is_not_finite_stops_the_run(kd_lib: Any, tmp_path: Path) -> None:
    student, job = tiny_job(tmp_path)
    nn.init.constant_(student.network.classifier.bias, math.nan)
    with pytest.raises(RunStopped, match="not finite in epoch 1"):
        fit_with_kd_lib(student, job, CPU, Progress(quiet=True))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.kd_lib
@pytest.mark.parametrize("epochs", [2, 3])  # of two views
def test_both_engines_show_the_same_views(kd_lib: Any, tmp_path: Path, epochs: int) -> None:
    def seen_by_the_teacher(engine: Any) -> list[Tensor]:
        student, job = tiny_job(tmp_path / engine.__name__, epochs=epochs, views=2)
        images: list[Tensor] = []
        job.teachers[0].register_forward_pre_hook(lambda _, args: images.append(args[0].clone()))
        engine(student, job, CPU, Progress(quiet=True))
        return images

    ours, theirs = seen_by_the_teacher(fit), seen_by_the_teacher(fit_with_kd_lib)
    assert len(ours) == len(theirs) == epochs * (4 * 12 // BATCH)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.kd_lib
@pytest.mark.parametrize("num_classes", [2, 3])
def test_messy_collaboration_breaks_in_kd_lib_with_few_classes(
    kd_lib: Any, num_classes: int, tmp_path: Path
) -> None:
    """It draws labels from the image's 3 channels, and moves a 2 that was drawn for a 2 on to 3."""
    options = {"label_noise": 1.0}
    student, job = tiny_job(tmp_path / "theirs", "messy_collaboration", num_classes, options)
    with pytest.raises(RunStopped, match=r"KD_Lib's MessyCollab failed.*Target \d is out of bound"):
        fit_with_kd_lib(student, job, CPU, Progress(quiet=True))
    assert not (job.folder / "manifest.json").exists()

    student, job = tiny_job(tmp_path / "ours", "messy_collaboration", num_classes, options)
    fit(student, job, CPU, Progress(quiet=True))
    open_run(job.folder)


@pytest.mark.kd_lib
def test_the_student_is_left_in_eval_mode_after_kd_libs_first_epoch(
    kd_lib: Any, tmp_path: Path
) -> None:
    """From its second epoch on, BatchNorm is frozen and dropout off; in `fit` they never are."""

    def modes(engine: Any) -> list[bool]:
        student, job = tiny_job(tmp_path / engine.__name__)
        seen: list[bool] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if torch.is_grad_enabled():  # not while validating
                seen.append(module.training)

        student.network.register_forward_hook(note)
        engine(student, job, CPU, Progress(quiet=True))
        return seen

    steps = 4 * 12 // BATCH
    assert modes(fit_with_kd_lib) == [True] * steps + [False] * steps
    assert modes(fit) == [True] * (2 * steps)


@pytest.mark.kd_lib
def test_kd_lib_builds_a_graph_through_the_teacher(kd_lib: Any, tmp_path: Path) -> None:
    """And so differentiates the teacher too, whose gradients nobody wants."""

    def teaches(engine: Any) -> tuple[set[bool], bool]:
        student, job = tiny_job(tmp_path / engine.__name__)
        teacher, graphs = job.teachers[0], set[bool]()
        teacher.register_forward_hook(lambda *call: graphs.add(call[2].logits.requires_grad))
        engine(student, job, CPU, Progress(quiet=True))
        return graphs, any(p.grad is not None for p in teacher.parameters())

    assert teaches(fit_with_kd_lib) == ({True}, True)
    assert teaches(fit) == ({False}, False)


def kd_gradient(strategy: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Gradient of our KD term at the student's logits."""
    logits = student.clone().requires_grad_()
    options = {"temperature": temperature, "kd_weight": 1.0}
    if strategy == "noisy_teacher":
        options["noise_share"] = 0.0
    labels, draws = (
        torch.zeros(len(student), dtype=torch.long),
        Draws(0, np.arange(len(student)), 0),
    )
    term = make_strategy(StrategyConfig(name=strategy, **options))
    term(Lesson(logits, teacher[None], labels, None, draws))["loss"].backward()
    assert logits.grad is not None
    return logits.grad


def their_gradient(method: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Gradient of KD_Lib's KD term at the student's logits, by its default loss function."""
    logits = student.clone().requires_grad_()
    network, nothing = nn.Identity(), (None, None, None)  # loaders and optimiser
    taught = (network,) if method.__name__ == "SelfTraining" else (network, network, None)
    learner = method(*taught, *nothing, temp=temperature, distil_weight=1.0)
    learner.alpha = -1.0  # NoisyTeacher without noise
    labels = torch.zeros(len(student), dtype=torch.long)
    learner.calculate_kd_loss(logits, teacher, labels).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.kd_lib
@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("method", ["VanillaKD", "MessyCollab"])
def test_kd_libs_signal_shrinks_with_the_number_of_classes(
    kd_lib: Any, method: str, num_classes: int
) -> None:
    """Beside ours, squared error of probabilities is 2/C² as strong, KLDivLoss() of mean 1/C.

    At a uniform student p = 1/C. Squared error, L = 1/C Σ (p_k - t_k)², has the gradient
    2/C p_j ((p_j - t_j) - Σ p_k (p_k - t_k)) = 2/C² (p_j - t_j), as the sum is 1/C - 1/C = 0;
    that of the Kullback-Leibler divergence is p_j - t_j.
    """
    torch.manual_seed(0)
    student = torch.zeros(5, num_classes, dtype=torch.float64)
    teacher = 3.0 * torch.randn(5, num_classes, dtype=torch.float64)
    factor = 2 / num_classes**2 if method == "VanillaKD" else 1 / num_classes
    ours = kd_gradient("vanilla", student, teacher, 4.0)
    theirs = their_gradient(getattr(kd_lib, method), student, teacher, 4.0)
    torch.testing.assert_close(theirs, factor * ours)


@pytest.mark.kd_lib
@pytest.mark.parametrize(
    ("method", "strategy"),
    [("NoisyTeacher", "noisy_teacher"), ("SelfTraining", "self_training")],
)
def test_kd_lib_pulls_a_student_away_from_an_equal_teacher(
    kd_lib: Any, method: str, strategy: str
) -> None:
    """It compares log-probabilities with probabilities, or softens the teacher alone."""
    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64)
    assert kd_gradient(strategy, logits, logits, 4.0).abs().max() < 1e-12
    assert their_gradient(getattr(kd_lib, method), logits, logits, 4.0).abs().max() > 1e-2


@pytest.mark.kd_lib
def test_messy_collaboration_corrupts_nothing_at_kd_libs_default(kd_lib: Any) -> None:
    """`int(noise_rate * batch)` is 0 at 0.02 and a batch of 32, so no label is ever changed."""
    truth = torch.arange(32) % 4
    loader = DataLoader(TensorDataset(torch.randn(32, 4), truth), batch_size=32)
    networks = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(networks[1].parameters(), lr=0.1)
    learner = kd_lib.MessyCollab(*networks, loader, loader, None, optimizer)
    labels: list[Tensor] = []
    calculate = learner.calculate_kd_loss
    learner.calculate_kd_loss = lambda *call: labels.append(call[2]) or calculate(*call)
    learner.train_student(3, plot_losses=False, save_model=False, save_model_pth="./unused.pt")
    assert len(labels) == 3
    assert all(torch.equal(seen, truth) for seen in labels)
