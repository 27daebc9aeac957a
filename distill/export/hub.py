"""A folder to upload to the Hugging Face Hub, as transformers.js reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import onnx
from PIL import Image

from distill.export import Record
from distill.export import Target as Base
from distill.export.model_card import hub_card
from distill.export.onnx_file import Pixels, Probs, describe, in_batches, probs_of_file
from distill.export.parity import FLOAT32, Limits, in_words
from distill.export.pixel_values import normalise, to_pixel_values
from distill.files import write_json
from distill.runtime.predict import Predictor
from distill.runtime.session import open_session
from distill.scoring.tasks import task_of

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

# By the name that transformers.js looks for: the precision of ours, its name for it, and what
# normalising outside may change. One step of 256 at the input moves int8 as well.
FILES = {
    "model": ("fp32", "fp32", FLOAT32),
    "model_quantized": ("int8", "q8", Limits(difference=5e-2, rounding=2e-2)),
}
# A type that transformers.js has for any network of pixel values and logits, and that the Python
# library has not: there, a type it knows would be built with random weights.
MODEL_TYPE = "mobilenet_v4"
DESCRIPTION = (
    "float32 pixel_values [batch, 3, height, width] in, resized and normalised as "
    "preprocessor_config.json says; logits out: normalisation and {activation} are outside, do both"
)


class Target(Base):
    """`hub/`: ONNX with pixel values in and logits out, ours beside it, weights and model card."""

    packs: ClassVar[bool] = True

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Cuts both ends off the files and holds what is left against them."""
        hub, files = folder / "hub", {}
        (hub / "onnx").mkdir(parents=True)
        for name, (precision, _, limits) in FILES.items():
            if source := shipment.onnx(precision):
                file = hub / "onnx" / f"{name}.onnx"
                write_pixel_values(source, file, shipment.metadata, precision)
                row = self._verify(shipment, file, source, limits)
                files[f"hub/onnx/{file.name}"] = row
                shutil.copyfile(source, hub / source.name)
                shipment.say(f"hub/onnx/{file.name}: {in_words(row)}")
        shutil.copyfile(shipment.weights, hub / "model.safetensors")
        write_json(hub / "config.json", model_config(shipment))
        write_json(hub / "preprocessor_config.json", preprocessor_config(shipment.metadata))
        published = (shipment.onnx(precision) for precision, _, _ in FILES.values())
        scored = [Predictor(file).metadata for file in published if file]
        card = hub_card(shipment.student, scored, shipment.materials)
        (hub / "README.md").write_text(card, "utf-8")
        return {"files": files}

    def _verify(self, shipment: Shipment, file: Path, source: Path, limits: Limits) -> Record:
        val = shipment.data.val.pixels
        probs, path = probs_of_logits(file, val, shipment.metadata), f"{source.name} without ends"
        return {"path": path, **shipment.demand(probs, path, limits, probs_of_file(source, val))}


def write_pixel_values(source: Path, file: Path, metadata: Record, precision: str) -> None:
    """Writes the variant; without `input_spec` it does not pass for a shipped file."""
    model = to_pixel_values(onnx.load(source), metadata["mean"], metadata["std"])
    own = {key: metadata[key] for key in ("names", "task", "producer", "data_sha256", "license")}
    description = DESCRIPTION.format(activation=task_of(metadata["task"]).activation)
    describe(model, {"description": description, **own, "precision": precision})
    file.write_bytes(model.SerializeToString())


def probs_of_logits(file: Path, pixels: Pixels, metadata: Record) -> Probs:
    """Probabilities `(n, classes)` as a pipeline of theirs computes them."""
    session = open_session(file)

    def run_batch(batch: Pixels) -> Any:
        logits = session.run(["logits"], {"pixel_values": normalise(batch, metadata)})[0]
        return task_of(metadata["task"]).probabilities(logits)

    return in_batches(run_batch, pixels)


def model_config(shipment: Shipment) -> Record:
    """`config.json`: labels as transformers has them, and how `distill` builds the network."""
    names = shipment.data.classes
    kind = shipment.data.task
    smallest = [dtype for precision, dtype, _ in FILES.values() if shipment.onnx(precision)][-1]
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["DistillateStudent"],
        "problem_type": f"{kind}_label_classification",
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "num_labels": len(names),
        "transformers.js_config": {"dtype": smallest},
        "distillate": {
            "model": {**shipment.model, "pretrained": False},
            **{k: v for k, v in shipment.metadata.items() if k not in ("description", "names")},
        },
    }


def preprocessor_config(metadata: Record) -> Record:
    """`preprocessor_config.json`: our `input_spec` in the words of their image processors."""
    spec = metadata["input_spec"]
    size = {"height": spec["height"], "width": spec["width"]}
    config = {
        "do_resize": True,
        "size": size,
        "resample": int(Image.Resampling[spec["interpolation"].upper()]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(metadata["mean"]),
        "image_std": list(metadata["std"]),
        "do_convert_rgb": True,
    }
    if spec["resize"] == "squash":
        return {"image_processor_type": "ViTImageProcessor", **config}
    edge = round(spec["height"] / spec["crop_pct"])
    cropped = {"size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": size}
    return {"image_processor_type": "BitImageProcessor", **config, **cropped}
