"""The student in the browser and through transformers.js; `make browser` installs what it takes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from distill.config import ModelConfig
from distill.export.golden import draw_picture
from distill.export.web_runtime import FILES, PACKAGE, VERSION
from distill.pipeline.experiment import Experiment
from distill.pipeline.export import export_student
from distill.runtime.page import index_page
from distill.runtime.predict import Predictor

pytestmark = pytest.mark.browser
WIDE = ModelConfig(name="compact", options={"width": [32, 64], "depth": [1, 1], "head_width": 0})


@pytest.fixture(scope="module", params=["fp32", "int8"])
def exported(request, tmp_path_factory, make_experiment, packages) -> Experiment:
    """`web/` and `hub/`, the runtime beside the page as npm installed it."""
    targets = ({"name": "web", "offline": True}, "hub")
    targets += ("onnx_int8",) if request.param == "int8" else ()
    out = tmp_path_factory.mktemp(request.param)
    experiment = make_experiment(out, "single", model=WIDE, targets=targets, int8_max_drop=100.0)
    kept = out / "home" / f"{PACKAGE}-{VERSION}"
    kept.mkdir(parents=True)
    for name in FILES:
        shutil.copy(packages / PACKAGE / "dist" / name, kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLATE_HOME", str(kept.parent))
        export_student(experiment)
    return experiment


@pytest.fixture
def address(exported, serve_folder) -> Iterator[str]:
    """Where the page is served."""
    with serve_folder(exported.out / "export" / "web") as address:
        yield address


def save_picture(file: Path) -> Path:
    Image.fromarray(draw_picture(7, 90, 150)).save(file)
    return file


def checked(page, address: str) -> dict:
    """What the page found when it tried itself."""
    page.goto(address)
    page.wait_for_selector("body[data-check]", timeout=60_000)
    found: dict = json.loads(page.evaluate("document.body.dataset.check"))
    return found


def test_the_page_answers_as_predictor_does(exported, address, page, tmp_path) -> None:
    """And asks nobody but its own server: the runtime lies beside it, all of it and no more."""
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    check = checked(page, address)
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert {url.rpartition("/")[2] for url in asked if "/ort/" in url} == set(FILES)
    assert check["n"] == 4
    assert check["pixels"] <= 1
    assert check["passed"]
    picture = save_picture(tmp_path / "picture.png")
    page.set_input_files("#file", picture)
    card = page.wait_for_selector("[data-probs]")
    (found,) = json.loads(card.get_attribute("data-probs"))
    spec = json.loads((exported.out / "export" / "web" / "spec.json").read_text())
    predictor = Predictor(exported.out / "export" / "web" / "model.onnx")
    (expected,) = predictor.predict(picture)
    np.testing.assert_allclose(found, list(expected.probs.values()), atol=spec["tolerance"])
    assert page.inner_text(".verdict").startswith(expected.labels[0])
    assert errors == []


@pytest.mark.parametrize("resize", ["squash", "shortest"])
@pytest.mark.parametrize("interpolation", ["box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_every_resize_rule_gives_the_pixels_of_pillow(
    resize, interpolation, exported, address, page
) -> None:
    from distill.data.decode import InputSpec
    from distill.export.web import golden_pictures

    web = exported.out / "export" / "web"
    spec = json.loads((web / "spec.json").read_text())
    (described,) = spec["models"]
    rule = {"resize": resize, "interpolation": interpolation, "crop_pct": 0.85}
    predictor = Predictor(web / "model.onnx")
    predictor.spec = InputSpec(**{**described["input_spec"], **rule})
    changed = {**spec, "models": [{**described, "input_spec": predictor.spec.model_dump()}]}
    golden = golden_pictures(predictor)
    for name, value in (("spec.json", changed), ("golden.json", golden)):
        text = json.dumps(value)
        page.route(f"**/{name}", lambda route, _, text=text: route.fulfill(body=text))
    check = checked(page, address)
    assert check["pixels"] <= 1
    assert check["passed"]


def test_a_runtime_of_another_origin_is_let_in(exported, serve_folder, packages, page, tmp_path):
    shutil.copytree(exported.out / "export" / "web", tmp_path / "web")
    with (
        serve_folder(packages / PACKAGE / "dist") as runtime,
        serve_folder(tmp_path / "web") as own,
    ):
        (tmp_path / "web" / "index.html").write_text(index_page(runtime))
        spec = json.loads((tmp_path / "web" / "spec.json").read_text())
        (tmp_path / "web" / "spec.json").write_text(json.dumps({**spec, "runtime": runtime}))
        assert checked(page, own)["passed"]


def with_answers_repeated(file: Path, times: int) -> bytes:
    """A shipped file whose classes are there so many times."""
    model = onnx.load(file)
    for node in model.graph.node:
        node.output[:] = ["once" if name == "prob" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Concat", ["once"] * times, ["prob"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value *= times
    return model.SerializeToString()


@pytest.mark.parametrize("task", ["single", "multi"])
def test_no_phone_scrolls_sideways(task, exported, address, page, tmp_path) -> None:
    """Names without a space to break at stood out of the screen."""
    web = exported.out / "export" / "web"
    spec = json.loads((web / "spec.json").read_text())
    names = [f"{number}".rjust(60, "W") for number in range(42)]
    wide = {"names": names, "task": task, "thresholds": dict.fromkeys(names, 0)}
    body = json.dumps({**spec, "models": [{**spec["models"][0], **wide}]})
    model = with_answers_repeated(web / "model.onnx", 14)
    page.route("**/spec.json", lambda route: route.fulfill(body=body))
    page.route("**/model.onnx", lambda route: route.fulfill(body=model))
    page.set_viewport_size({"width": 360, "height": 740})
    checked(page, address)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.set_input_files("#file", save_picture(tmp_path / "picture.png"))
    page.wait_for_selector("[data-probs]")
    assert ("map of" in page.inner_text(".facts")) == (task == "multi")
    page.click("text=37 more labels")
    page.wait_for_selector("details[open] li")
    assert page.locator(".shares li").count() == 42
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_opened_as_a_file_the_page_says_what_to_do(exported, page) -> None:
    """It said `Loading` for ever: browsers load no module of a file."""
    page.goto((exported.out / "export" / "web" / "index.html").as_uri())
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_selector("#unserved")  # late, as it would flash where the script runs
    shown = page.inner_text("body")
    assert "python -m http.server" in shown
    assert "http://localhost:8000/" in shown
    assert not page.is_visible("#app")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


SCRIPT = """
import { pipeline, env } from "PACKAGE";
env.allowRemoteModels = false;
env.localModelPath = "FOLDER/";
const classify = await pipeline("image-classification", "hub");
console.log(JSON.stringify(await classify("PICTURE")));
"""


def test_transformers_js_reads_the_hub_folder(exported, packages, tmp_path) -> None:
    """By default the int8 file if there is one; a picture of the model's size needs no resizing."""
    module = packages / "@huggingface" / "transformers" / "dist" / "transformers.node.mjs"
    picture, folder = tmp_path / "p.png", exported.out / "export"
    Image.fromarray(exported.data.test.pixels[0]).save(picture)
    script = SCRIPT.replace("PACKAGE", module.as_uri())
    script = script.replace("FOLDER", str(folder)).replace("PICTURE", str(picture))
    (tmp_path / "script.mjs").write_text(script)
    command = ["node", str(tmp_path / "script.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=packages.parent)
    assert done.returncode == 0, done.stderr
    found = {row["label"]: row["score"] for row in json.loads(done.stdout.splitlines()[-1])}
    int8 = (folder / "student.int8.onnx").is_file()
    predictor = Predictor(folder / f"student.{'int8' if int8 else 'fp32'}.onnx")
    (expected,) = predictor.predict(picture)
    assert found == pytest.approx(expected.probs, abs=1e-2 if int8 else 1e-5)
