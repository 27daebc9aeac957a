"""ONNX files of strangers: answered as they say, or refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distill import Predictor
from distill.errors import UserError

onnx = pytest.importorskip("onnx")


def with_metadata(path, to, change):
    model = onnx.load(path)
    metadata = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    changed = change(metadata)
    changed = changed if isinstance(changed, dict) else {}
    onnx.helper.set_model_props(
        model,
        {k: v if isinstance(v, str) and k == "raw" else json.dumps(v) for k, v in changed.items()},
    )
    onnx.save(model, to)
    return to


def test_mutated_files_are_refused_in_one_line(tiny_onnx, tmp_path, distill, hostile, write_images):
    picture = write_images(tmp_path, ["a.jpg"]) / "a.jpg"
    whole, file = tiny_onnx.read_bytes(), tmp_path / "m.onnx"
    for rng in hostile.tries(40):
        file.write_bytes(hostile.mutated(whole, rng))
        for command in (("predict", file, picture), ("inspect", file)):
            status, _, err = distill(*command)
            hostile.assert_one_line(status, err)


def test_mutated_metadata_is_refused_in_one_line(
    tiny_onnx, tmp_path, distill, hostile, write_images
):
    picture, refused = write_images(tmp_path, ["a.jpg"]) / "a.jpg", 0
    for rng in hostile.tries(60):
        file = with_metadata(
            tiny_onnx, tmp_path / "m.onnx", lambda known, rng=rng: hostile.mutated_value(known, rng)
        )
        status, out, err = distill("predict", file, picture)
        hostile.assert_one_line(status, err)
        refused += status == 2
        assert out.replace("\n", "").isprintable()
        status, out, err = distill("inspect", file)
        hostile.assert_one_line(status, err)
        assert out.replace("\n", "").isprintable()
    assert refused > 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ["red", "red", "blue"]}, "two classes"),
        ({"names": ["red", "green"]}, "2 classes"),
        ({"names": ["a\x1b[2J", "b", "c"]}, r"does not show"),
        ({"names": "red"}, "names"),
        ({"task": "both"}, "task"),
        ({"thresholds": {"red": 2.0}}, "thresholds.red"),
        ({"thresholds": {"rot": 0.5}}, "no class 'rot'"),
        ({"input_spec": {"height": 24, "width": 32, "crop_pct": 0.0}}, "crop_pct"),
        ({"input_spec": {"height": 24, "width": 32, "interpolation": "magic"}}, "interpolation"),
        ({"input_spec": {"height": 24, "width": 10**9}}, "width"),
        ({"input_spec": json.loads("[" * 200 + "]" * 200)}, "input_spec"),
    ],
)
def test_metadata_that_makes_no_sense(tiny_onnx, tmp_path, change, words):
    file = with_metadata(tiny_onnx, tmp_path / "m.onnx", lambda known: {**known, **change})
    with pytest.raises(UserError, match=words):
        Predictor(file)


def test_answers_that_are_no_probabilities(tiny_onnx, tmp_path):
    """NaN was answered, with status 0."""
    model = onnx.load(tiny_onnx)
    for weight in model.graph.initializer:
        array = np.full(tuple(weight.dims), np.nan, np.float32)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(UserError, match="no probabilities"):
        Predictor(tmp_path / "nan.onnx")
