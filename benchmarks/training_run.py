"""One run of the training benchmark, in a process of its own so that its peak memory is its own.

Command: `python -m distill.benchmarks.training_run SETTINGS ENGINE ROUND FOLDER`, which
`distill bench training` calls; it writes `FOLDER/result.json`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field, model_validator

from distill.benchmarks.training_engines import (
    ASKS_TEACHER,
    QUIET,
    Engine,
    Workload,
    check_engine,
    top1,
    train_with,
)
from distill.config import (
    CacheConfig,
    Count,
    DataConfig,
    ModelConfig,
    Options,
    RunConfig,
    StrategyConfig,
    TrainConfig,
    ViewsConfig,
)
from distill.data.prepare import ImageData, prepare_data
from distill.data.store import subset
from distill.data.views.draws import permutation
from distill.data.views.images import num_batches
from distill.data.workspace import Workspace
from distill.errors import DistillError, UserError
from distill.files import write_json
from distill.models.classifier import Classifier, build_classifier
from distill.progress import Progress
from distill.training.job import Job
from distill.training.run_directory import open_run

INTERRUPTED = 130


class TrainingBench(Options):
    """What is trained, and how often.

    Attributes:
        location: A data source.
        num_images: Training images to use, drawn by the seed; 0 for all.
        teacher: A run directory, or a model's name for one of random weights, whose students'
            accuracy says nothing.
        timed_epochs: Epochs that the engines of `ASKS_TEACHER` run; 0 for all of `train.epochs`.
        seed: Of splits and of a random teacher; round r trains with `seed + r`.
        device: A device of this machine.
    """

    location: str
    data: DataConfig = DataConfig()
    num_images: Annotated[int, Field(ge=0)] = 0
    teacher: str = "timm/resnet50"
    student: ModelConfig = ModelConfig(name="compact")
    strategy: StrategyConfig = StrategyConfig(name="vanilla")
    train: TrainConfig = TrainConfig()
    cache: CacheConfig = CacheConfig()
    rounds: Count = 3
    timed_epochs: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: str = "cpu"

    @model_validator(mode="after")
    def _precision_is_everyones(self) -> TrainingBench:
        if self.train.precision == "fp16":
            raise ValueError("train.precision: fp16 needs a scaler that the plain loop has not")
        return self

    def epochs_of(self, engine: Engine) -> int:
        """Epochs that an engine really trains."""
        whole = self.train.epochs
        short = self.timed_epochs > 0 and engine in ASKS_TEACHER
        return min(whole, self.timed_epochs) if short else whole

    @property
    def has_trained_teacher(self) -> bool:
        """Whether the teacher is a run directory."""
        return Path(self.teacher).is_dir()


def load_data(config: TrainingBench, cache: Path, workers: int, progress: Progress) -> ImageData:
    """The decoded data, with as many training images as are asked for.

    Raises:
        UserError: The source cannot be used, or has fewer training images.
    """
    views, seed = ViewsConfig(), config.seed
    data = prepare_data(
        config.location, config.data, views, seed, Workspace(cache, workers, progress)
    )
    count = len(data.train.labels)
    if config.num_images > count:
        what = f"got {config.num_images}, {data.location} has {count} training images"
        raise UserError(what, "--images", "use fewer, or 0 for all")
    return limit_images(data, config.num_images, seed) if config.num_images else data


def limit_images(data: ImageData, count: int, seed: int) -> ImageData:
    """Data with `count` of its training images, in their order."""
    chosen = np.sort(permutation(seed, "bench", 0, len(data.train.labels))[:count])
    fewer = subset(data.train, chosen)
    sha256 = hashlib.sha256(f"{data.sha256} {seed} {count}".encode()).hexdigest()
    return replace(data, splits={**data.splits, "train": fewer}, sha256=sha256)


def load_teacher(config: TrainingBench, data: ImageData) -> Classifier:
    """The teacher, in evaluation mode.

    Raises:
        UserError: No such model or run, or a run of other classes.
    """
    if not config.has_trained_teacher:
        torch.manual_seed(config.seed)
        model = ModelConfig(name=config.teacher)
        return build_classifier(model, data.classes, data.spec).eval()
    teacher = open_run(Path(config.teacher)).load()
    if teacher.contract.names != data.classes:
        what = f"its classes {teacher.contract.names} are not the data's {data.classes}"
        raise UserError(what, config.teacher, "name a teacher that was trained on this data")
    return teacher


def make_workload(
    config: TrainingBench, data: ImageData, engine: Engine, round_: int, folder: Path
) -> Workload:
    """What an engine trains in a round; of the engine, only the number of epochs depends on it."""
    teacher, seed = load_teacher(config, data), config.seed + round_
    train = config.train.model_copy(update={"epochs": config.epochs_of(engine)})
    run = RunConfig(
        name=engine,
        model=config.student,
        strategy=config.strategy,
        train=train,
        cache=config.cache,
    )
    torch.manual_seed(seed)
    student = build_classifier(config.student, data.classes, data.spec)
    job = Job(run, data, ViewsConfig(), seed, folder, [teacher], cache=folder / "cache")
    return Workload(student, job, torch.device(config.device))


def measure(
    config: TrainingBench, data: ImageData, engine: Engine, round_: int, folder: Path
) -> dict[str, Any]:
    """Trains once.

    The clock begins with the data decoded and models and libraries loaded, and stops after the
    last validation; accuracy on the test split is read outside of it.

    Returns:
        `engine`, `round`, `epoch_seconds` (training only, one per epoch run), `total_seconds` (all
        of the run), `cache_seconds` if a cache was built, `images_per_epoch`, `peak_memory_bytes`,
        and `top1` of the epoch that was best on validation, absent if not all epochs were run.
    """
    check_engine(engine)
    workload = make_workload(config, data, engine, round_, folder)
    if workload.device.type == "cuda":
        torch.cuda.set_device(workload.device.index or 0)
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    measured = train_with(engine, workload)
    total = time.perf_counter() - start
    count, batch_size = len(data.train.labels), min(config.train.batch_size, len(data.train.labels))
    run: dict[str, Any] = {
        "engine": engine,
        "round": round_,
        "epoch_seconds": measured.epoch_seconds,
        "total_seconds": total,
        "images_per_epoch": num_batches(count, batch_size) * batch_size,
        "peak_memory_bytes": peak_memory_bytes(workload.device),
    }
    if measured.cache_seconds is not None:
        run["cache_seconds"] = measured.cache_seconds
    if config.epochs_of(engine) == config.train.epochs:
        run["top1"] = top1(workload.student, workload.job, workload.device)
    return run


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held at once: on a GPU by torch's tensors, else by this process.

    Linux counts what a parent held into `ru_maxrss` of its children, but not into VmHWM.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: list[str]) -> int:
    """Measures one run as the command line says; returns the exit status."""
    settings, engine, round_, folder = arguments
    place = Path(folder)
    try:
        config = TrainingBench.model_validate_json(Path(settings).read_text("utf-8"))
        data = load_data(config, Path(settings).parent / "images", 1, QUIET)
        run = measure(config, data, cast(Engine, engine), int(round_), place)
        write_json(place / "result.json", run)
    except KeyboardInterrupt:
        return INTERRUPTED
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
