"""A folder with the page of `distill.runtime.page`, where the student runs in the browser.

It resizes as Pillow does and checks itself by golden vectors when it is opened.
"""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from distill.data.decode import to_pixels
from distill.errors import UserError
from distill.export import Record
from distill.export import Target as Base
from distill.export.golden import SIZES, draw_picture
from distill.export.onnx_file import probs_of_file
from distill.export.parity import in_words
from distill.export.web_runtime import CDN, runtime_files
from distill.files import write_json
from distill.runtime.page import ASSETS, asset, describe_model, index_page
from distill.runtime.predict import Predictor

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

BESIDE = "ort/"
# What probabilities may differ by in another runtime; int8 kernels round in their own ways.
TOLERANCES = {"fp32": 1e-3, "int8": 5e-2}


class Target(Base):
    """`web/`: the int8 file if it was published, else the fp32 file, with its page."""

    packs: ClassVar[bool] = True

    runtime: str | None = None
    """Where the page loads onnxruntime-web from: the URL of its `dist/`, or a path relative to the
    page; with a slash at the end. None: from `ort/` beside the page, copied there from npm, or from
    a CDN where npm is out of reach.
    """
    offline: bool = False
    """Without the CDN: onnxruntime-web beside the page, or an error that says what is missing."""
    webgpu: bool = False
    """Lets readers choose the graphics card; what that takes, 27 MB, comes beside the page too."""

    def check(self) -> None:
        """Fetches the runtime, if the page may not do without; what is kept already is enough."""
        if self.offline and "//" in (self.runtime or ""):
            what = f"offline, and runtime = {self.runtime!r}"
            raise UserError(what, "export.targets", "leave one of the two out")
        if self.offline and self.runtime is None:
            runtime_files(self.webgpu)

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Copies file and page, and writes what the page has to know."""
        web, source = folder / "web", shipment.onnx("int8") or shipment.fp32
        (web / "page").mkdir(parents=True)
        shutil.copyfile(source, web / "model.onnx")
        runtime = self._bring_runtime(shipment, web) if self.runtime is None else self.runtime
        (web / "index.html").write_text(index_page(runtime), "utf-8")
        for name in ASSETS:
            (web / "page" / name).write_text(asset(name), "utf-8")
        predictor = Predictor(source)
        spec = {
            "engine": "browser",
            "runtime": runtime,
            "devices": ["wasm", "webgpu"] if self.webgpu else ["wasm"],
            "tolerance": TOLERANCES[predictor.metadata["precision"]],
            "models": [describe_model(predictor, "student")],
        }
        write_json(web / "spec.json", spec)
        write_json(web / "golden.json", golden_pictures(predictor))
        row = shipment.judge(probs_of_file(web / "model.onnx", shipment.data.val.pixels))
        shipment.say(f"web/ with {source.name}: {in_words(row)}")
        shipment.say(f"to open it: python -m http.server --directory {shipment.folder / 'web'}")
        copied = {"path": f"copy of {source.name}", **row}
        return {"runtime": runtime, "files": {"web/model.onnx": copied}}

    def _bring_runtime(self, shipment: Shipment, web: Path) -> str:
        """Where the page is to load onnxruntime-web from: beside it if that can be."""
        try:
            found = runtime_files(self.webgpu)
        except UserError as error:
            if self.offline:
                raise
            advice = f'{error.hint}, and {{ name = "web", offline = true }} into export.targets'
            shipment.say(f"web/ loads {CDN}: {error.what}; for use without a network {advice}")
            return CDN
        (web / BESIDE).mkdir()
        for file in found:
            shutil.copyfile(file, web / BESIDE / file.name)
        return BESIDE


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
