"""Run directories: what a finished one holds, and writing and reading weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from distill.config import ModelConfig
from distill.errors import UserError, first_line
from distill.files import (
    is_complete,
    lasting_files,
    read_json,
    verify_manifest,
    write_bytes,
    write_json,
    write_manifest,
)
from distill.models.classifier import Classifier, Contract, build_classifier, split_name
from distill.scoring.tasks import task_of
from distill.training.selection import worth

CONFIG, ENV, CONTRACT, ROWS = "config.json", "env.json", "contract.json", "metrics.jsonl"
BEST = "best.safetensors"
TABLE = "metrics.csv"  # of the same rows
PROMISED = (CONFIG, CONTRACT, ROWS, BEST)


@dataclass(frozen=True)
class FinishedRun:
    """A complete run directory whose files are as they were written; see `open_run`.

    Attributes:
        hashes: SHA-256 of each file, by its path in the directory.
    """

    folder: Path
    hashes: dict[str, str]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every option of the run, and what it depended on."""
        config: dict[str, Any] = read_json(self.folder / CONFIG)
        return config

    @cached_property
    def contract(self) -> Contract:
        """What the model takes and gives."""
        return Contract.model_validate(read_json(self.folder / CONTRACT))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row per epoch."""
        lines = (self.folder / ROWS).read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights were kept, from 1 on."""
        select, task = self.config["run"]["train"]["select"], self.contract.task
        validated = [(n, row) for n, row in enumerate(self.rows, 1) if "val/loss" in row]
        return max(validated, key=lambda one: worth(one[1], select, task))[0]

    @property
    def best_score(self) -> float:
        """The task's main validation score of the kept epoch, in percent.

        Raises:
            UserError: No epoch has one.
        """
        try:
            kept = self.rows[self.best_epoch - 1]
            return float(kept[f"val/{task_of(self.contract.task).main_score}"])
        except (LookupError, TypeError, ValueError):
            hint = "train it again"
            raise UserError("no epoch has a score", str(self.folder / ROWS), hint) from None

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file of the kept weights."""
        return self.hashes[BEST]

    @property
    def strategy(self) -> str:
        """Name of the strategy that it was trained with."""
        return str(self.config["run"]["strategy"]["name"])

    @property
    def logit_adjustment(self) -> float:
        """The `train.logit_adjustment` that it was trained with; 0 in earlier runs."""
        return float(self.config["run"]["train"].get("logit_adjustment", 0.0))

    @property
    def effective_batch(self) -> int:
        """Images of an optimiser step, over all processes; one batch in earlier runs."""
        env = read_json(self.folder / ENV) if ENV in self.hashes else {}
        return int(env.get("effective_batch", self.config["run"]["train"]["batch_size"]))

    @property
    def model(self) -> ModelConfig:
        """The network that it is of."""
        return ModelConfig.model_validate_json(json.dumps(self.config["run"]["model"]))

    def check_trusted(self) -> None:
        """Raises `UserError` where loading would import a module that it names, which runs it."""
        _, module, _ = split_name(self.model.name)
        if "." in module:
            what = f"its network is the module {module}, which opening it would run"
            raise UserError(what, str(self.folder), "add --trust if you know whose it is")

    def load(self) -> Classifier:
        """The model with the kept weights, in evaluation mode.

        Raises:
            UserError: They are of another network, or no weights.
        """
        model, contract = self.model, self.contract
        built = build_classifier(model, contract.names, contract.input_spec, False, contract.task)
        try:
            return load_weights(built, self.folder / BEST).eval()
        except (SafetensorError, RuntimeError) as error:
            what = f"weights that do not fit ({first_line(error)})"
            raise UserError(what, str(self.folder / BEST), "train it again") from None


def open_run(folder: Path) -> FinishedRun:
    """A run directory, its files compared with their hashes.

    Raises:
        UserError: The run is not complete, a file of it was changed, or it is none of ours.
    """
    if not is_complete(folder) or not (folder / CONTRACT).is_file():
        hint = "name one of an experiment, such as runs/photos/students/student"
        if (folder / "recipe.toml").is_file():
            hint = f"it is an experiment: name one of its runs, such as {folder}/students/student"
        raise UserError("not a finished run directory", str(folder), hint)
    run = FinishedRun(folder, verify_manifest(folder))
    hint = "name a run directory that `distill` wrote"
    if missing := [name for name in PROMISED if name not in run.hashes]:
        raise UserError(f"{missing[0]} is not in its manifest", str(folder), hint)
    try:
        facts = run.model, run.contract, run.rows, run.strategy, run.logit_adjustment
        assert all(fact is not None for fact in facts)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = first_line(error)
        raise UserError(f"not what a run writes ({reason})", str(folder), hint) from None
    return run


def begin_run(
    folder: Path, described: dict[str, Any], env: dict[str, Any], contract: Contract
) -> None:
    """Writes what is known of a run before training.

    Args:
        described: Every option, and what the run depends on.
        env: What it is trained with.
    """
    write_json(folder / CONFIG, described)
    write_json(folder / ENV, env)
    write_json(folder / CONTRACT, contract.model_dump(mode="json"))


def finish_run(folder: Path) -> None:
    """Writes the manifest; from now on the run counts as complete."""
    missing = [name for name in PROMISED if not (folder / name).is_file()]
    assert not missing, f"{folder} lacks {missing}"
    write_manifest(folder, lasting_files(folder))


def save_weights(classifier: Classifier, path: Path) -> None:
    """Writes the network's weights as safetensors."""
    state = classifier.network.state_dict()
    content = save({n: t.detach().cpu().contiguous() for n, t in state.items()})
    # Unlike the library's own writing, this tells of a full disk.
    write_bytes(path, content)


def load_weights(classifier: Classifier, path: Path) -> Classifier:
    """Reads what `save_weights` wrote into the same architecture.

    Raises:
        UserError: It is of another one.
    """
    try:
        classifier.network.load_state_dict(load_file(path))
    except RuntimeError as error:
        what = f"weights of another network: {str(error).splitlines()[-1].strip()}"
        raise UserError(what, str(path), "give both runs the same model") from None
    return classifier
