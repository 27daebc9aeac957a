"""Nothing in a training step waits for a GPU: shown without one, on tensors that hold no numbers.

On torch's meta device, reading a number or picking rows by a mask is an error; what is left that
makes the host wait is a copy to the device that blocks, and those are counted here.
"""

import ctypes
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from distill.config import (
    CacheConfig,
    ClassViews,
    ModelConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
    ViewsConfig,
)
from distill.data.store import subset
from distill.data.views.draws import Draws
from distill.data.views.pixels import make_views
from distill.device import to_device
from distill.models.classifier import build_classifier
from distill.progress import Progress
from distill.registry import names_in
from distill.strategies.objective import SOFTMAX
from distill.teaching.teachers import CachedTeachers, LiveTeachers
from distill.training.averaging import Average
from distill.training.job import Job
from distill.training.teachers import build_caches
from distill.training.trainer import Trainer
from distill.training.world import World

CPU, META = torch.device("cpu"), torch.device("meta")
QUIET = Progress(quiet=True)
TINY = ModelConfig(name="compact", options={"width": [8, 16], "depth": [1, 1], "head_width": 0})


class BlockingCopies(TorchDispatchMode):
    """Counts copies to the device that are not asked to go on by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            leaves = args[0].device != META and kwargs.get("device") == META
            self.count += leaves and not kwargs.get("non_blocking", False)
        return func(*args, **kwargs)


def make_job(data, tmp_path, strategy, views, **train) -> Job:
    config = RunConfig(
        name="tiny",
        model=TINY,
        strategy=StrategyConfig(name=strategy),
        train=TrainConfig(epochs=1, batch_size=16, **train),
        cache=CacheConfig(top_k=1 if data.task == "single" else 0),
    )
    torch.manual_seed(1)
    teacher = build_classifier(TINY, data.classes, data.spec, task=data.task)
    return Job(config, data, views, 0, tmp_path / "run", [teacher], cache=tmp_path / "cache")


def blocking_copies(job: Job, teachers) -> int:
    student = build_classifier(TINY, job.data.classes, job.data.spec, task=job.data.task)
    trainer = Trainer(student, job, World(META), teachers)
    trainer.begin_epoch(0)
    with BlockingCopies() as copies:
        batches = iter(trainer.batches(0))
        for _ in range(2):
            trainer.step(next(batches), 0)
    return copies.count


EVERYTHING = {"translate": 0.1, "shear_degrees": 5.0, "blur": 0.5, "erase": 0.5}
AVERAGED = {"ema_decay": 0.9, "clip_norm": 1.0, "label_smoothing": 0.1}
UNEQUAL = {"sampling": "balanced", "class_weights": "effective", "logit_adjustment": 1.0}


@pytest.mark.parametrize("strategy", names_in("strategies", "Strategy"))
@pytest.mark.parametrize("train", [{}, {**AVERAGED, "mixup": 0.2}, {**UNEQUAL, "focal_gamma": 2.0}])
def test_a_step_waits_for_nothing(data, tmp_path, strategy, train):
    """Parameters of views, cached logits, noise and averaged weights each made every step wait."""
    per_class = {data.classes[1]: ClassViews(blur=1.0)}
    job = make_job(
        data, tmp_path, strategy, ViewsConfig(**EVERYTHING, per_class=per_class), **train
    )
    extra = subset(data.train, np.arange(20))
    job = replace(
        job, unlabelled=replace(extra, labels=np.full(20, -1)), teacher_adjustments=(1.0,)
    )
    teachers = CachedTeachers(
        build_caches(job, World(CPU), QUIET), META, SOFTMAX, job.teacher_offsets
    )
    assert blocking_copies(job, teachers) == 0


@pytest.mark.parametrize("strategy", ["messy_collaboration", "noisy_teacher"])
def test_nor_does_one_of_several_labels_taught_live(multi_data, tmp_path, strategy):
    job = make_job(multi_data, tmp_path, strategy, ViewsConfig(), **AVERAGED, mixup=0.2)
    assert blocking_copies(job, LiveTeachers(job.teachers, META)) == 0


def test_nor_do_views_that_shrink(only):
    pixels = np.zeros((8, 64, 64, 3), dtype=np.uint8)
    with BlockingCopies() as copies:
        make_views(pixels, Draws(0, np.arange(8), 0), only(crop_scale=(0.1, 1.0)), 16, META)
    assert copies.count == 0


def test_a_copy_that_blocks_is_noticed():
    """So that the tests above can fail."""
    with BlockingCopies() as copies:
        torch.zeros(3).to(META)
        to_device(np.zeros(3), META)
    assert copies.count == 1
    with pytest.raises(RuntimeError):
        bool(torch.zeros((), device=META) > 0)


FAULTS = """
import resource, torch
{before}
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 1) for _ in range(4)))
images, counts = torch.ones(20, 8, 256, 256), []  # maps of 42 MB, which glibc would map and unmap
for _ in range(9):
    start = faults()
    with torch.no_grad():
        layers(images)
    counts.append(faults() - start)
print(sorted(counts)[4])  # a small tensor that takes a large one's place costs one of them 10,240
"""


@pytest.mark.skipif(not getattr(ctypes.CDLL(None), "mallopt", None), reason="no glibc")
def test_a_cpu_keeps_the_memory_of_large_tensors():
    """Else each batch that a teacher is asked about fetches its memory page by page."""
    chosen = "from distill.device import resolve_device; resolve_device('cpu')"
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(before=before)]))
        for before in ("", chosen)
    )
    assert kept < 100 < given_back


def test_averaged_weights_are_torchs(data):
    """`Average` is `AveragedModel.update_parameters` but for its copy of a counter.

    The decay warms up: 2 / 11, then 3 / 12.
    """
    torch.manual_seed(0)
    model = build_classifier(TINY, data.classes, data.spec)

    def average(averages, values, count):
        decay = (1 + int(theirs.n_averaged)) / (10 + int(theirs.n_averaged))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    theirs = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    ours = Average(model, 0.9)
    for _ in range(3):
        model.train()(torch.rand(4, 3, 32, 32))  # moves BatchNorm's statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        theirs.update_parameters(model)
        ours.update()
    expected = theirs.state_dict()
    for name, value in ours.state().items():
        if "num_batches_tracked" not in name:  # a count is copied, not averaged and cut
            torch.testing.assert_close(value, expected[name], msg=name)
    assert not torch.equal(ours.classifier.network.classifier.bias, model.network.classifier.bias)
