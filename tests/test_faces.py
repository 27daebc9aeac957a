"""Faces: found, cut out with a margin, classified on their own, in RGB."""

import json
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from distill.data.decode import UnreadableImageError
from distill.errors import UserError, install_command
from distill.runtime import faces
from distill.runtime.faces import Face, FaceFinder, Faces, crop, label_faces
from distill.runtime.predict import Prediction, Predictor
from distill.scoring.cascades import Box

pytest.importorskip("cv2")
NODE, RED = helper.make_node, (255, 0, 0)


class Places:
    """A finder that knows where faces are."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes, self.sizes = list(boxes), []

    def find(self, image: Image.Image) -> list[Box]:
        assert image.mode == "RGB"
        self.sizes.append(image.size)
        return self.boxes


@pytest.fixture(scope="module")
def colours(colours_onnx) -> Predictor:
    return Predictor(colours_onnx)


def write_yunet(file, width: int = 64, height: int = 64):
    """A network with YuNet's ends, to which a cell of 8 px that is blue in BGR is a face of 32 px.

    Its scores are the channel that comes third in RGB and first in BGR; `exp(log 4) * 8 = 32`.
    """
    nodes, constants = [], [np.array([1, -1, 1]), np.array([0]), np.array([1])]
    values = dict(zip(("flat", "zero", "one"), constants, strict=True))
    values |= {"axis": np.array([1]), "full": np.array(255.0, np.float32)}
    nodes.append(NODE("Slice", ["input", "zero", "one", "axis"], ["blue"]))
    nodes.append(NODE("Div", ["blue", "full"], ["unit"]))
    for stride in (8, 16, 32):
        cells = (height // stride) * (width // stride)
        pooled = NODE("AveragePool", ["unit"], [f"pool{stride}"])
        pooled.attribute.append(helper.make_attribute("kernel_shape", [stride, stride]))
        pooled.attribute.append(helper.make_attribute("strides", [stride, stride]))
        nodes += [pooled, NODE("Reshape", [f"pool{stride}", "flat"], [f"cls_{stride}"])]
        nodes.append(NODE("Identity", [f"cls_{stride}"], [f"obj_{stride}"]))
        box = np.tile(np.float32([0.5, 0.5, np.log(4), np.log(4)]), (1, cells, 1))
        for kind, value in (("bbox", box), ("kps", np.zeros((1, cells, 10), np.float32))):
            values[f"{kind}{stride}"] = value
            # Of the scores as well, as OpenCV folds what depends on no input away.
            nodes.append(NODE("Mul", [f"cls_{stride}", "none"], [f"{kind}_none{stride}"]))
            nodes.append(
                NODE("Add", [f"{kind}_none{stride}", f"{kind}{stride}"], [f"{kind}_{stride}"])
            )
    values["none"] = np.array(0.0, np.float32)
    ends = [
        (f"{kind}_{stride}", [1, height * width // stride**2, size])
        for kind, size in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
        for stride in (8, 16, 32)
    ]
    graph = helper.make_graph(
        nodes,
        "yunet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, file)
    return file


def test_crops_have_a_margin_and_end_at_the_border():
    image = Image.new("RGB", (100, 80))
    # 20 x 40 with a quarter on each side: 5 across, 10 down
    assert crop(image, Box(30, 20, 20, 40), 0.25).size == (30, 60)
    assert crop(image, Box(0, 50, 20, 30), 0.25).size == (25, 38)  # round(7.5) = 8 above
    assert crop(image, Box(30, 20, 20, 40), 0.0).size == (20, 40)
    assert crop(image, Box(0, 0, 100, 80), 1.0).size == (100, 80)


def test_each_face_is_classified_alone_and_in_rgb(colours):
    """A model that sees BGR, or the whole picture, answers otherwise."""
    image = Image.new("RGB", (90, 30), "white")
    for index, colour in enumerate(((200, 0, 0), (0, 200, 0), (0, 0, 200))):
        image.paste(colour, (30 * index, 0, 30 * index + 30, 30))
    boxes = [Box(5 + 30 * index, 5, 20, 20) for index in range(3)]
    answer = label_faces(image, colours, Places(*boxes), margin=0.25)
    assert [face.prediction.labels for face in answer.faces] == [("red",), ("green",), ("blue",)]
    assert [face.box for face in answer.faces] == boxes
    assert answer.to_json()["faces"][2] == {
        "box": [65, 5, 20, 20],
        "labels": ("blue",),
        "prob": pytest.approx(200 / 255),
        "probs": pytest.approx({"red": 0.0, "green": 0.0, "blue": 200 / 255}),
        "abstained": False,
    }


def test_boxes_are_of_the_upright_picture(colours, tmp_path):
    file, sideways = tmp_path / "turned.jpg", Image.new("RGB", (60, 40))
    exif = sideways.getexif()
    exif[0x0112] = 6  # turn by a quarter
    sideways.save(file, exif=exif)
    finder = Places(Box(10, 30, 20, 20))
    answer = label_faces(file, colours, finder)
    assert (finder.sizes, answer.size, answer.path) == ([(40, 60)], (40, 60), str(file))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "I;16", "CMYK"])
def test_any_mode_and_no_face(mode, colours):
    answer = label_faces(Image.new(mode, (40, 30)), colours, FaceFinder())
    assert answer.to_json() == {"path": None, "size": [40, 30], "faces": []}
    assert str(answer) == "no face found"


@pytest.mark.parametrize("size", [(1, 1), (23, 500), (5000, 24), (30, 30)])
def test_tiny_and_narrow_pictures_have_no_face(size):
    assert FaceFinder().find(Image.new("RGB", size, RED)) == []


def test_what_is_no_picture_is_said(colours):
    with pytest.raises(UnreadableImageError):
        label_faces(b"no picture", colours, Places())


def test_boxes_that_overlap_are_one_face():
    def found(*numbers: float) -> faces.Found:
        return faces.Found(*numbers)

    large, same, nested = found(0, 0, 40, 40, 1.0), found(4, 4, 40, 40, 1.5), found(20, 20, 8, 8, 1)
    beside = found(60, 0, 40, 40, 0.5)
    assert faces._distinct([large, same, nested, beside]) == [same, beside]
    # of 40 x 40 each, 10 x 40 are shared: a quarter
    assert faces._distinct([large, found(30, 0, 40, 40, 0.2)]) == [large, found(30, 0, 40, 40, 0.2)]


def test_yunet_sees_bgr_and_its_boxes_are_in_pixels_of_the_picture(tmp_path):
    finder = FaceFinder(write_yunet(tmp_path / "yunet.onnx"))
    image = Image.new("RGB", (64, 64))
    image.paste((0, 0, 255), (16, 32, 24, 40))
    image.paste((255, 255, 0), (48, 0, 56, 8))  # bright, but not blue
    # the cell (2, 4) of 8 px; its middle (2 + 0.5) * 8 = 20, (4 + 0.5) * 8 = 36, 32 px wide
    assert finder.find(image) == [Box(4, 20, 32, 32)]


def test_small_faces_may_be_left_out(tmp_path):
    image = Image.new("RGB", (64, 64))
    image.paste((0, 0, 255), (16, 32, 24, 40))
    file = write_yunet(tmp_path / "yunet.onnx")
    assert [len(FaceFinder(file, least=least).find(image)) for least in (32, 33)] == [1, 0]


def test_large_pictures_are_searched_small(tmp_path):
    finder = FaceFinder(write_yunet(tmp_path / "yunet.onnx"), side=64)
    image = Image.new("RGB", (640, 640))
    image.paste((0, 0, 255), (160, 320, 240, 400))
    assert finder.find(image) == [Box(40, 200, 320, 320)]


def test_a_file_that_is_no_face_detector_is_one_line(tmp_path, tiny_onnx):
    (tmp_path / "text.onnx").write_text("no network")
    for file in (tmp_path / "text.onnx", tiny_onnx):
        with pytest.raises(UserError, match="no face detector"):
            FaceFinder(file)
    with pytest.raises(UserError, match="no such file"):
        FaceFinder(tmp_path / "none.onnx")


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=re.escape(install_command("faces"))):
        FaceFinder()


def test_opencv_5_has_no_cascades(monkeypatch):
    import cv2

    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(UserError, match="no Haar cascades"):
        FaceFinder()


def test_a_face_of_a_photograph_is_found_from_several_threads(portrait):
    """The cascades keep state while they search: threads that shared one would mix them up."""
    image, finder = portrait, FaceFinder()
    (box,) = finder.find(image)
    assert min(box.x, box.y) > 10
    assert box.width > 80
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(finder.find, [image] * 3)) == [[box]] * 3
    assert pickle.loads(pickle.dumps(finder)).find(image) == [box]


def test_the_command_lists_faces(tmp_path, distill, colours, monkeypatch):
    monkeypatch.setattr(FaceFinder, "find", lambda self, image: [Box(2, 3, 20, 10)])
    file = tmp_path / "p.png"
    Image.new("RGB", (40, 30), (0, 204, 0)).save(file)
    status, out, _ = distill("predict", colours.path, file, "--faces")
    assert (status, out) == (0, f"{file}: 1 face\n  20 x 10 at 2, 3: green 80.0 %\n")
    status, out, _ = distill("predict", colours.path, file, "--faces", "--json")
    (face,) = json.loads(out)["faces"]
    assert (status, face["box"], face["labels"]) == (0, [2, 3, 20, 10], ["green"])
    status, out, _ = distill("predict", colours.path, file, "--json")
    assert "faces" not in json.loads(out)


def test_each_face_is_explained(tmp_path, distill, write_colour_model, monkeypatch):
    boxes = [Box(2, 3, 20, 10), Box(22, 4, 10, 10)]
    monkeypatch.setattr(FaceFinder, "find", lambda self, image: boxes)
    model, file, out = write_colour_model(tmp_path / "m.onnx"), tmp_path / "p.png", tmp_path / "why"
    Image.new("RGB", (40, 30), (0, 255, 0)).save(file)
    status, said, _ = distill("predict", model, file, "--faces", "--explain", out, "--json")
    record = json.loads(said)
    assert status == 0
    assert record["explained"] == [str(out / f"p-face{number}.png") for number in (1, 2)]
    assert [face["labels"] for face in record["faces"]] == [["green"], ["green"]]
    assert not any("map" in face for face in record["faces"])
    assert sorted(out.iterdir()) == [Path(place) for place in record["explained"]]


def test_several_faces_read_well():
    answer = Prediction(None, ("a",), 0.5, {"a": 0.5}, False)
    two = Faces("p.jpg", (40, 30), (Face(Box(1, 2, 3, 4), answer),) * 2)
    assert str(two).splitlines() == ["2 faces", *["  3 x 4 at 1, 2: a 50.0 %"] * 2]
