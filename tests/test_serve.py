"""The service, asked in this process: answers, limits, and what is said of bad requests."""

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from distill.errors import UserError
from distill.pipeline.export import export_student
from distill.runtime.predict import Predictor
from distill.serve.app import application
from distill.serve.batches import Batcher
from distill.serve.body import ClientGone, Reader
from distill.serve.logs import LOGGER, JsonLines, PlainLines
from distill.serve.pictures import decode
from distill.serve.problems import Problem
from distill.serve.settings import Limits, Settings, named_models, read_token
from distill.serve.sockets import listen

LIMITS = Limits(max_bytes=200_000, max_pixels=1_000_000, max_images=4, batch_wait_ms=0)
FORM = "multipart/form-data; boundary=x"


def encode(
    colour: tuple[int, int, int], kind: str = "JPEG", size=(40, 30), **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


RED, GREEN = encode((200, 60, 60)), encode((60, 200, 60), "PNG", (30, 44))


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_experiment) -> Path:
    """A shipped file of three classes."""
    experiment = make_experiment(tmp_path_factory.mktemp("shipped"), "single")
    export_student(experiment)
    return experiment.out / "export" / "student.fp32.onnx"


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor(model, 1)


Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


@contextlib.asynccontextmanager
async def started(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has been told to start, and is told to end."""
    inbox, outbox = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client
    await inbox.put({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await task


def talk(model: Any, to: Talk, faces_in: Any = None, limits: Limits = LIMITS, **more: Any) -> Any:
    """What a conversation with a fresh service gives, of a predictor or of several by name."""
    predictors = model if isinstance(model, dict) else {"student": model}
    settings = Settings({name: Path() for name in predictors}, limits=limits, **more)

    async def main() -> Any:
        async with started(application(settings, predictors, faces_in)) as client:
            return await to(client)

    return asyncio.run(main())


def ask(
    model: Any, query: str = "", *, path: str = "/v1/predict", **request: Any
) -> httpx.Response:
    """One request's answer."""
    service = {k: request.pop(k) for k in ("faces_in", "limits", "token") if k in request}
    method = request.pop("method", "POST")
    return talk(model, lambda client: client.request(method, path + query, **request), **service)


def raw(content: Any, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


def files(*contents: bytes, field: str = "image") -> dict[str, Any]:
    return {"files": [(field, (f"{i}.jpg", content)) for i, content in enumerate(contents)]}


class Slow(Predictor):
    """A model that answers when it is allowed to, and remembers the batches that it saw."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1)
        self.allowed, self.batches = threading.Event(), []

    def answers(self, pixels: Any, *extra: str) -> Any:
        if self.batches is not None:
            self.batches.append(len(pixels))
        assert self.allowed.wait(10)
        return super().answers(pixels, *extra)

    def probs(self, pixels: Any) -> Any:  # which warms it up
        return super().answers(pixels).probs if self.allowed.is_set() else pixels


def test_several_pictures_are_answered_in_their_order(predictor) -> None:
    answer = ask(predictor, **files(GREEN, RED)).json()
    assert answer["model"] == "student"
    assert answer["timing_ms"].keys() == {"decode", "queue", "model", "total"}
    for record, content, size, name in zip(
        answer["predictions"], (GREEN, RED), ([30, 44], [40, 30]), ("0.jpg", "1.jpg"), strict=True
    ):
        expected = predictor.predict(content)[0]
        assert record.pop("probs") == pytest.approx(expected.probs, abs=1e-5)
        assert record.pop("prob") == pytest.approx(expected.prob, abs=1e-5)
        assert record == {
            "path": name,
            "size": size,
            "labels": list(expected.labels),
            "abstained": False,
            "outlier": expected.outlier,
        }


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("said", ["image/jpeg", "application/octet-stream"])
def test_a_picture_alone_has_no_name_and_is_told_upright(predictor, kind, said) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = ask(predictor, **raw(encode((200, 60, 60), kind, exif=exif), said)).json()
    (record,) = answer["predictions"]
    assert (record["path"], record["size"], record["labels"]) == (None, [30, 40], ["red"])


def test_a_map_is_there_where_it_is_asked_for(predictor) -> None:
    cam = predictor.answers(predictor.pixels(RED)[None], "cam").cams[0, 0]
    (record,) = ask(predictor, "?explain=true", **raw(RED)).json()["predictions"]
    assert record["map"]["label"] == "red"
    assert record["map"]["shape"] == list(cam.shape)
    np.testing.assert_allclose(record["map"]["values"], cam.ravel(), atol=1e-4)
    assert "map" not in ask(predictor, "?explain=false", **raw(RED)).json()["predictions"][0]


def test_where_it_abstains_the_map_is_of_the_likeliest(model) -> None:
    strict = Predictor(model, 1)
    strict.thresholds = np.full(3, 1.5, np.float32)
    (record,) = ask(strict, "?explain=1", **raw(RED)).json()["predictions"]
    assert record["abstained"]
    assert record["labels"] == []
    assert record["map"]["label"] == "red"


def test_models_are_asked_by_name(predictor, model) -> None:
    other = Predictor(model, 1)
    other.names = ("rot", "gruen", "blau")
    both = {"student": predictor, "other": other}
    for query, label in (("", "red"), ("?model=other", "rot"), ("?model=student", "red")):
        assert ask(both, query, **raw(RED)).json()["predictions"][0]["labels"] == [label]
    listed = ask(both, path="/v1/models", method="GET").json()["models"]
    assert [one["name"] for one in listed] == ["student", "other"]
    assert listed[0]["size_bytes"] == model.stat().st_size
    assert listed[0]["metadata"]["names"] == ["red", "green", "blue"]
    assert {"prob", "cam"} <= set(listed[0]["outputs"])


def halves(image: Image.Image) -> list[Any]:
    """A face in each half of a picture that is wide, and none in others."""
    half, height = image.width // 2, image.height
    boxes = [(0, 0, half, height), (half, 0, half, height)] if image.width > height else []
    return [((x, y, w, h), image.crop((x, y, x + w, y + h))) for x, y, w, h in boxes]


def test_each_face_is_answered_with_its_box(predictor) -> None:
    both = Image.new("RGB", (60, 30), (200, 60, 60))
    both.paste((60, 200, 60), (30, 0, 60, 30))
    content = io.BytesIO()
    both.save(content, "PNG")
    answer = ask(predictor, "?faces=true", faces_in=halves, **files(content.getvalue(), GREEN))
    with_faces, without = answer.json()["predictions"]
    assert [face["box"] for face in with_faces["faces"]] == [[0, 0, 30, 30], [30, 0, 30, 30]]
    assert [face["labels"] for face in with_faces["faces"]] == [["red"], ["green"]]
    assert without == {"path": "1.jpg", "size": [30, 44], "faces": []}
    refused = ask(predictor, "?faces=true", **raw(RED))
    assert refused.json()["type"] == "urn:distillate:faces-not-offered"


def form(*lines: str, end: bool = True) -> bytes:
    last = ("--x--",) if end else ()
    return "\r\n".join(["--x", *lines, *last, ""]).encode()


IMAGE_PART = 'Content-Disposition: form-data; name="image"; filename="a.jpg"'
BOMB = encode((0, 0, 0), "PNG", (1200, 1000))
HOSTILE = {
    "no picture": (raw(b"GET / HTTP/1.1"), 422, "unreadable-image"),
    "cut short": (
        raw(encode((9, 9, 9), size=(300, 300), quality=95)[:-400]),
        422,
        "unreadable-image",
    ),
    "PNG cut short": (raw(GREEN[:60], "image/png"), 422, "unreadable-image"),
    "PostScript": (raw(b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/eps"), 422, "unreadable-image"),
    "SVG": (raw(b"<svg/>", "image/svg+xml"), 422, "unreadable-image"),
    "a bomb": (raw(BOMB), 413, "too-many-pixels"),
    "no body": (raw(b""), 422, "no-image"),
    "an empty file": (files(b""), 422, "unreadable-image"),
    "an empty form": (raw(b"--x--\r\n", FORM), 422, "no-image"),
    "a wrong field": (files(RED, field="file"), 422, "wrong-field"),
    "a part without a name": (raw(form("", "abc"), FORM), 422, "wrong-field"),
    "too many": (files(*[RED] * 5), 413, "too-many-images"),
    "too large": (raw(bytes(200_001)), 413, "too-large"),
    "too large a form": (files(bytes(200_001)), 413, "too-large"),
    "text": (raw(b"abc", "text/plain"), 415, "unsupported-media-type"),
    "JSON": (raw(b"{}", "application/json"), 415, "unsupported-media-type"),
    "no type": ({"content": RED}, 415, "unsupported-media-type"),
    "no boundary": (raw(b"--x--", "multipart/form-data"), 400, "malformed-body"),
    "a long boundary": (raw(b"", f"{FORM}{'x' * 300}"), 400, "malformed-body"),
    "another boundary": (raw(form(IMAGE_PART, "", "a"), f"{FORM}y"), 400, "malformed-body"),
    "half a form": (raw(form(IMAGE_PART, "", "a", end=False), FORM), 400, "malformed-body"),
    "a large header": (raw(form("A: " + "b" * 9000, "", "a"), FORM), 400, "malformed-body"),
    "many headers": (raw(form(*["A: b"] * 50, "", "a"), FORM), 400, "malformed-body"),
}


@pytest.mark.parametrize(("request_", "status", "kind"), HOSTILE.values(), ids=HOSTILE)
def test_a_bad_request_is_told_what_is_wrong_and_the_next_is_answered(
    predictor, request_, status, kind
) -> None:
    async def both(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response, str]:
        bad = await client.post("/v1/predict", **request_)
        good = await client.post("/v1/predict", **raw(RED))
        return bad, good, (await client.get("/metrics")).text

    bad, good, figures = talk(predictor, both)
    problem = bad.json()
    assert (bad.status_code, problem["type"]) == (status, f"urn:distillate:{kind}")
    assert bad.headers["content-type"] == "application/problem+json"
    assert problem.keys() >= {"title", "status", "detail", "instance", "request_id"}
    assert (problem["status"], problem["instance"]) == (status, "/v1/predict")
    assert problem["request_id"] == bad.headers["x-request-id"]
    assert good.status_code == 200
    assert 'distillate_pending_pictures{model="student"} 0.0' in figures


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("?model=nobody", 404, "unknown-model"),
        ("?model=%00%ff", 404, "unknown-model"),
        ("?faces=perhaps", 422, "wrong-parameter"),
        ("?explian=true", 422, "wrong-parameter"),
        ("?" + "&".join(["explain=1"] * 20), 422, "wrong-parameter"),
    ],
)
def test_a_wrong_address_is_told(predictor, query, status, kind) -> None:
    answer = ask(predictor, query, **raw(RED))
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:distillate:{kind}")


def test_one_bad_picture_of_several_is_named(predictor) -> None:
    request = {"files": [("image", ("a.jpg", RED)), ("images", ("größe 🖼.jpg", b"no"))]}
    problem = ask(predictor, **request).json()
    assert problem["image"] == {"index": 1, "path": "größe 🖼.jpg"}
    request["files"][1] = ("images", ("größe 🖼.jpg", GREEN))
    assert ask(predictor, **request).json()["predictions"][1]["path"] == "größe 🖼.jpg"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/predict", 405, {"POST"}),
        ("DELETE", "/v1/models", 405, {"GET"}),
        ("GET", "/nothing", 404, None),
        ("GET", "/docs", 404, None),
    ],
)
def test_paths_and_methods_that_are_not_there_are_problems(
    predictor, method, path, status, allow
) -> None:
    answer = ask(predictor, path=path, method=method)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.headers.get("allow", "").split(", ")) - {"HEAD"} == (allow or {""})


def test_an_endless_body_is_read_no_further_than_its_limit(predictor) -> None:
    given = 0

    async def forever() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 50_000
            yield bytes(50_000)

    assert ask(predictor, **raw(forever())).status_code == 413
    assert given < 2**27  # the limit, and what is thrown away so that the client sees the answer


def test_a_body_that_does_not_arrive_in_time_is_given_up(predictor) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"a"
            await asyncio.sleep(0.02)

    limits = dataclasses.replace(LIMITS, body_timeout_s=0.1)
    answer = ask(predictor, limits=limits, **raw(slowly()))
    assert (answer.status_code, answer.json()["type"]) == (408, "urn:distillate:slow-request")


def test_a_body_whose_client_goes_holds_nothing() -> None:
    parts = [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return parts.pop(0)

    reader = Reader(LIMITS)
    with pytest.raises(ClientGone):
        asyncio.run(reader.read({"headers": [(b"content-type", b"image/png")]}, receive))
    assert reader.held == 0


def test_no_more_is_held_of_bodies_than_a_worker_has_room_for() -> None:
    reader = Reader(LIMITS, held=16 * LIMITS.max_bytes)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"abc", "more_body": True}

    with pytest.raises(Problem, match="too much is being sent"):
        asyncio.run(reader.read({"headers": [(b"content-type", b"image/png")]}, receive))
    assert reader.held == 16 * LIMITS.max_bytes


def test_a_model_without_a_thread_is_told_to_whoever_looks_after_it(predictor, monkeypatch) -> None:
    monkeypatch.setattr(Batcher, "is_alive", False)
    for path in ("/healthz", "/readyz"):
        answer = ask(predictor, path=path, method="GET")
        assert (answer.status_code, answer.json()["status"]) == (503, 503)


def test_a_token_is_asked_for_everywhere_but_at_the_health_of_the_service(predictor) -> None:
    async def statuses(client: httpx.AsyncClient) -> dict[str, int]:
        ways = {
            "none": None,
            "wrong": "Bearer sesamE",
            "basic": "Basic sesame",
            "right": "Bearer sesame",
            "right, in small letters": "bearer sesame",
        }
        found = {}
        for name, value in ways.items():
            headers = {"authorization": value} if value else {}
            for path in ("/v1/models", "/metrics", "/openapi.json", "/healthz", "/readyz"):
                answer = await client.get(path, headers=headers)
                found[f"{name} {path}"] = answer.status_code
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                    assert answer.json()["type"] == "urn:distillate:unauthorised"
            answer = await client.post(
                "/v1/predict", content=RED, headers={**headers, "content-type": "image/png"}
            )
            found[f"{name} predict"] = answer.status_code
        return found

    for case, status in talk(predictor, statuses, token="sesame").items():
        is_open = case.startswith("right") or case.endswith(("healthz", "readyz"))
        assert status == (200 if is_open else 401), case


def test_what_waits_is_asked_about_together_and_no_more_is_taken_than_fits(model) -> None:
    slow = Slow(model)
    limits = dataclasses.replace(LIMITS, queue=6, batch_size=4)

    async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = [asyncio.create_task(client.post("/v1/predict", **raw(RED))) for _ in range(6)]
        while (
            len(slow.batches) < 1
            or 'pending_pictures{model="student"} 6.0' not in (await client.get("/metrics")).text
        ):
            await asyncio.sleep(0.01)
        late = await client.post("/v1/predict", **raw(RED))
        slow.allowed.set()
        return [late, *await asyncio.gather(*first), await client.post("/v1/predict", **raw(RED))]

    late, *others = talk(slow, crowd, limits=limits)
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert late.json()["type"] == "urn:distillate:busy"
    assert [answer.status_code for answer in others] == [200] * 7
    assert sum(slow.batches) == 7
    assert max(slow.batches) <= 4
    assert len(slow.batches) <= 4  # the first alone, then what waited in the meantime


def test_an_answer_that_takes_too_long_is_given_up(model) -> None:
    slow = Slow(model)
    limits = dataclasses.replace(LIMITS, timeout_s=0.1)

    async def late(client: httpx.AsyncClient) -> list[httpx.Response]:
        given_up = await client.post("/v1/predict", **raw(RED))
        slow.allowed.set()
        answered = await client.post("/v1/predict", **raw(RED))
        return [given_up, answered, await client.get("/metrics")]

    given_up, answered, counted = talk(slow, late, limits=limits)
    assert (given_up.status_code, given_up.json()["type"]) == (504, "urn:distillate:slow-answer")
    assert answered.status_code == 200
    assert "distillate_request_seconds_count 2.0" in counted.text.splitlines()


def test_the_page_is_there_for_whoever_has_no_token_yet(predictor) -> None:
    async def look(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get(path) for path in ("/", "/spec.json", "/page/app.js")]

    page, spec, script = talk(predictor, look, token="sesame")
    assert {page.status_code, spec.status_code, script.status_code} == {200}
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert [model["name"] for model in spec.json()["models"]] == ["student"]
    assert not spec.json()["faces"]


def test_a_mistake_of_ours_is_a_problem_too(model, caplog) -> None:
    broken = Slow(model)
    broken.allowed.set()
    broken.batches = None
    broken.session = SimpleNamespace(run=lambda *_: 1 / 0)
    broken.probs = lambda pixels: pixels

    async def twice(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post("/v1/predict", **raw(RED)), await client.get("/healthz")]

    failed, alive = talk(broken, twice)
    assert (failed.status_code, alive.status_code) == (500, 200)
    assert failed.headers["content-type"] == "application/problem+json"
    assert "ZeroDivision" not in failed.text


def test_ids_are_taken_over_where_they_are_sane(predictor) -> None:
    async def echo(client: httpx.AsyncClient) -> list[str]:
        given = ["a-1.B_2", "a b", "x" * 65, ""]
        answers = [await client.get("/healthz", headers={"x-request-id": one}) for one in given]
        return [answer.headers["x-request-id"] for answer in answers]

    first, *others = talk(predictor, echo)
    assert first == "a-1.B_2"
    assert len({*others}) == 3
    assert all(len(one) >= 16 and " " not in one and one != "x" * 65 for one in others)


def test_answers_carry_headers_of_security_and_no_leave_for_other_origins(predictor) -> None:
    answer = ask(
        predictor, headers={"origin": "http://evil", "content-type": "image/png"}, content=RED
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_log_has_what_happened_and_neither_pictures_nor_names(predictor) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(JsonLines().format(record))
    LOGGER.addHandler(handler)
    level = LOGGER.level
    LOGGER.setLevel("INFO")
    try:
        secret = [("image", ("secret.jpg", RED)), ("image", ("secret.jpg", b"secret"))]
        ask(predictor, files=secret, headers={"x-request-id": "abc"})
        ask(predictor, "?model=secret", token="secret", headers={"authorization": "Bearer secret"})
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
    record = next(json.loads(line) for line in lines if '"abc"' in line)
    assert record["event"] == "request"
    assert (record["path"], record["status"], record["images"]) == ("/v1/predict", 422, 2)
    assert {"time", "level", "ms", "bytes", "model", "method"} <= record.keys()
    assert "secret" not in "".join(lines)


def test_a_terminal_gets_plain_lines() -> None:
    made = {"msg": "ready\x1b[2J", "levelno": logging.WARNING, "levelname": "WARNING"}
    record = logging.makeLogRecord({**made, "fields": {"request_id": "abc", "models": 2}})
    assert PlainLines().format(record)[8:] == r" WARNING: ready\x1b[2J models=2"


def test_what_happens_is_counted(predictor) -> None:
    async def some(client: httpx.AsyncClient) -> str:
        for request in (raw(RED), files(RED, GREEN), raw(b"no")):
            await client.post("/v1/predict", **request)
        return (await client.get("/metrics")).text

    text = talk(predictor, some)
    for line in (
        'distillate_requests_total{path="/v1/predict",status="200"} 2.0',
        'distillate_requests_total{path="/v1/predict",status="422"} 1.0',
        'distillate_answers_total{label="red",model="student"} 2.0',
        'distillate_stage_seconds_count{stage="decode"} 3.0',
        "distillate_request_seconds_count 2.0",
    ):
        assert line in text.splitlines(), line


def test_outliers_are_counted(tmp_path, write_colour_model) -> None:
    """White is as far from full red and full green as the file has seen nothing."""
    predictor = Predictor(write_colour_model(tmp_path / "m.onnx"), 1)
    pictures = [encode((255, 0, 0)), encode((255, 255, 255))]
    told = [predictor.predict(picture)[0].outlier for picture in pictures]
    assert told == [False, True]

    async def some(client: httpx.AsyncClient) -> str:
        await client.post("/v1/predict", **files(*pictures))
        return (await client.get("/metrics")).text

    assert 'distillate_outliers_total{model="student"} 1.0' in talk(predictor, some).splitlines()


def test_the_description_says_what_is_served(predictor) -> None:
    async def read(client: httpx.AsyncClient) -> tuple[Any, Any]:
        answer = await client.post("/v1/predict?explain=1", **raw(RED))
        return (await client.get("/openapi.json")).json(), answer.json()

    document, answer = talk(predictor, read)
    schemas = document["components"]["schemas"]
    for reference in json.dumps(document).split('"#/components/schemas/')[1:]:
        assert reference.partition('"')[0] in schemas
    for record, name in ((answer, "Predictions"), (answer["predictions"][0], "Picture")):
        assert set(schemas[name]["required"]) <= record.keys() <= schemas[name]["properties"].keys()
    assert {"200", "413", "415", "422", "503"} <= document["paths"]["/v1/predict"]["post"][
        "responses"
    ].keys()


def test_a_draft_is_only_of_what_is_whole(predictor) -> None:
    """Without faces a large JPEG is decoded scaled down, and its size is told as it was."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    upload = SimpleNamespace(content=buffer.getvalue(), name=None)
    drafted, whole = (decode(upload, 0, predictor.spec, n, 10**6, None) for n in (1, 0))
    assert drafted.size == whole.size == (300, 400)
    assert (drafted.pixels != whole.pixels).any()
    np.testing.assert_array_equal(whole.pixels[0], predictor.pixels(upload.content))


def test_models_are_named_by_their_files_or_as_one_likes(tmp_path) -> None:
    (tmp_path / "a=b.onnx").touch()
    (tmp_path / "runs").mkdir()
    named = named_models(["x/student.int8.onnx", f"{tmp_path}/runs", "m=y/z.onnx"])
    assert named == {
        "student.int8": Path("x/student.int8.onnx"),
        "runs": tmp_path / "runs",
        "m": Path("y/z.onnx"),
    }
    with pytest.raises(UserError, match="two models are called 'a'"):
        named_models(["x/a.onnx", "y/a.onnx"])
    with pytest.raises(UserError, match="no name of a model"):
        named_models([str(tmp_path / "a=b.onnx")])


def test_a_token_comes_from_a_file_or_the_environment(tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("sesame\n")
    assert read_token(file, "other") == "sesame"
    assert read_token(None, "other") == "other"
    assert read_token(None, None) is None
    for content in (b"", b" \n", b"two words", "é".encode(), b"\xff"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="no token"):
            read_token(file, None)


@pytest.mark.parametrize("count", [1, 2])
def test_an_address_in_use_is_a_mistake_of_the_users(count) -> None:
    sockets = listen("127.0.0.1", 0, count)
    try:
        port = sockets[0].getsockname()[1]
        assert {one.getsockname()[1] for one in sockets} == {port}
        for again in (1, 2):
            with pytest.raises(UserError, match="cannot listen"):
                listen("127.0.0.1", port, again)
    finally:
        for one in sockets:
            one.close()
    with pytest.raises(UserError, match="cannot listen"):
        listen("no.such.host.invalid", 80, 1)
