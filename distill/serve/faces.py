"""Finds faces for the service, by what `distill predict --faces` finds them with."""

from __future__ import annotations

from PIL import Image

from distill.serve.pictures import Box, FacesIn
from distill.serve.settings import Settings


def finder_of(settings: Settings) -> FacesIn | None:
    """What finds faces, for all threads; None where they are not offered.

    Raises:
        UserError: OpenCV is not installed, or cannot read the detector's file.
    """
    if not settings.faces:
        return None
    from distill.runtime.faces import FaceFinder, crop

    finder = FaceFinder(settings.face_model)

    def faces_in(image: Image.Image) -> list[tuple[Box, Image.Image]]:
        return [(box, crop(image, box)) for box in finder.find(image)]

    return faces_in
