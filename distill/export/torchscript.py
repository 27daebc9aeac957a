"""One TorchScript file: for programs in C++ or Python that have torch and no onnxruntime."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill.export import Record
from distill.export import Target as Base
from distill.export.onnx_file import Pixels, Probs, in_batches
from distill.export.parity import in_words
from distill.export.shipped_graph import ShippedGraph

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

jit: Any = torch.jit  # untyped in torch
METADATA = "metadata.json"  # in `_extra_files` of `torch.jit.load`
EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip file's own beginning of time


class Target(Base):
    """`student.torchscript.pt`: uint8 pixels to `(prob, cam, embedding)`, or `(prob,)`."""

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Traced, loaded again and run on validation."""
        file = folder / "student.torchscript.pt"
        metadata = {**shipment.metadata, "format": "torchscript"}
        write_torchscript(ShippedGraph(shipment.classifier).eval(), file, metadata)
        probs = probs_of_torchscript(file, shipment.data.val.pixels)
        row = shipment.demand(probs, "torch.jit.trace")
        shipment.say(f"{file.name}: {in_words(row)}")
        return {"path": "torch.jit.trace", "files": {file.name: row}}


def write_torchscript(graph: ShippedGraph, file: Path, metadata: Record) -> None:
    """Traces a graph and writes it with its metadata, without paths of this machine."""
    spec = graph.classifier.contract.input_spec
    noise = torch.randint(0, 256, (2, spec.height, spec.width, 3), dtype=torch.uint8)
    whole = file.with_suffix(".traced")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is no longer developed; it is still shipped
        traced = jit.freeze(jit.trace(graph, (noise,), check_trace=False))
        text = json.dumps(metadata, ensure_ascii=False)
        jit.save(traced, str(whole), _extra_files={METADATA: text})
    strip_sources(whole, file)
    whole.unlink()


def strip_sources(whole: Path, file: Path) -> None:
    """Copies an archive but for its debug records, which name our source files by local path."""
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                inside = "/".join(["student", *name.split("/")[1:]])
                new.writestr(zipfile.ZipInfo(inside, EPOCH), old.read(name))


def probs_of_torchscript(file: Path, pixels: Pixels) -> Probs:
    """Probabilities `(n, classes)` of all images, in batches of differing sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = jit.load(str(file))
    with torch.no_grad():
        return in_batches(lambda batch: loaded(torch.tensor(batch))[0].numpy(), pixels)
