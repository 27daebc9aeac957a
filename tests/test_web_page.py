"""The page in Chromium with both its engines: `make browser` installs what it takes."""

import base64
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.config import ModelConfig
from distill.export.web_runtime import FILES, PACKAGE, VERSION
from distill.pipeline.export import export_student
from distill.runtime.predict import Predictor, UnreadableImageError

pytestmark = pytest.mark.browser
WIDE = ModelConfig(name="compact", options={"width": [32, 64], "depth": [1, 1], "head_width": 0})
COLOURS = {"wine.png": (120, 20, 60), "leaf.png": (30, 140, 50), "näht – 夜.png": (20, 40, 130)}
TOKEN = "open-sesame"
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
  violations.push(`${effectiveDirective} ${blockedURI}`));
"""


@pytest.fixture(scope="module")
def folder(make_experiment, packages, tmp_path_factory) -> Path:
    """`web/` as the target writes it, the runtime beside the page."""
    out = tmp_path_factory.mktemp("page")
    kept = out / "home" / f"{PACKAGE}-{VERSION}"
    kept.mkdir(parents=True)
    for name in FILES:
        shutil.copy(packages / PACKAGE / "dist" / name, kept)
    targets = ({"name": "web", "offline": True},)
    experiment = make_experiment(out, "single", model=WIDE, targets=targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLATE_HOME", str(kept.parent))
        export_student(experiment)
    return out / "export" / "web"


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor(folder / "model.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    """A coloured blot on grey, photographs' sizes."""
    folder, found = tmp_path_factory.mktemp("pictures"), {}
    for index, (name, colour) in enumerate(COLOURS.items()):
        pixels = np.full((240, 320, 3), 128, np.uint8)
        pixels[40:140, 40 + 60 * index : 140 + 60 * index] = colour
        Image.fromarray(pixels).save(folder / name)
        found[name] = folder / name
    return found


def service_of(predictors: dict[str, Predictor], token: str | None = None) -> Any:
    """The service by its contract: `POST /v1/predict`, problems in words; two faces a picture."""
    from fastapi import FastAPI, Request, Response

    from distill.serve.page import router_of

    app = FastAPI()
    app.include_router(router_of(predictors, faces=True))

    def problem(status: int, title: str, detail: str) -> Response:
        record = {"type": "urn:x", "title": title, "status": status, "detail": detail}
        return Response(json.dumps(record), status, media_type="application/problem+json")

    def answer(model: Predictor, image: Image.Image, explain: bool) -> dict[str, Any]:
        answers = model.answers(model.pixels(image)[None], *(["cam"] if explain else []))
        found = asdict(model.decide(answers.probs[0]))
        if answers.cams is not None:
            first = model.names.index(max(found["probs"], key=found["probs"].get))
            cam = answers.cams[0, first]
            shape, values = list(cam.shape), cam.ravel().tolist()
            found["map"] = {"label": model.names[first], "shape": shape, "values": values}
        return found

    @app.post("/v1/predict")
    async def predict(
        request: Request, model: str | None = None, explain: bool = False, faces: bool = False
    ) -> Any:
        if token and request.headers.get("Authorization") != f"Bearer {token}":
            return problem(401, "A bearer token is needed", "send one")
        chosen = predictors[model or next(iter(predictors))]
        predictions = []
        for part in (await request.form()).getlist("image"):
            try:
                image = Image.open(part.file).convert("RGB")
                chosen.pixels(image)
            except (OSError, UnreadableImageError):
                detail = "image 0: cannot identify image file"
                return problem(422, "The image cannot be read", detail)
            width, height = image.size
            known = {"path": part.filename, "size": [width, height]}
            boxes = [[0, 0, width // 2, height], [width // 2, 0, width // 2, height]]
            crops = [image.crop((x, y, x + w, y + h)) for x, y, w, h in boxes]
            if faces:
                found = [
                    {"box": box, **answer(chosen, crop, explain)}
                    for box, crop in zip(boxes, crops, strict=True)
                ]
                predictions.append({**known, "faces": found})
            else:
                predictions.append({**answer(chosen, image, explain), **known})
        timing = {"decode": 1.0, "queue": 0.0, "model": 1.5, "total": 2.5}
        return {"model": chosen.path.stem, "predictions": predictions, "timing_ms": timing}

    return app


@contextmanager
def run_app(app: Any) -> Iterator[str]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def addresses(folder, predictor, serve_folder) -> Iterator[dict[str, str]]:
    """Where the page is, by its engine."""
    with (
        serve_folder(folder) as static,
        run_app(service_of({"first": predictor, "second": predictor})) as service,
        run_app(service_of({"first": predictor}, TOKEN)) as locked,
    ):
        yield {"browser": static, "server": service, "locked": locked}


@pytest.fixture(scope="module")
def chromium(pictures, tmp_path_factory) -> Iterator[Any]:
    """Chromium whose webcam films the first picture."""
    sync_api = pytest.importorskip("playwright.sync_api")
    film = tmp_path_factory.mktemp("film") / "film.mjpeg"
    Image.open(next(iter(pictures.values()))).resize((640, 480)).save(
        film.with_suffix(".jpg"), quality=95, subsampling=0
    )
    film.write_bytes(film.with_suffix(".jpg").read_bytes() * 8)
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    arguments = ["--no-sandbox", *fake, f"--use-file-for-fake-video-capture={film}"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that was opened, and whom it asked."""

    page: Any
    engine: str
    address: str
    asked: list[str]

    def choose(self, *files: Path) -> None:
        self.page.set_input_files("#file", list(files))

    def probs(self, count: int) -> list[list[list[float]]]:
        """Of each card its regions' probabilities, once so many cards have an answer."""
        self.expect("[data-probs]:not([aria-busy=true])").to_have_count(count, timeout=30_000)
        cards = self.page.locator("[data-probs]").all()
        return [json.loads(card.get_attribute("data-probs")) for card in cards]

    def expect(self, selector: str) -> Any:
        from playwright.sync_api import expect

        return expect(self.page.locator(selector))


@pytest.fixture
def visit(chromium, addresses) -> Iterator[Callable[..., Visit]]:
    """Opens the page; in the end nothing was blocked, thrown, or asked of anybody else."""
    contexts, visits, errors = [], [], []

    def open_page(engine: str, query: str = "", script: str = "", **context: Any) -> Visit:
        contexts.append(chromium.new_context(**context))
        page, address = contexts[-1].new_page(), addresses[engine]
        found = Visit(page, engine, address, [])
        page.add_init_script(VIOLATIONS + script)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: found.asked.append(request.url))
        page.goto(address + query)
        found.expect("#file").to_be_enabled(timeout=60_000)
        visits.append(found)
        return found

    yield open_page
    for one in visits:
        own = (one.address, "data:", f"blob:{one.address}")
        assert [url for url in one.asked if not url.startswith(own)] == []
        assert one.page.evaluate("violations") == []
    assert errors == []
    for context in contexts:
        context.close()


@pytest.fixture(params=["browser", "server"])
def opened(request, visit) -> Visit:
    return visit(request.param)


def transfer(page: Any, files: list[Path]) -> Any:
    """Files as a drop or the clipboard brings them."""
    contents = [{"name": file.name, "bytes": list(file.read_bytes())} for file in files]
    return page.evaluate_handle(
        """(files) => {
          const transfer = new DataTransfer();
          for (const { name, bytes } of files)
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
          return transfer;
        }""",
        contents,
    )


def test_chosen_pictures_are_answered_as_by_predictor(opened, pictures, predictor) -> None:
    files = list(pictures.values())
    opened.choose(*files)
    found = opened.probs(len(files))
    expected = predictor.predict(files)
    for (row,), one in zip(found, expected, strict=True):
        np.testing.assert_allclose(row, list(one.probs.values()), atol=2e-3)
    cards = opened.page.locator(".card").all()
    for card, file, one in zip(cards, files, expected, strict=True):
        said = f"{one.labels[0]} {100 * one.prob:.1f} %"
        assert card.locator(".name").inner_text() == file.name
        assert card.locator(".verdict").inner_text() == card.locator(".box span").inner_text()
        assert card.locator(".verdict").inner_text().split()[0] == said.split()[0]
        assert card.locator("img").get_attribute("alt").startswith(f"{file.name}: {one.labels[0]}")
        assert card.locator(".shares li").count() == 3
        assert "320 × 240 · " in card.locator(".facts").inner_text()
    opened.expect("#status").to_contain_text("3 of 3 pictures have an answer.")
    opened.choose(files[0])
    assert len(opened.probs(4)) == 4
    assert opened.page.locator(".name").first.inner_text() == files[0].name  # newest first


def test_pictures_are_dropped_and_pasted(opened, pictures, predictor) -> None:
    page, files = opened.page, list(pictures.values())
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer(page, files[:2])})
    opened.expect("#drop").to_have_class("drop over")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer(page, files[:2])})
    assert len(opened.probs(2)) == 2
    opened.expect("#drop").to_have_class("drop")
    page.evaluate(
        "(data) => document.body.dispatchEvent("
        "new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        transfer(page, files[2:]),
    )
    found = opened.probs(3)
    (expected,) = predictor.predict(files[2])
    np.testing.assert_allclose(found[0][0], list(expected.probs.values()), atol=2e-3)


def test_the_webcam_is_looked_at_live(opened, pictures, predictor) -> None:
    page = opened.page
    page.click("text=Start the webcam")
    (found,) = opened.probs(1)
    opened.expect(".live .facts").to_contain_text("frames/s", timeout=20_000)
    (expected,) = predictor.predict(Image.open(next(iter(pictures.values()))).resize((640, 480)))
    np.testing.assert_allclose(found[0], list(expected.probs.values()), atol=0.05)
    assert page.locator(".live .box.whole").count() == 1
    assert page.is_visible(".live .heat")
    track = "document.querySelector('video').srcObject.getTracks()[0]"
    page.evaluate(f"window.track = {track}")
    assert page.evaluate("track.readyState") == "live"
    opened.choose(next(iter(pictures.values())))  # beside the webcam
    assert len(opened.probs(2)) == 2
    page.click("text=Stop the webcam")
    opened.expect("video").to_have_count(0)
    assert page.evaluate("track.readyState") == "ended"  # the light at the camera is out
    opened.expect("#status").to_have_text("The webcam is off.")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("NotFoundError", "There is no camera here."),
        ("NotAllowedError", "does not let this page use the camera"),
        (None, "only for https:// and localhost"),
    ],
)
def test_without_a_camera_the_page_says_so(error, words, visit) -> None:
    refuse = f"async () => {{ throw new DOMException('', '{error}'); }}"
    media = f"{{ getUserMedia: {refuse} }}" if error else "undefined"
    script = f"Object.defineProperty(navigator, 'mediaDevices', {{ value: {media} }});"
    opened = visit("browser", script=script)
    opened.page.click("#camera")
    opened.expect("#status").to_contain_text(words)
    assert opened.page.inner_text("#camera") == "Start the webcam"


def test_the_activation_map_lies_where_the_model_looks(opened, pictures, predictor) -> None:
    page, file = opened.page, list(pictures.values())[1]
    opened.choose(file)
    opened.probs(1)
    opened.expect(".heat").to_be_visible()
    answers = predictor.answers(predictor.pixels(file)[None], "cam")
    cam = answers.cams[0, answers.probs[0].argmax()]
    alpha = page.evaluate(
        """() => {
          const heat = document.querySelector(".heat"), { width, height } = heat;
          const { data } = heat.getContext("2d").getImageData(0, 0, width, height);
          return { width, height, alpha: [...data].filter((_, i) => i % 4 === 3) };
        }"""
    )
    drawn = np.reshape(alpha["alpha"], (alpha["height"], alpha["width"]))
    (h, w), (height, width) = cam.shape, drawn.shape
    assert abs(width / height - 320 / 240) < 0.02
    cells = [
        [drawn[int((y + 0.5) * height / h), int((x + 0.5) * width / w)] for x in range(w)]
        for y in range(h)
    ]
    positive = np.maximum(cam, 0)
    assert np.corrcoef(np.ravel(cells), positive.ravel() ** 0.7)[0, 1] > 0.9
    page.fill("#opacity", "0.2")
    opacity = "getComputedStyle(document.querySelector('.heat')).opacity"
    assert float(page.evaluate(opacity)) == pytest.approx(0.2)
    page.click("text=Show why")
    opened.expect(".heat").to_be_hidden()
    opened.choose(file)
    opened.probs(2)
    assert page.locator(".heat:visible").count() == 0
    page.click("text=Show why")  # which asks for the map that was not asked for
    opened.expect(".heat >> visible=true").to_have_count(2)


def test_below_the_threshold_the_page_abstains(opened, pictures, predictor) -> None:
    page, file = opened.page, next(iter(pictures.values()))
    opened.choose(file)
    opened.probs(1)
    (expected,) = predictor.predict(file)
    assert page.inner_text("#threshold-value") == "0 %"  # the file has none
    page.fill("#threshold", f"{min(1.0, expected.prob + 0.05):.2f}")
    opened.expect(".verdict").to_have_text("None of these")
    opened.expect(".detail").to_contain_text(f"Likeliest is {expected.labels[0]}")
    opened.expect(".box.none").to_have_count(1)
    opened.expect(".mark >> visible=true").to_have_count(1)
    asked = len(opened.asked)
    page.fill("#threshold", f"{expected.prob - 0.05:.2f}")
    opened.expect(".verdict").to_contain_text(expected.labels[0])
    assert len(opened.asked) == asked  # what was answered is not asked again
    page.fill("#threshold", "1")
    opened.expect(".verdict").to_have_text("None of these")
    page.click("#shipped")
    opened.expect(".verdict").to_contain_text(expected.labels[0])
    opened.expect("#shipped").to_be_hidden()


def test_what_is_no_picture_is_told_and_spoils_no_other(opened, pictures) -> None:
    opened.choose(Path(__file__), next(iter(pictures.values())))
    said = {
        "browser": "This is not a picture that the browser can read.",
        "server": re.compile("^The image cannot be read: .*cannot identify image file.$"),
    }
    opened.expect(".card.failed .verdict").to_have_text(said[opened.engine])
    assert len(opened.probs(1)) == 1
    opened.expect("#status").to_contain_text("1 of 2 pictures have an answer. test_web_page.py: ")


def test_the_page_works_without_a_network_once_it_is_open(visit, pictures) -> None:
    opened = visit("browser")
    opened.page.context.set_offline(True)
    opened.choose(*pictures.values())
    assert len(opened.probs(3)) == 3
    opened.page.click("text=Start the webcam")
    assert len(opened.probs(4)) == 4


def test_a_service_that_is_away_is_told_and_asked_again(visit, pictures) -> None:
    opened, file = visit("server"), next(iter(pictures.values()))
    opened.page.context.set_offline(True)
    opened.choose(file)
    opened.expect(".verdict").to_have_text("The service does not answer. Is it still running?")
    opened.page.context.set_offline(False)
    opened.page.select_option("#model", "second")  # another model is another question
    assert len(opened.probs(1)) == 1
    assert "model=second" in opened.asked[-1]


def test_a_busy_service_is_waited_for(visit, pictures) -> None:
    opened, times = visit("server"), []

    def busy_once(route: Any) -> None:
        times.append(1)
        headers = {"Retry-After": "0.05"}
        route.fulfill(status=503, headers=headers) if len(times) == 1 else route.continue_()

    opened.page.route("**/v1/predict*", busy_once)
    opened.choose(next(iter(pictures.values())))
    assert len(opened.probs(1)) == 1
    assert len(times) == 2


def test_a_token_is_asked_for_and_kept_nowhere(visit, pictures) -> None:
    opened = visit("locked")
    page = opened.page
    opened.choose(next(iter(pictures.values())))
    opened.expect("#status").to_have_text("The service asks for a token.")
    opened.expect("#token").to_be_focused()
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    opened.expect("#status").to_have_text("The service does not take this token.")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    assert len(opened.probs(1)) == 1
    opened.expect("#token-form").to_be_hidden()
    kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
    assert TOKEN not in page.evaluate(kept)
    assert page.input_value("#token") == ""


def test_faces_have_boxes_and_answers_of_their_own(visit, pictures) -> None:
    opened = visit("server")
    opened.choose(next(iter(pictures.values())))
    opened.probs(1)
    opened.page.click("text=Find faces")
    opened.expect(".box:not(.whole)").to_have_count(2)
    (found,) = opened.probs(1)
    assert len(found) == 2
    assert opened.page.locator(".region").count() == 2
    left, right = (box.bounding_box() for box in opened.page.locator(".box").all())
    assert right["x"] == pytest.approx(left["x"] + left["width"], abs=1)


def test_an_outlier_and_no_face_are_said(visit, pictures) -> None:
    opened = visit("server")
    probs = {"red": 0.9, "green": 0.05, "blue": 0.05}
    strange = {"size": [320, 240], "probs": probs, "outlier": True, "abstained": True}
    answers = [strange, {"size": [320, 240], "faces": []}]

    def answer(route: Any) -> None:
        route.fulfill(json={"predictions": [answers.pop(0)], "timing_ms": {"model": 1}})

    opened.page.route("**/v1/predict*", answer)
    opened.choose(next(iter(pictures.values())))
    opened.expect(".verdict").to_have_text("Unlike the training pictures")
    opened.expect(".detail").to_have_text("Its answer would be red 90.0 %.")
    opened.page.click("text=Find faces")
    opened.expect(".verdict").to_have_text("No face found")


def test_features_unlike_those_of_training_are_told_in_the_browser(visit) -> None:
    """By the metadata as `distill.scoring.outliers` writes and reads it."""
    random = np.random.default_rng(0)
    mean = random.normal(0, 0.1, 6).astype("<f2")
    axes = np.linalg.qr(random.normal(size=(6, 2)))[0].T.astype("<f2")
    features = random.normal(0, 1, (60, 6)).astype(np.float32).astype(np.float64)
    features[0] = 0
    along = features / np.clip(np.linalg.norm(features, axis=1, keepdims=True), 1e-300, 2.0) - mean
    first = along @ axes.T
    rest = (along**2).sum(axis=1) - (first**2).sum(axis=1)
    distances = (first**2 / [0.5, 0.2]).sum(axis=1) + rest / 0.1
    threshold = float(np.median(distances))
    packed = {"mean": mean, "directions": axes}
    metadata = {name: base64.b64encode(part.tobytes()).decode() for name, part in packed.items()}
    metadata |= {"length": 2.0, "variances": [0.5, 0.2], "rest": 0.1, "threshold": threshold}
    found = visit("browser").page.evaluate(
        """async ([metadata, features]) => {
          const { outlierTest } = await import("./page/outliers.js");
          const test = outlierTest(metadata);
          return [...features, [NaN, 0, 0, 0, 0, 0]].map((row) => test(Float32Array.from(row)));
        }""",
        [metadata, features.tolist()],
    )
    assert found == [*(distances > threshold).tolist(), True]


def test_without_a_graphics_card_the_page_says_so_and_goes_on(visit, folder, pictures) -> None:
    opened = visit("browser", "?device=webgpu")
    opened.expect("#status").to_contain_text("made without webgpu: it runs on the processor")
    spec = json.loads((folder / "spec.json").read_text())
    context = opened.page.context
    both = {**spec, "devices": ["wasm", "webgpu"]}
    context.route("**/spec.json", lambda route: route.fulfill(json=both))
    opened.page.add_init_script("Object.defineProperty(navigator, 'gpu', { value: undefined });")
    opened.page.reload()
    opened.expect("#status").to_contain_text("offers no graphics card")
    assert opened.page.input_value("#device") == "wasm"
    opened.choose(next(iter(pictures.values())))
    assert len(opened.probs(1)) == 1


def test_the_policy_stops_what_a_stranger_would_put_in(visit) -> None:
    opened = visit("server")
    page = opened.page
    page.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.textContent = "window.broken = true";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<p style='color: red'></p>");
          await fetch("http://127.0.0.1:9/").catch(() => 0);
        }"""
    )
    assert page.evaluate("window.broken") is None
    found = page.evaluate("violations.splice(0)")
    assert {what.split()[0] for what in found} == {
        "script-src-elem",
        "style-src-attr",
        "connect-src",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_nothing_and_nothing_sticks_out(
    scheme, width, opened, visit, packages, pictures
) -> None:
    page = opened.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    page.locator("#settings").evaluate("(settings) => { settings.open = true; }")
    opened.choose(Path(__file__), *pictures.values())
    opened.probs(3)
    page.click("text=Start the webcam")
    opened.probs(4)
    page.evaluate((packages / "axe-core" / "axe.min.js").read_text())
    report = page.evaluate("axe.run()")
    found = [(one["id"], [node["html"] for node in one["nodes"]]) for one in report["violations"]]
    assert found == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    moving = "document.getAnimations().filter(({ playState }) => playState === 'running').length"
    assert page.evaluate(moving) == 0


def test_everything_is_reached_by_keyboard(visit, pictures) -> None:
    opened = visit("server")
    page = opened.page
    page.set_viewport_size({"width": 1200, "height": 900})
    opened.choose(*list(pictures.values())[:2])
    opened.probs(2)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            """() => {
              const element = document.activeElement;
              const button = element.id === "file" && document.querySelector(".drop .button");
              const { outlineStyle, outlineWidth } = getComputedStyle(button || element);
              const name = element.id || element.ariaLabel || element.textContent.trim();
              return [name, outlineStyle !== "none" && parseFloat(outlineWidth) > 1];
            }"""
        )
        reached.append(focus[0])
        assert focus[1], focus
        if focus[0].startswith("Remove leaf"):
            break
    expected = ["file", "camera", "Settings", "model", "threshold", "why", "opacity", "faces"]
    assert reached == [*expected, "clear", "Remove wine.png", "Remove leaf.png"]
    page.keyboard.press("Enter")
    opened.expect(".card").to_have_count(1)
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove wine.png"
    page.keyboard.press("Enter")
    opened.expect(".card").to_have_count(0)
    opened.expect("#file").to_be_focused()
    opened.expect("#empty").to_be_visible()
