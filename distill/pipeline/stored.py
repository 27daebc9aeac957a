"""What the files of an experiment have in them, as far as anything reads it."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

DATA, EXPORT, BENCH = "data.json", "export.json", "bench.json"


class UnlabelledFile(TypedDict):
    """What `data.json` has of unlabelled images."""

    location: str
    absolute: NotRequired[str]


class DataFile(TypedDict):
    """`data.json` of an experiment."""

    location: str
    absolute: NotRequired[str]
    smoke: bool
    modules: NotRequired[list[str]]
    unlabelled: NotRequired[UnlabelledFile]


class PlanFile(TypedDict):
    """`plan.json`."""

    asked: dict[str, Any]
    predicted_s: NotRequired[dict[str, float]]
    predicted_range_s: NotRequired[list[float]]


class MadeFile(TypedDict):
    """A file of an exported target."""

    sha256: str


class Made(TypedDict):
    """An exported target."""

    options: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, MadeFile]


class ExportFile(TypedDict):
    """`export.json` as far as it goes."""

    identity: dict[str, Any]
    targets: dict[str, Made]


class FinishedExport(ExportFile):
    """`export.json` of a whole stage."""

    strategy: str
    params: int


class BenchRow(TypedDict):
    """A row of `bench.json`."""

    name: str
    engine: str
    batch_size: int
    clock: str


class BenchEnv(TypedDict):
    """What `bench.json` was measured on."""

    cpu_busy_percent: float


class BenchFile(TypedDict):
    """`bench.json`."""

    identity: NotRequired[dict[str, Any]]
    rows: list[BenchRow]
    env: BenchEnv
