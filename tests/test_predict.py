"""The runtime: kinds of input, thresholds, and folders of pictures."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from distill.data.decode import UnreadableImageError
from distill.errors import UserError
from distill.predict import Predictor, find_images


def write_model(file: Path, task: str = "single", thresholds: dict | None = None) -> Path:
    """A model of 2 x 2 px whose probabilities are the mean red, green and blue, over 255."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 2, 3])
    prob = helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["batch", 3])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255])
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "axes"], ["prob"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    graph = helper.make_graph(nodes, "mean", [image], [prob], [scale, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {
        "names": ["red", "green", "blue"],
        "task": task,
        "thresholds": thresholds or {},
        "input_spec": {"height": 2, "width": 2, "resize": "squash"},
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, file)
    return file


def solid(*colour: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_all_kinds_of_pictures_give_the_same_answer(tmp_path):
    predictor = Predictor(write_model(tmp_path / "m.onnx"))
    image, stream, file = solid(0, 204, 51), io.BytesIO(), tmp_path / "p.png"
    image.save(stream, format="PNG")
    image.save(file)
    array = np.asarray(image)
    for given in (image, stream.getvalue(), file, str(file), array, [array], array[None]):
        (found,) = predictor.predict(given)
        assert found.labels == ("green",)
        # 204 / 255 = 0.8, 51 / 255 = 0.2
        assert found.probs == pytest.approx({"red": 0.0, "green": 0.8, "blue": 0.2})
        assert found.prob == pytest.approx(0.8)
        assert not found.abstained


def test_batches_keep_the_order(tmp_path):
    predictor = Predictor(write_model(tmp_path / "m.onnx"))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 5
    found = predictor.predict([solid(*colour) for colour in colours], batch_size=4)
    assert [p.labels[0] for p in found] == ["red", "green", "blue"] * 5


def test_below_its_threshold_a_single_label_model_abstains(tmp_path):
    model = write_model(tmp_path / "m.onnx", thresholds={"green": 0.9})
    sure, unsure, other = Predictor(model).predict(
        [solid(0, 240, 0), solid(0, 200, 0), solid(99, 0, 0)]
    )
    assert (sure.labels, sure.abstained) == (("green",), False)
    assert (unsure.labels, unsure.abstained) == ((), True)
    assert unsure.prob == pytest.approx(200 / 255)
    assert other.labels == ("red",)


def test_a_multi_label_model_gives_all_classes_above_their_thresholds(tmp_path):
    thresholds = {"red": 0.5, "green": 0.5, "blue": 0.9}
    model = write_model(tmp_path / "m.onnx", task="multi", thresholds=thresholds)
    both, none = Predictor(model).predict([solid(200, 255, 220), solid(10, 20, 30)])
    assert both.labels == ("green", "red")
    assert (none.labels, none.abstained) == ((), True)


def test_a_label_without_a_threshold_has_to_reach_a_half(tmp_path):
    model = write_model(tmp_path / "m.onnx", task="multi", thresholds={"red": 0.2})
    predictor = Predictor(model)
    # 60 / 255 = 0.24, 120 / 255 = 0.47, 140 / 255 = 0.55
    (found,) = predictor.predict(solid(60, 120, 140))
    assert found.labels == ("blue", "red")
    assert predictor.tuned is not None
    plain = Predictor(write_model(tmp_path / "plain.onnx", task="multi"))
    assert plain.predict(solid(60, 120, 140))[0].labels == ("blue",)
    assert plain.tuned is None


def test_the_command_says_every_label_and_when_none_is_confident(tmp_path, distill):
    thresholds = {"red": 0.5, "green": 0.5, "blue": 0.9}
    model = write_model(tmp_path / "m.onnx", task="multi", thresholds=thresholds)
    for name, colour in (("both", (204, 255, 0)), ("none", (10, 20, 204))):
        solid(*colour).save(tmp_path / f"{name}.png")
    both, none = tmp_path / "both.png", tmp_path / "none.png"
    status, out, _ = distill("predict", model, both, none)
    assert status == 0
    # 204 / 255 = 80 %
    assert out.splitlines() == [
        f"{both}: green 100.0 %, red 80.0 %",
        f"{none}: no label is confident, likeliest blue 80.0 %",
    ]
    status, out, _ = distill("predict", model, none, "--json")
    found = json.loads(out)
    assert (found["labels"], found["abstained"]) == ([], True)
    assert set(found) == {"path", "labels", "prob", "probs", "abstained"}


def test_a_picture_that_cannot_be_read_is_an_error_of_its_own(tmp_path):
    predictor = Predictor(write_model(tmp_path / "m.onnx"))
    with pytest.raises(UnreadableImageError):
        predictor.predict(b"not a picture")
    with pytest.raises(UnreadableImageError, match="float64"):
        predictor.predict(np.zeros((4, 4, 3)))


def test_find_images_takes_files_and_folders_and_nothing_else(tmp_path, write_images):
    root = write_images(tmp_path / "in", ["b/2.jpg", "a/1.jpg"])
    (root / "notes.txt").write_text("no picture")
    assert [p.name for p in find_images([root, root / "b" / "2.jpg"])] == [
        "1.jpg",
        "2.jpg",
        "2.jpg",
    ]
    with pytest.raises(UserError, match="no such file"):
        list(find_images([root / "nope"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        list(find_images([tmp_path / "empty"]))
