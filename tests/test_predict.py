"""The runtime: kinds of input, thresholds, and folders of pictures."""

import io
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from distill.data.decode import UnreadableImageError
from distill.data.workspace import Workspace
from distill.errors import UserError, install_command
from distill.runtime import threads
from distill.runtime.predict import Predictor, find_images


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
    (bad := tmp_path / "IMG 7 (copy).JPG").write_bytes(b"no")
    with pytest.raises(UnreadableImageError, match=r"picture 1 \(.*IMG 7 \(copy\)\.JPG\): "):
        predictor.predict([np.zeros((4, 4, 3), np.uint8), bad])


@pytest.mark.parametrize("mode", ["CMYK", "LA", "P", "L", "1", "RGBA", "I;16", "I", "PA", "YCbCr"])
def test_pictures_of_any_mode_are_answered(mode, tmp_path):
    """Grey where there is no colour: 51 / 255 = 0.2; a picture of one bit is black or white."""
    grey, predictor = solid(51, 51, 51), Predictor(write_model(tmp_path / "m.onnx"))
    wide = np.full((4, 6), 51 * 257, np.uint16)
    if mode.startswith("I"):
        picture = Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32))
    else:
        picture = grey.convert("L").convert("PA") if mode == "PA" else grey.convert(mode, dither=0)
    assert picture.mode == mode
    (found,) = predictor.predict(picture)
    expected = 0.0 if mode == "1" else 0.2
    assert list(found.probs.values()) == pytest.approx([expected] * 3, abs=0.01)


def test_a_picture_that_is_too_large_or_cut_short_is_one_line_and_status_2(
    tmp_path, distill, monkeypatch
):
    model, file = write_model(tmp_path / "m.onnx"), tmp_path / "p.jpg"
    solid(9, 9, 9, size=(300, 300)).save(file)
    monkeypatch.setattr("distill.data.decode.MAX_PIXELS", 300 * 300 - 1)
    status, out, err = distill("predict", model, file)
    assert (status, out) == (2, "")
    assert "300 x 300 pixels, too many" in err
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:-200])
    status, out, err = distill("predict", model, file)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()  # it was said twice, of the picture and of all of them
    assert line.startswith("error: not readable, OSError: ")
    assert line.endswith(f": {file}. Fix: name pictures, or folders of them.")
    good = tmp_path / "good.png"
    solid(9, 9, 9).save(good)
    status, out, err = distill("predict", model, good, file)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (2, 1, 2)
    assert "error: 1 of 2 pictures could not be read. Fix: " in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_spec": {"height": 2}}, r"makes no sense, input_spec\.width"),
        ({"input_spec": "2 x 2"}, "makes no sense, input_spec"),
        ({"input_spec": {"height": 2, "width": 2, "interpolation": "cubic"}}, "makes no sense"),
        ({"input_spec": {"height": 4, "width": 2}}, r"takes \[2, 2, 3\], but its metadata says"),
    ],
)
def test_metadata_that_does_not_fit_its_file_is_refused(change, said, tmp_path):
    file = write_model(tmp_path / "m.onnx")
    model = onnx.load(file)
    kept = {entry.key: json.loads(entry.value) for entry in model.metadata_props} | change
    helper.set_model_props(model, {key: json.dumps(value) for key, value in kept.items()})
    onnx.save(model, file)
    with pytest.raises(UserError, match=said):
        Predictor(file)


def test_a_file_with_other_ends_is_refused(tmp_path):
    """With all of our metadata: somebody made a variant of a shipped file."""
    model = onnx.load(write_model(tmp_path / "m.onnx"))
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "image" else name for name in node.input]
    model.graph.input[0].name = "pixels"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="takes and gives pixels, prob"):
        Predictor(tmp_path / "m.onnx")


def test_answers_for_files_are_those_of_training_pixels_in_torch(real_data, tmp_path):
    """The runtime decodes photographs by itself; the training pipeline did so into its store."""
    import torch

    from distill.config import DataConfig, ModelConfig, ViewsConfig
    from distill.data.prepare import prepare_data
    from distill.export.onnx_fp32 import export_onnx
    from distill.models.classifier import build_classifier
    from distill.progress import Progress

    # Of these photographs 90 % are `val` and `test`, stored at the size that a model takes.
    root = real_data / "masks" / "test"
    config = DataConfig(size=48, val_fraction=0.45, test_fraction=0.45, split="random")
    quiet = Progress(quiet=True)
    data = prepare_data(
        str(root), config, ViewsConfig(), 0, Workspace(tmp_path / "cache", 2, quiet)
    )
    torch.manual_seed(0)
    options = {"width": [16, 32], "depth": [1, 1], "head_width": 0}
    model = ModelConfig(name="compact", options=options)
    classifier = build_classifier(model, data.classes, data.spec).eval()
    images = torch.tensor(data.val.pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():  # random weights, but both classes are given
        classifier.network.classifier.bias -= classifier(images).logits.mean(dim=0)
    metadata = {"names": list(data.classes), "task": "single", "thresholds": {}}
    metadata["input_spec"] = data.spec.model_dump()
    export_onnx(classifier, tmp_path / "m.onnx", metadata, data.val.pixels[:9])
    predictor, agreed, count = Predictor(tmp_path / "m.onnx"), 0, 0
    for split in (data.val, data.test):
        images = torch.tensor(split.pixels).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            chosen = classifier(images).logits.argmax(dim=1).tolist()
        encoded = [(root / name).read_bytes() for name in split.names]
        found = [prediction.labels[0] for prediction in predictor.predict(encoded)]
        agreed += sum(data.classes[i] == label for i, label in zip(chosen, found, strict=True))
        count += len(found)
        assert len(set(found)) > 1
    assert count > 500
    assert agreed / count >= 0.999


@pytest.mark.usefixtures("no_heif")
def test_heic_that_nothing_decodes_is_one_warning_of_a_folder_and_an_error_of_a_file(
    tmp_path, phone_folder, distill
):
    model = write_model(tmp_path / "m.onnx")
    status, out, err = distill("predict", model, phone_folder)
    assert (status, len(out.splitlines())) == (0, 16)
    assert err == (
        "warning: 2 .heic and 1 .heif files are left out, nothing here decodes them: "
        f"{phone_folder}. Fix: {install_command('heic')}.\n"
    )
    status, out, err = distill("predict", model, phone_folder / "cat" / "a.heic")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert install_command("heic") in err
    for name, label in (("cat", "red"), ("dog", "green")):
        (phone_folder / name).rename(phone_folder / label)
    status, _, err = distill("evaluate", model, phone_folder)
    assert (status, err.count(install_command("heic"))) == (0, 1)


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


def test_pictures_come_in_whatever_holds_bytes(tmp_path):
    predictor = Predictor(write_model(tmp_path / "m.onnx"))
    file = tmp_path / "a.png"
    solid(0, 255, 0).save(file)
    content = file.read_bytes()
    with file.open("rb") as opened:
        kinds = [opened, io.BytesIO(content), bytearray(content), memoryview(content), file]
        assert [found.labels for found in predictor.predict(kinds)] == [("green",)] * 5
    assert predictor.predict(io.BytesIO(content))[0].labels == ("green",)
    assert predictor.predict(bytearray(content))[0].labels == ("green",)
    with (
        file.with_suffix(".txt").open("w+") as text,
        pytest.raises(UnreadableImageError, match="text"),
    ):
        predictor.predict(text)
    with pytest.raises(UnreadableImageError, match="images: a int"):
        predictor.predict(7)
    with pytest.raises(UnreadableImageError, match="picture 1: "):
        predictor.predict([content, None])


def test_a_predictor_travels_to_other_processes(tmp_path):
    predictor = pickle.loads(pickle.dumps(Predictor(write_model(tmp_path / "m.onnx"), 1)))
    assert predictor.predict(solid(0, 255, 0))[0].labels == ("green",)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(predictor.predict, np.full((4, 4, 3), 9, np.uint8)).result()
    assert len(found) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_stdout_cannot_encode_are_escapes(tmp_path, encoding):
    """A traceback, where a terminal knew fewer letters than the names."""
    model, file = write_model(tmp_path / "m.onnx"), tmp_path / "中é.png"
    solid(0, 255, 0).save(file)
    program = "from distill.cli import main; main()"
    for extra in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-c", program, "predict", str(model), str(file), *extra],
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        if extra:
            assert Path(json.loads(text)["path"]).name == file.name
        else:
            assert text.endswith(".png: green 100.0 %\n")
            assert (file.name in text) == (encoding == "utf-8")


@pytest.mark.parametrize("what", [None, 3.5, {"a": 1}])
def test_what_is_no_picture_is_called_by_its_type(what, tiny_onnx):
    with pytest.raises(UnreadableImageError, match="picture"):
        Predictor(tiny_onnx).predict([what])


@pytest.mark.parametrize(
    ("shared_us", "single_us", "kept"),
    [(50, 60, "shared"), (58, 60, "single"), (300, 60, "single"), (5000, 9000, "shared")],
)
def test_cores_are_shared_where_that_saves_time(monkeypatch, shared_us, single_us, kept):
    """A network of 60 us on all cores waited for its threads, at each of its layers."""
    now, calls = [0], []

    class Session:
        def __init__(self, name: str, us: int) -> None:
            self.name, self.us = name, us

        def run(self, outputs, feeds):
            calls.append(self.name)
            # What is done first takes longer; now and then something else runs.
            late = 10 if calls.count(self.name) == 1 or len(calls) % 7 == 0 else 1
            now[0] += 1000 * self.us * late

    monkeypatch.setattr(threads, "open_session", lambda path, count: Session("single", single_us))
    monkeypatch.setattr(threads, "perf_counter_ns", lambda: now[0])
    shared = Session("shared", shared_us)
    image = np.zeros((1, 4, 4, 3), np.uint8)
    assert threads.faster_session(shared, Path("m.onnx"), image).name == kept
    assert now[0] < 20_000_000 or calls == ["shared"] * 2  # a large one is asked twice, no more


def test_threads_that_are_asked_for_are_taken(tiny_onnx):
    def count(threads: int) -> int:
        options = Predictor(tiny_onnx, threads).session.get_session_options()
        return options.intra_op_num_threads

    assert [count(1), count(2)] == [1, 2]
    assert count(0) in (0, 1)


def test_no_pictures_at_a_time_is_refused(tiny_onnx):
    with pytest.raises(UserError, match="batch_size is -1"):
        Predictor(tiny_onnx).predict([np.zeros((4, 4, 3), np.uint8)], batch_size=-1)
