"""Faces in video: what a frame costs, stage by stage, and how many are found and labelled rightly.

Claim: at 640 x 480 a core follows and labels several faces faster than a camera films them; what
costs is the search, so every other frame that is not searched is nearly free.
Conditions: a made video. Photographs of people, one per class folder in turn, 200 pixels high,
sway and grow by a tenth in front of a moving texture, three at a time, others every 60 frames.
A face counts as found where the middle of a box is on its photograph; `false` boxes are elsewhere.
Milliseconds are CPU time of this process per frame, single-threaded, so that other work on the
machine matters little. `--save FILE.mp4` keeps the made video, to watch it.
Command: `python -m distill.benchmarks.video --model MODEL.onnx --data FOLDER [--frames 600]`
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.decode import read_image
from distill.runtime.faces import load_opencv
from distill.runtime.predict import Predictor
from distill.runtime.video.drawing import draw
from distill.runtime.video.output import VideoOutput
from distill.runtime.video.source import Frame, open_source
from distill.runtime.video.watch import Seen, Watcher, finder_of

SIZE, RATE = (640, 480), 25.0
HEIGHT = 200  # pixels of a photograph
AT_ONCE, SCENE = 3, 60  # photographs in a frame; frames that they stay
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pasted:
    """Where a photograph is in a frame, and of what class."""

    box: tuple[float, float, float, float]
    label: str
    number: int


def made_frames(data: Path, frames: int) -> Iterator[tuple[Pixels, list[Pasted]]]:
    """A video, and what is in it.

    Args:
        data: Class folders of photographs, of which the same ones are drawn each time.
    """
    rng = np.random.default_rng(0)
    classes = sorted(folder for folder in data.iterdir() if folder.is_dir())
    files = {folder: rng.permutation(sorted(folder.glob("*.jpg"))) for folder in classes}
    noise = rng.integers(0, 256, (SIZE[1] // 40, SIZE[0] // 20, 3), np.uint8)
    wide = (SIZE[0] * 2, SIZE[1])
    texture = np.asarray(Image.fromarray(noise).resize(wide, Image.Resampling.BICUBIC))
    actors: list[tuple[Image.Image, str]] = []
    for index in range(frames):
        scene, step = divmod(index, SCENE)
        if step == 0:
            numbers = range(scene * AT_ONCE, (scene + 1) * AT_ONCE)
            chosen = [(classes[n % len(classes)], n // len(classes)) for n in numbers]
            actors = [
                (read_image(Path(files[folder][n % len(files[folder])])), folder.name)
                for folder, n in chosen
            ]
            phases = rng.uniform(0, 2 * np.pi, (AT_ONCE, 3))
        shift = 2 * index % SIZE[0]
        canvas = Image.fromarray(texture[:, shift : shift + SIZE[0]])
        truth = []
        for place, (photo, label) in enumerate(actors):
            sway = np.sin(2 * np.pi * step / SCENE + phases[place])
            height = HEIGHT * (1 + 0.1 * sway[0])
            width = min(height * photo.width / photo.height, SIZE[0] / AT_ONCE - 10)
            left = SIZE[0] * (place + 0.5) / AT_ONCE - width / 2 + 20 * sway[1]
            top = (SIZE[1] - height) / 2 + 80 * sway[2]
            canvas.paste(photo.resize((round(width), round(height))), (round(left), round(top)))
            truth.append(Pasted((left, top, width, height), label, scene * AT_ONCE + place))
        yield np.asarray(canvas), truth


def scores(seen: list[Seen], truths: list[list[Pasted]]) -> dict[str, float]:
    """Shares of the photographs in all frames, in %, and false boxes per 100 frames."""
    count = found = right = false = 0
    ids: dict[int, set[int]] = defaultdict(set)  # numbers that a person had
    persons: dict[int, set[int]] = defaultdict(set)  # who had a number
    for view, truth in zip(seen, truths, strict=True):
        count += len(truth)
        people = {p.number: p.face for p in view.people or ()}
        matched = set()
        for pasted in truth:
            on_it = [n for n, face in people.items() if _holds(pasted.box, face.box)]
            matched |= set(on_it)
            if on_it:
                found += 1
                largest = max(on_it, key=lambda n: people[n].box.width)
                right += people[largest].prediction.labels == (pasted.label,)
                ids[pasted.number].add(largest)
                persons[largest].add(pasted.number)
        false += len(people.keys() - matched)
    return {
        "found": 100 * found / count,
        "right_of_found": 100 * right / max(1, found),
        "numbers_per_person": sum(map(len, ids.values())) / max(1, len(ids)),
        "persons_per_number": sum(map(len, persons.values())) / max(1, len(persons)),
        "false_per_100_frames": 100 * false / len(seen),
    }


def _holds(outer: tuple[float, ...], box: tuple[int, ...]) -> bool:
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return (
        outer[0] <= x <= outer[0] + outer[2]
        and outer[1] <= y <= outer[1] + outer[3]
        and box[2] * box[3] >= 0.02 * outer[2] * outer[3]
    )


class Clock:
    """CPU time of this process by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, its time added to that of a stage."""

        def run(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[stage] += time.process_time() - start

        return run


def watch(
    file: Path, model: Path, every: int, face_model: Path | None, out: Path
) -> dict[str, Any]:
    """Goes through a video as `distill watch` does; what each stage took, and what was seen."""
    clock, predictor = Clock(), Predictor(model, threads=1)
    watcher = Watcher(predictor, finder_of(face_model), every)
    # Timed where the watcher calls them; what is left of `see` is crops and smoothing.
    watcher._finder.find = clock.timed("search", watcher._finder.find)  # type: ignore
    watcher._tracker.move = clock.timed("track", watcher._tracker.move)  # type: ignore
    watcher._label = clock.timed("classify", watcher._label)  # type: ignore
    seen: list[Seen] = []
    with open_source(str(file)) as frames, VideoOutput(out, RATE, SIZE) as written:
        reading = iter(frames)
        following: Callable[[], Frame | None] = clock.timed("decode", lambda: next(reading, None))
        while frame := following():
            view = clock.timed("see", watcher.see)(frame)
            canvas = clock.timed("draw", draw)(view, predictor.names)
            clock.timed("encode", written.write)(canvas, frame.time_s)
            seen.append(Seen(Frame(frame.index, frame.time_s, canvas[:0]), view.people, None))
    rest = clock.seconds.pop("see")
    rest -= sum(clock.seconds[stage] for stage in ("search", "track", "classify"))
    clock.seconds["rest"] = rest
    each = {f"{stage}_ms": 1000 * s / len(seen) for stage, s in clock.seconds.items()}
    return {"every": every, **each, "all_ms": sum(each.values()), "seen": seen}


def main() -> None:
    """Prints a JSON line per setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--face-model", type=Path)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--every", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    load_opencv().setNumThreads(1)
    with TemporaryDirectory() as folder:
        file = options.save or Path(folder) / "made.mp4"
        truths = []
        with VideoOutput(file, RATE, SIZE) as made:
            for index, (pixels, truth) in enumerate(made_frames(options.data, options.frames)):
                made.write(pixels, index / RATE)
                truths.append(truth)
        for every in options.every:
            out = Path(folder) / "labelled.mp4"
            row = watch(file, options.model, every, options.face_model, out)
            row |= scores(row.pop("seen"), truths)
            print(json.dumps({key: round(value, 2) for key, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
