"""Video: frames in order and in RGB, faces followed and numbered, a whole file whatever ends it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.demo import paint
from distill.errors import UserError
from distill.runtime.faces import Face, FaceFinder
from distill.runtime.predict import Prediction, Predictor
from distill.runtime.video import drawing, source
from distill.runtime.video.drawing import COLOURS, draw
from distill.runtime.video.output import VideoOutput, Window
from distill.runtime.video.source import Frame, open_source
from distill.runtime.video.tracking import Tracker, iou
from distill.runtime.video.watch import Person, Seen, Watcher
from distill.scoring.cascades import Box

cv2 = pytest.importorskip("cv2")
SIZE, FACE = (160, 120), 40


def solid(*colour: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), colour, np.uint8)


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    with VideoOutput(path, 25.0, SIZE) as video:
        for index, pixels in enumerate(frames):
            video.write(pixels, index / 25)
    return path


def read_video(path: Path) -> list[np.ndarray]:
    with open_source(str(path)) as frames:
        return [frame.pixels for frame in frames]


def scene(index: int) -> tuple[np.ndarray, list[Box]]:
    """Two painted faces that move over stripes, and where they are."""
    stripes = np.tile(np.arange(SIZE[0] * 2) // 8 % 2 * 60, (SIZE[1], 1))[
        :, index : index + SIZE[0]
    ]
    canvas = Image.fromarray(np.repeat(stripes[..., None], 3, axis=2).astype(np.uint8) + 90)
    boxes = [Box(10 + 2 * index, 20 + index, FACE, FACE), Box(110 - 2 * index, 70, FACE, FACE)]
    for number, box in enumerate(boxes):
        canvas.paste(Image.fromarray(paint(number)[0]).resize((FACE, FACE)), box[:2])
    return np.asarray(canvas), boxes


class Places:
    """A finder that is told where faces are, and counts how often it is asked."""

    def __init__(self, boxes: list[list[Box]]) -> None:
        self.boxes, self.asked = boxes, 0

    def find(self, image: Image.Image) -> list[Box]:
        self.asked += 1
        return self.boxes[self.asked - 1]


def grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def test_faces_are_followed_between_searches(colours_onnx):
    """Searched for in frames 0, 4, 8: in all frames after the second search, where they are."""
    scenes = [scene(index) for index in range(12)]
    finder = Places([scenes[index][1] for index in (0, 4, 8)])
    watcher = Watcher(Predictor(colours_onnx), finder, every=4)
    seen = [
        watcher.see(Frame(index, index / 25, pixels)) for index, (pixels, _) in enumerate(scenes)
    ]
    assert finder.asked == 3
    assert [len(view.people) for view in seen] == [0] * 4 + [2] * 8
    for view, (_, boxes) in zip(seen[4:], scenes[4:], strict=True):
        assert [person.number for person in view.people] == [1, 2]
        for person, box in zip(view.people, boxes, strict=True):
            assert iou(person.face.box, box) > 0.75, (view.frame.index, person, box)


def test_a_face_that_a_search_misses_keeps_its_number():
    tracker, box = Tracker(), Box(40, 40, 40, 40)
    for found in ([box], [box], [], [], [box]):
        tracker.update(found)
    assert [(track.number, track.missed) for track in tracker.tracks] == [(1, 0)]
    for _ in range(5):
        tracker.update([])
    assert len(tracker.tracks) == 1
    tracker.update([])
    assert tracker.tracks == []
    tracker.update([box])
    tracker.update([box])
    assert [track.number for track in tracker.tracks] == [2]


def test_what_is_found_once_is_nobody():
    tracker = Tracker()
    for found in ([Box(10, 10, 30, 30)], [], [Box(90, 50, 30, 30)], [Box(40, 10, 30, 30)]):
        tracker.update(found)
        assert tracker.tracks == []


def test_the_best_overlap_decides_who_is_who():
    """Two neighbours move by half a face: the nearer box is each one's, in whatever order."""
    tracker, one, other = Tracker(confirm=1), Box(20, 20, 40, 40), Box(70, 20, 40, 40)
    tracker.update([one, other])
    tracker.update([Box(88, 20, 40, 40), Box(38, 20, 40, 40)])
    left, right = (track.place[0] for track in tracker.tracks)
    assert (left, right) == (29, 79)  # half of the way


def test_another_scene_has_other_people():
    tracker, rng = Tracker(confirm=1), np.random.default_rng(0)
    first, second = (rng.integers(0, 256, SIZE[::-1], np.uint8) for _ in range(2))
    tracker.move(first)
    tracker.update([Box(40, 40, 40, 40)])
    tracker.move(first)
    assert len(tracker.tracks) == 1
    tracker.move(second)
    assert tracker.tracks == []


def test_who_leaves_the_frame_is_gone():
    tracker = Tracker(confirm=1)
    frames = [np.roll(grey(scene(0)[0]), -8 * step, axis=1) for step in range(9)]
    tracker.move(frames[0])
    tracker.update([Box(10, 20, FACE, FACE)])
    for frame in frames[1:]:
        tracker.move(frame)
    assert tracker.tracks == []


def test_labels_are_smoothed_over_time(colours_onnx):
    """After five red frames, 0.8 of red is left in the first green one, 0.8 ** 4 in the fourth."""
    watcher = Watcher(Predictor(colours_onnx), None)
    frames = [solid(255, 0, 0)] * 5 + [solid(0, 255, 0)] * 4
    seen = [watcher.see(Frame(i, 0.0, pixels)).whole for i, pixels in enumerate(frames)]
    assert [answer.labels for answer in seen] == [("red",)] * 8 + [("green",)]
    assert seen[5].probs == pytest.approx({"red": 0.8, "green": 0.2, "blue": 0.0}, abs=1e-6)
    assert seen[8].probs["red"] == pytest.approx(0.8**4)


def test_frames_come_in_order_and_in_rgb(tmp_path, distill, colours_onnx):
    """Fed in BGR, as OpenCV reads them, red would be blue."""
    shades = [solid(200, 0, 20 * index) for index in range(6)]
    file = write_video(tmp_path / "v.mp4", shades)
    blues = [pixels[..., 2].mean() for pixels in read_video(file)]
    assert len(blues) == 6
    assert blues == sorted(blues)
    status, out, _ = distill("watch", file, colours_onnx, "--no-faces", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(line["frame"], line["labels"]) for line in lines] == [(i, ["red"]) for i in range(6)]
    assert lines[5]["time_s"] == 0.2


def test_frames_have_the_times_that_the_file_gives_them(tmp_path):
    """Videos of phones and screens have frames of unequal length."""
    first, *others = (Image.fromarray(solid(40 * index, 0, 0)) for index in range(5))
    file, held_ms = tmp_path / "v.gif", [100, 100, 1000, 2000, 100]
    first.save(file, save_all=True, append_images=others, duration=held_ms)
    times = [frame.time_s for frame in open_source(str(file))]
    assert times == pytest.approx([0.0, 0.1, 0.2, 1.2, 3.2], abs=0.02)


def test_a_video_is_not_written_to_an_address(tmp_path, distill, colours_onnx):
    file = write_video(tmp_path / "v.mp4", [solid(9, 9, 9)])
    status, _, err = distill("watch", file, colours_onnx, "--out", "memory://bucket/o.mp4")
    assert (status, "name a file of this machine" in err) == (2, True)


def test_a_video_is_labelled_frame_by_frame(tmp_path, distill, colours_onnx, monkeypatch):
    scenes = [scene(index) for index in range(7)]
    finder = Places([boxes for _, boxes in scenes])
    monkeypatch.setattr(FaceFinder, "find", lambda self, image: finder.find(image))
    file, out = (
        write_video(tmp_path / "v.avi", [pixels for pixels, _ in scenes]),
        tmp_path / "o.mp4",
    )
    status, said, err = distill("watch", file, colours_onnx, "--out", out, "--every", "1", "--json")
    assert status == 0
    assert "7 frames" in err
    last = json.loads(said.splitlines()[-1])
    assert [face["id"] for face in last["faces"]] == [1, 2]
    assert {"box", "labels", "prob", "probs", "abstained"} <= last["faces"][0].keys()
    drawn = read_video(out)
    assert [pixels.shape for pixels in drawn] == [(120, 160, 3)] * 7
    changed = np.abs(drawn[6].astype(int) - scenes[6][0]).max(axis=2) > 80
    assert changed.mean() > 0.02  # boxes and labels
    assert [path.name for path in tmp_path.iterdir() if path != file] == ["o.mp4"]
    status, _, err = distill("watch", file, colours_onnx, "--out", out)
    assert (status, "--overwrite" in err) == (2, True)
    status, _, err = distill("watch", file, colours_onnx, "--out", file, "--overwrite")
    assert (status, "the video that is read" in err) == (2, True)


def test_ctrl_c_leaves_a_whole_video(tmp_path, distill, colours_onnx, monkeypatch):
    file, out = write_video(tmp_path / "v.mp4", [solid(9, 9, 9)] * 8), tmp_path / "o.mp4"
    see = Watcher.see

    def interrupted(self, frame):
        if frame.index == 5:
            raise KeyboardInterrupt
        return see(self, frame)

    monkeypatch.setattr(Watcher, "see", interrupted)
    status, _, err = distill("watch", file, colours_onnx, "--no-faces", "--out", out)
    assert status == 130
    assert "5 frames" in err
    assert len(read_video(out)) == 5


def test_a_video_that_fails_leaves_no_file(tmp_path):
    empty = np.empty((0, 0, 3), np.uint8)
    with pytest.raises(cv2.error), VideoOutput(tmp_path / "o.mp4", 25.0, SIZE) as video:
        video.write(empty, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_is_written_as_often_as_its_time_asks(tmp_path):
    """At 25/s: frames 0, 1, then 4 (which fills 2, 3, 4), one that comes early, a long pause."""
    file = tmp_path / "o.avi"
    with VideoOutput(file, 25.0, SIZE) as video:
        for time_s in (0.0, 0.04, 0.16, 0.17, 60.0):
            video.write(solid(9, 9, 9), time_s)
    assert len(read_video(file)) == 1 + 1 + 3 + 1 + 25


class Capture:
    """OpenCV's capture of a camera that films shades, one every few milliseconds."""

    def __init__(self, count: int, wait_s: float) -> None:
        self.count, self.wait_s, self.index, self.released = count, wait_s, 0, False

    def isOpened(self):
        return self.count > 0

    def read(self):
        time.sleep(self.wait_s)
        self.index += 1
        there = self.index <= self.count
        return there, solid(0, 0, self.index) if there else None

    def get(self, _):
        return 30.0

    def set(self, *_):
        return True

    def release(self):
        self.released = True


def test_a_camera_drops_frames_and_never_lags(monkeypatch):
    """Each frame takes ten times as long as the camera takes: what is seen is the newest."""
    capture = Capture(60, 0.002)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: capture)
    lags, indices = [], []
    with open_source("0") as frames:
        for frame in frames:
            indices.append(frame.index)
            assert frame.pixels[0, 0, 0] == frame.index + 1  # BGR was turned
            lags.append(capture.index - 1 - frame.index)
            time.sleep(0.02)
        dropped = frames.dropped
    assert indices == sorted(set(indices))
    assert len(indices) + dropped == 60
    assert dropped > 10
    assert np.median(lags) <= 2
    assert capture.released


def test_a_camera_without_a_picture_is_one_line(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Capture(0, 0.0))
    with pytest.raises(UserError, match="no picture from this camera: 3"):
        open_source("3")


def test_a_camera_that_stops_answering_is_one_line(monkeypatch):
    capture = Capture(9, 0.0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: capture)
    monkeypatch.setattr(source, "PATIENCE_S", 0.05)
    camera = open_source("0")
    capture.wait_s = 0.5  # before it is followed
    with camera as frames, pytest.raises(UserError, match="no picture for"):
        list(frames)


def test_closing_the_window_ends_it(tmp_path, distill, colours_onnx, monkeypatch):
    shown = []

    def show(self, pixels):
        shown.append(pixels.shape)
        return len(shown) < 3

    monkeypatch.setattr(Window, "__init__", lambda self, title: None)
    monkeypatch.setattr(Window, "__exit__", lambda *_: None)
    monkeypatch.setattr(Window, "show", show)
    file = write_video(tmp_path / "v.mp4", [solid(9, 9, 9)] * 8)
    status, _, err = distill("watch", file, colours_onnx, "--no-faces")
    assert (status, len(shown)) == (0, 3)
    assert "3 frames" in err


def test_no_display_and_no_tkinter_are_one_line(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    if sys.platform == "linux":
        pytest.importorskip("tkinter")
        with pytest.raises(UserError, match="no window can be opened"):
            Window("t")
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(UserError, match="needs tkinter"):
        Window("t")


@pytest.mark.parametrize("name", ["o.gif", "o"])
def test_an_unknown_kind_of_video_is_one_line(name, tmp_path):
    with pytest.raises(UserError, match=r"\.mp4"):
        VideoOutput(tmp_path / name, 25.0, SIZE)


def test_unreadable_sources_are_one_line(tmp_path, colours_onnx):
    """Of another process, as OpenCV and FFmpeg write to stderr by themselves."""
    (tmp_path / "text.mp4").write_text("no video")
    whole = write_video(tmp_path / "v.mp4", [solid(9, 9, 9)] * 3).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    script = (
        "import sys; from distill.cli import main\n"
        "for words in sys.argv[2:]:\n"
        "    sys.argv = ['distill', 'watch', words, sys.argv[1], '--json']\n"
        "    try: main()\n"
        "    except SystemExit as stop: print(stop.code)\n"
    )
    sources = [tmp_path / "text.mp4", tmp_path / "cut.mp4", tmp_path, tmp_path / "none.mp4", 97]
    script = script.replace("sys.argv[2:]", repr([str(s) for s in sources])).replace(
        "sys.argv[1]", repr(str(colours_onnx))
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * 5
    lines = done.stderr.splitlines()
    assert len(lines) == 5, done.stderr
    assert all(line.startswith("error: ") for line in lines)


def test_labels_stay_on_the_frame_and_classes_have_colours():
    names = ("a", "b", "c")
    black = np.zeros((480, 640, 3), np.uint8)
    corners = [Box(0, 0, 60, 60), Box(600, 440, 40, 40), Box(200, 200, 90, 90)]
    people = []
    for number, (name, box) in enumerate(zip(names, corners, strict=True), 1):
        answer = Prediction(None, (name,), 0.5, {name: 0.5}, False)
        people.append(Person(number, Face(box, answer)))
    unsure = Prediction(None, (), 0.4, {"a": 0.4}, True)
    people.append(Person(4, Face(Box(400, 100, 50, 50), unsure)))
    canvas = draw(Seen(Frame(0, 0.0, black), tuple(people), None), names, "25.0 frames/s")
    assert not black.any()
    for colour in (*COLOURS[:3], drawing.UNSURE):
        assert (canvas == colour).all(axis=2).sum() > 100
    tiny = np.zeros((4, 4, 3), np.uint8)
    assert draw(Seen(Frame(0, 0.0, tiny), None, unsure), names).shape == (4, 4, 3)


def test_a_real_face_is_found_and_followed(portrait, colours_onnx):
    """A whole way with real faces: a photograph that moves over a plain ground."""
    watcher = Watcher(Predictor(colours_onnx), FaceFinder(), every=3)
    found = []
    for index in range(9):
        canvas = Image.new("RGB", (480, 360), (90, 120, 150))
        canvas.paste(portrait, (40 + 6 * index, 60))
        found.append(watcher.see(Frame(index, 0.0, np.asarray(canvas))).people)
    assert [len(people) for people in found] == [0] * 3 + [1] * 6
    assert {people[0].number for people in found[3:]} == {1}
    moves = np.diff([people[0].face.box.x for people in found[3:]])
    np.testing.assert_allclose(moves.mean(), 6, atol=1.5)
