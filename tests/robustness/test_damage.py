"""What power cuts, bad disks and other processes do to files that are read again later."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill.config import ModelConfig, RunConfig, StrategyConfig, TrainConfig, ViewsConfig
from distill.data.sources import open_source
from distill.errors import RunStopped
from distill.models.classifier import build_classifier
from distill.progress import Progress
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.teachers import build_caches
from distill.training.world import World

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
TINY = ModelConfig(name="compact", options={"width": [8, 8], "depth": [1, 1], "dropout": 0.0})


def tiny(data, seed=0):
    torch.manual_seed(seed)
    return build_classifier(TINY, data.classes, data.spec)


def make_job(data, folder: Path, **changes) -> Job:
    config = RunConfig(
        name="tiny", model=TINY, train=TrainConfig(epochs=3, batch_size=16, lr=5e-3), **changes
    )
    return Job(config, data, ViewsConfig(), 0, folder)


@pytest.fixture
def stopped(data, tmp_path, fit_until) -> Job:
    """A run that was stopped after two of three epochs."""
    job = make_job(data, tmp_path / "run")

    fit_until(tiny(data), job, 2)
    return job


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
        return
    kinds = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "zeroed": bytes(len(content)),
        "text": b"{}",
    }
    file.write_bytes(kinds[how])


@pytest.mark.parametrize("how", ["empty", "cut", "zeroed", "text", "missing"])
@pytest.mark.parametrize("name", ["last/state.pt", "metrics.jsonl", "best.safetensors"])
def test_a_run_with_a_damaged_file_begins_again(data, stopped, tmp_path, capsys, name, how):
    """An empty state was `interrupted`, status 130, for ever; a cut one a traceback."""
    whole = make_job(data, tmp_path / "whole")
    fit(tiny(data), whole, CPU, QUIET)
    damage(stopped.folder / name, how)
    fit(tiny(data), stopped, CPU, Progress())
    said = capsys.readouterr().err
    assert ("the run begins again" in said) == ((name, how) != ("last/state.pt", "missing"))
    expected, found = (load_file(job.folder / "best.safetensors") for job in (whole, stopped))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    rows = (stopped.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("name", ["last/state.pt", "best.safetensors"])
def test_a_flipped_bit_begins_again(data, stopped, capsys, name):
    """torch and safetensors took it as it was."""
    file = stopped.folder / name
    flip(file, len(file.read_bytes()) // 2)
    fit(tiny(data), stopped, CPU, Progress())
    assert "the run begins again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "Input/output error"), MemoryError(), RuntimeError("out of memory")],
)
def test_what_may_pass_throws_no_run_away(data, stopped, monkeypatch, error):
    before = (stopped.folder / "metrics.jsonl").read_text()

    def fails(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fails)
        with pytest.raises(type(error)):
            fit(tiny(data), stopped, CPU, QUIET)
    assert (stopped.folder / "metrics.jsonl").read_text() == before


def test_an_untouched_run_goes_on(data, stopped, capsys):
    fit(tiny(data, seed=3), stopped, CPU, Progress())
    assert "begins again" not in capsys.readouterr().err


def test_end_of_file_is_no_interruption(distill, monkeypatch):
    def ends(*arguments: object) -> None:
        raise EOFError("cut short")

    monkeypatch.setattr("distill.pipeline.stages.run_stages", ends)
    with pytest.raises(EOFError):
        distill("run", "students/compact_demo.toml", "--data", "demo:60", "--smoke")


def flip(file: Path, where: int) -> None:
    content = bytearray(file.read_bytes())
    content[where] ^= 4
    file.write_bytes(content)


def test_a_flipped_bit_in_a_shard_is_made_good(data, tmp_path):
    """It was used without a word, and gave another student."""
    job = replace(
        make_job(data, tmp_path / "run", strategy=StrategyConfig(name="vanilla")),
        teachers=[tiny(data, 1)],
        cache=tmp_path / "cache",
    )
    (cache,) = build_caches(job, World(CPU), QUIET)
    files = sorted(cache.folder.glob("view-*.npy"))
    before = [file.read_bytes() for file in files]
    flip(files[1], -20)
    flip(files[2], -1)  # of the checksum itself
    build_caches(job, World(CPU), QUIET)
    assert [file.read_bytes() for file in files] == before
    assert np.load(files[0]).shape[1:] == (3,)  # as numpy alone reads them


def test_a_flipped_bit_in_the_decoded_store_is_made_good(image_folder, tmp_path):
    from distill.config import DataConfig
    from distill.data.prepare import prepare_data
    from distill.data.workspace import Workspace

    def pixels() -> np.ndarray:
        work = Workspace(tmp_path / "cache", 1, QUIET)
        found = prepare_data(str(image_folder), DataConfig(size=16), ViewsConfig(), 0, work)
        return np.array(found.train.pixels)

    before = pixels()
    (file,) = tmp_path.glob("cache/images-*/train.npy")
    flip(file, -5)
    assert np.array_equal(pixels(), before)


def test_a_disk_that_fails_once_loses_no_picture(image_folder, tmp_path, monkeypatch):
    """Two of 60 files that could not be read once were left out of all later runs too."""
    from distill.data import decode

    read, failed = decode.read_file, []

    def fails_once(path: Path) -> bytes:
        if path.name == "3.jpg" and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr("distill.data.sources.folder.read_file", fails_once)
    from distill.data.audit.fingerprints import take_fingerprints

    source = open_source(str(image_folder))
    with pytest.raises(RunStopped, match=r"3\.jpg cannot be read now.*repeat the command"):
        take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    prints = take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    assert prints.readable.all()


def test_a_folder_that_may_not_be_listed_is_told(image_folder, monkeypatch, distill):
    """It counted as a class without images, or vanished."""
    (image_folder / "cat" / "deep").mkdir()
    scan = os.scandir

    def closed(path):
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    status, _, err = distill("check", image_folder)
    assert status == 2
    assert "deep" in err
    assert "cannot be listed" in err


def test_links_to_folders_are_followed_but_not_in_circles(image_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (image_folder / "cat").rename(elsewhere)
    (image_folder / "cat").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(image_folder)
    source = open_source(str(image_folder))
    names = [item.name for item in source.items if not item.name.startswith("cat/again")]
    assert len(names) == 16
    assert not [item.name for item in source.items if item.name.count("again") > 1]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EROFS, 2),
        (errno.ENAMETOOLONG, 2),
        (errno.ELOOP, 2),
        (errno.EACCES, 2),
        (errno.EFBIG, 3),
        (errno.EMFILE, 3),
        (errno.EIO, 3),
        (errno.ENOSPC, 3),
    ],
)
def test_errors_of_the_system_are_one_line(distill, monkeypatch, number, status):
    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr("distill.pipeline.stages.run_stages", fails)
    found, _, err = distill("run", "students/compact_demo.toml", "--data", "demo:60", "--smoke")
    assert found == status
    assert len(err.splitlines()) == 1
    assert "/some/place" in err
    assert "Fix: " in err


def test_names_that_move_the_cursor_are_shown_as_escapes(
    write_images, tmp_path, distill, tiny_onnx
):
    names = [f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(12)]
    folder = write_images(tmp_path / "pictures", names)
    (folder / "cat" / "\x1b[2Jx\n.jpg").write_bytes(b"no picture")
    status, out, err = distill("check", folder)
    assert status == 0, err
    assert "\x1b[2J" not in out + err
    status, out, err = distill("predict", tiny_onnx, folder / "cat")
    assert "\x1b" not in out + err
    (folder / "cat").rename(folder / "a\nb")
    status, _, err = distill("check", folder)
    assert status == 2
    assert "characters that do not show" in err


def test_memory_that_is_short_is_no_property_of_a_picture(image_folder, tmp_path, monkeypatch):
    from PIL import Image

    from distill.data.audit.fingerprints import take_fingerprints

    source = open_source(str(image_folder))

    def short(self: Image.Image) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", short)
        with pytest.raises(MemoryError):
            take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    prints = take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    assert prints.readable.all()


def test_what_the_interpreter_lacks_is_one_line(distill, monkeypatch):
    for error, words in (
        (MemoryError(), "out of memory"),
        (ModuleNotFoundError("No module", name="timm"), "needs timm"),
    ):

        def fails(*arguments: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("distill.pipeline.stages.run_stages", fails)
        status, _, err = distill(
            "run", "students/compact_demo.toml", "--data", "demo:60", "--smoke"
        )
        assert status in (2, 3)
        assert len(err.splitlines()) == 1
        assert words in err


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_too_little_address_space_is_one_line():
    program = "from distill.cli import main; main()"
    limited = f"ulimit -v 2000000; exec {sys.executable} -c '{program}' teachers demo:60 --dry-run"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 3
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", ["CUDA out of memory", "can't allocate memory", "can't start new thread"]
)
def test_torch_without_memory_is_one_line(distill, monkeypatch, words):
    def fails(*arguments: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("distill.pipeline.stages.run_stages", fails)
    status, _, err = distill("run", "students/compact_demo.toml", "--data", "demo:60", "--smoke")
    assert status == 3
    assert "out of memory" in err
    assert len(err.splitlines()) == 1


def test_a_smoke_run_takes_pictures_that_can_be_read(write_images, tmp_path):
    """It took the first twelve by hash, readable or not."""
    from distill.config import DataConfig
    from distill.data.prepare import prepare_data
    from distill.data.workspace import Workspace

    names = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(40)]
    folder = write_images(tmp_path / "images", names)
    for number in range(25):
        (folder / "cat" / f"{number}.jpg").write_bytes(b"no picture")
    work = Workspace(tmp_path / "cache", 1, QUIET)
    data = prepare_data(str(folder), DataConfig(size=16), ViewsConfig(), 0, work, True)
    labels = np.concatenate([split.labels for split in data.splits.values()])
    assert np.bincount(labels).tolist() == [12, 12]


def test_two_exports_of_an_experiment_wait_for_each_other(make_experiment, tmp_path, monkeypatch):
    import threading

    from distill.pipeline import export

    experiment = make_experiment(tmp_path / "out", "single", targets=({"name": "onnx_fp32"},))
    inside, most = [], []
    begin = export._export_student

    def watched(experiment) -> None:
        inside.append(1)
        most.append(len(inside))
        begin(experiment)
        inside.pop()

    monkeypatch.setattr(export, "_export_student", watched)
    threads = [threading.Thread(target=export.export_student, args=(experiment,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]
    assert (tmp_path / "out" / "export" / "student.fp32.onnx").is_file()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    """A kill while a file was synced left its temporary one for ever."""
    from distill.files import ABANDONED_S, atomic

    file, program = (
        tmp_path / "a[1].json",
        (
            "import os, signal, sys\nfrom pathlib import Path\nfrom distill.files import atomic\n"
            "with atomic(Path(sys.argv[1])) as temporary:\n"
            "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        ),
    )
    subprocess.run([sys.executable, "-c", program, str(file)])
    (left,) = tmp_path.iterdir()
    other = tmp_path / "a[1].json.1.elsewhere.tmp"  # of another machine, on a shared disk
    other.write_text("half")
    for place in (left, other):
        os.utime(place, (place.stat().st_mtime - 2 * ABANDONED_S,) * 2)
    with atomic(file) as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([file, other])
