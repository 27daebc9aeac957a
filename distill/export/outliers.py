"""What a shipped file is told of its training images, so that it can tell what is unlike them.

Every precision has its own: int8 moves embeddings by a tenth of their length, and kept 97.5 % of
validation images where 99 were meant, by the figures of its fp32 file (benchmarks/LOG.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from distill.data.decode import Pixels
from distill.data.store import spread
from distill.export.onnx_graph import EMBEDDING
from distill.files import write_bytes
from distill.runtime.predict import Predictor
from distill.scoring.outliers import Outliers

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

KEY = "outliers"  # in the metadata
BATCH = 64
MOST_VAL = 2000  # validation images, spread over the split: the 99th percentile is of twenty


def write_outliers(file: Path, shipment: Shipment) -> None:
    """Completes the metadata of a file that offers embeddings; another one has none of it."""
    val = shipment.data.val
    predictor, found = Predictor(file), None
    if EMBEDDING in predictor.outputs:
        pictures = (shipment.known_pixels, val.take(spread(val, MOST_VAL)))
        found = Outliers.fit(*(embeddings_of(predictor, pixels) for pixels in pictures))
    model = onnx.load(file)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if found is None:
        properties.pop(KEY, None)
    else:
        properties[KEY] = json.dumps(found.to_json())
    onnx.helper.set_model_props(model, properties)
    write_bytes(file, model.SerializeToString())


def embeddings_of(predictor: Predictor, pixels: Pixels) -> NDArray[np.float32]:
    """Pooled features `(n, d)` of all images, uint8 `(n, height, width, 3)`."""
    parts = []
    for start in range(0, len(pixels), BATCH):
        embeddings = predictor.answers(pixels[start : start + BATCH], EMBEDDING).embeddings
        assert embeddings is not None, "it has such an output"
        parts.append(embeddings)
    return np.concatenate(parts)
