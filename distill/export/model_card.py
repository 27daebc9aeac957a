"""Model cards, as on the Hugging Face Hub: what a model is, how to use it, what it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.export.licences import IMAGES, Material, hub_license, licences, plain
from distill.report.results import Results, Scores
from distill.report.table import main_questions, question_lines

Record = dict[str, Any]
# Ours by the Hub's name, the main score first.
METRICS = {"accuracy": "top1", "mean_average_precision": "map", "f1": "macro_f1"}
NAMED = {"f1": "macro F1"}
SHOWN = ("top1", "map", "macro_f1", "micro_f1", "exact_match", "nll", "ece")
TRANSFORMERS = """\
With [transformers.js](https://huggingface.co/docs/transformers.js), `FOLDER` being this one or its
name on the Hub:

```js
import { pipeline } from "@huggingface/transformers";
const classify = await pipeline("image-classification", "FOLDER");
console.log(await classify("photo.jpg"));
```
"""
VERDICT = """\
Differences are of {score} on the test split, with 95 % intervals over groups of test images
(copies are one group) and, where there are several, over seeds. `no effect` and `as good` mean that
the interval lies within half a point of zero."""
PREDICTOR = """\
With Distillate installed from its repository (no torch; the package of that name on PyPI is another
project), thresholds and resizing as they were verified:

```python
from distill import Predictor
print(Predictor("{file}").predict("photo.jpg"))
```
"""
OUTLIERS = (
    "- `Predictor` says `outlier` of many of those, and of about 1 % of the others; "
    "`reject_outliers=True` withholds such answers."
)
FILES = """\
`student.*.onnx` take uint8 pixels `[batch, height, width, 3]` and give probabilities and, for most
networks, a class activation map and the pooled features; all else is in their metadata."""
HUB_FILES = """ `onnx/` holds the same networks
with normalised `pixel_values` in and `logits` out. `model.safetensors` has the weights as trained.
"""


def hub_card(student: str, files: Sequence[Record], materials: Sequence[Material] = ()) -> str:
    """The README of a folder for the Hub: Markdown with the Hub's metadata at its head.

    Args:
        files: Metadata of its ONNX files, the fp32 one first.
        materials: What it was made from.
    """
    metadata = files[0]
    scores = metadata["metrics"]
    scored = {record["precision"]: record["metrics"] for record in files}
    lines = [
        *_head(student, metadata, scores, "validation", "transformers.js", materials),
        "## Scores",
        "",
        f"Of the **validation** split, {scores['n']:,} images. The epoch and any thresholds were "
        "chosen on it, so they flatter a little.",
        "",
        *_scores_table(scored),
        "",
        "## Use",
        "",
        TRANSFORMERS,
        PREDICTOR.format(file="student.fp32.onnx"),
        f"{FILES}{HUB_FILES}",
        *_limits(
            metadata,
            " Browsers resize a little differently.",
            "- The pipeline of transformers.js applies softmax and no thresholds, also where "
            "labels are many: there take a sigmoid of the `logits` yourself. `Predictor` does "
            "both.",
        ),
        *licences(metadata["license"], materials),
    ]
    return "\n".join(lines) + "\n"


def experiment_card(results: Results, metadata: Record, materials: Sequence[Material] = ()) -> str:
    """The README of an experiment: as that of the Hub, of the test split, and what it warns of.

    Args:
        metadata: Of the file that ships.
        materials: What it was made from.
    """
    shipped = results.verdict["shipped"]
    scored = {
        row.name: row.test
        for row in results.rows
        if row.test is not None and (row.kind != "student")
    }
    warnings = [
        f"- {plain(caution.what)}. Fix: {plain(caution.fix)}." for caution in results.warnings
    ]
    score = "mean average precision" if metadata["task"] == "multi" else "accuracy"
    questions = [f"- {plain(line)}." for line in question_lines(main_questions(results.verdict))]
    lines = [
        *_head(shipped, metadata, scored[shipped], "test", "onnx", materials),
        *(["## Warnings", "", *warnings, ""] if warnings else []),
        *(["## Verdict", "", *questions, "", VERDICT.format(score=score), ""] if questions else []),
        "## Scores",
        "",
        f"Of the **test** split, {scored[shipped]['n']:,} images, which nothing was chosen on. "
        f"`{shipped}` is the file that ships.",
        "",
        *_scores_table(scored),
        "",
        *_calibration(metadata),
        "## Use",
        "",
        PREDICTOR.format(file=f"export/{shipped}"),
        f"{FILES}\n",
        *_limits(metadata),
        *licences(metadata["license"], materials),
    ]
    return "\n".join(lines) + "\n"


def _head(
    name: str,
    metadata: Record,
    scores: Scores,
    split: str,
    library: str,
    materials: Sequence[Material],
) -> list[str]:
    """The Hub's metadata, whose values are JSON and so YAML, and what the model is."""
    names = metadata["names"]
    kind = "labels, any number of them per image" if metadata["task"] == "multi" else "classes"
    measured = {metric: key for metric, key in METRICS.items() if key in scores}
    data_sets = [m.repository for m in materials if m.what == IMAGES and m.repository]
    unpublished = f"unpublished, SHA-256 {metadata['data_sha256'][:12]}"
    data = {"type": "unpublished", "name": unpublished, "split": split}
    if data_sets:
        data |= {"type": data_sets[0], "name": data_sets[0]}
    result = {
        "task": {"type": "image-classification"},
        "dataset": data,
        "metrics": [
            {
                "type": metric,
                "value": scores[key] / 100,
                "name": f"{NAMED.get(metric, metric)} on {scores['n']} {split} images",
            }
            for metric, key in measured.items()
        ],
    }
    bases = [m.repository for m in materials if m.is_base and m.repository]
    head = {
        **hub_license(metadata["license"]),
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "onnx", "knowledge-distillation", "distillate"],
        **({"datasets": data_sets} if data_sets else {}),
        **({"base_model": bases} if bases else {}),
        "metrics": list(measured),
        "labels": list(names),
        "model-index": [{"name": name, "results": [result]}],
    }
    return [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()),
        "---",
        "",
        f"# {name}",
        "",
        f"An image classifier of {len(names)} {kind}: {plain(', '.join(names))}. Trained with "
        f"`{metadata['strategy']}` by {metadata['producer']}. Licence: "
        f"{plain(metadata['license']) or 'not stated'}.",
        "",
    ]


def _scores_table(scored: Mapping[str, Scores]) -> list[str]:
    """Scores by name of a model, as Markdown; those that all of them have."""
    rows = {key: [scores.get(key) for scores in scored.values()] for key in SHOWN}
    for name in next(iter(scored.values()))["per_class_recall"]:
        recalls = [scores["per_class_recall"].get(name) for scores in scored.values()]
        rows[f"recall of {plain(name)}"] = recalls
    return [
        f"| score | {' | '.join(scored)} |",
        f"| --- |{' ---: |' * len(scored)}",
        *(
            f"| {name} | {' | '.join(f'{value:.4g}' for value in values)} |"
            for name, values in rows.items()
            if None not in values
        ),
    ]


def _calibration(metadata: Record) -> list[str]:
    """What was done for confidences to be meant as they are said."""
    temperature = metadata.get("temperature", 1.0)
    if temperature == 1.0:
        return []
    how = "fits validation best, so that 80 % sure is right four times in five"
    return [f"The files divide logits by the temperature {temperature:.2f}, which {how}.", ""]


def _limits(metadata: Record, resizing: str = "", *more: str) -> list[str]:
    spec = metadata["input_spec"]
    return [
        "## Limits",
        "",
        f"- Input is {spec['height']} x {spec['width']} px, resized by `{spec['resize']}`, "
        f"{spec['interpolation']}, antialiased (Pillow).{resizing}",
        *more,
        f"- Trained on data with SHA-256 `{metadata['data_sha256']}`; pictures of another kind get "
        "an answer too, and it means nothing.",
        *([OUTLIERS] if metadata.get("outliers") else []),
    ]
