"""A folder with a page that runs the student in the browser, by onnxruntime-web.

The page resizes as Pillow does and checks itself by golden vectors when it is opened.
"""

from __future__ import annotations

import base64
import io
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from distill.data.decode import to_pixels
from distill.export import Record
from distill.export import Target as Base
from distill.export.golden import SIZES, draw_picture
from distill.export.onnx_file import probs_of_file
from distill.export.parity import in_words
from distill.files import write_json
from distill.runtime.predict import Predictor

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

PAGE = ("index.html", "app.js")
# What probabilities may differ by in another runtime; int8 kernels round in their own ways.
TOLERANCES = {"fp32": 1e-3, "int8": 5e-2}
SHOWN = ("names", "task", "input_spec", "thresholds", "metrics", "precision", "license", "producer")


class Target(Base):
    """`web/`: the int8 file if it was published, else the fp32 file, with its page."""

    packs: ClassVar[bool] = True

    runtime: str = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
    """Where the page loads onnxruntime-web from: the URL of its `dist/`, or a path relative to the
    page; with a slash at the end.
    """

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Copies file and page, and writes what the page has to know."""
        web, source = folder / "web", shipment.onnx("int8") or shipment.fp32
        web.mkdir()
        shutil.copyfile(source, web / "model.onnx")
        for name in PAGE:
            text = files("distill.export").joinpath("web_page", name).read_text("utf-8")
            (web / name).write_text(text, "utf-8")
        predictor = Predictor(source)
        shown = {key: predictor.metadata[key] for key in SHOWN}
        tolerance = TOLERANCES[predictor.metadata["precision"]]
        write_json(web / "spec.json", {"runtime": self.runtime, "tolerance": tolerance, **shown})
        write_json(web / "golden.json", golden_pictures(predictor))
        row = shipment.judge(probs_of_file(web / "model.onnx", shipment.data.val.pixels))
        shipment.say(f"web/ with {source.name}: {in_words(row)}")
        return {"files": {"web/model.onnx": {"path": f"copy of {source.name}", **row}}}


def golden_pictures(predictor: Predictor) -> list[dict[str, Any]]:
    """Golden pictures, their pixels as PNG and the probabilities that a file gives them."""
    pictures = [draw_picture(index, *size) for index, size in enumerate(SIZES)]
    pixels = [to_pixels(picture, predictor.spec) for picture in pictures]
    probs = predictor.probs(np.stack(pixels)).tolist()
    return [
        {"picture": _data_url(picture), "pixels": _data_url(small), "prob": prob}
        for picture, small, prob in zip(pictures, pixels, probs, strict=True)
    ]


def _data_url(pixels: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
