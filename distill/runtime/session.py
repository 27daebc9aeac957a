"""A shipped file in onnxruntime: opened, its metadata read and believed, its answers checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill.config import TaskName
from distill.data.decode import InputSpec, image_endings
from distill.errors import UserError, first_line, printable, unprintable
from distill.scoring.outliers import Outliers

REQUIRED = ("names", "task", "input_spec", "thresholds")
CHECKED = (*REQUIRED, "metrics", "precision", "outliers")
SLACK = 1e-3  # by which a probability may lie outside [0, 1]: halves round
FEW = 100  # numbers that are looked at one by one


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        UserError: No such file, or onnxruntime cannot read it.
    """
    import onnxruntime as ort

    if path.is_dir():
        hint = "name an .onnx file, or an experiment that has exported, such as runs/photos"
        if (path / "recipe.toml").is_file():
            hint = f"export from it first: distill export {path}"
        raise UserError("no shipped file in this folder", str(path), hint)
    if not path.is_file():
        raise UserError("no such file", str(path), "name an .onnx file or an experiment")
    if path.suffix.lower() in image_endings():
        hint = "the model comes first, then the pictures"
        raise UserError("a picture, not a model", str(path), hint)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        reason = first_line(error)
        hint = "it may be cut short: export it again"
        raise UserError(f"not a usable ONNX file ({reason})", str(path), hint) from None


class _Metadata(BaseModel):
    """What the metadata of a shipped file has to be."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    names: Annotated[list[str], Field(min_length=1)]
    task: TaskName
    input_spec: InputSpec
    thresholds: dict[str, Annotated[float, Field(ge=0.0, lt=1.001)]]  # above 1 answers nothing
    metrics: dict[str, Any] | None = None
    precision: Annotated[str, Field(max_length=20, pattern=r"^[A-Za-z0-9._-]*$")] | None = None
    outliers: Outliers | None = None

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names: two classes have the same")
        if odd := [name for name in self.names if unprintable(name)]:
            raise ValueError(f"names: {printable(odd[0])!r} does not show")
        if unknown := self.thresholds.keys() - set(self.names):
            raise ValueError(f"thresholds: no class {printable(min(unknown))!r}")
        return self


def read_metadata(session: Any, path: Path) -> dict[str, Any]:
    """The metadata of a shipped file, decoded from JSON.

    Raises:
        UserError: A key that every shipped file has is missing, or means nothing.
    """
    metadata, hint = metadata_of(session), "use a file that `distill export` wrote"
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise UserError(f"no metadata {missing[0]!r} in it", str(path), hint)
    try:
        _Metadata.model_validate_json(json.dumps({key: metadata.get(key) for key in CHECKED}))
    except (ValidationError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            key = ".".join(str(place) for place in problem["loc"])
            reason = f"{key} {problem['msg']}".strip().removeprefix("Value error, ")
        raise UserError(f"its metadata makes no sense, {reason}", str(path), hint) from None
    return metadata


def read_spec(session: Any, metadata: dict[str, Any], path: Path) -> InputSpec:
    """How pictures become the input of a shipped file.

    Raises:
        UserError: The input is not uint8 `image` of the size that the metadata says, or what it
            answers to a grey picture is not a probability per class.
    """
    inputs, outputs = ends_of(session, path)
    ends = {value["name"]: value["type"] for value in (*inputs, *outputs)}
    shape = inputs[0]["shape"][1:] if inputs else []
    hint = "use a file that `distill export` wrote"
    spec = InputSpec.model_validate(metadata["input_spec"])
    if ends.get("image") != "tensor(uint8)" or "prob" not in ends:
        raise UserError(f"takes and gives {', '.join(ends)}", str(path), hint)
    if shape != [spec.height, spec.width, 3]:
        what = f"takes {shape}, but its metadata says {spec.height} x {spec.width}"
        raise UserError(what, str(path), hint)
    grey = np.full((2, *shape), 128, np.uint8)
    check_probs(run(session, ["prob"], grey, path)[0], metadata["names"], path, len(grey))
    return spec


def read_outliers(session: Any, metadata: dict[str, Any], path: Path) -> Outliers | None:
    """How a shipped file tells pictures that are unlike those of training; None where it cannot.

    Args:
        metadata: As `read_metadata` gives it.

    Raises:
        UserError: It is of embeddings of another width than the file's.
    """
    shapes = [end["shape"] for end in ends_of(session, path)[1] if end["name"] == "embedding"]
    if not shapes or metadata.get("outliers") is None:
        return None
    outliers = Outliers.model_validate_json(json.dumps(metadata["outliers"]))
    if shapes[0][1:] != [outliers.width]:
        what = f"gives embeddings {shapes[0]}, but its metadata says {outliers.width} of them"
        raise UserError(what, str(path), "use a file that `distill export` wrote")
    return outliers


def ends_of(session: Any, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Name, type and shape of a file's inputs and outputs.

    Raises:
        UserError: One of them has a name that is no text.
    """
    try:
        inputs, outputs = (
            [{"name": v.name, "type": v.type, "shape": list(v.shape)} for v in values]
            for values in (session.get_inputs(), session.get_outputs())
        )
    except UnicodeDecodeError:
        raise UserError("an input or output has no name", str(path), "export it again") from None
    return inputs, outputs


def run(session: Any, outputs: Sequence[str], pixels: NDArray[np.uint8], path: Path) -> list[Any]:
    """Outputs by name, of pixels `(batch, height, width, 3)`.

    Raises:
        UserError: onnxruntime cannot run the file.
    """
    try:
        results: list[Any] = session.run(list(outputs), {"image": pixels})
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        reason = first_line(error)
        raise UserError(f"it does not run ({reason})", str(path), "export it again") from None
    return results


def check_probs(probs: Any, names: Sequence[str], path: Path, count: int) -> None:
    """Raises `UserError` where answers are no probabilities of a model's classes.

    Args:
        count: Images that were asked about.
    """
    classes = len(names)
    hint = "use a file that `distill export` wrote"
    if getattr(probs, "shape", ()) != (count, classes) or probs.dtype.kind != "f":
        got = f"{getattr(probs, 'dtype', type(probs).__name__)} {getattr(probs, 'shape', '')}"
        raise UserError(f"answers {got} for {classes} classes", str(path), hint)
    # Right after a network ran, three passes of numpy over ten numbers take 30 us, a list 4.
    few = probs.size <= FEW
    ends = probs.ravel().tolist() if few else [float(probs.min()), float(probs.max())]
    if not all(-SLACK <= end <= 1.0 + SLACK for end in ends):  # nor is NaN
        raise UserError("its answers are no probabilities", str(path), "make it anew")


def metadata_of(session: Any) -> dict[str, Any]:
    """The metadata of any ONNX file; what is not JSON stays the text that it is."""
    try:
        raw = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError:
        return {}
    metadata: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            metadata[key] = json.loads(value)
        except (ValueError, RecursionError):
            metadata[key] = value
    return metadata
