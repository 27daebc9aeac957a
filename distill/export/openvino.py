"""Whether OpenVINO takes the ONNX files as they are, and what it answers; writes no file.

OpenVINO reads ONNX itself, so a copy in its own format would only be a second thing to verify.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from distill.errors import UserError, install_command
from distill.export import Record
from distill.export import Target as Base
from distill.export.onnx_file import Pixels, Probs, in_batches
from distill.export.parity import in_words

if TYPE_CHECKING:
    from distill.export.shipment import Shipment


class Target(Base):
    """The fp32 file, and the int8 file if there is one, on OpenVINO's CPU device."""

    packs: ClassVar[bool] = True

    def check(self) -> None:
        """Looks for the package `openvino`."""
        if find_spec("openvino") is None:
            hint = install_command("openvino")
            raise UserError("the target openvino needs openvino", "export.targets", hint)

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Compiles and scores each file; the fp32 one has to agree with onnxruntime."""
        import openvino

        record: Record = {"version": openvino.get_version(), "device": "CPU", "ran": {}}
        for file in filter(None, (shipment.onnx("fp32"), shipment.onnx("int8"))):
            probs, path = probs_of_openvino(file, shipment.data.val.pixels), f"openvino {file.name}"
            exact = file == shipment.fp32
            row = shipment.demand(probs, path) if exact else shipment.judge(probs)
            record["ran"][file.name] = row
            shipment.say(f"{path}: {in_words(row)}")
        return record


def probs_of_openvino(file: Path, pixels: Pixels) -> Probs:
    """Probabilities `(n, classes)` of all images, in batches of differing sizes."""
    import openvino

    core = openvino.Core()
    # Where a CPU computes in bfloat16 it would be the default; the reference is float32.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled: Any = core.compile_model(core.read_model(file), "CPU", config)
    prob = compiled.output("prob")
    return in_batches(lambda batch: compiled([batch])[prob], pixels)
