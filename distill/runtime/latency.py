"""The clock of shipped files: what one image takes in each of several, in turns about.

The speed suite has processes of its own and other scenarios (see benchmarks/); this one is for
decisions on the way, where files are compared within a few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.runtime.session import open_session
from distill.runtime.threads import call_ns, faster_session

WARM_UP = 3  # calls at the beginning of a turn that are not counted


def turns_ns(
    images: Mapping[Path, NDArray[np.uint8]],
    turns: int,
    calls: int,
    threads: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[Path, list[list[int]]]:
    """Times of calls with one image, in ns, by file and turn.

    A busy moment of the machine slows a turn of all files; each goes first in every other turn, and
    is loaded anew, as where its memory lies makes a difference.

    Args:
        images: Of each file, uint8 `(n, height, width, 3)`; every call gets the next one.
        threads: Threads within an operator; 0: as many as `Predictor` would take.
        advance: Told when a file's turn is over.
    """
    spent: dict[Path, list[list[int]]] = {file: [] for file in images}
    counts = {file: threads or _threads(file, pictures[:1]) for file, pictures in images.items()}
    for turn in range(turns):
        order = [*images] if turn % 2 else [*images][::-1]
        for file in order:
            session, pictures = open_session(file, counts[file]), images[file]
            times = []
            for call in range(WARM_UP + calls):
                image = pictures[(turn * calls + call) % len(pictures)][None]
                times.append(call_ns(session, image))
            spent[file].append(times[WARM_UP:])
            advance()
    return spent


def _threads(file: Path, image: NDArray[np.uint8]) -> int:
    session = faster_session(open_session(file), file, image)
    count: int = session.get_session_options().intra_op_num_threads
    return count
