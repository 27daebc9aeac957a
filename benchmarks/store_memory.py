"""Memory of building and reading the decoded store, for few images and for many.

Claim: pixels are never held: whatever its size, an image more costs its process at most about 1 kB
(its name, label and the hash of its content), while decoding as while training.
Conditions: the first COUNT images of a source, copied to a Parquet file of their own; per count one
fresh process that lists, decodes and writes, and another that opens the store and goes through one
epoch of views in shuffled batches of 128. `peak_mb` is private memory (resident, less shared and
file pages, which the kernel can take back), sampled every 5 ms; `start_mb` is that of the
interpreter with what it imported.
Command: `python -m distill.benchmarks.store_memory --data FOLDER [--counts 1000,50000]`
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

BATCH = 128
ROWS_PER_GROUP = 1000
SEED = 0
INTERVAL_S = 0.005


def private_mb() -> float:
    """Memory of this process that no file and no other process stands for, in MB."""
    process = psutil.Process()
    resident = process.memory_info()
    if hasattr(resident, "shared"):
        return float(resident.rss - resident.shared) / 1e6
    return float(process.memory_full_info().uss) / 1e6


@contextmanager
def peak_of(row: dict[str, Any]) -> Iterator[None]:
    """Adds `start_mb` and `peak_mb` of what is done inside to a row."""
    row["start_mb"] = row["peak_mb"] = private_mb()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL_S):
            row["peak_mb"] = max(row["peak_mb"], private_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        row["peak_mb"] = max(row["peak_mb"], private_mb())


def write_subset(location: str, count: int, file: Path) -> None:
    """Copies the first images of a source to a Parquet file, their labels as class names."""
    import pyarrow
    from pyarrow import parquet

    from distill.data.audit.splits import labels_of
    from distill.data.sources import open_source

    source = open_source(location)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.string())])
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, count, ROWS_PER_GROUP):
            items = source.items[start : min(start + ROWS_PER_GROUP, count)]
            pictures = [{"bytes": source.read(item), "path": None} for item in items]
            labels = [source.classes[labels_of(item)[0]] for item in items]
            writer.write_table(pyarrow.table({"image": pictures, "label": labels}, schema=schema))


def prepare(file: Path, size: int, cache: Path, workers: int) -> Any:
    """What every run begins with: the images listed, split, and decoded unless they are stored."""
    from distill.config import DataConfig, ViewsConfig
    from distill.data.prepare import prepare_data
    from distill.data.workspace import Workspace
    from distill.progress import Progress

    config = DataConfig(size=size)
    quiet = Progress(quiet=True)
    return prepare_data(str(file), config, ViewsConfig(), SEED, Workspace(cache, workers, quiet))


def build(file: Path, size: int, cache: Path, workers: int) -> dict[str, Any]:
    """Row of the process that decodes."""
    import pyarrow.parquet  # noqa: F401  (loaded before the start is taken)

    import distill.data.prepare  # noqa: F401

    row: dict[str, Any] = {"stage": "build"}
    with peak_of(row):
        prepare(file, size, cache, workers)
    row["stored_mb"] = sum(f.stat().st_size for f in cache.rglob("*.npy")) / 1e6
    return row


def read(file: Path, size: int, cache: Path, workers: int) -> dict[str, Any]:
    """Row of a process that finds the store and goes through an epoch."""
    import pyarrow.parquet  # noqa: F401
    import torch

    from distill.config import ViewsConfig
    from distill.data.views.draws import permutation
    from distill.data.views.images import TrainingImages

    cpu = torch.device("cpu")
    torch.zeros(8).add_(1)
    row: dict[str, Any] = {"stage": "read"}
    with peak_of(row):
        data = prepare(file, size, cache, workers)
        images = TrainingImages((data.train,), data.classes, ViewsConfig(), SEED, size)
        order = permutation(SEED, "order", 0, len(images))
        for start in range(0, len(order), BATCH):
            images.view(order[start : start + BATCH], 0, cpu)
    return row


STAGES = {"build": build, "read": read}


def measure(location: str, counts: list[int], size: int, workers: int) -> list[dict[str, Any]]:
    """One row per count and stage, each of a process of its own."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            file, cache = Path(scratch) / "images.parquet", Path(scratch) / "cache"
            write_subset(location, count, file)
            for stage in STAGES:
                argument = json.dumps([stage, str(file), size, str(cache), workers])
                command = [sys.executable, "-m", "distill.benchmarks.store_memory", argument]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows.append({"images": count, **json.loads(done.stdout)})
    return rows


def bytes_per_image(rows: list[dict[str, Any]], stage: str) -> float:
    """Growth of the peak from the fewest to the most images, per image."""
    chosen = sorted((r for r in rows if r["stage"] == stage), key=lambda row: int(row["images"]))
    first, last = chosen[0], chosen[-1]
    more = max(1, last["images"] - first["images"])
    return float((last["peak_mb"] - first["peak_mb"]) * 1e6 / more)


def main(arguments: list[str]) -> None:
    """Prints one JSON document: rows, growth per image, environment."""
    if len(arguments) == 1 and arguments[0].startswith("["):
        stage, file, size, cache, workers = json.loads(arguments[0])
        print(json.dumps(STAGES[stage](Path(file), size, Path(cache), workers)))
        return
    from distill.environment import environment

    parser = argparse.ArgumentParser(prog="python -m distill.benchmarks.store_memory")
    parser.add_argument("--data", required=True, help="any source of encoded images")
    parser.add_argument("--counts", default="1000,10000,50000", help="numbers of images")
    parser.add_argument("--size", type=int, default=32, help="height and width, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads")
    options = parser.parse_args(arguments)
    counts = [int(count) for count in options.counts.split(",")]
    rows = measure(options.data, counts, options.size, options.workers)
    grown = {stage: bytes_per_image(rows, stage) for stage in STAGES}
    print(json.dumps({"rows": rows, "bytes_per_image": grown, "env": environment()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
