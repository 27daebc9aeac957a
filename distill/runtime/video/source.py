"""Where frames come from: a file, each frame in its turn, or a camera, always the newest.

OpenCV gives BGR; from here on all is RGB.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distill.errors import UserError
from distill.runtime.faces import load_opencv

USUAL_RATE, FASTEST = 25.0, 240.0  # frames/s where a source tells none, or nothing believable
PATIENCE_S = 10.0  # that a camera may take for a frame
END_S = 2.0  # that a camera may take to end


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        index: Its number in the source, from 0; of a camera, frames that were dropped count.
        time_s: Since the first frame; of a file, as that says, or by the rate where it does not.
        pixels: uint8 RGB `(height, width, 3)`.
    """

    index: int
    time_s: float
    pixels: NDArray[np.uint8]


def open_source(source: str) -> VideoFile | Camera:
    """A number or a device is a camera, everything else a file.

    Raises:
        UserError: There is no such file or camera, it gives no picture, or OpenCV is missing.
    """
    cv2, path = load_opencv(), Path(source)
    if source.isdecimal():
        return Camera(cv2, int(source), source)
    if path.is_char_device():
        return Camera(cv2, source, source)
    if not path.is_file():
        hint = "name a video file, or a camera by its number, such as 0"
        what = "a folder, no video" if path.is_dir() else "no such file or camera"
        raise UserError(what, source, hint)
    return VideoFile(cv2, path)


class VideoFile:
    """Every frame of a file, in order, decoded when it is asked for; a context manager.

    Attributes:
        live: Whether frames come when they come, and are dropped if nobody is ready.
        rate: Frames/s.
        size: Width and height of the first frame.
        frames: How many there are, by what the file says; 0 where it does not.
        dropped: None are.
    """

    live, dropped = False, 0

    def __init__(self, cv2: Any, path: Path) -> None:
        self._cv2, self._path = cv2, path
        self._capture = _opened(cv2, str(path), cv2.CAP_FFMPEG)
        self._first = _read(self._capture)
        self._start_s = self._said_s()
        if self._first is None:
            hint = "name a file that a player of videos shows"
            raise UserError("no video that OpenCV can read", str(path), hint)
        self.rate, self.size = _rate_of(cv2, self._capture), _size_of(self._first)
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        bgr, index, time_s = self._first, 0, 0.0
        while bgr is not None:
            pixels = self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB)
            yield Frame(index, time_s, pixels)
            bgr, index, before = _read(self._capture), index + 1, time_s
            time_s = self._said_s() - self._start_s
            if not time_s > before:
                time_s = before + 1 / self.rate

    def _said_s(self) -> float:
        """When the frame that was read last is due, in seconds by the file's own clock."""
        return float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000


class Camera:
    """The newest frame of a camera whenever one is asked for; a context manager.

    A thread reads on meanwhile, so that what is seen is never older than one frame.

    Attributes:
        live, rate, size, frames: As those of `VideoFile`.
        dropped: Frames that nobody was ready for.
    """

    live, frames = True, 0

    def __init__(self, cv2: Any, device: int | str, name: str) -> None:
        self._cv2, self._name = cv2, name
        self._capture = _opened(cv2, device, cv2.CAP_ANY)
        first = _read(self._capture) if self._capture.isOpened() else None
        if first is None:
            hint = "close other programs that use it, allow access to it, or name another"
            raise UserError("no picture from this camera", name, hint)
        self.rate, self.size = _rate_of(cv2, self._capture), _size_of(first)
        self.dropped = 0
        self._start = time.monotonic()
        self._newest: tuple[int, float, Any] | None = (0, 0.0, first)
        self._ended, self._news = False, threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._news:
            self._ended = True
        self._thread.join(END_S)
        if not self._thread.is_alive():  # a camera that hangs is left to the end of the process
            self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        while newest := self._next():
            index, time_s, bgr = newest
            yield Frame(index, time_s, self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB))

    def _next(self) -> tuple[int, float, Any] | None:
        with self._news:
            deadline = time.monotonic() + PATIENCE_S
            while self._newest is None and not self._ended:
                if time.monotonic() > deadline:
                    what = f"the camera has given no picture for {PATIENCE_S:.0f} s"
                    raise UserError(what, self._name, "plug it in again")
                self._news.wait(0.2)  # in parts, so that Ctrl-C comes through everywhere
            newest, self._newest = self._newest, None
            return newest

    def _follow(self) -> None:
        index = 0
        while not self._ended:
            bgr = _read(self._capture)
            with self._news:
                if bgr is None:
                    self._ended = True
                else:
                    index += 1
                    self.dropped += self._newest is not None
                    self._newest = (index, time.monotonic() - self._start, bgr)
                self._news.notify()


def _opened(cv2: Any, source: int | str, backend: int) -> Any:
    capture = cv2.VideoCapture(source, backend)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # of cameras: what is older is of no use
    return capture


def _read(capture: Any) -> Any:
    """The next frame as BGR `(height, width, 3)`; None where there is none."""
    there, bgr = capture.read()
    return bgr if there and bgr is not None and bgr.ndim == 3 else None


def _rate_of(cv2: Any, capture: Any) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if math.isfinite(rate) and 0.0 < rate <= FASTEST else USUAL_RATE


def _size_of(bgr: NDArray[np.uint8]) -> tuple[int, int]:
    return bgr.shape[1], bgr.shape[0]
