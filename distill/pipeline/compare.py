"""What `distill compare` does: finished runs on one test set, each against the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.digest import splits_sha256
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

    What is called so and has other options or images, as an earlier recipe may have left it, is
    another run, and what was never scored tells nothing.
    """
    named = re.compile(rf"{re.escape(folder.name)}-seed\d+")
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    own = tested(open_run(folder))
    found = {int(own.run.config["seed"]): own}
    for place in sorted(place for place in beside if named.fullmatch(place.name)):
        if is_complete(place) and _is_again(run := open_run(place), own.run):
            found.setdefault(int(run.config["seed"]), tested(run))
    return found


def _kind(run: FinishedRun) -> tuple[Any, ...]:
    """What its answers are."""
    return run.contract.task, run.contract.names


def _is_again(run: FinishedRun, own: FinishedRun) -> bool:
    """Whether a run is another by another seed, and was scored."""
    return answers_of(run).name in run.hashes and _options(run) == _options(own)


def _options(run: FinishedRun) -> tuple[Any, ...]:
    """What a run is and saw, whatever it is called, whoever it learned from and by which seed."""
    left_out = ("name", "seed", "start", "teachers")
    options = {key: value for key, value in run.config["run"].items() if key not in left_out}
    images = [run.config["inputs"].get(key) for key in ("data_sha256", "splits_sha256")]
    return options, run.config["views"], run.config["data"]["input_spec"], images


def answers_of(run: FinishedRun) -> Path:
    """The file of its answers on the test split, wherever it was scored."""
    return run.folder / (PARTS if run.contract.task == "multi" else CORRECT)


def tested(run: FinishedRun) -> Tested:
    """A run and its answers on its experiment's test split.

    Raises:
        UserError: It lies in no experiment, was not reported yet, or the experiment has
            other images now.
    """
    folder, file = run.folder, answers_of(run)
    experiment = folder.resolve().parent.parent
    if file.name not in run.hashes:
        hint = f"let it be scored: distill report {experiment}"
        raise UserError("its answers on the test split are not known", str(folder), hint)
    splits = read_json(experiment / DATA)["splits"]
    names, was = splits["test"], run.config["inputs"].get("splits_sha256")
    if was not in (None, splits_sha256(splits)):
        hint = "compare runs of the recipe as it is, or train this one again"
        raise UserError("its experiment has other splits since", str(folder), hint)
    table = read_table(experiment / FILE, labelled=False)
    columns = (table.cells(column) for column in ("path", "sha256", "group"))
    known = {path: (digest, group or path) for path, digest, group in zip(*columns, strict=True)}
    rows = [known[name] for name in names]
    parts = np.load(file)
    order = sorted(range(len(rows)), key=lambda index: rows[index][0])
    digests = tuple(rows[index][0] for index in order)
    return Tested(run, parts[order], digests, np.array([rows[index][1] for index in order]))
