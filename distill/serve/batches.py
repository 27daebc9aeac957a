"""Micro-batches: pixels that wait for a model, and the thread that asks it about many at a time."""

from __future__ import annotations

import queue
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.runtime.predict import Predictor

Record = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """How a batch went.

    Attributes:
        pictures: Rows that the model saw.
        model_s: Seconds that it took.
    """

    pictures: int
    model_s: float


Told = Callable[[list[Record] | Exception, float, Batch], None]


@dataclass(frozen=True)
class Work:
    """Pixels of one picture on their way to a model.

    Attributes:
        pixels: `(n, height, width, 3)`: one, or a face each; there may be none.
        told: Is called in the event loop with the answers, the seconds that the pixels waited,
            and their batch.
        since: `time.perf_counter()` when they began to wait.
    """

    pixels: NDArray[np.uint8]
    explain: bool
    told: Told
    since: float


class Batcher:
    """A model's thread; onnxruntime lets go of the GIL while it computes.

    A batch is what waits when the model is free. Only while more is being decoded does it wait
    for that, and never longer than `wait_s`.

    Args:
        size: Rows from which on a batch is full.
        loop: Where answers are told.
        seen: Is told of every batch, in the loop.
    """

    def __init__(
        self,
        predictor: Predictor,
        size: int,
        wait_s: float,
        loop: AbstractEventLoop,
        seen: Callable[[Batch], None],
    ) -> None:
        self._predictor, self._size, self._wait_s = predictor, size, wait_s
        self._loop, self._seen = loop, seen
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._expected = 0  # counted in the event loop
        self._arrived = 0  # counted in the model's thread
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether there is anybody to answer."""
        return self._thread.is_alive()

    def expect(self, count: int) -> None:
        """Says that so many pieces of work will come; in the event loop.

        A batch waits for them; each has to come, or to be given up.
        """
        self._expected += count

    def give_up(self) -> None:
        """Takes back one piece of work that was expected; in the event loop."""
        self._expected -= 1

    def put(self, work: Work) -> None:
        """Hands over work that was expected; from any thread."""
        self._waiting.put(work)

    def close(self) -> None:
        """Ends the thread when all that waits is answered."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._ended and (first := self._waiting.get()) is not None:
            self._answer(self._batch(first))

    def _batch(self, first: Work) -> list[Work]:
        """Work to be done at once, beginning with the first."""
        batch, rows, until = [first], len(first.pixels), time.perf_counter() + self._wait_s
        self._arrived += 1
        while rows < self._size:
            try:
                work = self._waiting.get_nowait()
            except queue.Empty:
                left = until - time.perf_counter()
                if self._expected <= self._arrived or left <= 0:
                    break
                try:
                    work = self._waiting.get(timeout=left)
                except queue.Empty:
                    break
            if work is None:
                self._ended = True
                break
            self._arrived += 1
            batch.append(work)
            rows += len(work.pixels)
        return batch

    def _answer(self, batch: list[Work]) -> None:
        start = time.perf_counter()
        rows = sum(len(work.pixels) for work in batch)
        answers: list[Record] | Exception = []
        try:
            if rows:
                pixels = [work.pixels for work in batch]
                together = pixels[0] if len(batch) == 1 else np.concatenate(pixels)
                explain = [work.explain for work in batch for _ in work.pixels]
                answers = records_of(self._predictor, together, explain)
        except Exception as error:  # which is told to each, and ends nothing
            answers = error
        done = Batch(rows, time.perf_counter() - start)
        self._loop.call_soon_threadsafe(self._tell, batch, answers, start, done)

    def _tell(
        self, batch: list[Work], answers: list[Record] | Exception, start: float, done: Batch
    ) -> None:
        self._seen(done)
        at = 0
        for work in batch:
            waited_s = start - work.since
            if isinstance(answers, Exception):
                work.told(answers, waited_s, done)
                continue
            own = answers[at : at + len(work.pixels)]
            at += len(own)
            work.told(own, waited_s, done)


def records_of(
    predictor: Predictor, pixels: NDArray[np.uint8], explain: list[bool]
) -> list[Record]:
    """What a model says of pixels `(n, height, width, 3)`, as JSON has it.

    Args:
        explain: For each, whether its map is wanted too: of the first label, or of the likeliest
            class where it abstained; absent where the file has none.
    """
    records = []
    examined = predictor.examine(pixels, explain=any(explain))
    for prediction, is_explained in zip(examined, explain, strict=True):
        record = prediction.to_json()
        del record["path"]
        if not is_explained:
            record.pop("map", None)
        records.append(record)
    return records
