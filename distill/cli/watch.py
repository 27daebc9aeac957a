"""`distill watch`: labels of a webcam or a video file, as a window, a video, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill.cli import INTERRUPTED
from distill.cli.options import FaceModelOpt, ModelArg, file_path
from distill.errors import UserError
from distill.pipeline.stages import json_line
from distill.progress import Progress

if TYPE_CHECKING:
    from distill.runtime.video.output import VideoOutput, Window
    from distill.runtime.video.source import Camera, VideoFile
    from distill.runtime.video.watch import Seen, Watcher

TELL_S = 5.0  # from one line that says how it is going to the next
RECENT = 30  # frames that the rate is of


class Pace:
    """Frames/s of late, and when it is time to say so."""

    def __init__(self) -> None:
        self.count, self._told = 0, time.monotonic()
        self._times = deque([self._told], RECENT + 1)

    def tick(self) -> None:
        """Counts a frame."""
        self.count += 1
        self._times.append(time.monotonic())

    def __str__(self) -> str:
        seconds = self._times[-1] - self._times[0]
        return f"{(len(self._times) - 1) / max(seconds, 1e-9):.1f} frames/s"

    def is_due(self) -> bool:
        """Whether a line is due again."""
        if time.monotonic() - self._told < TELL_S:
            return False
        self._told = time.monotonic()
        return True


@dataclass(frozen=True)
class Views:
    """Where what is seen goes: to stdout, a window, a file."""

    names: tuple[str, ...]
    as_json: bool
    window: Window | None
    video: VideoOutput | None

    def show(self, seen: Seen, note: str) -> bool:
        """Shows a frame, with a note in its corner; whether it is to go on."""
        if self.as_json:
            print(json_line(seen.to_json()), flush=True)
        if not (self.window or self.video):
            return True
        from distill.runtime.video.drawing import draw

        canvas = draw(seen, self.names, note)
        if self.video:
            self.video.write(canvas, seen.frame.time_s)
        return self.window is None or self.window.show(canvas)


def watch_command(
    source: Annotated[
        str, typer.Argument(help="A video file, or a camera by number (0) or device.")
    ],
    model: ModelArg,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=file_path,
            metavar="FILE",
            help="Annotated video; .mp4, .mkv or .avi by its name.",
        ),
    ] = None,
    window: Annotated[
        bool, typer.Option("--window", help="A window, even with --out or --json.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON per frame.")] = False,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Frames from one search for faces to the next.")
    ] = 5,
    no_faces: Annotated[bool, typer.Option("--no-faces", help="Classify whole frames.")] = False,
    face_model: FaceModelOpt = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
) -> None:
    """Label the faces of a video or a webcam, live: a window, a video, or JSON; needs no torch.

    Ctrl-C ends it, with a whole video.
    """
    from distill.runtime.predict import Predictor
    from distill.runtime.video.output import VideoOutput, Window
    from distill.runtime.video.source import open_source
    from distill.runtime.video.watch import Watcher, finder_of

    if no_faces and face_model:
        raise UserError("--face-model finds faces, --no-faces asks for none", hint="leave one out")
    if out and out.exists():
        if not overwrite:
            raise UserError("there is a file already", str(out), "--overwrite, or another name")
        if Path(source).exists() and out.samefile(source):
            raise UserError("this is the video that is read", str(out), "name another file")
    predictor = Predictor(model, threads=1)
    watcher = Watcher(predictor, None if no_faces else finder_of(face_model), every)
    with ExitStack() as opened:
        frames = open_source(source)
        opened.enter_context(frames)
        window_ = video = None
        if window or not (out or as_json):
            window_ = opened.enter_context(Window(f"distill watch {source}"))
        if out:
            video = opened.enter_context(VideoOutput(out, frames.rate, frames.size))
        views = Views(predictor.names, as_json, window_, video)
        is_whole, pace = look(frames, watcher, views, progress := Progress())
    dropped = f", {frames.dropped:,} dropped" if frames.dropped else ""
    progress.say(f"{pace.count:,} frames{dropped}, {pace}" + (f": {out}" if out else ""))
    if not is_whole and not frames.live:  # a file has an end of its own, a camera none
        sys.exit(INTERRUPTED)


def look(
    frames: VideoFile | Camera, watcher: Watcher, views: Views, progress: Progress
) -> tuple[bool, Pace]:
    """Shows frame after frame, until they or the window end, or Ctrl-C.

    Returns:
        Whether nobody pressed Ctrl-C, and how it went.
    """
    pace = Pace()
    try:
        for frame in frames:
            seen = watcher.see(frame)
            pace.tick()
            if not views.show(seen, str(pace) if frames.live or views.window else ""):
                break
            if pace.is_due():
                of_all = f" of {frames.frames:,}" if frames.frames else ""
                progress.say(f"{pace.count:,}{of_all} frames, {pace}")
    except KeyboardInterrupt:
        if not pace.count:
            raise
        return False, pace
    return True, pace
