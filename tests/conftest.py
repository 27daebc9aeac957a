"""Fixtures that several test files share."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill import cli
from distill.config import DataConfig, ModelConfig, ViewsConfig
from distill.data.workspace import Workspace
from distill.progress import Progress

if TYPE_CHECKING:
    from torch.nn import Module

    from distill.config import RunConfig
    from distill.data.prepare import ImageData
    from distill.data.store import Split
    from distill.models.classifier import Classifier
    from distill.pipeline.experiment import Experiment

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_PRESET = """
random_forest.trees = 5
haar = "off"
[plan]
minutes = 20
sizes = [16, 32, 64]
teachers = 2
teacher = { steps = 6, epochs = [1, 3] }
student = { steps = 8, epochs = [2, 4] }
[export]
targets = ["onnx_fp32"]
[bench]
batch_sizes = [1]
seconds = 0.02
engines = ["onnxruntime"]
[teacher]
train.lr = 1e-3
[[teachers]]
name = "small"
model = { name = "baseline_cnn", options = { width = [8, 8], hidden = 8 } }
[[teachers]]
name = "smaller"
model = { name = "baseline_cnn", options = { width = [4, 4], hidden = 4 } }
[[teachers]]
name = "third"
model = { name = "baseline_cnn", options = { width = [4, 4], hidden = 4 } }
[student]
name = "student"
model = { name = "compact", options = { width = [16, 64], depth = [1, 1], head_width = 0 } }
strategy.name = "vanilla"
"""


@pytest.fixture(scope="session", autouse=True)
def _timed_in_passing() -> Iterator[None]:
    """Networks are timed before they train, which is not what most tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.planner.pace.SECONDS", 0.0)
        patch.setattr("distill.planner.pace.BRIEFLY", 0.0)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images beside the checkout; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is missing")
    return folder


@pytest.fixture
def cached_squeezenet(tmp_path_factory, monkeypatch) -> Module:
    """SqueezeNet 1.1 of random weights, which torch's cache has as after a download."""
    import torch
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    folder = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = Path(SqueezeNet1_1_Weights.DEFAULT.url).name
    torch.manual_seed(3)
    network = squeezenet1_1(weights=None)
    torch.save(network.state_dict(), folder / name)
    monkeypatch.setenv("TORCH_HOME", str(folder.parents[1]))
    return network


@pytest.fixture
def write_images() -> Callable[..., Path]:
    """Writes one small JPEG of noise per name below a folder."""

    def write(root: Path, names: Iterable[str], size: tuple[int, int] = (20, 16)) -> Path:
        rng = np.random.default_rng(0)
        for name in names:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, format="JPEG")
        return root

    return write


@pytest.fixture
def image_folder(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    """Two classes of eight images each, without splits."""
    names = [f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(8)]
    return write_images(tmp_path / "images", names)


@pytest.fixture
def no_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing decodes HEIC."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])


@pytest.fixture
def phone_folder(image_folder: Path) -> Path:
    """The image folder with three HEIC files in it, one of them named in capitals."""
    for name in ("cat/a.heic", "cat/b.heif", "dog/C.HEIC"):
        shutil.copy(REPOSITORY / "tests" / "fixtures" / "halves.heic", image_folder / name)
    return image_folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of painted faces as PNG, and one file that is no picture."""
    from distill.data.demo import CLASSES, paint

    root = tmp_path_factory.mktemp("photos")
    for index in range(90):
        pixels, label = paint(index)
        folder = root / CLASSES[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((40, 48)).save(folder / f"{index}.png")
    (root / CLASSES[0] / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """90 painted faces of 32 px, decoded once for all tests: read them, change nothing."""
    from distill.data.prepare import prepare_data

    cache, quiet = tmp_path_factory.mktemp("cache"), Progress(quiet=True)
    return prepare_data(
        "demo:90", DataConfig(size=32), ViewsConfig(), 0, Workspace(cache, 1, quiet)
    )


@pytest.fixture(scope="session")
def skewed(data: ImageData) -> ImageData:
    """The painted faces with 22, 11 and 3 training images of the classes."""
    from distill.data.store import subset

    labels = data.train.labels
    rows = [np.flatnonzero(labels == label)[:most] for label, most in enumerate((22, 11, 3))]
    train = subset(data.train, np.sort(np.concatenate(rows)))
    return replace(data, splits={**data.splits, "train": train})


@pytest.fixture(scope="session")
def multi_data(data: ImageData) -> ImageData:
    """The painted faces, labelled by what is on them: a mask, chin or nose bare, a bright image.

    Some have none of these.
    """

    def several(split: Split) -> Split:
        bright = split.pixels.mean(axis=(1, 2, 3)) > 110
        labels = np.stack([split.labels < 2, split.labels == 1, bright], axis=1)
        return replace(split, labels=labels.astype(np.int64))

    splits = {name: several(split) for name, split in data.splits.items()}
    return replace(data, splits=splits, classes=("mask", "wrong", "bright"), task="multi")


@pytest.fixture(scope="session")
def write_colour_model() -> Callable[..., Path]:
    """Writes a model of 2 x 2 px that knows full red and full green, whatever was trained.

    `prob` and `embedding` are the mean of either, `cam` the pixels. Outputs may be left out, and
    metadata changed.
    """
    import onnx
    from onnx import TensorProto, helper

    from distill.scoring.outliers import Outliers

    shapes = {"prob": ["batch", 2], "cam": ["batch", 2, 2, 2], "embedding": ["batch", 2]}
    known = np.tile(np.eye(2), (40, 1))
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["planes", "both"], ["cam"], axis=1),
        helper.make_node("ReduceMean", ["cam", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Identity", ["embedding"], ["prob"]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("both", TensorProto.INT64, [2], [0, 1]),
    ]

    def write(file: Path, outputs: Iterable[str] = tuple(shapes), **changes: Any) -> Path:
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 2, 3])
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in outputs]
        graph = helper.make_graph(nodes, "mean", [image], ends, constants)
        opset = helper.make_opsetid("", 18)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        metadata = {
            "names": ["red", "green"],
            "task": "single",
            "thresholds": {},
            "input_spec": {"height": 2, "width": 2, "resize": "squash"},
            "outliers": Outliers.fit(known, known).to_json(),
            **changes,
        }
        helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
        onnx.save(model, file)
        return file

    return write


@pytest.fixture(scope="session")
def make_experiment() -> Callable[..., Experiment]:
    """Makes a teacher and a student as if they had been trained, on data that needs no decoding.

    The images are plain colours with noise, 16 px, 40 / 60 / 30 of them, labelled by the channels
    above the middle or by the highest one. Nothing but the fp32 file is exported by default.
    """
    import torch

    from distill.config import DataConfig, ExportConfig, ModelConfig, Recipe, RunConfig
    from distill.data.decode import InputSpec
    from distill.data.prepare import ImageData
    from distill.data.store import Split
    from distill.pipeline.experiment import Experiment

    names, spec = ("red", "green", "blue"), InputSpec(height=16, width=16, resize="squash")
    options = {"width": [8], "depth": [1], "head_width": 0}
    small = ModelConfig(name="compact", options=options)

    def split(name: str, count: int, task: str, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        colours = rng.integers(40, 216, (count, 1, 1, 3))
        noise = rng.integers(-40, 40, (count, 16, 16, 3))
        means = colours[:, 0, 0]
        labels = (means > 128).astype(np.int64) if task == "multi" else means.argmax(axis=1)
        files = tuple(f"{name}/{index}.png" for index in range(count))
        return Split(name, (colours + noise).astype(np.uint8), labels, files)

    def make(out: Path, task: str, model: ModelConfig = small, **export: Any) -> Experiment:
        runs = {name: RunConfig(name=name, model=model) for name in ("teacher", "student")}
        recipe = Recipe(
            data=DataConfig(size=16, task=task),
            teachers=(runs["teacher"],),
            students=(runs["student"],),
            random_forest={"trees": 5, "size": 4},
            haar="off",
            export=ExportConfig(**{"targets": (), **export}),
        )
        quiet = Progress(quiet=True)
        experiment = Experiment(recipe, "made up", out, torch.device("cpu"), progress=quiet)
        counts = {"train": 40, "val": 60, "test": 30}
        splits = {n: split(n, count, task, seed) for seed, (n, count) in enumerate(counts.items())}
        data = ImageData("made up", names, spec, splits, (), "0" * 64, task)
        experiment.__dict__["data"] = data
        for seed, config in enumerate(runs.values()):
            keep_as_trained(experiment, config, seed)
        return experiment

    return make


def keep_as_trained(experiment: Experiment, config: RunConfig, seed: int) -> None:
    """Writes a run directory, of a network whose head alone was fitted."""
    import torch

    from distill.files import append_line, files_below, write_json, write_manifest
    from distill.models.classifier import build_classifier
    from distill.models.inference import predict_logits
    from distill.scoring.metrics import score
    from distill.scoring.tasks import task_of
    from distill.training.run_directory import save_weights
    from distill.training.selection import validation_row

    data = experiment.data
    torch.manual_seed(seed)
    classifier = build_classifier(config.model, data.classes, data.spec, task=data.task).eval()
    fit_head(classifier, data.train)
    folder = experiment.folder(config.name)
    write_json(folder / "config.json", {"run": config.model_dump(mode="json")})
    write_json(folder / "contract.json", classifier.contract.model_dump(mode="json"))
    save_weights(classifier, folder / "best.safetensors")
    probs = task_of(data.task).probabilities(
        predict_logits(classifier, data.val, experiment.device)
    )
    found = score(probs, data.val.labels, data.classes)
    append_line(folder / "metrics.jsonl", validation_row(found, data.task))
    write_manifest(folder, files_below(folder))


def fit_head(classifier: Classifier, split: Split) -> None:
    """A head on random features, by least squares: better than chance, far from perfect."""
    import torch

    images = torch.tensor(split.pixels).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor(split.labels)
    targets = (labels if labels.ndim == 2 else torch.eye(3)[labels]).float() * 4 - 2
    head = classifier.network.classifier
    with torch.no_grad():
        normalised = (images - classifier.mean) / classifier.std
        features = classifier.network.forward_features(normalised).mean(dim=(2, 3))
        padded = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        solution = torch.linalg.lstsq(padded, targets, driver="gelsd").solution
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])


@pytest.fixture(scope="session")
def ship_briefly() -> Callable[..., tuple[Path, NDArray[np.uint8], Classifier]]:
    """Trains a small student for seconds and exports it.

    Returns its fp32 file, the training images that it has learned, and the classifier. The number
    of steps may be given, what is done to it before it is exported, and another shape.
    """
    import torch

    from distill.data.views.images import TrainingImages
    from distill.export.onnx_fp32 import export_onnx
    from distill.models.classifier import build_classifier

    options = {"width": [16, 32], "depth": [1, 2], "head_width": 64}

    def ship(
        data: ImageData,
        folder: Path,
        steps: int = 20,
        change: Callable[[Classifier], None] = lambda _: None,
        **shape: Any,
    ) -> tuple[Path, NDArray[np.uint8], Classifier]:
        model = ModelConfig(name="compact", options={**options, **shape})
        torch.manual_seed(0)
        classifier = build_classifier(model, data.classes, data.spec, task=data.task).train()
        images = TrainingImages((data.train,), data.classes, ViewsConfig(), 0, data.spec.height)
        views = images.view(np.arange(len(images)), 0, torch.device("cpu"))
        labels, several = torch.tensor(data.train.labels), data.task == "multi"
        loss = torch.nn.BCEWithLogitsLoss() if several else torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(classifier.parameters(), 1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(classifier(views).logits, labels.float() if several else labels).backward()
            optimizer.step()
        change(classifier.eval())
        metadata = {"names": list(data.classes), "task": data.task, "thresholds": {}}
        metadata |= {"input_spec": data.spec.model_dump(), "mean": classifier.contract.mean}
        metadata |= {"metrics": {}, "precision": "fp32", "license": "MIT", "producer": "test"}
        file = folder / "student.fp32.onnx"
        export_onnx(classifier, file, metadata, data.test.pixels)
        pixels = views.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return file, pixels, classifier

    return ship


@pytest.fixture(scope="session")
def only() -> Callable[..., ViewsConfig]:
    """Options of the views that change nothing but what is named."""
    nothing: dict[str, Any] = {
        "margin": 0.0,
        "crop_scale": (1.0, 1.0),
        "crop_ratio": (1.0, 1.0),
        "flip": 0.0,
        "rotate_degrees": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "erase": 0.0,
    }
    return lambda **options: ViewsConfig(**{**nothing, **options})


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped file of one convolution: 24 x 32 pixels to three classes."""
    onnx = pytest.importorskip("onnx")
    helper, kind, rng = onnx.helper, onnx.TensorProto, np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=kind.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["prob"], axis=1),
    ]
    weights = {"w": (4, 3, 3, 3), "b": (4,), "w2": (4, 3), "b2": (3,)}
    scaled = {name: rng.normal(0, 0.02, shape) for name, shape in weights.items()}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", kind.UINT8, ["batch", 24, 32, 3])],
        [helper.make_tensor_value_info("prob", kind.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), n) for n, value in scaled.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {
        "names": ["red", "green", "blue"],
        "task": "single",
        "input_spec": {"height": 24, "width": 32, "resize": "squash"},
        "thresholds": {},
        "precision": "fp32",
        "metrics": {"split": "val", "top1": 87.5},
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    path = tmp_path_factory.mktemp("tiny") / "tiny.fp32.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def portrait(real_data: Path) -> Image.Image:
    """A photograph of 160 x 160 px with one bare face, of nobody who exists."""
    file = real_data / "masktype5" / "none" / "part1_AI-thispersondoesnotexist.jpg"
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="session")
def colours_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped file of 2 x 2 px whose probabilities are the mean red, green and blue, over 255."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    image = helper.make_tensor_value_info("image", kind.UINT8, ["batch", 2, 2, 3])
    prob = helper.make_tensor_value_info("prob", kind.FLOAT, ["batch", 3])
    scale = helper.make_tensor("scale", kind.FLOAT, [], [1 / 255])
    axes = helper.make_tensor("axes", kind.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=kind.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "axes"], ["prob"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "mean", [image], [prob], [scale, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {
        "names": ["red", "green", "blue"],
        "task": "single",
        "thresholds": {},
        "input_spec": {"height": 2, "width": 2, "resize": "squash"},
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    path = tmp_path_factory.mktemp("colours") / "colours.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def distill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; returns exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def fit_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains as `fit` does, on the CPU, and is stopped at the beginning of an epoch."""
    import torch

    from distill.errors import RunStopped
    from distill.training import fit as loop

    def run(classifier: Classifier, job: Any, epoch: int) -> None:
        begin = loop.Trainer.begin_epoch

        def stops(self: Any, number: int) -> None:
            if number == epoch:
                raise RunStopped("stopped", "here")
            begin(self, number)

        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "begin_epoch", stops)
            with pytest.raises(RunStopped):
                loop.fit(classifier, job, torch.device("cpu"), Progress(quiet=True))

    return run


@pytest.fixture
def tiny_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of networks that train in no time takes the place of the shipped ones."""
    folder = tmp_path / "presets"
    folder.mkdir()
    for name in ("fast", "balanced", "accurate"):
        (folder / f"{name}.toml").write_text(TINY_PRESET)
    monkeypatch.setattr("distill.planner.preset._folder", lambda: folder)
    monkeypatch.setattr("distill.planner.pace.SECONDS", 0.05)


@pytest.fixture(scope="session")
def packages(repository) -> Path:
    """What npm installed."""
    folder = repository / "build" / "browser" / "node_modules"
    if not folder.is_dir():
        pytest.skip("no packages of npm: run `make browser`")
    return folder


@pytest.fixture(scope="session")
def serve_folder() -> Callable[[Path], AbstractContextManager[str]]:
    """Serves a folder, files of which other origins may load, and gives its address."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Access-Control-Allow-Origin", "*")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    @contextmanager
    def serve(folder: Path) -> Iterator[str]:
        handler = functools.partial(Handler, directory=str(folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()
            thread.join()

    return serve


@pytest.fixture
def page() -> Iterator[object]:
    """An empty page of Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()
