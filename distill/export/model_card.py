"""The README of a model on the Hugging Face Hub: what it is, how to use it, what it is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from distill.runtime.predict import Predictor
from distill.scoring.tasks import task_of

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

Record = dict[str, Any]
METRICS = {"top1": "accuracy", "map": "mean_average_precision"}  # ours by the Hub's name
SHOWN = ("top1", "map", "macro_f1", "micro_f1", "exact_match", "nll", "ece")
USE = """\
With [transformers.js](https://huggingface.co/docs/transformers.js), `FOLDER` being this one or its
name on the Hub:

```js
import { pipeline } from "@huggingface/transformers";
const classify = await pipeline("image-classification", "FOLDER");
console.log(await classify("photo.jpg"));
```

With `pip install distillate` (no torch), thresholds and resizing as they were verified:

```python
from distill import Predictor
print(Predictor("student.fp32.onnx").predict("photo.jpg"))
```

`student.*.onnx` take uint8 pixels `[batch, height, width, 3]` and give probabilities and, for most
networks, a class activation map; all else is in their metadata. `onnx/` holds the same networks
with normalised `pixel_values` in and `logits` out. `model.safetensors` has the weights as trained.
"""


def model_card(shipment: Shipment) -> str:
    """Markdown with the Hub's metadata at its head."""
    metadata = shipment.metadata
    names, spec = metadata["names"], metadata["input_spec"]
    kind = "labels, any number of them per image" if metadata["task"] == "multi" else "classes"
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head(shipment)),
        "---",
        "",
        f"# {shipment.student}",
        "",
        f"An image classifier of {len(names)} {kind}: {', '.join(names)}. Trained with "
        f"`{metadata['strategy']}` by {metadata['producer']}. Licence: "
        f"{metadata['license'] or 'not stated'}.",
        "",
        "## Scores",
        "",
        f"Of the **validation** split, {metadata['metrics']['n']:,} images. The epoch and any "
        "thresholds were chosen on it, so they flatter a little.",
        "",
        *scores_table(shipment),
        "",
        "## Use",
        "",
        USE,
        "## Limits",
        "",
        f"- Input is {spec['height']} x {spec['width']} px, resized by `{spec['resize']}`, "
        f"{spec['interpolation']}, antialiased (Pillow). Browsers resize a little differently.",
        "- The pipeline of transformers.js applies softmax and no thresholds, also where labels "
        "are many: there take a sigmoid of the `logits` yourself. `Predictor` does both.",
        f"- Trained on data with SHA-256 `{metadata['data_sha256']}`; pictures of another kind get "
        "an answer too, and it means nothing.",
    ]
    return "\n".join(lines) + "\n"


def scores_table(shipment: Shipment) -> list[str]:
    """The scores of every precision that the folder has, as Markdown."""
    files = [file for precision in ("fp32", "int8") if (file := shipment.onnx(precision))]
    scored = [Predictor(file).metadata for file in files]
    rows = {key: [metadata["metrics"].get(key) for metadata in scored] for key in SHOWN}
    for name in shipment.metadata["metrics"]["per_class_recall"]:
        recalls = [metadata["metrics"]["per_class_recall"].get(name) for metadata in scored]
        rows[f"recall of {name}"] = recalls
    return [
        f"| score | {' | '.join(metadata['precision'] for metadata in scored)} |",
        f"| --- |{' ---: |' * len(scored)}",
        *(
            f"| {name} | {' | '.join(f'{value:.4g}' for value in values)} |"
            for name, values in rows.items()
            if None not in values
        ),
    ]


def head(shipment: Shipment) -> list[tuple[str, Any]]:
    """The Hub's metadata; JSON values are YAML."""
    metadata = shipment.metadata
    scores, main = metadata["metrics"], task_of(shipment.data.task).main_score
    data = f"unpublished, SHA-256 {metadata['data_sha256'][:12]}"
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "unpublished", "name": data, "split": "validation"},
        "metrics": [
            {
                "type": METRICS[main],
                "value": scores[main] / 100,
                "name": f"{METRICS[main]} on {scores['n']} validation images",
            }
        ],
    }
    return [
        ("license", metadata["license"].lower() or "unknown"),
        ("library_name", "transformers.js"),
        ("pipeline_tag", "image-classification"),
        ("tags", ["image-classification", "onnx", "knowledge-distillation", "distillate"]),
        ("metrics", [METRICS[main]]),
        ("labels", list(metadata["names"])),
        ("model-index", [{"name": shipment.student, "results": [result]}]),
    ]
