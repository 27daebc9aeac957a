"""What `distill compare` does: finished runs on one test set, each against the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.sources._manifest import FILE
from distill.data.sources._tables import read_table
from distill.errors import UserError
from distill.files import is_complete, read_json
from distill.pipeline.stored import DATA
from distill.pipeline.verdicts import CORRECT, PARTS
from distill.scoring.comparison import Difference, Verdict, check_groups, judge
from distill.training.run_directory import FinishedRun, open_run


@dataclass(frozen=True)
class Tested:
    """The answers of a run on a test split, in the order of the images' hashes.

    Attributes:
        parts: Those of each image in its score, as `Task.parts` has them.
    """

    run: FinishedRun
    parts: NDArray[Any]
    digests: tuple[str, ...]
    groups: NDArray[np.str_]


def compare_runs(folders: Sequence[Path], margin: float) -> tuple[Verdict, ...]:
    """Verdicts on each run over the first, of the seeds that both have.

    Args:
        folders: Run directories in experiments; those of further seeds beside them count too.

    Raises:
        UserError: One is no finished run, was not reported yet, or was tested on other images.
    """
    if len(folders) < 2:
        raise UserError("one run is none to compare", "distill compare", "name two at least")
    base, *others = (of_seeds(folder) for folder in folders)
    return judge([_question(base, other) for other in others], margin)


def _question(base: Mapping[int, Tested], other: Mapping[int, Tested]) -> tuple[str, Difference]:
    one, reference = next(iter(other.values())), next(iter(base.values()))
    for run in (*base.values(), *other.values()):
        if run.digests != reference.digests:
            what = f"{run.run.folder} was tested on other images than {reference.run.folder}"
            raise UserError(what, "distill compare", "compare runs of the same splits")
        if _kind(run.run) != _kind(reference.run):
            what = f"{run.run.folder} has other classes or another task than {reference.run.folder}"
            raise UserError(what, "distill compare", "compare runs of the same data")
    seeds = [seed for seed in other if seed in base]
    if not seeds and max(len(base), len(other)) > 1:
        what = f"{one.run.folder} and {reference.run.folder} have several seeds, and none in common"
        raise UserError(what, "distill compare", "train both with the same (--seed, --seeds)")
    # Of runs that share no seed, and are one each, the pair is the pair.
    pairs = [(other[seed], base[seed]) for seed in seeds] or [(one, reference)]
    check_groups(reference.groups, "test")
    first, second = (np.stack([pair[side].parts for pair in pairs]) for side in (0, 1))
    names = (str(run.run.folder) for run in (one, reference))
    return " over ".join(names), Difference(first, second, reference.groups)


def of_seeds(folder: Path) -> dict[int, Tested]:
    """A run and the same of other seeds, by their seeds; its own is the first.

    What is called so and has other options, as an earlier recipe may have left it, is another run.
    """
    named = re.compile(rf"{re.escape(folder.name)}-seed\d+")
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    further = sorted(place for place in beside if named.fullmatch(place.name))
    own = tested(folder)
    others = [tested(place) for place in further if is_complete(place)]
    alike = [run for run in others if _options(run.run) == _options(own.run)]
    return {int(run.run.config["seed"]): run for run in (own, *alike)}


def _kind(run: FinishedRun) -> tuple[Any, ...]:
    """What its answers are."""
    return run.contract.task, run.contract.names


def _options(run: FinishedRun) -> dict[str, Any]:
    """What a run is, whatever it is called, whoever it learned from and by which seed."""
    left_out = ("name", "seed", "start", "teachers")
    return {key: value for key, value in run.config["run"].items() if key not in left_out}


def tested(folder: Path) -> Tested:
    """A run and its answers on its experiment's test split.

    Raises:
        UserError: It is none, lies in no experiment, or was not reported yet.
    """
    run, experiment = open_run(folder), folder.resolve().parent.parent
    file = PARTS if run.contract.task == "multi" else CORRECT
    if file not in run.hashes:
        hint = f"let it be scored: distill report {experiment}"
        raise UserError("its answers on the test split are not known", str(folder), hint)
    names = read_json(experiment / DATA)["splits"]["test"]
    table = read_table(experiment / FILE, labelled=False)
    columns = (table.cells(column) for column in ("path", "sha256", "group"))
    known = {path: (digest, group or path) for path, digest, group in zip(*columns, strict=True)}
    rows = [known[name] for name in names]
    parts = np.load(folder / file)
    order = sorted(range(len(rows)), key=lambda index: rows[index][0])
    digests = tuple(rows[index][0] for index in order)
    return Tested(run, parts[order], digests, np.array([rows[index][1] for index in order]))
