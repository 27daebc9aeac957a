"""A model repository for NVIDIA Triton Inference Server: requests are batched by the server.

Written from the server's documentation and checked with its onnxruntime backend's own library;
the server itself is not run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from distill.config import Count, Name
from distill.errors import UserError
from distill.export import Record
from distill.export import Target as Base
from distill.export.onnx_file import probs_of_file, write_labels
from distill.runtime.session import open_session

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

LABELS = "labels.txt"
TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}


class Target(Base):
    """`triton/`, to be given as `--model-repository`."""

    packs: ClassVar[bool] = True

    model: Name = "student"
    """What requests call it."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Which of the files it serves."""
    max_batch_size: Count = 64
    """Most images that the server runs at once."""
    max_queue_delay_us: Annotated[int, Field(ge=0)] = 100
    """How long a request may wait for others to share its batch, microseconds."""

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Copies the file of that precision and describes its inputs and outputs."""
        source = shipment.onnx(self.precision)
        if source is None:
            where = f"student.{self.precision}.onnx"
            hint = (
                f"add onnx_{self.precision} to export.targets; {where} may also have been refused"
            )
            raise UserError(f"triton has no {where} to serve", "export.targets", hint)
        top = folder / "triton" / self.model
        (top / "1").mkdir(parents=True)
        shutil.copyfile(source, top / "1" / "model.onnx")
        write_labels(shipment.data.classes, top / LABELS)
        (top / "config.pbtxt").write_text(self.describe(source), "utf-8")
        row = shipment.judge(probs_of_file(top / "1" / "model.onnx", shipment.data.val.pixels))
        shipment.say(f"triton/{self.model}: {source.name}, batches of up to {self.max_batch_size}")
        served = {"path": f"copy of {source.name}", **row}
        return {"files": {f"triton/{self.model}/1/model.onnx": served}}

    def describe(self, source: Path) -> str:
        """`config.pbtxt` of a file; the batch dimension is the server's and not listed."""
        session = open_session(source)
        outputs = [
            _tensor(output, f"label_filename: {_text(LABELS)}" if output.name == "prob" else "")
            for output in session.get_outputs()
        ]
        return "\n".join(
            [
                f"name: {_text(self.model)}",
                'backend: "onnxruntime"',
                f"max_batch_size: {self.max_batch_size}",
                *(f"input [ {_tensor(value)} ]" for value in session.get_inputs()),
                *(f"output [ {entry} ]" for entry in outputs),
                f"dynamic_batching {{ max_queue_delay_microseconds: {self.max_queue_delay_us} }}",
                "",
            ]
        )


def _tensor(value: Any, more: str = "") -> str:
    dims = ", ".join(str(size if isinstance(size, int) else -1) for size in value.shape[1:])
    fields = f"name: {_text(value.name)} data_type: {TYPES[value.type]} dims: [ {dims} ]"
    return f"{{ {' '.join(filter(None, (fields, more)))} }}"


def _text(value: str) -> str:
    return json.dumps(value)
