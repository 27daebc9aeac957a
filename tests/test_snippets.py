"""Programs in other languages, which have a shipped file and its metadata, against `Predictor`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from distill import Predictor

NAMES = ["red", 'grün "1"', "blue"]  # one that JSON has to escape


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Six of the model's size."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (6, 1, 1, 3))
    return np.clip(colours + rng.integers(-60, 61, (6, 24, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["single", "multi"])
def model(request, tiny_onnx, pictures, tmp_path_factory) -> Path:
    """A shipped file whose thresholds, of two of three classes, half of the pictures reach."""
    third, fourth = np.sort(Predictor(tiny_onnx).probs(pictures), axis=0)[2:4]
    middles = ((third + fourth) / 2).astype(float)
    made = onnx.load(tiny_onnx)
    metadata = {prop.key: json.loads(prop.value) for prop in made.metadata_props}
    thresholds = {NAMES[i]: float(middles[i]) for i in (0, 1)}
    metadata |= {"names": NAMES, "task": request.param, "thresholds": thresholds}
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx.helper.set_model_props(made, values)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(made, path)
    return path


def expected(model: Path, pictures: np.ndarray) -> list[dict[str, float]]:
    """Labels with their probabilities, per picture; none where the model abstains."""
    found = Predictor(model).predict(pictures)
    answers = [{label: one.probs[label] for label in one.labels} for one in found]
    assert len({tuple(answer) for answer in answers}) > 1  # or a constant would pass
    return answers


@pytest.mark.parametrize("resize", ["squash", "shortest"])
def test_python_answers_as_the_predictor(repository, model, resize, tmp_path):
    """Of files as cameras and programs leave them."""
    made = onnx.load(model)
    metadata = {prop.key: prop.value for prop in made.metadata_props}
    spec = json.loads(metadata["input_spec"]) | {
        "resize": resize,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    }
    onnx.helper.set_model_props(made, metadata | {"input_spec": json.dumps(spec)})
    onnx.save(made, tmp_path / "model.onnx")
    rng = np.random.default_rng(1)
    base = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    base.save(tmp_path / "turned.jpg", exif=exif)
    base.convert("L").save(tmp_path / "grey.png")
    base.quantize(8).save(tmp_path / "palette.gif")
    clear = base.copy()
    clear.putalpha(Image.linear_gradient("L").resize(base.size))
    clear.save(tmp_path / "clear.png")
    paths = sorted(path for path in tmp_path.iterdir() if path.suffix != ".onnx")
    script = repository / "docs" / "snippets" / "classify.py"
    command = [sys.executable, script, tmp_path / "model.onnx", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = Predictor(tmp_path / "model.onnx").predict(paths)
    assert len(found) == len(paths) == 4
    for (path, labels), one in zip(answers, found, strict=True):
        assert path == str(one.path)
        expected = {label: one.probs[label] for label in one.labels}
        assert dict(labels) == pytest.approx(expected, abs=1e-5), path


@pytest.fixture(scope="module")
def classify(repository, tmp_path_factory) -> Path:
    """The C++ program."""
    import onnxruntime

    places = [repository / "build" / "headers" / "usr" / "include", Path("/usr/include")]
    include = next((p for p in places if (p / "onnxruntime").is_dir()), None)
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if include is None or not (include / "nlohmann").is_dir():
        pytest.skip("no headers of onnxruntime and nlohmann/json: run `make headers`")
    if shutil.which("g++") is None or library is None:
        pytest.skip("no g++, or no onnxruntime that it could link")
    root = tmp_path_factory.mktemp("classify")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # as Debian names them
        (root / name).symlink_to(library)
    paths = ["-I", str(include), "-I", str(include / "onnxruntime"), "-L", str(root)]
    source = repository / "docs" / "snippets" / "classify.cpp"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", *paths, str(source)]
    subprocess.run([*command, "-lonnxruntime", "-o", str(root / "classify")], check=True)
    return root / "classify"


def run_classify(classify: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LD_LIBRARY_PATH": str(classify.parent)}
    return subprocess.run(
        [str(classify), *map(str, arguments)], capture_output=True, text=True, env=environment
    )


def test_c_plus_plus_answers_as_the_predictor(classify, model, pictures, tmp_path):
    for pixels, answer in zip(pictures, expected(model, pictures), strict=True):
        Image.fromarray(pixels).save(tmp_path / "picture.ppm")
        done = run_classify(classify, model, tmp_path / "picture.ppm")
        assert done.returncode == 0, done.stderr
        lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
        assert {name: float(p) for name, _, p in lines} == pytest.approx(answer, abs=1e-5)


def test_c_plus_plus_refuses_a_picture_of_another_size(classify, model, tmp_path):
    Image.new("RGB", (24, 32)).save(tmp_path / "turned.ppm")
    done = run_classify(classify, model, tmp_path / "turned.ppm")
    assert done.returncode != 0
    assert '"height":24' in done.stderr


@pytest.mark.browser
def test_javascript_answers_as_the_predictor(packages, repository, model, pictures, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    (tmp_path / "pictures.rgb").write_bytes(pictures.tobytes())
    script = f"""
import fs from "node:fs";
import * as ort from {json.dumps(str(packages / "onnxruntime-web/dist/ort.node.min.mjs"))};
import {{ open }} from {json.dumps(str(repository / "docs/snippets/classify.mjs"))};
const model = await open(ort, new Uint8Array(fs.readFileSync({json.dumps(str(model))})));
const all = new Uint8Array(fs.readFileSync({json.dumps(str(tmp_path / "pictures.rgb"))}));
const size = model.spec.height * model.spec.width * 3, found = [];
for (let at = 0; at < all.length; at += size)
  found.push(await model.classify(all.slice(at, at + size)));
console.log(JSON.stringify(found));
"""
    command = [node, "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [dict(answer) for answer in json.loads(done.stdout.splitlines()[-1])]
    for answer, right in zip(found, expected(model, pictures), strict=True):
        assert answer == pytest.approx(right, abs=1e-5)
        assert list(answer) == list(right)  # the likeliest first
