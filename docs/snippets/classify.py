"""A picture's labels by a shipped file alone, with onnxruntime, numpy and Pillow.

Command: python classify.py student.int8.onnx PICTURE...
"""

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def rgb(path: str) -> Image.Image:
    """A picture, upright; what is transparent lies on white."""
    with Image.open(path) as picture:
        image = ImageOps.exif_transpose(picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def resized(image: Image.Image, spec: dict) -> np.ndarray:
    """Model input, uint8 `(height, width, 3)`."""
    width, height = spec["width"], spec["height"]
    resample = Image.Resampling[spec["interpolation"].upper()]
    if spec["resize"] == "squash":
        return np.asarray(image.resize((width, height), resample))
    ratio = round(height / spec["crop_pct"]) / min(image.size)
    size = max(width, round(image.width * ratio)), max(height, round(image.height * ratio))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(image.resize(size, resample).crop((left, top, left + width, top + height)))


def labels(names: list, task: str, thresholds: dict, prob: np.ndarray) -> list:
    """Names and probabilities, likeliest first: of `single` one at most, of `multi` any number."""
    ranked = sorted(zip(names, prob.tolist(), strict=True), key=lambda pair: -pair[1])
    least = 0.5 if task == "multi" else 0.0
    asked = ranked if task == "multi" else ranked[:1]
    return [pair for pair in asked if pair[1] >= np.float32(thresholds.get(pair[0], least))]


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1])
    stored = session.get_modelmeta().custom_metadata_map
    names, task, spec, thresholds = (
        json.loads(stored[key]) for key in ("names", "task", "input_spec", "thresholds")
    )
    for path in sys.argv[2:]:
        pixels = resized(rgb(path), spec)[None]
        (prob,) = session.run(["prob"], {"image": pixels})
        print(json.dumps([path, labels(names, task, thresholds, prob[0])]))
