"""Who is who from frame to frame: boxes of a detector joined by overlap, moved by optical flow.

Between two searches each box follows points within it (Lucas and Kanade, 1981), as MedianFlow does
(Kalal et al., 2010, doi:10.1109/ICPR.2010.675): those that do not come back to where they were are
left out, the median of the others moves and scales the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.runtime.faces import load_opencv
from distill.scoring.cascades import Box

Points = NDArray[np.float32]

MATCH = 0.3  # intersection over union from which on a box is that of a track
PATIENCE = 5  # searches in a row that may miss a face which flow still follows
CONFIRM = 2  # searches that have to find a face before it is shown: one alone is often none
GRID = 8  # points across a box, and down
INNER = 0.7  # share of a box, around its middle, that has the points: corners are background
BACK = 1.0  # pixels from where a point was that it may come back to
ALIKE = 20.0  # grey levels that a point's surroundings may differ by on average
LEAST_POINTS = 8  # that have to come back
SHIFT = 0.5  # how far a box goes to where the detector sees it: detectors tremble
WINDOW, LEVELS = (15, 15), 3  # pixels that flow compares; halvings of the frame


@dataclass
class Track:
    """A face over time.

    Attributes:
        number: It keeps, from 1 in the order of appearance; 0 until it is confirmed.
        place: `(x, y, width, height)` in pixels.
        hits: Searches that found it.
        missed: Searches since that did not.
    """

    place: NDArray[np.float64]
    number: int = 0
    hits: int = 1
    missed: int = 0


class Tracker:
    """Follows faces through frames of one size.

    Args:
        confirm: Searches that have to find a face before it has a number.
    """

    def __init__(self, confirm: int = CONFIRM) -> None:
        self._cv2, self._confirm, self._numbers = load_opencv(), confirm, count(1)
        self._all: list[Track] = []
        self._before: NDArray[np.uint8] | None = None

    @property
    def tracks(self) -> list[Track]:
        """Those that are confirmed, by number."""
        return sorted((t for t in self._all if t.number), key=lambda track: track.number)

    def move(self, grey: NDArray[np.uint8]) -> None:
        """Takes every track to the next frame, uint8 `(height, width)`.

        One whose points are lost ends: it was covered, or another scene has begun.
        """
        before, self._before = self._before, grey
        if before is None or before.shape != grey.shape or not self._all:
            return
        starts = [_grid(track.place) for track in self._all]
        ends, back = self._flow(before, grey, np.concatenate(starts))
        parts = zip(starts, np.split(ends, len(starts)), np.split(back, len(starts)), strict=True)
        tracks, self._all = self._all, []
        for track, (start, end, kept) in zip(tracks, parts, strict=True):
            if kept.sum() >= LEAST_POINTS:
                track.place = _moved(track.place, start[kept], end[kept])
                self._all.append(track)
        height, width = grey.shape
        self._all = [track for track in self._all if _is_within(track.place, width, height)]

    def update(self, boxes: Sequence[Box]) -> None:
        """Joins what a search of this frame found to the tracks; the best overlap is first."""
        pairs = [
            (overlap, number, index)
            for number, track in enumerate(self._all)
            for index, box in enumerate(boxes)
            if (overlap := iou(track.place, box)) >= MATCH
        ]
        tracks, found = set(range(len(self._all))), set(range(len(boxes)))
        for _, number, index in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
            if number in tracks and index in found:
                tracks.remove(number)
                found.remove(index)
                track = self._all[number]
                track.place += SHIFT * (np.asarray(boxes[index], np.float64) - track.place)
                track.hits, track.missed = track.hits + 1, 0
        for number in tracks:
            self._all[number].missed += 1
        self._all += [Track(np.asarray(boxes[index], np.float64)) for index in sorted(found)]
        self._all = _apart([t for t in self._all if t.missed <= (PATIENCE if t.number else 0)])
        for track in self._all:
            if not track.number and track.hits >= self._confirm:
                track.number = next(self._numbers)

    def _flow(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8], points: Points
    ) -> tuple[Points, NDArray[np.bool_]]:
        """Where points went, and which of them come back to where they were."""
        options = {"winSize": WINDOW, "maxLevel": LEVELS}
        there, seen, apart = self._cv2.calcOpticalFlowPyrLK(before, after, points, None, **options)
        back, again, _ = self._cv2.calcOpticalFlowPyrLK(after, before, there, None, **options)
        near = np.linalg.norm(back - points, axis=1) <= BACK
        near &= (seen.ravel() == 1) & (again.ravel() == 1)
        fine: NDArray[np.bool_] = near & (apart.ravel() <= ALIKE)
        return there, fine


def iou(one: Any, other: Any) -> float:
    """Intersection over union of two boxes."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, float(across)) * max(0.0, float(down))
    return shared / max(1e-9, float(one[2] * one[3] + other[2] * other[3]) - shared)


def _grid(place: NDArray[np.float64]) -> Points:
    """Points `(GRID * GRID, 2)` in the inner part of a box."""
    steps = (np.arange(GRID) + 0.5) / GRID * INNER + (1 - INNER) / 2
    across, down = np.meshgrid(place[0] + steps * place[2], place[1] + steps * place[3])
    return np.stack([across.ravel(), down.ravel()], axis=1).astype(np.float32)


def _moved(place: NDArray[np.float64], starts: Points, ends: Points) -> NDArray[np.float64]:
    """A box, moved and scaled by the medians of its points."""
    x, y, width, height = place
    shift = np.median(ends - starts, axis=0)
    before = np.linalg.norm(starts - np.median(starts, axis=0), axis=1)
    after = np.linalg.norm(ends - np.median(ends, axis=0), axis=1)
    scale = float(np.median(after[before > 0] / before[before > 0])) if before.any() else 1.0
    scale = min(max(scale, 0.9), 1.1)  # between two frames nobody comes nearer than that
    centre = np.array([x + width / 2, y + height / 2]) + shift
    size = np.array([width, height]) * scale
    return np.concatenate([centre - size / 2, size])


def _is_within(place: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether the middle of a box is in the frame."""
    x, y = place[0] + place[2] / 2, place[1] + place[3] / 2
    return bool(0 <= x < width and 0 <= y < height)


def _apart(tracks: list[Track]) -> list[Track]:
    """Of tracks that lie on each other, the one that is known longer."""
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda t: (t.number == 0, t.number, -t.hits)):
        if all(iou(track.place, other.place) < 0.5 for other in kept):
            kept.append(track)
    return kept
