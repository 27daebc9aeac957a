"""Every file in `benchmarks/engines/`: what it declares, and that it computes what others do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.benchmarks.engines import Device, Settings, engine_names, find_engine, reason_against
from distill.benchmarks.subjects import make_pixels
from distill.config import ModelConfig
from distill.errors import UserError
from distill.files import files_below, write_json, write_manifest
from distill.runtime.predict import Predictor

SLOW = {"torch_compile"}  # it runs a C++ compiler
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in engine_names()
]
TOLERANCE = {"bf16": 0.03, "fp16": 0.01}  # between probabilities
FP32 = {"cpu": 1e-4, "cuda": 1e-3}  # whose convolutions are TF32 there: 2.4e-4 on an H200
SIZE = 32


@pytest.fixture(scope="module", params=["single", "multi"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A run directory and the ONNX file of the same weights, by format."""
    pytest.importorskip("onnxscript")
    import torch

    from distill.data.decode import InputSpec
    from distill.export.onnx_fp32 import export_onnx
    from distill.models.classifier import build_classifier
    from distill.training.run_directory import save_weights

    torch.manual_seed(0)
    options = {"width": [16, 32], "depth": [1, 1], "head_width": 0}
    config = ModelConfig(name="compact", options=options)
    names, spec = ("a", "b", "c"), InputSpec(height=SIZE, width=SIZE)
    classifier = build_classifier(config, names, spec, task=request.param).eval()
    for layer in classifier.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 20  # probabilities that are not all alike
    folder = tmp_path_factory.mktemp("run")
    save_weights(classifier, folder / "best.safetensors")
    write_json(folder / "contract.json", classifier.contract.model_dump(mode="json"))
    run = {"model": config.model_dump(mode="json"), "strategy": {"name": "supervised"}, "train": {}}
    write_json(folder / "config.json", {"run": run})
    (folder / "metrics.jsonl").write_text("{}\n")
    write_manifest(folder, files_below(folder))
    file = folder.parent / f"{request.param}.onnx"
    described = {
        "names": names,
        "task": request.param,
        "input_spec": spec.model_dump(),
        "thresholds": {},
    }
    pixels = make_pixels(8, SIZE, SIZE)
    export_onnx(classifier, file, described, pixels, "legacy")
    return {"run": folder, "onnx": file}


@pytest.mark.parametrize("name", engine_names())
def test_an_engine_declares_what_it_is(name: str) -> None:
    engine = find_engine(name)
    assert engine.FORMAT in ("onnx", "run")
    assert engine.DEVICES
    assert set(engine.DEVICES) <= {"cpu", "cuda"}
    assert engine.PACKAGES
    assert isinstance(engine.CONCURRENT, bool)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_engines_agree_on_probabilities(name: str, device: Device, models) -> None:
    """At several batch sizes, back and forth, with other pixels each time."""
    reason = reason_against(name, device)
    if reason:
        pytest.skip(f"{name}: {reason}")
    engine, reference = find_engine(name), Predictor(models["onnx"])
    loaded = engine.load(models[engine.FORMAT], Settings(threads=1, device=device))
    pixels = make_pixels(8, SIZE, SIZE)
    assert np.ptp(reference.probs(pixels), axis=0).max() > 0.1  # the test can fail
    for part in (pixels[:1], pixels[1:2], pixels[2:7], pixels[:1], pixels[3:8]):
        found = loaded.run(part)
        assert found.dtype == np.float32
        tolerance = TOLERANCE.get(loaded.precision or "", FP32[device])
        np.testing.assert_allclose(found, reference.probs(part), atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_not_overwritten_by_the_next(name: str, models) -> None:
    if reason_against(name, "cpu"):
        pytest.skip("not on this CPU")
    engine = find_engine(name)
    loaded = engine.load(models[engine.FORMAT], Settings(threads=1))
    pixels = make_pixels(2, SIZE, SIZE)
    first = loaded.run(pixels[:1])
    before = first.copy()
    assert not np.array_equal(loaded.run(pixels[1:]), before)
    assert np.array_equal(first, before)


def test_a_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "openvino" in (reason_against("openvino", "cpu") or "")


def test_an_engine_for_another_device() -> None:
    assert reason_against("torch_cuda_graph", "cpu") == "it is for cuda"


def test_an_unknown_engine_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'fast'.*onnxruntime, onnxruntime_bound"):
        find_engine("fast")


def test_listing_engines_imports_none_of_their_libraries() -> None:
    script = (
        "import json, sys; from distill.benchmarks.engines import engine_names, find_engine; "
        "[find_engine(name) for name in engine_names()]; "
        "print(json.dumps([n for n in ('torch', 'onnxruntime', 'openvino') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_a_run_that_is_not_whole_is_refused(models, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished run"):
        find_engine("torch").load(tmp_path, Settings(threads=1))
