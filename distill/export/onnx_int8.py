"""The int8 file: quantised from the fp32 file step by step, and published only if it is worth it.

What the steps are is said in `int8.steps`, and in `int8.gate` what each is held against.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distill.export import Record
from distill.export import Target as Base
from distill.export.int8.gate import export_int8
from distill.export.int8.steps import summary
from distill.export.onnx_file import probs_of_file
from distill.export.outliers import write_outliers

if TYPE_CHECKING:
    from distill.export.shipment import Shipment


class Target(Base):
    """`student.int8.onnx`, if it is worth a second file."""

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Calibrated on training views; what was tried is on record, passed or not."""
        file, val = folder / "student.int8.onnx", shipment.data.val
        shipment.say("int8, by calibrations first")
        record = export_int8(
            shipment.fp32,
            file,
            shipment.calibration_pixels(),
            (val.pixels, val.labels),
            shipment.config,
            shipment.threads,
            shipment.distil,
            shipment.say,
        )
        shipment.say(summary(record.steps, record.score))
        if not file.is_file():
            return record.to_json()
        write_outliers(file, shipment)
        files = {file.name: shipment.judge(probs_of_file(file, val.pixels))}
        return {**record.to_json(), "files": files}
