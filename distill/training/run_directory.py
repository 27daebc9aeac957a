"""Opening finished run directories."""

from __future__ import annotations

import json
from pathlib import Path

from distill.config import ModelConfig
from distill.errors import UserError
from distill.files import is_complete, read_json, verify_manifest
from distill.models.classifier import Classifier, Contract, build_classifier
from distill.training.fit import load_weights


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
