"""What a machine gives without any service: the model alone, and decoding with it, in one process.

`python -m distill.benchmarks.service_bare MODEL SECONDS THREADS PICTURE...` prints images per
second as JSON: of the session with one thread, one picture at a time; of decoding, session and
decision in one thread, as in a handler; and the same in `THREADS` threads on one session, which is
what services can be held against.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np

from distill.runtime.predict import Predictor

WARM_UP = 5  # calls


def rate(call: Callable[[bytes], object], pictures: list[bytes], seconds: float) -> float:
    """Calls per second of one thread."""
    for picture in pictures[:WARM_UP]:
        call(picture)
    source, count = cycle(pictures), 0
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        call(next(source))
        count += 1
    return count / (now - start)


def main(arguments: list[str]) -> None:
    """Measures as the command line says."""
    model, seconds, threads = arguments[0], float(arguments[1]), int(arguments[2])
    pictures = [Path(file).read_bytes() for file in arguments[3:]]
    predictor = Predictor(model, threads=1)
    pixels = np.stack([predictor.pixels(pictures[0])])
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(rate, predictor.predict, pictures, seconds) for _ in range(threads)]
        together = sum(part.result() for part in parts)
    found = {
        "session": rate(lambda _: predictor.probs(pixels), pictures, seconds),
        "decoded": rate(predictor.predict, pictures, seconds),
        "decoded_threads": together,
    }
    print(json.dumps({f"{name}_per_s": value for name, value in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
