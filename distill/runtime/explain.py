"""Pictures with what made the answer so laid over them, as PNG; Pillow only.

The map lies where the model looked: on all of a picture that was squashed, else on the square in
its middle, with the rest dimmed.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from distill.data.decode import InputSpec, read_image, seen_box
from distill.errors import UserError
from distill.files import NO_SPACE, no_space
from distill.runtime.faces import Face, FaceFinder, Faces, crop, label_faces
from distill.runtime.predict import Prediction, Predictor

SMALLEST, LARGEST = 320, 1280  # longer side of a picture as shown
COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # dark to light
FAINT, STRONG = 0.25, 0.6  # share of the colour where the least and the most speaks for the label
DIMMED = 0.35
BACKGROUND, FOREGROUND, LESSER, WARNING = "#18181b", "#ffffff", "#b4b4bb", "#ffb020"
LONGEST = 300  # characters of an answer
LONGEST_NAME = 80
ODD = re.compile(r"[^\w.-]+")
Box = tuple[int, int, int, int]


class ExplainedPictures:
    """A folder that explained pictures are written into, none over another.

    Args:
        folder: Made if need be.
        predictor: Who explains.

    Raises:
        UserError: The file has no activation map, or there can be no such folder.
    """

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        if "cam" not in predictor.outputs:
            what = "this file has no class activation map, so nothing explains its answers"
            raise UserError(what, str(predictor.path), "leave out --explain")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"no folder: {error.strerror}", str(folder), "name another") from None
        self._folder, self._predictor = folder, predictor
        self._taken: Counter[str] = Counter()

    def answer(self, path: Path) -> tuple[Prediction, Path]:
        """The answer to a picture, without its map, and the file that has it.

        Raises:
            UnreadableImageError: It is no picture.
            OSError: It cannot be read now.
            UserError, RunStopped: As `add`.
        """
        image = read_image(path)
        (found,) = self._predictor.predict(image, explain=True)
        found = replace(found, path=str(path))
        return replace(found, map=None), self.add(image, found)

    def answer_faces(self, path: Path, finder: FaceFinder) -> tuple[Faces, list[Path]]:
        """The answers to the faces of a picture, without their maps, and a file for each.

        Raises:
            UnreadableImageError, OSError, UserError, RunStopped: As `answer`.
        """
        image = read_image(path)
        found = label_faces(image, self._predictor, finder, explain=True)
        files, faces = list[Path](), list[Face]()
        for number, face in enumerate(found.faces, start=1):
            name = f"{path.stem}-face{number}"
            files.append(
                self.add(crop(image, face.box), replace(face.prediction, path=f"{name}.png"))
            )
            faces.append(replace(face, prediction=replace(face.prediction, map=None)))
        return Faces(str(path), found.size, tuple(faces)), files

    def add(self, image: Image.Image, prediction: Prediction) -> Path:
        """Writes a picture under the name that it came by, numbered where that is taken.

        Args:
            image: Upright, RGB.
            prediction: With its map.

        Raises:
            UserError: It cannot be written.
            RunStopped: The disk is full.
        """
        stream = io.BytesIO()
        explained(image, prediction, self._predictor.spec).save(stream, format="PNG")
        stem = safe_stem(prediction.path)
        while True:
            self._taken[stem.casefold()] += 1
            number = self._taken[stem.casefold()]
            file = self._folder / f"{stem}{'' if number == 1 else f'-{number}'}.png"
            if _write_new(file, stream.getvalue()):
                return file


def _write_new(file: Path, content: bytes) -> bool:
    """Whether there was no such file yet; only then it is written."""
    try:
        with file.open("xb") as stream:
            try:
                stream.write(content)
                stream.flush()
            except OSError:
                file.unlink()  # half of a picture
                raise
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in NO_SPACE:
            raise no_space(file) from None
        hint = "name a folder that you may write to"
        raise UserError(f"cannot be written: {error.strerror}", str(file), hint) from None
    return True


def safe_stem(path: str | None) -> str:
    """A file's name without its ending, of characters that every system takes."""
    stem = ODD.sub("_", PurePath(path).stem if path else "").strip("._")
    return stem[:LONGEST_NAME] or "picture"


def explained(image: Image.Image, prediction: Prediction, spec: InputSpec) -> Image.Image:
    """A picture with the map of its answer over it and the answer below.

    It is shown with a longer side of 320 to 1,280 pixels.

    Args:
        image: Upright, RGB.
        prediction: With its map.
        spec: What of a picture the model sees.
    """
    assert prediction.map is not None, "predicted without explain"
    longer = max(image.size)
    scale = min(max(longer, SMALLEST), LARGEST) / longer
    width, height = (max(1, round(side * scale)) for side in image.size)
    left, top, right, bottom = seen_box(image.size, spec)
    across, down = width / image.width, height / image.height
    left, top = min(round(left * across), width - 1), min(round(top * down), height - 1)
    seen = (left, top, max(round(right * across), left + 1), max(round(bottom * down), top + 1))
    shown = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    shown = with_map(shown, prediction.map.values, seen)
    return _captioned(shown, prediction)


def with_map(image: Image.Image, values: NDArray[np.floating], seen: Box) -> Image.Image:
    """A picture with a map over the part that was seen, the rest dimmed.

    Args:
        values: `(h, w)`, of any range: what matters is where they are highest.
        seen: Left, top, right and bottom, in pixels of the picture.
    """
    left, top, right, bottom = seen
    pixels = np.asarray(image, np.float64)
    mixed = DIMMED * pixels
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
    small = Image.fromarray((255.0 * shares).round().astype(np.uint8))
    large = small.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    strength = np.asarray(large, np.float64) / 255.0
    stops = np.linspace(0.0, 1.0, len(COLOURS))
    coloured = np.stack([np.interp(strength, stops, c) for c in np.transpose(COLOURS)], axis=-1)
    weight = (FAINT + (STRONG - FAINT) * strength)[..., None]
    part = pixels[top:bottom, left:right]
    mixed[top:bottom, left:right] = (1.0 - weight) * part + weight * coloured
    return Image.fromarray(mixed.round().astype(np.uint8))


def _captioned(image: Image.Image, prediction: Prediction) -> Image.Image:
    """The picture with the answer below it, and what the bright parts are."""
    assert prediction.map is not None
    width = max(image.width, SMALLEST)
    size = min(max(width // 22, 15), 36)
    answer, small = ImageFont.load_default(size), ImageFont.load_default(round(0.75 * size))
    said = str(prediction)
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
    colour = WARNING if prediction.outlier or prediction.abstained else FOREGROUND
    margin = size // 2
    room = width - 2 * margin
    lines = [(line, answer, colour) for line in wrapped(said, answer, room)]
    note = f"bright: what speaks for {prediction.map.label}"
    lines += [(line, small, LESSER) for line in wrapped(note, small, room)]
    step = round(1.3 * size)
    below = 2 * margin + step * len(lines)
    canvas = Image.new("RGB", (width, image.height + below), BACKGROUND)
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for number, (line, font, fill) in enumerate(lines):
        draw.text((margin, image.height + margin + step * number), line, fill, font)
    return canvas


def wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float
) -> list[str]:
    """A text in lines that are no wider than there is room, in pixels; long words are broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > room:
                lines.append("")
            lines[-1] += character
    return lines
