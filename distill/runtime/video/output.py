"""Where annotated frames go: a file, or a window."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import UserError, first_line
from distill.files import LEAST_SPACE, atomic, no_space
from distill.runtime.faces import load_opencv

# Codecs that OpenCV's wheels bring for a kind of file.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
LONGEST_S = 1.0  # that a frame of a camera is held for; a pause beyond it is cut


class VideoOutput:
    """A video file, there once it is whole: also when a program is interrupted; a context manager.

    Args:
        path: Its ending says of what kind it is.
        rate: Frames/s.
        size: Width and height.

    Raises:
        UserError: No kind of file that can be written, or the file cannot be made.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        if path.suffix.lower() not in CODECS:
            kind = f"the ending {path.suffix!r}" if path.suffix else "no ending"
            raise UserError(f"{kind} says no kind of video", str(path), f"use {', '.join(CODECS)}")
        self._cv2, self.path, self._rate, self._size = load_opencv(), path, rate, size
        self._codec = self._cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])
        self._stack, self._written = contextlib.ExitStack(), 0

    def __enter__(self) -> Self:
        self._whole = self._stack.enter_context(atomic(self.path))
        self._part = self._whole.with_name(f"{self._whole.name}{self.path.suffix}")
        place = str(self._part), self._cv2.CAP_FFMPEG
        self._writer: Any = self._cv2.VideoWriter(*place, self._codec, self._rate, self._size)
        if not self._writer.isOpened():
            self._part.unlink(missing_ok=True)
            self._stack.close()
            hint = f"name another file, or another kind: {', '.join(CODECS)}"
            raise UserError("this video cannot be written", str(self.path), hint)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.release()
        if kind is None:
            self._part.replace(self._whole)
        self._part.unlink(missing_ok=True)
        self._stack.__exit__(kind, error, trace)

    def write(self, pixels: NDArray[np.uint8], time_s: float) -> None:
        """Adds a frame, RGB `(height, width, 3)`, as often as its time asks for; at least once.

        Raises:
            RunStopped: The disk is full.
        """
        bgr = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR)
        if bgr.shape[1::-1] != self._size:  # which OpenCV would leave out without a word
            bgr = self._cv2.resize(bgr, self._size)
        due = round(time_s * self._rate) + 1 - self._written
        for _ in range(min(max(1, due), max(1, round(LONGEST_S * self._rate)))):
            self._writer.write(bgr)
        self._written += max(1, due)
        if shutil.disk_usage(self._part.parent).free < LEAST_SPACE:
            raise no_space(self.path)  # the writer says nothing


class Window:
    """A window that shows frames; closed by its own button, q or Escape; a context manager.

    Raises:
        UserError: There is no display, or Python has no tkinter.
    """

    def __init__(self, title: str) -> None:
        hint = "write a file instead: --out FILE.mp4"
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError:
            raise UserError("a window needs tkinter, which is missing", hint=hint) from None
        self._images: Any = ImageTk
        try:
            self._root: Any = tkinter.Tk()
        except tkinter.TclError as error:
            what = f"no window can be opened ({first_line(error)})"
            raise UserError(what, hint=hint) from None
        self._is_open = True
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda _: self._close())
        self._label: Any = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._root.destroy()

    def show(self, pixels: NDArray[np.uint8]) -> bool:
        """Shows a frame, RGB `(height, width, 3)`, no larger than the screen.

        Returns:
            Whether the window is still open.
        """
        image = Image.fromarray(pixels)
        image.thumbnail((self._root.winfo_screenwidth(), self._root.winfo_screenheight() - 80))
        photo = self._images.PhotoImage(image, master=self._root)
        self._label.configure(image=photo)
        self._label.image = photo  # or it is collected, and the window is empty
        self._root.update()
        return self._is_open

    def _close(self) -> None:
        self._is_open = False
