"""Cost of listing, comparing, auditing and splitting data, for few images and for a million.

Claim: nothing grows faster than n log n, in time and in memory.
Conditions: synthetic entries, so that no picture is decoded: a Parquet file of pictures of eight
bytes is listed; tiny pictures are smooth noise, of which every twentieth is a changed copy of
another, half of these mirrored, with the perceptual hashes of what they are copies of. Per count
and stage one fresh process; `seconds` are of its processor, `peak_mb` is private memory.
`exponent` is that of a power law through a row and the row of the next smaller count.
Command: `python -m distill.benchmarks.scale [--counts 10000,30000,100000,300000,1000000]`
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.benchmarks.store_memory import peak_of
from distill.config import DataConfig
from distill.data.audit.duplicates import copy_groups, near_pairs
from distill.data.audit.findings import audit
from distill.data.audit.fingerprints import THUMB, Fingerprints
from distill.data.audit.splits import assign_splits
from distill.data.sources import Item, Source, open_source

CLASSES, COPIES, COARSE = 10, 20, 4  # every 20th is a copy; noise of 4 x 4
SEED = 0
ROWS = 10_000  # written to the Parquet file at a time


def made_up(count: int) -> tuple[Fingerprints, list[tuple[int, int]]]:
    """Fingerprints, and the pairs of places of which the second is a copy of the first."""
    rng = np.random.default_rng(SEED)
    coarse = rng.integers(0, 256, (count, COARSE, COARSE, 3), np.uint8)
    thumbs = coarse.repeat(THUMB // COARSE, axis=1).repeat(THUMB // COARSE, axis=2)
    hashes = rng.integers(0, 2**63, (count, 2), np.uint64)
    planted = [(place - 1, place) for place in range(COPIES, count, COPIES)]
    for number, (first, second) in enumerate(planted):
        mirrored = number % 2 == 1
        changed = thumbs[first][:, ::-1] if mirrored else thumbs[first]
        noise = rng.integers(-8, 9, changed.shape)
        thumbs[second] = np.clip(changed.astype(np.int64) + noise, 0, 255)
        hashes[second] = hashes[first][::-1] if mirrored else hashes[first]
    ones = np.ones(count, np.float32)
    prints = Fingerprints(
        names=tuple(f"{place:09d}.jpg" for place in range(count)),
        sha256=tuple(f"{value:064x}" for value in rng.permutation(count).tolist()),
        hashes=hashes,
        thumbs=thumbs,
        width=np.full(count, 64, np.int32),
        height=np.full(count, 64, np.int32),
        brightness=200.0 * ones,
        sharpness=ones,
        readable=np.ones(count, np.bool_),
        unreadable={},
    )
    return prints, planted


def items_of(stop: int, start: int = 0) -> list[Item]:
    """Entries of images, their labels in turns."""
    return [Item(f"{place:09d}.jpg", place % CLASSES) for place in range(start, stop)]


def listing(count: int, row: dict[str, Any]) -> None:
    """Opens a Parquet file of so many pictures."""
    import pyarrow
    from pyarrow import parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.int64())])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "images.parquet"
        with parquet.ParquetWriter(file, schema) as writer:
            for start in range(0, count, ROWS):
                items = items_of(min(start + ROWS, count), start)
                pictures = [{"bytes": b"\xff\xd8\xff\xe0....", "path": i.name} for i in items]
                table = {"image": pictures, "label": [item.label for item in items]}
                writer.write_table(pyarrow.table(table, schema=schema))
        with measured(row):
            source = open_source(str(file))
    assert len(source.items) == count


def comparing(count: int, row: dict[str, Any]) -> None:
    """Finds copies, all pairs or by the forest, and says how many of the planted ones."""
    prints, planted = made_up(count)
    with measured(row):
        found = near_pairs(prints)
    known = set(map(tuple, found.tolist()))
    row["found"] = round(sum(pair in known for pair in planted) / max(1, len(planted)), 4)
    row["others"] = len(known) - sum(pair in known for pair in planted)


def splitting(count: int, row: dict[str, Any]) -> None:
    """Splits by groups of copies."""
    items, names = items_of(count), [f"{place - place % 3:09d}" for place in range(count)]
    classes = tuple(f"class {number}" for number in range(CLASSES))
    with measured(row):
        assign_splits(items, classes, DataConfig(), SEED, names)


def auditing(count: int, row: dict[str, Any]) -> None:
    """Looks for everything that is odd."""
    prints, _ = made_up(count)
    items, classes = items_of(count), tuple(f"class {number}" for number in range(CLASSES))
    source = Source("made up", classes, tuple(items), lambda item: b"", "0")
    splits = assign_splits(items, classes, DataConfig(), SEED)
    copies = copy_groups(prints)
    with measured(row):
        audit(source, items, splits, prints, copies)


@contextmanager
def measured(row: dict[str, Any]) -> Iterator[None]:
    """Adds the processor's time and the peak of memory of what is done inside to a row."""
    with peak_of(row):
        start = time.process_time()
        yield
        row["seconds"] = time.process_time() - start


STAGES: dict[str, Callable[[int, dict[str, Any]], None]] = {
    "listing": listing,
    "comparing": comparing,
    "splitting": splitting,
    "auditing": auditing,
}


def measure(counts: Sequence[int], stages: Sequence[str]) -> list[dict[str, Any]]:
    """A row per stage and count, each of a process of its own."""
    rows: list[dict[str, Any]] = []
    for stage in stages:
        before: dict[str, Any] | None = None
        for count in counts:
            command = [sys.executable, "-m", "distill.benchmarks.scale", "--one", stage]
            done = subprocess.run(
                [*command, str(count)], check=True, capture_output=True, text=True
            )
            row = {"stage": stage, "images": count, **json.loads(done.stdout)}
            if before:
                ratio = partial(_log_ratio, row, before)
                row["exponent"] = round(ratio("seconds") / ratio("images"), 2)
            rows.append(row)
            before = row
            print(json.dumps(row), file=sys.stderr)
    return rows


def _log_ratio(row: dict[str, Any], before: dict[str, Any], key: str) -> float:
    return math.log(max(row[key], 1e-3) / max(before[key], 1e-3))


def main(arguments: list[str]) -> None:
    """Prints one JSON document: rows and environment."""
    from distill.environment import environment

    parser = argparse.ArgumentParser(prog="python -m distill.benchmarks.scale")
    parser.add_argument("--counts", default="10000,30000,100000,300000,1000000")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        row: dict[str, Any] = {}
        STAGES[options.one[0]](int(options.one[1]), row)
        print(json.dumps({key: round(value, 3) for key, value in row.items()}))
        return
    counts = [int(count) for count in options.counts.split(",")]
    rows = measure(counts, options.stages.split(","))
    print(json.dumps({"rows": rows, "env": environment()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
