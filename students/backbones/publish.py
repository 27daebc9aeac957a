"""Finished runs of `compact.toml` as files that students start from.

Run: python -m distill.students.backbones.publish RUN... (directories below students/)
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.files import read_json, sha256_of
from distill.students.backbones import FOLDER, OPTIONS
from distill.students.compact import Options

HEAD = "classifier."
CARD = """# {name}

{parameters:,} parameters in training, without a head; `compact` with `{options}`.

- **Learned** by `feature` from EfficientNet-Lite0 (timm's ImageNet weights, Apache-2.0, fine-tuned
  on Tiny ImageNet): its pooled features, its answers, and the labels of Tiny ImageNet. Recipe:
  `compact.toml`, {epochs} epochs, {images} views at {size} px.
- **Data**: the training part of Tiny ImageNet (ImageNet's terms: non-commercial research) with
  labels, that of CIFAR-10 (Krizhevsky, 2009; no licence named) without. No test split of either,
  and no photograph of the sets that the project reports scores of.
- **Scale**: convolutions as large as random ones, BatchNorm's statistics with them: the same
  function, and students learn at the usual rates (`publish.py`).
- **Cost**: {hours:.1f} hours on the CPU of `env.json` ({cpu}), after teacher and cache.
- **Score**: {score:.2f} % of the 200 classes of Tiny ImageNet on validation (its teacher
  {teacher}). What it is worth elsewhere: benchmarks/LOG.md.
- SHA-256 {sha256}
"""


def publish(run: Path, folder: Path = FOLDER) -> Path:
    """Writes the weights of a finished run, and their card.

    Returns:
        The file of the weights.
    """
    config, rows = read_json(run / "config.json"), _rows(run)
    options = Options.model_validate_json(json.dumps(config["run"]["model"]["options"]))
    weights = rescaled(load_file(run / "best.safetensors"))
    kept = {name: _half(tensor) for name, tensor in weights.items() if not name.startswith(HEAD)}
    file = folder / f"{run.name}.safetensors"
    save_file(kept, file, {OPTIONS: options.model_dump_json()})
    best = max(row["val/top1"] for row in rows if "val/top1" in row)
    (folder / f"{run.name}.md").write_text(
        CARD.format(
            name=run.name,
            parameters=sum(tensor.numel() for tensor in kept.values() if tensor.ndim),
            options=config["run"]["model"]["options"],
            epochs=len(rows),
            images=f"{round(sum(row['images_per_s'] * row['seconds'] for row in rows)):,}",
            size=config["data"]["input_spec"]["height"],
            hours=sum(row["seconds"] for row in rows) / 3600,
            cpu=read_json(run / "env.json").get("cpu", "unknown"),
            score=best,
            teacher=_teacher(run),
            sha256=sha256_of(file),
        ),
        "utf-8",
    )
    return file


def rescaled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network with each convolution before BatchNorm as large as a random one.

    Convolutions that BatchNorm follows grow in training, and the larger they are the less a step
    at some rate changes them (van Laarhoven, 2017, arXiv:1706.05350): from grown weights a student
    learns slower than rates suggest. BatchNorm's statistics are scaled along.
    """
    scaled = dict(weights)
    for name, weight in weights.items():
        stem = name.removesuffix(".0.weight")
        mean, variance = f"{stem}.1.running_mean", f"{stem}.1.running_var"
        if mean in weights:
            scale = math.sqrt(len(weight) / 3) / float(weight.float().norm())
            scaled[name] = weight * scale
            scaled[mean] = weights[mean] * scale
            scaled[variance] = weights[variance] * scale**2
    return scaled


def _half(tensor: Tensor) -> Tensor:
    halved = tensor.half() if tensor.is_floating_point() else tensor
    assert bool(torch.isfinite(halved).all()), "float16 ends at 65,504"
    return halved


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def _teacher(run: Path) -> str:
    """Best score of the only teacher of the run's experiment."""
    (teacher,) = (run.parent.parent / "teachers").glob("*/metrics.jsonl")
    return f"{max(row['val/top1'] for row in _rows(teacher.parent) if 'val/top1' in row):.2f} %"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(publish(Path(argument)))
