"""Opening finished run directories."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save

from distill.config import ModelConfig
from distill.errors import UserError
from distill.files import (
    atomic,
    is_complete,
    read_json,
    verify_manifest,
)
from distill.models.classifier import Classifier, Contract, build_classifier
from distill.scoring.metrics import main_score
from distill.training.selection import worth


def load_run(folder: Path) -> Classifier:
    """The model that a run directory keeps, in evaluation mode.

    Raises:
        UserError: The run is not complete, or a file of it was changed.
    """
    if not is_complete(folder):
        raise UserError("not a finished run directory", str(folder), "it has no manifest.json")
    verify_manifest(folder)
    model = ModelConfig.model_validate_json(
        json.dumps(read_json(folder / "config.json")["run"]["model"])
    )
    contract = Contract.model_validate(read_json(folder / "contract.json"))
    classifier = build_classifier(model, contract.names, contract.input_spec, False, contract.task)
    return load_weights(classifier, folder / "best.safetensors").eval()


def save_weights(classifier: Classifier, path: Path) -> None:
    """Writes the network's weights as safetensors."""
    state = classifier.network.state_dict()
    content = save({n: t.detach().cpu().contiguous() for n, t in state.items()})
    with atomic(path) as temporary:
        temporary.write_bytes(content)  # which, unlike the library's own writing, tells a full disk


def load_weights(classifier: Classifier, path: Path) -> Classifier:
    """Reads what `save_weights` wrote into the same architecture."""
    classifier.network.load_state_dict(load_file(path))
    return classifier


def best_validation(folder: Path) -> float:
    """The task's main validation score of the kept epoch of a complete run, in percent."""
    if not is_complete(folder):
        stage = folder.parent.name.removesuffix("s")
        raise UserError("this run is not finished", str(folder), f"run `distill {stage}` first")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    select = read_json(folder / "config.json")["run"]["train"]["select"]
    task = read_json(folder / "contract.json")["task"]
    validated = [row for row in rows if "val/loss" in row]
    kept = max(validated, key=lambda row: worth(row, select, task))
    return float(kept[f"val/{main_score(task)}"])


def logit_adjustment(folder: Path) -> float:
    """The `train.logit_adjustment` that a run was trained with."""
    options = read_json(folder / "config.json")["run"]["train"]
    return float(options.get("logit_adjustment", 0.0))  # a run of before there was such an option
