"""The reference ONNX file: exported, cleaned, described, and held against torch on every image."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from distill.config import TaskName
from distill.errors import RunStopped, first_line
from distill.export import Record
from distill.export import Target as Base
from distill.export.golden import write_golden
from distill.export.onnx_file import clean, describe, probs_of_file, write_labels
from distill.export.outliers import write_outliers
from distill.export.parity import FLOAT32, Parity, answer_rule, compare_probs
from distill.export.shipped_graph import ShippedGraph
from distill.files import blame_system, write_bytes
from distill.models.classifier import Classifier

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

OPSET = 18
PATHS = ("dynamo", "dynamo-unoptimized", "legacy")

Path_ = Literal["auto", "dynamo", "dynamo-unoptimized", "legacy"]


class Target(Base):
    """`student.fp32.onnx`, the reference, with `golden.npz` and `labels.txt`."""

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """By the first path that agrees with torch on every image of the test split."""
        file, data = folder / shipment.fp32.name, shipment.data
        path, pixels = shipment.config.path, data.test.pixels
        record = export_onnx(shipment.classifier, file, shipment.metadata, pixels, path)
        write_outliers(file, shipment)
        write_golden(file, folder / "golden.npz")
        write_labels(data.classes, folder / "labels.txt")
        row = shipment.judge(probs_of_file(file, data.val.pixels), shipment.val_probs)
        parity = record["tried"][-1]
        shipment.say(
            f"{shipment.fp32}, {file.stat().st_size / 1e6:.2f} MB, agrees with torch on "
            f"{parity['agreement']:.2f} % of {parity['n']:,} test images, "
            f"largest difference {parity['max_prob_difference']:.1e}"
        )
        return {"files": {file.name: row}, **record}


def export_onnx(
    classifier: Classifier,
    file: Path,
    metadata: dict[str, Any],
    pixels: NDArray[np.uint8],
    path: Path_ = "auto",
) -> dict[str, Any]:
    """Writes a classifier as one self-contained ONNX file and proves it on `pixels`.

    Args:
        metadata: Becomes `metadata_props`, each value as JSON; `names`, `task` and `thresholds`
            also say what an answer is.
        pixels: Images to compare on, uint8 `(n, height, width, 3)`.
        path: Which exporter; `auto` takes the first whose file agrees, and records the others.

    Returns:
        `path`, `tried` with the parity or error of each, and `outputs`.

    Raises:
        RunStopped: No allowed path gives a file that agrees with torch.
    """
    graph = ShippedGraph(classifier).eval()
    expected = torch_probs(graph, pixels)
    tried: list[dict[str, Any]] = []
    for name in PATHS if path == "auto" else (path,):
        try:
            model = _convert(graph, pixels.shape[1:], name)
        except Exception as error:  # exporters raise anything from TypeError to their own classes
            blame_system(error)
            tried.append({"path": name, "error": first_line(error)})
            continue
        describe(model, metadata)
        write_bytes(file, model.SerializeToString())
        parity = compare(file, expected, pixels, *answer_rule(metadata))
        tried.append({"path": name, **vars(parity)})
        if FLOAT32.allow(tried[-1]):
            outputs = [output.name for output in model.graph.output]
            return {"path": name, "tried": tried, "outputs": outputs}
        file.unlink()
    hint = "set export.path=auto, or train another network (student.model)"
    raise RunStopped(f"no exported file agrees with torch: {json.dumps(tried)}", None, hint)


def torch_probs(graph: ShippedGraph, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of the graph in torch, `(n, classes)`."""
    with torch.no_grad():
        parts = [
            graph(torch.tensor(pixels[i : i + 64]))[0].numpy() for i in range(0, len(pixels), 64)
        ]
    return np.concatenate(parts)


def compare(
    file: Path,
    expected: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    task: TaskName = "single",
    thresholds: list[float] | None = None,
) -> Parity:
    """Runs a file in onnxruntime on all images, in batches of differing sizes."""
    return compare_probs(probs_of_file(file, pixels), expected, task, thresholds)


def _convert(graph: ShippedGraph, shape: tuple[int, ...], path: str) -> onnx.ModelProto:
    """The graph as an ONNX model in memory, clean of exporter traces."""
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    outputs = list(graph.outputs)
    common: dict[str, Any] = {
        "input_names": ["image"],
        "output_names": outputs,
        "opset_version": OPSET,
        "verbose": False,
    }
    with tempfile.TemporaryDirectory() as folder, _silence():
        file = Path(folder) / "model.onnx"
        if path == "legacy":
            axes = {name: {0: "batch"} for name in ("image", *outputs)}
            torch.onnx.export(graph, (example,), file, dynamo=False, dynamic_axes=axes, **common)
        else:
            torch.onnx.export(
                graph,
                (example,),
                file,
                dynamo=True,
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                external_data=False,
                optimize=path == "dynamo",
                **common,
            )
        model = onnx.load(file)
    clean(model)
    onnx.checker.check_model(model, full_check=True)
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporters print and warn about themselves; what matters is the parity."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
