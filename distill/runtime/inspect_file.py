"""What is inside an ONNX file: its ends, its metadata and, where onnx is installed, its graph."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from distill.files import sha256_of
from distill.runtime.session import ends_of, metadata_of, open_session

Record = dict[str, Any]
KEYS = ("task", "precision", "strategy", "thresholds", "mean", "std", "license", "producer")
MOST_NAMES = 12  # classes that are listed in text; JSON has all


def describe_file(file: Path) -> Record:
    """What is known of any ONNX file, as JSON.

    Returns:
        `file`, `size_bytes`, `sha256`, `inputs`, `outputs`, the file's `metadata`, decoded, and
        `graph`, which is absent where the package onnx is not installed.

    Raises:
        UserError: No such file, or onnxruntime cannot read it.
    """
    session = open_session(file)
    inputs, outputs = ends_of(session, file)
    record = {
        "file": str(file),
        "size_bytes": file.stat().st_size,
        "sha256": sha256_of(file),
        "inputs": inputs,
        "outputs": outputs,
        "metadata": metadata_of(session),
    }
    try:
        return {**record, "graph": describe_graph(file)}
    except ModuleNotFoundError:
        return record


def describe_graph(file: Path) -> Record:
    """Versions, operators and weights of a graph, which onnxruntime does not tell.

    `weights` counts the numbers in it by type; `qdq` is absent where nothing is quantised.
    """
    import onnx

    model = onnx.load(file)
    operators = Counter(node.op_type for node in model.graph.node)
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weights[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += math.prod(tensor.dims)
    record: Record = {
        "ir_version": model.ir_version,
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "producer": model.producer_name,
        "operators": dict(operators.most_common()),
        "weights": dict(weights.most_common()),
    }
    quantised = {kind: operators[kind] for kind in ("QuantizeLinear", "DequantizeLinear")}
    return {**record, "qdq": quantised} if any(quantised.values()) else record


def lines_of(record: Record) -> list[str]:
    """The same in lines for people."""
    metadata, graph = record["metadata"], record.get("graph")
    rows = [
        ("file", record["file"]),
        ("size", f"{record['size_bytes'] / 1e6:.2f} MB, SHA-256 {record['sha256']}"),
        *(("input", _ends(value)) for value in record["inputs"]),
        *(("output", _ends(value)) for value in record["outputs"]),
    ]
    if graph:
        opsets = ", ".join(f"{domain} {version}" for domain, version in graph["opset"].items())
        rows.append(("graph", f"IR {graph['ir_version']}, opset {opsets}"))
        rows.append(("operators", _counts(graph["operators"])))
        rows.append(("weights", _counts(graph["weights"])))
        rows.append(("quantised", _counts(graph["qdq"]) if "qdq" in graph else "no"))
    else:
        rows.append(("graph", "to see operators and weights: pip install onnx"))
    names = metadata.get("names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        rows.append(("classes", f"{len(names)}: {', '.join(names[:MOST_NAMES])}{more}"))
    else:
        rows.append(("metadata", "not a file that `distill export` wrote"))
    if isinstance(known := metadata.get("outliers"), dict):
        rows.append(("outliers", _outliers(known)))
    for key in ("description", "input_spec", *KEYS, "data_sha256", "metrics"):
        if metadata.get(key):
            rows.append((key, _value(metadata[key])))
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {value}" for name, value in rows]


def _ends(value: Record) -> str:
    return f"{value['name']}: {value['type']} [{', '.join(map(str, value['shape']))}]"


def _outliers(known: Record) -> str:
    """How pictures that are unlike those of training are told, without the numbers."""
    beyond, kept = (_value(known.get(key)) for key in ("threshold", "kept"))
    images = f"{known.get('train')} training and {known.get('val')} validation images"
    return f"told beyond a distance of {beyond}, {kept} % kept, by {images}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _value(value: Any) -> str:
    """A value in one line; of nested tables the plain entries."""
    if isinstance(value, dict):
        plain = {k: v for k, v in value.items() if not isinstance(v, dict)}
        return ", ".join(f"{key} {_value(entry)}" for key, entry in plain.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
