"""OpenCV's Haar cascades, and the boxes that detectors give; for the baseline and for faces."""

from __future__ import annotations

from typing import Any, NamedTuple

FRONT, FRONT_ALT, PROFILE, EYE, MOUTH = (
    f"haarcascade_{name}.xml"
    for name in ("frontalface_default", "frontalface_alt2", "profileface", "eye", "smile")
)


class Box(NamedTuple):
    """Where something was found, in pixels: the upper left corner, and the size."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def within(cls, size: tuple[int, int], x: float, y: float, width: float, height: float) -> Box:
        """A place in whole pixels, clipped to a picture of `(width, height)`."""
        left, right = (min(max(round(edge), 0), size[0]) for edge in (x, x + width))
        top, bottom = (min(max(round(edge), 0), size[1]) for edge in (y, y + height))
        return cls(left, top, right - left, bottom - top)


def has_cascades() -> bool:
    """Whether OpenCV is installed, in a version that has them: 5 has none."""
    try:
        import cv2
    except ImportError:
        return False
    return hasattr(cv2, "CascadeClassifier") and hasattr(cv2, "data")


def cascade(name: str) -> Any:
    """A cascade of those that OpenCV's wheels bring; not to be shared by threads."""
    import cv2

    opencv: Any = cv2
    return opencv.CascadeClassifier(f"{opencv.data.haarcascades}{name}")
