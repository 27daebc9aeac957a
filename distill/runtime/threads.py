"""How many threads a network is worth, found out by asking it.

Threads that share 600 million multiplications halve the time; those that share 6 million wait for
each other at every layer, the longer the more there are, and for any other program that has a core.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.runtime.session import open_session

LARGE_NS = 1_000_000  # networks that take longer have enough to share
BUDGET_NS = 4_000_000  # of all calls that compare
TURNS, CALLS = 6, 3  # at most, and of each session in a turn
GAIN = 0.9  # of the time of one thread: several that save less are not worth their cores


def faster_session(shared: Any, path: Path, image: NDArray[np.uint8]) -> Any:
    """That session, or one of a single thread where it is about as fast for one image.

    Takes the loading of a small file and some milliseconds; a large one costs a call or two.

    Args:
        shared: An open session of as many threads as onnxruntime likes.
        path: The file that it is of.
        image: uint8 `(1, height, width, 3)`.
    """
    call_ns(shared, image)
    if call_ns(shared, image) > LARGE_NS:
        return shared
    single = open_session(path, 1)
    call_ns(single, image)
    spent: dict[Any, list[int]] = {shared: [], single: []}
    for _ in range(TURNS):
        for session, times in spent.items():
            times += [call_ns(session, image) for _ in range(CALLS)]
        if sum(map(sum, spent.values())) > BUDGET_NS:
            break
    return shared if median(spent[shared]) < GAIN * median(spent[single]) else single


def call_ns(session: Any, image: NDArray[np.uint8]) -> int:
    """Nanoseconds of one call."""
    start = perf_counter_ns()
    session.run(["prob"], {"image": image})
    return perf_counter_ns() - start
