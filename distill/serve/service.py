"""Answers requests for predictions: admits them, decodes in threads, asks a model, writes JSON."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image
from prometheus_client import Histogram
from starlette.types import Receive, Scope, Send

from distill.files import sha256_of
from distill.runtime.predict import Predictor
from distill.serve.batches import Batch, Batcher, Record, Work
from distill.serve.body import ClientGone, Reader, Upload
from distill.serve.metrics import Metrics
from distill.serve.pictures import FacesIn, Picture, decode
from distill.serve.problems import Problem, busy
from distill.serve.settings import Settings

FLAGS = {"true": True, "1": True, "false": False, "0": False}
MAX_QUERY = 2000  # characters


@dataclass(frozen=True)
class Question:
    """What a request's address asks for."""

    model: str
    faces: bool = False
    explain: bool = False


class Model:
    """A model of the service, and what is on its way to it."""

    def __init__(self, name: str, predictor: Predictor) -> None:
        self.name, self.predictor = name, predictor
        self.pending = 0
        self.batcher: Batcher

    def describe(self) -> dict[str, Any]:
        """What is inside, as JSON."""
        return {
            "name": self.name,
            "sha256": sha256_of(self.predictor.path),
            "size_bytes": self.predictor.path.stat().st_size,
            "outputs": list(self.predictor.outputs),
            "metadata": self.predictor.metadata,
        }


class Service:
    """One worker's models, threads and counts; an ASGI application of one path.

    Args:
        predictors: By name; the first answers where none is named.
        faces_in: Finds faces, from any thread; None where they are not offered.

    Attributes:
        stopping: No new request is taken.
    """

    def __init__(
        self,
        settings: Settings,
        predictors: Mapping[str, Predictor],
        metrics: Metrics,
        faces_in: FacesIn | None = None,
    ) -> None:
        self.settings, self.metrics = settings, metrics
        self.models = {name: Model(name, one) for name, one in predictors.items()}
        self.descriptions = [model.describe() for model in self.models.values()]
        self.stopping = False
        self._faces_in = faces_in
        self._reader = Reader(settings.limits)
        self._pool = ThreadPoolExecutor(settings.decode_threads, "decode")

    async def start(self) -> None:
        """Starts the models' threads, and has what is loaded on first use loaded."""
        limits, loop = self.settings.limits, asyncio.get_running_loop()
        for model in self.models.values():
            wait_s = limits.batch_wait_ms / 1e3
            seen = partial(self._seen, self.metrics.batch_pictures.labels(model.name))
            model.batcher = Batcher(model.predictor, limits.batch_size, wait_s, loop, seen)
            await loop.run_in_executor(self._pool, _warm_up, model.predictor)

    async def stop(self) -> None:
        """Finishes what was accepted."""
        self.stopping = True
        await asyncio.to_thread(self._pool.shutdown)
        for model in self.models.values():
            await asyncio.to_thread(model.batcher.close)

    @property
    def is_alive(self) -> bool:
        """Whether all models have somebody to ask."""
        return all(model.batcher.is_alive for model in self.models.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers `POST /v1/predict`.

        Raises:
            Problem: What the client is told instead.
        """
        start = time.perf_counter()
        try:
            body = await self._answer(scope, receive, start)
        except ClientGone:
            scope["state"]["gone"] = True
            return
        except Problem as problem:
            if problem.kind == "slow-answer":
                self.metrics.request_seconds.observe(time.perf_counter() - start)
            raise
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.metrics.request_seconds.observe(time.perf_counter() - start)

    async def _answer(self, scope: Scope, receive: Receive, start: float) -> bytes:
        question, limits = self._question(scope["query_string"]), self.settings.limits
        model = self.models[question.model]
        if self.stopping:
            raise Problem("stopping", "ask another one", {"Retry-After": "1"}, unread=True)
        if model.pending >= limits.queue:
            raise busy(f"{model.pending} images wait for {model.name!r}", unread=True)
        uploads, size = await self._reader.read(scope, receive)
        try:
            scope["state"]["log"] = {
                "model": model.name,
                "images": len(uploads),
                "bytes": size,
            }
            job = self._begin(model, question, uploads)
            try:
                async with asyncio.timeout(limits.timeout_s):
                    await job.done
            except TimeoutError:
                detail = f"no answer within {limits.timeout_s:g} s"
                raise Problem("slow-answer", detail, {"Retry-After": "1"}) from None
            return job.body(time.perf_counter() - start)
        finally:
            uploads.clear()  # what still waits to be decoded does not keep what is counted as free
            self._reader.free(size)

    def _question(self, query: bytes) -> Question:
        """What is asked for.

        Raises:
            Problem: A model that there is not, or a parameter that means nothing here.
        """
        asked: dict[str, Any] = {"model": next(iter(self.models))}
        if query:
            try:
                pairs = parse_qsl(query[:MAX_QUERY].decode("ascii"), True, max_num_fields=8)
            except ValueError:
                raise Problem("wrong-parameter", "the query cannot be read", unread=True) from None
            for key, value in pairs:
                if key == "model":
                    asked[key] = value
                elif key not in ("faces", "explain") or value.lower() not in FLAGS:
                    detail = (
                        f"{key[:80]}={value[:80]}: there are model=NAME, faces=true, explain=true"
                    )
                    raise Problem("wrong-parameter", detail, unread=True)
                else:
                    asked[key] = FLAGS[value.lower()]
        question = Question(**asked)
        if question.model not in self.models:
            detail = f"{question.model[:80]!r} is none of {', '.join(self.models)}"
            raise Problem("unknown-model", detail, unread=True)
        if question.faces and self._faces_in is None:
            raise Problem("faces-not-offered", "start the service with --faces", unread=True)
        return question

    def _begin(self, model: Model, question: Question, uploads: list[Upload]) -> _Job:
        """Accepts pictures, and sends them on their way.

        Raises:
            Problem: There is no room for them.
        """
        if model.pending + len(uploads) > self.settings.limits.queue:
            raise busy(f"{model.pending} images wait for {model.name!r}")
        job = _Job(self, model, question, uploads)
        model.batcher.expect(len(uploads))
        self._count(model, len(uploads))
        for index in range(len(uploads)):
            self._pool.submit(self._decode, job, index)
        return job

    @staticmethod
    def _seen(pictures: Histogram, batch: Batch) -> None:
        pictures.observe(batch.pictures)

    def _count(self, model: Model, more: int) -> None:
        model.pending += more
        self.metrics.pending.labels(model.name).set(model.pending)

    def _decode(self, job: _Job, index: int) -> None:
        """Decodes one picture, in a thread of the pool, and hands it to the model's thread."""
        start, spec = time.perf_counter(), job.model.predictor.spec
        try:
            if job.done.done():  # nobody waits any more
                raise asyncio.CancelledError
            faces_in = self._faces_in if job.question.faces else None
            max_pixels = self.settings.limits.max_pixels
            draft = self.settings.draft
            picture = decode(job.uploads[index], index, spec, draft, max_pixels, faces_in)
        except BaseException as error:
            job.loop.call_soon_threadsafe(job.failed, error)
            return
        end = time.perf_counter()

        def told(answers: list[Record] | Exception, waited_s: float, batch: Batch) -> None:
            seconds = (end - start, start - job.begun + waited_s, batch.model_s)
            job.told(index, picture, answers, seconds)

        job.model.batcher.put(Work(picture.pixels, job.question.explain, told, end))

    def finished(self, model: Model) -> None:
        """Counts a picture that was answered or failed; in the event loop."""
        self._count(model, -1)


class _Job:
    """One request's pictures, until all are answered or one is not; lives in the event loop."""

    def __init__(
        self, service: Service, model: Model, question: Question, uploads: list[Upload]
    ) -> None:
        self.service, self.model, self.question, self.uploads = service, model, question, uploads
        self.loop, self.begun = asyncio.get_running_loop(), time.perf_counter()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self._answers: list[Any] = [None] * len(uploads)
        self._left = len(uploads)
        self._seconds = [0.0, 0.0, 0.0]

    def failed(self, error: BaseException) -> None:
        """One picture could not be decoded: all of the request fails."""
        self.model.batcher.give_up()
        self.service.finished(self.model)
        if not self.done.done():
            self.done.set_exception(error)

    def told(
        self,
        index: int,
        picture: Picture,
        answers: list[Record] | Exception,
        seconds: tuple[float, float, float],
    ) -> None:
        """One picture is answered; `seconds` went to decoding, waiting for both, and the model."""
        self.service.finished(self.model)
        metrics = self.service.metrics
        for stage, took in zip(metrics.stages.values(), seconds, strict=True):
            stage.observe(took)
        if self.done.done():
            return
        if isinstance(answers, Exception):
            self.done.set_exception(answers)
            return
        decode_s, waited_s, model_s = self._seconds
        self._seconds = [
            decode_s + seconds[0],
            max(waited_s, seconds[1]),
            max(model_s, seconds[2]),
        ]
        for one in answers:
            label = (*one["labels"], "")[0]
            metrics.answers.labels(self.model.name, label).inc()
            if one.get("outlier"):
                metrics.outliers.labels(self.model.name).inc()
        record: dict[str, Any] = {"path": self.uploads[index].name, "size": list(picture.size)}
        if picture.boxes is None:
            record |= answers[0]
        else:
            pairs = zip(picture.boxes, answers, strict=True)
            record["faces"] = [{"box": box, **one} for box, one in pairs]
        self._answers[index] = record
        self._left -= 1
        if not self._left:
            self.done.set_result(None)

    def body(self, total_s: float) -> bytes:
        """The answer to the whole request."""
        names = ("decode", "queue", "model", "total")
        timing = zip(names, (*self._seconds, total_s), strict=True)
        answer = {
            "model": self.model.name,
            "predictions": self._answers,
            "timing_ms": {name: round(1e3 * seconds, 3) for name, seconds in timing},
        }
        return json.dumps(answer, allow_nan=False).encode()


def _warm_up(predictor: Predictor) -> None:
    """Decodes a small JPEG: Pillow loads what it needs when the first one is met."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG")
    predictor.probs(predictor.pixels(content.getvalue())[None])
