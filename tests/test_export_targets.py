"""The contract of an export target, held over the folder, and what each promises besides."""

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image

from distill.config import ExportConfig, ModelConfig
from distill.data.decode import InputSpec, to_pixels
from distill.errors import RunStopped, UserError, install_command
from distill.export import Target, make_targets, onnx_fp16, web_runtime
from distill.export.int8.integers import kernels
from distill.export.onnx_file import in_batches, probs_of_file
from distill.export.parity import compare_probs
from distill.export.pixel_values import normalise, normalising_tensors
from distill.files import (
    files_below,
    is_complete,
    read_json,
    sha256_of,
    verify_manifest,
    write_json,
)
from distill.models.classifier import build_classifier
from distill.pipeline import export as stage
from distill.pipeline.experiment import Experiment
from distill.pipeline.export import export_student
from distill.progress import Progress
from distill.registry import find_module, names_in
from distill.runtime.page import ASSETS, describe_model, index_page
from distill.runtime.predict import Predictor
from distill.runtime.session import metadata_of, open_session
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of

NAMES = names_in("export", "Target")
WIDE = ModelConfig(name="compact", options={"width": [32, 64], "depth": [1, 1], "head_width": 0})
KEPT = f"{web_runtime.PACKAGE}-{web_runtime.VERSION}"
OFFLINE = {"name": "web", "offline": True}
WRITES = [name for name in NAMES if name != "openvino"]
FLOAT = [name for name in WRITES if name not in ("onnx_int8", "onnx_fp16", "web")]


@pytest.fixture(scope="module", autouse=True)
def release(tmp_path_factory) -> Iterator[Path]:
    """A tarball that stands for npm's onnxruntime-web, and its files as if fetched before."""
    folder = tmp_path_factory.mktemp("npm")
    lists = {kind: getattr(web_runtime, kind) for kind in ("FILES", "WEBGPU_FILES")}
    contents = {name: f"this is {name}".encode() for names in lists.values() for name in names}
    tarball = folder / "release.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLATE_HOME", str(folder / "home"))
        for kind, names in lists.items():
            hashes = {name: hashlib.sha256(contents[name]).hexdigest() for name in names}
            patch.setattr(web_runtime, kind, hashes)
        patch.setattr(web_runtime, "INTEGRITY", f"sha512-{digest}")
        patch.setattr(web_runtime, "TARBALL", tarball.as_uri())
        web_runtime.unpack(tarball.read_bytes(), folder / "home" / KEPT)
        yield tarball


@pytest.fixture(params=["npm", "https"])
def npm(request, release, tmp_path, monkeypatch) -> Path:
    """A tarball that is fetched by npm or without it, into a home that has nothing yet."""
    tarball, tools = tmp_path / "served.tgz", tmp_path / "bin"
    shutil.copyfile(release, tarball)
    tools.mkdir()
    if request.param == "npm":
        script = tools / "npm"
        pack = f'[ "$1 $2" = "pack {web_runtime.PACKAGE}@{web_runtime.VERSION}" ]'
        script.write_text(f"#!/bin/sh\n{pack} && /bin/cp {tarball} ./{KEPT}.tgz\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("DISTILLATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(web_runtime, "TARBALL", tarball.as_uri())
    return tarball


@pytest.fixture(scope="module")
def available() -> tuple[str, ...]:
    """Targets that can be made with what is installed."""
    found = []
    for name in NAMES:
        try:
            find_module("export", name, "here", "Target").Target().check()
        except UserError:
            continue
        found.append(name)
    return tuple(found)


@pytest.fixture(scope="module")
def exporter(make_experiment, available) -> Callable[..., Experiment]:
    """Exports everything that can be."""

    def export(out: Path, task: str = "single", **options) -> Experiment:
        given = {"targets": available, "int8_max_drop": 100.0, "license": "MIT", **options}
        experiment = make_experiment(out, task, model=WIDE, **given)
        export_student(experiment)
        return experiment

    return export


@pytest.fixture(scope="module")
def single(tmp_path_factory, exporter) -> Experiment:
    return exporter(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def again(tmp_path_factory, exporter) -> Experiment:
    """The same in another folder."""
    return exporter(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def multi(tmp_path_factory, exporter) -> Experiment:
    return exporter(tmp_path_factory.mktemp("multi"), "multi")


@pytest.fixture(params=["single", "multi"])
def exported(request) -> Experiment:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(single, make_experiment, tmp_path, available) -> Experiment:
    """A copy of what was exported, to be changed."""
    options = {"targets": available, "int8_max_drop": 100.0, "license": "MIT"}
    experiment = make_experiment(tmp_path / "copy", "single", model=WIDE, **options)
    shutil.copytree(single.out / "export", experiment.out / "export")
    return experiment


def record_of(experiment: Experiment, name: str) -> dict:
    record = read_json(experiment.out / "export" / "export.json")
    if name not in record["targets"]:
        pytest.skip(f"{name} needs a package that is not installed")
    return record["targets"][name]


def files_of(experiment: Experiment, name: str) -> list[Path]:
    return [experiment.out / "export" / path for path in record_of(experiment, name)["files"]]


def test_the_folder_has_these_targets() -> None:
    expected = {
        "onnx_fp32",
        "onnx_fp16",
        "onnx_int8",
        "torchscript",
        "openvino",
        "triton",
        "hub",
        "web",
    }
    assert expected <= set(NAMES)
    assert not {"golden", "graph", "qdq", "stage", "shipment", "parity"} & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_says_what_it_found_on_the_whole_validation_split(name, exported) -> None:
    made = record_of(exported, name)
    scored = [row for row in made["files"].values() if "agreement" in row]
    scored += list(made.get("ran", {}).values())
    assert scored
    main = "map" if exported.data.task == "multi" else "top1"
    for row in scored:
        assert (row["split"], row["n"]) == ("val", 60)
        assert 0 < row[main] <= 100
        assert 0 < row[f"reference_{main}"] <= 100
    for path, row in made["files"].items():
        file = exported.out / "export" / path
        assert (row["size_bytes"], row["sha256"]) == (file.stat().st_size, sha256_of(file))


@pytest.mark.parametrize("name", FLOAT)
def test_float_files_give_the_probabilities_of_torch(name, exported) -> None:
    made = record_of(exported, name)
    row = next(row for row in made["files"].values() if "agreement" in row)
    assert row["agreement"] == 100.0
    assert row["max_prob_difference"] < 1e-5
    paths = {made.get("path"), *(row.get("path") for row in made["files"].values())}
    assert paths - {None}


@pytest.mark.parametrize("name", WRITES)
def test_no_file_tells_of_this_machine(name, exported) -> None:
    traces = [str(exported.out), str(Path.cwd()), "site-packages", str(Path.home()) + "/"]
    for file in files_of(exported, name):
        raw = file.read_bytes()
        assert not [trace for trace in traces if trace.encode() in raw], file


@pytest.mark.parametrize("name", NAMES)
def test_onnx_files_stand_alone_and_take_any_batch(name, exported) -> None:
    for file in files_of(exported, name):
        if file.suffix != ".onnx":
            continue
        model = onnx.load(file)
        assert model.ir_version <= 10
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 18)}
        assert not any(tensor.data_location for tensor in model.graph.initializer)
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert metadata["names"] == list(exported.data.classes)
        assert (metadata["task"], metadata["license"]) == (exported.data.task, "MIT")
        assert metadata["precision"] in ("fp32", "fp16", "int8")


def test_a_file_says_in_words_whether_its_ends_are_inside(exported) -> None:
    """Readers saw `mean` and `std` in the metadata and normalised a second time."""
    activation = "Softmax" if exported.data.task == "single" else "Sigmoid"
    files = [
        file for name in ("onnx_fp32", "onnx_int8", "hub") for file in files_of(exported, name)
    ]
    for file in (file for file in files if file.suffix == ".onnx"):
        inside = activation in {node.op_type for node in onnx.load(file).graph.node}
        description = metadata_of(open_session(file))["description"]
        assert description.startswith("uint8" if inside else "float32")
        where = "inside" if inside else "outside"
        assert f"normalisation and {activation.lower()} are {where}" in description
    config = read_json(exported.out / "export" / "hub" / "config.json")["distillate"]
    assert "description" not in config  # it is of a file, not of the weights


def test_all_runtimes_are_given_batches_of_1_2_5_and_64() -> None:
    """However few images there are: 3 here, repeated until all sizes had their turn."""
    pixels, sizes = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1), []

    def answer(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch[:, 0, 0].astype(np.float32)

    np.testing.assert_array_equal(in_batches(answer, pixels)[:, 0], [0, 1, 2])
    assert sizes == [1, 2, 5, 64]


@pytest.mark.parametrize("name", WRITES)
def test_the_same_student_gives_the_same_files(name, single, again) -> None:
    for one, other in zip(files_of(single, name), files_of(again, name), strict=True):
        assert one.name == other.name
        if one.suffix == ".pt":  # torch numbers the types of a process: their names differ
            contents = [
                {n: archive.read(n) for n in archive.namelist() if "/constants/" in n}
                for archive in map(zipfile.ZipFile, (one, other))
            ]
            assert contents[0] == contents[1] != {}
        else:
            assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_leaves_nothing_behind_and_what_was_made_is_kept(
    name, copied, monkeypatch
) -> None:
    folder = copied.out / "export"
    record_of(copied, name)
    record = read_json(folder / "export.json")
    for path in record["targets"].pop(name)["files"]:
        (folder / path).unlink()
    write_json(folder / "export.json", record)
    before = files_below(folder)
    target = type(make_targets(copied.recipe.export)[name])
    make = target.make

    def failing(self: Target, *arguments) -> dict:
        make(self, *arguments)
        raise RunStopped("disagrees")

    with monkeypatch.context() as patch:
        patch.setattr(target, "make", failing)
        with pytest.raises(RunStopped, match="disagrees"):
            export_student(copied)
    assert files_below(folder) == before
    assert not list(folder.glob("*.tmp"))
    assert not is_complete(folder)
    packs = {n for n, one in make_targets(copied.recipe.export).items() if one.packs}
    kept = {
        file: (folder / file).stat().st_mtime_ns
        for key, made in record["targets"].items()
        if key not in packs
        for file in made["files"]
    }
    export_student(copied)
    verify_manifest(folder)
    assert set(read_json(folder / "export.json")["targets"]) == {name, *record["targets"]}
    assert kept == {file: (folder / file).stat().st_mtime_ns for file in kept}


def test_what_packs_other_files_is_made_again_when_they_change(copied) -> None:
    record = record_of(copied, "hub")
    assert "student.int8.onnx" in record["inputs"]
    folder = copied.out / "export"
    (folder / "student.int8.onnx").unlink()
    without = copied.recipe.export.model_copy(
        update={"targets": ExportConfig(targets=("hub",)).targets}
    )
    recipe = copied.recipe.model_copy(update={"export": without})
    changed = Experiment(recipe, copied.location, copied.out, copied.device)
    changed.__dict__["data"] = copied.data
    export_student(changed)
    hub = read_json(folder / "export.json")["targets"]["hub"]
    assert "student.int8.onnx" not in hub["inputs"]
    assert not (folder / "hub" / "onnx" / "model_quantized.onnx").exists()
    assert json.loads((folder / "hub" / "config.json").read_text())["transformers.js_config"] == {
        "dtype": "fp32"
    }


def test_a_name_that_is_no_target_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="unknown name 'onnx_fp8'") as caught:
        make_targets(ExportConfig(targets=("onnx_fp8",)))
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(UserError, match="unknown name 'golden'"):
        make_targets(ExportConfig(targets=("golden",)))
    with pytest.raises(UserError, match="max_batch_size"):
        make_targets(ExportConfig(targets=({"name": "triton", "batch": 8},)))
    with pytest.raises(ValueError, match="'hub' is there twice"):
        ExportConfig(targets=("hub", "triton", "hub"))


def test_the_reference_is_made_first_and_what_packs_others_last() -> None:
    targets = make_targets(ExportConfig(targets=("triton", "onnx_int8")))
    assert list(targets) == ["onnx_fp32", "onnx_int8", "triton"]
    default = make_targets(ExportConfig())
    assert list(default) == ["onnx_fp32", "onnx_fp16", "onnx_int8"]


def test_a_target_that_lacks_its_package_is_an_error_before_any_work(monkeypatch) -> None:
    module = find_module("export", "openvino", "here", "Target")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(install_command("openvino"))):
        make_targets(ExportConfig(targets=("openvino",)))


def test_openvino_answers_as_onnxruntime_does(exported) -> None:
    pytest.importorskip("openvino")
    ran = record_of(exported, "openvino")["ran"]
    assert list(ran) == ["student.fp32.onnx", "student.int8.onnx"]
    assert ran["student.fp32.onnx"]["agreement"] == 100.0


def test_layers_of_the_fp16_file_are_in_float16_and_its_ends_are_not(single) -> None:
    model = onnx.load(single.out / "export" / "student.fp16.onnx")
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    by_op = {node.op_type: kinds[node.output[0]] for node in graph.node}
    assert (by_op["Conv"], by_op["Gemm"]) == (TensorProto.FLOAT16, TensorProto.FLOAT16)
    for op in ("Mul", "Add", "Softmax"):
        assert by_op[op] == TensorProto.FLOAT
    # uint8 to float, float to float16 before the first layer, and back for each of three outputs.
    assert [node.op_type for node in graph.node].count("Cast") == 5
    image, prob = model.graph.input[0], model.graph.output[0]
    elements = [value.type.tensor_type.elem_type for value in (image, prob)]
    assert elements == [TensorProto.UINT8, TensorProto.FLOAT]
    assert Predictor(single.out / "export" / "student.fp16.onnx").metadata["precision"] == "fp16"
    assert record_of(single, "onnx_fp16")["for"] == "GPUs"


def test_an_fp16_file_says_its_own_scores(single) -> None:
    half, whole = (
        Predictor(single.out / "export" / f"student.{precision}.onnx")
        for precision in ("fp16", "fp32")
    )
    val, said = single.data.val, half.metadata["metrics"]
    own = score(half.probs(val.pixels), val.labels, half.names, half.tuned)
    assert said["nll"] == pytest.approx(own["nll"], abs=1e-6)
    assert said["nll"] != pytest.approx(whole.metadata["metrics"]["nll"], abs=1e-6)


def test_an_fp16_file_that_would_overflow_is_not_published(
    make_experiment, tmp_path, monkeypatch
) -> None:
    """A CPU computes it in float32, where nothing overflows: the values are looked at."""
    experiment = make_experiment(tmp_path, "single", model=WIDE, targets=("onnx_fp16",))
    monkeypatch.setattr(onnx_fp16, "LARGEST", 1.0)
    export_student(experiment)
    made = record_of(experiment, "onnx_fp16")
    assert made["files"] == {}
    assert "activations reach" in made["refused"]
    assert made["tried"][0]["path"] == made["path"] == "onnxruntime.transformers.float16"
    assert not (tmp_path / "export" / "student.fp16.onnx").exists()
    assert is_complete(tmp_path / "export")


def test_what_cannot_be_converted_to_fp16_does_not_stop_the_export(
    make_experiment, tmp_path, monkeypatch
) -> None:
    def broken(model: onnx.ModelProto) -> onnx.ModelProto:
        raise TypeError("unknown operator\nin a graph")

    experiment = make_experiment(tmp_path, "single", model=WIDE, targets=("onnx_fp16",))
    monkeypatch.setattr(onnx_fp16, "to_float16", broken)
    export_student(experiment)
    made = record_of(experiment, "onnx_fp16")
    assert made["refused"] == "cannot be converted: unknown operator"
    assert (made["files"], is_complete(tmp_path / "export")) == ({}, True)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("compact", "legacy"),  # shares weights between layers
        ("timm/lcnet_035", "dynamo"),  # asks the image for the size of the batch
        ("torchvision/squeezenet1_1", "dynamo-unoptimized"),
        ("baseline_cnn", "auto"),  # has no activation map
    ],
)
def test_other_networks_and_exporters_give_the_same_in_every_form(name, path, tmp_path) -> None:
    from distill.export.hub import probs_of_logits, write_pixel_values
    from distill.export.onnx_fp32 import export_onnx
    from distill.export.shipped_graph import ShippedGraph
    from distill.export.torchscript import probs_of_torchscript, write_torchscript

    torch.manual_seed(0)
    spec = InputSpec(height=64, width=64)
    classifier = build_classifier(ModelConfig(name=name), ("a", "b", "c"), spec).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    contract = classifier.contract
    metadata = {"names": list(contract.names), "task": "single", "thresholds": {}}
    metadata |= {"mean": contract.mean, "std": contract.std, "input_spec": spec.model_dump()}
    metadata |= dict.fromkeys(("producer", "data_sha256", "license"), "")
    file = tmp_path / "m.onnx"
    export_onnx(classifier, file, metadata, pixels, path)
    expected = probs_of_file(file, pixels)
    onnx.save(onnx_fp16.to_float16(onnx.load(file)), tmp_path / "half.onnx")
    np.testing.assert_allclose(probs_of_file(tmp_path / "half.onnx", pixels), expected, atol=5e-3)
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * file.stat().st_size
    write_pixel_values(file, tmp_path / "values.onnx", metadata, "fp32")
    found = probs_of_logits(tmp_path / "values.onnx", pixels, metadata)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    write_torchscript(ShippedGraph(classifier).eval(), tmp_path / "m.pt", metadata)
    found = probs_of_torchscript(tmp_path / "m.pt", pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_largest_activation_is_that_of_the_layers(single) -> None:
    file, pixels = single.out / "export" / "student.fp32.onnx", single.data.val.pixels
    found = onnx_fp16.largest_activation(file, pixels)
    model = onnx.load(file)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    kernel, *bias = (torch.tensor(weights[name]) for name in first.input[1:])
    images = torch.tensor(normalise(pixels, Predictor(file).metadata))
    strides = next(a.ints for a in first.attribute if a.name == "strides")
    convolved = torch.nn.functional.conv2d(images, kernel, *(bias or [None]), tuple(strides), 1)
    assert found >= float(convolved.abs().max()) * (1 - 1e-5)
    (row,) = record_of(single, "onnx_fp16")["files"].values()
    assert row["largest_activation"] == pytest.approx(found)
    assert found < 255  # of the layers, not of the pixels


def test_torchscript_gives_all_outputs_and_carries_the_metadata(exported) -> None:
    folder, pixels = exported.out / "export", exported.data.test.pixels
    extra = {"metadata.json": ""}
    loaded = torch.jit.load(str(folder / "student.torchscript.pt"), _extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    reference = Predictor(folder / "student.fp32.onnx")
    same = {"names", "task", "input_spec", "thresholds", "metrics", "data_sha256"}
    assert {key: metadata[key] for key in same} == {key: reference.metadata[key] for key in same}
    assert metadata["format"] == "torchscript"
    for size in (1, 2, 5, 64):
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        prob, cam, embedding = (output.numpy() for output in loaded(torch.tensor(batch)))
        expected = reference.session.run(["prob", "cam", "embedding"], {"image": batch})
        np.testing.assert_allclose(prob, expected[0], atol=1e-5)
        np.testing.assert_allclose(cam, expected[1], atol=1e-4)
        np.testing.assert_allclose(embedding, expected[2], atol=1e-4)


def test_the_embedding_is_what_torch_pools(single) -> None:
    pixels = single.data.test.pixels
    answers = Predictor(single.out / "export" / "student.fp32.onnx").answers(pixels, "embedding")
    classifier = single.finished("student").load().eval()
    images = torch.tensor(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        normalised = (images - classifier.mean) / classifier.std
        features = classifier.network.forward_features(normalised)
    np.testing.assert_allclose(answers.embeddings, features.mean(dim=(2, 3)), atol=1e-4)


def test_every_precision_has_statistics_of_its_own_and_tells_stripes(single) -> None:
    stripes = np.zeros((4, 16, 16, 3), np.uint8)
    stripes[:, :, ::2] = 255
    told = {}
    for precision in ("fp32", "fp16", "int8"):
        predictor = Predictor(single.out / "export" / f"student.{precision}.onnx")
        assert all(p.outlier for p in predictor.predict(stripes))
        # The threshold is the farthest of 60.
        assert not any(p.outlier for p in predictor.predict(single.data.val.pixels))
        told[precision] = predictor.outliers
        assert (told[precision].train, told[precision].val) == (40, 60)
    assert told["int8"].mean != told["fp32"].mean


def test_an_embedding_changes_nothing_of_the_integers(single, tmp_path) -> None:
    """An output between Q/DQ nodes that the quantiser knows of is rounded, by a node more."""
    file = single.out / "export" / "student.int8.onnx"
    model = onnx.load(file)
    assert [output.name for output in model.graph.output] == ["prob", "cam", "embedding"]
    del model.graph.output[2]
    without = tmp_path / "without.onnx"
    onnx.save(model, without)
    assert kernels(file, tmp_path) == kernels(without, tmp_path)
    (reduced,) = (node for node in model.graph.node if "embedding" in node.output)
    assert reduced.op_type == "ReduceMean"
    image = {"image": single.data.test.pixels}
    expected = open_session(without).run(["prob"], image)[0]
    np.testing.assert_array_equal(open_session(file).run(["prob"], image)[0], expected)


def parse_pbtxt(text: str) -> dict[str, list]:
    """Protobuf text as fields with their values; anything that is not well-formed raises."""
    import re

    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[A-Za-z_]\w*|-?\d+', text)
    assert re.sub(r"\s", "", text) == re.sub(r"\s", "", "".join(tokens))
    position = 0

    def take(*allowed: str) -> str:
        nonlocal position
        token = tokens[position]
        assert not allowed or token in allowed, f"{token} where {allowed} may stand"
        position += 1
        return token

    def value() -> object:
        token = take()
        if token == "{":
            return fields("}")
        if token == "[":
            items = [value()]
            while take(",", "]") == ",":
                items.append(value())
            return items
        if token.startswith('"'):
            return json.loads(token)
        return int(token) if token.lstrip("-").isdigit() else token

    def fields(end: str | None) -> dict[str, list]:
        found: dict[str, list] = {}
        while position < len(tokens) and tokens[position] != end:
            name = take()
            assert name.isidentifier()
            if tokens[position] == ":":
                take(":")
            else:
                assert tokens[position] in "[{"
            given = value()
            found.setdefault(name, []).extend(given if isinstance(given, list) else [given])
        if end:
            take(end)
        return found

    return fields(None)


def test_the_triton_repository_is_laid_out_and_described(exported) -> None:
    folder = exported.out / "export" / "triton" / "student"
    assert files_below(folder) == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    found = parse_pbtxt((folder / "config.pbtxt").read_text())
    assert found == {
        "name": ["student"],
        "backend": ["onnxruntime"],
        "max_batch_size": [64],
        "input": [{"name": ["image"], "data_type": ["TYPE_UINT8"], "dims": [16, 16, 3]}],
        "output": [
            {
                "name": ["prob"],
                "data_type": ["TYPE_FP32"],
                "dims": [3],
                "label_filename": ["labels.txt"],
            },
            {"name": ["cam"], "data_type": ["TYPE_FP32"], "dims": [3, 4, 4]},
            {"name": ["embedding"], "data_type": ["TYPE_FP32"], "dims": [64]},
        ],
        "dynamic_batching": [{"max_queue_delay_microseconds": [100]}],
    }
    assert (folder / "labels.txt").read_text().split() == list(exported.data.classes)
    assert Predictor(folder / "1" / "model.onnx").names == exported.data.classes


def test_the_server_own_messages_take_its_description(single) -> None:
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    file = single.out / "export" / "triton" / "student" / "config.pbtxt"
    found = text_format.Parse(file.read_text(), messages.ModelConfig())
    assert (found.name, found.max_batch_size) == ("student", 64)
    assert found.output[0].label_filename == "labels.txt"
    assert found.HasField("dynamic_batching")


def test_triton_serves_the_precision_that_is_asked_for(make_experiment, tmp_path) -> None:
    options = {"name": "triton", "precision": "fp16", "model": "masks", "max_batch_size": 8}
    targets = (options, "onnx_fp16")
    experiment = make_experiment(tmp_path, "single", model=WIDE, targets=targets)
    export_student(experiment)
    top = tmp_path / "export" / "triton" / "masks"
    fp16 = tmp_path / "export" / "student.fp16.onnx"
    assert (top / "1" / "model.onnx").read_bytes() == fp16.read_bytes()
    assert parse_pbtxt((top / "config.pbtxt").read_text())["max_batch_size"] == [8]
    lacking = make_experiment(tmp_path / "other", "single", targets=({**options},))
    with pytest.raises(UserError, match=r"student\.fp16\.onnx"):
        export_student(lacking)
    assert not (tmp_path / "other" / "export" / "triton").exists()


def test_the_hub_folder_is_what_a_pipeline_of_theirs_reads(exported) -> None:
    hub, data = exported.out / "export" / "hub", exported.data
    config = json.loads((hub / "config.json").read_text())
    assert config["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert config["label2id"] == {"red": 0, "green": 1, "blue": 2}
    assert config["problem_type"] == f"{data.task}_label_classification"
    processor = json.loads((hub / "preprocessor_config.json").read_text())
    pixels = data.test.pixels
    values = (pixels * processor["rescale_factor"] - processor["image_mean"]) / np.array(
        processor["image_std"]
    )
    values = np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
    for name, ours in (("model", "fp32"), ("model_quantized", "int8")):
        from distill.runtime.session import open_session

        session = open_session(hub / "onnx" / f"{name}.onnx")
        (logits,) = session.run(["logits"], {"pixel_values": values})
        expected = Predictor(hub / f"student.{ours}.onnx").probs(pixels)
        np.testing.assert_allclose(task_of(data.task).probabilities(logits), expected, atol=1e-3)
        with pytest.raises(UserError, match="input_spec"):  # it does not pass for one of ours
            Predictor(hub / "onnx" / f"{name}.onnx")
    student = exported.folder("student") / "best.safetensors"
    assert (hub / "model.safetensors").read_bytes() == student.read_bytes()


def test_the_model_card_says_which_split_its_scores_are_of(exported) -> None:
    yaml = pytest.importorskip("yaml")
    text = (exported.out / "export" / "hub" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert (found["license"], found["pipeline_tag"]) == ("mit", "image-classification")
    assert found["labels"] == list(exported.data.classes)
    result = found["model-index"][0]["results"][0]
    main = "map" if exported.data.task == "multi" else "top1"
    metrics = Predictor(exported.out / "export" / "student.fp32.onnx").metadata["metrics"]
    assert result["dataset"]["split"] == "validation"
    assert result["metrics"][0]["value"] == pytest.approx(metrics[main] / 100)
    assert "60 images" in body
    folder = exported.out / "export"
    scores = [
        Predictor(folder / f"student.{precision}.onnx").metadata["metrics"][main]
        for precision in ("fp32", "int8")
    ]
    assert "| score | fp32 | int8 |" in body
    assert f"| {main} | {scores[0]:.4g} | {scores[1]:.4g} |" in body
    assert "SHA-256 `" + "0" * 64 in body


@pytest.mark.parametrize("int8", [True, False])
def test_the_page_has_the_published_file_and_golden_answers_of_it(
    int8, single, make_experiment, tmp_path
) -> None:
    experiment = single
    if not int8:
        targets = ({"name": "web", "runtime": "mine/"},)
        experiment = make_experiment(tmp_path, "single", model=WIDE, targets=targets)
        export_student(experiment)
    web = experiment.out / "export" / "web"
    published = web.parent / f"student.{'int8' if int8 else 'fp32'}.onnx"
    assert (web / "model.onnx").read_bytes() == published.read_bytes()
    predictor = Predictor(published)
    spec = read_json(web / "spec.json")
    assert spec["models"] == [describe_model(predictor, "student")]
    assert spec["models"][0]["input_spec"] == predictor.spec.model_dump()
    assert (spec["engine"], spec["devices"]) == ("browser", ["wasm"])
    assert spec["runtime"] == ("ort/" if int8 else "mine/")
    assert (web / "ort").exists() == int8
    golden = json.loads((web / "golden.json").read_text())
    assert len(golden) == 4
    for row in golden:
        picture, pixels = (
            Image.open(io.BytesIO(base64.b64decode(row[key].partition(",")[2])))
            for key in ("picture", "pixels")
        )
        np.testing.assert_array_equal(to_pixels(picture, predictor.spec), np.asarray(pixels))
        (found,) = predictor.predict(picture)
        assert list(found.probs.values()) == pytest.approx(row["prob"], abs=1e-5)
    assert (web / "index.html").read_text() == index_page(spec["runtime"])
    assert files_below(web / "page") == sorted(ASSETS)


def test_the_page_brings_its_runtime_along(npm, make_experiment, tmp_path) -> None:
    """It was loaded from a CDN: without a network the page said nothing but `Cannot start`."""
    targets = ({"name": "web", "webgpu": True},)
    experiment = make_experiment(tmp_path / "e", "single", targets=targets)
    export_student(experiment)
    web = experiment.out / "export" / "web"
    files = [*web_runtime.FILES, *web_runtime.WEBGPU_FILES]
    assert files_below(web / "ort") == sorted(files)
    for name in files:
        assert (web / "ort" / name).read_text() == f"this is {name}"
    assert read_json(web / "spec.json")["devices"] == ["wasm", "webgpu"]
    assert read_json(web / "spec.json")["runtime"] == "ort/"
    assert record_of(experiment, "web")["runtime"] == "ort/"
    npm.unlink()  # from now on nothing can be fetched, nor has to be
    assert [file.name for file in web_runtime.runtime_files()] == list(web_runtime.FILES)


def test_without_npm_the_page_loads_a_cdn_and_that_is_said(
    npm, make_experiment, tmp_path, monkeypatch
) -> None:
    npm.unlink()
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, line: said.append(line))
    experiment = make_experiment(tmp_path / "e", "single", targets=("web",))
    export_student(experiment)
    web = experiment.out / "export" / "web"
    assert read_json(web / "spec.json")["runtime"] == web_runtime.CDN
    assert record_of(experiment, "web")["runtime"] == web_runtime.CDN
    assert not (web / "ort").exists()
    (line,) = (line for line in said if web_runtime.CDN in line)
    for part in (*web_runtime.FILES, str(tmp_path / "home" / KEPT), "offline = true"):
        assert part in line


def test_offline_lists_the_missing_files_before_any_work(npm, make_experiment, tmp_path) -> None:
    npm.unlink()
    first, *others = web_runtime.FILES
    kept = tmp_path / "home" / KEPT
    kept.mkdir(parents=True)
    (kept / first).write_text(f"this is {first}")
    (kept / others[0]).write_text("of another release")
    experiment = make_experiment(tmp_path / "e", "single", targets=({**OFFLINE},))
    with pytest.raises(UserError, match="neither in") as caught:
        export_student(experiment)
    assert f"put {', '.join(others)} there" in str(caught.value)
    assert str(kept) in str(caught.value)
    assert not (tmp_path / "e" / "export").exists()
    for name in others:
        (kept / name).write_text(f"this is {name}")
    export_student(experiment)
    assert record_of(experiment, "web")["runtime"] == "ort/"
    ort = experiment.out / "export" / "web" / "ort"
    assert files_below(ort) == sorted(web_runtime.FILES)  # WebGPU's were not asked for


def test_another_release_is_not_taken_for_the_one_that_was_tried(npm, tmp_path) -> None:
    npm.write_bytes(npm.read_bytes() + b"more")
    with pytest.raises(UserError, match="other bytes came, sha512-"):
        web_runtime.runtime_files()
    assert files_below(tmp_path / "home") == []


def test_offline_does_not_go_with_an_address() -> None:
    with pytest.raises(UserError, match=r"runtime = 'https://example\.org/'"):
        make_targets(ExportConfig(targets=({**OFFLINE, "runtime": "https://example.org/"},)))
    target = make_targets(ExportConfig(targets=({**OFFLINE, "runtime": "mine/"},)))["web"]
    assert target.runtime == "mine/"


def test_their_processor_crops_where_ours_does() -> None:
    from distill.export.hub import preprocessor_config

    spec = {"height": 96, "width": 96, "resize": "shortest", "crop_pct": 0.875}
    metadata = {
        "input_spec": {**spec, "interpolation": "bicubic"},
        "mean": (0, 0, 0),
        "std": (1,) * 3,
    }
    found = preprocessor_config(metadata)
    # round(96 / 0.875) = 110
    assert found["size"] == {"shortest_edge": 110}
    assert (found["do_center_crop"], found["crop_size"]) == (True, {"height": 96, "width": 96})
    assert found["resample"] == 3  # Pillow's number of bicubic


def test_a_student_that_does_something_else_first_takes_pixel_values_too(
    make_experiment, tmp_path
) -> None:
    """It resizes, or normalises by its weights: after all training there was no folder."""
    folded = WIDE.model_copy(update={"options": {**WIDE.options, "stride": [4, 2]}})
    resizing = WIDE.model_copy(update={"input_size": 24})
    for name, model in (("folded", folded), ("resizing", resizing)):
        experiment = make_experiment(tmp_path / name, "single", model=model, targets=("hub",))
        export_student(experiment)
        export = experiment.out / "export"
        files = read_json(export / "export.json")["targets"]["hub"]["files"]
        found = files["hub/onnx/model.onnx"]
        assert found["agreement"] == 100.0
        assert found["max_prob_difference"] < 1e-6
        assert not normalising_tensors(onnx.load(export / "student.fp32.onnx").graph)


def test_what_is_not_a_number_agrees_with_nothing() -> None:
    expected = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    found = np.full_like(expected, np.nan)
    parity = compare_probs(found, expected)
    assert parity.max_prob_difference == pytest.approx(1.9)  # 0.9 - -1
    assert parity.agreement == 50.0  # the first class of both that are not there


def test_a_disagreement_names_the_path(single, monkeypatch) -> None:
    shipment, _ = stage.prepare(single, "student", True)
    probs = probs_of_file(shipment.fp32, single.data.val.pixels)
    with pytest.raises(RunStopped, match=r"torch\.jit\.trace gives other answers"):
        shipment.demand(np.roll(probs, 1, axis=1), "torch.jit.trace")
    assert shipment.demand(probs, "torch.jit.trace")["agreement"] == 100.0
